//! When a waiting request will leave, if limits and costs hold and nobody else joins. See ADR 0004.

use crate::ask::Ticket;
use crate::bucket::{Bucket, RateBucket, Slots};
use crate::cost::{Cost, Unit};
use crate::keys::{KeyIndex, KeySet, KeyState};
use crate::line::{Ages, FlowState, Place, Queue};
use crate::pacer::Pacer;
use crate::time::Instant;

/// Virtual time is counted in picoseconds.
const PICOS_PER_NANO: f64 = 1000.0;

/// The least that concerns every limit.
const ONE_OF_EACH: Cost =
    Cost::ONE_REQUEST.with(Unit::Tokens, 1).with(Unit::InputTokens, 1).with(Unit::OutputTokens, 1);

/// What leaves before a waiter.
struct Ahead {
    requests: f64,
    cost: Cost,
}

impl Pacer {
    /// When a waiting request will probably leave: [`Instant::NEVER`] while it is held up by a pause; `None` if it no longer
    /// waits.
    pub fn predict(&self, now: Instant, ticket: Ticket) -> Option<Instant> {
        let place = self.line.place(ticket)?;
        if self.any_paused(&self.line.queue_of(self.line.waiter(place)).keys) {
            return Some(Instant::NEVER);
        }
        let now = self.last_now().max(now.as_nanos());
        Some(Instant::from_nanos(self.predicted(now, place)))
    }

    pub(crate) fn predicted(&self, now: u64, place: Place) -> u64 {
        let waiter = self.line.waiter(place);
        let queue = self.line.queue_of(waiter);
        let ahead = self.ahead_in_queue(queue, place);
        let ages = self.ages(now);
        let per_key = queue.keys.iter().map(|&key| {
            let ahead = self.with_other_queues(now, waiter.queue, key, &ages, &ahead);
            let state = self.keys.get(key);
            // Nobody leaves while it is closed; from then on it is as if they came then.
            let opens = state.taught.as_ref().map_or(now, |taught| taught.closed_until().max(now));
            let told = state.taught.as_ref();
            let told = told.map_or(opens, |taught| taught.departure(opens, ahead.requests, &ahead.cost, &waiter.cost));
            state.all_buckets().map(|bucket| departure(bucket, opens, &ahead, &waiter.cost)).fold(told, u64::max)
        });
        per_key.max().unwrap_or(now).max(now)
    }

    /// A bound on [`predicted`](Pacer::predicted) in constant time: everybody who shares a key leaves first.
    pub(crate) fn predicted_at_the_latest(&self, now: u64, place: Place) -> u64 {
        let waiter = self.line.waiter(place);
        let states = self.line.queue_of(waiter).keys.iter().map(|&key| self.keys.get(key));
        states.map(|state| state.departure_at_the_latest(now)).max().unwrap_or(now)
    }

    /// Requests of the same queue that fair queueing serves first: those with a smaller start tag.
    fn ahead_in_queue(&self, queue: &Queue, place: Place) -> Ahead {
        let waiter = self.line.waiter(place);
        let own = &queue.flows[waiter.flow as usize];
        let (mut requests, mut cost) = self.line.ahead_in_flow(place);
        let is_first = requests == 0.0;
        let lead = self.span(&queue.keys, &cost) / f64::from(own.weight);
        let tag = own.start + lead as u128;
        let own_step = self.step(queue, own);
        for &(start, number, flow) in &queue.order {
            if start > tag {
                break;
            }
            if flow == waiter.flow {
                continue;
            }
            let other = &queue.flows[flow as usize];
            let step = self.step(queue, other);
            // Spans of several requests are rounded once, those of single ones each: nearly whole is whole.
            let steps = (tag - start) as f64 / step;
            let nearest = (steps + 0.5) as u64 as f64;
            let is_tie = (steps - nearest).abs() < 1e-6;
            let whole = if is_tie { nearest } else { steps as u64 as f64 };
            // At equal tags, whoever reached its tag first is served first: the one that was served before at the
            // smaller tag, or that stands there already.
            let wins_tie = match (whole == 0.0, is_first) {
                (true, true) => number < own.number,
                (true, false) => start > own.start || number < own.number,
                (false, true) => false,
                (false, false) if (step - own_step).abs() <= 1.0 => (start, own.number) > (own.start, number),
                (false, false) => step > own_step,
            };
            let served = (whole + f64::from(u8::from(!is_tie || wins_tie))).min(f64::from(other.waiting));
            requests += served;
            cost = cost.plus(&other.backlog.times(served / f64::from(other.waiting)));
        }
        Ahead { requests, cost }
    }

    /// How far virtual time moves for a flow when one of its requests is served.
    fn step(&self, queue: &Queue, flow: &FlowState) -> f64 {
        let span = self.span(&queue.keys, &flow.backlog) / f64::from(flow.waiting.max(1));
        (span / f64::from(flow.weight)).max(1.0)
    }

