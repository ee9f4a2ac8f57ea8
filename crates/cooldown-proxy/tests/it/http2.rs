//! Clients that speak HTTP/2, in front of upstreams that speak HTTP/1.1.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Response;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{
    Binary, Body, Http2, PATIENCE, Proxy, Upstream, echo, empty, get, plain, text, timed, until, with_hops,
};

fn route_to(upstream: &Upstream) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()))
}

fn asked(path: &str) -> http::request::Builder {
    Request::get(format!("http://api.example.com{path}"))
}

fn bare(path: &str) -> Request<Body> {
    asked(path).body(empty()).expect("a valid request")
}

/// A body in two pieces with a trailer, of no known length.
fn with_trailers() -> Body {
    let (mut out, body) = Channel::<Bytes>::new(3);
    tokio::spawn(async move {
        for piece in ["one,", "two"] {
            out.send_data(Bytes::from(piece)).await.expect("it is read");
        }
        let trailers = HeaderMap::from_iter([("x-checksum".parse().expect("a name"), HeaderValue::from_static("abc"))]);
        out.send_trailers(trailers).await.expect("they are read");
    });
    body.map_err(|never| match never {}).boxed_unsync()
}

#[tokio::test]
async fn a_request_is_translated_and_so_is_its_response() {
    let upstream = Upstream::start(with_hops).await;
    let proxy = route_to(&upstream);
    let request = asked("/a%2fb?x=%20&&y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("expect", "100-continue")
        .header("x-end", "1");
    let mut client = Http2::connect(proxy.address()).await;
    let answer = client.fetch(request.body(empty()).expect("a valid request")).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    assert_eq!((answer.field("x-hop"), answer.field("keep-alive"), answer.field("connection")), ("", "", ""));
    assert_eq!((answer.field("x-end"), answer.field("x-cooldown-source")), ("2", "upstream"));

    let seen = upstream.only();
    assert_eq!(seen.uri, "/a%2fb?x=%20&&y", "byte for byte, in origin form");
    assert_eq!(seen.field("host"), "api.example.com");
    assert_eq!(seen.field("cookie"), "a=1; b=2", "the crumbs are one");
    assert_eq!((seen.field("te"), seen.field("connection")), ("trailers".into(), "te".into()));
    assert_eq!((seen.field("expect"), seen.field("x-end")), ("".into(), "1".into()));
    assert_eq!((seen.field("via"), seen.field("x-forwarded-proto")), ("2.0 cooldown".into(), "http".into()));
    assert_eq!(seen.field("transfer-encoding"), "", "a request without a body has none");
}

#[tokio::test]
async fn bodies_and_trailers_pass_in_both_directions() {
    let upstream = Upstream::start(|request| async move {
        let is_chunked = request.headers().get(header::TRANSFER_ENCODING).is_some_and(|value| value == "chunked");
        let whole = request.into_body().collect().await.expect("a whole body");
        let got = whole.trailers().and_then(|trailers| trailers.get("x-checksum").cloned());
        assert_eq!((whole.to_bytes().as_ref(), is_chunked), (&b"one,two"[..], true));
        let mut response = Response::new(with_trailers());
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-checksum"));
        response.headers_mut().insert("x-got", got.unwrap_or(HeaderValue::from_static("nothing")));
        response
    })
    .await;
    let proxy = route_to(&upstream);
    // A method that seldom has a body: its length must be told all the same.
    for method in [Method::POST, Method::DELETE] {
        let request = asked("/").method(method).header("trailer", "x-checksum").header("te", "trailers");
        let mut client = Http2::connect(proxy.address()).await;
        let answer = client.fetch(request.body(with_trailers()).expect("a valid request")).await;
        assert_eq!((answer.text(), answer.field("x-got")), ("one,two", "abc"));
        assert_eq!(answer.trailers.expect("trailers")["x-checksum"], "abc");
    }
    let mut client = Http2::connect(proxy.address()).await;
    let long = Bytes::from(vec![b'x'; 3_000_000]);
    let echoing = Upstream::start(echo).await;
    let proxy = route_to(&echoing);
    let mut other = Http2::connect(proxy.address()).await;
    let request = asked("/").method(Method::POST).body(text(long.clone())).expect("a valid request");
    assert_eq!(other.fetch(request).await.body, long, "windows are opened as the body is read");
    assert_eq!(client.fetch(bare("/never")).await.status, StatusCode::BAD_GATEWAY, "that upstream wants a body");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_heads() {
    let upstream = Upstream::start(|request| async move {
        let mut response = Response::new(empty());
        *response.status_mut() = match request.uri().path() {
            "/204" => StatusCode::NO_CONTENT,
            "/304" => StatusCode::NOT_MODIFIED,
            _ => StatusCode::OK,
        };
        if request.method() == Method::HEAD {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("1234"));
        }
        response
    })
    .await;
    let proxy = route_to(&upstream);
    let mut client = Http2::connect(proxy.address()).await;
    for (method, path, status, length) in
        [(Method::HEAD, "/", 200, "1234"), (Method::GET, "/204", 204, ""), (Method::GET, "/304", 304, "")]
    {
        let request = asked(path).method(method).body(empty()).expect("a valid request");
        let answer = client.fetch(request).await;
        assert_eq!((answer.status.as_u16(), answer.field("content-length")), (status, length));
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_of_a_head_request_has_a_length_and_no_body() {
    let proxy = Proxy::start("routes: {b.example: \"http://127.0.0.1:9\"}");
    let mut client = Http2::connect(proxy.address()).await;
    let answer = client.fetch(asked("/").method(Method::HEAD).body(empty()).expect("a valid request")).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.body.is_empty() && answer.field("content-length").parse::<u32>().is_ok_and(|length| length > 0));
}

#[rstest]
#[case::host_and_authority_differ(&[("host", "b.example")])]
#[case::two_lengths(&[("content-length", "0"), ("content-length", "0")])]
#[tokio::test]
async fn a_request_with_two_readings_is_refused_and_never_forwarded(#[case] fields: &[(&str, &str)]) {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream);
    let mut client = Http2::connect(proxy.address()).await;
    let request = fields.iter().fold(asked("/"), |request, (name, value)| request.header(*name, *value));
    let answer = client.fetch(request.body(empty()).expect("a valid request")).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "invalid_request"));
    assert_eq!(
        client.fetch(asked("/").header("host", "api.example.com").body(empty()).expect("valid")).await.status,
        200
    );
    assert_eq!(upstream.only().field("host"), "api.example.com");
}

