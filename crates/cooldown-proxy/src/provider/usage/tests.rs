use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use proptest::prelude::*;

use super::super::frames::tests::frame;
use super::*;

const SSE: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

fn reader(content_type: &str, coding: &str) -> Option<UsageReader> {
    let mut headers = Fields::default();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a field value"));
    if !coding.is_empty() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_str(coding).expect("a field value"));
    }
    UsageReader::for_response(&headers)
}

/// What a body says, the same however it is cut.
fn read(content_type: &str, body: &[u8]) -> (Option<Usage>, Partial) {
    let cut = |size| {
        let mut reader = reader(content_type, "").expect("a known type");
        body.chunks(size).for_each(|chunk| reader.read(chunk));
        (reader.finish(), reader.partial())
    };
    let whole = cut(body.len().max(1));
    for size in [1, 2, 3, 7, 50] {
        assert_eq!(cut(size), whole, "cut in pieces of {size}");
    }
    whole
}

fn usage(input: u64, cached_input: u64, output: u64, total: u64) -> Usage {
    Usage { input, cached_input, output, total }
}

#[test]
fn usage_is_found_in_every_json_shape() {
    let cases = [
        // OpenAI chat; vLLM's null details; gateways that say it twice; embeddings; Responses
        (
            r#"{"choices":[{"message":{"content":"usage"}}],"usage":{"prompt_tokens":20,"completion_tokens":18,"total_tokens":38,
               "prompt_tokens_details":{"cached_tokens":8},"completion_tokens_details":{"reasoning_tokens":3}}}"#,
            usage(20, 8, 18, 38),
        ),
        (
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11,"prompt_tokens_details":null}}"#,
            usage(5, 0, 6, 11),
        ),
        (
            r#"{"usage":{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11,"input_tokens":0,"output_tokens":0,
               "prompt_tokens_details":{"cached_tokens":1},"input_tokens_details":null}}"#,
            usage(5, 1, 6, 11),
        ),
        (r#"{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":56,"total_tokens":56}}"#, usage(56, 0, 0, 56)),
        (
            r#"{"error":null,"output":[],"usage":{"input_tokens":30,"input_tokens_details":{"cached_tokens":10},
               "output_tokens":12,"total_tokens":42}}"#,
            usage(30, 10, 12, 42),
        ),
        // DeepSeek
        (
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,"prompt_cache_hit_tokens":4}}"#,
            usage(9, 4, 1, 10),
        ),
        // Anthropic: the cache comes on top
        (
            r#"{"content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":10,"cache_creation_input_tokens":200,
               "cache_read_input_tokens":3000,"output_tokens":7,"service_tier":"standard"}}"#,
            usage(3210, 3000, 7, 3217),
        ),
        // Gemini
        (
            r#"{"candidates":[{}],"usageMetadata":{"promptTokenCount":100,"cachedContentTokenCount":40,
               "candidatesTokenCount":5,"thoughtsTokenCount":6,"toolUsePromptTokenCount":7,"totalTokenCount":118,
               "promptTokensDetails":[{"modality":"TEXT","tokenCount":100}]}}"#,
            usage(107, 40, 11, 118),
        ),
        // Ollama, Bedrock
        (r#"{"message":{"content":"x"},"done":true,"prompt_eval_count":26,"eval_count":298}"#, usage(26, 0, 298, 324)),
        (
            r#"{"output":{},"usage":{"inputTokens":3,"outputTokens":4,"totalTokens":12,"cacheReadInputTokens":5}}"#,
            usage(8, 5, 4, 12),
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(read(JSON, body.as_bytes()).0, Some(expected), "{body}");
    }
    assert_eq!(reader("application/problem+json", "").map(|reader| reader.is_stream()), Some(false));
}

