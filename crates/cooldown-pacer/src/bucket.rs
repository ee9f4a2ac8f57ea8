//! The running state of one limit for one key.

use std::num::NonZeroU32;

use crate::cost::{Cost, Unit};
use crate::limit::{Limit, Rate};
use crate::pace::Pace;
use crate::share::Usage;
use crate::time::nanos;
use crate::window::Window;

/// How far a guard may be widened, as a part of the period.
const WIDEST: u64 = 10;
/// The smallest widening that is worth keeping.
const NARROWEST: u64 = 100_000;

/// What left within this time says how fast it goes now,
const RECENT: u64 = 2_000_000_000;
/// or within this part of the period, if that is shorter.
const RECENT_PART: u64 = 8;

/// In this time a share that has grown is used.
const CATCHING_UP: u64 = 10_000_000_000;

/// The running state of one limit for one key.
#[derive(Debug, Clone)]
pub(crate) enum Bucket {
    Rate(Box<RateBucket>),
    Slots(Slots),
}

/// An amount per period: a strict window and even departures.
#[derive(Debug, Clone)]
pub(crate) struct RateBucket {
    pub(crate) rate: Rate,
    pub(crate) window: Window,
    pub(crate) pace: Pace,
    guard: Guard,
    /// The period in nanoseconds, which every decision needs.
    period: u64,
    /// The amount that predictions reckon with: of a shared limit, what will probably be this instance's when it is needed.
    pub(crate) hoped: u64,
}

/// Time that a departure is held longer than its window, against jitter on the way to the upstream.
#[derive(Debug, Clone)]
struct Guard {
    /// The configured part.
    base: u64,
    /// What refusals have put on top.
    extra: u64,
    /// When `extra` last changed.
    changed: u64,
}

/// A number in flight.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    /// How many may be taken now: of a shared limit, this instance's share.
    pub(crate) max: u32,
    stated: u32,
    pub(crate) taken: u32,
    /// When a slot last became free.
    freed: u64,
    /// How long one is held, on average, in nanoseconds; zero until one was given back.
    pub(crate) held_for: f64,
}

impl Bucket {
    pub(crate) fn new(limit: Limit, guard: u64, now: u64) -> Self {
        match limit {
            Limit::Rate(rate) => Self::Rate(Box::new(RateBucket::new(rate, guard, now))),
            Limit::Concurrency(max) => {
                Self::Slots(Slots { max: max.get(), stated: max.get(), taken: 0, freed: 0, held_for: 0.0 })
            }
        }
    }

    /// A number in flight that comes when some already are.
    pub(crate) fn with_taken(mut self, held: u32) -> Self {
        if let Self::Slots(slots) = &mut self {
            slots.taken = held;
        }
        self
    }

    /// The same state under another limit that [counts the same](Bucket::is_alike).
    pub(crate) fn retune(&mut self, now: u64, limit: Limit, guard: u64) {
        match (self, limit) {
            (Self::Rate(bucket), Limit::Rate(rate)) => bucket.retune(now, rate, guard),
            (Self::Slots(slots), Limit::Concurrency(max)) => (slots.max, slots.stated) = (max.get(), max.get()),
            _ => {}
        }
    }

    /// A fresh window that knows what left before, oldest first.
    pub(crate) fn look_back(&mut self, now: u64, past: &[(u64, u64)]) {
        if let Self::Rate(bucket) = self {
            bucket.look_back(now, past);
        }
    }

    /// It holds nobody up from now on, and is only remembered.
    pub(crate) fn retire(&mut self, now: u64) {
        if let Self::Rate(bucket) = self {
            bucket.pace.forget_line(now);
        }
    }

    /// Whether it counts the same over the same period as another limit.
    pub(crate) fn is_for(&self, limit: Limit) -> bool {
        match (self, limit) {
            (Self::Rate(bucket), Limit::Rate(rate)) => {
                (bucket.rate.unit(), bucket.rate.period()) == (rate.unit(), rate.period())
            }
            (Self::Slots(_), Limit::Concurrency(_)) => true,
            _ => false,
        }
    }

    /// Whether it counts what another limit counts.
    pub(crate) fn is_alike(&self, limit: Limit) -> bool {
        match (self, limit) {
            (Self::Rate(bucket), Limit::Rate(rate)) => bucket.rate.unit() == rate.unit(),
            (Self::Slots(_), Limit::Concurrency(_)) => true,
            _ => false,
        }
    }

