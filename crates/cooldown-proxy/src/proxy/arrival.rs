//! What a client sent: read, matched and made ready for the upstreams that it may go to. Nothing here waits.

use std::borrow::Cow;
use std::rc::Rc;

use cooldown_pacer::{Instant, Urgency};
use http::{Method, Version};
use hyper::body::Body;

use super::budget;
use super::call::{self, Call};
use super::caller::{self, Caller};
use super::compact;
use super::error::{ProxyError, Speech};
use super::headers;
use super::peer::Peer;
use super::record::Record;
use super::request_body::RequestBody;
use super::returning::Trace;
use super::route::Matched;
use super::site::{Led, Site};
use super::target;
use super::tunnel::ClientEnd;
use super::worker::Worker;
use crate::fields::{Kind, Kinds, Value};
use crate::head::RequestHead;
use crate::pacing::{Asked, CommonKeys};

/// A longer body that does not say what it is passes unread, in bytes.
const LONGEST_UNTYPED: usize = 1024 * 1024;

/// A request as it arrived.
pub(super) struct Arrival {
    /// The client's head without what is only between it and us. Upstreams get it with their own target.
    pub head: Rc<RequestHead>,
    /// Who sent it.
    pub peer: Rc<Peer>,
    pub body: RequestBody,
    /// The client's end, if it asks for another protocol.
    pub upgrade: Option<ClientEnd>,
    /// Where its host or path leads.
    pub led: Led,
    pub caller: Caller,
    pub urgency: Urgency,
    /// A hash of the credentials that it carries for its upstream.
    pub credentials: Option<u64>,
    /// The keys that concern it whichever way it goes.
    pub common: CommonKeys,
    /// When it first asked.
    pub since: Instant,
    /// Whether that was an earlier request of its caller, which asks again.
    pub returns: bool,
    /// What it is known by when it comes again, if its caller is one who would.
    pub trace: Option<Trace>,
    /// The end of its wait budget.
    pub latest: Instant,
    /// What its body says, where that matters.
    pub call: Option<Box<Call>>,
}

impl Arrival {
    /// Finds the request's route and caller, and makes its head ready to be sent on.
    ///
    /// # Errors
    /// When it is malformed, has no route, or comes from a stranger.
    pub(super) fn prepare(
        worker: &Rc<Worker>,
        peer: &Rc<Peer>,
        mut head: Rc<RequestHead>,
        (body, end): (RequestBody, Option<ClientEnd>),
        record: &mut Record,
    ) -> Result<Box<Self>, ProxyError> {
        let site = &*worker.site;
        let kinds = head.headers.kinds();
        let target = target::read(&head, kinds)?;
        let led = site.lead(&target, head.uri.path())?;
        record.asked_for(site.metrics.domain(&target.host));
        let matched = led.matched().map(|matched| matched.route);
        if let Led::To(matched) = led {
            record.takes(&site.routes[matched.route]);
        }
        let caller = site.callers.identify(&head.headers, kinds, peer, &site.pacing)?;
        caller.client.and_then(|client| site.callers.name(client)).inspect(|name| record.client(name));
        let common = site.pacing.common_keys(matched, &target.host, caller.client);
        let now = site.pacing.clock().now();
        let wait =
            if kinds.has(Kind::Patience) { budget::wait_budget(&head.headers, site.max_wait) } else { site.max_wait };
        let urgency = if kinds.has(Kind::Priority) { budget::urgency(&head.headers) } else { None };
        let upgrade = end.filter(|_| headers::names_upgrade(&head.headers));
        // Nobody else has the head yet: nothing is copied.
        site.callers.remove_tokens(&mut Rc::make_mut(&mut head).headers, &caller);
        let credentials = credentials(&head, kinds).map(|credentials| site.pacing.fingerprint(credentials));
        headers::to_upstream(&mut Rc::make_mut(&mut head).headers, upgrade.is_some());
        let (call, trace, returns) = (None, None, false);
        let mut arrival = Self {
            head,
            peer: Rc::clone(peer),
            body,
            upgrade,
            led,
            urgency: urgency.unwrap_or(caller.urgency),
            caller,
            credentials,
            common,
            since: now,
            returns,
            trace,
            latest: now.after(wait),
            call,
        };
        if kinds.has(Kind::RetryCount) {
            arrival.recall(site);
        }
        Ok(Box::new(arrival))
    }

    /// Gives a caller whose earlier request was sent away its age back. SDKs that try again by themselves say so.
    fn recall(&mut self, site: &Site) {
        let Some(retry) = self.head.headers.first(Kind::RetryCount) else { return };
        let length = self.head.headers.first(Kind::ContentLength).map_or(&b""[..], Value::as_bytes);
        let request = [self.head.method.as_str().as_bytes(), self.head.uri.path().as_bytes(), length].join(&b'\n');
        let trace = Trace { flow: self.caller.flow, request: site.pacing.hash(&request) };
        if retry != "0"
            && let Some(since) = site.returning.find(trace, self.since)
        {
            self.since = since;
            self.returns = true;
        }
        self.trace = Some(trace);
    }

