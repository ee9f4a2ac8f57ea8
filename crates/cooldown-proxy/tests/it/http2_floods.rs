//! Peers that speak HTTP/2 and send nothing but work: they are cut or held up, in little memory, and others are served
//! meanwhile. Frames are written by hand: no library sends such things.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::http2::PREFACE;
use crate::support::{Binary, PATIENCE, Upstream, get, plain};

/// Types of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A flood is so long that what keeps a part of it is found out, in bytes.
const LONG: usize = 24 << 20;
/// What more the program may hold at any time, in KiB: less than a flood.
const ROOM: u64 = 16 * 1024;
/// Nothing is taken for so long: the flood is held up.
const HELD_UP: Duration = Duration::from_millis(700);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that goes into no table (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// The head of a request.
fn head(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "a.example"), (":path", path)];
    fields.map(|(name, value)| field(name, value)).concat()
}

/// The flood's `number`th piece.
type Piece = fn(u32) -> Vec<u8>;

/// Streams of a client are odd.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// A proxy, an upstream that never answers, and one that always does, at `/ok`.
async fn started(route: &str) -> (Binary, Upstream) {
    let healthy = Upstream::start(plain).await;
    let proxy = Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 1, header_timeout: 2s, idle_timeout: 2s}}\n\
         admin: off\nlog: {{access: false}}\n\
         routes: {{\"*\": {{{route}, timeout: 2s}}, /ok: \"{}\"}}\n",
        healthy.url()
    ));
    assert_eq!(get(proxy.address(), "a.example", "/ok").await.status, StatusCode::OK);
    (proxy, healthy)
}

/// Sends pieces until the other side closes, takes no more, or has taken all of a long flood.
async fn flood(stream: &mut (impl AsyncWriteExt + Unpin), piece: Piece) {
    let (mut sent, mut number) = (0, 0);
    while sent < LONG {
        let mut pieces = Vec::with_capacity(64 * 1024);
        while pieces.len() < 60 * 1024 {
            pieces.extend_from_slice(&piece(number));
            number += 1;
        }
        sent += pieces.len();
        match timeout(HELD_UP, stream.write_all(&pieces)).await {
            Ok(Ok(())) => {}
            // Cut, or held up.
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[rstest]
#[case::settings(&[], |_| frame(SETTINGS, 0, 0, &[]))]
#[case::settings_that_change(&[], |number| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, (number % 2) as u8]))]
#[case::pings(&[], |_| frame(PING, 0, 0, b"12345678"))]
#[case::resets(&[], |number| [
    frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &head("GET", "/")),
    frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes()),
].concat())]
#[case::resets_of_nothing(&[], |number| frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes()))]
#[case::streams_beyond_the_bound(&[], |number| {
    frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &head("GET", "/"))
})]
#[case::heads_that_never_end(
    &frame(HEADERS, 0, 1, &head("GET", "/")), |_| frame(CONTINUATION, 0, 1, &field("x-more", "and more"))
)]
#[case::heads_that_never_end_and_say_nothing(
    &frame(HEADERS, 0, 1, &head("GET", "/")), |_| frame(CONTINUATION, 0, 1, &[])
)]
#[case::heads_without_a_field(&[], |number| frame(HEADERS, END_HEADERS, stream(number), &[]))]
#[case::heads_of_heads(
    &frame(HEADERS, END_HEADERS, 1, &head("POST", "/")), |_| frame(HEADERS, END_HEADERS, 1, &head("POST", "/"))
)]
#[case::data_without_a_byte(
    &frame(HEADERS, END_HEADERS, 1, &head("POST", "/")), |_| frame(DATA, 0, 1, &[])
)]
#[case::data_of_one_byte(
    &frame(HEADERS, END_HEADERS, 1, &head("POST", "/")), |_| frame(DATA, 0, 1, b"x")
)]
#[case::data_of_padding(
    &frame(HEADERS, END_HEADERS, 1, &head("POST", "/")),
    |_| frame(DATA, 8, 1, &[255; 256].map(|byte| byte * u8::from(byte == 255)))
)]
#[case::data_beyond_the_window(
    &frame(HEADERS, END_HEADERS, 1, &head("POST", "/")), |_| frame(DATA, 0, 1, &[b'x'; 16_384])
)]
#[case::data_of_no_stream(&[], |_| frame(DATA, 0, 1, b"x"))]
#[case::windows(&[], |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))]
#[case::windows_of_nothing(&[], |_| frame(WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes()))]
#[case::windows_of_a_stream(
    &frame(HEADERS, END_HEADERS, 1, &head("GET", "/")), |_| frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes())
)]
#[case::priorities(&[], |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 1]))]
#[case::good_byes(&[], |_| frame(GOAWAY, 0, 0, &[0; 8]))]
#[case::frames_of_no_type(&[], |_| frame(0xfa, 0, 0, b"what is this"))]
#[case::frames_beyond_all_bounds(&[], |_| frame(PING, 0, 0, &[0; 100_000]))]
#[tokio::test]
async fn a_client_that_sends_only_work_is_bounded(#[case] begins: &[u8], #[case] piece: Piece) {
    let upstream = Upstream::start(|_| std::future::pending::<hyper::Response<crate::support::Body>>()).await;
    let (proxy, _healthy) = started(&format!("upstream: \"{}\"", upstream.url())).await;
    let before = proxy.memory("VmRSS");
    // One that never reads what it is answered, and one that does.
    for reads in [false, true] {
        let stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        let (mut reader, mut writer) = stream.into_split();
        let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[]), begins].concat();
        writer.write_all(&begun).await.expect("sent");
        let reading =
            reads.then(|| tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await }));
        let address = proxy.address();
        let others = tokio::spawn(async move { served(address).await });
        flood(&mut writer, piece).await;
        others.await.expect("others are served meanwhile");
        drop(writer);
        if let Some(reading) = reading {
            let _ = timeout(PATIENCE, reading).await.expect("it is cut in the end");
        }
    }
    let most = proxy.memory("VmHWM").saturating_sub(before);
    assert!(most < ROOM, "{most} KiB more at the most");
    assert!(upstream.seen().len() <= 800, "{} requests came to the upstream", upstream.seen().len());
    assert_eq!(get(proxy.address(), "a.example", "/ok").await.status, StatusCode::OK, "the proxy lives on");
}

