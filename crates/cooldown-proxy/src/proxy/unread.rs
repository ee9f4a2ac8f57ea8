//! What is left of a request's body when its answer is complete. A client that is still sending does not read the answer
//! before it has finished, and a connection that is closed on unread bytes takes the answer with it: so the body goes on
//! to an upstream that still takes it, and is read for nobody where none does.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Body;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::request_body::{Passing, RequestBody};
use crate::fields::{Fields, Kind};
use crate::upstream::Lease;

/// For how long a body is read for nobody, and for how long an upstream that has answered may take nothing of it; nginx's
/// `lingering_time`.
const LINGERING: Duration = Duration::from_secs(30);

/// A body that may not have been read to its end.
#[derive(Debug)]
pub(super) struct Unread(Passing);

impl Unread {
    /// What may be left of a body. Nothing of one that waits for a `100 Continue`: it may never be sent.
    pub(super) fn of(body: &RequestBody, fields: &Fields) -> Option<Self> {
        match body {
            RequestBody::Passing(passing) if !fields.has(Kind::Expect) => Some(Self(passing.clone())),
            _ => None,
        }
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_end_stream()
    }

    /// Goes on sending it over the connection that its complete answer came on, which is free again after it.
    pub(super) fn send_on(self, mut lease: Lease) {
        spawn_local(async move {
            let mut sent = self.0.sent();
            while timeout(LINGERING, is_free(&mut lease)).await.is_err() {
                let before = std::mem::replace(&mut sent, self.0.sent());
                if sent == before {
                    // An upstream that does not read, and does not say so.
                    return;
                }
            }
            drop(lease);
            self.read().await;
        });
    }

    /// Reads it to its end for nobody.
    pub(super) fn discard(self) {
        if !self.is_empty() {
            spawn_local(self.read());
        }
    }

    /// Reads it to its end for nobody; see [`discard`](Self::discard).
    async fn read(self) {
        self.0.give_up();
        let mut body = RequestBody::Passing(self.0);
        let end = poll_fn(|cx| {
            while let Poll::Ready(frame) = std::pin::Pin::new(&mut body).poll_frame(cx) {
                if !matches!(frame, Some(Ok(_))) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        });
        // Whether it ended or broke off, nobody waits for it.
        let _ = timeout(LINGERING, end).await;
    }
}

/// Waits until a connection has sent all that it had to send, or cannot.
async fn is_free(lease: &mut Lease) {
    poll_fn(|cx| {
        lease.drive(cx);
        if lease.is_reusable() || lease.is_over() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
