//! What routing and cost need to know of a request: which model, how much text, how much may come back.

mod field;
mod prompt;
mod tokens;

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::rewrite::Edit;
use super::strings::even_null;
use super::tokenizer::Tokenizer;
pub use field::PeekField;
use field::{Fields, range_in};

/// What was found in a JSON body, whatever the order of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek<'a> {
    /// The value of `model`, if there is one.
    pub model: Option<ModelName<'a>>,
    /// Whether `stream` is true.
    pub stream: bool,
    /// The most output tokens that one answer may have: the largest of `max_tokens`, `max_completion_tokens`,
    /// `max_output_tokens` and `generationConfig.maxOutputTokens`. A value that is no whole number counts as absent.
    pub max_output: Option<u64>,
    /// How many answers are asked for: `n`, `best_of` or `generationConfig.candidateCount`; at least 1.
    pub answers: u64,
    /// Whether `stream_options.include_usage` is true.
    pub usage_asked: bool,
    /// What makes `stream_options.include_usage` true; `None` if it is, or if what is there makes no sense.
    pub ask_usage: Option<Edit>,
    fields: Fields<'a>,
}

/// A model's name and its place in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName<'a> {
    /// The name.
    pub name: Cow<'a, str>,
    /// Where its JSON string is, quotes included, in bytes from the start of the body.
    pub range: Range<usize>,
}

/// Why a body cannot be understood. It may be forwarded all the same, except where two readers could understand it
/// differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeekFault {
    /// It is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// It is JSON, but no object.
    #[error("the body is not a JSON object")]
    NotAnObject,
    /// `model` is something else than a string.
    #[error("`model` is not a string")]
    ModelNotText,
    /// A field is there twice. Servers differ in which of them counts, so this must not be forwarded.
    #[error("`{0}` is given twice")]
    Twice(PeekField),
}

/// The part of Gemini's `generationConfig` that is read.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig<'a> {
    #[serde(borrow, alias = "max_output_tokens")]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow, alias = "candidate_count")]
    candidate_count: Option<&'a RawValue>,
}

/// The part of `stream_options` that is read.
#[derive(Deserialize)]
struct StreamOptions<'a> {
    #[serde(borrow, default, deserialize_with = "even_null")]
    include_usage: Option<&'a RawValue>,
}

/// Reads a whole request body. Nesting may have any depth. What the fields hold that are not read is not checked: it is the
/// upstream's business, and may be long.
pub fn peek(body: &[u8]) -> Result<Peek<'_>, PeekFault> {
    let fields = Fields::parse(body)?;
    let generation: GenerationConfig<'_> =
        fields.get(PeekField::GenerationConfig).and_then(|raw| serde_json::from_slice(raw).ok()).unwrap_or_default();
    let (usage_asked, ask_usage) = usage_option(&fields, body);
    Ok(Peek {
        model: fields.get(PeekField::Model).map(|raw| model_name(body, raw)).transpose()?,
        stream: fields.get(PeekField::Stream) == Some(b"true"),
        max_output: max_output(&fields, &generation),
        answers: answers(&fields, &generation),
        usage_asked,
        ask_usage,
        fields,
    })
}

impl Peek<'_> {
    /// Bytes of prompt: text with its escapes resolved, tool definitions as written, and a fixed amount for each image.
    /// Takes about as long as [`peek`] itself.
    pub fn prompt_bytes(&self) -> u64 {
        prompt::prompt_bytes(&self.fields)
    }

    /// Tokens of prompt as `tokenizer` counts them, with the marks around messages; `None` until it is loaded. Takes about
    /// 60 ns for each byte of a short prompt; of a long one samples are counted, in about a millisecond.
    pub fn prompt_tokens(&self, tokenizer: Tokenizer) -> Option<u64> {
        tokenizer.vocabulary().map(|vocabulary| tokens::prompt_tokens(&self.fields, vocabulary))
    }

    /// Equal for the requests of one conversation: from `prompt_cache_key`, or the text up to the first message of the
    /// user. For choosing among keys only: it differs between versions of this program, and anyone can make two equal.
    pub fn conversation(&self) -> Option<u64> {
        prompt::conversation(&self.fields)
    }
}

