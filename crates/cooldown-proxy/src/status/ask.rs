//! One request to the admin API.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MOST: usize = 64 << 20;

/// Where to ask.
#[derive(Debug)]
pub(super) struct Asked {
    authority: String,
    path: String,
    /// Marked as sensitive: it is never shown.
    token: Option<HeaderValue>,
}

impl Asked {
    /// The admin listener at this URL.
    ///
    /// # Errors
    /// When it is none, or the token can be in no header field.
    pub(super) fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
        let authority = match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => authority.as_str().to_owned(),
            (Some("https"), _) => bail!("the admin listener speaks plain http; name it as http://HOST:PORT"),
            _ => bail!("`{url}` is no URL of an admin listener: name it as http://HOST:PORT"),
        };
        let token = token.map(|token| {
            let mut field = HeaderValue::from_str(&format!("Bearer {token}")).context("the token fits in no field")?;
            field.set_sensitive(true);
            anyhow::Ok(field)
        });
        let path = format!("{}/api/v1/snapshot", uri.path().trim_end_matches('/'));
        Ok(Self { authority, path, token: token.transpose()? })
    }

    /// How everything stands, as JSON.
    ///
    /// # Errors
    /// When nobody answers in time, or answers otherwise.
    pub(super) async fn snapshot(&self) -> anyhow::Result<String> {
        let asked = timeout(PATIENCE, self.ask()).await;
        asked.map_err(anyhow::Error::new).and_then(|answer| answer).with_context(|| {
            format!("http://{} does not tell its status; is it the admin listener of a running proxy?", self.authority)
        })
    }

    async fn ask(&self) -> anyhow::Result<String> {
        let port = self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let stream = TcpStream::connect(&address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::get(&self.path).header(HOST, &self.authority).body(Empty::<Bytes>::new())?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        connection.abort();
        match status {
            StatusCode::OK => Ok(String::from_utf8(body.to_bytes().into())?),
            StatusCode::UNAUTHORIZED => bail!("it asks for its token: set {}", super::TOKEN),
            status => bail!("it answers {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_admin_listeners_are_asked() {
        let asked = Asked::new("http://localhost:9900/", None).expect("a URL");
        assert_eq!((asked.authority.as_str(), asked.path.as_str()), ("localhost:9900", "/api/v1/snapshot"));
        for wrong in ["localhost:9900", "https://localhost", "ftp://a", "", "/x"] {
            assert!(Asked::new(wrong, None).is_err(), "{wrong}");
        }
        let asked = Asked::new("http://a", Some("s3cret".to_owned())).expect("a token");
        assert!(!format!("{asked:?}").contains("s3cret"));
    }
}
