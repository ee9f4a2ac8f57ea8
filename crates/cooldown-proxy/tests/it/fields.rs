//! Which fields pass, in both directions.

use http::{HeaderValue, StatusCode};
use hyper::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Proxy, Upstream, empty, fetch, get, plain, raw, request, text, with_hops};

async fn route_to(upstream: &Upstream) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()))
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let upstream = Upstream::start(with_hops).await;
    let proxy = route_to(&upstream).await;
    let asked = request("a.example", "/")
        .header("connection", "keep-alive, X-Private, te")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "Basic Og==")
        .header("te", "trailers, gzip")
        .header("x-end", "1")
        .body(empty())
        .expect("a valid request");
    let answer = fetch(proxy.address(), asked).await;
    assert_eq!(answer.status, StatusCode::OK);

    let seen = upstream.only();
    for gone in ["x-private", "keep-alive", "proxy-connection", "proxy-authorization"] {
        assert_eq!(seen.field(gone), "", "{gone} was forwarded");
    }
    assert_eq!(seen.field("te"), "trailers", "of te only trailers passes");
    assert_eq!(seen.field("connection"), "te", "te is named, as it must be");
    assert_eq!(seen.field("x-end"), "1");
    assert_eq!((answer.field("x-hop"), answer.field("keep-alive")), ("", ""));
    assert_eq!(answer.field("x-end"), "2");
}

#[tokio::test]
async fn the_upstream_learns_who_asked_and_through_what() {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream).await;
    let asked = request("api.example.com:8080", "/")
        .header("via", "1.1 corporate")
        .header("x-forwarded-for", "203.0.113.7")
        .header("forwarded", "for=203.0.113.7")
        .body(empty())
        .expect("a valid request");
    fetch(proxy.address(), asked).await;
    let seen = upstream.only();
    assert_eq!(seen.field("via"), "1.1 corporate, 1.1 cooldown");
    assert_eq!(seen.field("x-forwarded-for"), "203.0.113.7, 127.0.0.1");
    assert_eq!(seen.field("x-forwarded-host"), "api.example.com:8080");
    assert_eq!(seen.field("x-forwarded-proto"), "http");
    let forwarded = seen.field("forwarded").to_ascii_lowercase();
    assert!(forwarded.starts_with("for=203.0.113.7,") && forwarded.contains("for=127.0.0.1"), "{forwarded}");
    assert!(forwarded.contains("proto=http") && forwarded.contains("api.example.com:8080"), "{forwarded}");
}

#[tokio::test]
async fn the_clients_host_is_kept_unless_the_route_wants_the_upstreams() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes:\n  kept.example: \"{0}\"\n  changed.example: {{upstream: \"{0}\", host_header: upstream}}",
        upstream.url()
    ));
    get(proxy.address(), "kept.example", "/").await;
    get(proxy.address(), "changed.example", "/").await;
    let hosts: Vec<_> = upstream.seen().iter().map(|seen| seen.field("host")).collect();
    assert_eq!(hosts, ["kept.example".to_owned(), upstream.address.to_string()]);
    let told: Vec<_> = upstream.seen().iter().map(|seen| seen.field("x-forwarded-host")).collect();
    assert_eq!(told, ["kept.example", "changed.example"], "as the client named it");
}

#[tokio::test]
async fn fields_for_the_proxy_are_not_forwarded_and_its_own_are_set() {
    let upstream = Upstream::start(|_| async {
        let mut response = Response::new(text("hello"));
        response.headers_mut().insert("x-cooldown-source", HeaderValue::from_static("forged"));
        response
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{api.example.com: \"{}\"}}", upstream.url()));
    let asked = request("api.example.com", "/")
        .header("x-cooldown-client", "alice")
        .header("x-cooldown-later", "1")
        .body(empty())
        .expect("a valid request");
    let answer = fetch(proxy.address(), asked).await;
    let seen = upstream.only();
    assert_eq!((seen.field("x-cooldown-client"), seen.field("x-cooldown-later")), (String::new(), String::new()));
    assert_eq!(answer.headers.get_all("x-cooldown-source").iter().count(), 1);
    assert_eq!(answer.field("x-cooldown-source"), "upstream");
    assert_eq!(answer.field("x-cooldown-upstream"), "api.example.com");
    assert_eq!(answer.field("x-cooldown-wait-ms"), "0");
    assert_eq!(answer.field("x-cooldown-attempts"), "1");
}

#[tokio::test]
async fn everything_else_passes_as_it_is() {
    let upstream = Upstream::start(|_| async {
        let mut response = Response::new(text("teapot"));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        let headers = response.headers_mut();
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        headers.insert("server", HeaderValue::from_static("upstream/1"));
        headers.insert("x-bytes", HeaderValue::from_bytes(b"caf\xe9").expect("a valid value"));
        response
    })
    .await;
    let proxy = route_to(&upstream).await;
    let asked = request("a.example", "/")
        .header("user-agent", "test/1")
        .header("authorization", "Bearer sk-of-the-caller")
        .header("accept-encoding", "br")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .body(empty())
        .expect("a valid request");
    let answer = fetch(proxy.address(), asked).await;
    let seen = upstream.only();
    assert_eq!(seen.field("user-agent"), "test/1");
    assert_eq!(seen.field("authorization"), "Bearer sk-of-the-caller");
    assert_eq!(seen.field("accept-encoding"), "br");
    assert_eq!(seen.field("x-twice"), "1, 2");
    assert_eq!((answer.status, answer.text()), (StatusCode::IM_A_TEAPOT, "teapot"));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.field("server"), "upstream/1");
    assert_eq!(answer.headers["x-bytes"].as_bytes(), b"caf\xe9");
}

#[tokio::test]
async fn an_upstream_of_http_1_0_is_answered_for_in_our_own_version() {
    let upstream = Upstream::bytes(|mut stream| async move {
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await;
        let answer = b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end";
        stream.write_all(answer).await.expect("sent");
    })
    .await;
    let proxy = route_to(&upstream).await;
    let twice = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".repeat(2);
    let answer = raw(proxy.address(), twice.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 2, "the client's connection is kept: {answer}");
    assert_eq!(answer.matches("transfer-encoding: chunked\r\n").count(), 2, "{answer}");
    assert_eq!(answer.matches("via: 1.0 cooldown\r\n").count(), 2, "{answer}");
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_its_connection_closed() {
    let upstream = Upstream::start(plain).await;
    let proxy = route_to(&upstream).await;
    let answer = raw(proxy.address(), b"GET /old HTTP/1.0\r\nHost: a.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(upstream.only().field("via"), "1.0 cooldown");
}