    /// Its period in nanoseconds; zero without one.
    pub(crate) fn period(&self) -> u64 {
        match self {
            Self::Rate(bucket) => bucket.period,
            Self::Slots(_) => 0,
        }
    }

    /// The limit that it runs.
    pub(crate) fn limit(&self) -> Limit {
        match self {
            Self::Rate(bucket) => Limit::Rate(bucket.rate),
            Self::Slots(slots) => Limit::Concurrency(NonZeroU32::new(slots.stated).unwrap_or(NonZeroU32::MIN)),
        }
    }

    /// What a request of `cost` takes from it. No more than the whole limit: an oversized request leaves when it is empty.
    pub(crate) fn share_of(&self, cost: &Cost) -> u64 {
        match self {
            Self::Rate(bucket) => cost.get(bucket.rate.unit()).min(bucket.rate.amount()),
            Self::Slots(_) => 1,
        }
    }

    /// Only so much of its limit is this instance's from now on, and probably `hoped` when it is needed.
    pub(crate) fn allow(&mut self, now: u64, amount: u64, hoped: u64) {
        match self {
            Self::Rate(bucket) => bucket.allow(now, amount, hoped),
            Self::Slots(slots) => slots.max = amount.min(u64::from(slots.stated)) as u32,
        }
    }

    /// What it says of its use where it is shared.
    pub(crate) fn usage(&mut self, now: u64, waiting: u32, backlog: &Cost, weight: u64) -> Usage {
        self.expire(now);
        match self {
            Self::Rate(bucket) => {
                let recent = RECENT.min(bucket.period / RECENT_PART);
                Usage {
                    used: bucket.window.used(),
                    recent: bucket.window.used_since(now.saturating_sub(recent)),
                    waiting: backlog.get(bucket.unit()),
                    largest: bucket.pace.largest().unwrap_or(0).min(bucket.rate.amount()),
                    weight,
                }
            }
            Self::Slots(slots) => Usage {
                used: u64::from(slots.taken),
                recent: 0,
                waiting: u64::from(waiting),
                largest: u64::from(waiting.min(1)),
                weight,
            },
        }
    }

    /// When a request that takes `share` may leave. Zero = at once; `u64::MAX` = when somebody gives something back.
    pub(crate) fn earliest(&self, share: u64) -> u64 {
        match self {
            Self::Rate(_) if share == 0 => 0,
            Self::Rate(bucket) => bucket.window.earliest(share, 0, bucket.hold()).max(bucket.pace.earliest(share)),
            Self::Slots(slots) => slots.earliest(share),
        }
    }

    /// The same if another one that takes `taken` leaves at `now`.
    pub(crate) fn earliest_after(&self, now: u64, share: u64, taken: u64) -> u64 {
        match self {
            _ if taken == 0 => self.earliest(share),
            Self::Rate(_) if share == 0 => 0,
            Self::Rate(bucket) => {
                let window = bucket.window.earliest(share, taken, bucket.hold());
                window.max(bucket.pace.earliest_after(now, share, taken))
            }
            Self::Slots(slots) => slots.earliest(share + taken),
        }
    }

    /// Brings it to `now`.
    pub(crate) fn expire(&mut self, now: u64) {
        if let Self::Rate(bucket) = self {
            bucket.guard.narrow(now, bucket.period);
            let hold = bucket.hold();
            bucket.window.expire(now, hold);
        }
    }

    /// Takes a share for a request that leaves at `now` and could have left at `due`.
    pub(crate) fn take(&mut self, now: u64, due: u64, share: u64) {
        match self {
            Self::Rate(bucket) => {
                bucket.window.record(now, share);
                bucket.pace.take(due, share);
            }
            Self::Slots(slots) => slots.taken += 1,
        }
    }

    /// The request that was taken for at `at` has really left at `now`.
    pub(crate) fn restamp(&mut self, at: u64, now: u64, share: u64) {
        if let Self::Rate(bucket) = self {
            bucket.window.change(at, share, 0);
            bucket.window.record(now, share);
        }
    }

    /// The request that was taken for at `at` cost `actual` of its unit instead of `share`.
    pub(crate) fn settle(&mut self, now: u64, at: u64, share: u64, actual: u64) {
        if share == actual {
            return;
        }
        self.expire(now);
        if let Self::Rate(bucket) = self
            && (bucket.window.change(at, share, actual) || share == 0 && bucket.charge_late(now, at, actual))
        {
            bucket.pace.change(now, share, actual);
        }
    }

