//! TLS towards upstreams: whom they are trusted to be, and who we are to them.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::model::{Http2, Upstream};
use crate::config::{Authorities, UpstreamTls};
use crate::stream::Stream;

/// What all TLS connections share: the roots that are trusted, and sessions to resume.
#[derive(Clone)]
pub struct Tls(ClientConfig);

/// How one upstream is spoken to over TLS.
#[derive(Clone)]
pub(super) struct Secured {
    /// Offers whatever the upstream may be spoken to in.
    connector: TlsConnector,
    /// Offers HTTP/1.1 alone.
    http1: TlsConnector,
    name: ServerName<'static>,
}

/// Why an upstream cannot be spoken to over TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate can carry its name.
    #[error("the host is no name that a certificate can carry")]
    Name(#[from] InvalidDnsNameError),
    /// The TLS library refuses what is asked of it.
    #[error("TLS cannot be set up: {0}")]
    Library(#[from] rustls::Error),
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

    fn with_authorities(authorities: &Authorities) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &authorities.certificates {
            roots.add(certificate.clone())?;
        }
        Self::with_roots(roots)
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self(builder.with_root_certificates(roots).with_no_client_auth()))
    }

    /// Speaks to one upstream.
    pub(super) fn to(&self, upstream: &Upstream) -> Result<Secured, TlsError> {
        let UpstreamTls { ca, identity, server_name } = &upstream.verify;
        let mut config = match ca {
            Some(authorities) => Self::with_authorities(authorities)?.0,
            None => self.0.clone(),
        };
        if let Some((_, identity)) = identity {
            config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(identity.certified_key())));
            // A session of another upstream would be resumed without showing this certificate.
            config.resumption = rustls::client::Resumption::default();
        }
        let name = match server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(upstream.host.clone())?,
        };
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        let http1 = offering(&[b"http/1.1"]);
        let connector = if upstream.http2 == Http2::Off { http1.clone() } else { offering(&[b"h2", b"http/1.1"]) };
        Ok(Secured { connector, http1, name })
    }
}

impl Secured {
    /// Shakes hands with the upstream.
    pub(super) async fn connect(&self, stream: TcpStream) -> std::io::Result<Stream> {
        let stream = self.connector.connect(self.name.clone(), stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// The same upstream, spoken to in HTTP/1.1 alone.
    pub(super) fn http1_only(&self) -> Self {
        Self { connector: self.http1.clone(), ..self.clone() }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