    /// Whether its body must be read before anything else: for its model, or for its tokens.
    pub(super) fn wants_reading(&self, site: &Site) -> bool {
        if !matches!(self.head.method, Method::POST | Method::PUT | Method::PATCH) {
            return false;
        }
        let matters = match self.led {
            Led::To(Matched { route, .. }) => site.routes[route].api.is_some(),
            // What is too long to be read can still take the route for everything else.
            Led::ByModel { otherwise } => otherwise.is_none() || self.body.size_hint().lower() <= site.max_body as u64,
        };
        matters && (self.may_be_json(site) || call::model_in_path(&self.head).is_some())
    }

    /// Whether its body is worth reading. One that does not say what it is may be a long upload: it is read only if it is
    /// known to be short, or if nothing else can lead it anywhere.
    fn may_be_json(&self, site: &Site) -> bool {
        call::is_json(&self.head.headers).unwrap_or_else(|| {
            let most = site.max_body.min(LONGEST_UNTYPED) as u64;
            matches!(self.led, Led::ByModel { otherwise: None })
                || self.body.size_hint().exact().is_some_and(|length| length <= most)
        })
    }

    /// Reads what routing and cost need of the body.
    ///
    /// # Errors
    /// When it is too long, or can be read in two ways.
    pub(super) async fn read(&mut self, worker: &Worker) -> Result<(), ProxyError> {
        let call = if self.body.is_end_stream() || !self.may_be_json(&worker.site) {
            Call::of_path(&self.head)
        } else {
            Call::read(&self.head, &self.body, worker.site.max_body).await?
        };
        self.call = Some(Box::new(call));
        Ok(())
    }

    /// Whether its client may be given signs of life while it waits. Whether it asks for a stream is known later.
    pub(super) fn may_be_kept(&self, site: &Site) -> bool {
        site.keepalive.is_some() && self.upgrade.is_none() && (self.wants_reading(site) || self.accepts_events())
    }

    /// Whether the answer shall be a stream of events.
    pub(super) fn wants_stream(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.stream) || self.accepts_events()
    }

    fn accepts_events(&self) -> bool {
        let accept = self.head.headers.get(http::header::ACCEPT);
        accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
    }

    /// Its path as the upstream of a way with this prefix sees it, but for the upstream's own base.
    pub(super) fn path_behind(&self, prefix: usize) -> &str {
        self.head.uri.path().get(prefix..).unwrap_or_default()
    }

    /// Whether its answer tells its usage only if it is asked to.
    pub(super) fn could_ask_usage(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.ask_usage.is_some())
    }

    /// The model that it asks for.
    pub(super) fn model(&self) -> Option<&str> {
        self.call.as_ref()?.model.as_deref()
    }

    /// Makes it small, since it will wait.
    pub(super) fn compact(&mut self) {
        if let Some(head) = Rc::get_mut(&mut self.head) {
            head.headers.compact();
            if head.version == Version::HTTP_2 {
                compact::uri(&mut head.uri);
            }
        }
    }

    /// What it asked for, for limits that concern it whichever way it goes.
    pub(super) fn asked(&self) -> Asked {
        let host = target::host(&self.head).map(Cow::into_owned).unwrap_or_default();
        Asked { route: self.led.matched().map(|matched| matched.route), host, client: self.caller.client }
    }

    /// In which words its caller expects to be answered.
    pub(super) fn speech(&self) -> Speech {
        Speech::of(&self.head)
    }

    /// Whether an attempt has sent it to its end, as far as that is known.
    pub(super) fn was_sent(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.body.is_some()) || self.body.was_sent()
    }

    /// Whether it may be sent once more: another attempt needs the body from its beginning.
    pub(super) fn can_be_sent_again(&self) -> bool {
        self.upgrade.is_none() && (self.call.as_ref().is_some_and(|call| call.body.is_some()) || self.body.is_kept())
    }
}

/// The credentials that a request carries for its upstream, in a field or in Gemini's way.
fn credentials(head: &RequestHead, kinds: Kinds) -> Option<&[u8]> {
    let in_fields = || caller::credentials(&head.headers).map(Value::as_bytes);
    let in_query = || {
        let key = caller::credentials_in_query(&head.uri)?;
        call::model_in_path(head).map(|_| key.as_bytes())
    };
    kinds.has(Kind::Credentials).then(in_fields).flatten().or_else(in_query)
}
