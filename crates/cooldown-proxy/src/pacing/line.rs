//! One pacer and the requests that wait for it, shared by all workers.
//!
//! The lock is held for the pacer's decision alone. Permits are handed over, and dropped, after it is released: a permit
//! that nobody wants any more takes the lock again to give back what it held.

mod changed;
mod permit;
mod written;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cooldown_pacer::{
    Ask, Backlog, Closure, Departure, Entry, Heritage, Instant, Key, LimitsId, Moved, Pacer, Refusal, Room, Settings,
    Spent, Ticket,
};
use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::alarm::Alarm;
use super::clock::Clock;
use super::ledger::{Ledger, SHORTEST};
use super::shared::Watch;
pub use permit::Permit;

/// A pacer with its line.
#[derive(Debug)]
pub struct Line {
    inner: Mutex<Inner>,
    clock: Clock,
    alarm: Arc<Alarm>,
    /// Its number among the alarm's lines.
    number: usize,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) pacer: Pacer,
    /// Who waits, and how it is told.
    waiting: HashMap<Ticket, oneshot::Sender<Outcome>, RandomState>,
    /// Which of them could go another way, and the keys that concern them on this one.
    movable: HashMap<Ticket, KeyList, RandomState>,
    /// What the alarm was set to.
    armed: Option<Instant>,
    /// Reused between calls.
    departures: Vec<Departure>,
    /// Answers to hand over once the lock is released.
    told: Told,
    /// The number of the configuration that last changed which lists concern requests here.
    configuration: u32,
    /// Until when something counts of what left under limits that are gone.
    gone_until: Instant,
    /// Lists that have not been there for a whole window yet, what left before them, and until when that matters.
    newcomers: Vec<(LimitsId, Vec<Heritage>, Instant)>,
    /// Where it is written down what leaves by long limits, if anywhere.
    ledger: Option<Arc<Ledger>>,
    /// Reused between calls.
    entries: Vec<Entry>,
    /// Another line has taken over everything.
    moved: Option<(Arc<Line>, Moved)>,
    /// What is noted for other instances; `None` where they use none of these limits.
    pub(super) watch: Option<Watch>,
}

/// What the pacer says to an ask.
#[derive(Debug)]
pub enum Admission {
    /// It may be sent now.
    Go(Permit),
    /// It has a place in the line.
    Wait(Place),
    /// It cannot be served in time.
    Refuse(Refusal),
    /// Other limits may concern it by now: it asks again.
    Outdated,
}

/// What a place in the line comes to.
#[derive(Debug)]
pub enum Outcome {
    /// It may be sent now.
    Go(Permit),
    /// Its wait budget ended.
    Refuse(Refusal),
    /// What it waited for has closed for long, or other limits concern it now: it has left the line, and asks again by the
    /// way that is best now.
    Elsewhere,
    /// The proxy shuts down before its turn.
    ShutDown,
}

/// A place in the line: ready when the request may leave. Dropping it leaves the line.
#[derive(Debug)]
#[must_use]
pub struct Place {
    line: Arc<Line>,
    ticket: Ticket,
    outcome: oneshot::Receiver<Outcome>,
    over: bool,
}

type Told = Vec<(oneshot::Sender<Outcome>, Outcome)>;
type KeyList = SmallVec<[Key; 4]>;

impl Line {
    pub(super) fn new(settings: Settings, clock: Clock, alarm: &Arc<Alarm>, ledger: Option<Arc<Ledger>>) -> Arc<Self> {
        let mut pacer = Pacer::new(settings);
        if ledger.is_some() {
            pacer.write_ahead(SHORTEST);
        }
        let inner = Inner {
            pacer,
            waiting: HashMap::default(),
            movable: HashMap::default(),
            armed: None,
            departures: Vec::new(),
            told: Told::new(),
            configuration: 0,
            gone_until: Instant::START,
            newcomers: Vec::new(),
            ledger,
            entries: Vec::new(),
            moved: None,
            watch: None,
        };
        Arc::new_cyclic(|line| {
            let number = alarm.enter(line.clone());
            Self { inner: Mutex::new(inner), clock, alarm: Arc::clone(alarm), number }
        })
    }

