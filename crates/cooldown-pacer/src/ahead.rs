//! What is written down before it leaves, so that a process that dies cannot forget it. See ADR 0016.
//!
//! Writing each departure down would cost each request a system call. A key asks for a portion instead: so many more may
//! leave from now on. When the process dies, all of the last portion counts as used.

use std::time::Duration;

use smallvec::SmallVec;

use crate::ask::{Key, Permit, Spent};
use crate::bucket::{Bucket, RateBucket};
use crate::cost::{Cost, Unit};
use crate::keys::{KeyIndex, KeySet, KeyState, Keys};
use crate::limit::{Limit, Rate};
use crate::observation::Told;
use crate::pacer::Pacer;
use crate::past::{Noted, Past};
use crate::time::{Instant, nanos};

/// A portion is this part of the smallest limit that counts its unit. What it leaves unused, what was given back and is not
/// written down yet, and what has left the window but counts from its portion's end, are together no more than thrice that,
/// as long as requests cost no more than they were taken to: what they cost beyond counts from when that is known.
const PART: u64 = 300;
/// What came back of what left within this part of a period is written down together.
const GRAINS: u64 = 256;
/// What came back from so many instants is written down, however little it is.
const MOST_RETURNED: usize = 8;

/// Something to be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Whose limits.
    pub key: Key,
    /// What is counted.
    pub unit: Unit,
    /// What changes.
    pub noted: Noted,
}

/// What one key has written ahead, for each unit that a long limit of it counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ahead(SmallVec<[Portion; 1]>);

#[derive(Debug, Clone)]
struct Portion {
    unit: Unit,
    size: u64,
    /// No request takes more than this.
    cap: u64,
    /// How long what left matters, in nanoseconds, and for how long a portion is good.
    keep: u64,
    /// How much may still leave.
    left: u64,
    /// When that was written down.
    since: u64,
    /// What is to be written down: whether everything before it is void, and what is asked for.
    afresh: bool,
    more: u64,
    /// And what came back of what left when: instants and amounts.
    returned: SmallVec<[(u64, u64); 2]>,
    /// Whether it has to be written down now.
    is_due: bool,
}

impl Pacer {
    /// From now on, what leaves by limits with a period of `from` or longer is written ahead: after each call, and before
    /// anybody leaves because of it, all [`entries`](Pacer::entries) must have been written down. To be said before
    /// anything is known of any key.
    pub fn write_ahead(&mut self, from: Duration) {
        self.keys.writes_from = Some(nanos(from));
    }

    /// Whether there is something to write down.
    pub fn has_entries(&self) -> bool {
        !self.keys.unwritten.is_empty()
    }

    /// Appends what is to be written down, as of `now`.
    pub fn entries(&mut self, now: Instant, out: &mut Vec<Entry>) {
        let now = self.advance(now);
        for index in std::mem::take(&mut self.keys.unwritten) {
            let Some(state) = self.keys.table.get_mut(index as usize) else { continue };
            let (key, portions) = (state.key, state.ahead.iter_mut().flat_map(|ahead| &mut ahead.0));
            let due = portions.filter(|portion| portion.is_due);
            for portion in due {
                let unit = portion.unit;
                out.extend(portion.note(now).into_iter().map(|noted| Entry { key, unit, noted }));
            }
        }
    }

    /// Appends what gives back all that was written ahead and has not left: nothing leaves any more, or it is written ahead
    /// again.
    pub fn last_entries(&mut self, now: Instant, out: &mut Vec<Entry>) {
        let now = self.advance(now);
        self.keys.unwritten.clear();
        for (_, state) in &mut self.keys.table {
            let (key, portions) = (state.key, state.ahead.iter_mut().flat_map(|ahead| &mut ahead.0));
            for portion in portions.filter(|portion| portion.left > 0 || !portion.returned.is_empty() || portion.is_due)
            {
                let unit = portion.unit;
                let keep = Duration::from_nanos(portion.keep);
                let noted = portion.note(now);
                let unused = Noted { keep, less: std::mem::take(&mut portion.left), ..Noted::default() };
                out.extend(noted.into_iter().chain([unused]).map(|noted| Entry { key, unit, noted }));
            }
        }
    }

    /// Lets a key start with what an earlier process wrote down. To be done before anything leaves by it.
    pub fn recall(&mut self, now: Instant, key: Key, unit: Unit, past: &Past) {
        let now = self.advance(now);
        let departures = past.departures(now);
        let Some(index) = self.index_of(now, key).filter(|_| !departures.is_empty()) else { return };
        let state = self.keys.get_mut(index);
        let learned = state.taught.iter_mut().flat_map(|taught| taught.buckets_mut());
        for bucket in state.buckets.iter_mut().chain(learned) {
            match bucket {
                Bucket::Rate(rate) if rate.unit() == unit => rate.replay(now, &departures),
                _ => {}
            }
        }
        self.look_again();
    }