#[test]
fn nonsense_is_not_usage() {
    let bodies = [
        "",
        "{}",
        r#"{"usage":null}"#,
        r#"{"usage":7}"#,
        r#"{"usage":{"prompt_tokens":-5,"completion_tokens":"x"}}"#,
        r#"{"usage":{"prompt_tokens":1e30,"completion_tokens":[1,{"a":2}],"total_tokens":{"b":[]}}}"#,
        r#"{"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":99999999999999999999999}}"#,
        r#"{"error":{"message":"no"}}"#,
    ];
    for body in bodies {
        assert_eq!(read(JSON, body.as_bytes()).0, None, "{body}");
    }
    let deep =
        format!(r#"{{"usage":{{"prompt_tokens":{0}}},"x":{0}}}"#, ["[".repeat(30_000), "]".repeat(30_000)].concat());
    assert_eq!(read(JSON, deep.as_bytes()).0, None);
}

#[test]
fn a_chat_stream_tells_usage_in_its_last_chunk() {
    let body = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17}}\n\n",
        "data: [DONE]\n\n",
    );
    let (found, partial) = read(SSE, body.as_bytes());
    assert_eq!(found, Some(usage(12, 0, 5, 17)));
    assert_eq!(partial.output_bytes, "hello".len() as u64 + "f".len() as u64 + "{}".len() as u64);
    let cut = &body[..body.find("data: {\"choices\":[],").expect("the last chunk")];
    assert_eq!(read(SSE, cut.as_bytes()), (None, Partial { input: None, cached_input: 0, output_bytes: 8 }));
}

#[test]
fn groq_tells_usage_in_its_own_member() {
    let body = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"x_groq\":{\"id\":\"r\",\"usage\":{\"queue_time\":0.02,\"prompt_tokens\":18,\"completion_tokens\":9,\"total_tokens\":27}}}\n\n";
    assert_eq!(read(SSE, body.as_bytes()).0, Some(usage(18, 0, 9, 27)));
}

#[test]
fn responses_tell_usage_when_they_end() {
    for end in ["completed", "incomplete", "failed"] {
        let body = format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"usage\":null,\"error\":null}}}}\n\n\
             event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"delta\":\"hey\"}}\n\n\
             event: response.{end}\ndata: {{\"type\":\"response.{end}\",\"response\":{{\"output\":[{{\"content\":[{{\"text\":\"hey\"}}]}}],\
             \"usage\":{{\"input_tokens\":37,\"input_tokens_details\":{{\"cached_tokens\":2}},\"output_tokens\":11,\"total_tokens\":48}}}}}}\n\n"
        );
        let (found, partial) = read(SSE, body.as_bytes());
        assert_eq!(found, Some(usage(37, 2, 11, 48)));
        assert_eq!(partial.output_bytes, 3);
    }
}

const ANTHROPIC: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[],\"usage\":",
    "{\"input_tokens\":25,\"cache_creation_input_tokens\":5,\"cache_read_input_tokens\":10,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":null},\"usage\":{\"output_tokens\":6}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":25,\"output_tokens\":15}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

#[test]
fn an_anthropic_stream_counts_up_and_is_not_summed() {
    assert_eq!(read(SSE, ANTHROPIC.as_bytes()).0, Some(usage(40, 10, 15, 55)));
}

#[test]
fn an_anthropic_stream_that_breaks_off_tells_its_input() {
    let cut = &ANTHROPIC[..ANTHROPIC.find("event: message_delta").expect("the first delta")];
    assert_eq!(read(SSE, cut.as_bytes()), (None, Partial { input: Some(40), cached_input: 10, output_bytes: 5 }));
}

#[test]
fn gemini_counts_up_in_events_and_in_an_array() {
    let chunk = |text: &str, count: u64| {
        format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}}}}],
            "usageMetadata":{{"promptTokenCount":8,"candidatesTokenCount":{count},"totalTokenCount":{}}}}}"#,
            8 + count
        )
    };
    let array = format!("[{},\r\n{}\n]", chunk("a", 1), chunk("bc", 4));
    assert_eq!(read(JSON, array.as_bytes()).0, Some(usage(8, 0, 4, 12)));
    let events = [chunk("a", 1), chunk("bc", 4)].map(|chunk| format!("data: {}\r\n\r\n", chunk.replace('\n', " ")));
    let (found, partial) = read(SSE, events.concat().as_bytes());
    assert_eq!(found, Some(usage(8, 0, 4, 12)));
    assert_eq!(partial.output_bytes, 3);
}

#[test]
fn ollama_tells_usage_in_its_last_line() {
    let body = "{\"message\":{\"role\":\"assistant\",\"content\":\"Hi\"},\"done\":false}\n\
                {\"response\":\"you\",\"done\":false}\n\
                {\"message\":{\"content\":\"\"},\"done\":true,\"prompt_eval_count\":26,\"eval_count\":2}";
    let (found, partial) = read("application/x-ndjson", body.as_bytes());
    assert_eq!((found, partial.output_bytes), (Some(usage(26, 0, 2, 28)), 5));
}

