//! One limit that an upstream has told of: a bucket like a configured one where amount and period are known, and what it
//! said is left.

use std::time::Duration;

use crate::bucket::Bucket;
use crate::cost::{Cost, Unit};
use crate::history::History;
use crate::limit::{LARGEST_AMOUNT, LONGEST_PERIOD, Limit, Rate, SHORTEST_PERIOD};
use crate::observation::{Refill, Told};
use crate::reading::{Reading, Remainder};
use crate::share::Share;
use crate::time::nanos;

const MINUTE: u64 = 60_000_000_000;
/// A limit that was not told again for this many periods, and ten minutes, is forgotten.
const PERIODS: u64 = 10;
const LEAST_BELIEF: u64 = 10 * MINUTE;
/// Periods from here on are so long that two of them are enough.
const LONG_PERIOD: u64 = 60 * MINUTE;
/// Inferred periods differ by this part of themselves and are the same.
const ALIKE: u64 = 20;

/// Other instances are told what is left of the same limit no more often than this,
const QUIET: u64 = 1_000_000_000;
/// and that it is another one no more often than this.
const LEAST_QUIET: u64 = 200_000_000;
/// What is left is worth telling where it is less than what was believed by more than this part of the limit.
const SURPRISE: u64 = 20;
/// However small a share is, no more leaves from all than so much for each one that leaves here.
const LARGEST_CROWD: f64 = 1000.0;

/// A limit that was told.
#[derive(Debug, Clone)]
pub(crate) struct Learned {
    pub(crate) unit: Unit,
    period: Option<u64>,
    /// Where amount and period are known.
    pub(crate) bucket: Option<Bucket>,
    reading: Option<Reading>,
    /// The permit whose answer was believed last.
    nth: u64,
    expires: u64,
    /// The amount that was last announced.
    announced: u64,
    /// What this instance holds of it; `None` where no other one uses it.
    pub(crate) share: Option<Share>,
    /// How much leaves from all instances while one unit leaves from here, as far as one knows: what is left is left for
    /// all of them.
    pub(crate) crowd: f64,
    /// When this instance last heard of it from the upstream itself, and when it last told the others.
    heard: u64,
    spread: u64,
}

/// An answered request, and those that wait for the same key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) now: u64,
    /// Whether another instance sent it. Then only the time tells what left before it.
    pub(crate) elsewhere: bool,
    /// The number of its permit.
    pub(crate) nth: u64,
    /// When it left.
    pub(crate) at: u64,
    pub(crate) waiting: u32,
    /// What one of those that wait costs on average.
    pub(crate) typical: Cost,
    /// The fixed part of guards.
    pub(crate) guard: u64,
}

/// The same as [`Told`] without nonsense.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sense {
    pub(crate) unit: Unit,
    amount: Option<u64>,
    period: Option<u64>,
    left: Option<u64>,
    refill: Option<Refill>,
}

impl Sense {
    /// `None` if nothing is left of it.
    pub(crate) fn of(told: &Told) -> Option<Self> {
        if told.amount == Some(0) {
            return None;
        }
        let amount = told.amount.map(|amount| amount.min(LARGEST_AMOUNT));
        let period = told.period.filter(|period| (SHORTEST_PERIOD..=LONGEST_PERIOD).contains(period)).map(nanos);
        let left = told.left.map(|left| left.min(amount.unwrap_or(LARGEST_AMOUNT)));
        let refill = told.refill.map(|refill| match refill {
            Refill::Steadily(after) => Refill::Steadily(after.min(LONGEST_PERIOD)),
            Refill::AtOnce(after) => Refill::AtOnce(after.min(LONGEST_PERIOD)),
        });
        let says_something = left.is_some() || amount.is_some() && period.is_some();
        says_something.then_some(Self { unit: told.unit, amount, period, left, refill })
    }
}

