//! What happened at a provider: every attempt, and how it ended.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;

use super::ask::Ask;
use super::limiter::{Admission, Limiter};

/// One request as it arrived, and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) key: String,
    /// Empty where the request names none.
    pub(crate) model: String,
    /// When the kernel received its first byte.
    pub(crate) arrival: Instant,
    /// The status of the answer, if there was one.
    pub(crate) status: Option<StatusCode>,
    pub(crate) outcome: Outcome,
    /// What it took, when it was accepted.
    pub(crate) tokens: Tokens,
    /// When the first byte of an accepted request's answer was sent.
    pub(crate) began: Option<Instant>,
    pub(crate) end: End,
}

/// What the provider decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Within the limits, and answered.
    Accepted,
    /// Within the limits, and failed as it was asked for.
    Failed,
    /// Over a limit.
    Breach,
    /// Larger than a whole limit.
    Impossible,
    /// No request that this provider answers.
    Invalid,
}

/// How the answer to an accepted request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Not yet, or there was nothing to end.
    Open,
    /// The whole answer was sent.
    Whole(Instant),
    /// It was broken off by the client, or by a failure that was asked for.
    Early(Instant),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// The limits and the record of one provider. Shared by its thread and the test.
pub(super) struct Book {
    pub(super) limiter: Mutex<Limiter>,
    attempts: Mutex<Vec<Attempt>>,
}

/// An accepted request under way. Dropped early, it has left early.
pub(super) struct Flight {
    book: Arc<Book>,
    index: usize,
    admission: Admission,
    whole: bool,
}

impl Book {
    pub(super) fn new(limiter: Limiter) -> Self {
        Self { limiter: Mutex::new(limiter), attempts: Mutex::default() }
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().clone()
    }

    /// Writes down a request; the number of those before it names it from then on.
    pub(super) fn arrived(&self, head: &Parts, body: &Bytes, arrival: Instant) -> usize {
        let mut attempts = self.attempts.lock();
        attempts.push(Attempt {
            method: head.method.clone(),
            uri: head.uri.clone(),
            headers: head.headers.clone(),
            body: body.clone(),
            key: String::new(),
            model: String::new(),
            arrival,
            status: None,
            outcome: Outcome::Invalid,
            tokens: Tokens::default(),
            began: None,
            end: End::Open,
        });
        attempts.len() - 1
    }

    pub(super) fn understood(&self, index: usize, ask: &Ask) {
        let attempt = &mut self.attempts.lock()[index];
        attempt.key.clone_from(&ask.key);
        attempt.model.clone_from(&ask.model);
    }

    pub(super) fn decided(&self, index: usize, outcome: Outcome) {
        self.attempts.lock()[index].outcome = outcome;
    }

    pub(super) fn took(&self, index: usize, ask: &Ask) {
        let tokens = Tokens { input: u64::from(ask.input), output: u64::from(ask.output) };
        self.attempts.lock()[index].tokens = tokens;
    }

    pub(super) fn answered(&self, index: usize, status: StatusCode) {
        self.attempts.lock()[index].status = Some(status);
    }
}

impl Flight {
    pub(super) fn new(book: Arc<Book>, index: usize, admission: Admission) -> Self {
        Self { book, index, admission, whole: false }
    }

    /// The first byte of the answer is sent.
    pub(super) fn began(&self) {
        self.book.attempts.lock()[self.index].began.get_or_insert_with(Instant::now);
    }

    /// The whole answer is sent.
    pub(super) fn land(mut self) {
        self.whole = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.book.limiter.lock().settle(&self.admission);
        let now = Instant::now();
        self.book.attempts.lock()[self.index].end = if self.whole { End::Whole(now) } else { End::Early(now) };
    }
}