#[test]
fn bedrock_tells_usage_in_its_metadata() {
    let body = [
        frame("event", "messageStart", r#"{"role":"assistant"}"#),
        frame("event", "contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Hi"},"p":"abcdef"}"#),
        frame("event", "metadata", r#"{"metrics":{},"usage":{"inputTokens":14,"outputTokens":3,"totalTokens":17}}"#),
    ]
    .concat();
    let (found, partial) = read("application/vnd.amazon.eventstream", &body);
    assert_eq!((found, partial.output_bytes), (Some(usage(14, 0, 3, 17)), 2));
}

#[test]
fn the_first_event_is_told_as_soon_as_it_is_whole() {
    use FirstEvent::{Error, Preamble, Token};
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
    let chat_error = "data: {\"error\":{\"code\":429}}\n\n";
    let anthropic = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n";
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"rate_limit_exceeded\"}}}\n\n";
    let flat = "event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"no\"}\n\n";
    let cases: [(&[&str], Option<FirstEvent<'_>>); 9] = [
        (&[": hello\n\n", "data: {\"choi"], None),
        (&[role], Some(Preamble)),
        (&[role, text], Some(Token)),
        (&[chat_error, text], Some(Error(br#"{"error":{"code":429}}"#))),
        (&[text, chat_error], Some(Token)),
        (&[anthropic], Some(Error(br#"{"error":{"type":"overloaded_error"}}"#))),
        (&[created, failed], Some(Error(br#"{"error":{"code":"rate_limit_exceeded"}}"#))),
        (&[flat], Some(Error(br#"{"error":{"type":"error","code":"x","message":"no"}}"#))),
        (&["event: ping\ndata: {\"type\":\"ping\"}\n\n"], Some(Preamble)),
    ];
    for (events, expected) in cases {
        let mut reader = reader(SSE, "").expect("a known type");
        reader.read(events.concat().as_bytes());
        assert_eq!(reader.first_event(), expected, "{events:?}");
    }
    let mut bedrock = reader("application/vnd.amazon.eventstream", "").expect("a known type");
    bedrock.read(&frame("exception", "throttlingException", r#"{"message":"slow down"}"#));
    assert_eq!(bedrock.first_event(), Some(Error(br#"{"error":{"message":"slow down"}}"#)));
    let mut array = reader(JSON, "").expect("a known type");
    array.read(br#"[{"error":{"code":429}}]"#);
    assert_eq!(array.first_event(), Some(Error(br#"{"error":{"code":429}}"#)));
}

/// A stream of twenty small events with its usage in front, and what it is in the codings that nothing here can write.
fn stream() -> String {
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7,\"total_tokens\":18}}\n\n";
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"hello world\"}}]}\n\n".repeat(20);
    format!("{usage}{text}data: [DONE]\n\n")
}
const BROTLI: &str = concat!(
    "829b008840cdad7f49ee3285a42355c60cd56063e8e44003d4de565b9a15071448e689726e63a731032b24946e483a56e3bb",
    "416419449b681e31aff7efb61925f7a515036a1bb456e57166a4e1d13806a1628fe0a60a9bf7cf4cb57a7e5f9d2501",
);
const ZSTD: &str = concat!(
    "28b52ffd0458a503005287181b706975084fe529a53d1c832c594abd9fe073c8796097e9fff55203c624c1801038528c67bb",
    "70a2e05d459eefa6dd781de655afb243636204a055cdfd63344e5ad729bc7e10cabfa607ee423b8517779857837a889f74e4",
    "9fae84917558a46ac50204000c82ebffbce00bcdc2578b0905c9f9484e",
);

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits")).collect()
}

fn compressed(coding: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
    let text = stream();
    match coding {
        "gzip" => gzip.write_all(text.as_bytes()).and_then(|()| gzip.finish()).expect("memory"),
        "deflate" => zlib.write_all(text.as_bytes()).and_then(|()| zlib.finish()).expect("memory"),
        "bare deflate" => bare.write_all(text.as_bytes()).and_then(|()| bare.finish()).expect("memory"),
        "br" => from_hex(BROTLI),
        "zstd" => from_hex(ZSTD),
        _ => text.into_bytes(),
    }
}

#[test]
fn usage_is_read_through_every_coding_wherever_it_is_cut() {
    for coding in ["gzip", "deflate", "bare deflate", "br", "zstd", "identity"] {
        let body = compressed(coding);
        let named = coding.strip_prefix("bare ").unwrap_or(coding);
        for size in 1..=body.len() {
            let mut reader = reader(SSE, named).expect("a known coding");
            body.chunks(size).for_each(|chunk| reader.read(chunk));
            assert_eq!(reader.finish(), Some(usage(11, 0, 7, 18)), "{coding} in pieces of {size}");
            assert_eq!(reader.partial().output_bytes, 220, "{coding} in pieces of {size}");
        }
    }
    assert!(reader(SSE, "gzip, br").is_none());
    assert!(reader("text/html", "").is_none());
}

#[test]
fn a_gzip_header_may_have_all_its_parts() {
    let mut gzip = flate2::GzBuilder::new()
        .extra(vec![1; 40])
        .filename("a name")
        .comment("a comment")
        .write(Vec::new(), Compression::fast());
    gzip.write_all(stream().as_bytes()).expect("memory");
    let body = gzip.finish().expect("memory");
    for size in [1, 9, 11, body.len()] {
        let mut reader = reader(SSE, "gzip").expect("a known coding");
        body.chunks(size).for_each(|chunk| reader.read(chunk));
        assert_eq!(reader.finish(), Some(usage(11, 0, 7, 18)));
    }
}

#[test]
fn a_compressed_event_is_read_as_soon_as_it_is_flushed() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n").expect("memory");
    gzip.flush().expect("memory");
    let mut reader = reader(SSE, "gzip").expect("a known coding");
    reader.read(gzip.get_ref());
    assert_eq!(reader.first_event(), Some(FirstEvent::Token));
}

#[test]
fn a_body_that_unfolds_without_end_is_given_up() {
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b'0'; 1 << 20];
    for _ in 0..80 {
        bomb.write_all(&zeros).expect("memory");
    }
    bomb.write_all(br#"{"usage":{"prompt_tokens":1}}"#).expect("memory");
    let body = bomb.finish().expect("memory");
    let mut reader = reader(JSON, "gzip").expect("a known coding");
    body.chunks(1 << 14).for_each(|chunk| reader.read(chunk));
    assert_eq!(reader.finish(), None);
}

proptest! {
    #[test]
    fn any_bytes_end_without_a_panic(
        bytes: Vec<u8>,
        events in r#"(data: |event: |\n|\n\n|"|\{|\}|\[|\]|:|,|"usage"|"error"|"type"|"choices"|"content"|null|1|-1e999|\\){0,60}"#,
        size in 1usize..20,
    ) {
        for content_type in [SSE, JSON, "application/x-ndjson", "application/vnd.amazon.eventstream"] {
            for coding in ["", "gzip", "deflate", "br", "zstd"] {
                for body in [&bytes[..], events.as_bytes()] {
                    let mut reader = reader(content_type, coding).expect("known");
                    body.chunks(size).for_each(|chunk| reader.read(chunk));
                    reader.finish();
                }
            }
        }
    }

    #[test]
    fn damage_ends_without_a_panic(
        coding in prop::sample::select(vec!["gzip", "deflate", "bare deflate", "br", "zstd"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        size in 1usize..200,
    ) {
        let mut body = compressed(coding);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let mut reader = reader(SSE, coding.strip_prefix("bare ").unwrap_or(coding)).expect("known");
        body.chunks(size).for_each(|chunk| reader.read(chunk));
        reader.finish();
    }

    #[test]
    fn borders_between_chunks_change_nothing(
        events in prop::collection::vec(0usize..6, 0..8),
        cuts in prop::collection::vec(1usize..60, 1..10),
    ) {
        let all = [
            "data: {\"choices\":[{\"delta\":{\"content\":\"h\\u00e9\"}}],\"usage\":null}\r\n\r\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n",
            "event: error\ndata: {\"error\":{\"code\":1}}\n\n",
            ": keep-alive\n\n",
            "data: {\"x\":1,\ndata: \"usage\":{\"output_tokens\":9}}\n\n",
            ANTHROPIC,
        ];
        let body = events.iter().map(|event| all[*event]).collect::<String>();
        let run = |cuts: &[usize]| {
            let mut reader = reader(SSE, "").expect("known");
            let (mut rest, mut cuts) = (body.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(cuts.next().copied().unwrap_or(1).min(rest.len()));
                reader.read(chunk);
                rest = after;
            }
            let first = format!("{:?}", reader.first_event());
            (reader.finish(), reader.partial(), first)
        };
        prop_assert_eq!(run(&cuts), run(&[usize::MAX]));
    }
}
