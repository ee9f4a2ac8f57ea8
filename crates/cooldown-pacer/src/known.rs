//! What is known about the limits of a key, and how.

use crate::ask::{Key, LimitsId};
use crate::bucket::Bucket;
use crate::cost::Cost;
use crate::keys::KeyState;
use crate::limit::Limit;
use crate::pacer::Pacer;
use crate::taught::Taught;
use crate::time::{Instant, nanos};

/// How much of one limit is left for one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The limit.
    pub limit: Limit,
    /// How it is known.
    pub source: Source,
    /// What the current window still allows; negative while more was taken than allowed.
    pub left: i64,
    /// When a whole unit (one request, one token, one slot) may leave next; `None` = when a slot is given back.
    pub free_at: Option<Instant>,
}

/// How a limit is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was given to [`Pacer::add_limits`] or [`Pacer::add_teaching_limits`].
    Configured,
    /// The upstream told it.
    Learned,
    /// The upstream told nothing but when it was too much: it was found by trying.
    Found,
}

/// A key that its upstream has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closure {
    /// Which.
    pub key: Key,
    /// Until when. After that, one request goes first.
    pub until: Instant,
}

impl Pacer {
    /// What is left of each limit of a key.
    pub fn room(&self, now: Instant, key: Key) -> Vec<Room> {
        let now = self.last_now().max(now.as_nanos());
        let fresh = |&limit: &Limit| Bucket::new(limit, nanos(self.settings.guard), now);
        let buckets: Vec<Bucket> = match self.keys.find(key) {
            Some(state) => state.buckets.to_vec(),
            None => self.keys.stated(key.limits).iter().map(fresh).collect(),
        };
        buckets.into_iter().map(|bucket| room(bucket, Source::Configured, now)).collect()
    }

    /// What is known beside what was configured: for every key of these limits, each limit that was learned or found.
    pub fn learned(&self, now: Instant, limits: LimitsId) -> Vec<(Key, Room)> {
        let now = self.last_now().max(now.as_nanos());
        let taught = |state: &'_ KeyState| state.taught.as_ref().map_or_else(Vec::new, |taught| rooms(taught, now));
        self.keys.of(limits).flat_map(|state| taught(state).into_iter().map(|room| (state.key, room))).collect()
    }

    /// Whether anything is known of a list of limits: somebody waits for it or was let go by it, and it is not as if that
    /// had never been.
    pub fn remembers(&mut self, now: Instant, limits: LimitsId) -> bool {
        self.keys_in_use(now);
        self.keys.of(limits).next().is_some()
    }

    /// Whether the upstream has taught anything about a key that still holds: a limit, a rate, a closure.
    pub fn has_learned(&self, now: Instant, key: Key) -> bool {
        let now = self.last_now().max(now.as_nanos());
        let taught = self.keys.find(key).and_then(|state| state.taught.as_ref());
        taught.is_some_and(|taught| taught.closed(now).is_some() || !rooms(taught, now).is_empty())
    }

    /// Whether a key is closed, or paused.
    pub fn is_closed(&self, now: Instant, key: Key) -> bool {
        let now = self.last_now().max(now.as_nanos());
        let taught = self.keys.find(key).and_then(|state| state.taught.as_ref());
        taught.is_some_and(|taught| taught.is_paused() || taught.closed(now).is_some())
    }

    /// Whether a person has [paused](Pacer::set_paused) a key.
    pub fn is_paused(&self, key: Key) -> bool {
        self.keys.find(key).and_then(|state| state.taught.as_ref()).is_some_and(|taught| taught.is_paused())
    }

    /// Which keys of these limits are closed.
    pub fn closed(&self, now: Instant, limits: LimitsId) -> Vec<Closure> {
        let now = self.last_now().max(now.as_nanos());
        let until = |state: &KeyState| state.taught.as_ref()?.closed(now);
        let closure = |state: &KeyState| Some(Closure { key: state.key, until: Instant::from_nanos(until(state)?) });
        self.keys.of(limits).filter_map(closure).collect()
    }
}

/// Each limit that was learned or found.
fn rooms(taught: &Taught, now: u64) -> Vec<Room> {
    let live = taught.learned.iter().filter(|learned| !learned.is_over(now));
    let learned = live.filter_map(|learned| {
        let room = room(learned.bucket.clone()?, Source::Learned, now);
        let left = learned.left(now).map_or(room.left, |left| left.min(room.left));
        let earliest = learned.earliest(&Cost::NOTHING.with(learned.unit, 1)).max(now);
        Some(Room { left, free_at: Some(Instant::from_nanos(earliest)), ..room })
    });
    let search = taught.search.as_ref().filter(|search| !search.is_over(now));
    let found = search.and_then(|search| {
        let limit = Limit::Rate(search.found(now)?);
        let free_at = Some(Instant::from_nanos(search.earliest().max(now)));
        Some(Room { limit, source: Source::Found, left: search.left(now), free_at })
    });
    learned.chain(found).collect()
}

fn room(mut bucket: Bucket, source: Source, now: u64) -> Room {
    bucket.expire(now);
    let left = match &bucket {
        Bucket::Rate(rate) => rate.window.amount() as i64 - rate.window.used() as i64,
        Bucket::Slots(slots) => i64::from(slots.max) - i64::from(slots.taken),
    };
    let earliest = bucket.earliest(1);
    let free_at = (earliest < u64::MAX).then(|| Instant::from_nanos(earliest.max(now)));
    Room { limit: bucket.limit(), source, left, free_at }
}
