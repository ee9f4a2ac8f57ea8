//! A client that leaves takes everything with it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Response;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::{Client, Proxy, Upstream, empty, get, plain, request, timed, until};

#[tokio::test]
async fn a_client_that_leaves_in_the_stream_ends_it_at_the_upstream() {
    let upstream = Upstream::start(|_| async {
        let (mut out, body) = Channel::<Bytes>::new(1);
        tokio::spawn(async move {
            while out.send_data(Bytes::from_static(b"data: tick\n\n")).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        });
        Response::new(body.map_err(|never| match never {}).boxed_unsync())
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let mut client = Client::connect(proxy.address()).await;
    let mut response =
        client.send(request("a.example", "/").body(empty()).expect("a valid request")).await.expect("a response");
    response.body_mut().frame().await.expect("a chunk").expect("no error");
    assert_eq!(upstream.connections_open(), 1);
    drop((client, response));
    let left = Instant::now();
    until("the upstream's connection is closed", || upstream.connections_open() == 0).await;
    assert!(left.elapsed() < Duration::from_secs(1), "it took {:?}", left.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_before_the_response_ends_it_at_the_upstream() {
    let upstream = Upstream::start(|_| std::future::pending::<Response<crate::support::Body>>()).await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let mut client = Client::connect(proxy.address()).await;
    let call = tokio::spawn(async move {
        let _ = client.send(request("a.example", "/").body(empty()).expect("a valid request")).await;
    });
    until("the request is under way", || upstream.under_way() == 1).await;
    call.abort();
    until("the upstream's connection is closed", || upstream.connections_open() == 0).await;
}

#[tokio::test]
async fn a_waiting_client_is_missed_even_with_an_unread_body() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let proxy = Proxy::start(&format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: 1/s}}}}}}\nqueue: {{max_depth: 1}}",
        upstream.url()
    ));
    assert_eq!(get(proxy.address(), "a.example", "/").await.status, StatusCode::OK);
    // The only place in line goes to a client with a body, which then leaves.
    for body in [&b"complete!!"[..], &b"half"[..]] {
        let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
        let head = b"POST /ghost HTTP/1.1\r\nhost: a.example\r\ncontent-length: 10\r\n\r\n";
        stream.write_all(head).await.expect("the head is sent");
        stream.write_all(body).await.expect("the body is sent");
        sleep(Duration::from_millis(80)).await;
        drop(stream);
        sleep(Duration::from_millis(80)).await;
    }
    let next = get(proxy.address(), "a.example", "/next").await;
    assert_eq!(next.status, StatusCode::OK, "the place is free again: {next:?}");
    assert!(upstream.seen().iter().all(|seen| seen.uri.path() != "/ghost"), "no ghost was sent");
}

#[tokio::test]
async fn a_client_that_dies_in_its_upload_ends_it_at_the_upstream() {
    let upstream = Upstream::start(|request| async move {
        assert_eq!(request.method(), Method::POST);
        // The rest of the body never comes, and so the upload ends in an error, not in a whole body.
        match request.into_body().collect().await {
            Ok(whole) => panic!("a cut upload passed as whole: {} bytes", whole.to_bytes().len()),
            Err(_) => Response::new(empty()),
        }
    })
    .await;
    let proxy = Proxy::start(&format!("routes: {{\"*\": \"{}\"}}", upstream.url()));
    let mut stream = TcpStream::connect(proxy.address()).await.expect("a connection");
    let head = b"POST / HTTP/1.1\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    stream.write_all(head).await.expect("the head is sent");
    until("the request is under way", || upstream.under_way() == 1).await;
    drop(stream);
    until("the upstream's connection is closed", || upstream.connections_open() == 0).await;
}