/// Another client is served, many times and soon.
async fn served(address: SocketAddr) {
    for _ in 0..10 {
        let began = Instant::now();
        assert_eq!(get(address, "a.example", "/ok").await.status, StatusCode::OK);
        // On a machine that has much else to do.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An upstream's head with this status.
fn answered(status: &str) -> Vec<u8> {
    field(":status", status)
}

#[rstest]
#[case::settings(|_| frame(SETTINGS, 0, 0, &[]))]
#[case::pings(|_| frame(PING, 0, 0, b"12345678"))]
#[case::heads_of_hints(|_| frame(HEADERS, END_HEADERS, 1, &answered("103")))]
#[case::heads_that_never_end(|number| match number {
    0 => frame(HEADERS, 0, 1, &answered("200")),
    _ => frame(CONTINUATION, 0, 1, &field("x-more", "and more")),
})]
#[case::heads_of_streams_that_are_none(|number| frame(HEADERS, END_HEADERS, 2 * number + 2, &answered("200")))]
#[case::data_without_a_byte(|number| match number {
    0 => frame(HEADERS, END_HEADERS, 1, &answered("200")),
    _ => frame(DATA, 0, 1, &[]),
})]
#[case::data_beyond_the_window(|number| match number {
    0 => frame(HEADERS, END_HEADERS, 1, &answered("200")),
    _ => frame(DATA, 0, 1, &[b'x'; 16_384]),
})]
#[case::promises(|number| frame(PUSH_PROMISE, END_HEADERS, 1, &[&stream(number).to_be_bytes()[..], &head("GET", "/")].concat()))]
#[case::resets(|_| frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()))]
#[case::windows(|_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()))]
#[case::good_byes(|_| frame(GOAWAY, 0, 0, &[0; 8]))]
#[case::frames_of_no_type(|_| frame(0xfa, 0, 0, b"what is this"))]
#[tokio::test]
async fn an_upstream_that_sends_only_work_is_bounded(#[case] piece: Piece) {
    let upstream = Upstream::bytes(move |mut stream| async move {
        let mut begun = [0; PREFACE.len()];
        stream.read_exact(&mut begun).await.expect("a preface");
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("sent");
        // Not before the request is there: what comes for it earlier is of no stream.
        let mut asked = [0; 4096];
        while !String::from_utf8_lossy(&asked).contains("a.example") {
            let Ok(Ok(1..)) = timeout(HELD_UP, stream.read(&mut asked)).await else { break };
        }
        let (mut reader, mut writer) = stream.into_split();
        let reading = tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
        flood(&mut writer, piece).await;
        drop(writer);
        reading.abort();
    })
    .await;
    let (proxy, _healthy) = started(&format!("upstream: \"{}\", http2: prior_knowledge", upstream.url())).await;
    let before = proxy.memory("VmRSS");
    let address = proxy.address();
    let others = tokio::spawn(async move { served(address).await });
    let began = Instant::now();
    // Whatever becomes of it: it ends, and soon.
    let mut client = TcpStream::connect(proxy.address()).await.expect("a connection");
    let asked = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    client.write_all(asked).await.expect("sent");
    let mut told = Vec::new();
    // Cut or ended, it is over.
    let _ = timeout(PATIENCE, client.read_to_end(&mut told)).await.expect("an end in time");
    assert!(told.is_empty() || told.starts_with(b"HTTP/1.1 "), "{}", told.escape_ascii());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    others.await.expect("others are served meanwhile");
    let most = proxy.memory("VmHWM").saturating_sub(before);
    assert!(most < ROOM, "{most} KiB more at the most");
    assert_eq!(get(proxy.address(), "a.example", "/ok").await.status, StatusCode::OK, "the proxy lives on");
}

#[tokio::test]
async fn a_client_that_says_good_bye_still_gets_its_answers() {
    let healthy = Upstream::start(plain).await;
    let (proxy, _) = started(&format!("upstream: \"{}\"", healthy.url())).await;
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    let asked = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/"));
    let begun = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &asked, &frame(GOAWAY, 0, 0, &[0; 8])].concat();
    stream.write_all(&begun).await.expect("sent");
    let mut told = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut told)).await.expect("it is closed").expect("an orderly end");
    assert!(told.windows(5).any(|part| part == b"hello"), "{}", told.escape_ascii());
}
