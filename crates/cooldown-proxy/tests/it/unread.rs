//! Answers that come before the request's body was read: the client gets them whole, and keeps its connection.

use http::StatusCode;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Proxy, Upstream, plain};

/// More than all buffers on the way can hold.
const LENGTH: usize = 16 << 20;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly";

/// Reads until `mark` has come, and says how much has.
async fn read_to(stream: &mut TcpStream, mark: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.windows(mark.len()).any(|window| window == mark) {
        let count = stream.read_buf(&mut read).await.expect("it is not reset");
        assert!(count > 0, "it ended after {:?}", String::from_utf8_lossy(&read));
    }
    read
}

/// Sends a long body and reads only then, as simple clients do; then asks once more. Both answers.
async fn ask_twice(proxy: &Proxy, path: &str) -> [String; 2] {
    let mut client = TcpStream::connect(proxy.address()).await.expect("it listens");
    let mut answers = [String::new(), String::new()];
    for answer in &mut answers {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a.example\r\ncontent-length: {LENGTH}\r\n\r\n");
        let story = async {
            client.write_all(head.as_bytes()).await?;
            for _ in 0..LENGTH >> 20 {
                client.write_all(&[b'x'; 1 << 20]).await?;
            }
            Ok::<_, std::io::Error>(read_answer(&mut client).await)
        };
        *answer = timeout(PATIENCE, story).await.expect("it ends").expect("the connection stays");
    }
    answers
}

/// An answer to its last byte, which its head tells.
async fn read_answer(client: &mut TcpStream) -> String {
    let mut read = read_to(client, b"\r\n\r\n").await;
    let text = String::from_utf8_lossy(&read).into_owned();
    let (head, _) = text.split_once("\r\n\r\n").expect("a head");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let whole = head.len() + 4 + length.parse::<usize>().expect("a number");
    while read.len() < whole {
        assert!(client.read_buf(&mut read).await.expect("it is not reset") > 0, "it ended early");
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn a_body_goes_on_to_an_upstream_that_answered_before_it_read_it() {
    let upstream = Upstream::bytes(|mut stream| async move {
        // Twice over the same connection.
        for _ in 0..2 {
            read_to(&mut stream, b"\r\n\r\n").await;
            stream.write_all(ANSWER).await.expect("the proxy listens");
            let mut left = LENGTH;
            let mut piece = vec![0; 1 << 16];
            while left > 1 << 16 {
                let count = stream.read(&mut piece).await.expect("the rest comes");
                assert!(count > 0, "the rest of the body is missing: {left} bytes");
                left -= count;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    for answer in ask_twice(&proxy, "/").await {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn the_answer_of_an_upstream_that_closes_on_a_long_body_reaches_the_client() {
    let upstream = Upstream::bytes(|mut stream| async move {
        read_to(&mut stream, b"\r\n\r\n").await;
        let answer = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
        stream.write_all(answer).await.expect("the proxy listens");
        stream.shutdown().await.expect("it is open");
        // It reads a little longer, so that its own answer is not lost.
        let mut rest = vec![0; 1 << 16];
        while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    for answer in ask_twice(&proxy, "/").await {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
}

#[rstest]
#[case::that_leads_nowhere("routes: {b.example: \"URL\"}", StatusCode::NOT_FOUND)]
#[case::that_would_wait_too_long(
    "routes: {a.example: {upstream: \"URL\", limits: {requests: \"1/day\"}}}\nqueue: {max_wait: 0s}",
    StatusCode::TOO_MANY_REQUESTS
)]
#[tokio::test]
async fn a_long_request_is_told_why_it_is_refused(#[case] config: &str, #[case] status: StatusCode) {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&config.replace("URL", &upstream.url()));
    if status == StatusCode::TOO_MANY_REQUESTS {
        // The only one of this day.
        crate::support::get(proxy.address(), "a.example", "/").await;
    }
    for answer in ask_twice(&proxy, "/").await {
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", status.as_str())), "{answer}");
    }
}