    /// Asks to send a request, whose keys are those of the configuration of this number. One that is `movable` could go
    /// another way, and is told when this one closes for long.
    pub fn admit(self: &Arc<Self>, ask: Ask, movable: bool, configuration: u32) -> Admission {
        let keys: Option<KeyList> = movable.then(|| ask.keys.as_slice().into());
        self.decide(|inner, now, line| {
            if configuration < inner.configuration {
                return Admission::Outdated;
            }
            match inner.pacer.admit(now, ask) {
                cooldown_pacer::Admission::Go(permit) => Admission::Go(Permit::new(line, permit)),
                cooldown_pacer::Admission::Refuse(refusal) => Admission::Refuse(refusal),
                cooldown_pacer::Admission::Wait(ticket) => {
                    let (tell, outcome) = oneshot::channel();
                    inner.waiting.insert(ticket, tell);
                    keys.map(|keys| inner.movable.insert(ticket, keys));
                    if let Some(watch) = &mut inner.watch {
                        watch.waits(line, inner.pacer.waits_for(ticket));
                    }
                    Admission::Wait(Place { line: Arc::clone(line), ticket, outcome, over: false })
                }
            }
        })
    }

    /// Sends everybody elsewhere who waits for this key and could go another way.
    pub fn vacate(self: &Arc<Self>, key: Key) {
        self.decide(|inner, now, _| inner.vacate(now, key));
    }

    /// A copy of its pacer as it stands, to see what would become of it.
    pub fn pacer(&self) -> Pacer {
        self.inner.lock().pacer.clone()
    }

    /// How long a request would wait if it asked now.
    pub fn foresee(&self, ask: &Ask) -> Duration {
        self.look(|pacer, now| pacer.foresee(now, ask).since(now))
    }

    /// How much may leave now, for each limit of a key.
    pub fn room(&self, key: Key) -> Vec<Room> {
        self.look(|pacer, now| pacer.room(now, key))
    }

    /// What the upstream has taught about these limits.
    pub(super) fn learned(&self, limits: LimitsId) -> Vec<(Key, Room)> {
        self.look(|pacer, now| pacer.learned(now, limits))
    }

    /// Whether the upstream has taught anything about a key that still holds.
    pub(super) fn has_learned(&self, key: Key) -> bool {
        self.look(|pacer, now| pacer.has_learned(now, key))
    }

    /// Which keys of these limits are closed.
    pub(super) fn closed(&self, limits: LimitsId) -> Vec<Closure> {
        self.look(|pacer, now| pacer.closed(now, limits))
    }

    /// Whether the upstream has closed one of these keys.
    pub fn is_closed(&self, keys: &[Key]) -> bool {
        self.look(|pacer, now| keys.iter().any(|key| pacer.is_closed(now, *key)))
    }

    /// Who waits for a key, and the time of that.
    pub(super) fn backlog(&self, key: Key) -> (Backlog, Instant) {
        self.look(|pacer, now| (pacer.backlog(now, key), now))
    }

    /// Whether a person has paused a key.
    pub(super) fn is_paused(&self, key: Key) -> bool {
        self.look(|pacer, _| pacer.is_paused(key))
    }

    /// A person closes a key for so long. Who could go another way does.
    pub(super) fn close(self: &Arc<Self>, key: Key, lasting: Duration) {
        self.decide(|inner, now, _| {
            inner.pacer.close(now, key, now.after(lasting));
            inner.note_closed(key, lasting);
            inner.vacate(now, key);
        });
    }

    /// Another instance was told that a key is closed for so long. Who could go another way does.
    pub(super) fn close_too(self: &Arc<Self>, key: Key, lasting: Duration) {
        self.decide(|inner, now, _| {
            inner.pacer.close_too(now, key, now.after(lasting));
            inner.note_closed(key, lasting);
            inner.vacate(now, key);
        });
    }

    /// A person opens every key of these limits; which of them were closed.
    pub(super) fn open(self: &Arc<Self>, limits: &[LimitsId]) -> Vec<Key> {
        self.decide(|inner, now, _| {
            let mut opened = Vec::new();
            for limits in limits {
                let closed = inner.pacer.closed(now, *limits);
                inner.pacer.open(now, *limits);
                closed.iter().for_each(|closure| inner.note_closed(closure.key, Duration::ZERO));
                opened.extend(closed.iter().map(|closure| closure.key));
            }
            opened
        })
    }

    /// A person pauses a key, or lets it go on. Who could go another way than by a paused one does.
    pub(super) fn set_paused(self: &Arc<Self>, key: Key, paused: bool) {
        self.decide(|inner, now, _| {
            inner.pacer.set_paused(now, key, paused);
            if paused {
                inner.vacate(now, key);
            }
        });
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.look(|pacer, _| pacer.waiting())
    }

