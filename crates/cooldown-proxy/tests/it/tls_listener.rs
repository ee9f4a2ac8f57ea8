//! Clients that speak TLS with the proxy.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{Certificate, Http2, PATIENCE, Proxy, Upstream, empty, handshake, plain, request, until};

/// A proxy in front of `upstream` that shows the certificate in a folder.
fn proxy(upstream: &Upstream, folder: &Path) -> Proxy {
    proxy_with(upstream, folder, "")
}

fn proxy_with(upstream: &Upstream, folder: &Path, server: &str) -> Proxy {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let tls = format!("tls: {{cert: \"{}\", key: \"{}\"}}", cert.display(), key.display());
    Proxy::with_server(
        &format!("drain_timeout: 100ms, {tls}{server}"),
        &format!("routes: {{\"*\": \"{}\"}}", upstream.url()),
    )
}

fn written(folder: &TempDir) -> Certificate {
    let certificate = Certificate::new();
    certificate.write_to(folder.path());
    certificate
}

fn asked(path: &str) -> Request<crate::support::Body> {
    Request::get(format!("https://api.example.com{path}")).body(empty()).expect("a valid request")
}

#[tokio::test]
async fn a_client_is_served_in_what_it_agrees_on_and_its_upstream_knows_that_it_was_secure() {
    let (upstream, folder) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let certificate = written(&folder);
    let proxy = proxy(&upstream, folder.path());
    let answer = Http2::secure(proxy.address(), &certificate).await.fetch(asked("/2")).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "hello"));
    for protocols in [&["http/1.1"][..], &[]] {
        let stream = handshake(proxy.address(), &certificate, protocols).await.expect("a handshake");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        let response = sender.send_request(request("api.example.com", "/1").body(empty()).expect("valid")).await;
        assert_eq!(response.expect("an answer").status(), StatusCode::OK);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 3);
    for (seen, via) in seen.iter().zip(["2.0 cooldown", "1.1 cooldown", "1.1 cooldown"]) {
        assert_eq!(seen.field("host"), "api.example.com");
        assert_eq!((seen.field("x-forwarded-proto"), seen.field("via")), ("https".into(), via.into()));
        assert_eq!(seen.field("forwarded"), "for=127.0.0.1;host=\"api.example.com\";proto=https");
    }
}

#[tokio::test]
async fn a_handshake_that_fails_or_stands_still_disturbs_nobody() {
    let (upstream, folder) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let certificate = written(&folder);
    let proxy = proxy_with(&upstream, folder.path(), ", header_timeout: 1s");
    let mut good = Http2::secure(proxy.address(), &certificate).await;
    assert!(handshake(proxy.address(), &Certificate::new(), &[]).await.is_err(), "nobody vouches for it");
    assert!(handshake(proxy.address(), &certificate, &["spdy/3"]).await.is_err(), "nothing that both know");
    let plain_text = crate::support::raw(proxy.address(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(!plain_text.contains("HTTP/1.1 200"), "{plain_text}");
    let mut still = TcpStream::connect(proxy.address()).await.expect("a connection");
    still.write_all(b"\x16\x03\x01").await.expect("the first bytes are sent");
    assert_eq!(good.fetch(asked("/")).await.status, StatusCode::OK);
    let began = Instant::now();
    let read = timeout(PATIENCE, still.read_to_end(&mut Vec::new())).await;
    read.expect("the proxy closes").ok();
    assert!(began.elapsed() < Duration::from_secs(5), "cut after `header_timeout`: {:?}", began.elapsed());
    assert_eq!(Http2::secure(proxy.address(), &certificate).await.fetch(asked("/")).await.status, StatusCode::OK);
}

/// Calls over one connection, again and again until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    calls: tokio::task::JoinHandle<()>,
}

impl Load {
    fn on(mut client: Http2) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stops, counts) = (Arc::clone(&stop), Arc::clone(&answered));
        let calls = tokio::spawn(async move {
            while !stops.load(SeqCst) {
                assert_eq!(client.fetch(asked("/")).await.status, StatusCode::OK);
                counts.fetch_add(1, SeqCst);
            }
        });
        Self { stop, answered, calls }
    }

    async fn goes_on(&self) {
        let before = self.answered.load(SeqCst);
        until("the old connection is still served", || self.answered.load(SeqCst) > before + 3).await;
    }

    async fn end(self) {
        self.stop.store(true, SeqCst);
        self.calls.await.expect("no call failed");
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_while_old_ones_go_on() {
    let (upstream, folder) = (Upstream::start(plain).await, TempDir::new().expect("a folder"));
    let old = written(&folder);
    let proxy = proxy(&upstream, folder.path());
    let load = Load::on(Http2::secure(proxy.address(), &old).await);
    load.goes_on().await;
    let new = written(&folder);
    let deadline = Instant::now() + PATIENCE;
    while handshake(proxy.address(), &new, &[]).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is never shown");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(handshake(proxy.address(), &old, &[]).await.is_err(), "the old one is shown no more");
    load.goes_on().await;
    // A key that is not its own: the pair stays as it was.
    std::fs::write(folder.path().join("key.pem"), Certificate::new().key_pem).expect("written");
    std::fs::write(folder.path().join("cert.pem"), "nothing").expect("written");
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut client = Http2::secure(proxy.address(), &new).await;
    assert_eq!(client.fetch(asked("/")).await.status, StatusCode::OK);
    load.end().await;
}