/// The model that a path names: `/v1beta/models/{model}:generateContent` and its kin of Gemini and Vertex,
/// `/openai/deployments/{model}/…` of Azure. Nothing is decoded.
pub fn model_of_path(path: &str) -> Option<&str> {
    const GEMINI_CALLS: [&str; 10] = [
        "generateContent",
        "streamGenerateContent",
        "countTokens",
        "embedContent",
        "batchEmbedContents",
        "batchGenerateContent",
        "predict",
        "rawPredict",
        "streamRawPredict",
        "predictLongRunning",
    ];
    // Most paths have neither.
    if !path.contains("s/") {
        return None;
    }
    let mut segments = path.split('/');
    while let Some(segment) = segments.next() {
        let model = match segment {
            "models" => segments
                .clone()
                .next()
                .and_then(|named| named.rsplit_once(':'))
                .and_then(|(model, call)| GEMINI_CALLS.contains(&call).then_some(model)),
            "deployments" => segments.clone().next(),
            _ => None,
        };
        if let Some(model) = model.filter(|model| !model.is_empty()) {
            return Some(model);
        }
    }
    None
}

fn max_output(fields: &Fields<'_>, generation: &GenerationConfig<'_>) -> Option<u64> {
    [PeekField::MaxTokens, PeekField::MaxCompletionTokens, PeekField::MaxOutputTokens]
        .into_iter()
        .filter_map(|field| fields.number(field))
        .chain(generation.max_output_tokens.and_then(|raw| raw.get().parse().ok()))
        .max()
}

fn answers(fields: &Fields<'_>, generation: &GenerationConfig<'_>) -> u64 {
    [PeekField::N, PeekField::BestOf]
        .into_iter()
        .filter_map(|field| fields.number(field))
        .chain(generation.candidate_count.and_then(|raw| raw.get().parse().ok()))
        .fold(1, u64::max)
}

/// Whether usage is asked for, and else what asks for it.
fn usage_option(fields: &Fields<'_>, body: &[u8]) -> (bool, Option<Edit>) {
    const MEMBER: &str = r#""include_usage":true"#;
    const MEMBER_FIRST: &str = r#""include_usage":true,"#;
    const OPTIONS: &str = r#"{"include_usage":true}"#;
    const OPTIONS_FIRST: &str = r#""stream_options":{"include_usage":true},"#;
    let Some(options) = fields.written(PeekField::StreamOptions) else {
        return (
            false,
            inside(body, body).filter(|(_, empty)| !empty).map(|(at, _)| Edit::fixed(at..at, OPTIONS_FIRST)),
        );
    };
    if options == b"null" {
        return (false, Some(Edit::fixed(range_in(body, options), OPTIONS)));
    }
    let Ok(StreamOptions { include_usage }) = serde_json::from_slice(options) else { return (false, None) };
    match include_usage.map(RawValue::get) {
        Some("true") => (true, None),
        Some(raw @ ("false" | "null")) => (false, Some(Edit::fixed(range_in(body, raw.as_bytes()), "true"))),
        Some(_) => (false, None),
        None => {
            let member = |empty| if empty { MEMBER } else { MEMBER_FIRST };
            (false, inside(options, body).map(|(at, empty)| Edit::fixed(at..at, member(empty))))
        }
    }
}

/// The place in the body behind the brace that opens `object`, and whether nothing is in it; `None` if there is none.
fn inside(object: &[u8], body: &[u8]) -> Option<(usize, bool)> {
    let open = memchr::memchr(b'{', object)?;
    let rest = object[open + 1..].trim_ascii_start();
    Some((range_in(body, object).start + open + 1, rest.starts_with(b"}")))
}

fn model_name<'a>(body: &[u8], raw: &'a [u8]) -> Result<ModelName<'a>, PeekFault> {
    let text = std::str::from_utf8(raw).map_err(|_| PeekFault::ModelNotText)?;
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(PeekFault::ModelNotText)?;
    // Escapes are resolved, and what no string may hold is a fault.
    let name = if inner.bytes().any(|byte| byte < b' ' || byte == b'\\') {
        Cow::Owned(serde_json::from_str(text).map_err(|_| PeekFault::ModelNotText)?)
    } else {
        Cow::Borrowed(inner)
    };
    Ok(ModelName { name, range: range_in(body, raw) })
}

#[cfg(test)]
mod tests;
