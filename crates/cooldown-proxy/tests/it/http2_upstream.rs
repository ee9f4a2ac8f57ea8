//! Upstreams that speak HTTP/2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::support::{
    Answer, Certificate, Client, Http2, PATIENCE, Proxy, Speaks, Upstream, echo, empty, fetch, get, plain, raw,
    request, text, timed, until,
};

const MANY: Speaks = Speaks::Http2 { streams: 200 };

/// A proxy with one route, which speaks HTTP/2 with its upstream in the clear.
fn proxy(upstream: &Upstream, more: &str) -> Proxy {
    Proxy::start(&format!("routes: {{\"*\": {{upstream: \"{}\", http2: prior_knowledge{more}}}}}", upstream.url()))
}

/// Calls of clients with a connection each.
fn calls(proxy: &Proxy, count: usize) -> Vec<tokio::task::JoinHandle<Answer>> {
    let address = proxy.address();
    (0..count).map(|_| tokio::spawn(async move { get(address, "api.example.com", "/").await })).collect()
}

async fn all_ok(calls: Vec<tokio::task::JoinHandle<Answer>>) {
    for call in calls {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_is_translated_and_so_is_its_response() {
    let upstream = Upstream::speaking(MANY, |request| async move {
        let whole = request.into_body().collect().await.expect("a whole body");
        let mut response = Response::new(text(whole.to_bytes()));
        response.headers_mut().insert("x-end", HeaderValue::from_static("2"));
        response
    })
    .await;
    let proxy = proxy(&upstream, "");
    let (mut out, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move { out.send_data(Bytes::from_static(b"hello")).await.expect("it is read") });
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let asked = request("api.example.com:8080", "/a%2fb?x=%20").method(Method::POST);
    let asked = asked.header("te", "trailers").header("connection", "x-hop").header("x-hop", "1").header("x-end", "1");
    let answer = fetch(proxy.address(), asked.body(body).expect("a valid request")).await;
    assert_eq!((answer.status, answer.text(), answer.field("x-end")), (StatusCode::OK, "hello", "2"));
    assert_eq!(answer.field("via"), "2.0 cooldown");
    let seen = upstream.only();
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.uri, "http://api.example.com:8080/a%2fb?x=%20", "the host is the authority");
    for gone in ["host", "connection", "transfer-encoding", "x-hop"] {
        assert_eq!(seen.field(gone), "", "{gone}");
    }
    assert_eq!((seen.field("te"), seen.field("x-end")), ("trailers".into(), "1".into()));
    assert_eq!(seen.field("via"), "1.1 cooldown");
}

/// An upstream that answers only those that it has been given permits for.
async fn gated(speaks: Speaks) -> (Upstream, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&permits);
    let upstream = Upstream::speaking(speaks, move |_| {
        let gate = Arc::clone(&gate);
        async move {
            drop(gate.acquire().await);
            Response::new(text("hello"))
        }
    })
    .await;
    (upstream, permits)
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (upstream, all_there) = gated(MANY).await;
    let proxy = proxy(&upstream, "");
    let calls = calls(&proxy, 60);
    until("all requests are there at once", || upstream.under_way() == 60).await;
    assert!(upstream.connections_made() <= 2, "one for each worker: {}", upstream.connections_made());
    all_there.add_permits(60);
    all_ok(calls).await;
    all_ok(self::calls(&proxy, 10)).await;
    assert!(upstream.connections_made() <= 2, "they are kept: {}", upstream.connections_made());
}

#[tokio::test]
async fn more_connections_are_made_when_streams_run_out_and_no_more_than_that() {
    let (upstream, all_there) = gated(Speaks::Http2 { streams: 5 }).await;
    let proxy = proxy(&upstream, "");
    let calls = calls(&proxy, 40);
    until("nobody waits behind the pacer's back", || upstream.under_way() == 40).await;
    let made = upstream.connections_made();
    assert!((8..=20).contains(&made), "{made}");
    all_there.add_permits(40);
    all_ok(calls).await;
}

#[tokio::test]
async fn a_limit_holds_over_http2_as_well() {
    let _timed = timed().await;
    let upstream = Upstream::speaking(Speaks::Http2 { streams: 3 }, plain).await;
    let proxy = proxy(&upstream, ", limits: {requests: \"20/s, burst 20\"}");
    all_ok(calls(&proxy, 60)).await;
    let arrivals = upstream.arrivals();
    assert_eq!(arrivals.len(), 60);
    for window in arrivals.windows(21) {
        assert!(window[20] - window[0] > 0.98, "more than twenty in one second: {arrivals:?}");
    }
}