#[tokio::test]
async fn a_plain_connect_is_no_tunnel_here_either() {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream);
    let mut client = Http2::connect(proxy.address()).await;
    let request = Request::connect("api.example.com:443").body(empty()).expect("a valid request");
    let answer = client.fetch(request).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "connect_unsupported"));
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn many_requests_of_one_connection_are_paced_like_any_others() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: \"40/s, burst 4\"}}}}}}",
        upstream.url()
    ));
    let client = Http2::connect(proxy.address()).await;
    let calls: Vec<_> = (0..44)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.fetch(bare("/")).await.status })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.expect("no panic"), StatusCode::OK);
    }
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 44);
    assert!((0.95..1.6).contains(&arrivals[43]), "4 at once, then 40 a second: {arrivals:?}");
}

#[tokio::test]
async fn a_stream_that_is_reset_leaves_the_line_and_the_others_stay() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: 1/s}}}}}}\nqueue: {{max_depth: 1}}",
        upstream.url()
    ));
    let client = Http2::connect(proxy.address()).await;
    let call = |path: &'static str| {
        let mut client = client.clone();
        tokio::spawn(async move { client.fetch(bare(path)).await })
    };
    assert_eq!(call("/first").await.expect("no panic").status, StatusCode::OK);
    let waits = call("/leaves");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(call("/full").await.expect("no panic").code(), "queue_full");
    waits.abort();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(call("/stays").await.expect("no panic").status, StatusCode::OK);
    let paths: Vec<String> = upstream.seen().iter().map(|seen| seen.uri.path().to_owned()).collect();
    assert_eq!(paths, ["/first", "/stays"]);
}