    /// Asks what changes nobody's turn.
    fn look<R>(&self, ask: impl FnOnce(&mut Pacer, Instant) -> R) -> R {
        let mut inner = self.inner.lock();
        match &inner.moved {
            None => ask(&mut inner.pacer, self.clock.now()),
            Some((line, _)) => {
                let line = Arc::clone(line);
                drop(inner);
                line.look(ask)
            }
        }
    }

    /// Sends away everybody who would not leave by `deadline`.
    pub(super) fn shut_down(self: &Arc<Self>, deadline: Instant) {
        self.decide(|inner, now, _| {
            let late = |ticket: &Ticket| inner.pacer.predict(now, *ticket).is_none_or(|leaves| leaves > deadline);
            let late: Vec<Ticket> = inner.waiting.keys().copied().filter(late).collect();
            inner.send_away(now, late, || Outcome::ShutDown);
        });
    }

    /// Lets everybody go whose instant has come.
    pub(super) fn depart(self: &Arc<Self>) {
        // The alarm has forgotten this line's deadline, so it must be set again whatever it was.
        self.decide(|inner, _, _| inner.armed = None);
    }

    fn leave(self: &Arc<Self>, ticket: Ticket) {
        let inner = self.inner.lock();
        if let Some((line, moved)) = &inner.moved {
            let (line, ticket) = (Arc::clone(line), moved.ticket(ticket));
            drop(inner);
            return ticket.into_iter().for_each(|ticket| line.leave(ticket));
        }
        self.decide_in(inner, |inner, now, _| {
            inner.forget(ticket);
            inner.pacer.cancel(now, ticket);
        });
    }

    /// One decision: under the lock the pacer is asked and whoever may go because of it is found; they are told after
    /// the lock is released. The line that is asked is the one that has taken this one over, if one has.
    pub(super) fn decide<R>(self: &Arc<Self>, ask: impl FnOnce(&mut Inner, Instant, &Arc<Self>) -> R) -> R {
        let inner = self.inner.lock();
        let Some((line, _)) = &inner.moved else { return self.decide_in(inner, ask) };
        let line = Arc::clone(line);
        drop(inner);
        line.decide(ask)
    }

    fn decide_in<R>(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        ask: impl FnOnce(&mut Inner, Instant, &Arc<Self>) -> R,
    ) -> R {
        let now = self.clock.now();
        let answer = ask(&mut inner, now, self);
        if inner.pacer.next_due().is_some_and(|due| due <= now) {
            inner.depart(self, now);
        }
        let due = inner.pacer.next_due();
        if due != inner.armed {
            inner.armed = due;
            self.alarm.set(self.number, due);
        }
        let told = std::mem::take(&mut inner.told);
        let behind = inner.write_ahead(now);
        drop(inner);
        // Nobody goes before it is written that they may.
        behind.into_iter().for_each(|ledger| ledger.write());
        hand_over(told);
        answer
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.alarm.leave(self.number);
    }
}

impl Inner {
    fn depart(&mut self, line: &Arc<Line>, now: Instant) {
        let mut departures = std::mem::take(&mut self.departures);
        self.pacer.due(now, &mut departures);
        for departure in departures.drain(..) {
            match departure {
                Departure::Go(ticket, permit) => match self.forget(ticket) {
                    Some(tell) => self.told.push((tell, Outcome::Go(Permit::new(line, permit)))),
                    // Nobody waits under this ticket any more.
                    None => self.pacer.settle(now, permit, Spent::Nothing),
                },
                Departure::Refuse(ticket, refusal) => {
                    let tell = self.forget(ticket);
                    self.told.extend(tell.map(|tell| (tell, Outcome::Refuse(refusal))));
                }
            }
        }
        self.departures = departures;
    }

    fn forget(&mut self, ticket: Ticket) -> Option<oneshot::Sender<Outcome>> {
        if !self.movable.is_empty() {
            self.movable.remove(&ticket);
        }
        self.waiting.remove(&ticket)
    }

    fn vacate(&mut self, now: Instant, key: Key) {
        let concerned = self.movable.iter().filter(|(_, keys)| keys.contains(&key));
        let concerned: Vec<Ticket> = concerned.map(|(ticket, _)| *ticket).collect();
        self.send_away(now, concerned, || Outcome::Elsewhere);
    }

    fn send_away(&mut self, now: Instant, tickets: Vec<Ticket>, outcome: impl Fn() -> Outcome) {
        for ticket in tickets {
            if self.pacer.cancel(now, ticket) {
                let tell = self.forget(ticket);
                self.told.extend(tell.map(|tell| (tell, outcome())));
            }
        }
    }
}

