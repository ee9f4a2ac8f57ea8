//! The body of an answer: sent at once, token by token, or not to its end.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::answer::Transcript;
use super::record::Flight;

/// Long enough that everything before it was sent.
const FLUSHED: Duration = Duration::from_millis(10);

/// A body, and the place in flight that is held until its last byte.
pub(super) struct Paced {
    steps: VecDeque<Step>,
    /// Known where all of it is sent at once.
    length: Option<u64>,
    sleep: Option<Pin<Box<Sleep>>>,
    flight: Option<Flight>,
}

/// What a body does next.
#[derive(Debug)]
pub(super) enum Step {
    Wait(Duration),
    Send(Bytes),
    /// The connection is closed in the middle.
    Break,
    /// Nothing more comes, but the connection stays.
    Stall,
}

/// How a stream ends that does not end well.
#[derive(Debug)]
pub(super) enum Ending {
    /// With an event that tells an error.
    Error(Bytes),
    Break,
    Stall,
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
pub(super) struct Broken;

impl Paced {
    /// All at once.
    pub(super) fn whole(bytes: Bytes, flight: Option<Flight>) -> Self {
        let length = Some(bytes.len() as u64);
        Self { steps: VecDeque::from([Step::Send(bytes)]), length, sleep: None, flight }
    }

    /// A stream, with a delay before each token. `cut` says how it ends after so many tokens.
    pub(super) fn stream(
        transcript: Transcript,
        per_token: Duration,
        cut: Option<(usize, Ending)>,
        flight: Flight,
    ) -> Self {
        let mut steps = VecDeque::new();
        let Transcript { mut opening, mut tokens, mut closing } = transcript;
        if let Some((after, ending)) = &cut {
            tokens.truncate(*after);
            closing.clear();
            if *after == 0 && matches!(ending, Ending::Error(_)) {
                opening.clear();
            }
        }
        steps.extend(opening.into_iter().map(Step::Send));
        for token in tokens {
            if !per_token.is_zero() {
                steps.push_back(Step::Wait(per_token));
            }
            steps.push_back(Step::Send(token));
        }
        steps.extend(closing.into_iter().map(Step::Send));
        match cut.map(|(_, ending)| ending) {
            Some(Ending::Error(event)) => steps.push_back(Step::Send(event)),
            Some(Ending::Break) => steps.extend([Step::Wait(FLUSHED), Step::Break]),
            Some(Ending::Stall) => steps.push_back(Step::Stall),
            None => {}
        }
        Self { steps, length: None, sleep: None, flight: Some(flight) }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            match this.steps.pop_front() {
                Some(Step::Wait(delay)) => this.sleep = Some(Box::pin(sleep(delay))),
                Some(Step::Send(bytes)) => {
                    if let Some(flight) = this.flight.take() {
                        flight.began();
                        if this.steps.is_empty() {
                            // Its place is free before the client can know the end.
                            flight.land();
                        } else {
                            this.flight = Some(flight);
                        }
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Break) => return Poll::Ready(Some(Err(Broken))),
                Some(Step::Stall) => {
                    this.steps.push_front(Step::Stall);
                    return Poll::Pending;
                }
                None => return Poll::Ready(None),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off, as it was asked for")
    }
}

impl std::error::Error for Broken {}
