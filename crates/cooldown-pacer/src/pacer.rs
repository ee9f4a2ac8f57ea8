//! The decision maker: who may leave, and when.

use std::time::Duration;

use crate::ask::{Admission, Ask, Departure, Key, LimitsId, Permit, Refusal, Spent, Ticket, Why};
use crate::bucket::Bucket;
use crate::cost::{Cost, Unit};
use crate::hearsay::Hearsay;
use crate::keys::{KeySet, Keys};
use crate::limit::Limit;
use crate::line::{Joining, Line, Place};
use crate::time::{Instant, nanos};
use crate::turn::Choice;

/// A waiter whose budget ended this recently is served if it can be: timers are not exact.
const BUDGET_GRACE: u64 = 5_000_000;
/// How many budgets that ended are dealt with in one call: each costs a prediction, and others want their turn.
const REFUSALS_AT_ONCE: usize = 256;

/// What holds for a whole pacer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The fixed part of the guard against network jitter. 0.1 % of a limit's period comes on top.
    pub guard: Duration,
    /// A waiting request gains one level of urgency in this time.
    pub ageing: Duration,
    /// How many requests may wait.
    pub max_depth: usize,
    /// How many keys are remembered; those beyond share one set of buckets.
    pub max_keys: usize,
    /// How many clients are told apart in one line; those beyond share a few flows.
    pub max_flows: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guard: Duration::from_millis(2),
            ageing: Duration::from_secs(10),
            max_depth: 10_000,
            max_keys: 65_536,
            max_flows: 4096,
        }
    }
}

/// Decides for one line of requests when each may leave, so that no limit is ever broken and none is wasted.
///
/// A plain value: every call says what time it is. A `now` before an earlier one counts as the earlier one.
#[derive(Debug, Clone)]
pub struct Pacer {
    pub(crate) keys: Keys,
    pub(crate) line: Line,
    pub(crate) settings: Settings,
    /// How many permits were granted.
    pub(crate) granted: u64,
    now: u64,
    /// When [`Pacer::due`] has something to do; `u64::MAX` = not before something else happens.
    next: u64,
    /// When a share of a limit that other instances use too lapses next.
    pub(crate) lapses: u64,
    /// What was learned and other instances have not been told yet.
    pub(crate) hearsay: Vec<Hearsay>,
}

/// How an upstream is met that may have limits which nobody has stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teaching {
    /// Everything leaves at once until the upstream turns something away.
    Bold,
    /// As long as nothing is known, only a few requests are under way before the first response, and twice as many with
    /// every round trip: the first crowd does not run into a limit whose existence the first response tells.
    Cautious,
}

impl Pacer {
    /// A pacer without limits.
    pub fn new(settings: Settings) -> Self {
        Self {
            keys: Keys::new(nanos(settings.guard), settings.max_keys),
            line: Line::new(nanos(settings.ageing), settings.max_flows),
            settings,
            granted: 0,
            now: 0,
            next: u64::MAX,
            lapses: u64::MAX,
            hearsay: Vec::new(),
        }
    }

    /// Adds a list of limits that hold together. Every [`Key`](crate::Key) that names it has buckets of its own.
    pub fn add_limits(&mut self, limits: Vec<Limit>) -> LimitsId {
        self.keys.add_limits(limits, None)
    }

    /// Adds a list of limits, which may be empty, that hold together and that the upstream may add to: it may close a key,
    /// and what its responses tell about limits holds beside those that were given. See [`Pacer::observe`].
    pub fn add_teaching_limits(&mut self, limits: Vec<Limit>, teaching: Teaching) -> LimitsId {
        self.keys.add_limits(limits, Some(teaching))
    }

    /// Replaces a list of limits. What has left stays counted, and who waits goes on waiting.
    pub fn set_limits(&mut self, now: Instant, id: LimitsId, limits: Vec<Limit>) {
        let now = self.advance(now);
        self.keys.set_limits(now, id, limits);
        self.look_again();
    }

    /// Adds a list of limits under a name that no other list has, or replaces the list that has it, as
    /// [`set_limits`](Pacer::set_limits) does. With a `teaching` the upstream may add to it, which is settled when it is
    /// added; another one holds for keys that are not known yet.
    ///
    /// Pacers whose lists are named apart can be [joined](Pacer::absorb).
    pub fn state_limits(&mut self, now: Instant, id: LimitsId, limits: Vec<Limit>, teaching: Option<Teaching>) {
        let now = self.advance(now);
        self.keys.state(now, id, limits, teaching);
        self.look_again();
    }

    /// A list of limits as it holds now.
    pub fn limits(&self, id: LimitsId) -> &[Limit] {
        self.keys.stated(id)
    }

    /// Replaces what holds for the whole pacer.
    pub fn set_settings(&mut self, now: Instant, settings: Settings) {
        let now = self.advance(now);
        self.keys.set_bounds(now, nanos(settings.guard), settings.max_keys);
        self.line.set_bounds(nanos(settings.ageing), settings.max_flows);
        self.settings = settings;
        self.look_again();
    }

