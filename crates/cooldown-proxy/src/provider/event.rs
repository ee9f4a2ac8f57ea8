//! What one event of a stream, or one member of a JSON body, says about tokens.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::strings::{Piece, pieces};

/// What has been said so far.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The counts, each as it was said last.
    pub(super) counts: Counts,
    /// How the stream began.
    pub(super) opening: Opening,
    /// Bytes of text that events carried: answers, thoughts, and the names and arguments of tool calls.
    pub(super) text_bytes: u64,
}

/// How a stream began.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    /// Nothing has been read.
    #[default]
    Silent,
    /// Events without any text.
    Preamble,
    /// Text.
    Text,
    /// An error before any text: `{"error":…}`.
    Error(Vec<u8>),
}

/// Token counts under all the names that APIs have for them. `None`: not said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    /// All of the input, cached or not: OpenAI, Gemini, Ollama.
    #[serde(alias = "promptTokenCount")]
    pub(super) prompt_tokens: Count,
    /// The input; Anthropic and Bedrock leave out what has to do with their cache.
    #[serde(alias = "inputTokens")]
    pub(super) input_tokens: Count,
    #[serde(alias = "cacheWriteInputTokens")]
    pub(super) cache_creation_input_tokens: Count,
    #[serde(alias = "cacheReadInputTokens")]
    pub(super) cache_read_input_tokens: Count,
    /// Gemini's input that tools gave; not in `prompt_tokens`.
    #[serde(rename = "toolUsePromptTokenCount")]
    pub(super) tool_use_tokens: Count,
    #[serde(alias = "candidatesTokenCount")]
    pub(super) completion_tokens: Count,
    /// Gemini's thoughts; not in `completion_tokens`.
    #[serde(rename = "thoughtsTokenCount")]
    pub(super) thought_tokens: Count,
    #[serde(alias = "outputTokens")]
    pub(super) output_tokens: Count,
    #[serde(alias = "totalTokenCount", alias = "totalTokens")]
    pub(super) total_tokens: Count,
    /// DeepSeek's and Gemini's cached part of the input.
    #[serde(alias = "cachedContentTokenCount")]
    pub(super) prompt_cache_hit_tokens: Count,
    pub(super) prompt_tokens_details: Option<Details>,
    pub(super) input_tokens_details: Option<Details>,
}

/// What OpenAI says in more detail of the input.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    pub(super) cached_tokens: Count,
}

/// A number of tokens; anything else reads as not said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) Option<u64>);

/// The members that are read of an event, as they are written.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, rename = "usageMetadata")]
    usage_metadata: Option<&'a RawValue>,
    /// Groq puts a part of its answers here.
    #[serde(borrow)]
    x_groq: Option<&'a RawValue>,
    /// OpenAI's Responses: an object. Ollama's generate: text.
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    /// Anthropic's `message_start` and Ollama's chat.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow)]
    candidates: Option<&'a RawValue>,
    #[serde(default)]
    prompt_eval_count: Count,
    #[serde(default)]
    eval_count: Count,
}

/// An object that has usage or an error within.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Inner<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The longest error that is kept, in bytes.
const LONGEST_ERROR: usize = 1 << 16;
/// More tokens than this are a mistake.
const MOST_TOKENS: u64 = 1 << 40;

impl Told {
    /// The members of a JSON body that [`Told::member`] reads.
    pub(super) const MEMBERS: [&'static str; 5] =
        ["usage", "usageMetadata", "error", "prompt_eval_count", "eval_count"];

    /// Reads an event. One that is no JSON object is ignored.
    pub(super) fn event(&mut self, name: &[u8], data: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(data) else { return };
        let [response, message, groq] = [event.response, event.message, event.x_groq].map(inner);
        let text_bytes = event.text_bytes();
        self.text_bytes = self.text_bytes.saturating_add(text_bytes);
        self.open(text_bytes, event.error_json(name, data, &response, &groq));
        for usage in [event.usage, event.usage_metadata, groq.usage, response.usage].into_iter().flatten() {
            self.counts.hear(counts(usage.get()));
        }
        if let Some(usage) = message.usage {
            // Its count of output is a placeholder.
            self.counts.hear(Counts { output_tokens: Count(None), ..counts(usage.get()) });
        }
        self.counts.hear(Counts {
            prompt_tokens: event.prompt_eval_count,
            completion_tokens: event.eval_count,
            ..Counts::default()
        });
    }

    /// Reads a member of a JSON body.
    pub(super) fn member(&mut self, name: &str, value: &[u8]) {
        let count = || serde_json::from_slice(value).unwrap_or_default();
        match name {
            "usage" | "usageMetadata" => {
                self.counts.hear(serde_json::from_slice(value).unwrap_or_default());
            }
            "prompt_eval_count" => self.counts.prompt_tokens.hear(count()),
            "eval_count" => self.counts.completion_tokens.hear(count()),
            "error" if value != b"null" => self.open(0, Some(as_error(value))),
            _ => {}
        }
    }

    fn open(&mut self, text_bytes: u64, error: Option<Vec<u8>>) {
        if matches!(self.opening, Opening::Text | Opening::Error(_)) {
            return;
        }
        self.opening = match error {
            Some(error) => Opening::Error(error),
            None if text_bytes > 0 => Opening::Text,
            None => Opening::Preamble,
        };
    }
}

impl Event<'_> {
    /// How much text the event adds to the answer.
    fn text_bytes(&self) -> u64 {
        // In the final events of OpenAI's Responses this repeats the whole answer.
        let response = self.response.filter(|raw| raw.get().starts_with('"'));
        let message = self.message.filter(|raw| raw.get().starts_with('{'));
        [self.choices, self.delta, self.content_block, self.candidates, message, response]
            .into_iter()
            .flatten()
            .map(|raw| text_bytes(raw.get().as_bytes()))
            .sum()
    }

