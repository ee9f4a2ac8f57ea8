//! Requests that could be read in two ways are refused, the connection is closed, and nothing is forwarded.

use http::StatusCode;
use rstest::rstest;

use crate::support::{Proxy, Upstream, get, plain, raw};

#[rstest]
#[case::length_and_chunked(
    "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)]
#[case::chunked_and_length(
    "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
)]
#[case::two_differing_lengths(
    "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"
)]
#[case::the_same_length_twice(
    "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"
)]
#[case::a_list_of_lengths("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5, 5\r\n\r\nhello")]
#[case::a_length_with_a_sign("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +5\r\n\r\nhello")]
#[case::a_negative_length("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: -5\r\n\r\nhello")]
#[case::a_hexadecimal_length("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0x5\r\n\r\nhello")]
#[case::an_enormous_length("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999999999999999\r\n\r\nhello")]
#[case::chunked_twice(
    "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)]
#[case::chunked_twice_in_a_list(
    "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"
)]
#[case::an_unknown_coding("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")]
#[case::chunked_not_last("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n")]
#[case::identity("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: identity\r\n\r\n")]
#[case::a_disguised_coding("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")]
#[case::chunked_in_http_1_0("POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")]
#[case::obs_fold("GET / HTTP/1.1\r\nHost: a.example\r\nX-Fold: a\r\n b\r\n\r\n")]
#[case::a_space_before_the_colon("GET / HTTP/1.1\r\nHost: a.example\r\nX-Space : a\r\n\r\n")]
#[case::a_space_before_the_colon_of_a_length("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length : 5\r\n\r\nhello")]
#[case::a_bare_carriage_return("GET / HTTP/1.1\r\nHost: a.example\r\nX-Bare: a\rb\r\n\r\n")]
#[case::a_nul("GET / HTTP/1.1\r\nHost: a.example\r\nX-Nul: a\0b\r\n\r\n")]
#[case::two_hosts("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n")]
#[case::the_same_host_twice("GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n")]
#[case::no_host("GET / HTTP/1.1\r\nX-Other: 1\r\n\r\n")]
#[case::userinfo_in_the_host("GET / HTTP/1.1\r\nHost: user:secret@a.example\r\n\r\n")]
#[case::a_path_in_the_host("GET / HTTP/1.1\r\nHost: a.example/b\r\n\r\n")]
#[case::a_list_of_hosts("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n")]
#[case::a_space_in_the_target("GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n")]
#[case::no_version("GET /\r\nHost: a.example\r\n\r\n")]
#[tokio::test]
async fn a_request_with_two_readings_is_refused_and_never_forwarded(#[case] bytes: &str) {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    // What stands behind it must not be taken for a request of its own.
    let smuggled = format!("{bytes}GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let answer = raw(proxy.address(), smuggled.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "one answer, and the connection is closed: {answer}");
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK, "the proxy lives on");
}

#[rstest]
#[case::a_size_that_is_no_number("zz\r\nhello\r\n0\r\n\r\n")]
#[case::a_size_beyond_all_bounds("ffffffffffffffffff\r\nhello\r\n0\r\n\r\n")]
#[case::a_chunk_longer_than_its_size("3\r\nhello\r\n0\r\n\r\n")]
#[tokio::test]
async fn bad_chunking_never_reaches_the_upstream_as_a_whole_request(#[case] body: &str) {
    let upstream = Upstream::start(crate::support::echo).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let head = "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer =
        raw(proxy.address(), format!("{head}{body}GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n").as_bytes()).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert!(upstream.seen().iter().all(|seen| seen.uri.path() != "/smuggled"), "{:?}", upstream.seen());
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK, "the proxy lives on");
}

#[tokio::test]
async fn heads_beyond_all_bounds_are_refused() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let many = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "X-Field: 1\r\n".repeat(10_000));
    let long = format!("GET / HTTP/1.1\r\nHost: a.example\r\nX-Long: {}\r\n\r\n", "x".repeat(2_000_000));
    for bytes in [many, long] {
        let answer = raw(proxy.address(), bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK, "the proxy lives on");
}

#[tokio::test]
async fn a_client_that_sends_its_head_too_slowly_is_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::with_server(
        "drain_timeout: 100ms, header_timeout: 1s",
        &format!("routes: {{\"*\": \"{}\"}}", upstream.url()),
    );
    let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHo").await.expect("the first bytes are sent");
    let mut rest = Vec::new();
    let read = tokio::time::timeout(crate::support::PATIENCE, stream.read_to_end(&mut rest)).await;
    read.expect("the proxy closes").expect("an orderly end");
    assert!(upstream.seen().is_empty());
}
