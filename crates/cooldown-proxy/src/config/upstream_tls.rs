//! Reads what belongs to the connections to an upstream: `http2` and `tls`.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};

use super::fault::Report;
use super::field::{Field, Fields};
use super::identity::{self, Identity, IdentityFiles};
use super::model::{Http2, Upstream};

/// Whom an upstream is trusted to be, and who we are to it. The default is what the system trusts, and nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Those who vouch for it, in the place of whom the system trusts.
    pub ca: Option<Authorities>,
    /// What it is shown.
    pub identity: Option<(IdentityFiles, Identity)>,
    /// The name that its certificate must carry, in the place of its host's.
    pub server_name: Option<ServerName<'static>>,
}

/// Certificates that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// Where they are.
    pub path: PathBuf,
    /// What they were when the configuration was read; each can be trusted.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// What was said of the connections to an upstream.
pub(super) struct Connections<'a> {
    http2: Option<(Field<'a>, Http2)>,
    tls: Option<(Field<'a>, UpstreamTls)>,
}

/// Takes `http2` and `tls`; files are looked for in `folder`.
pub(super) fn connections<'a>(fields: &mut Fields<'a>, folder: &Path, report: &mut Report) -> Connections<'a> {
    let versions = [("auto", Http2::Agreed), ("off", Http2::Off), ("prior_knowledge", Http2::PriorKnowledge)];
    let http2 = fields.take("http2");
    let http2 = http2.and_then(|field| field.choice(&versions, report).map(|http2| (field, http2)));
    let tls = fields.take("tls");
    let tls = tls.and_then(|field| upstream_tls(field.clone(), folder, report).map(|tls| (field, tls)));
    Connections { http2, tls }
}

fn upstream_tls(field: Field<'_>, folder: &Path, report: &mut Report) -> Option<UpstreamTls> {
    let mut fields = field.fields(report)?;
    let ca = fields.take("ca").map(|field| authorities(&field, folder, report));
    let has_identity = fields.has("cert") || fields.has("key");
    let identity = identity::identity(&mut fields, folder, has_identity, report);
    let server_name = fields.take("server_name").map(|field| server_name(&field, report));
    fields.close(report);
    // Whatever could not be read was reported.
    Some(UpstreamTls { ca: ca.flatten(), identity, server_name: server_name.flatten() })
}

fn authorities(field: &Field<'_>, folder: &Path, report: &mut Report) -> Option<Authorities> {
    let path = identity::file(field, folder, report)?;
    match identity::certificates(&path) {
        Ok(certificates) => {
            let mut roots = RootCertStore::empty();
            if certificates.iter().all(|certificate| roots.add(certificate.clone()).is_ok()) {
                return Some(Authorities { path, certificates });
            }
            field.fault(report, "a certificate in the file cannot be trusted", identity::CERT_HINT);
        }
        Err(why) => field.fault(report, why, identity::CERT_HINT),
    }
    None
}

fn server_name(field: &Field<'_>, report: &mut Report) -> Option<ServerName<'static>> {
    let name = ServerName::try_from(field.text(report)?.to_owned());
    if name.is_err() {
        field.fault(
            report,
            "this is no name that a certificate can carry",
            "write a host name, such as `api.internal`",
        );
    }
    name.ok()
}

impl Connections<'_> {
    /// Sets what was given, and reports what makes no sense for this upstream.
    pub(super) fn apply(self, upstream: &mut Upstream, report: &mut Report) {
        if let Some((field, http2)) = self.http2 {
            if http2 == Http2::PriorKnowledge && upstream.tls {
                let hint = "write `http2: auto`, which is the default";
                field.fault(report, "over TLS both sides agree on the version by themselves", hint);
            }
            upstream.http2 = http2;
        }
        if let Some((field, tls)) = self.tls {
            if !upstream.tls {
                field.fault(report, "the upstream is spoken to in the clear", "write its URL with `https://`");
            }
            upstream.verify = tls;
        }
    }
}
