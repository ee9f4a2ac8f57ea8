//! Who sends a request.

use std::collections::HashMap;

use cooldown_pacer::{Flow, Urgency, Weight};
use foldhash::fast::RandomState;
use http::header::AUTHORIZATION;
use http::{HeaderName, Uri};
use parking_lot::RwLock;

use super::error::ProxyError;
use super::headers::CLIENT;
use super::peer::Peer;
use crate::config::model::{Client, ClientBy};
use crate::fields::{Fields, Kind, Kinds, Value};
use crate::pacing::Pacing;

/// Fields in which credentials travel.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const CREDENTIALS: [HeaderName; 4] =
    [AUTHORIZATION, X_API_KEY, HeaderName::from_static("api-key"), HeaderName::from_static("x-goog-api-key")];

/// A name that a client gives itself is shown to this length, in characters.
const LONGEST_NAME: usize = 40;
/// More of them are not remembered: then all are forgotten, and told again.
const MOST_NAMES: usize = 1000;

/// How callers are told apart.
#[derive(Debug)]
pub(super) struct Callers {
    /// If present, a caller must be one of these.
    clients: Option<Vec<Client>>,
    by: Vec<ClientBy>,
    /// Names that callers gave themselves, by the number of their flow.
    names: RwLock<HashMap<u64, Box<str>, RandomState>>,
}

/// A caller, as far as one request is concerned.
#[derive(Debug)]
pub(super) struct Caller {
    pub flow: Flow,
    pub weight: Weight,
    /// What counts where the request states none.
    pub urgency: Urgency,
    /// The index of the configured client.
    pub client: Option<usize>,
    /// The field that carried a configured client's token: it was meant for the proxy and goes no further.
    pub token_field: Option<HeaderName>,
}

impl Callers {
    pub(super) fn new(clients: Option<Vec<Client>>, by: Vec<ClientBy>) -> Self {
        Self { clients, by, names: RwLock::default() }
    }

    /// The name of a configured client.
    pub(super) fn name(&self, client: usize) -> Option<&str> {
        self.clients.as_ref()?.get(client).map(|client| client.name.as_str())
    }

    /// Finds out who sends a request, by the first of `client_by` that it has.
    ///
    /// # Errors
    /// When clients are configured and it is none of them.
    pub(super) fn identify(
        &self,
        headers: &Fields,
        kinds: Kinds,
        peer: &Peer,
        pacing: &Pacing,
    ) -> Result<Caller, ProxyError> {
        match &self.clients {
            Some(clients) => self.configured(clients, headers),
            None => Ok(self.anonymous(headers, kinds, peer, pacing)),
        }
    }

    /// What a person calls a caller.
    pub(super) fn called(&self, caller: &Caller, peer: &Peer, pacing: &Pacing) -> Box<str> {
        if let Some(name) = caller.client.and_then(|client| self.name(client)) {
            return name.into();
        }
        let Flow(flow) = caller.flow;
        match self.names.read().get(&flow) {
            Some(name) => name.clone(),
            None if flow == pacing.hash(peer.ip().as_bytes()) => peer.ip().into(),
            None => format!("key {:08x}", flow as u32).into(),
        }
    }

    /// Remembers the name that a caller gives itself: its field goes no further.
    fn learn_name(&self, flow: u64, name: &[u8]) {
        if self.names.read().contains_key(&flow) {
            return;
        }
        let mut names = self.names.write();
        if names.len() >= MOST_NAMES {
            names.clear();
        }
        names.insert(flow, shown(name));
    }

    /// Removes the tokens of clients, which are for the proxy alone: what a caller was known by, and what carries one beside
    /// that.
    pub(super) fn remove_tokens(&self, headers: &mut Fields, caller: &Caller) {
        caller.token_field.iter().for_each(|field| headers.remove(field));
        let Some(clients) = &self.clients else { return };
        for field in [AUTHORIZATION, X_API_KEY] {
            let is_known = |given| clients.iter().any(|client| client.is_known_by(given));
            if headers.get_all(&field).filter_map(|value| token_in(&field, value)).any(is_known) {
                headers.remove(&field);
            }
        }
    }

    fn configured(&self, clients: &[Client], headers: &Fields) -> Result<Caller, ProxyError> {
        let found = self.by.iter().find_map(|by| match by {
            ClientBy::Token => by_token(clients, headers),
            ClientBy::Header => by_name(clients, headers).map(|client| (client, None)),
            ClientBy::Authorization | ClientBy::Ip => None,
        });
        let (index, token_field) = found.ok_or(ProxyError::Unauthorized)?;
        let Client { weight, urgency, .. } = clients[index];
        Ok(Caller { flow: Flow(index as u64), weight, urgency, client: Some(index), token_field })
    }

