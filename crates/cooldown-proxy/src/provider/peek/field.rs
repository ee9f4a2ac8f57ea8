//! The top-level fields that are read, and their values as they are written.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::PeekFault;

/// The top-level fields that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum PeekField {
    /// `model`
    Model,
    /// `stream`
    Stream,
    /// `stream_options`
    StreamOptions,
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
    /// `max_output_tokens`
    MaxOutputTokens,
    /// `generationConfig`
    GenerationConfig,
    /// `n`
    N,
    /// `best_of`
    BestOf,
    /// `messages`
    Messages,
    /// `contents`
    Contents,
    /// `input`
    Input,
    /// `prompt`
    Prompt,
    /// `system`
    System,
    /// `systemInstruction`
    SystemInstruction,
    /// `instructions`
    Instructions,
    /// `tools`
    Tools,
    /// `functions`
    Functions,
    /// `prompt_cache_key`
    PromptCacheKey,
}

/// The values of the fields that are read, as they are written in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields<'a>([Option<&'a [u8]>; PeekField::COUNT]);

/// The same while the body is being parsed.
struct Found<'a> {
    values: [Option<&'a RawValue>; PeekField::COUNT],
    twice: Option<PeekField>,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<'a> Fields<'a> {
    /// Finds the fields of a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, PeekFault> {
        let bytes = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::find(bytes, text),
            Err(_) => Self::find(bytes, &with_question_marks(bytes)),
        }
    }

    /// Finds the fields of `bytes`, every place in which is the same in `text`.
    fn find(bytes: &'a [u8], text: &str) -> Result<Self, PeekFault> {
        let found: Found<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => PeekFault::NotAnObject,
            _ => PeekFault::NotJson,
        })?;
        if let Some(field) = found.twice {
            return Err(PeekFault::Twice(field));
        }
        let value = |raw: &RawValue| &bytes[range_in(text.as_bytes(), raw.get().as_bytes())];
        Ok(Self(found.values.map(|raw| raw.map(value))))
    }

    /// The value of a field, `null` included.
    pub(super) const fn written(&self, field: PeekField) -> Option<&'a [u8]> {
        self.0[field as usize]
    }

    /// The value of a field; `null` counts as absent.
    pub(super) fn get(&self, field: PeekField) -> Option<&'a [u8]> {
        self.written(field).filter(|value| *value != b"null")
    }

    /// The value of a field that is a whole number.
    pub(super) fn number(&self, field: PeekField) -> Option<u64> {
        serde_json::from_slice(self.get(field)?).ok()
    }
}

/// Where `part`, a slice of `whole`, is in it.
pub(super) fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// The same text with one `?` for each byte that is no UTF-8, so that all places in it stay where they are.
fn with_question_marks(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    text
}

impl PeekField {
    const COUNT: usize = Self::ALL.len();
    /// Each field with its name, in the order of their numbers.
    pub(super) const ALL: [(&'static str, Self); 19] = [
        ("model", Self::Model),
        ("stream", Self::Stream),
        ("stream_options", Self::StreamOptions),
        ("max_tokens", Self::MaxTokens),
        ("max_completion_tokens", Self::MaxCompletionTokens),
        ("max_output_tokens", Self::MaxOutputTokens),
        ("generationConfig", Self::GenerationConfig),
        ("n", Self::N),
        ("best_of", Self::BestOf),
        ("messages", Self::Messages),
        ("contents", Self::Contents),
        ("input", Self::Input),
        ("prompt", Self::Prompt),
        ("system", Self::System),
        ("systemInstruction", Self::SystemInstruction),
        ("instructions", Self::Instructions),
        ("tools", Self::Tools),
        ("functions", Self::Functions),
        ("prompt_cache_key", Self::PromptCacheKey),
    ];

    fn named(name: &str) -> Option<Self> {
        let name = match name {
            "generation_config" => "generationConfig",
            "system_instruction" => "systemInstruction",
            name => name,
        };
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, field)| *field)
    }
}

impl fmt::Display for PeekField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].0)
    }
}

/// The name of a field, if it is one that is read.
struct Name(Option<PeekField>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl Visitor<'_> for Named {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(PeekField::named(name)))
            }
        }
        deserializer.deserialize_identifier(Named)
    }
}

impl<'de> Deserialize<'de> for Found<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Found<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = Found { values: [None; PeekField::COUNT], twice: None };
                while let Some(Name(name)) = map.next_key()? {
                    let Some(field) = name else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if found.values[field as usize].replace(map.next_value()?).is_some() {
                        found.twice = Some(field);
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_map(Object)
    }
}
