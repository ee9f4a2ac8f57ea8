//! All buckets, by key: found or made when a request names them, forgotten when they are as new.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use crate::ask::{Key, LimitsId};
use crate::bucket::Bucket;
use crate::cost::Cost;
use crate::limit::Limit;

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
    limits: Vec<Vec<Limit>>,
    table: Slab<KeyState>,
    index: HashMap<Key, KeyIndex, RandomState>,
    /// The fixed part of every guard, in nanoseconds.
    guard: u64,
    max_keys: usize,
    /// After this many newcomers, keys that are as new are forgotten.
    sweep_in: usize,
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
}

impl Keys {
    pub(crate) fn new(guard: u64, max_keys: usize) -> Self {
        Self {
            limits: Vec::new(),
            table: Slab::new(),
            index: HashMap::with_hasher(RandomState::default()),
            guard,
            max_keys,
            sweep_in: SWEEP_FROM,
        }
    }

    pub(crate) fn add_limits(&mut self, limits: Vec<Limit>) -> LimitsId {
        self.limits.push(limits);
        LimitsId(self.limits.len() as u32 - 1)
    }

    /// Replaces a list of limits. Each goes on from what the buckets of its unit know: the one of the same period, else
    /// the one that remembers longest.
    pub(crate) fn set_limits(&mut self, now: u64, id: LimitsId, limits: Vec<Limit>) {
        let guard = self.guard;
        for (_, state) in self.table.iter_mut().filter(|(_, state)| state.key.limits == id) {
            let old: Vec<Bucket> = state.buckets.drain(..).collect();
            for &limit in &limits {
                let bucket = inherit(&old, now, limit, guard).unwrap_or_else(|| state.join_late(now, limit, guard));
                state.buckets.push(bucket);
            }
        }
        if let Some(slot) = self.limits.get_mut(id.0 as usize) {
            *slot = limits;
        }
    }

    pub(crate) fn get(&self, index: KeyIndex) -> &KeyState {
        &self.table[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: KeyIndex) -> &mut KeyState {
        &mut self.table[index as usize]
    }

    /// The state of a key, if anything is known about it.
    pub(crate) fn find(&self, key: Key) -> Option<&KeyState> {
        self.index.get(&key).map(|&index| self.get(index))
    }

    /// The limits that a key has when nothing is known about it yet.
    pub(crate) fn stated(&self, id: LimitsId) -> &[Limit] {
        self.limits.get(id.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// The table's places of these keys. Keys without limits concern nobody.
    pub(crate) fn resolve(&mut self, now: u64, keys: &[Key]) -> KeySet {
        let mut set = KeySet::new();
        for &key in keys {
            if let Some(&index) = self.index.get(&key) {
                set.push(index);
            } else if !self.stated(key.limits).is_empty() {
                set.push(self.insert(now, key));
            }
        }
        if set.len() > 1 {
            set.sort_unstable();
            set.dedup();
        }
        set
    }

    fn insert(&mut self, now: u64, key: Key) -> KeyIndex {
        self.sweep_in -= 1;
        if self.sweep_in == 0 {
            self.sweep(now);
        }
        let key = if self.table.len() < self.max_keys { key } else { Key { subject: OVERFLOW, ..key } };
        if let Some(&index) = self.index.get(&key) {
            return index;
        }
        let guard = self.guard;
        let buckets = self.stated(key.limits).iter().map(|&limit| Bucket::new(limit, guard, now)).collect();
        let state = KeyState { key, buckets, waiting: 0, backlog: Cost::NOTHING, held: 0 };
        let index = self.table.insert(state) as KeyIndex;
        self.index.insert(key, index);
        index
    }

    /// Forgets every key that is as if it had never been used. Called after as many newcomers as the table was
    /// large, whether they found a place in it or not: amortized constant.
    pub(crate) fn sweep(&mut self, now: u64) {
        let index = &mut self.index;
        self.table.retain(|_, state| {
            let keep = state.is_busy() || state.buckets.iter_mut().any(|bucket| !bucket.is_as_new(now));
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

    /// When a request of `cost` may leave as far as this key is concerned.
    pub(crate) fn earliest(&self, cost: &Cost) -> u64 {
        self.buckets.iter().map(|bucket| bucket.earliest(bucket.share_of(cost))).max().unwrap_or(0)
    }

    /// The same if another one of `taken` leaves at `now`.
    pub(crate) fn earliest_after(&self, now: u64, cost: &Cost, taken: &Cost) -> u64 {
        let shares = self.buckets.iter().map(|bucket| (bucket, bucket.share_of(cost), bucket.share_of(taken)));
        shares.map(|(bucket, share, taken)| bucket.earliest_after(now, share, taken)).max().unwrap_or(0)
    }

    pub(crate) fn take(&mut self, now: u64, due: u64, cost: &Cost) {
        self.held += 1;
        for bucket in &mut self.buckets {
            bucket.expire(now);
            bucket.take(now, due, bucket.share_of(cost));
        }
    }

    pub(crate) fn line_up(&mut self, now: u64, cost: &Cost) {
        self.waiting += 1;
        self.backlog = self.backlog.plus(cost);
        for bucket in &mut self.buckets {
            bucket.line_up(now, cost);
        }
    }

    pub(crate) fn leave_line(&mut self, now: u64, cost: &Cost) {
        self.waiting -= 1;
        self.backlog = self.backlog.minus(cost);
        self.buckets.iter_mut().for_each(|bucket| bucket.leave_line(now, cost));
    }

    /// A bucket for a limit that comes while requests wait: it knows them by their average.
    fn join_late(&self, now: u64, limit: Limit, guard: u64) -> Bucket {
        let mut bucket = Bucket::new(limit, guard, now).with_taken(self.held);
        let typical = self.backlog.times(1.0 / f64::from(self.waiting.max(1)));
        (0..self.waiting).for_each(|_| bucket.line_up(now, &typical));
        bucket
    }
}

/// The bucket that the new limit goes on from: what has left counts for every limit of its unit.
fn inherit(old: &[Bucket], now: u64, limit: Limit, guard: u64) -> Option<Bucket> {
    let closeness = |bucket: &&Bucket| match (bucket.limit(), limit) {
        (Limit::Rate(a), Limit::Rate(b)) => (a.period() == b.period(), a.period()),
        _ => (true, Duration::ZERO),
    };
    let mut bucket = old.iter().filter(|bucket| bucket.is_alike(limit)).max_by_key(closeness)?.clone();
    bucket.retune(now, limit, guard);
    Some(bucket)
}
