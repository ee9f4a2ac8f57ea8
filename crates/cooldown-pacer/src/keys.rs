//! All buckets, by key: found or made when a request names them, forgotten when they are as new.
//!
//! What a new one knows of what left before is in `heirs`.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use crate::ahead::Ahead;
use crate::ask::{Key, LimitsId, Permit, Spent};
use crate::bucket::Bucket;
use crate::cost::Cost;
use crate::heirs::{Estate, Inheritance};
use crate::limit::Limit;
use crate::pacer::Teaching;
use crate::share::Share;
use crate::taught::Taught;

/// The subject that all keys beyond the bound share.
const OVERFLOW: u64 = u64::MAX;
/// Fewer newcomers than this are not worth a sweep.
const SWEEP_FROM: usize = 1024;

/// Where a key is in the table.
pub(crate) type KeyIndex = u32;
/// The keys that concern one request, sorted and without duplicates.
pub(crate) type KeySet = SmallVec<[KeyIndex; 4]>;

/// Every key and its buckets.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) stated: HashMap<LimitsId, Stated, RandomState>,
    pub(crate) table: Slab<KeyState>,
    index: HashMap<Key, KeyIndex, RandomState>,
    /// The fixed part of every guard, in nanoseconds.
    guard: u64,
    max_keys: usize,
    /// How many instances use limits that are shared.
    company: u64,
    /// How many deeds have been drawn up.
    pub(crate) deeds: u64,
    /// After this many newcomers, and before the next request names its keys, those that are as new are forgotten.
    sweep_in: usize,
    /// What leaves by limits with a period of so many nanoseconds or longer is written ahead.
    pub(crate) writes_from: Option<u64>,
    /// Keys that may have something to write down.
    pub(crate) unwritten: Vec<KeyIndex>,
}

/// A list of limits as it was given.
#[derive(Debug, Clone)]
pub(crate) struct Stated {
    limits: Vec<Limit>,
    /// Whether the upstream may add to them.
    teaching: Option<Teaching>,
    /// Whether other instances use them too.
    shared: bool,
    /// What its keys know of what left before there were any.
    pub(crate) inheritance: Option<Inheritance>,
}

/// The buckets of one key.
#[derive(Debug, Clone)]
pub(crate) struct KeyState {
    pub(crate) key: Key,
    pub(crate) buckets: SmallVec<[Bucket; 2]>,
    /// How many requests that it concerns wait.
    pub(crate) waiting: u32,
    /// What they will take together.
    pub(crate) backlog: Cost,
    /// How many permits it was charged for that are not settled.
    pub(crate) held: u32,
    /// What the upstream has taught about it, where it may.
    pub(crate) taught: Option<Box<Taught>>,
    /// What this instance holds of each limit, where others use them too.
    pub(crate) shares: Box<[Share]>,
    /// What it keeps for others, and of limits that are gone.
    pub(crate) estate: Option<Box<Estate>>,
    /// What is written down of it before it leaves.
    pub(crate) ahead: Option<Box<Ahead>>,
}

impl Keys {
    pub(crate) fn new(guard: u64, max_keys: usize) -> Self {
        Self {
            stated: HashMap::with_hasher(RandomState::default()),
            table: Slab::new(),
            index: HashMap::with_hasher(RandomState::default()),
            guard,
            max_keys,
            company: 1,
            deeds: 0,
            sweep_in: SWEEP_FROM,
            writes_from: None,
            unwritten: Vec::new(),
        }
    }

    pub(crate) fn add_limits(&mut self, limits: Vec<Limit>, teaching: Option<Teaching>) -> LimitsId {
        let unused = (self.stated.len() as u32..).map(LimitsId).find(|id| !self.stated.contains_key(id));
        let id = unused.unwrap_or(LimitsId(u32::MAX));
        self.stated.insert(id, Stated { limits, teaching, shared: false, inheritance: None });
        id
    }