    /// Lets a key start with a limit that an earlier process was told of by the upstream.
    pub fn recall_limit(&mut self, now: Instant, key: Key, rate: Rate) {
        let now = self.advance(now);
        let (amount, period) = (Some(rate.amount()), Some(rate.period()));
        let told = Told { unit: rate.unit(), amount, period, left: None, refill: None };
        self.hear_as_of(now, 0, now, key, &told);
    }

    /// Lets a key start with a rate of requests that an earlier process found by trying. To be done after
    /// [`recall_limit`](Pacer::recall_limit): what was told goes before it.
    pub fn recall_found(&mut self, now: Instant, key: Key, rate: Rate) {
        let now = self.advance(now);
        let Some(index) = self.index_of(now, key) else { return };
        self.keys.get_mut(index).taught.iter_mut().for_each(|taught| taught.recall_found(now, &rate));
        self.look_again();
    }

    /// The rate that was found for a key by trying, if one was.
    pub fn found_rate(&self, now: Instant, key: Key) -> Option<Rate> {
        let now = self.last_now().max(now.as_nanos());
        self.keys.find(key)?.taught.as_ref()?.found(now)
    }

    /// All of them.
    pub fn found_rates(&self, now: Instant) -> Vec<(Key, Rate)> {
        let now = self.last_now().max(now.as_nanos());
        let found = |state: &KeyState| Some((state.key, state.taught.as_ref()?.found(now)?));
        self.keys.table.iter().filter_map(|(_, state)| found(state)).collect()
    }

    /// The limits with a period of `from` or longer that an upstream has told of for a key.
    pub fn told_limits(&self, key: Key, from: Duration) -> Vec<Rate> {
        let taught = self.keys.find(key).and_then(|state| state.taught.as_ref());
        let rates = taught.into_iter().flat_map(|taught| taught.buckets()).filter_map(|bucket| match bucket.limit() {
            Limit::Rate(rate) => Some(rate),
            Limit::Concurrency(_) => None,
        });
        rates.filter(|rate| rate.period() >= from).collect()
    }
}

impl Keys {
    /// Plans what a key writes ahead by the limits that it has now. What it does not write down so far, it does now.
    pub(crate) fn plan_ahead(&mut self, now: u64, index: KeyIndex) {
        if let Some(from) = self.writes_from {
            self.get_mut(index).plan_ahead(now, from);
            self.note_unwritten(index);
        }
    }

    /// The same for a key whose past is another one than it has written down.
    pub(crate) fn plan_ahead_anew(&mut self, now: u64, index: KeyIndex) {
        self.get_mut(index).ahead = None;
        self.plan_ahead(now, index);
    }

    /// Most pacers write nothing ahead: then that is all there is to know.
    #[inline]
    pub(crate) fn note_all_unwritten(&mut self, keys: &KeySet) {
        if self.writes_from.is_some() {
            self.note_each_unwritten(keys);
        }
    }

    #[inline(never)]
    fn note_each_unwritten(&mut self, keys: &KeySet) {
        keys.iter().for_each(|&index| self.note_unwritten(index));
    }

    pub(crate) fn note_unwritten(&mut self, index: KeyIndex) {
        if self.get(index).ahead.as_ref().is_some_and(|ahead| ahead.0.iter().any(|portion| portion.is_due)) {
            self.unwritten.push(index);
        }
    }
}

impl KeyState {
    fn plan_ahead(&mut self, now: u64, from: u64) {
        let mut ahead = Ahead::default();
        for unit in Unit::ALL {
            let long = || self.all_buckets().filter_map(|bucket| long_rate(bucket, unit, from));
            let Some(longest) = long().max_by_key(|rate| rate.hold()) else { continue };
            let keep = longest.hold();
            let size = long().map(|rate| (rate.rate.amount() / PART).max(1)).min().unwrap_or(1);
            let cap = long().map(|rate| rate.rate.amount()).max().unwrap_or(0);
            let known = self.ahead.as_ref().and_then(|ahead| ahead.0.iter().find(|portion| portion.unit == unit));
            ahead.0.push(match known {
                // That what left matters for longer is written down at once.
                Some(portion) => {
                    let is_due = portion.is_due || keep > portion.keep;
                    Portion { size, cap, keep: keep.max(portion.keep), is_due, ..portion.clone() }
                }
                None => Portion::new(unit, size, cap, keep, now, longest.window.used()),
            });
        }
        self.ahead = (!ahead.0.is_empty()).then(|| Box::new(ahead));
    }
}

