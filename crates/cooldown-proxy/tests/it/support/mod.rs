//! What the tests stand on: upstreams that record, a strict provider of models, a proxy on any free port, clients, and the
//! real binary.

mod binary;
mod calls;
mod certificate;
mod client;
mod http2;
pub(crate) mod provider;
mod proxy;
pub(crate) mod redis;
mod upstream;

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use binary::{Binary, Finished, command, command_with};
pub(crate) use calls::{Crowd, ask, chat, events, post, post_as, streamed_chat};
pub(crate) use certificate::{Certificate, handshake};
pub(crate) use client::{Answer, Body, Client, empty, fetch, get, raw, request, text};
pub(crate) use http2::Http2;
pub(crate) use proxy::Proxy;
pub(crate) use upstream::{Seen, Speaks, Upstream, echo, plain, with_hops};

/// Longer than anything takes that works, so that a hanging test ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Timed tests run beside each other, but never beside loud ones.
static QUIET: RwLock<()> = RwLock::const_new(());

/// Held by a test that looks at the clock.
pub(crate) async fn timed() -> RwLockReadGuard<'static, ()> {
    QUIET.read().await
}

/// Held by a test that keeps a core busy for a noticeable time.
pub(crate) async fn loud() -> RwLockWriteGuard<'static, ()> {
    QUIET.write().await
}

/// Waits until `condition` holds, and says what it was when it does not.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
