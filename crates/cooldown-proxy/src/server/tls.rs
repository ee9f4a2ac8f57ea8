//! TLS towards clients: one configuration for all workers, whose certificate can be exchanged while it is in use.

use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::config::watch::FileWatch;
use crate::config::{Identity, IdentityFiles};
use crate::stream::Stream;

/// Takes connections over TLS.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

/// The certificate that new connections are shown; those that are open keep theirs.
#[derive(Debug)]
struct Certificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Tls {
    /// Shows this certificate, and offers HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the TLS library refuses its own defaults.
    pub fn new(identity: &Identity) -> Result<Self, rustls::Error> {
        let certificate = Arc::new(Certificate(RwLock::new(Arc::clone(identity.certified_key()))));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let shown: Arc<dyn ResolvesServerCert> = Arc::<Certificate>::clone(&certificate);
        let mut config = builder.with_no_client_auth().with_cert_resolver(shown);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Whoever comes again shakes hands faster, whichever worker it comes to.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When it speaks no TLS, or nothing that both know.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Stream> {
        let stream = self.acceptor.accept(stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// Shows whatever the files hold, each time that they change. A pair that cannot be used is reported, and the present
    /// one stays.
    pub async fn follow(self, files: IdentityFiles) {
        let watches = FileWatch::start(&files.cert).and_then(|cert| Ok((cert, FileWatch::start(&files.key)?)));
        let (mut cert, mut key) = match watches {
            Ok(watches) => watches,
            Err(error) => {
                tracing::warn!(%error, "the certificate cannot be watched: a new one is shown after a restart");
                return;
            }
        };
        loop {
            tokio::select! {
                () = cert.changed() => {}
                () = key.changed() => {}
            }
            match files.read() {
                Ok(identity) => {
                    *self.certificate.0.write() = Arc::clone(identity.certified_key());
                    tracing::info!(cert = %files.cert.display(), "new connections are shown a new certificate");
                }
                Err(error) => {
                    tracing::warn!(%error, cert = %files.cert.display(), "the certificate stays as it was");
                }
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
