//! Gemini `generateContent` and `streamGenerateContent?alt=sse`.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{ARGUMENTS, TOKEN, Transcript, data, text};
use crate::support::provider::ask::Ask;
use crate::support::provider::failure::StreamError;

pub(super) fn whole(ask: &Ask, id: usize) -> Value {
    chunk(ask, id, &part(ask, text(ask)), ask.output, true)
}

/// Each chunk carries the usage so far; the last one says why it ended.
pub(super) fn stream(ask: &Ask, id: usize) -> Transcript {
    let told = if ask.tool.is_some() { 1 } else { ask.output };
    let token = |nth: u32| {
        let output = if ask.tool.is_some() { ask.output } else { nth };
        data(&chunk(ask, id, &part(ask, TOKEN.to_owned()), output, nth == told))
    };
    Transcript { tokens: (1..=told).map(token).collect(), ..Transcript::default() }
}

pub(super) fn error(error: StreamError) -> Bytes {
    let (code, status, message) = match error {
        StreamError::Limit => (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        StreamError::Capacity => (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    };
    data(&json!({"error": {"code": code, "message": message, "status": status}}))
}

fn part(ask: &Ask, text: String) -> Value {
    match &ask.tool {
        Some(name) => {
            let arguments: Value = serde_json::from_str(&ARGUMENTS.concat()).unwrap_or_default();
            json!({"functionCall": {"name": name, "args": arguments}})
        }
        None => json!({"text": text}),
    }
}

fn chunk(ask: &Ask, id: usize, part: &Value, output: u32, ended: bool) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": [part]}});
    if ended {
        candidate["finishReason"] = json!(if ask.cut_short { "MAX_TOKENS" } else { "STOP" });
    }
    json!({
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": ask.input,
            "candidatesTokenCount": output,
            "totalTokenCount": ask.input + output,
        },
        "modelVersion": ask.model,
        "responseId": format!("gemini-{id}"),
    })
}