    /// Adds a list of limits under a name, or replaces it.
    pub(crate) fn state(&mut self, now: u64, id: LimitsId, limits: Vec<Limit>, teaching: Option<Teaching>) {
        match self.stated.get_mut(&id) {
            None => {
                self.stated.insert(id, Stated { limits, teaching, shared: false, inheritance: None });
            }
            Some(stated) => {
                stated.teaching = teaching;
                if stated.limits != limits {
                    self.set_limits(now, id, limits);
                }
            }
        }
    }

    /// Replaces a list of limits. Each goes on from what its keys know; those that go are remembered for as long as what
    /// left under them counts.
    pub(crate) fn set_limits(&mut self, now: u64, id: LimitsId, limits: Vec<Limit>) {
        let (guard, shared) = (self.guard, self.is_shared(id));
        let mut concerned: Vec<KeyIndex> = Vec::new();
        for (index, state) in self.table.iter_mut().filter(|(_, state)| state.key.limits == id) {
            let before: Vec<Limit> = state.buckets.iter().map(Bucket::limit).collect();
            state.set_limits(now, &limits, guard);
            if shared {
                state.keep_shares(now, &before, &limits);
            }
            concerned.push(index as KeyIndex);
        }
        concerned.into_iter().for_each(|index| self.plan_ahead(now, index));
        if let Some(stated) = self.stated.get_mut(&id) {
            stated.limits = limits;
        }
    }

