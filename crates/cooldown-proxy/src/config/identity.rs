//! A certificate with its key, read from two PEM files.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::fault::Report;
use super::field::{Field, Fields};

/// No file of certificates or keys is larger than this, in bytes.
const LARGEST_FILE: u64 = 4 << 20;

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, and those that lead from it to one that is trusted, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// A certificate and the key that fits it.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

/// Why two files are no certificate and key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate cannot be used.
    #[error("the certificate: {0}")]
    Cert(PemError),
    /// The key cannot be used.
    #[error("the key: {0}")]
    Key(PemError),
    /// Each is good, but one is not the other's.
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

/// Why a file does not hold what is expected in it.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It holds nothing of the kind.
    #[error("the file holds no {0} in PEM")]
    Missing(&'static str),
    /// What it holds cannot be understood.
    #[error("the file holds no valid {0}")]
    Invalid(&'static str),
}

impl IdentityFiles {
    /// Reads both.
    ///
    /// # Errors
    /// When one cannot be used, or they do not belong together.
    pub fn read(&self) -> Result<Identity, IdentityError> {
        let chain = certificates(&self.cert).map_err(IdentityError::Cert)?;
        let key = private_key(&self.key).map_err(IdentityError::Key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let identity = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => IdentityError::Mismatch,
            rustls::Error::InvalidCertificate(_) => IdentityError::Cert(PemError::Invalid("certificate")),
            _ => IdentityError::Key(PemError::Invalid("private key")),
        })?;
        Ok(Identity(Arc::new(identity)))
    }
}

impl Identity {
    /// For a TLS handshake.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.0
    }
}

/// By the certificate, which says of which key it is.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.0.cert == other.0.cert
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// All certificates of a file; at least one.
///
/// # Errors
/// When there is none, or one that cannot be understood.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = contents(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|_| PemError::Invalid("certificates"))?;
    if certificates.is_empty() { Err(PemError::Missing("certificate")) } else { Ok(certificates) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = zeroize::Zeroizing::new(contents(path)?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => PemError::Missing("private key"),
        _ => PemError::Invalid("private key"),
    })
}

/// A file's bytes. Only of a regular file: reading a pipe would wait for whoever writes it.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// Takes `cert` and `key`, and reads what they name; files are looked for in `folder`. `is_required` says that it is a fault
/// when one is missing.
pub(super) fn identity(
    fields: &mut Fields<'_>,
    folder: &Path,
    is_required: bool,
    report: &mut Report,
) -> Option<(IdentityFiles, Identity)> {
    let (at, path) = (fields.at().clone(), fields.path().to_owned());
    let (cert, key) = (fields.take("cert"), fields.take("key"));
    let is_missing = [("cert", cert.is_none()), ("key", key.is_none())];
    for (name, _) in is_missing.into_iter().filter(|(_, is_missing)| *is_missing && is_required) {
        let hint = "write both: `cert: server.pem` and `key: server-key.pem`";
        report.fault(&at, format!("`{path}`: {name} is required"), hint);
    }
    let (cert, key) = (cert?, key?);
    let files = IdentityFiles { cert: file(&cert, folder, report)?, key: file(&key, folder, report)? };
    match files.read() {
        Ok(identity) => return Some((files, identity)),
        Err(IdentityError::Cert(why)) => cert.fault(report, why, CERT_HINT),
        Err(IdentityError::Key(why)) => key.fault(report, why, KEY_HINT),
        Err(IdentityError::Mismatch) => {
            key.fault(report, IdentityError::Mismatch, "name the key that the certificate was made for");
        }
    }
    None
}

pub(super) const CERT_HINT: &str =
    "name a PEM file that begins with `-----BEGIN CERTIFICATE-----`, its own certificate first";
const KEY_HINT: &str =
    "name a PEM file with an unencrypted key, `-----BEGIN PRIVATE KEY-----`, that this user may read";

/// The path that a field names, seen from `folder`.
pub(super) fn file(field: &Field<'_>, folder: &Path, report: &mut Report) -> Option<PathBuf> {
    let name = field.text(report)?;
    if name.is_empty() || name.contains('\0') {
        field.fault(report, "the name of a file is expected", "write a path, seen from the configuration file");
        return None;
    }
    Some(folder.join(name))
}
