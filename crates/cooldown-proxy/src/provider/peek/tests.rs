use bytes::Bytes;
use proptest::prelude::*;

use super::super::rewrite::rewrite;
use super::prompt::MEDIA_BYTES;
use super::*;

fn seen(body: &str) -> Peek<'_> {
    peek(body.as_bytes()).expect("a JSON object")
}

fn name<'a>(peek: &'a Peek<'_>) -> Option<&'a str> {
    peek.model.as_ref().map(|model| &*model.name)
}

#[test]
fn fields_are_listed_where_their_number_says() {
    for (index, (_, field)) in PeekField::ALL.into_iter().enumerate() {
        assert_eq!(field as usize, index);
    }
}

#[test]
fn the_order_of_fields_does_not_matter() {
    let body = r#"{"messages":[{"role":"user","content":"hello"}],"stream":true,"n":2,"max_tokens":7,"model":"m-1"}"#;
    let peek = seen(body);
    assert_eq!(name(&peek), Some("m-1"));
    assert!(peek.stream);
    assert_eq!((peek.answers, peek.max_output), (2, Some(7)));
    assert_eq!(peek.prompt_bytes(), "user".len() as u64 + "hello".len() as u64);
    assert_eq!(&body[peek.model.expect("a model").range], r#""m-1""#);
}

#[test]
fn each_api_names_its_output_differently() {
    let cases = [
        (r#"{"max_tokens":1}"#, Some(1)),
        (r#"{"max_completion_tokens":2,"max_tokens":1}"#, Some(2)),
        (r#"{"max_output_tokens":3}"#, Some(3)),
        (r#"{"generationConfig":{"maxOutputTokens":4,"responseSchema":{"a":[]}}}"#, Some(4)),
        (r#"{"max_tokens":null}"#, None),
        (r#"{"max_tokens":-1}"#, None),
        (r#"{"max_tokens":1e30}"#, None),
        (r#"{"max_tokens":"7"}"#, None),
        (r#"{"max_tokens":99999999999999999999999}"#, None),
        (r#"{"generationConfig":5}"#, None),
    ];
    for (body, most) in cases {
        assert_eq!(seen(body).max_output, most, "{body}");
    }
    assert_eq!(seen(r#"{"generationConfig":{"candidateCount":3}}"#).answers, 3);
    assert_eq!(seen(r#"{"n":0}"#).answers, 1);
}

#[test]
fn a_body_that_cannot_be_routed_says_why() {
    let cases = [
        ("", PeekFault::NotJson),
        ("hello", PeekFault::NotJson),
        (r#"{"model":"a""#, PeekFault::NotJson),
        (r#"{"model":"a"} x"#, PeekFault::NotJson),
        ("[1]", PeekFault::NotAnObject),
        ("3", PeekFault::NotAnObject),
        (r#"{"model":3}"#, PeekFault::ModelNotText),
        (r#"{"model":{"model":"a"}}"#, PeekFault::ModelNotText),
        ("{\"model\":\"a\nb\"}", PeekFault::ModelNotText),
        ("null", PeekFault::NotAnObject),
        (r#"{"model":"a","model":"b"}"#, PeekFault::Twice(PeekField::Model)),
        (r#"{"model":"a","mod\u0065l":"b"}"#, PeekFault::Twice(PeekField::Model)),
    ];
    for (body, fault) in cases {
        assert_eq!(peek(body.as_bytes()), Err(fault), "{body}");
    }
    assert_eq!(PeekFault::Twice(PeekField::Model).to_string(), "`model` is given twice");
    assert_eq!(seen(r#"{"model":null}"#).model, None);
    assert_eq!(seen(r#"{"x":1,"x":2}"#).model, None);
}

#[test]
fn depth_does_not_matter() {
    let deep = |count| ["[".repeat(count), "]".repeat(count)].concat();
    let body = format!(r#"{{"messages":{0},"x":{0},"tools":{0},"model":"m"}}"#, deep(1_000_000));
    assert_eq!(name(&seen(&body)), Some("m"));
    let body = format!(r#"{{"stream_options":{0},"generationConfig":{0},"model":{0}}}"#, deep(100_000));
    assert_eq!(peek(body.as_bytes()), Err(PeekFault::ModelNotText));
    assert_eq!(peek(&[b'['; 1_000_000]), Err(PeekFault::NotAnObject));
}

#[test]
fn bytes_that_are_no_utf8_pass_in_text() {
    let body = b"{\"messages\":[{\"content\":\"\xff\xfe\"}],\"model\":\"m\",\"x\":\"\xc3\"}";
    let peek = peek(body).expect("a JSON object");
    assert_eq!(name(&peek), Some("m"));
    assert_eq!(&body[peek.model.expect("a model").range], b"\"m\"");
    assert_eq!(super::peek(b"{\"model\":\"\xff\"}"), Err(PeekFault::ModelNotText));
    let named =
        super::peek(b"{\"\xff\\n\":1,\"\\ud800\":2,\"model\":\"m\"}").expect("names that are no text are none of ours");
    assert_eq!(name(&named), Some("m"));
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let body = "\u{feff}{\"model\":\"m\",\"stream\":true}";
    let peek = seen(body);
    assert_eq!(&body[peek.model.clone().expect("a model").range], "\"m\"");
    let asked = rewrite(&Bytes::from(body), peek.ask_usage).concat();
    assert!(asked.starts_with("\u{feff}{\"stream_options\"".as_bytes()));
}

#[test]
fn the_model_is_replaced_in_its_place() {
    let body = "{ \"x\" : 1.50, \"model\" : \"gpt\\u002d4\" , \"y\":[ ] }";
    let peek = seen(body);
    assert_eq!(name(&peek), Some("gpt-4"));
    let edit = Edit::model(peek.model.expect("a model").range, "llama \"3\"");
    let expected = "{ \"x\" : 1.50, \"model\" : \"llama \\\"3\\\"\" , \"y\":[ ] }";
    assert_eq!(rewrite(&Bytes::from(body), [edit]).concat(), expected.as_bytes());
}

#[test]
fn usage_is_asked_for_whatever_is_there() {
    let cases = [
        (r#"{"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
        (r#"{"stream_options":null}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":{}}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":{ "a":1}}"#, r#"{"stream_options":{"include_usage":true, "a":1}}"#),
        (r#"{"stream_options":{"include_usage":false}}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":{"include_usage":null}}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":{"include_usage":true}}"#, r#"{"stream_options":{"include_usage":true}}"#),
        (r#"{"stream_options":{"include_usage":"x"}}"#, r#"{"stream_options":{"include_usage":"x"}}"#),
        (r#"{"stream_options":7}"#, r#"{"stream_options":7}"#),
        (r#"{ }"#, r#"{ }"#),
    ];
    for (body, expected) in cases {
        let peek = seen(body);
        let asked = rewrite(&Bytes::from(body), peek.ask_usage).concat();
        assert_eq!(String::from_utf8_lossy(&asked), expected);
        assert_eq!(seen(expected).usage_asked, expected.contains("true}") || expected.contains("true,"), "{body}");
    }
}

#[test]
fn an_image_counts_as_one_whatever_its_size() {
    let image = "iVBORw0KGgo".repeat(10_000);
    let bodies = [
        format!(r#"{{"messages":[{{"content":[{{"image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"data":"{image}"}}}}]}}]}}"#),
    ];
    for body in bodies {
        assert_eq!(seen(&body).prompt_bytes(), MEDIA_BYTES);
    }
    let text = "a word and ".repeat(1_000);
    let body = format!(r#"{{"input":{{"data":"{text}"}}}}"#);
    assert_eq!(seen(&body).prompt_bytes(), text.len() as u64);
}

/// Tokens of a body, by the tokenizer that these tests load.
fn tokens(body: &str) -> u64 {
    Tokenizer::O200kBase.load();
    seen(body).prompt_tokens(Tokenizer::O200kBase).expect("it is loaded")
}

/// A chat with one message.
fn message(text: &str) -> String {
    serde_json::json!({"messages": [{"role": "user", "content": text}]}).to_string()
}

/// A text of many kinds, of about this many bytes.
fn mixed(length: usize) -> String {
    let texts = [include_str!("tests.rs"), "Die Donaudampfschifffahrt ruht im Winter. ", "人工智能在上海发展得很快。"];
    let mut text = String::new();
    while text.len() < length {
        texts.iter().for_each(|piece| text.extend(piece.chars().take(length / 10)));
    }
    text
}

#[test]
fn nothing_is_counted_until_the_tokenizer_is_loaded() {
    // No test of this program loads it.
    assert_eq!(seen(&message("hello")).prompt_tokens(Tokenizer::Cl100kBase), None);
}

#[test]
fn tokens_are_counted_with_the_marks_around_messages() {
    // "user", three marks, "hello", " world".
    assert_eq!(tokens(&message("hello world")), 6);
    assert_eq!(tokens(r#"{"input":["hello world","hello"]}"#), 3);
    assert_eq!(tokens(r#"{"input":[15339,1917,0]}"#), 3);
    assert_eq!(tokens(r#"{"model":"hello","user":"hello"}"#), 0);
    assert_eq!(tokens("{}"), 0);
}

#[test]
fn escapes_are_counted_as_what_they_stand_for() {
    let plain = tokens("{\"prompt\":\"你好, 😀 it's été\"}");
    assert_eq!(tokens(r#"{"prompt":"\u4f60\u597d, \ud83d\ude00 it's \u00e9t\u00e9"}"#), plain);
    assert_eq!(tokens(r#"{"prompt":"hello\nhello"}"#), 3);
    // Half a character stands for nothing.
    assert!(tokens(r#"{"prompt":"\ud83d"}"#) > 0);
    let long = mixed(3_000);
    let escaped: String = long.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{escaped}"}}]}}"#);
    let (plain, escaped) = (tokens(&message(&long)) as f64, tokens(&body) as f64);
    assert!((plain - escaped).abs() < 0.1 * plain, "{escaped}, not {plain}");
}

#[test]
fn an_image_counts_as_its_tokens_whatever_its_size() {
    let image = "iVBORw0KGgo".repeat(10_000);
    let body = format!(r#"{{"messages":[{{"content":[{{"image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#);
    assert_eq!(tokens(&body), 1_000);
}

#[test]
fn samples_of_a_long_prompt_tell_its_tokens() {
    let text = mixed(600_000);
    let vocabulary = Tokenizer::O200kBase;
    vocabulary.load();
    let vocabulary = vocabulary.vocabulary().expect("it is loaded");
    let whole = text.split_inclusive('\n').map(|line| vocabulary.count_ordinary(line)).sum::<usize>() as f64;
    let sampled = tokens(&message(&text)) as f64;
    assert!((sampled - whole).abs() < 0.1 * whole, "{sampled}, not {whole}");
    let messages: Vec<_> = text.split_inclusive('\n').map(|line| serde_json::json!({ "content": line })).collect();
    let sampled = tokens(&serde_json::json!({ "messages": messages }).to_string()) as f64;
    assert!((sampled - whole).abs() < 0.1 * whole, "{sampled}, not {whole}");
}

#[test]
fn no_text_holds_a_worker_up() {
    tokens("{}");
    let mut bodies = vec![serde_json::json!({"input": vec!["a"; 400_000]}).to_string()];
    for unit in ["a", "A", " ", "!", "\n", "\\", "\0", "aA", "你", "e\u{301}", "<|endoftext|>", "'s", "1 "] {
        bodies.push(message(&unit.repeat(1_200_000 / unit.len())));
    }
    for body in bodies {
        let began = std::time::Instant::now();
        assert!(tokens(&body) > 0);
        // It is milliseconds. Counted in one piece, some of these take seconds, and others make the library panic.
        assert!(began.elapsed().as_secs() < 2, "{} … took {:?}", &body[..60], began.elapsed());
    }
}

#[test]
fn a_conversation_is_known_again_as_it_grows() {
    let first = r#"{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"hi"}]}"#;
    let later = r#"{"model":"x","messages":[{"role":"system","content":[{"type":"text","text":"be kind"}]},
        {"content":[{"text":"hi","cache_control":{"type":"ephemeral"}}],"role":"user"},
        {"role":"assistant","content":"hello"},{"role":"user","content":"bye"}]}"#;
    let other = r#"{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"ho"}]}"#;
    assert_eq!(seen(first).conversation(), seen(later).conversation());
    assert_ne!(seen(first).conversation(), seen(other).conversation());
    let gemini =
        |text: &str| format!(r#"{{"contents":[{{"parts":[{{"text":"hi"}}]}},{{"parts":[{{"text":"{text}"}}]}}]}}"#);
    assert_eq!(seen(&gemini("a")).conversation(), seen(&gemini("b")).conversation());
    assert!(seen(&gemini("a")).conversation().is_some());
    let keyed = |text: &str| format!(r#"{{"prompt_cache_key":"k","input":"{text}"}}"#);
    assert_eq!(seen(&keyed("a")).conversation(), seen(&keyed("b")).conversation());
    assert_eq!(seen("{}").conversation(), None);
}

#[test]
fn models_are_found_in_paths() {
    let cases = [
        ("/v1beta/models/gemini-2.0-flash:generateContent", Some("gemini-2.0-flash")),
        ("/v1/projects/p/locations/l/publishers/google/models/gemini-x:streamGenerateContent", Some("gemini-x")),
        ("/openai/deployments/gpt-4o/chat/completions", Some("gpt-4o")),
        ("/v1/models/gpt-4", None),
        ("/v1/models/ft:gpt-4:org", None),
        ("/v1beta/models/:generateContent", None),
        ("/v1beta/models", None),
        ("/v1/chat/completions", None),
        ("", None),
    ];
    for (path, model) in cases {
        assert_eq!(model_of_path(path), model, "{path}");
    }
}

proptest! {
    #[test]
    fn any_bytes_end_without_a_panic(bytes: Vec<u8>) {
        let _ = peek(&bytes);
        let _ = model_of_path(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_text_is_counted_without_a_panic(text: String, json in r#"["\\:{}\[\]a1, u]{0,60}"#, times in 1..200usize) {
        tokens(&message(&text.repeat(times)));
        let body = format!("{{\"tools\":[\"{json}\"],\"prompt\":\"{json}\"}}");
        if let Ok(peek) = peek(body.as_bytes()) {
            peek.prompt_tokens(Tokenizer::O200kBase);
        }
    }

    #[test]
    fn edits_keep_json_json(
        members in prop::collection::vec(r#"("a":1|"model": ?"[a-z\\n]{0,3}"|"stream_options" ?:( ?\{ ?\}| ?null|\{"x":\[\]\})|"n":[0-9]{1,3})"#, 0..4),
        blank in "[ \n]{0,2}",
    ) {
        let body = format!("{blank}{{{blank}{}{blank}}}", members.join(","));
        if let Ok(peek) = peek(body.as_bytes()) {
            let edits = peek.model.clone().map(|model| Edit::model(model.range, "new")).into_iter().chain(peek.ask_usage);
            let edited = rewrite(&Bytes::from(body.clone()), edits).concat();
            let again = super::peek(&edited).expect("still JSON");
            prop_assert_eq!(again.model.map(|model| model.name.into_owned()), peek.model.map(|_| "new".to_owned()));
            prop_assert!(again.usage_asked || members.is_empty());
        }
    }
}