impl Learned {
    pub(crate) fn new(sense: &Sense) -> Self {
        Self {
            unit: sense.unit,
            period: sense.period,
            bucket: None,
            reading: None,
            nth: 0,
            expires: 0,
            announced: 0,
            share: None,
            crowd: 1.0,
            heard: 0,
            spread: 0,
        }
    }

    /// Whether this is the limit that a response speaks of.
    pub(crate) fn is_meant(&self, sense: &Sense) -> bool {
        let same_period = match (self.period, sense.period) {
            (Some(known), Some(told)) => known.abs_diff(told) <= known / ALIKE,
            _ => true,
        };
        self.unit == sense.unit && (same_period || self.amount().is_some() && self.amount() == sense.amount)
    }

    fn amount(&self) -> Option<u64> {
        match self.bucket.as_ref()?.limit() {
            Limit::Rate(rate) => Some(rate.amount()),
            Limit::Concurrency(_) => None,
        }
    }

    /// The same amount is now said of another period: the first one was a mistake.
    fn correct_period(&mut self, sense: &Sense) {
        let is_other = |known: u64, told: u64| known.abs_diff(told) > known / ALIKE;
        if let Some((known, told)) = self.period.zip(sense.period)
            && is_other(known, told)
        {
            (self.period, self.bucket, self.announced, self.share) = (Some(told), None, 0, None);
        }
    }

    pub(crate) fn counts(&self, unit: Option<Unit>) -> bool {
        unit.is_none_or(|unit| unit == self.unit)
    }

    pub(crate) fn is_over(&self, now: u64) -> bool {
        now >= self.expires
    }

    /// Hears what a response said. The limit, where it is worth announcing.
    pub(crate) fn hear(&mut self, answered: &Answered, sense: &Sense, history: &History) -> Option<Limit> {
        if answered.nth < self.nth {
            return None;
        }
        self.nth = answered.nth;
        self.correct_period(sense);
        self.period = self.period.or(sense.period);
        if let Some((amount, period)) = sense.amount.zip(self.period) {
            self.allow(answered, amount, period, history);
        }
        if let Some(left) = sense.left {
            match answered.elsewhere {
                true => history
                    .later_than(answered.at, self.unit)
                    .into_iter()
                    .for_each(|after| self.read(answered, left, after.into_iter(), sense)),
                false => history
                    .after(answered.nth, self.unit)
                    .into_iter()
                    .for_each(|after| self.read(answered, left, after, sense)),
            }
        }
        // What others were told is believed for as long as they may believe it.
        let since = if answered.elsewhere { answered.at } else { answered.now };
        self.expires = self.expires.max(since.saturating_add(self.lifetime()));
        if !answered.elsewhere {
            self.heard = answered.now;
        }
        self.announce()
    }

    /// The share of it that is this instance's from now on, or what is left of that at `now`. When it changes next.
    pub(crate) fn hold_to_share(&mut self, now: u64) -> u64 {
        let (Some(share), Some(bucket)) = (&self.share, &mut self.bucket) else { return u64::MAX };
        bucket.allow(now, share.at(now), share.hoped);
        let Bucket::Rate(rate) = bucket else { return u64::MAX };
        self.crowd = (rate.rate.amount() as f64 / rate.hoped.max(1) as f64).clamp(1.0, LARGEST_CROWD);
        share.changes(now)
    }

    /// No other instance uses it any more.
    pub(crate) fn keep_to_itself(&mut self, now: u64) {
        (self.share, self.crowd) = (None, 1.0);
        self.bucket.iter_mut().for_each(|bucket| bucket.allow(now, u64::MAX, u64::MAX));
    }

    /// Whether others should hear at once what was just told: a limit that is news, or less left than they believe.
    pub(crate) fn is_worth_telling(&mut self, now: u64, is_news: bool, left: Option<u64>) -> bool {
        let since = if self.spread > 0 { now.saturating_sub(self.spread) } else { u64::MAX };
        let is_surprise = since >= QUIET && left.is_some_and(|left| self.is_surprise(left));
        let is_told = is_news && since >= LEAST_QUIET || is_surprise;
        if is_told {
            self.spread = now;
        }
        is_told
    }

