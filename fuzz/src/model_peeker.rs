//! Bodies of requests: what is read of them, and that a change to one leaves all else as it was.

use bytes::Bytes;
use cooldown_proxy::provider::{Edit, Peek, PeekFault, model_of_path, peek, rewrite};
use serde_json::Value;

/// A name that needs escapes.
const OTHER: &str = "llama \"3\"/\u{e9}\n";

/// Reads a body and rewrites it; reads it as a path as well.
pub fn run(data: &[u8]) {
    let seen = peek(data);
    agrees_with_serde(data, &seen);
    if let Ok(seen) = &seen {
        let body = Bytes::copy_from_slice(data);
        let model = seen.model.as_ref().map(|model| Edit::model(model.range.clone(), OTHER));
        check_model(&body, seen);
        check_usage(&body, seen);
        let both = rewrite(&body, model.into_iter().chain(seen.ask_usage.clone())).concat();
        let again = peek(&both).expect("what was JSON is JSON");
        assert!(seen.model.is_none() || name(&again) == Some(OTHER));
        assert!(seen.ask_usage.is_none() || again.usage_asked);
    }
    let path = String::from_utf8_lossy(data);
    if let Some(model) = model_of_path(&path) {
        assert!(!model.is_empty() && !model.contains('/') && path.contains(model), "{model:?}");
    }
}

fn name<'a>(peek: &'a Peek<'_>) -> Option<&'a str> {
    peek.model.as_ref().map(|model| &*model.name)
}

/// The bytes at the model's place are its name, and another name can stand there.
fn check_model(body: &Bytes, seen: &Peek<'_>) {
    let Some(model) = &seen.model else { return };
    let written: String = serde_json::from_slice(&body[model.range.clone()]).expect("a JSON string");
    assert_eq!(written, model.name);
    let changed = rewrite(body, [Edit::model(model.range.clone(), OTHER)]).concat();
    let other = Value::from(OTHER).to_string();
    let expected = [&body[..model.range.start], other.as_bytes(), &body[model.range.end..]].concat();
    assert_eq!(changed, expected);
    let again = peek(&changed).expect("what was JSON is JSON");
    assert_eq!(name(&again), Some(OTHER));
    assert_eq!(described(&again), described(seen));
}

/// Usage is asked for exactly where it was not, and nothing else changes.
fn check_usage(body: &Bytes, seen: &Peek<'_>) {
    assert!(!(seen.usage_asked && seen.ask_usage.is_some()));
    let Some(edit) = seen.ask_usage.clone() else { return };
    let asking = rewrite(body, [edit]).concat();
    let again = peek(&asking).expect("what was JSON is JSON");
    assert!(again.usage_asked && again.ask_usage.is_none());
    assert_eq!((name(&again), described(&again)), (name(seen), described(seen)));
}

/// What else is read of a body.
fn described(peek: &Peek<'_>) -> (bool, Option<u64>, u64, u64, Option<u64>) {
    (peek.stream, peek.max_output, peek.answers, peek.prompt_bytes(), peek.conversation())
}

/// What serde takes for an object is one, with the same model.
fn agrees_with_serde(data: &[u8], seen: &Result<Peek<'_>, PeekFault>) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    match seen {
        Ok(seen) => {
            assert_eq!(name(seen), value.get("model").and_then(Value::as_str));
            assert_eq!(seen.stream, value.get("stream") == Some(&Value::Bool(true)));
        }
        Err(PeekFault::NotJson) => panic!("this is JSON"),
        Err(PeekFault::NotAnObject) => assert!(!value.is_object()),
        Err(PeekFault::ModelNotText) => {
            assert!(value.get("model").is_some_and(|model| !model.is_string() && !model.is_null()));
        }
        Err(PeekFault::Twice(_)) => assert!(value.is_object()),
    }
}
