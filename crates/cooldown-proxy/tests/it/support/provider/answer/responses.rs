//! OpenAI Responses.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{ARGUMENTS, CREATED, Transcript, event, pieces, text};
use crate::support::provider::ask::Ask;
use crate::support::provider::failure::StreamError;

pub(super) fn whole(ask: &Ask, id: usize) -> Value {
    response(ask, id, if ask.cut_short { "incomplete" } else { "completed" }, vec![item(ask, id, true)])
}

pub(super) fn stream(ask: &Ask, id: usize) -> Transcript {
    let mut numbered = Numbered::default();
    let place = json!({"item_id": item_id(ask, id), "output_index": 0, "content_index": 0});
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
    let mut opening = vec![
        numbered.event("response.created", json!({"response": response(ask, id, "in_progress", Vec::new())})),
        numbered.event("response.in_progress", json!({"response": response(ask, id, "in_progress", Vec::new())})),
        numbered.event("response.output_item.added", json!({"output_index": 0, "item": item(ask, id, false)})),
    ];
    let delta =
        if ask.tool.is_some() { "response.function_call_arguments.delta" } else { "response.output_text.delta" };
    if ask.tool.is_none() {
        opening.push(numbered.event("response.content_part.added", with(&place, &json!({"part": part("")}))));
    }
    let tokens = pieces(ask).into_iter();
    let tokens = tokens.map(|piece| numbered.event(delta, with(&place, &json!({"delta": piece})))).collect();
    let mut closing = match &ask.tool {
        Some(name) => {
            let done = with(&place, &json!({"name": name, "arguments": ARGUMENTS.concat()}));
            vec![numbered.event("response.function_call_arguments.done", done)]
        }
        None => vec![
            numbered.event("response.output_text.done", with(&place, &json!({"text": text(ask), "logprobs": []}))),
            numbered.event("response.content_part.done", with(&place, &json!({"part": part(&text(ask))}))),
        ],
    };
    let last = if ask.cut_short { "response.incomplete" } else { "response.completed" };
    closing.extend([
        numbered.event("response.output_item.done", json!({"output_index": 0, "item": item(ask, id, true)})),
        numbered.event(last, json!({"response": whole(ask, id)})),
    ]);
    Transcript { opening, tokens, closing }
}

/// It fails as a whole: `response.failed`.
pub(super) fn error(ask: &Ask, error: StreamError, id: usize) -> Bytes {
    let mut failed = response(ask, id, "failed", Vec::new());
    failed["error"] = match error {
        StreamError::Limit => {
            json!({"code": "rate_limit_exceeded", "message": "Rate limit reached. Please try again in 20ms."})
        }
        StreamError::Capacity => {
            json!({"code": "server_is_overloaded", "message": "The server is currently overloaded."})
        }
    };
    event(&json!({"type": "response.failed", "sequence_number": 0, "response": failed}))
}

/// Counts the events of a stream.
#[derive(Default)]
struct Numbered(usize);

impl Numbered {
    fn event(&mut self, kind: &str, fields: Value) -> Bytes {
        let numbered = with(&json!({"type": kind, "sequence_number": self.0}), &fields);
        self.0 += 1;
        event(&numbered)
    }
}

fn with(one: &Value, other: &Value) -> Value {
    let fields = [one, other].into_iter().filter_map(Value::as_object).flatten();
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn response(ask: &Ask, id: usize, status: &str, output: Vec<Value>) -> Value {
    let ended = matches!(status, "completed" | "incomplete");
    json!({
        "id": format!("resp_{id}"),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": null,
        "incomplete_details": (status == "incomplete").then(|| json!({"reason": "max_output_tokens"})),
        "instructions": null,
        "max_output_tokens": ask.max_output,
        "model": ask.model,
        "output": output,
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "metadata": {},
        "usage": ended.then(|| json!({
            "input_tokens": ask.input,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": ask.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": ask.input + ask.output,
        })),
    })
}

fn item_id(ask: &Ask, id: usize) -> String {
    format!("{}_{id}", if ask.tool.is_some() { "fc" } else { "msg" })
}

fn item(ask: &Ask, id: usize, done: bool) -> Value {
    let status = if done { "completed" } else { "in_progress" };
    match &ask.tool {
        Some(name) => json!({
            "id": item_id(ask, id),
            "type": "function_call",
            "status": status,
            "call_id": format!("call_{id}"),
            "name": name,
            "arguments": if done { ARGUMENTS.concat() } else { String::new() },
        }),
        None => {
            let content = json!([{"type": "output_text", "text": text(ask), "annotations": []}]);
            json!({
                "id": item_id(ask, id),
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": if done { content } else { json!([]) },
            })
        }
    }
}