    fn is_surprise(&self, left: u64) -> bool {
        let Some(Bucket::Rate(rate)) = &self.bucket else { return left == 0 };
        let room = rate.window.amount().saturating_sub(rate.window.used()) as f64 * self.crowd;
        ((left + rate.rate.amount() / SURPRISE) as f64) < room
    }

    /// All that this instance knows of it from the upstream itself, and how long ago it heard it.
    pub(crate) fn tell(&self, now: u64) -> Option<(Told, u64)> {
        if self.heard == 0 || self.is_over(now) {
            return None;
        }
        let (left, refill) = match self.reading.as_ref().filter(|reading| !reading.is_over(now)) {
            Some(reading) => (Some(reading.tell(now).0), reading.tell(now).1),
            None => (None, None),
        };
        let (amount, period) = (self.amount(), self.period.map(Duration::from_nanos));
        // What is left is as of now, however long the limit is known.
        let ago = if left.is_some() { 0 } else { now.saturating_sub(self.heard) };
        Some((Told { unit: self.unit, amount, period, left, refill }, ago))
    }

    /// The limit is `amount` per `period`.
    fn allow(&mut self, answered: &Answered, amount: u64, period: u64, history: &History) {
        let now = answered.now;
        let Some(bucket) = &mut self.bucket else {
            self.bucket = rate(self.unit, amount, period).map(|limit| started(answered, limit, history));
            return;
        };
        let Limit::Rate(known) = bucket.limit() else { return };
        let next = match amount.checked_sub(known.amount()) {
            Some(0) => return,
            Some(more) => known.amount() + more.div_ceil(4),
            None => amount,
        };
        if let Some(limit) = rate(self.unit, next, nanos(known.period())) {
            bucket.retune(now, limit, answered.guard);
            self.share.iter_mut().for_each(|share| share.shrink(known.amount(), next));
            self.hold_to_share(now);
        }
    }

    /// That much was left.
    fn read(&mut self, answered: &Answered, left: u64, after: impl Iterator<Item = (u64, u64)>, sense: &Sense) {
        let now = answered.now;
        let guard = answered.guard.saturating_add(self.period.unwrap_or(0) / 1000);
        let told = Remainder { left, amount: sense.amount, period: self.period, refill: sense.refill, guard };
        let crowd = self.crowd;
        let after = after.map(|(at, share)| (at, of_all(share, crowd)));
        let newer = Reading::new(now, answered.at, after, &told);
        match &mut self.reading {
            Some(reading) if !reading.is_over(now) => reading.follow(now, newer),
            reading => *reading = Some(newer),
        }
        self.reading.take_if(|reading| reading.is_over(now));
    }

    fn lifetime(&self) -> u64 {
        match self.period {
            Some(period) if period >= LONG_PERIOD => period.saturating_mul(2),
            Some(period) => period.saturating_mul(PERIODS).max(LEAST_BELIEF),
            None => LEAST_BELIEF,
        }
    }

    fn announce(&mut self) -> Option<Limit> {
        let limit = self.bucket.as_ref()?.limit();
        let Limit::Rate(rate) = limit else { return None };
        let is_news = rate.amount().abs_diff(self.announced).saturating_mul(100) >= rate.amount();
        is_news.then(|| {
            self.announced = rate.amount();
            limit
        })
    }

