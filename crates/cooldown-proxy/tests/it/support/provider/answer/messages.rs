//! Anthropic messages.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{ARGUMENTS, Transcript, event, pieces, text};
use crate::support::provider::ask::Ask;
use crate::support::provider::failure::StreamError;

/// What a stream's first event says of the output, which does not exist yet.
const PLACEHOLDER: u32 = 1;

pub(super) fn whole(ask: &Ask, id: usize) -> Value {
    let content = match &ask.tool {
        Some(_) => with_input(block(ask, id), &serde_json::from_str(&ARGUMENTS.concat()).unwrap_or_default()),
        None => json!({"type": "text", "text": text(ask)}),
    };
    message(ask, id, json!([content]), Some(stop(ask)), ask.output)
}

pub(super) fn stream(ask: &Ask, id: usize) -> Transcript {
    let delta = |piece: &str| match ask.tool {
        Some(_) => json!({"type": "input_json_delta", "partial_json": piece}),
        None => json!({"type": "text_delta", "text": piece}),
    };
    let token = |piece: &str| event(&json!({"type": "content_block_delta", "index": 0, "delta": delta(piece)}));
    Transcript {
        opening: vec![
            event(&json!({"type": "message_start", "message": message(ask, id, json!([]), None, PLACEHOLDER)})),
            event(&json!({"type": "content_block_start", "index": 0, "content_block": block(ask, id)})),
            event(&json!({"type": "ping"})),
        ],
        tokens: pieces(ask).into_iter().map(token).collect(),
        closing: vec![
            event(&json!({"type": "content_block_stop", "index": 0})),
            event(&json!({
                "type": "message_delta",
                "delta": {"stop_reason": stop(ask), "stop_sequence": null},
                "usage": {"output_tokens": ask.output},
            })),
            event(&json!({"type": "message_stop"})),
        ],
    }
}

pub(super) fn error(error: StreamError) -> Bytes {
    let (kind, message) = match error {
        StreamError::Limit => ("rate_limit_error", "This request would exceed your organization's rate limit."),
        StreamError::Capacity => ("overloaded_error", "Overloaded"),
    };
    event(&json!({"type": "error", "error": {"type": kind, "message": message}}))
}

fn message(ask: &Ask, id: usize, content: Value, stop: Option<&str>, output: u32) -> Value {
    json!({
        "id": format!("msg_{id}"),
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": null,
        "usage": {
            "input_tokens": ask.input,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": output,
            "service_tier": "standard",
        },
    })
}

/// A block of content before there is any.
fn block(ask: &Ask, id: usize) -> Value {
    match &ask.tool {
        Some(name) => json!({"type": "tool_use", "id": format!("toolu_{id}"), "name": name, "input": {}}),
        None => json!({"type": "text", "text": ""}),
    }
}

fn with_input(mut block: Value, input: &Value) -> Value {
    block["input"] = input.clone();
    block
}

fn stop(ask: &Ask) -> &'static str {
    match (&ask.tool, ask.cut_short) {
        (Some(_), _) => "tool_use",
        (None, true) => "max_tokens",
        (None, false) => "end_turn",
    }
}