    /// A request that left at `granted` is over.
    pub(crate) fn release(&mut self, now: u64, granted: u64) {
        if let Self::Slots(slots) = self {
            let held = now.saturating_sub(granted) as f64;
            slots.held_for = if slots.held_for == 0.0 { held } else { slots.held_for * 0.9 + held * 0.1 };
            slots.taken = slots.taken.saturating_sub(1);
            slots.freed = now;
        }
    }

    /// Debt from before it was known is not repaid; what is in the window stays there.
    pub(crate) fn forgive(&mut self, now: u64) {
        if let Self::Rate(bucket) = self {
            bucket.pace.forgive(now);
        }
    }

    /// So many start to wait, each for `cost`.
    pub(crate) fn line_up(&mut self, now: u64, cost: &Cost, count: u32) {
        if let Self::Rate(bucket) = self {
            bucket.pace.line_up(now, cost.get(bucket.rate.unit()), count);
        }
    }

    /// Somebody who waited has left the line.
    pub(crate) fn leave_line(&mut self, now: u64, cost: &Cost) {
        if let Self::Rate(bucket) = self {
            bucket.pace.leave_line(now, cost.get(bucket.rate.unit()));
        }
    }

    /// The upstream refused what this limit allows.
    pub(crate) fn refused(&mut self, now: u64) {
        if let Self::Rate(bucket) = self {
            bucket.guard.widen(now, bucket.period);
        }
    }

    /// Whether it is as if it had never been used.
    pub(crate) fn is_as_new(&mut self, now: u64) -> bool {
        self.expire(now);
        match self {
            Self::Rate(bucket) => bucket.window.is_empty() && bucket.pace.is_full(now) && bucket.guard.extra == 0,
            Self::Slots(slots) => slots.taken == 0,
        }
    }

    /// Virtual picoseconds that `share` occupies: what fairness charges a flow for it.
    pub(crate) fn span(&self, share: u64) -> u128 {
        match self {
            Self::Rate(bucket) => {
                u128::from(share) * bucket.rate.period().as_nanos() * 1000 / u128::from(bucket.rate.amount())
            }
            Self::Slots(_) => 0,
        }
    }
}

impl Slots {
    fn earliest(&self, wanted: u64) -> u64 {
        if u64::from(self.taken) + wanted <= u64::from(self.max) { self.freed } else { u64::MAX }
    }
}

impl RateBucket {
    fn new(rate: Rate, guard: u64, now: u64) -> Self {
        let (amount, period) = (rate.amount(), nanos(rate.period()));
        Self {
            rate,
            window: Window::new(amount, period),
            pace: Pace::new(amount, period, rate.burst(), now),
            guard: Guard { base: guard.saturating_add(period / 1000), extra: 0, changed: now },
            period,
            hoped: amount,
        }
    }

    fn retune(&mut self, now: u64, rate: Rate, guard: u64) {
        let (amount, period) = (rate.amount(), nanos(rate.period()));
        self.window.retune(amount, period);
        self.pace.retune(now, amount, period, rate.burst());
        self.guard.base = guard.saturating_add(period / 1000);
        self.guard.extra = self.guard.extra.min(period / WIDEST);
        let is_other_period = self.rate.period() != rate.period();
        self.rate = rate;
        self.period = period;
        self.hoped = amount;
        if is_other_period {
            // As if the new limit had held all along: of its burst, what is in its window is gone.
            self.window.expire(now, self.hold());
            self.pace.start_over(now, self.window.used());
        }
    }

    fn allow(&mut self, now: u64, amount: u64, hoped: u64) {
        let (whole, amount) = (self.rate.amount(), amount.min(self.rate.amount()));
        self.hoped = hoped.clamp(amount.max(1), whole);
        self.window.allow(amount);
        // The window alone holds to the share. Room in it that has come from others is used within a while, not a period.
        let room = amount.saturating_sub(self.window.used());
        let room = u128::from(room) * u128::from(self.period) / u128::from(CATCHING_UP);
        let paced = u128::from(self.hoped).saturating_add(room).min(u128::from(whole));
        let burst = (u128::from(self.rate.burst()) * u128::from(self.hoped)).div_ceil(u128::from(whole));
        self.pace.allow(now, paced as u64, self.period, burst as u64);
    }

    fn look_back(&mut self, now: u64, past: &[(u64, u64)]) {
        let amount = self.rate.amount();
        self.window = Window::new(amount, self.period);
        past.iter().for_each(|&(at, cost)| self.window.record(at, cost.min(amount)));
        self.window.expire(now, self.hold());
        self.pace.owe(now, self.window.used());
    }

