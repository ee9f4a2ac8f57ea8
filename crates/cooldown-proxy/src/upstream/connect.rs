//! Making a connection: name, TCP, TLS, under one time-out.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Connection;
use super::multiplexed::Multiplexed;
use super::tls::{Secured, Tls, TlsError};
use crate::config::model::{Http2, Upstream};
use crate::stream::Stream;

/// Where an upstream is and how it is reached.
#[derive(Clone)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Secured>,
    http2: Http2,
    timeout: Duration,
}

/// A connection that was just made.
#[derive(Debug)]
pub(super) enum Opened {
    /// It carries one request at a time.
    Http1(Box<Connection>),
    /// It carries many.
    Http2(Multiplexed),
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("the name does not resolve: {0}")]
    Resolve(Arc<io::Error>),
    /// No address accepts a connection.
    #[error("no connection: {0}")]
    Refused(Arc<io::Error>),
    /// The TLS handshake failed.
    #[error("TLS failed: {0}")]
    Tls(Arc<io::Error>),
    /// It took longer than `connect_timeout`.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

impl ConnectError {
    /// A connection ended before anything was sent on it.
    pub(super) fn gone() -> Self {
        Self::Refused(Arc::new(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl Endpoint {
    /// The endpoint of a configured upstream; `tls` is used if it speaks TLS.
    ///
    /// # Errors
    /// When its host is no name that a certificate can carry, or the TLS library refuses what is configured.
    pub fn new(upstream: &Upstream, tls: Option<&Tls>) -> Result<Self, TlsError> {
        let Upstream { host, port, connect_timeout, http2, .. } = upstream;
        let tls = tls.filter(|_| upstream.tls).map(|tls| tls.to(upstream)).transpose()?;
        Ok(Self { host: host.clone(), port: *port, tls, http2: *http2, timeout: *connect_timeout })
    }

    /// An address that is spoken to without TLS.
    pub fn plain(address: SocketAddr) -> Self {
        let (timeout, http2) = (Duration::from_secs(10), Http2::Off);
        Self { host: address.ip().to_string(), port: address.port(), tls: None, http2, timeout }
    }

    /// Whether it will be known only from a connection what the upstream speaks.
    pub(super) fn may_agree_on_http2(&self) -> bool {
        self.http2 == Http2::Agreed && self.tls.is_some()
    }

    /// Whether it speaks nothing but HTTP/2.
    pub(super) fn is_http2_only(&self) -> bool {
        self.http2 == Http2::PriorKnowledge && self.tls.is_none()
    }

    /// The same upstream, spoken to in HTTP/1.1 alone.
    #[must_use]
    pub fn http1_only(&self) -> Self {
        let tls = self.tls.as_ref().map(Secured::http1_only);
        Self { host: self.host.clone(), tls, http2: Http2::Off, ..*self }
    }

    /// Makes a byte stream.
    ///
    /// # Errors
    /// When it cannot be made in time.
    pub async fn connect(&self) -> Result<Stream, ConnectError> {
        self.in_time(self.connect_slowly()).await
    }

    /// Makes a connection that requests can be sent on.
    pub(super) async fn open(&self) -> Result<Opened, ConnectError> {
        self.in_time(async {
            let stream = self.connect_slowly().await?;
            let failed = |error: hyper::Error| ConnectError::Refused(Arc::new(io::Error::other(error)));
            if self.is_http2_only() || stream.is_http2_agreed() {
                Ok(Opened::Http2(Multiplexed::open(stream, self.scheme()).await.map_err(failed)?))
            } else {
                Ok(Opened::Http1(Box::new(Connection::new(stream))))
            }
        })
        .await
    }

    fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    async fn in_time<R>(&self, step: impl Future<Output = Result<R, ConnectError>>) -> Result<R, ConnectError> {
        timeout(self.timeout, step).await.unwrap_or(Err(ConnectError::Timeout(self.timeout)))
    }

    async fn connect_slowly(&self) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        let tcp = self.reach(deadline).await?;
        // Requests are small and must leave at their instant; without Nagle they do.
        tcp.set_nodelay(true).map_err(|error| ConnectError::Refused(Arc::new(error)))?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        tls.connect(tcp).await.map_err(|error| ConnectError::Tls(Arc::new(error)))
    }

    /// Tries each address in turn. One that stays silent gets an equal part of the time that is left.
    async fn reach(&self, deadline: Instant) -> Result<TcpStream, ConnectError> {
        let resolve = |error| ConnectError::Resolve(Arc::new(error));
        let addresses: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port)).await.map_err(resolve)?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for (tried, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let part = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match timeout_at(Instant::now() + part, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(ConnectError::Refused(Arc::new(last)))
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, if self.tls.is_some() { " (TLS)" } else { "" })
    }
}
