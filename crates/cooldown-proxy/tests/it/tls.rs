//! Upstreams that speak TLS.

use std::sync::Arc;

use http::StatusCode;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::support::{Binary, Upstream, get, text};

/// An upstream with a certificate for `localhost`, and that certificate. It answers with the name it was asked for in
/// the TLS handshake.
async fn tls_upstream() -> (Upstream, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("safe versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("the key fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let upstream = Upstream::bytes(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let answer = service_fn(|_| {
                let name = name.clone();
                async move { Ok::<_, std::convert::Infallible>(Response::new(text(name))) }
            });
            // The proxy closes when it has what it wants.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        }
    })
    .await;
    (upstream, cert.pem())
}

fn config(upstream: &Upstream, host: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: off\nroutes: {{\"*\": \"https://{host}:{}\"}}\n",
        upstream.address.port()
    )
}

#[tokio::test]
async fn an_https_upstream_is_reached_by_its_own_name_with_the_systems_roots() {
    let (upstream, certificate) = tls_upstream().await;
    let folder = tempfile::TempDir::new().expect("a folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, certificate).expect("the file is written");
    let roots = roots.to_str().expect("a path in UTF-8");
    let binary = Binary::serve_with(&config(&upstream, "localhost"), &[], &[("SSL_CERT_FILE", roots)]);
    let answer = get(binary.address(), "api.example.com", "/").await;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, "localhost"), "SNI is the upstream's");

    // The same certificate does not stand for another name.
    let other = Binary::serve_with(&config(&upstream, "127.0.0.1"), &[], &[("SSL_CERT_FILE", roots)]);
    let answer = get(other.address(), "api.example.com", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
}

#[tokio::test]
async fn load_reaches_an_https_url() {
    let (upstream, certificate) = tls_upstream().await;
    let folder = tempfile::TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("roots.pem"), certificate).expect("the file is written");
    let url = format!("https://localhost:{}/", upstream.address.port());
    let arguments = ["load", &url, "--duration", "1s", "--clients", "1", "--json"];
    let binary = Binary::start_in(folder, &arguments, &[("SSL_CERT_FILE", "roots.pem")]);
    // The upstream runs on this thread.
    let told = tokio::task::spawn_blocking(move || {
        binary.line("that tells the answers", |line| line.contains("\"answered\":"))
    });
    let told = told.await.expect("no panic");
    assert!(!told.contains(": 0,"), "{told}");
}

#[tokio::test]
async fn an_upstream_that_nobody_vouches_for_is_not_spoken_to() {
    let (upstream, _) = tls_upstream().await;
    let binary = Binary::serve(&config(&upstream, "localhost"));
    let answer = get(binary.address(), "api.example.com", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unreachable"));
}