    fn anonymous(&self, headers: &Fields, kinds: Kinds, peer: &Peer, pacing: &Pacing) -> Caller {
        let identity = self.by.iter().find_map(|by| match by {
            ClientBy::Token => None,
            ClientBy::Header if kinds.has(Kind::Ours) => headers.get(CLIENT).map(Value::as_bytes),
            ClientBy::Authorization if kinds.has(Kind::Credentials) => credentials(headers).map(Value::as_bytes),
            ClientBy::Header | ClientBy::Authorization => None,
            ClientBy::Ip => Some(peer.ip().as_bytes()),
        });
        let flow = Flow(pacing.hash(identity.unwrap_or_default()));
        if let Some(name) =
            headers.get(CLIENT).filter(|name| kinds.has(Kind::Ours) && identity == Some(name.as_bytes()))
        {
            self.learn_name(flow.0, name.as_bytes());
        }
        Caller { flow, weight: Weight::ONE, urgency: Urgency::default(), client: None, token_field: None }
    }
}

/// A name that a client gives itself, cut to a length that can be shown.
fn shown(name: &[u8]) -> Box<str> {
    String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

/// The credentials that a request carries for its upstream, once those for the proxy are removed.
pub(super) fn credentials(headers: &Fields) -> Option<Value<'_>> {
    let mut given = headers.of_kind(Kind::Credentials);
    let first = given.next()?;
    // Where there are several, their order decides.
    if given.next().is_none() { Some(first) } else { CREDENTIALS.iter().find_map(|name| headers.get(name)) }
}

/// The credentials that Gemini's callers may send in the query.
pub(super) fn credentials_in_query(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|parameter| parameter.strip_prefix("key="))
}

/// Removes the credentials that a request carries.
pub(super) fn remove_credentials(headers: &mut Fields) {
    headers.remove_kinds(Kinds::of(&[Kind::Credentials]));
}

/// Every token is compared, so that the time tells nothing about which one is near.
fn by_token(clients: &[Client], headers: &Fields) -> Option<(usize, Option<HeaderName>)> {
    [AUTHORIZATION, X_API_KEY].into_iter().find_map(|field| {
        let given = token_in(&field, headers.get(&field)?)?;
        let matches = |client: &Client| client.is_known_by(given);
        let found = clients.iter().enumerate().fold(
            None,
            |found, (index, client)| {
                if matches(client) { Some(index) } else { found }
            },
        );
        found.map(|index| (index, Some(field)))
    })
}

/// What would be a client's token in one of the two fields for it.
fn token_in<'a>(field: &HeaderName, value: Value<'a>) -> Option<&'a [u8]> {
    if *field == AUTHORIZATION { bearer(value.as_bytes()) } else { Some(value.as_bytes()) }
}

impl Client {
    fn is_known_by(&self, given: &[u8]) -> bool {
        self.token.as_ref().is_some_and(|token| token.matches(given))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// A client that has a token is not believed without it.
fn by_name(clients: &[Client], headers: &Fields) -> Option<usize> {
    let name = headers.get(CLIENT)?.to_str().ok()?;
    clients.iter().position(|client| client.name == name && client.token.is_none())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::Secret;

    fn client(name: &str, token: Option<&str>) -> Client {
        let token = token.map(|token| Secret::new(token.to_owned()));
        let (weight, urgency) = (Weight::ONE, Urgency::default());
        Client { name: name.to_owned(), token, weight, urgency, limits: crate::config::model::Limits::default() }
    }

    fn find(fields: &[(&'static str, &'static str)]) -> Option<(usize, Option<HeaderName>)> {
        let clients = vec![client("alice", Some("t-alice")), client("bob", None)];
        let by = vec![ClientBy::Token, ClientBy::Header, ClientBy::Authorization, ClientBy::Ip];
        let headers: Fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let callers = Callers::new(None, by);
        let found = callers.configured(&clients, &headers).ok()?;
        Some((found.client?, found.token_field))
    }

    #[test]
    fn every_field_of_credentials_is_known_by_its_kind() {
        for name in CREDENTIALS {
            let mut headers = Fields::from_iter([(name, HeaderValue::from_static("x"))]);
            assert!(headers.kinds().has(Kind::Credentials) && credentials(&headers).is_some());
            remove_credentials(&mut headers);
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn a_configured_client_is_known_by_its_token_or_its_name() {
        assert_eq!(find(&[("authorization", "Bearer t-alice")]), Some((0, Some(AUTHORIZATION))));
        assert_eq!(find(&[("x-api-key", "t-alice")]), Some((0, Some(X_API_KEY))));
        assert_eq!(find(&[("x-cooldown-client", "bob")]), Some((1, None)));
    }

    #[test]
    fn nobody_else_is_let_in() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[("authorization", "Bearer t-alic")]), None);
        assert_eq!(find(&[("authorization", "Basic t-alice")]), None);
        assert_eq!(find(&[("x-cooldown-client", "alice")]), None, "a name is not enough where there is a token");
    }
}