#[rstest]
#[case::before_they_are_looked_at(Duration::ZERO)]
#[case::once_they_are_under_way(Duration::from_millis(2))]
#[tokio::test]
async fn a_client_that_only_opens_and_resets_streams_is_cut_and_nobody_else(#[case] pause: Duration) {
    /// More than it can open before it hears that it shall go, on any machine.
    const MANY: u32 = 100_000;
    let upstream = Upstream::start(|_| std::future::pending::<Response<Body>>()).await;
    let healthy = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{concurrency: 1}}}}, /ok: \"{}\"}}",
        upstream.url(),
        healthy.url()
    ));
    let stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let ended = tokio::spawn(connection);
    let mut opened = 0;
    while opened < MANY {
        let Ok(ready) = sender.clone().ready().await else { break };
        sender = ready;
        let request = Request::get("http://a.example/").body(()).expect("a valid request");
        let Ok((_, mut stream)) = sender.send_request(request, true) else { break };
        opened += 1;
        if pause.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pause).await;
        }
        stream.send_reset(h2::Reason::CANCEL);
    }
    assert!(opened < MANY, "it is cut");
    assert!(timeout(PATIENCE, ended).await.is_ok(), "the connection ends");
    assert!(upstream.seen().len() <= 400, "{}", upstream.seen().len());
    assert_eq!(get(proxy.address(), "a.example", "/ok").await.status, StatusCode::OK, "the proxy lives on");
}

#[tokio::test]
async fn a_head_beyond_all_bounds_is_refused_and_the_proxy_lives_on() {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream);
    let mut client = Http2::connect(proxy.address()).await;
    let long = HeaderValue::from_bytes(&vec![b'x'; 60_000]).expect("a value");
    let answer = client.fetch(asked("/").header("x-long", long.clone()).body(empty()).expect("valid")).await;
    assert_eq!(answer.status, StatusCode::OK, "as long as in HTTP/1.1");
    let twice = asked("/").header("x-long", long.clone()).header("x-longer", long).body(empty()).expect("valid");
    match timeout(PATIENCE, client.send(twice)).await.expect("an end in time") {
        Ok(response) => assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(_) => assert_eq!(upstream.seen().len(), 1),
    }
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn a_preface_in_pieces_begins_http2_and_one_that_stops_is_cut() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::with_server(
        "drain_timeout: 100ms, header_timeout: 1s",
        &format!("routes: {{\"*\": \"{}\"}}", upstream.url()),
    );
    let mut slow = TcpStream::connect(proxy.address()).await.expect("a connection");
    for piece in PREFACE.chunks(7) {
        slow.write_all(piece).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    // An empty SETTINGS frame is answered by the other side's.
    slow.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("sent");
    let mut head = [0; 9];
    timeout(PATIENCE, slow.read_exact(&mut head)).await.expect("in time").expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS");

    for (pieces, what) in [(&b"PR"[..], "part of a preface"), (PREFACE, "a preface and nothing more")] {
        let mut stops = TcpStream::connect(proxy.address()).await.expect("a connection");
        stops.write_all(pieces).await.expect("sent");
        let began = Instant::now();
        let read = timeout(PATIENCE, stops.read_to_end(&mut Vec::new())).await;
        read.unwrap_or_else(|_| panic!("{what} is never cut")).ok();
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
    }
    // A method that begins like the preface is none.
    let answer = crate::support::raw(proxy.address(), b"PROPFIND / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(upstream.only().method.as_str(), "PROPFIND");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let _timed = timed().await;
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Response::new(text("late"))
    })
    .await;
    let proxy = Proxy::with_server(
        "drain_timeout: 100ms, header_timeout: 300ms",
        &format!("routes: {{\"*\": \"{}\"}}", upstream.url()),
    );
    let mut client = Http2::connect(proxy.address()).await;
    assert_eq!(client.fetch(bare("/")).await.text(), "late");
    until("the idle connection is closed", || client.is_closed()).await;
}

