//! Answers of accepted requests, in the shapes of the APIs that are spoken.

mod chat;
mod gemini;
mod messages;
mod responses;

use bytes::Bytes;
use serde_json::{Value, json};

use super::ask::{Api, Ask};
use super::behaviour::Dialect;
use super::failure::StreamError;

/// What every tool is called with, in two parts as streams tell it.
const ARGUMENTS: [&str; 2] = ["{\"city\":", " \"Paris\"}"];
/// One token of every text.
const TOKEN: &str = "word ";
/// When every answer was made, in seconds since 1970.
const CREATED: u64 = 1_795_377_600;

/// A stream in its parts: a delay goes before each token, and failures strike between tokens.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    pub(super) opening: Vec<Bytes>,
    pub(super) tokens: Vec<Bytes>,
    pub(super) closing: Vec<Bytes>,
}

/// An answer that has no stream.
pub(super) fn whole(ask: &Ask, id: usize) -> Value {
    match ask.api {
        Api::Chat => chat::whole(ask, id),
        Api::Responses => responses::whole(ask, id),
        Api::Messages => messages::whole(ask, id),
        Api::Gemini => gemini::whole(ask, id),
        Api::Embeddings => json!({
            "object": "list",
            "model": ask.model,
            "data": [{"object": "embedding", "index": 0, "embedding": embedding(ask)}],
            "usage": {"prompt_tokens": ask.input, "total_tokens": ask.input},
        }),
        Api::Models => json!({
            "object": "list",
            "data": [{"id": "mock-1", "object": "model", "created": CREATED, "owned_by": "mock"}],
        }),
        Api::Rest => json!({"id": id, "name": "mock"}),
    }
}

/// A streamed answer.
pub(super) fn stream(ask: &Ask, dialect: Dialect, id: usize) -> Transcript {
    match ask.api {
        Api::Responses => responses::stream(ask, id),
        Api::Messages => messages::stream(ask, id),
        Api::Gemini => gemini::stream(ask, id),
        Api::Chat | Api::Embeddings | Api::Models | Api::Rest => chat::stream(ask, dialect, id),
    }
}

/// What a stream says of an error in it.
pub(super) fn stream_error(ask: &Ask, error: StreamError, id: usize) -> Bytes {
    match ask.api {
        Api::Responses => responses::error(ask, error, id),
        Api::Messages => messages::error(error),
        Api::Gemini => gemini::error(error),
        Api::Chat | Api::Embeddings | Api::Models | Api::Rest => chat::error(error),
    }
}

/// The same three numbers for every input. SDKs ask for them as the base64 of their bytes.
fn embedding(ask: &Ask) -> Value {
    if ask.base64 { json!("AACAPgAAAL8AAEA/") } else { json!([0.25, -0.5, 0.75]) }
}

/// The text of an answer.
fn text(ask: &Ask) -> String {
    TOKEN.repeat(ask.output as usize)
}

/// The pieces that a stream tells one by one.
fn pieces(ask: &Ask) -> Vec<&'static str> {
    if ask.tool.is_some() { ARGUMENTS.to_vec() } else { vec![TOKEN; ask.output as usize] }
}

/// An event without a name.
fn data(json: &Value) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

/// An event that is named after its `type`.
fn event(json: &Value) -> Bytes {
    Bytes::from(format!("event: {}\ndata: {json}\n\n", json["type"].as_str().unwrap_or_default()))
}
