//! OpenAI chat completions.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{ARGUMENTS, CREATED, Transcript, data, pieces, text};
use crate::support::provider::ask::Ask;
use crate::support::provider::behaviour::Dialect;
use crate::support::provider::failure::StreamError;

pub(super) fn whole(ask: &Ask, id: usize) -> Value {
    let message = match &ask.tool {
        Some(tool) => json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            {"id": format!("call_{id}"), "type": "function", "function": {"name": tool, "arguments": ARGUMENTS.concat()}},
        ]}),
        None => json!({"role": "assistant", "content": text(ask), "refusal": null}),
    };
    json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion",
        "created": CREATED,
        "model": ask.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish(ask)}],
        "usage": usage(ask),
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    })
}

pub(super) fn stream(ask: &Ask, dialect: Dialect, id: usize) -> Transcript {
    let tool = |call: Value| json!({"tool_calls": [call]});
    let opening = match &ask.tool {
        Some(name) => tool(json!({
            "index": 0, "id": format!("call_{id}"), "type": "function", "function": {"name": name, "arguments": ""},
        })),
        None => json!({"role": "assistant", "content": "", "refusal": null}),
    };
    let token = |piece: &str| match ask.tool {
        Some(_) => tool(json!({"index": 0, "function": {"arguments": piece}})),
        None => json!({"content": piece}),
    };
    let mut last = chunk(ask, id, &json!({}), Some(finish(ask)));
    let mut closing = Vec::new();
    match dialect {
        Dialect::Groq => last["x_groq"] = json!({"id": format!("req_{id}"), "usage": usage(ask)}),
        Dialect::Mistral | Dialect::Cerebras | Dialect::OpenRouter => last["usage"] = usage(ask),
        _ => {}
    }
    closing.push(data(&last));
    if ask.include_usage {
        let mut usage_alone = chunk(ask, id, &json!({}), None);
        usage_alone["choices"] = json!([]);
        usage_alone["usage"] = usage(ask);
        closing.push(data(&usage_alone));
    }
    closing.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Transcript {
        opening: vec![data(&chunk(ask, id, &opening, None))],
        tokens: pieces(ask).into_iter().map(|piece| data(&chunk(ask, id, &token(piece), None))).collect(),
        closing,
    }
}

pub(super) fn error(error: StreamError) -> Bytes {
    data(&match error {
        StreamError::Limit => json!({"error": {
            "message": "Rate limit reached. Please try again in 20ms.",
            "type": "requests",
            "param": null,
            "code": "rate_limit_exceeded",
        }}),
        StreamError::Capacity => json!({"error": {
            "message": "The server is currently overloaded with other requests.",
            "type": "server_error",
            "param": null,
            "code": "server_overloaded",
        }}),
    })
}

fn chunk(ask: &Ask, id: usize, delta: &Value, finish: Option<&str>) -> Value {
    let mut chunk = json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": ask.model,
        "system_fingerprint": "fp_mock",
        "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}],
    });
    if ask.include_usage {
        chunk["usage"] = Value::Null;
    }
    chunk
}

fn finish(ask: &Ask) -> &'static str {
    match (&ask.tool, ask.cut_short) {
        (Some(_), _) => "tool_calls",
        (None, true) => "length",
        (None, false) => "stop",
    }
}

fn usage(ask: &Ask) -> Value {
    json!({
        "prompt_tokens": ask.input,
        "completion_tokens": ask.output,
        "total_tokens": ask.input + ask.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    })
}
