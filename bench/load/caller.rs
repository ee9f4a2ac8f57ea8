//! One keep-alive connection of a client, and what is asked over it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;

/// What every request of a load asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct Asked {
    /// The `Host` of each request.
    #[arg(long, default_value = "a.example")]
    host: String,
    /// Its path.
    #[arg(long, default_value = "/")]
    path: String,
    /// It is a POST with this JSON; without it, a GET.
    #[arg(long)]
    body: Option<String>,
}

/// One request after the other over a connection of its own, which is made again when it broke.
#[derive(Debug)]
pub(crate) struct Caller {
    target: SocketAddr,
    from: Option<IpAddr>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What a load needs to know of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// When it says to come back.
    pub(crate) retry_after: Option<Duration>,
}

impl Asked {
    pub(crate) fn request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder().uri(&self.path).header(header::HOST, &self.host);
        Ok(match &self.body {
            Some(body) => request
                .method(Method::POST)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?,
            None => request.body(Full::default())?,
        })
    }
}

impl Caller {
    /// One that connects to `target`, from this local address if one is given.
    pub(crate) fn new(target: SocketAddr, from: Option<IpAddr>) -> Self {
        Self { target, from, connection: None }
    }

    /// Connects unless it is connected.
    pub(crate) async fn connect(&mut self) -> anyhow::Result<&mut SendRequest<Full<Bytes>>> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let socket = if self.target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(from) = self.from {
                socket.bind(SocketAddr::new(from, 0))?;
            }
            let stream = socket.connect(self.target).await.context("connecting")?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::task::spawn_local(async move {
                // Its end shows in the requests that use it.
                let _ = connection.await;
            });
            self.connection = Some(sender);
        }
        self.connection.as_mut().context("it was made just now")
    }

    /// Sends one request and reads its answer to the end.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let answer = self.exchange(request).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let connection = self.connect().await?;
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let answer = Answer { status: response.status(), retry_after: retry_after(response.headers()) };
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(answer)
    }
}

/// `retry-after-ms`, or else `retry-after` in seconds, as the OpenAI SDK reads them.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_finer_of_two_hints_is_believed() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert("retry-after", HeaderValue::from_static("2"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(2)));
        headers.insert("retry-after-ms", HeaderValue::from_static("1501"));
        assert_eq!(retry_after(&headers), Some(Duration::from_millis(1501)));
        headers.insert("retry-after-ms", HeaderValue::from_static("-1"));
        assert_eq!(retry_after(&headers), None, "nonsense is no hint");
    }
}
