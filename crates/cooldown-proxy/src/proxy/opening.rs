//! The beginning of a response's body, read before its head is passed on: as long as no byte has reached the client, the
//! request can be tried again.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::{Instant, timeout_at};

use super::meter::Meter;
use crate::fields::Fields;
use crate::http1::MessageError;
use crate::provider::{LONGEST_BODY, begins_like_an_error, decoded};
use crate::upstream::Lease;

/// How long the body of an error may take: it is short, and the client waits for it.
const ERROR_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the first byte of a stream may take before its head is passed on without it.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// The most that is held back of the beginning of a stream, in bytes.
const LONGEST_HELD: usize = 64 << 10;

/// What was read of a body, in order.
#[derive(Debug, Default)]
pub(super) struct Opening {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// Why nothing more can be read.
    failed: Option<MessageError>,
}

impl Opening {
    /// Reads the body of an error, as far as it is worth reading.
    pub(super) async fn of_error(lease: &mut Lease) -> Self {
        let mut opening = Self::default();
        let deadline = Instant::now() + ERROR_TIMEOUT;
        while opening.bytes < LONGEST_BODY && !lease.is_body_over() {
            let Ok(frame) = timeout_at(deadline, next(lease)).await else { break };
            if opening.keep(frame).is_none() {
                break;
            }
        }
        opening
    }

    /// Reads the first bytes of an answer in one piece, and all of it, as far as it is worth reading, if it begins like an
    /// error.
    pub(super) async fn of_answer(lease: &mut Lease, headers: &Fields) -> Self {
        let mut opening = Self::default();
        let mut deadline = Instant::now() + FIRST_BYTE;
        while opening.bytes < LONGEST_BODY && !lease.is_body_over() {
            let Ok(frame) = timeout_at(deadline, next(lease)).await else { break };
            let is_first = opening.bytes == 0;
            if opening.keep(frame).is_none() {
                break;
            }
            if is_first && opening.bytes > 0 {
                if !begins_like_an_error(&opening.decoded(headers)) {
                    break;
                }
                deadline = Instant::now() + ERROR_TIMEOUT;
            }
        }
        opening
    }

    /// Reads a stream up to its first token or error, but no further than `hold` after its first byte.
    pub(super) async fn of_stream(lease: &mut Lease, meter: &mut Meter, hold: Duration) -> Self {
        let mut opening = Self::default();
        let (mut deadline, mut begun) = (Instant::now() + FIRST_BYTE, false);
        while opening.bytes < LONGEST_HELD && !lease.is_body_over() {
            let Ok(frame) = timeout_at(deadline, next(lease)).await else { break };
            let Some(data) = opening.keep(frame) else { break };
            meter.read(&data);
            if meter.has_begun() {
                break;
            }
            if !std::mem::replace(&mut begun, true) {
                deadline = Instant::now() + hold;
            }
        }
        opening
    }

    /// Keeps what came; its data, or `None` at the end.
    fn keep(&mut self, frame: Option<Result<Frame<Bytes>, MessageError>>) -> Option<Bytes> {
        match frame? {
            Ok(frame) => {
                let data = frame.data_ref().cloned().unwrap_or_default();
                self.bytes += data.len();
                self.frames.push_back(frame);
                Some(data)
            }
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }

    /// Its data, in pieces as they came.
    pub(super) fn data(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter().filter_map(Frame::data_ref)
    }

    /// What its data says, in one piece; `headers` are those of its response.
    pub(super) fn decoded(&self, headers: &Fields) -> Cow<'_, [u8]> {
        let mut data = self.data();
        let first = data.next().map_or(&[][..], |first| first);
        let whole = data.fold(Cow::Borrowed(first), |mut whole, piece| {
            whole.to_mut().extend_from_slice(piece);
            whole
        });
        decoded(headers, whole)
    }

    /// What is passed on next.
    pub(super) fn pop(&mut self) -> Option<Result<Frame<Bytes>, MessageError>> {
        self.frames.pop_front().map(Ok).or_else(|| self.failed.take().map(Err))
    }

    /// How many bytes are left in it.
    pub(super) fn left(&self) -> u64 {
        self.data().map(|data| data.len() as u64).sum()
    }

    /// Whether nothing is left in it.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.failed.is_none()
    }
}

async fn next(lease: &mut Lease) -> Option<Result<Frame<Bytes>, MessageError>> {
    std::future::poll_fn(|cx| lease.poll_body(cx)).await
}