#[tokio::test]
async fn a_websocket_in_a_stream_is_passed_through_both_ways_until_it_closes() {
    let upstream = Upstream::start(|mut request| async move {
        if request.uri().path() == "/no" {
            return Response::new(text("no websocket"));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).await.expect("five bytes");
            bytes.reverse();
            stream.write_all(&bytes).await.expect("they are sent");
            // Until the other side has closed.
            stream.read_to_end(&mut Vec::new()).await.expect("an orderly end");
        });
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "x")] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    })
    .await;
    let proxy =
        Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{concurrency: 1}}}}}}", upstream.url()));
    let mut client = Http2::connect(proxy.address()).await;
    let connect = |path: &str| {
        let mut request = asked(path).method(Method::CONNECT).version(Version::HTTP_2);
        request.extensions_mut().expect("valid so far").insert(Protocol::from_static("websocket"));
        request.header("sec-websocket-version", "13").body(empty()).expect("a valid request")
    };
    // The settings that allow it come with the first answer at the latest.
    assert_eq!(client.fetch(bare("/no")).await.text(), "no websocket");
    let mut response = client.send(connect("/ws")).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    for gone in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.expect("a tunnel"));
    tunnel.write_all(b"hello").await.expect("sent");
    let mut bytes = [0; 5];
    timeout(PATIENCE, tunnel.read_exact(&mut bytes)).await.expect("in time").expect("five bytes");
    assert_eq!(&bytes, b"olleh");
    let seen = &upstream.seen()[1];
    assert_eq!((seen.method.clone(), seen.uri.path()), (Method::GET, "/ws"));
    assert_eq!((seen.field("upgrade"), seen.field("connection")), ("websocket".into(), "upgrade".into()));
    assert_eq!((seen.field("sec-websocket-key").len(), seen.field("sec-websocket-version")), (24, "13".into()));
    // It holds its place in flight until it closes.
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.fetch(bare("/no")).await.status });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waits.is_finished());
    tunnel.shutdown().await.expect("closed");
    drop(tunnel);
    assert_eq!(timeout(PATIENCE, waits).await.expect("in time").expect("no panic"), StatusCode::OK);
    // An upstream that does not switch opens no tunnel.
    let refused = client.fetch(connect("/no")).await;
    assert_eq!((refused.status, refused.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_protocol_error"));
}

#[tokio::test]
async fn a_request_under_way_is_finished_when_the_proxy_ends() {
    let upstream = Upstream::start(|_| async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        Response::new(text("finished"))
    })
    .await;
    let mut binary = Binary::serve(&format!(
        "server: {{host: 127.0.0.1, port: 0, drain_timeout: 10s}}\nadmin: off\nroutes: {{\"*\": \"{}\"}}\n",
        upstream.url()
    ));
    let mut client = Http2::connect(binary.address()).await;
    let call = tokio::spawn(async move { client.fetch(bare("/")).await });
    until("the request is under way", || upstream.under_way() == 1).await;
    binary.signal("TERM");
    let answer = call.await.expect("no panic");
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "finished"));
    let (status, took) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "it does not wait for the whole drain_timeout: {took:?}");
}

#[tokio::test]
async fn curl_speaks_both_versions() {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream);
    let url = format!("http://{}/", proxy.address());
    for (option, version) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
        let arguments = ["-sS", option, "-w", " %{http_version}", &url];
        let output = tokio::process::Command::new("curl").args(arguments).output().await;
        // Not every machine has it.
        let Ok(output) = output else { return };
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text, format!("hello {version}"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
