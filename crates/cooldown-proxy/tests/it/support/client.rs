//! Clients: one request over a connection of its own, many over one, or bytes as they are.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// The body of requests and responses in tests.
pub(crate) type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// One keep-alive connection. Closed when dropped, also in the middle of a request.
pub(crate) struct Client {
    sender: SendRequest<Body>,
    connection: tokio::task::JoinHandle<()>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy accepts connections");
        stream.set_nodelay(true).expect("nodelay");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a handshake");
        let connection = tokio::spawn(async move {
            // Its end shows in the requests that use it.
            let _ = connection.with_upgrades().await;
        });
        Self { sender, connection }
    }

    /// Sends a request and returns when the head of its response has come.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn fetch(&mut self, request: Request<Body>) -> Answer {
        let response = timeout(PATIENCE, self.send(request)).await.expect("an answer in time").expect("an answer");
        Answer::read(response).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Answer {
    /// Reads the rest of a response.
    pub(crate) async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let whole = timeout(PATIENCE, body.collect()).await.expect("a body in time").expect("a whole body");
        let trailers = whole.trailers().cloned();
        Self { status: head.status, headers: head.headers, body: whole.to_bytes(), trailers }
    }

    /// One field as text; empty when it is absent.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("a field in ASCII"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The code of an error that the proxy answered itself.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.field("x-cooldown-source"), "proxy", "{self:?}");
        let json = self.json();
        assert_eq!(json["type"], "error", "{json}");
        assert!(json["error"]["type"].is_string(), "{json}");
        assert!(!json["error"]["message"].as_str().expect("a message").is_empty(), "{json}");
        assert!(json["error"].get("param").is_some_and(serde_json::Value::is_null), "{json}");
        json["error"]["code"].as_str().expect("a code").to_owned()
    }
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A GET of `path` from `host`, to be changed as the test needs.
pub(crate) fn request(host: &str, path: &str) -> http::request::Builder {
    Request::builder().method(Method::GET).uri(path).header(header::HOST, host)
}

/// One request over a connection of its own.
pub(crate) async fn fetch(address: SocketAddr, request: Request<Body>) -> Answer {
    Client::connect(address).await.fetch(request).await
}

/// One GET over a connection of its own.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    fetch(address, request(host, path).body(empty()).expect("a valid request")).await
}

/// Writes `bytes` as they are and reads until the other side closes; what came by then when it does not for a second.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the proxy accepts connections");
    // The other side may have answered and closed before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(Ok(n @ 1..)) = timeout(Duration::from_secs(1), stream.read(&mut chunk)).await {
        read.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&read).into_owned()
}
