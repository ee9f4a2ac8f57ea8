//! The top-level fields that are read, and their values as they are written.

use std::fmt;
use std::ops::Range;

use super::super::members::{Members, MembersFault};
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

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl<'a> Fields<'a> {
    /// Finds the fields of a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, PeekFault> {
        let mut members = Members::of(body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body))?;
        let (mut values, mut twice) = ([None; PeekField::COUNT], None);
        while let Some(member) = members.next()? {
            let Some(field) = PeekField::written(member.name) else { continue };
            if values[field as usize].replace(member.value).is_some() {
                twice = Some(field);
            }
        }
        twice.map_or(Ok(Self(values)), |field| Err(PeekFault::Twice(field)))
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

    /// The field with this name, which is in quotes and may have escapes.
    fn written(name: &[u8]) -> Option<Self> {
        if !name.contains(&b'\\') {
            return Self::named(&name[1..name.len() - 1]);
        }
        // What is no text is none of ours.
        serde_json::from_slice::<String>(name).ok().and_then(|name| Self::named(name.as_bytes()))
    }

    fn named(name: &[u8]) -> Option<Self> {
        let name = match name {
            b"generation_config" => &b"generationConfig"[..],
            b"system_instruction" => b"systemInstruction",
            name => name,
        };
        Self::ALL.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, field)| *field)
    }
}

impl fmt::Display for PeekField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL[*self as usize].0)
    }
}

impl From<MembersFault> for PeekFault {
    fn from(fault: MembersFault) -> Self {
        match fault {
            MembersFault::NotJson => Self::NotJson,
            MembersFault::NotAnObject => Self::NotAnObject,
        }
    }
}