/// An upstream that does with the request of each number, over all connections, what `answer` says; it never speaks to the
/// connection again that `answer` ends.
async fn scripted(answer: fn(usize) -> Step) -> (Upstream, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let upstream = Upstream::bytes(move |stream| {
        let count = Arc::clone(&count);
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                match answer(count.fetch_add(1, SeqCst)) {
                    Step::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
                    Step::Reset => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                    Step::Cut => return,
                    Step::Echo => drop(tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut stream = respond.send_response(Response::new(()), false).expect("a stream");
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                            stream.send_data(data, false).expect("sent");
                        }
                        stream.send_data(Bytes::new(), true).expect("sent");
                    })),
                }
            }
        }
    })
    .await;
    (upstream, taken)
}

enum Step {
    Refuse,
    Reset,
    Cut,
    Echo,
}

#[tokio::test]
async fn what_was_refused_before_it_was_looked_at_is_sent_again_whole() {
    let (upstream, taken) = scripted(|number| if number < 2 { Step::Refuse } else { Step::Echo }).await;
    let proxy = proxy(&upstream, "");
    let asked = request("a.example", "/").method(Method::POST).body(text("whole")).expect("a valid request");
    let answer = fetch(proxy.address(), asked).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "whole"));
    assert_eq!((answer.field("x-cooldown-attempts"), taken.load(SeqCst)), ("3", 3));
}

#[tokio::test]
async fn what_may_have_been_taken_is_not_sent_again() {
    for step in [|_| Step::Reset, |_| Step::Cut] as [fn(usize) -> Step; 2] {
        let (upstream, taken) = scripted(step).await;
        let proxy = proxy(&upstream, "");
        let answer = get(proxy.address(), "a.example", "/").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
        assert_eq!(taken.load(SeqCst), 1);
    }
}

#[tokio::test]
async fn a_connection_that_says_good_bye_finishes_what_it_has_and_takes_no_more() {
    let slow = Arc::new(Semaphore::new(0));
    let (gate, taken) = (Arc::clone(&slow), Arc::new(AtomicUsize::new(0)));
    let upstream = Upstream::bytes(move |stream| {
        let (gate, taken) = (Arc::clone(&gate), Arc::clone(&taken));
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let gate = Arc::clone(&gate);
                let is_first = taken.fetch_add(1, SeqCst) == 0;
                tokio::spawn(async move {
                    if is_first {
                        drop(gate.acquire().await);
                    }
                    let _ = respond.send_response(Response::new(()), true);
                });
                connection.graceful_shutdown();
            }
        }
    })
    .await;
    let proxy = proxy(&upstream, "");
    let first = calls(&proxy, 1);
    until("the first connection is made", || upstream.connections_made() == 1).await;
    sleep(Duration::from_millis(100)).await;
    // Whichever worker they come to, the first one's connection is closing.
    for _ in 0..8 {
        assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    }
    slow.add_permits(1);
    all_ok(first).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream_and_no_other() {
    let upstream = Upstream::speaking(MANY, |request| async move {
        match request.uri().path() {
            "/never" => std::future::pending().await,
            _ => Response::new(text("hello")),
        }
    })
    .await;
    let proxy = proxy(&upstream, "");
    // One connection, and so one worker, for all.
    let client = Http2::connect(proxy.address()).await;
    let call = |path: &str| http::Request::get(format!("http://a.example{path}")).body(empty()).expect("valid");
    let mut leaving = client.clone();
    let never = tokio::spawn(async move { drop(leaving.send(call("/never")).await) });
    until("the request is under way", || upstream.under_way() == 1).await;
    never.abort();
    until("its stream has ended", || upstream.under_way() == 0).await;
    assert_eq!(client.clone().fetch(call("/")).await.status, StatusCode::OK);
    assert_eq!(upstream.connections_made(), 1);
}

#[tokio::test]
async fn an_attempt_that_is_given_up_stops_sending_before_the_next_one_begins() {
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let upstream = Upstream::speaking(MANY, move |request| {
        let number = count.fetch_add(1, SeqCst);
        async move {
            if number == 0 {
                // Answered before the body has come, which goes on being sent.
                let mut response = Response::new(text("{}"));
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response.headers_mut().insert("retry-after-ms", HeaderValue::from_static("100"));
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                });
                return response;
            }
            echo(request).await
        }
    })
    .await;
    let proxy = proxy(&upstream, "");
    let (mut out, body) = Channel::<Bytes>::new(1);
    let sending = tokio::spawn(async move {
        for piece in 0..40 {
            out.send_data(Bytes::from(format!("piece {piece},"))).await.expect("it is read");
            sleep(Duration::from_millis(10)).await;
        }
    });
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let asked = request("a.example", "/").method(Method::POST).body(body).expect("a valid request");
    let answer = fetch(proxy.address(), asked).await;
    sending.await.expect("all was sent");
    let whole: String = (0..40).map(|piece| format!("piece {piece},")).collect();
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, whole.as_str()));
    assert_eq!(tries.load(SeqCst), 2);
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let upstream = Upstream::speaking(MANY, |request| async move {
        let whole = request.into_body().collect().await.expect("a whole body");
        let got = whole.trailers().and_then(|trailers| trailers.get("x-sum").cloned()).expect("trailers");
        let (mut out, body) = Channel::<Bytes>::new(2);
        out.send_data(whole.to_bytes()).await.expect("room");
        out.send_trailers(HeaderMap::from_iter([("x-sum".parse().expect("a name"), got)])).await.expect("room");
        Response::new(body.map_err(|never| match never {}).boxed_unsync())
    })
    .await;
    let proxy = proxy(&upstream, "");
    let (mut out, body) = Channel::<Bytes>::new(2);
    out.send_data(Bytes::from_static(b"hello")).await.expect("room");
    let sum = HeaderValue::from_static("abc");
    out.send_trailers(HeaderMap::from_iter([("x-sum".parse().expect("a name"), sum)])).await.expect("room");
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let asked = http::Request::post("http://a.example/").header("te", "trailers").body(body).expect("valid");
    let answer = Http2::connect(proxy.address()).await.fetch(asked).await;
    assert_eq!(
        (answer.text(), &answer.trailers.as_ref().expect("trailers")["x-sum"]),
        ("hello", &HeaderValue::from_static("abc"))
    );
}