fn long_rate(bucket: &Bucket, unit: Unit, from: u64) -> Option<&RateBucket> {
    match bucket {
        Bucket::Rate(rate) => Some(&**rate).filter(|rate| rate.unit() == unit && nanos(rate.rate.period()) >= from),
        Bucket::Slots(_) => None,
    }
}

// Not inlined: most keys have nothing of this, and their path stays short.
impl Ahead {
    #[inline(never)]
    pub(crate) fn take(&mut self, now: u64, cost: &Cost) {
        self.0.iter_mut().for_each(|portion| portion.take(now, portion.share_of(cost)));
    }

    /// A request was really written at `now`. What is in an earlier portion counts as used by the end of that one.
    #[inline(never)]
    pub(crate) fn restamp(&mut self, now: u64, permit: &Permit) {
        for portion in &mut self.0 {
            let share = portion.share_of(&permit.taken);
            if permit.at <= portion.since || portion.is_over(now) {
                portion.give_back(now, permit.at, share);
                portion.take(now, share);
            }
        }
    }

    #[inline(never)]
    pub(crate) fn settle(&mut self, now: u64, permit: &Permit, spent: Spent) {
        for portion in &mut self.0 {
            let share = portion.share_of(&permit.taken);
            let actual = match spent {
                Spent::AsEstimated => share,
                Spent::Nothing => 0,
                Spent::Exactly(cost) => cost.get(portion.unit),
            };
            match actual.checked_sub(share) {
                Some(more) => portion.take(now, more),
                None => portion.give_back(now, permit.at, share - actual),
            }
        }
    }
}

impl Portion {
    /// One that has to write down that `used` has left, if anything has.
    fn new(unit: Unit, size: u64, cap: u64, keep: u64, now: u64, used: u64) -> Self {
        let is_due = used > 0;
        Self {
            unit,
            size,
            cap,
            keep,
            left: 0,
            since: now,
            afresh: is_due,
            more: used,
            returned: SmallVec::new(),
            is_due,
        }
    }

    fn share_of(&self, cost: &Cost) -> u64 {
        cost.get(self.unit).min(self.cap)
    }

    fn is_over(&self, now: u64) -> bool {
        now > self.since.saturating_add(self.keep)
    }

    fn take(&mut self, now: u64, share: u64) {
        if share == 0 {
            return;
        }
        if self.is_over(now) {
            self.left = 0;
        }
        if share > self.left {
            let more = self.size.max(share - self.left);
            self.more += more;
            self.left += more;
            self.is_due = true;
        }
        self.left -= share;
    }

    fn give_back(&mut self, now: u64, at: u64, share: u64) {
        if share == 0 || at.saturating_add(self.keep) <= now {
            return;
        }
        self.forget_stale(now);
        // Grains are told apart by the clock: those that begin at what is in them would grow without an end.
        let grain = (self.keep / GRAINS).max(1);
        match self.returned.iter_mut().find(|(from, _)| *from / grain == at / grain) {
            Some((from, amount)) => (*from, *amount) = (at.min(*from), *amount + share),
            None => self.returned.push((at, share)),
        }
        let returned: u64 = self.returned.iter().map(|(_, amount)| amount).sum();
        self.is_due |= returned >= self.size || self.returned.len() == MOST_RETURNED;
    }

    /// What came back too long ago is not written down any more: the ledger has forgotten that it left.
    fn forget_stale(&mut self, now: u64) {
        let keep = self.keep;
        self.returned.retain(|(from, _)| from.saturating_add(keep) > now);
    }

    /// What is to be written down: one entry, or as many as instants that something came back from.
    fn note(&mut self, now: u64) -> SmallVec<[Noted; 2]> {
        self.forget_stale(now);
        if self.is_over(now) {
            self.left = self.left.min(self.more);
        }
        let keep = Duration::from_nanos(self.keep);
        let plain = Noted { keep, left: self.left, ..Noted::default() };
        let back = |(from, less): (u64, u64)| (less, Duration::from_nanos(now.saturating_sub(from)));
        let mut returned = self.returned.drain(..).map(back);
        let (less, ago) = returned.next().unwrap_or_default();
        let first = Noted { afresh: self.afresh, more: self.more, less, ago, ..plain };
        let others = returned.map(|(less, ago)| Noted { less, ago, ..plain });
        let noted = std::iter::once(first).chain(others).collect();
        (self.since, self.afresh, self.more, self.is_due) = (now, false, 0, false);
        noted
    }
}
