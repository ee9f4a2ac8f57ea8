//! Whatever an upstream answers: the client gets an answer that can be read in one way, or the end of the connection, and the
//! proxy goes on.

use std::sync::{LazyLock, Mutex};

use cooldown_proxy::demo::in_process::InProcess;

use super::running::{KEY, answer_of, start};
use super::strict::{Keys, Strict};

/// An upstream, and a proxy before it. What it is told by one answer must not decide about the next.
struct World {
    upstream: Strict,
    proxy: Mutex<Option<InProcess>>,
}

static WORLD: LazyLock<World> =
    LazyLock::new(|| World { upstream: Strict::start(Keys::Ours(KEY)), proxy: Mutex::default() });

/// Answers a streamed and a plain call with the bytes.
pub fn run(data: &[u8]) {
    let world = &*WORLD;
    let mut proxy = world.proxy.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let running = proxy.get_or_insert_with(|| begin(&world.upstream));
    world.upstream.answer_with(if data.is_empty() { b"\r\n" } else { data });
    let body = match data.len() % 2 {
        0 => r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}"#,
        _ => r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#,
    };
    let answer = answer_of(
        running,
        &format!(
            "POST /ours/v1/chat/completions HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    check(&answer);
    let wrong = world.upstream.wrong();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Limits, closings and keys that are left alone: the next answer comes to a proxy that knows nothing.
    let is_changed = [&b"x-cooldown-source: proxy"[..], b" 429 ", b" 401 ", b" 402 ", b" 403 ", b" 503 ", b" 529 "];
    if is_changed.iter().any(|sign| answer.windows(sign.len()).any(|part| part == *sign)) {
        *proxy = None;
    }
}

fn begin(upstream: &Strict) -> InProcess {
    let address = upstream.address;
    start(&format!(
        "providers:\n\
         \x20 ours: {{endpoint: \"http://{address}\", api_key: {KEY}, models: [m], limits: {{tokens: 1M/min}}, timeout: 1s}}\n\
         queue: {{max_wait: 10ms}}\n\
         retry: {{attempts: 1}}\n"
    ))
}

/// It is one answer in one reading.
fn check(answer: &[u8]) {
    let shown = || answer.escape_ascii().to_string();
    assert!(!answer.windows(10).any(|part| part == b"\"internal\""), "\"{}\"", shown());
    if answer.is_empty() {
        return;
    }
    assert!(answer.starts_with(b"HTTP/1.1 "), "\"{}\"", shown());
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or_else(|| panic!("no end: {}", shown()));
    let lines: Vec<&[u8]> = answer[..end].split(|byte| *byte == b'\n').collect();
    let (mut lengths, mut codings) = (0, 0);
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line).to_ascii_lowercase();
        assert!(!line.iter().any(|byte| matches!(byte, b'\r' | 0)), "\"{}\"", shown());
        lengths += usize::from(line.starts_with(b"content-length:"));
        codings += usize::from(line.starts_with(b"transfer-encoding:"));
    }
    assert!(lengths + codings <= 1, "its length is told in {lengths} and {codings} ways: \"{}\"", shown());
}