    /// As if all of this had left by it, oldest first.
    pub(crate) fn replay(&mut self, now: u64, past: &[(u64, u64)]) {
        let (amount, burst) = (self.rate.amount(), self.rate.burst());
        let began = past.first().map_or(now, |&(at, _)| at);
        self.window = Window::new(amount, self.period);
        self.pace = Pace::new(amount, self.period, burst, began);
        for &(at, cost) in past {
            self.window.record(at, cost.min(amount));
            self.pace.take(at, cost.min(amount));
        }
        self.window.expire(now, self.hold());
        self.pace.forgive(now);
    }

    /// How long a departure is held: the window and the guard. What rounding adds is taken out of the guard, so that
    /// nothing but the guard is given away.
    pub(crate) fn hold(&self) -> u64 {
        let guard = self.guard.base.saturating_add(self.guard.extra).saturating_sub(self.window.width());
        self.period.saturating_add(guard.max(1))
    }

    /// A cost that was estimated as nothing turned out to be something: it is written down as of now, which holds it
    /// no shorter than its own instant would. True if it still matters.
    fn charge_late(&mut self, now: u64, at: u64, actual: u64) -> bool {
        let in_window = at.saturating_add(self.hold()) > now;
        if in_window {
            self.window.record(now, actual);
        }
        in_window
    }

    /// What its unit is.
    pub(crate) fn unit(&self) -> Unit {
        self.rate.unit()
    }
}

impl Guard {
    /// Doubles the guard, once per period: several refusals in flight say the same thing.
    fn widen(&mut self, now: u64, period: u64) {
        if self.extra > 0 && now.saturating_sub(self.changed) < period {
            return;
        }
        self.extra = self.base.saturating_add(2 * self.extra).min(period / WIDEST);
        self.changed = now;
    }

    /// Takes a quarter of the widening back for every ten periods without a refusal.
    fn narrow(&mut self, now: u64, period: u64) {
        let step = period.saturating_mul(10);
        while self.extra > 0 && now.saturating_sub(self.changed) >= step {
            self.extra -= self.extra.div_ceil(4);
            self.changed += step;
            if self.extra < NARROWEST {
                self.extra = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;
    const GUARD: u64 = 2_000_000;

    fn ten_a_second() -> Bucket {
        let rate = Rate::new(Unit::Requests, 10, Duration::from_secs(1)).expect("a valid rate");
        Bucket::new(rate.into(), GUARD, 0)
    }

    #[test]
    fn the_eleventh_of_ten_a_second_waits_for_the_window_and_the_guard() {
        let mut bucket = ten_a_second();
        for _ in 0..10 {
            assert_eq!(bucket.earliest(1), 0);
            bucket.take(0, 0, 1);
        }
        let guard = GUARD + SECOND / 1000;
        assert_eq!(bucket.earliest(1), SECOND + guard - 1, "a cell is one nanosecond wide");
    }

    #[test]
    fn a_refusal_widens_the_guard_once_and_calm_narrows_it() {
        let mut bucket = ten_a_second();
        for _ in 0..10 {
            bucket.take(0, 0, 1);
        }
        let before = bucket.earliest(1);
        bucket.refused(1);
        let widened = bucket.earliest(1);
        bucket.refused(2);
        assert!(widened > before);
        assert_eq!(bucket.earliest(1), widened, "refusals of one round trip count once");
        assert!(!bucket.is_as_new(2 * SECOND));
        assert!(bucket.is_as_new(3600 * SECOND), "in the end the widening is gone");
    }

    #[test]
    fn a_slot_is_free_when_it_was_given_back() {
        let mut slots = Bucket::new(Limit::Concurrency(NonZeroU32::MIN), GUARD, 0);
        assert_eq!(slots.earliest(1), 0);
        slots.take(5, 5, 1);
        assert_eq!(slots.earliest(1), u64::MAX);
        slots.release(9, 5);
        assert_eq!(slots.earliest(1), 9);
    }

    #[test]
    fn an_underestimate_is_repaid_before_anything_else_leaves() {
        let rate = Rate::new(Unit::Tokens, 1000, Duration::from_secs(1)).expect("a valid rate");
        let mut bucket = Bucket::new(rate.into(), GUARD, 0);
        bucket.take(0, 0, 100);
        bucket.settle(10, 0, 100, 1500);
        assert!(bucket.earliest(1) > SECOND / 2);
        bucket.settle(20, 0, 1500, 100);
        assert!(bucket.earliest(900) <= 20, "and an overestimate returns at once");
    }
}