    /// A request wants to leave: now, after waiting, or not at all.
    ///
    /// After [`Admission::Wait`] call [`due`](Pacer::due) once [`next_due`](Pacer::next_due) has come, which may be at
    /// once: a newcomer may pass.
    pub fn admit(&mut self, now: Instant, ask: Ask) -> Admission {
        let now = self.advance(now);
        let ask = Ask { cost: ask.cost.capped(), ..ask };
        let keys = self.resolve(now, &ask.keys);
        if self.is_clear(now, &keys, &ask.cost) {
            return Admission::Go(self.take(now, now, keys, ask.cost));
        }
        let full = self.line.len() >= self.settings.max_depth;
        let place = self.join(now, keys, &ask);
        let refusal = if full { Some(self.refusal(now, place, Why::LineFull)) } else { self.too_late(now, place) };
        if let Some(refusal) = refusal {
            self.leave_line(now, place);
            return Admission::Refuse(refusal);
        }
        self.look_again();
        Admission::Wait(self.line.ticket(place))
    }

    /// Appends who leaves now and whose wait budget has ended.
    pub fn due(&mut self, now: Instant, out: &mut Vec<Departure>) {
        let now = self.advance(now);
        self.refuse_late(now, now.saturating_sub(BUDGET_GRACE), out);
        loop {
            match self.choose(now) {
                Choice::Go { place, due } => out.push(self.depart(now, due, place)),
                Choice::Until(next) => {
                    self.next = next;
                    break;
                }
            }
        }
        self.refuse_late(now, now, out);
        if let Some((latest, _)) = self.line.first_budget() {
            self.next = self.next.min(latest);
        }
    }

    /// When [`due`](Pacer::due) has something to do next, unless something else happens first. It may lie in the past.
    pub fn next_due(&self) -> Option<Instant> {
        (self.next < u64::MAX && !self.line.is_empty()).then(|| Instant::from_nanos(self.next))
    }

    /// A waiting request goes away. False if it no longer waits.
    pub fn cancel(&mut self, now: Instant, ticket: Ticket) -> bool {
        let now = self.advance(now);
        let Some(place) = self.line.place(ticket) else { return false };
        self.leave_line(now, place);
        self.look_again();
        true
    }

    /// A request was written to its connection only now: its windows count from here.
    pub fn sent(&mut self, now: Instant, permit: &mut Permit) {
        let now = self.advance(now);
        if now <= permit.at {
            return;
        }
        for &key in &permit.keys {
            let state = self.keys.get_mut(key);
            state.restamp(now, permit);
            if state.estate.is_some() {
                self.keys.restamp_heirs(key, now, permit, 0);
            }
        }
        permit.at = now;
        self.keys.note_all_unwritten(&permit.keys);
    }

    /// A request is over: takes its permit back and corrects what was taken for it.
    pub fn settle(&mut self, now: Instant, permit: Permit, spent: Spent) {
        let now = self.advance(now);
        let spent = spent.capped();
        let mut freed = false;
        for &index in &permit.keys {
            let state = self.keys.get_mut(index);
            state.settle(now, &permit, spent);
            freed |= state.waiting > 0;
            if state.estate.is_some() {
                self.keys.settle_heirs(index, now, &permit, spent, 0);
                freed = true;
            }
        }
        self.keys.note_all_unwritten(&permit.keys);
        if freed {
            self.look_again();
        }
    }

    /// Whether one of the limits that a permit was taken from counts tokens, whoever stated it.
    pub fn counts_tokens(&self, permit: &Permit) -> bool {
        let buckets = permit.keys.iter().flat_map(|&key| self.keys.get(key).all_buckets());
        buckets.into_iter().any(|bucket| matches!(bucket, Bucket::Rate(rate) if rate.unit() != Unit::Requests))
    }