    /// The error that the event tells, in the shape that error bodies have.
    fn error_json(&self, name: &[u8], data: &[u8], response: &Inner<'_>, groq: &Inner<'_>) -> Option<Vec<u8>> {
        let kind = self.kind.map_or("", RawValue::get).trim_matches('"');
        let failed = (kind == "response.failed").then_some(response.error).flatten();
        if let Some(error) = self.error.or(groq.error).or(failed) {
            return Some(as_error(error.get().as_bytes()));
        }
        // OpenAI's Responses: the event is the error.
        (kind == "error" || kind == "response.failed" || name == b"error").then(|| as_error(data))
    }
}

impl Counts {
    /// Takes over what is said now. Counts are cumulative; a zero takes nothing back.
    fn hear(&mut self, said: Self) {
        self.prompt_tokens.hear(said.prompt_tokens);
        self.input_tokens.hear(said.input_tokens);
        self.cache_creation_input_tokens.hear(said.cache_creation_input_tokens);
        self.cache_read_input_tokens.hear(said.cache_read_input_tokens);
        self.tool_use_tokens.hear(said.tool_use_tokens);
        self.completion_tokens.hear(said.completion_tokens);
        self.thought_tokens.hear(said.thought_tokens);
        self.output_tokens.hear(said.output_tokens);
        self.total_tokens.hear(said.total_tokens);
        self.prompt_cache_hit_tokens.hear(said.prompt_cache_hit_tokens);
        self.prompt_tokens_details = said.prompt_tokens_details.or(self.prompt_tokens_details);
        self.input_tokens_details = said.input_tokens_details.or(self.input_tokens_details);
    }
}

impl Count {
    fn hear(&mut self, said: Self) {
        if self.0.is_none() || said.0.is_some_and(|tokens| tokens > 0) {
            self.0 = said.0;
        }
    }

    /// The number, or 0 where nothing is said.
    pub(super) fn or_zero(self) -> u64 {
        self.0.unwrap_or(0)
    }
}

fn inner(raw: Option<&RawValue>) -> Inner<'_> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn counts(raw: &str) -> Counts {
    serde_json::from_str(raw).unwrap_or_default()
}

fn as_error(error: &[u8]) -> Vec<u8> {
    let error = if error.len() > LONGEST_ERROR { b"{}" } else { error };
    [br#"{"error":"#, error, b"}"].concat()
}

/// How much text there is among ids, types and other marks.
fn text_bytes(json: &[u8]) -> u64 {
    const KEYS: [&[u8]; 12] = [
        b"content",
        b"text",
        b"arguments",
        b"partial_json",
        b"thinking",
        b"reasoning",
        b"reasoning_content",
        b"refusal",
        b"transcript",
        b"name",
        b"delta",
        b"",
    ];
    pieces(json)
        .map(|piece| match piece {
            Piece::Text { key, length, .. } if KEYS.contains(&key) => length,
            Piece::Text { .. } | Piece::Number(_) | Piece::Close(_) => 0,
        })
        .sum()
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tolerant)
    }
}

/// Reads a whole number, and steps over anything else.
struct Tolerant;

impl<'de> Visitor<'de> for Tolerant {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of tokens")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
        Ok(Count(Some(number).filter(|tokens| *tokens <= MOST_TOKENS)))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Count, E> {
        let fits = number >= 0.0 && number <= MOST_TOKENS as f64;
        Ok(Count(fits.then_some(number as u64)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }
}