    /// Adds what other queues take from a key first: everything of more urgent ones, a fair part of equally urgent ones.
    fn with_other_queues(&self, now: u64, own: u32, key: KeyIndex, ages: &Ages, ahead: &Ahead) -> Ahead {
        let (level, weight) = (self.line.rank(own, ages).level, self.line.queues[own as usize].weight.max(1));
        let mut sum = Ahead { requests: ahead.requests, cost: ahead.cost };
        for (index, queue) in self.line.queues.iter().map(|(index, queue)| (index as u32, queue)) {
            // Who waits for a limit of its own does not take what others wait for.
            if index == own || !queue.keys.contains(&key) || self.waits_for_its_own(now, index) {
                continue;
            }
            let all = f64::from(queue.waiting);
            let served = match self.line.rank(index, ages).level.cmp(&level) {
                std::cmp::Ordering::Less => all,
                std::cmp::Ordering::Equal => all.min((ahead.requests + 1.0) * queue.weight as f64 / weight as f64),
                std::cmp::Ordering::Greater => 0.0,
            };
            sum.requests += served;
            sum.cost = sum.cost.plus(&queue.backlog.times(served / all));
        }
        sum
    }

    /// What fairness charges for a cost, where it is not known yet which limit will bind: the largest part of any.
    fn span(&self, keys: &KeySet, cost: &Cost) -> f64 {
        let buckets = keys.iter().flat_map(|&key| self.keys.get(key).all_buckets());
        let spans = buckets.map(|bucket| match bucket {
            Bucket::Rate(rate) => rate.pace.span(cost.get(rate.unit()) as f64) * PICOS_PER_NANO,
            Bucket::Slots(_) => 0.0,
        });
        spans.fold(0.0, f64::max)
    }
}

impl KeyState {
    /// When the last of all that wait for this key has left.
    fn departure_at_the_latest(&self, now: u64) -> u64 {
        let taught = self.taught.as_ref();
        let opens = taught.map_or(now, |taught| taught.closed_until().max(now).saturating_add(taught.longest_ramp()));
        let bounds = self.all_buckets().map(|bucket| match bucket {
            Bucket::Rate(bucket) => {
                // Packing may leave up to half of a window unused.
                let laps = self.backlog.get(bucket.unit()) * 2 / bucket.hoped + 3;
                let debt = bucket.pace.span((-bucket.pace.level(opens)).max(0.0)) as u64;
                opens.saturating_add(bucket.hold().saturating_mul(laps)).saturating_add(debt)
            }
            Bucket::Slots(slots) => slot_departure(slots, opens, f64::from(self.waiting)),
        });
        let told = taught
            .map_or(opens, |taught| taught.departure(opens, f64::from(self.waiting), &self.backlog, &ONE_OF_EACH));
        bounds.fold(told, u64::max)
    }
}

/// When a bucket lets a request of `cost` leave, after others.
fn departure(bucket: &Bucket, now: u64, ahead: &Ahead, cost: &Cost) -> u64 {
    match bucket {
        Bucket::Rate(rate) => {
            // None of them takes more than the whole limit.
            let most = (ahead.requests.ceil() as u64).saturating_mul(rate.rate.amount());
            rate_departure(rate, now, ahead.cost.get(rate.unit()).min(most), bucket.share_of(cost))
        }
        Bucket::Slots(slots) => slot_departure(slots, now, ahead.requests),
    }
}

/// Departures repeat themselves window by window, and are at least evenly spread behind the last one of the window before.
fn rate_departure(bucket: &RateBucket, now: u64, ahead: u64, own: u64) -> u64 {
    if own == 0 {
        return now;
    }
    let (amount, hold) = (bucket.hoped, bucket.hold());
    let own = own.min(amount);
    let usable = if ahead.is_multiple_of(own) { amount - amount % own } else { amount };
    let laps = (ahead + own - 1) / usable;
    let before = ahead.saturating_sub(laps * usable);
    let first = departure_in_window(bucket, now, before, own);
    let Some(earlier_laps) = laps.checked_sub(1) else { return first };
    let last_of_window = departure_in_window(bucket, now, usable.saturating_sub(own), own);
    let spread = last_of_window.saturating_add(bucket.pace.span((before + own) as f64) as u64);
    let repeated = first.saturating_add(hold);
    repeated.max(spread).saturating_add(earlier_laps.saturating_mul(hold))
}

/// Within a window, a departure is held up by its credit or by the cell that makes room for it or for one before it,
/// from which on departures are evenly spread.
fn departure_in_window(bucket: &RateBucket, now: u64, before: u64, own: u64) -> u64 {
    let within = before + own;
    let credit = bucket.pace.level(now);
    let mut latest = now.saturating_add(bucket.pace.span((within as f64 - credit).max(0.0)) as u64);
    // Of a shared limit, what will come.
    let more = bucket.hoped as i64 - bucket.window.amount() as i64;
    let mut free = bucket.hoped as i64 - bucket.window.used() as i64;
    for (release, freed) in bucket.window.releases(bucket.hold()) {
        if free >= within as i64 {
            break;
        }
        let behind = (before as i64 - free.max(0)).max(0);
        latest = latest.max(release.saturating_add(bucket.pace.span(behind as f64) as u64));
        free = freed + more;
    }
    latest
}

/// Slots come back one by one, as long after each other as the average hold divided by their number.
fn slot_departure(slots: &Slots, now: u64, ahead: f64) -> u64 {
    let free = f64::from(slots.max) - f64::from(slots.taken);
    let waits_for = ahead + 1.0 - free;
    if waits_for <= 0.0 {
        return now;
    }
    now.saturating_add((waits_for * slots.held_for / f64::from(slots.max.max(1))) as u64)
}
