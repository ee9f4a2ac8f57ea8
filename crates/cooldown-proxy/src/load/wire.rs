//! One connection to whatever is asked: made when it is needed, kept while it is good.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use crate::fields::Fields;
use crate::provider::UsageReader;
use crate::upstream::{ConnectError, Endpoint};

/// A connection that carries one request at a time. It must be used within a [`LocalSet`](tokio::task::LocalSet).
#[derive(Debug)]
pub struct Wire {
    endpoint: Endpoint,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What came back, read to its last byte.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// When the first byte of the body was there, or the end of an empty one.
    pub first_byte: Instant,
    /// How long the proxy says that the request stood in its line.
    pub in_line: Option<Duration>,
    /// Input and output tokens that it took, if it says so.
    pub tokens: Option<u64>,
}

/// Why nothing came back, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or what came was no HTTP.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
}

impl Wire {
    /// Not connected yet.
    pub fn to(endpoint: Endpoint) -> Self {
        Self { endpoint, connection: None }
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// When there is no whole answer; the next request goes over another connection.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let reused = self.connection.take().filter(|connection| !connection.is_closed());
        let (mut connection, was_used) = match reused {
            Some(connection) => (connection, true),
            None => (connect(&self.endpoint).await?, false),
        };
        connection.ready().await?;
        let response = match connection.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message().filter(|_| was_used) {
                // The server closed the idle connection before anything was written.
                Some(request) => {
                    connection = connect(&self.endpoint).await?;
                    connection.send_request(request).await?
                }
                None => return Err(error.into_error().into()),
            },
        };
        let (parts, body) = response.into_parts();
        let (first_byte, tokens) = read(&parts.headers, body).await?;
        self.connection = Some(connection);
        Ok(Answer { status: parts.status, first_byte, in_line: in_line(&parts.headers), tokens })
    }
}

async fn connect(endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let (sender, connection) = handshake(TokioIo::new(endpoint.connect().await?)).await?;
    tokio::task::spawn_local(async move {
        // Its end shows in the requests that use it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Reads a body to its end: when it began, and what it says about tokens.
async fn read(headers: &HeaderMap, mut body: Incoming) -> Result<(Instant, Option<u64>), Failure> {
    let mut usage = UsageReader::for_response(&Fields::from(headers));
    let mut first = None;
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        first.get_or_insert_with(Instant::now);
        if let (Some(usage), Some(bytes)) = (&mut usage, frame.data_ref()) {
            usage.read(bytes);
        }
    }
    let tokens = usage.and_then(|mut usage| usage.finish()).map(|usage| usage.total);
    Ok((first.unwrap_or_else(Instant::now), tokens))
}

fn in_line(headers: &HeaderMap) -> Option<Duration> {
    let millis: f64 = headers.get("x-cooldown-wait-ms")?.to_str().ok()?.parse().ok()?;
    Duration::try_from_secs_f64(millis / 1e3).ok()
}
