//! What is asked of a provider, read out of any of the APIs that it speaks.

use http::HeaderMap;
use http::request::Parts;
use serde_json::Value;

use super::behaviour::{Behaviour, Dialect};

/// The API that a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI Responses.
    Responses,
    /// Anthropic messages.
    Messages,
    /// Gemini `generateContent` and `streamGenerateContent`.
    Gemini,
    Embeddings,
    /// The list of models.
    Models,
    /// An API without models.
    Rest,
}

/// A request that was understood.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) api: Api,
    pub(super) key: String,
    pub(super) model: String,
    /// Tokens of the prompt.
    pub(super) input: u32,
    /// Tokens of the answer: what the prompt asks for by `say N`, or [`USUAL_OUTPUT`], within `max_output`.
    pub(super) output: u32,
    pub(super) max_output: Option<u32>,
    /// Whether `max_output` cuts the answer short.
    pub(super) cut_short: bool,
    pub(super) stream: bool,
    /// Whether usage is asked for in a chat stream.
    pub(super) include_usage: bool,
    /// Whether embeddings are asked for as the bytes of their numbers.
    pub(super) base64: bool,
    /// The tool that the answer calls: the first of the request's, until it has told what a tool said.
    pub(super) tool: Option<String>,
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invalid {
    UnknownPath,
    BrokenJson,
    MissingModel,
}

/// Tokens of an answer when the prompt does not choose.
const USUAL_OUTPUT: u32 = 8;
/// The longest answer that a prompt can choose.
const LONGEST_OUTPUT: u32 = 100_000;

impl Ask {
    /// Reads a request.
    pub(super) fn read(behaviour: &Behaviour, head: &Parts, body: &[u8]) -> Result<Self, Invalid> {
        let api = Api::of(behaviour.dialect, head.uri.path()).ok_or(Invalid::UnknownPath)?;
        let mut ask = Self::without_body(api, key(head));
        if matches!(api, Api::Models | Api::Rest) {
            return Ok(ask);
        }
        let json: Value = serde_json::from_slice(body).map_err(|_| Invalid::BrokenJson)?;
        ask.model = model(head.uri.path(), &json).ok_or(Invalid::MissingModel)?;
        let mut prompt = Prompt::default();
        prompt.read("", &json);
        let messages = json["messages"].as_array().map_or(0, Vec::len);
        ask.input = behaviour.tokens(&ask.model, &prompt.text, messages);
        ask.base64 = json["encoding_format"] == "base64";
        if ask.produces_text() {
            ask.max_output = max_output(&json);
            let wanted = wanted(&prompt.text).unwrap_or(USUAL_OUTPUT);
            ask.output = wanted.min(ask.max_output.unwrap_or(u32::MAX));
            ask.cut_short = ask.output < wanted;
            ask.stream = json["stream"] == true || head.uri.path().ends_with(":streamGenerateContent");
            ask.include_usage = json["stream_options"]["include_usage"] == true;
            ask.tool = tool(&json).filter(|_| !prompt.has_tool_result);
        }
        Ok(ask)
    }

    fn without_body(api: Api, key: String) -> Self {
        Self {
            api,
            key,
            model: String::new(),
            input: 0,
            output: 0,
            max_output: None,
            cut_short: false,
            stream: false,
            include_usage: false,
            base64: false,
            tool: None,
        }
    }

    /// Whether its answer is made of tokens.
    pub(super) fn produces_text(&self) -> bool {
        matches!(self.api, Api::Chat | Api::Responses | Api::Messages | Api::Gemini)
    }
}

impl Api {
    /// By the end of the path: Azure, Groq and others put something in front.
    pub(super) fn of(dialect: Dialect, path: &str) -> Option<Self> {
        const ENDS: [(&str, Api); 7] = [
            ("/chat/completions", Api::Chat),
            ("/responses", Api::Responses),
            ("/messages", Api::Messages),
            (":generateContent", Api::Gemini),
            (":streamGenerateContent", Api::Gemini),
            ("/embeddings", Api::Embeddings),
            ("/models", Api::Models),
        ];
        if dialect == Dialect::GitHub {
            return Some(Api::Rest);
        }
        ENDS.iter().find(|(end, _)| path.ends_with(end)).map(|(_, api)| *api)
    }
}

/// The prompt's text, found wherever one of the APIs puts it.
#[derive(Default)]
struct Prompt {
    text: String,
    has_tool_result: bool,
}

impl Prompt {
    /// Reads what stands under `name`; elements of a list stand under the list's name.
    fn read(&mut self, name: &str, value: &Value) {
        match value {
            Value::String(text) => match name {
                "content" | "text" | "input" | "system" | "instructions" => self.text.push_str(text),
                "role" => self.has_tool_result |= text == "tool",
                "type" => self.has_tool_result |= matches!(text.as_str(), "tool_result" | "function_call_output"),
                _ => {}
            },
            Value::Array(items) => items.iter().for_each(|item| self.read(name, item)),
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                self.has_tool_result |= name == "functionResponse";
                self.read(name, value);
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The key, from wherever one of the APIs reads it.
fn key(head: &Parts) -> String {
    const FIELDS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];
    let bearer = || field(&head.headers, "authorization").map(|value| value.trim_start_matches("Bearer "));
    let query = || head.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("key="));
    let plain = FIELDS.iter().find_map(|name| field(&head.headers, name));
    plain.or_else(bearer).or_else(query).unwrap_or_default().to_owned()
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The model: in the body, or in Gemini's and Azure's paths.
fn model(path: &str, json: &Value) -> Option<String> {
    let between = |before: &str, after: char| Some(path.split_once(before)?.1.split_once(after)?.0);
    let named = between("/models/", ':').or_else(|| json["model"].as_str()).or_else(|| between("/deployments/", '/'));
    named.map(str::to_owned)
}

fn max_output(json: &Value) -> Option<u32> {
    const PLACES: [&str; 4] =
        ["/max_completion_tokens", "/max_tokens", "/max_output_tokens", "/generationConfig/maxOutputTokens"];
    PLACES.iter().find_map(|place| u32::try_from(json.pointer(place)?.as_u64()?).ok())
}

fn tool(json: &Value) -> Option<String> {
    const PLACES: [&str; 3] = ["/tools/0/function/name", "/tools/0/name", "/tools/0/functionDeclarations/0/name"];
    PLACES.iter().find_map(|place| json.pointer(place)?.as_str().map(str::to_owned))
}

/// How many tokens the prompt asks for: the last `say N`.
fn wanted(text: &str) -> Option<u32> {
    let (_, rest) = text.rsplit_once("say ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok().map(|wanted: u32| wanted.clamp(1, LONGEST_OUTPUT))
}