    pub(crate) fn get(&self, index: KeyIndex) -> &KeyState {
        &self.table[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: KeyIndex) -> &mut KeyState {
        &mut self.table[index as usize]
    }

    /// The place of a key, if anything is known about it.
    pub(crate) fn place(&self, key: Key) -> Option<KeyIndex> {
        self.index.get(&key).copied()
    }

    /// What is known of every key of a list of limits, to be changed.
    pub(crate) fn of_mut(&mut self, id: LimitsId) -> impl Iterator<Item = &mut KeyState> {
        self.table.iter_mut().map(|(_, state)| state).filter(move |state| state.key.limits == id)
    }

    /// The state of a key, if anything is known about it.
    pub(crate) fn find(&self, key: Key) -> Option<&KeyState> {
        self.index.get(&key).map(|&index| self.get(index))
    }

    /// The limits that a key has when nothing is known about it yet.
    pub(crate) fn stated(&self, id: LimitsId) -> &[Limit] {
        self.stated.get(&id).map_or(&[], |stated| &stated.limits)
    }

    /// From now on other instances use these limits too, and nothing but a stranger's share is this one's; or it has all
    /// of them to itself again.
    pub(crate) fn share(&mut self, now: u64, id: LimitsId, is_shared: bool) {
        let company = if is_shared { self.company } else { 0 };
        let Some(stated) = self.stated.get_mut(&id) else { return };
        if std::mem::replace(&mut stated.shared, is_shared) == is_shared {
            return;
        }
        let strangers = stated.limits.iter().map(|&limit| Share::of_stranger(limit));
        let shares: Box<[Share]> = strangers.filter(|_| is_shared).collect();
        for state in self.of_mut(id) {
            state.shares = shares.clone();
            state.taught.iter_mut().for_each(|taught| taught.set_company(now, company));
            match is_shared {
                true => _ = state.hold_to_shares(now),
                false => state.buckets.iter_mut().for_each(|bucket| bucket.allow(now, u64::MAX, u64::MAX)),
            }
        }
    }

    /// How many instances use limits that are shared.
    pub(crate) fn set_company(&mut self, company: u64) {
        self.company = company;
        for (_, state) in &mut self.table {
            state.taught.iter_mut().filter(|taught| taught.company > 0).for_each(|taught| taught.company = company);
        }
    }

    pub(crate) fn company(&self) -> u64 {
        self.company
    }

    /// Holds every shared limit to what is this instance's at `now`. When that changes next.
    pub(crate) fn hold_to_shares(&mut self, now: u64) -> u64 {
        self.table.iter_mut().map(|(_, state)| state.hold_to_shares(now)).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn is_shared(&self, id: LimitsId) -> bool {
        self.stated.get(&id).is_some_and(|stated| stated.shared)
    }

    fn teaching(&self, id: LimitsId) -> Option<Teaching> {
        self.stated.get(&id)?.teaching
    }

    /// What is known of every key of a list of limits.
    pub(crate) fn of(&self, id: LimitsId) -> impl Iterator<Item = &KeyState> {
        self.table.iter().map(|(_, state)| state).filter(move |state| state.key.limits == id)
    }

    /// The table's places of these keys, which hold until the next sweep, and beyond while somebody waits or leaves with
    /// them. Keys without limits concern nobody, unless the upstream may add some.
    pub(crate) fn resolve(&mut self, now: u64, granted: u64, keys: &[Key]) -> KeySet {
        let mut set = KeySet::new();
        for &key in keys {
            if let Some(&index) = self.index.get(&key) {
                set.push(index);
            } else if !self.stated(key.limits).is_empty() || self.teaching(key.limits).is_some() {
                set.push(self.insert(now, granted, key));
            }
        }
        if set.len() > 1 {
            set.sort_unstable();
            set.dedup();
        }
        set
    }

    /// Takes over the lists and keys of another pacer, whose lists have names of their own. Where each key is now.
    pub(crate) fn absorb(&mut self, other: Self) -> HashMap<KeyIndex, KeyIndex, RandomState> {
        self.stated.extend(other.stated);
        self.deeds = self.deeds.max(other.deeds);
        self.company = self.company.max(other.company);
        let mut moved = HashMap::with_hasher(RandomState::default());
        for (old, state) in other.table {
            let key = state.key;
            let new = self.table.insert(state) as KeyIndex;
            self.index.insert(key, new);
            moved.insert(old as KeyIndex, new);
        }
        for new in moved.values() {
            let estate = self.table[*new as usize].estate.as_mut();
            estate.into_iter().for_each(|estate| estate.follow(&moved));
        }
        self.unwritten.extend(other.unwritten.iter().filter_map(|old| moved.get(old)));
        self.sweep_in = self.table.len().max(SWEEP_FROM);
        moved
    }

    /// Another fixed part of every guard, and another bound.
    pub(crate) fn set_bounds(&mut self, now: u64, guard: u64, max_keys: usize) {
        self.max_keys = max_keys;
        if std::mem::replace(&mut self.guard, guard) != guard {
            let lists: Vec<(LimitsId, Vec<Limit>)> =
                self.stated.iter().map(|(id, stated)| (*id, stated.limits.clone())).collect();
            lists.into_iter().for_each(|(id, limits)| self.set_limits(now, id, limits));
        }
    }

    fn insert(&mut self, now: u64, granted: u64, key: Key) -> KeyIndex {
        self.sweep_in = self.sweep_in.saturating_sub(1);
        let overflow = Key { subject: OVERFLOW, ..key };
        let shared = self.place(overflow);
        let is_full = self.table.len() >= self.max_keys;
        // While somebody waits for the shared buckets it may be by this key: then all of it goes on there.
        if let Some(shared) = shared.filter(|&shared| is_full || self.get(shared).waiting > 0) {
            return shared;
        }
        let key = if is_full { overflow } else { key };
        let guard = self.guard;
        let buckets = self.stated(key.limits).iter().map(|&limit| Bucket::new(limit, guard, now)).collect();
        let teaching = self.teaching(key.limits);
        let company = if self.is_shared(key.limits) { self.company } else { 0 };
        let taught = teaching.map(|teaching| Box::new(Taught::new(now, teaching, self.stated(key.limits), company)));
        let shares = match self.is_shared(key.limits) {
            true => self.stated(key.limits).iter().map(|&limit| Share::of_stranger(limit)).collect(),
            false => Box::default(),
        };
        let (waiting, backlog, held) = (0, Cost::NOTHING, 0);
        let state = KeyState { key, buckets, waiting, backlog, held, taught, shares, estate: None, ahead: None };
        let index = self.table.insert(state) as KeyIndex;
        self.index.insert(key, index);
        self.endow(now, index);
        shared.into_iter().for_each(|shared| self.endow_from_shared(now, granted, index, shared));
        self.plan_ahead(now, index);
        self.get_mut(index).hold_to_shares(now);
        index
    }

    /// Whether as many newcomers have come as the table was large, whether they found a place in it or not: a sweep for
    /// each of them is amortized constant.
    pub(crate) fn is_sweep_due(&self) -> bool {
        self.sweep_in == 0
    }

    /// Forgets every key that is as if it had never been used. Its place may become another key's: never called between
    /// resolving a key and using its place.
    pub(crate) fn sweep(&mut self, now: u64) {
        let index = &mut self.index;
        self.table.retain(|_, state| {
            state.forget_retired(now);
            let keep = state.is_busy() || !state.is_as_new(now);
            if !keep {
                index.remove(&state.key);
            }
            keep
        });
        self.sweep_in = self.table.len().max(SWEEP_FROM);
    }

    /// How many keys are remembered.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}

impl KeyState {
    fn is_busy(&self) -> bool {
        self.waiting > 0 || self.held > 0
    }

    fn is_as_new(&mut self, now: u64) -> bool {
        self.estate.is_none()
            && self.shares.iter().all(Share::is_strangers)
            && self.buckets.iter_mut().all(|bucket| bucket.is_as_new(now))
            && self.taught.as_mut().is_none_or(|taught| taught.is_as_new(now))
    }

    /// Holds each shared limit to what is this instance's at `now`. When that changes next.
    pub(crate) fn hold_to_shares(&mut self, now: u64) -> u64 {
        let pairs = self.buckets.iter_mut().zip(&self.shares);
        let changes = pairs.map(|(bucket, share)| {
            bucket.allow(now, share.at(now), share.hoped);
            share.changes(now)
        });
        let taught = self.taught.iter_mut().map(|taught| taught.hold_to_shares(now));
        changes.chain(taught).min().unwrap_or(u64::MAX)
    }

    /// The limits are others now: what it holds of one that stays, it holds on.
    fn keep_shares(&mut self, now: u64, before: &[Limit], limits: &[Limit]) {
        let kept = |limit: &Limit| {
            let same = before.iter().position(|before| is_same(*before, *limit));
            same.and_then(|nth| self.shares.get(nth).copied()).unwrap_or_else(|| Share::of_stranger(*limit))
        };
        self.shares = limits.iter().map(kept).collect();
        self.hold_to_shares(now);
    }

    /// The buckets of every limit that is known, whoever stated it.
    pub(crate) fn all_buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.buckets.iter().chain(self.taught.iter().flat_map(|taught| taught.buckets()))
    }

    /// Whether there is a limit, whoever stated it or however it was found.
    pub(crate) fn is_limited(&self) -> bool {
        self.all_buckets().next().is_some() || self.taught.as_ref().is_some_and(|taught| taught.search.is_some())
    }

    /// When a request of `cost` may leave as far as this key is concerned.
    pub(crate) fn earliest(&self, cost: &Cost) -> u64 {
        let earliest = self.buckets.iter().map(|bucket| bucket.earliest(bucket.share_of(cost))).max().unwrap_or(0);
        self.taught.as_ref().map_or(earliest, |taught| taught.earliest(cost).max(earliest))
    }

    /// The same if another one of `taken` leaves at `now`.
    pub(crate) fn earliest_after(&self, now: u64, cost: &Cost, taken: &Cost) -> u64 {
        let shares = self.buckets.iter().map(|bucket| (bucket, bucket.share_of(cost), bucket.share_of(taken)));
        let earliest = shares.map(|(bucket, share, taken)| bucket.earliest_after(now, share, taken)).max().unwrap_or(0);
        self.taught.as_ref().map_or(earliest, |taught| taught.earliest_after(now, cost, taken).max(earliest))
    }

    pub(crate) fn take(&mut self, now: u64, due: u64, nth: u64, cost: &Cost) {
        self.held += 1;
        for bucket in &mut self.buckets {
            bucket.expire(now);
            bucket.take(now, due, bucket.share_of(cost));
        }
        if let Some(taught) = &mut self.taught {
            taught.take(now, due, nth, cost);
        }
        if let Some(estate) = &mut self.estate {
            estate.take(now, due, cost);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.take(now, cost);
        }
    }

    /// A request was really written at `now`.
    pub(crate) fn restamp(&mut self, now: u64, permit: &Permit) {
        for bucket in &mut self.buckets {
            bucket.restamp(permit.at, now, bucket.share_of(&permit.taken));
        }
        if let Some(taught) = &mut self.taught {
            taught.restamp(now, permit);
        }
        if let Some(estate) = &mut self.estate {
            estate.restamp(now, permit);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.restamp(now, permit);
        }
    }

    /// A request is over.
    pub(crate) fn settle(&mut self, now: u64, permit: &Permit, spent: Spent) {
        self.held -= 1;
        for bucket in &mut self.buckets {
            settle_bucket(bucket, now, permit, spent);
        }
        if let Some(taught) = &mut self.taught {
            taught.settle(now, permit, spent);
        }
        if let Some(estate) = &mut self.estate {
            estate.settle(now, permit, spent);
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.settle(now, permit, spent);
        }
    }

    pub(crate) fn line_up(&mut self, now: u64, cost: &Cost) {
        self.waiting += 1;
        self.backlog = self.backlog.plus(cost);
        for bucket in &mut self.buckets {
            bucket.line_up(now, cost, 1);
        }
        self.taught.iter_mut().for_each(|taught| taught.line_up(now, cost));
    }

    pub(crate) fn leave_line(&mut self, now: u64, cost: &Cost) {
        self.waiting -= 1;
        self.backlog = self.backlog.minus(cost);
        self.buckets.iter_mut().for_each(|bucket| bucket.leave_line(now, cost));
        self.taught.iter_mut().for_each(|taught| taught.leave_line(now, cost));
    }

    /// What one of those who wait costs on average.
    pub(crate) fn typical(&self) -> Cost {
        self.backlog.times(1.0 / f64::from(self.waiting.max(1)))
    }

    /// A bucket for a limit that comes while requests wait: it knows them by their average.
    pub(crate) fn join_late(&self, now: u64, limit: Limit, guard: u64) -> Bucket {
        let mut bucket = Bucket::new(limit, guard, now).with_taken(self.held);
        bucket.line_up(now, &self.typical(), self.waiting);
        bucket
    }
}

/// Whether two limits are one whose amount may have changed.
fn is_same(a: Limit, b: Limit) -> bool {
    match (a, b) {
        (Limit::Rate(a), Limit::Rate(b)) => a.unit() == b.unit() && a.period() == b.period(),
        (Limit::Concurrency(_), Limit::Concurrency(_)) => true,
        _ => false,
    }
}

pub(crate) fn settle_bucket(bucket: &mut Bucket, now: u64, permit: &Permit, spent: Spent) {
    let share = bucket.share_of(&permit.taken);
    let actual = match (spent, &*bucket) {
        (Spent::Exactly(cost), Bucket::Rate(rate)) => cost.get(rate.unit()),
        (Spent::Nothing, _) => 0,
        _ => share,
    };
    bucket.settle(now, permit.at, share, actual);
    bucket.release(now, permit.granted);
}
