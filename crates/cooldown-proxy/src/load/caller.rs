//! The two loops: when requests leave, and over which connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cooldown_pacer::Rate;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::call::Call;
use super::tally::Tally;
use super::wire::Wire;
use crate::upstream::Endpoint;

/// So that a server that is gone is not asked in a tight loop.
const PAUSE_AFTER_A_FAILURE: Duration = Duration::from_millis(50);

/// Sends one request after the other, and counts what comes of them.
#[derive(Clone)]
pub(super) struct Caller {
    call: Rc<Call>,
    endpoint: Endpoint,
    timeout: Duration,
    tally: Rc<RefCell<Tally>>,
    /// Connections that nobody uses, by nobody in particular: only fields name a client.
    idle: Rc<RefCell<Vec<Wire>>>,
}

/// Each client has one request under way, the first one more.
pub(super) struct ClosedLoop {
    pub(super) clients: usize,
    pub(super) greedy: usize,
}

/// Requests leave at a rate.
pub(super) struct OpenLoop {
    pub(super) clients: usize,
    pub(super) rate: Rate,
    pub(super) most_under_way: usize,
}

impl Caller {
    pub(super) fn new(call: Rc<Call>, endpoint: Endpoint, timeout: Duration, tally: &Rc<RefCell<Tally>>) -> Self {
        Self { call, endpoint, timeout, tally: Rc::clone(tally), idle: Rc::default() }
    }

    /// One request that was due at `due`; false when there was no answer.
    async fn once(&self, client: usize, due: Instant) -> bool {
        let idle = self.idle.borrow_mut().pop();
        let mut wire = idle.unwrap_or_else(|| Wire::to(self.endpoint.clone()));
        self.tally.borrow_mut().sent(due);
        match tokio::time::timeout(self.timeout, wire.send(self.call.request(client))).await {
            Ok(Ok(answer)) => {
                self.tally.borrow_mut().answered(client, due, &answer);
                self.idle.borrow_mut().push(wire);
                true
            }
            Ok(Err(failure)) => {
                self.tally.borrow_mut().failed(due, &failure.to_string());
                false
            }
            Err(_) => {
                self.tally.borrow_mut().failed(due, "no answer in time");
                false
            }
        }
    }
}

impl ClosedLoop {
    /// Runs until it is dropped.
    pub(super) async fn run(&self, caller: &Caller) {
        let mut crowd = JoinSet::new();
        for client in std::iter::repeat_n(0, self.greedy).chain(0..self.clients) {
            let caller = caller.clone();
            crowd.spawn_local(async move {
                loop {
                    if !caller.once(client, Instant::now()).await {
                        tokio::time::sleep(PAUSE_AFTER_A_FAILURE).await;
                    }
                }
            });
        }
        while crowd.join_next().await.is_some() {}
    }
}

impl OpenLoop {
    /// When a request is due, counted from the start so that nothing adds up.
    fn after(&self, nth: u64) -> Duration {
        let nanos = self.rate.period().as_nanos() * u128::from(nth) / u128::from(self.rate.amount());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Runs until it is dropped.
    pub(super) async fn run(&self, caller: &Caller) {
        let began = Instant::now();
        let room = Arc::new(Semaphore::new(self.most_under_way));
        let mut crowd = JoinSet::new();
        for nth in 0_u64.. {
            let due = began + self.after(nth);
            tokio::time::sleep_until(due.into()).await;
            // It is never closed, and who waits here is late by what the next wait shows.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let (caller, client) = (caller.clone(), (nth % self.clients as u64) as usize);
            crowd.spawn_local(async move {
                caller.once(client, due).await;
                drop(place);
            });
            while crowd.try_join_next().is_some() {}
        }
    }
}
