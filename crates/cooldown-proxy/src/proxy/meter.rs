//! Counts the tokens of a response as it passes, and hides what only the proxy asked for.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cooldown_pacer::{Observation, Spent};

use super::call::Call;
use super::judge;
use super::record::Record;
use super::way;
use super::worker::Worker;
use crate::fields::Fields;
use crate::pacing::Keys;
use crate::provider::{Class, Estimate, FirstEvent, PromptSize, Usage, UsageHider, UsageReader, classify_in_place};

/// No answer takes more tokens than this; who says so is mistaken, and would put the proxy into debt for days.
const MOST_TOKENS: u64 = 4_000_000;

/// Reads beside one response how many tokens it took.
pub(super) struct Meter {
    worker: Rc<Worker>,
    /// The index of the route.
    route: usize,
    /// The model, as the upstream calls it.
    model: Box<str>,
    prompt: PromptSize,
    answers: u64,
    estimate: Estimate,
    reader: UsageReader,
    hider: Option<UsageHider>,
    /// The keys for which a stream that has not begun yet may still be refused.
    refusable: Option<Keys>,
}

impl Meter {
    /// For a response with these fields to a call; `None` if nothing can be read of it.
    pub(super) fn new(
        worker: &Rc<Worker>,
        route: usize,
        call: &Call,
        estimate: Estimate,
        headers: &Fields,
        asked_usage: bool,
    ) -> Option<Box<Self>> {
        let api = worker.site.routes[route].api.as_ref();
        let model = worker.site.routes[route].own_name(call.model.as_deref().unwrap_or_default());
        let prompt = call.prompt(api.and_then(|api| api.tokenizer(model)));
        Some(Box::new(Self {
            worker: Rc::clone(worker),
            route,
            model: model.into(),
            prompt,
            answers: call.answers(),
            estimate,
            reader: UsageReader::for_response(headers)?,
            hider: if asked_usage { UsageHider::for_response(headers) } else { None },
            refusable: None,
        }))
    }

    /// Whether the response comes in events.
    pub(super) fn is_stream(&self) -> bool {
        self.reader.is_stream()
    }

    /// Whether what goes on may be less than what comes.
    pub(super) fn hides(&self) -> bool {
        self.hider.is_some()
    }

    /// Reads the next bytes, as they came.
    pub(super) fn read(&mut self, data: &[u8]) {
        self.reader.read(data);
    }

    /// Whether its first token has come, or an error in its place.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.first_event(), Some(FirstEvent::Token | FirstEvent::Error(_)))
    }

    /// How the response began.
    pub(super) fn first_event(&self) -> Option<FirstEvent<'_>> {
        self.reader.first_event()
    }

    /// The stream goes on without its first token: should it be an error, that is still heard.
    pub(super) fn listens_for_errors(&mut self, keys: Keys) {
        self.refusable = Some(keys);
    }

    /// What an error says that came in the place of the first token, too late to be tried again; and in a word.
    pub(super) fn late_refusal(&mut self) -> Option<(Observation, &'static str)> {
        let keys = self.refusable.take()?;
        let Some(FirstEvent::Error(error)) = self.reader.first_event() else { return None };
        let until = |wait: Option<Duration>| wait.map(|wait| self.worker.site.pacing().clock().now().after(wait));
        let kind = self.worker.site.routes[self.route].kind;
        match classify_in_place(kind, &Fields::default(), error, judge::now()) {
            Class::Limit { axis, scope, wait, .. } => {
                Some((Observation::Refused { key: keys.of(scope), unit: axis, until: until(wait) }, "limit"))
            }
            Class::Capacity { wait } => {
                Some((Observation::Closed { key: keys.narrowest(), until: until(wait) }, "capacity"))
            }
            _ => None,
        }
    }

    /// What goes on to the client in the place of `data`; it may be empty.
    pub(super) fn pass(&mut self, data: Bytes) -> Bytes {
        match &mut self.hider {
            Some(hider) => hider.filter(data),
            None => data,
        }
    }

    /// What was held back when the stream ends.
    pub(super) fn rest(&mut self) -> Bytes {
        self.hider.take().map_or_else(Bytes::new, |mut hider| hider.finish())
    }

    /// What the response took in the end: what it told, what came of it if it broke off, or what was estimated.
    pub(super) fn settle(&mut self, complete: bool, record: &Record) -> Spent {
        let worker = Rc::clone(&self.worker);
        let Some(api) = &worker.site.routes[self.route].api else { return Spent::AsEstimated };
        let partial = self.reader.partial();
        let told = self.reader.finish().filter(|usage| usage.total <= MOST_TOKENS);
        let usage = match told {
            Some(usage) => {
                api.estimator.learn(&self.model, &self.prompt, self.answers, partial.output_bytes, &usage);
                record.tokens(self.estimate.input.saturating_add(self.estimate.output), usage.total);
                usage
            }
            None if self.is_stream() || !complete => api.estimator.settle(&self.model, &self.estimate, &partial),
            None => return Spent::AsEstimated,
        };
        Spent::Exactly(way::spent(&api.charge, &capped(usage)))
    }
}

fn capped(usage: Usage) -> Usage {
    Usage { input: usage.input.min(MOST_TOKENS), output: usage.output.min(MOST_TOKENS), ..usage }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("model", &self.model).finish_non_exhaustive()
    }
}
