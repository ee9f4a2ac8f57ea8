//! From a request to its upstream.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use rstest::rstest;

use crate::support::{Proxy, Upstream, empty, fetch, get, plain, raw, request, text};

/// Upstreams that answer with their name, behind one route of each kind.
async fn named(name: &'static str) -> Upstream {
    Upstream::start(move |_| async move { hyper::Response::new(text(name)) }).await
}

struct World {
    proxy: Proxy,
    /// In the order of the routes.
    upstreams: Vec<Upstream>,
}

impl World {
    async fn start() -> Self {
        let mut routes = String::from("routes:\n");
        let mut upstreams = Vec::new();
        for (rule, name) in [
            ("api.example.com", "exact"),
            ("*.example.com", "wildcard"),
            ("*.deep.example.com", "longer wildcard"),
            ("/internal", "prefix"),
            ("/internal/admin", "longer prefix"),
            ("*", "any"),
        ] {
            let upstream = named(name).await;
            routes.push_str(&format!("  \"{rule}\": \"{}\"\n", upstream.url()));
            upstreams.push(upstream);
        }
        Self { proxy: Proxy::start(&routes), upstreams }
    }

    fn address(&self) -> SocketAddr {
        self.proxy.address()
    }
}

#[rstest]
#[case::exact("api.example.com", "/", "exact")]
#[case::exact_before_prefix("api.example.com", "/internal", "exact")]
#[case::case_and_port("API.Example.COM:8443", "/", "exact")]
#[case::trailing_dot("api.example.com.", "/", "exact")]
#[case::wildcard("other.example.com", "/", "wildcard")]
#[case::wildcard_of_several_labels("a.b.example.com", "/", "wildcard")]
#[case::longest_wildcard("a.deep.example.com", "/", "longer wildcard")]
#[case::wildcard_needs_a_label("example.com", "/", "any")]
#[case::wildcard_before_prefix("other.example.com", "/internal", "wildcard")]
#[case::prefix("localhost", "/internal", "prefix")]
#[case::prefix_with_a_rest("localhost", "/internal/x?y", "prefix")]
#[case::prefix_with_a_query("localhost", "/internal?y", "prefix")]
#[case::longest_prefix("localhost", "/internal/admin/x", "longer prefix")]
#[case::whole_segments("localhost", "/internals", "any")]
#[case::any("nobody.test", "/", "any")]
#[tokio::test]
async fn a_request_takes_the_most_exact_route(#[case] host: &str, #[case] path: &str, #[case] upstream: &str) {
    let world = World::start().await;
    assert_eq!(get(world.address(), host, path).await.text(), upstream);
}

#[tokio::test]
async fn an_absolute_form_request_goes_by_its_own_authority() {
    let world = World::start().await;
    let bytes = b"GET http://api.example.com/v1 HTTP/1.1\r\nHost: other.example.com\r\nConnection: close\r\n\r\n";
    let answer = raw(world.address(), bytes).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("exact"), "{answer}");
    let seen = world.upstreams[0].seen();
    assert_eq!(seen.iter().map(|seen| seen.field("host")).collect::<Vec<_>>(), ["api.example.com"]);
}

#[tokio::test]
async fn only_configured_hosts_are_reached() {
    let upstream = Upstream::start(plain).await;
    let stranger = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{api.example.com: \"{}\"}}", upstream.url()));
    let address = stranger.address;
    let bytes = format!("GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = raw(proxy.address(), bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("no_route"), "{answer}");
    assert!(stranger.seen().is_empty() && stranger.connections_made() == 0, "this is no open proxy");
}

#[tokio::test]
async fn a_request_that_no_route_matches_is_told_what_was_seen() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{api.example.com: \"{}\"}}", upstream.url()));
    let answer = get(proxy.address(), "else.example.com", "/v1/chat?key=secret").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "no_route"));
    let json = answer.json();
    let message = json["error"]["message"].as_str().expect("a message");
    assert!(message.contains("else.example.com") && message.contains("/v1/chat"), "{message}");
    assert!(!message.contains("secret"), "a query may hold secrets: {message}");
}

#[tokio::test]
async fn connect_is_refused_with_an_explanation() {
    let world = World::start().await;
    let bytes = b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n";
    let answer = raw(world.address(), bytes).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.contains("connect_unsupported") && answer.contains("base URL"), "{answer}");
}

#[rstest]
#[case::dot_segments("/a/../b/./c")]
#[case::encoded_slash("/a%2fb%2Fc")]
#[case::double_slashes("//a//b//")]
#[case::empty_query("/a?")]
#[case::query_of_everything("/a?b=c%20d&&e=/?:@!$'()*+,;=&f=%C3%A4")]
#[case::encoded_everything("/%41%00%ff")]
#[case::semicolons("/a;b=c/d")]
#[tokio::test]
async fn path_and_query_pass_byte_for_byte(#[case] target: &str) {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let bytes = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    let answer = raw(proxy.address(), bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(upstream.only().uri.to_string(), target);
}

#[rstest]
#[case("/internal", "/base")]
#[case("/internal/", "/base/")]
#[case("/internal/x%2fy//z?q=1", "/base/x%2fy//z?q=1")]
#[case("/internal?q", "/base?q")]
#[tokio::test]
async fn a_prefix_is_removed_and_the_upstreams_own_path_put_in_front(#[case] asked: &str, #[case] sent: &str) {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{/internal: \"{}/base\"}}", upstream.url()));
    assert_eq!(get(proxy.address(), "localhost", asked).await.status, StatusCode::OK);
    assert_eq!(upstream.only().uri.to_string(), sent);
}

#[tokio::test]
async fn a_prefix_route_without_a_base_path_sends_at_least_a_slash() {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{/internal: \"{}\"}}", upstream.url()));
    get(proxy.address(), "localhost", "/internal").await;
    get(proxy.address(), "localhost", "/internal?q=1").await;
    let targets: Vec<_> = upstream.seen().iter().map(|seen| seen.uri.to_string()).collect();
    assert_eq!(targets, ["/", "/?q=1"]);
}

#[rstest]
#[case("GET")]
#[case("HEAD")]
#[case("POST")]
#[case("PUT")]
#[case("PATCH")]
#[case("DELETE")]
#[case("OPTIONS")]
#[case("PROPFIND")]
#[tokio::test]
async fn every_method_but_connect_passes(#[case] method: &str) {
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let asked = request("a.example", "/").method(method.clone()).body(empty()).expect("a valid request");
    assert_eq!(fetch(proxy.address(), asked).await.status, StatusCode::OK);
    assert_eq!(upstream.only().method, method);
}
