//! Clients that speak HTTP/2.

use std::net::SocketAddr;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Answer, Body};
use super::{Certificate, PATIENCE, handshake};

/// One connection that carries many requests. Clones share it; it is closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Http2(SendRequest<Body>);

impl Http2 {
    /// In the clear, without having asked.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy accepts connections");
        stream.set_nodelay(true).expect("nodelay");
        Self::over(stream).await
    }

    /// Over TLS, agreed on in the handshake.
    pub(crate) async fn secure(address: SocketAddr, root: &Certificate) -> Self {
        let stream = handshake(address, root, &["h2", "http/1.1"]).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let builder = Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("a handshake");
        // Its end shows in the requests that use it.
        tokio::spawn(async move { drop(connection.await) });
        Self(sender)
    }

    /// Sends a request and returns when the head of its response has come.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn fetch(&mut self, request: Request<Body>) -> Answer {
        let response = timeout(PATIENCE, self.send(request)).await.expect("an answer in time").expect("an answer");
        Answer::read(response).await
    }

    /// Whether the other side has closed the connection, or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}