    /// When a request would leave if it asked now, and nobody asked after it; [`Instant::NEVER`] where a key is paused, or
    /// the line is full.
    pub fn foresee(&mut self, now: Instant, ask: &Ask) -> Instant {
        let now = self.advance(now);
        let ask = Ask { cost: ask.cost.capped(), ..ask.clone() };
        let keys = self.resolve(now, &ask.keys);
        if self.is_clear(now, &keys, &ask.cost) {
            return Instant::from_nanos(now);
        }
        if self.any_paused(&keys) || self.line.len() >= self.settings.max_depth {
            return Instant::NEVER;
        }
        let place = self.join(now, keys, &ask);
        let leaves = self.predicted(now, place);
        self.leave_line(now, place);
        Instant::from_nanos(leaves)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// How many keys are remembered, after those that are as new were forgotten.
    pub fn keys_in_use(&mut self, now: Instant) -> usize {
        let now = self.advance(now);
        self.sweep(now);
        self.keys.len()
    }

    pub(crate) fn last_now(&self) -> u64 {
        self.now
    }

    pub(crate) fn advance(&mut self, now: Instant) -> u64 {
        self.now = self.now.max(now.as_nanos());
        if self.now >= self.lapses {
            self.lapse();
        }
        self.now
    }

    /// The places of these keys. Whatever is forgotten is forgotten before the first of them is looked up.
    pub(crate) fn resolve(&mut self, now: u64, keys: &[Key]) -> KeySet {
        if self.keys.is_sweep_due() {
            self.sweep(now);
        }
        self.keys.resolve(now, self.granted, keys)
    }

    fn sweep(&mut self, now: u64) {
        self.keys.sweep(now);
        self.line.forget_emptied();
    }

    /// Something happened that may let somebody leave earlier than planned.
    pub(crate) fn look_again(&mut self) {
        self.next = if self.line.is_empty() { u64::MAX } else { self.now };
    }

    /// Whether a person has paused one of these keys.
    pub(crate) fn any_paused(&self, keys: &KeySet) -> bool {
        keys.iter().any(|&key| self.keys.get(key).taught.as_ref().is_some_and(|taught| taught.is_paused()))
    }

    /// Whether a request may leave without joining the line: nobody waits for what it needs, and all of it is there.
    fn is_clear(&self, now: u64, keys: &KeySet, cost: &Cost) -> bool {
        keys.iter().all(|&key| {
            let state = self.keys.get(key);
            state.waiting == 0 && state.earliest(cost) <= now
        })
    }

    fn take(&mut self, now: u64, due: u64, keys: KeySet, cost: Cost) -> Permit {
        self.granted += 1;
        let mut plain = true;
        for &key in &keys {
            let state = self.keys.get_mut(key);
            state.take(now, due, self.granted, &cost);
            plain &= state.taught.as_ref().is_none_or(|taught| taught.is_plain());
        }
        self.keys.note_all_unwritten(&keys);
        Permit { keys, taken: cost, at: now, granted: now, nth: self.granted, heard: false, plain }
    }

    fn join(&mut self, now: u64, keys: KeySet, ask: &Ask) -> Place {
        for &key in &keys {
            self.keys.get_mut(key).line_up(now, &ask.cost);
        }
        self.line.join(Joining {
            keys,
            flow: ask.flow,
            weight: ask.weight,
            urgency: ask.urgency,
            cost: ask.cost,
            arrived: ask.since.map_or(now, |since| since.as_nanos().min(now)),
            latest: ask.latest.map_or(u64::MAX, Instant::as_nanos),
            returns: ask.since.is_some(),
        })
    }

    fn leave_line(&mut self, now: u64, place: Place) {
        let (waiter, keys) = self.line.leave(place);
        for &key in &keys {
            self.keys.get_mut(key).leave_line(now, &waiter.cost);
        }
    }

    fn depart(&mut self, now: u64, due: u64, place: Place) -> Departure {
        let ticket = self.line.ticket(place);
        let span = self.charged_span(place);
        let (waiter, keys) = self.line.depart(place, span);
        let permit = self.take(now, due, keys, waiter.cost);
        for &key in &permit.keys {
            self.keys.get_mut(key).leave_line(now, &waiter.cost);
        }
        Departure::Go(ticket, permit)
    }

    /// What fairness charges for a request: its part of the limit that held it longest.
    fn charged_span(&self, place: Place) -> u128 {
        let waiter = self.line.waiter(place);
        let buckets = self.line.queue_of(waiter).keys.iter().flat_map(|&key| self.keys.get(key).all_buckets());
        let spans = buckets.map(|bucket| {
            let share = bucket.share_of(&waiter.cost);
            (bucket.earliest(share), bucket.span(share))
        });
        let (_, span) = spans.filter(|&(_, span)| span > 0).max().unwrap_or((0, 1_000_000_000));
        span
    }

    fn refuse_late(&mut self, now: u64, before: u64, out: &mut Vec<Departure>) {
        for _ in 0..REFUSALS_AT_ONCE {
            let Some((_, place)) = self.line.first_budget().filter(|&(latest, _)| latest <= before) else { return };
            let ticket = self.line.ticket(place);
            let refusal = self.refusal(now, place, Why::WaitTooLong);
            self.leave_line(now, place);
            out.push(Departure::Refuse(ticket, refusal));
        }
    }

    fn refusal(&self, now: u64, place: Place, why: Why) -> Refusal {
        let predicted = self.predicted(now, place);
        Refusal { why, retry_after: Duration::from_nanos(predicted.saturating_sub(now)) }
    }

    /// The refusal of a newcomer that cannot leave before its wait budget ends.
    fn too_late(&self, now: u64, place: Place) -> Option<Refusal> {
        let latest = self.line.waiter(place).latest;
        // A bound that costs nothing settles most cases: even if everybody leaves before it, it leaves in time.
        if latest == u64::MAX || self.predicted_at_the_latest(now, place) <= latest {
            return None;
        }
        let refusal = self.refusal(now, place, Why::WaitTooLong);
        let is_late = u128::from(latest.saturating_sub(now)) < refusal.retry_after.as_nanos();
        (is_late && !self.can_leave_at_once(now, place)).then_some(refusal)
    }
}