/// A proxy in front of a TLS upstream, which trusts what a folder says.
fn secure(upstream: &Upstream, folder: &TempDir, more: &str) -> Proxy {
    let ca = folder.path().join("cert.pem");
    Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"https://127.0.0.1:{}\", tls: {{ca: \"{}\", server_name: localhost{more}}}}}}}",
        upstream.address.port(),
        ca.display()
    ))
}

#[tokio::test]
async fn http2_is_spoken_where_it_is_offered_over_tls() {
    let (certificate, folder) = (Certificate::new(), TempDir::new().expect("a folder"));
    certificate.write_to(folder.path());
    for (offered, version) in
        [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"], Version::HTTP_11), (&[], Version::HTTP_11)]
    {
        let upstream = Upstream::speaking(Speaks::Tls(certificate.server(offered, None)), plain).await;
        let proxy = secure(&upstream, &folder, "");
        all_ok(calls(&proxy, 20)).await;
        assert!(upstream.seen().iter().all(|seen| seen.version == version), "{offered:?}");
        if version == Version::HTTP_2 {
            assert_eq!(upstream.seen()[0].uri.scheme_str(), Some("https"));
            assert!(upstream.connections_made() <= 2, "{}", upstream.connections_made());
        }
    }
}

#[tokio::test]
async fn an_upstream_is_trusted_only_by_whom_its_route_names_and_is_shown_our_certificate() {
    let (certificate, ours) = (Certificate::new(), Certificate::new());
    let (folder, own) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    certificate.write_to(folder.path());
    ours.write_to(own.path());
    let upstream = Upstream::speaking(Speaks::Tls(certificate.server(&["h2"], Some(&ours))), plain).await;
    let shown =
        format!(", cert: \"{0}/cert.pem\", key: \"{0}/key.pem\"", own.path().to_str().expect("a path in UTF-8"));
    let known = secure(&upstream, &folder, &shown);
    assert_eq!(get(known.address(), "a.example", "/").await.status, StatusCode::OK);
    // We show nothing; it shows something that our authorities know nothing of.
    for unknown in [secure(&upstream, &folder, ""), secure(&upstream, &own, &shown)] {
        let answer = get(unknown.address(), "a.example", "/").await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_websocket_has_a_connection_that_can_be_switched() {
    let (certificate, folder) = (Certificate::new(), TempDir::new().expect("a folder"));
    certificate.write_to(folder.path());
    let answer = |request: http::Request<hyper::body::Incoming>| async move {
        let mut response = Response::new(empty());
        if request.headers().contains_key("upgrade") {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
        }
        response
    };
    let upstream = Upstream::speaking(Speaks::Tls(certificate.server(&["h2", "http/1.1"], None)), answer).await;
    let proxy = secure(&upstream, &folder, "");
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    let head = b"GET /ws HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let answer = raw(proxy.address(), head).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let versions: Vec<Version> = upstream.seen().iter().map(|seen| seen.version).collect();
    assert_eq!(versions, [Version::HTTP_2, Version::HTTP_11]);
}

#[tokio::test]
async fn a_client_of_http1_that_keeps_its_connection_may_come_to_any_connection_of_http2() {
    let upstream = Upstream::speaking(Speaks::Http2 { streams: 1 }, plain).await;
    let proxy = proxy(&upstream, "");
    let mut client = Client::connect(proxy.address()).await;
    for _ in 0..20 {
        let asked = request("a.example", "/").body(empty()).expect("a valid request");
        assert_eq!(tokio::time::timeout(PATIENCE, client.fetch(asked)).await.expect("in time").text(), "hello");
    }
    assert_eq!(upstream.connections_made(), 1);
}