/// Tells each its outcome. Somebody who left in between drops a permit here, which locks the line: hence never under
/// that lock.
fn hand_over(told: Told) {
    for (tell, outcome) in told {
        drop(tell.send(outcome));
    }
}

impl Future for Place {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let told = std::task::ready!(Pin::new(&mut self.outcome).poll(cx));
        self.over = true;
        // The line tells everybody before it forgets them; a line that is gone can only mean the end.
        Poll::Ready(told.unwrap_or(Outcome::ShutDown))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.over {
            self.line.leave(self.ticket);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use cooldown_pacer::{Flow, Limit, Rate, Unit};

    use super::super::alarm::AlarmThread;
    use super::super::change::{Change, Legacy, Statement};
    use super::super::shared::Sharer;
    use super::*;

    /// A line with this limit, and what keeps its alarm running.
    fn line(limit: Limit) -> (Arc<Line>, Key, AlarmThread) {
        shared_line(limit, None)
    }

    /// The same of a limit that is shared, where somebody is told of those who wait.
    pub(in super::super) fn shared_line(limit: Limit, sharer: Option<Sharer>) -> (Arc<Line>, Key, AlarmThread) {
        let clock = Clock::start();
        let thread = AlarmThread::start(clock).expect("a thread");
        let line = Line::new(Settings::default(), clock, thread.alarm(), None);
        let limits = LimitsId::new(0);
        line.change(&Change {
            statements: vec![Statement {
                id: limits,
                limits: vec![limit],
                teaching: None,
                legacy: Legacy::None,
                recalled: Vec::new(),
                shared: sharer.is_some(),
            }],
            sharer,
            ..Change::default()
        });
        (line, Key::whole(limits), thread)
    }

    fn every(millis: u64) -> Limit {
        Rate::new(Unit::Requests, 1, Duration::from_millis(millis)).expect("a rate").into()
    }

    fn permit(line: &Arc<Line>, key: Key) -> Permit {
        match line.admit(Ask::new(Flow(1), [key]), false, 0) {
            Admission::Go(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    pub(in super::super) fn place(line: &Arc<Line>, key: Key) -> Place {
        match line.admit(Ask::new(Flow(1), [key]), false, 0) {
            Admission::Wait(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_waiter_leaves_at_its_instant_without_anybody_asking() {
        let (line, key, _alarm) = line(every(100));
        let mut first = permit(&line, key);
        first.sent(false);
        let began = std::time::Instant::now();
        let outcome = place(&line, key).await;
        assert!(matches!(outcome, Outcome::Go(_)));
        assert!(began.elapsed() >= Duration::from_millis(99), "not before the window has passed");
        assert_eq!(line.waiting(), 0);
    }

    #[tokio::test]
    async fn a_permit_that_was_not_used_lets_the_next_one_go_at_once() {
        let (line, key, _alarm) = line(every(60_000));
        let unused = permit(&line, key);
        let waiter = place(&line, key);
        drop(unused);
        assert!(matches!(waiter.await, Outcome::Go(_)), "what was not sent is not counted");
    }

    #[tokio::test]
    async fn a_dropped_place_is_not_waited_for() {
        let (line, key, _alarm) = line(Limit::Concurrency(std::num::NonZeroU32::MIN));
        let first = permit(&line, key);
        let ghost = place(&line, key);
        let waiter = place(&line, key);
        drop(ghost);
        assert_eq!(line.waiting(), 1);
        drop(first);
        assert!(matches!(waiter.await, Outcome::Go(_)));
    }

    #[test]
    fn a_permit_for_somebody_who_left_goes_on_to_the_next() {
        let (line, key, _alarm) = line(Limit::Concurrency(std::num::NonZeroU32::MIN));
        let first = permit(&line, key);
        let (granted, waiter) = (place(&line, key), place(&line, key));
        drop(first);
        // The permit lies in the first place, unread, when that is dropped.
        drop(granted);
        let mut outcome = waiter;
        assert!(matches!(outcome.outcome.try_recv(), Ok(Outcome::Go(_))));
        outcome.over = true;
    }

    #[tokio::test]
    async fn at_the_end_those_who_would_leave_too_late_are_sent_away() {
        let (line, key, _alarm) = line(every(60_000));
        permit(&line, key).sent(false);
        let waiter = place(&line, key);
        line.shut_down(line.clock.now().after(Duration::from_secs(1)));
        assert!(matches!(waiter.await, Outcome::ShutDown));
        assert_eq!(line.waiting(), 0);
    }
}
