//! A crowd of clients that behave as the OpenAI SDK does: they know nothing of the proxy and back off on 429.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::task::JoinSet;

use super::dice::Dice;
use super::tally::Tally;
use crate::load::Wire;
use crate::upstream::Endpoint;

/// How many clients there are; the first one is greedy.
pub(super) const CLIENTS: usize = 32;
/// How many more requests the greedy client has under way than the others, which have one each.
pub(super) const GREEDY: usize = 32;

/// How often the SDK tries again.
const RETRIES: u32 = 2;
/// So that a server that is gone is not asked in a tight loop.
const PAUSE_AFTER_GIVING_UP: Duration = Duration::from_millis(50);

const BODY: &[u8] = br#"{"model":"mock-1","messages":[{"role":"user","content":"Any advice?"}]}"#;

/// One request after the other over a connection of its own.
struct Caller {
    client: usize,
    target: SocketAddr,
    wire: Wire,
    dice: Dice,
}

/// Starts the crowd on the current [`LocalSet`](tokio::task::LocalSet); it stops when the set is dropped.
///
/// Every request is counted in `tally`, whose waits are what exceeds `latency`, the time that an answer takes anyway.
pub(super) fn start(target: SocketAddr, latency: Duration, tally: &Rc<RefCell<Tally>>) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    let greedy = std::iter::repeat_n(0, GREEDY);
    for (number, client) in greedy.chain(0..CLIENTS).enumerate() {
        let caller = Caller { client, target, wire: Wire::to(Endpoint::plain(target)), dice: Dice::new(number as u64) };
        crowd.spawn_local(caller.call_for_ever(latency, Rc::clone(tally)));
    }
    crowd
}

impl Caller {
    async fn call_for_ever(mut self, latency: Duration, tally: Rc<RefCell<Tally>>) {
        loop {
            let began = Instant::now();
            if self.call(&tally).await {
                tally.borrow_mut().answered(self.client, began.elapsed().saturating_sub(latency));
            } else {
                tally.borrow_mut().gave_up();
                tokio::time::sleep(PAUSE_AFTER_GIVING_UP).await;
            }
        }
    }

    /// One call of the SDK: up to three tries. Returns whether it was answered.
    async fn call(&mut self, tally: &RefCell<Tally>) -> bool {
        for retry in 0..=RETRIES {
            if retry > 0 {
                tokio::time::sleep(self.dice.backoff(retry - 1)).await;
            }
            tally.borrow_mut().sent();
            match self.send().await {
                Ok(StatusCode::OK) => return true,
                Ok(StatusCode::TOO_MANY_REQUESTS) => tally.borrow_mut().refused(),
                Ok(_) => tally.borrow_mut().failed(),
                Err(_) => tally.borrow_mut().failed(),
            }
        }
        false
    }

    async fn send(&mut self) -> anyhow::Result<StatusCode> {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header(header::HOST, self.target.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, "Bearer demo-key")
            .header("x-cooldown-client", format!("client-{}", self.client + 1))
            .body(Full::new(Bytes::from_static(BODY)))?;
        Ok(self.wire.send(request).await?.status)
    }
}
