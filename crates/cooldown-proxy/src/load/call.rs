//! What each request is.

use std::num::NonZeroU64;

use anyhow::Context as _;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;

use crate::config::model::Upstream;
use crate::upstream::{Endpoint, Tls};

/// The most tokens of a prompt.
pub(super) const MOST_TOKENS: u64 = 2_000_000;

/// The field that names a client to the proxy.
const CLIENT: HeaderName = HeaderName::from_static("x-cooldown-client");

/// A request, the same each time but for its client's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    upstream: Upstream,
    path: PathAndQuery,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    names_clients: bool,
}

/// A chat request of OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The model that is asked.
    pub model: String,
    /// About how many tokens the prompt has.
    pub input: NonZeroU64,
    /// `max_tokens`.
    pub output: Option<NonZeroU64>,
    /// Whether the answer is to come as a stream of events.
    pub stream: bool,
}

impl Call {
    /// A GET of `url`.
    ///
    /// # Errors
    /// What is wrong with the URL, for a person.
    pub fn get(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "this is no URL".to_owned())?;
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let upstream = crate::config::upstream(&format!("{scheme}://{authority}"))?;
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(authority).map_err(|_| "the URL has no valid host".to_owned())?;
        headers.insert(header::HOST, host);
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("cooldown-proxy/", env!("CARGO_PKG_VERSION"))),
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        Ok(Self { upstream, path, method: Method::GET, headers, body: Bytes::new(), names_clients: true })
    }

    /// The same with a body: a POST of JSON, unless something else is said.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.method = Method::POST;
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    /// The same as a chat request.
    #[must_use]
    pub fn with_prompt(self, prompt: &Prompt) -> Self {
        self.with_body(prompt.body())
    }

    /// The same with another method.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// The same with a field `name: value`, in place of one of that name.
    ///
    /// # Errors
    /// What is wrong with it, for a person. The value, which may be a secret, is not told.
    pub fn with_header(mut self, field: &str) -> Result<Self, String> {
        let (name, value) = field.split_once(':').ok_or("write a field as `name: value`")?;
        let name: HeaderName = name.trim().parse().map_err(|_| format!("{name:?} cannot be the name of a field"))?;
        let mut value =
            HeaderValue::from_str(value.trim()).map_err(|_| format!("the value of {name} cannot be sent"))?;
        value.set_sensitive(true);
        self.names_clients &= name != CLIENT;
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Where it goes, for a person; without the query, which may hold secrets.
    pub fn target(&self) -> String {
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        format!("{} {host}{}", self.method, self.path.path())
    }

    pub(super) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let tls = match self.upstream.tls {
            true => Some(Tls::with_system_roots().context("TLS cannot be set up")?),
            false => None,
        };
        let endpoint = Endpoint::new(&self.upstream, tls.as_ref()).context("TLS cannot be spoken there")?;
        // A client has a connection of its own.
        Ok(endpoint.http1_only())
    }

    /// The request of one client, by its number.
    pub(super) fn request(&self, client: usize) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        request.headers_mut().clone_from(&self.headers);
        if self.names_clients
            && let Ok(name) = HeaderValue::from_str(&format!("client-{}", client + 1))
        {
            request.headers_mut().insert(CLIENT, name);
        }
        request
    }
}

impl Prompt {
    /// A short common word is one token in every vocabulary.
    fn body(&self) -> Vec<u8> {
        let words = "wait ".repeat(usize::try_from(self.input.get()).unwrap_or(usize::MAX));
        let mut body = serde_json::json!({
            "model": self.model,
            "messages": [{"role": "user", "content": words.trim_end()}],
        });
        if let Some(output) = self.output {
            body["max_tokens"] = output.get().into();
        }
        if self.stream {
            body["stream"] = true.into();
        }
        body.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_keeps_its_path_and_query() {
        let call = Call::get("http://localhost:8080/v1/x?y=1").expect("a URL");
        let request = call.request(0);
        assert_eq!(request.uri(), "/v1/x?y=1");
        assert_eq!(request.headers()["host"], "localhost:8080");
        assert_eq!(request.headers()[CLIENT], "client-1");
        assert_eq!(call.target(), "GET localhost:8080/v1/x");
        assert_eq!(Call::get("https://a.example").expect("a URL").request(0).uri(), "/");
    }

    #[test]
    fn what_is_no_url_is_told() {
        for text in ["", "a.example", "ftp://a.example/", "http://user:pass@a.example/", "http:///x"] {
            assert!(Call::get(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_replace_what_goes_without_saying_and_secrets_stay_hidden() {
        let call = Call::get("http://a").and_then(|call| call.with_header("X-Cooldown-Client: me")).expect("a field");
        assert_eq!(call.request(3).headers()[CLIENT], "me");
        let call = call.with_header("authorization: Bearer secret").expect("a field");
        assert!(!format!("{call:?}").contains("secret"));
        let error = Call::get("http://a").expect("a URL").with_header("authorization: sec\nret").expect_err("no value");
        assert!(!error.contains("sec"), "{error}");
    }

    #[test]
    fn a_prompt_is_a_chat_request_of_the_size_that_was_asked_for() {
        let number = |number| NonZeroU64::new(number).expect("above zero");
        let prompt = Prompt { model: "m".to_owned(), input: number(3), output: Some(number(5)), stream: true };
        let body: serde_json::Value = serde_json::from_slice(&prompt.body()).expect("JSON");
        assert_eq!(body["messages"][0]["content"], "wait wait wait");
        assert_eq!((&body["max_tokens"], &body["stream"]), (&5.into(), &true.into()));
    }
}
