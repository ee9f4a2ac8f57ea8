//! Whatever a client sends, over HTTP/1.1 or HTTP/2: an upstream gets requests that can be read in one way, with the
//! credentials that are meant for it, or none at all.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use cooldown_proxy::demo::in_process::InProcess;

use super::running::{KEY, PATIENCE, answer_of, start};
use super::strict::{Keys, Strict};

/// A client that has said all it has to say is answered in less, or is waited for.
const PAUSE: Duration = Duration::from_millis(4);

/// A proxy and its upstreams.
struct World {
    proxy: InProcess,
    /// What routes lead to; one provider, too, which gets its callers' keys.
    plain: Strict,
    /// A provider that gets ours.
    keyed: Strict,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (plain, keyed) = (Strict::start(Keys::NotOurs(KEY)), Strict::start(Keys::Ours(KEY)));
    let (open, ours) = (plain.address, keyed.address);
    let proxy = start(&format!(
        "routes: {{a.example: \"http://{open}\", \"*.b.example\": \"http://{open}/base\", /p: \"http://{open}/q\"}}\n\
         providers:\n\
         \x20 ours: {{endpoint: \"http://{ours}/v1\", api_key: {KEY}, models: [\"ours-*\"]}}\n\
         \x20 gemini: {{endpoint: \"http://{open}\", api_key: client, models: [\"theirs-*\"]}}\n\
         telemetry: {{otlp: \"http://127.0.0.1:9\"}}\n"
    ));
    World { proxy, plain, keyed }
});

/// Sends the bytes on a connection of their own.
pub fn run(data: &[u8]) {
    // A fuzzer sees what the program compares with, and would send it. No client can.
    if data.windows(KEY.len()).any(|part| part == KEY.as_bytes()) {
        return;
    }
    let world = &*WORLD;
    let mut stream = TcpStream::connect(world.proxy.address()).expect("the proxy listens");
    // It may close before it has read all.
    let _ = stream.write_all(data);
    let mut told = Vec::new();
    stream.set_read_timeout(Some(PAUSE)).expect("a time");
    if !is_over(&mut stream, &mut told) {
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        assert!(is_over(&mut stream, &mut told), "a client that has gone is held");
    }
    assert!(!told.windows(10).any(|part| part == b"\"internal\""), "\"{}\"", told.escape_ascii());
    for upstream in [&world.plain, &world.keyed] {
        let wrong = upstream.wrong();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
    if data.len().is_multiple_of(64) {
        let answer = answer_of(&world.proxy, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "others are served: \"{}\"", answer.escape_ascii());
    }
}

/// Reads to the end of the stream; false if nothing more comes for now.
fn is_over(stream: &mut TcpStream, told: &mut Vec<u8>) -> bool {
    match stream.read_to_end(told) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}
