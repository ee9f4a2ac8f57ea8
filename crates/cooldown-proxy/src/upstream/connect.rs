//! Making a connection: name, TCP, TLS, under one time-out.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::stream::Stream;
use crate::config::model;

/// Where an upstream is and how it is reached.
#[derive(Clone)]
pub struct Endpoint {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

/// What all TLS connections share: the roots that are trusted, and sessions to resume.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

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

impl Tls {
    /// Trusts what the system trusts, or Mozilla's list where the system has none.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults.
    pub fn with_system_roots() -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(%error, "a system root certificate cannot be read");
        }
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            tracing::warn!("the system has no root certificates; Mozilla's are used");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Self::with_roots(roots)
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

impl Endpoint {
    /// The endpoint of a configured upstream; `tls` is used if it speaks TLS.
    ///
    /// # Errors
    /// When its host is no name that a certificate can carry.
    pub fn new(upstream: &model::Upstream, tls: Option<&Tls>) -> Result<Self, InvalidDnsNameError> {
        let tls = match tls.filter(|_| upstream.tls) {
            Some(tls) => Some((TlsConnector::from(Arc::clone(&tls.0)), ServerName::try_from(upstream.host.clone())?)),
            None => None,
        };
        Ok(Self { host: upstream.host.clone(), port: upstream.port, tls, timeout: upstream.connect_timeout })
    }

    /// An address that is spoken to without TLS.
    pub fn plain(address: SocketAddr) -> Self {
        let timeout = Duration::from_secs(10);
        Self { host: address.ip().to_string(), port: address.port(), tls: None, timeout }
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// When it cannot be made in time.
    pub async fn connect(&self) -> Result<Stream, ConnectError> {
        match timeout(self.timeout, self.connect_slowly()).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout(self.timeout)),
        }
    }

    async fn connect_slowly(&self) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        let tcp = self.reach(deadline).await?;
        // Requests are small and must leave at their instant; without Nagle they do.
        tcp.set_nodelay(true).map_err(|error| ConnectError::Refused(Arc::new(error)))?;
        let Some((tls, name)) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        let stream = tls.connect(name.clone(), tcp).await.map_err(|error| ConnectError::Tls(Arc::new(error)))?;
        Ok(Stream::Tls(Box::new(stream)))
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

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