    /// The upstream refused what this limit allows.
    pub(crate) fn refused(&mut self, now: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.refused(now);
        }
        if let Some(reading) = &mut self.reading {
            reading.empty(now);
        }
    }

    fn share_of(&self, cost: &Cost) -> u64 {
        self.bucket.as_ref().map_or_else(|| cost.get(self.unit), |bucket| bucket.share_of(cost))
    }

    pub(crate) fn earliest(&self, cost: &Cost) -> u64 {
        let share = self.share_of(cost);
        let bucket = self.bucket.as_ref().map_or(0, |bucket| bucket.earliest(share));
        let reading = self.reading.as_ref().map_or(0, |reading| reading.earliest(0, of_all(share, self.crowd), 0));
        bucket.max(reading).min(self.expires)
    }

    pub(crate) fn earliest_after(&self, now: u64, cost: &Cost, taken: &Cost) -> u64 {
        let (share, taken) = (self.share_of(cost), self.share_of(taken));
        let bucket = self.bucket.as_ref().map_or(0, |bucket| bucket.earliest_after(now, share, taken));
        let of_all = |share| of_all(share, self.crowd);
        let reading = self.reading.as_ref().map_or(0, |reading| reading.earliest(now, of_all(share), of_all(taken)));
        bucket.max(reading).min(self.expires)
    }

    /// When the upstream will have said that enough is left, after others.
    pub(crate) fn departure(&self, now: u64, ahead: &Cost, cost: &Cost) -> u64 {
        let reading = self.reading.as_ref().filter(|_| !self.is_over(now));
        let of_all = |share| of_all(share, self.crowd);
        reading.map_or(now, |reading| reading.departure(now, of_all(ahead.get(self.unit)), of_all(self.share_of(cost))))
    }

    pub(crate) fn expire(&mut self, now: u64) {
        self.reading.take_if(|reading| reading.is_over(now));
        if let Some(bucket) = &mut self.bucket {
            bucket.expire(now);
        }
    }

    pub(crate) fn take(&mut self, now: u64, due: u64, cost: &Cost) {
        let share = self.share_of(cost);
        if let Some(reading) = &mut self.reading {
            reading.take(now, of_all(share, self.crowd));
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now, due, share);
        }
    }

    pub(crate) fn restamp(&mut self, at: u64, now: u64, taken: &Cost) {
        let share = self.share_of(taken);
        if let Some(bucket) = &mut self.bucket {
            bucket.restamp(at, now, share);
        }
    }

    /// The request of permit `nth`, which left at `at`, cost `actual` instead of what was taken.
    pub(crate) fn settle(&mut self, now: u64, nth: u64, at: u64, taken: &Cost, actual: &Cost) {
        let (share, actual) = (self.share_of(taken), actual.get(self.unit));
        if nth > self.nth
            && let Some(reading) = &mut self.reading
        {
            reading.settle(of_all(share, self.crowd), of_all(actual, self.crowd));
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.settle(now, at, share, actual);
        }
    }

    /// What the upstream said is left, while that is known.
    pub(crate) fn left(&self, now: u64) -> Option<i64> {
        let reading = self.reading.as_ref().filter(|reading| !reading.is_over(now))?;
        Some(reading.level_at(now).floor() as i64)
    }
}

/// What leaves from all instances while so much leaves from this one.
fn of_all(share: u64, crowd: f64) -> u64 {
    if crowd > 1.0 { (share as f64 * crowd) as u64 } else { share }
}

fn rate(unit: Unit, amount: u64, period: u64) -> Option<Limit> {
    Rate::new(unit, amount, Duration::from_nanos(period)).ok().map(Limit::from)
}

/// A bucket that has been there all along, as far as is remembered.
fn started(answered: &Answered, limit: Limit, history: &History) -> Bucket {
    let Limit::Rate(rate) = limit else { return Bucket::new(limit, answered.guard, answered.now) };
    let from = answered.now.saturating_sub(nanos(rate.period()));
    let departures = history.since(from, rate.unit());
    let mut bucket = Bucket::new(limit, answered.guard, departures.first().map_or(answered.now, |&(at, _)| at));
    for (at, cost) in departures {
        bucket.take(at, at, cost.min(rate.amount()));
    }
    bucket.forgive(answered.now);
    bucket.line_up(answered.now, &answered.typical, answered.waiting);
    bucket
}
