//! What limits that come know of what left before them, and what is kept for them. See ADR 0012.
//!
//! A limit holds in every trailing window, and some of what left in it may have left before the limit was there: under
//! another one, without any, or counted under another key. A key that is new goes on from the keys that the same requests
//! took from; what they still have in flight is settled with it as well.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::ask::{Key, LimitsId, Permit, Spent};
use crate::bucket::{Bucket, RateBucket};
use crate::cost::{Cost, Unit};
use crate::keys::{KeyIndex, KeyState, Keys, settle_bucket};
use crate::limit::Limit;
use crate::pacer::Pacer;
use crate::time::Instant;

/// Whose departures count for the keys of a list of limits that is new. Those of several must be different requests; a
/// list whose own keys count beside others names them, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heritage {
    /// Those of a certain key.
    Key(Key),
    /// Those of the key with the same subject in another list.
    SameSubject(LimitsId),
}

/// What the keys of a list inherit.
#[derive(Debug, Clone)]
pub(crate) struct Inheritance {
    from: Vec<Heritage>,
    /// The deeds that belong to it.
    deed: u64,
    /// The latest permit that counts: what left with later ones concerned the key, or it did not.
    through: u64,
    /// When that was.
    since: u64,
}

/// What a key keeps for others, and of limits that are gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estate {
    /// Buckets that hold nobody up, and until when what left under them counts.
    retired: Vec<(Bucket, u64)>,
    deeds: SmallVec<[Deed; 1]>,
}

/// Who inherits what was in flight at one instant.
#[derive(Debug, Clone)]
struct Deed {
    /// Later deeds have higher numbers.
    number: u64,
    /// The latest permit before that.
    through: u64,
    /// How many of those that were in flight then still are.
    outstanding: u32,
    heirs: SmallVec<[KeyIndex; 2]>,
}

impl Pacer {
    /// Lets the keys of a list of limits start with what has left so far by others, as if their limits had held then.
    /// To be said when the list comes, or comes back.
    pub fn inherit(&mut self, now: Instant, id: LimitsId, from: Vec<Heritage>) {
        let now = self.advance(now);
        self.keys.inherit(now, self.granted, id, from);
        self.look_again();
    }
}

impl Keys {
    fn inherit(&mut self, now: u64, granted: u64, id: LimitsId, from: Vec<Heritage>) {
        self.deeds += 1;
        let deed = self.deeds;
        for heritage in &from {
            match *heritage {
                Heritage::Key(key) => {
                    let place = self.place(key);
                    place.into_iter().for_each(|place| self.get_mut(place).draw_up(deed, granted));
                }
                Heritage::SameSubject(list) => self.of_mut(list).for_each(|state| state.draw_up(deed, granted)),
            }
        }
        let inheritance = Inheritance { from, deed, through: granted, since: now };
        self.stated.get_mut(&id).into_iter().for_each(|stated| stated.inheritance = Some(inheritance.clone()));
        let known: Vec<KeyIndex> =
            self.table.iter().filter(|(_, state)| state.key.limits == id).map(|(index, _)| index as KeyIndex).collect();
        for index in known {
            self.endow(now, index);
            self.plan_ahead_anew(now, index);
        }
    }

    /// Gives a key what its list inherits.
    pub(crate) fn endow(&mut self, now: u64, heir: KeyIndex) {
        let key = self.get(heir).key;
        let Some(inheritance) = self.stated.get(&key.limits).and_then(|stated| stated.inheritance.clone()) else {
            return;
        };
        let sources = inheritance.from.iter().filter_map(|heritage| {
            self.place(match *heritage {
                Heritage::Key(key) => key,
                Heritage::SameSubject(list) => Key { limits: list, ..key },
            })
        });
        let sources: SmallVec<[KeyIndex; 4]> = sources.collect();
        self.hand_down(now, heir, &sources, &inheritance);
    }

    /// Gives a key what left through the buckets that all keys beyond the bound share: some of it may have been its own.
    pub(crate) fn endow_from_shared(&mut self, now: u64, granted: u64, heir: KeyIndex, shared: KeyIndex) {
        if heir == shared {
            return;
        }
        self.deeds += 1;
        let deed = self.deeds;
        let inheritance = Inheritance { from: Vec::new(), deed, through: granted, since: now };
        self.get_mut(shared).draw_up(deed, granted);
        self.hand_down(now, heir, &[shared], &inheritance);
    }

    fn hand_down(&mut self, now: u64, heir: KeyIndex, sources: &[KeyIndex], inheritance: &Inheritance) {
        let units: SmallVec<[(Unit, u64); 2]> = self.get(heir).rates().map(|rate| (rate.unit(), rate.hold())).collect();
        let pasts = units.iter().map(|&(unit, hold)| {
            let past = |index| {
                let from = now.saturating_sub(hold);
                self.get(index).past(unit, from, inheritance.through, inheritance.since)
            };
            let mut theirs: Vec<(u64, u64)> = sources.iter().flat_map(|&source| past(source)).collect();
            theirs.sort_unstable();
            let own = past(heir);
            let sum = |past: &[(u64, u64)]| past.iter().map(|(_, cost)| cost).sum::<u64>();
            // What is its own has left by the others as well, as far as they remember.
            if sum(&own) > sum(&theirs) { own } else { theirs }
        });
        let pasts: SmallVec<[Vec<(u64, u64)>; 2]> = pasts.collect();
        let has_limits = !self.get(heir).buckets.is_empty();
        let others = sources.iter().filter(|&&source| source != heir && has_limits);
        let outstanding: u32 = others.map(|&source| self.get_mut(source).bequeath(inheritance.deed, heir)).sum();
        self.get_mut(heir).take_over(now, outstanding, pasts);
    }

    /// A request that was in flight when others inherited was really written at `now`.
    pub(crate) fn restamp_heirs(&mut self, source: KeyIndex, now: u64, permit: &Permit, after: u64) {
        for (heir, deed) in self.heirs(source, permit, after) {
            let buckets = &mut self.get_mut(heir).buckets;
            buckets.iter_mut().for_each(|bucket| bucket.restamp(permit.at, now, bucket.share_of(&permit.taken)));
            self.get_mut(heir).ahead.iter_mut().for_each(|ahead| ahead.restamp(now, permit));
            self.note_unwritten(heir);
            self.restamp_heirs(heir, now, permit, deed);
        }
    }

    /// A request that was in flight when others inherited is over. Heirs have heirs, by deeds of later numbers.
    pub(crate) fn settle_heirs(&mut self, source: KeyIndex, now: u64, permit: &Permit, spent: Spent, after: u64) {
        for (heir, deed) in self.heirs(source, permit, after) {
            let state = self.get_mut(heir);
            state.held -= 1;
            state.buckets.iter_mut().for_each(|bucket| settle_bucket(bucket, now, permit, spent));
            state.ahead.iter_mut().for_each(|ahead| ahead.settle(now, permit, spent));
            self.note_unwritten(heir);
            self.settle_heirs(heir, now, permit, spent, deed);
        }
        self.get_mut(source).close_deeds(permit, after);
    }

    /// Who inherits from a key what this permit stands for, by deeds after this one.
    fn heirs(&self, source: KeyIndex, permit: &Permit, after: u64) -> SmallVec<[(KeyIndex, u64); 4]> {
        let estate = self.get(source).estate.iter();
        let deeds = estate.flat_map(|estate| &estate.deeds).filter(|deed| deed.concerns(permit, after));
        deeds.flat_map(|deed| deed.heirs.iter().map(|&heir| (heir, deed.number))).collect()
    }
}

impl KeyState {
    /// The same key under other limits.
    pub(crate) fn set_limits(&mut self, now: u64, limits: &[Limit], guard: u64) {
        self.forget_retired(now);
        let mut buckets: SmallVec<[Bucket; 2]> = SmallVec::new();
        for &limit in limits {
            buckets.push(self.go_on(now, limit, guard).unwrap_or_else(|| self.begin(now, limit, guard)));
        }
        let old = std::mem::replace(&mut self.buckets, buckets);
        let retired = self.estate.iter_mut().flat_map(|estate| estate.retired.drain(..));
        let retired: Vec<(Bucket, u64)> =
            retired.filter(|(bucket, _)| !limits.iter().any(|&limit| bucket.is_for(limit))).collect();
        let gone = old.into_iter().filter(|bucket| !limits.iter().any(|&limit| bucket.is_for(limit)));
        let gone = gone.filter_map(|mut bucket| {
            let Bucket::Rate(rate) = &bucket else { return None };
            let until = now.saturating_add(rate.hold());
            bucket.retire(now);
            Some((bucket, until))
        });
        let retired: Vec<(Bucket, u64)> = gone.chain(retired).collect();
        if !retired.is_empty() {
            self.estate.get_or_insert_default().retired = retired;
        }
        self.forget_retired(now);
    }

    /// The bucket of the limit of the same unit and period, under this limit.
    fn go_on(&self, now: u64, limit: Limit, guard: u64) -> Option<Bucket> {
        if let Some(bucket) = self.buckets.iter().find(|bucket| bucket.is_for(limit)) {
            let mut bucket = bucket.clone();
            bucket.retune(now, limit, guard);
            return Some(bucket);
        }
        let (bucket, _) = self.estate.as_ref()?.retired.iter().find(|(bucket, _)| bucket.is_for(limit))?;
        let mut bucket = bucket.clone();
        bucket.retune(now, limit, guard);
        bucket.line_up(now, &self.typical(), self.waiting);
        Some(bucket)
    }

    /// A bucket for a limit of a new period. It knows of all that left by this key.
    fn begin(&self, now: u64, limit: Limit, guard: u64) -> Bucket {
        let mut bucket = match self.buckets.iter().filter(|bucket| bucket.is_alike(limit)).max_by_key(|b| b.period()) {
            Some(bucket) => {
                let mut bucket = bucket.clone();
                bucket.retune(now, limit, guard);
                bucket
            }
            None => self.join_late(now, limit, guard),
        };
        if let Bucket::Rate(rate) = &bucket {
            let past = self.past(rate.unit(), now.saturating_sub(rate.hold()), u64::MAX, now);
            bucket.look_back(now, &past);
        }
        bucket
    }

    fn rates(&self) -> impl Iterator<Item = &RateBucket> {
        self.buckets.iter().filter_map(|bucket| match bucket {
            Bucket::Rate(rate) => Some(&**rate),
            Bucket::Slots(_) => None,
        })
    }

    /// What has left by this key with permits up to `through`, which was at `since`, as far as that is remembered: the
    /// latest departures one by one, earlier ones by what a limit of the unit counts or counted.
    fn past(&self, unit: Unit, from: u64, through: u64, since: u64) -> Vec<(u64, u64)> {
        let history = self.taught.as_ref().map(|taught| taught.history());
        let begins = history.map_or(u64::MAX, |history| history.begins());
        let retired = self.estate.iter().flat_map(|estate| estate.retired.iter().map(|(bucket, _)| bucket));
        let rates = self.buckets.iter().chain(retired).filter_map(|bucket| match bucket {
            Bucket::Rate(rate) if rate.unit() == unit => Some(rate),
            _ => None,
        });
        let longest = rates.max_by_key(|rate| rate.hold());
        // A cell of which the latest departures know a part counts whole: that is the stricter side.
        let end = begins.min(since.saturating_add(1));
        let earlier = longest.into_iter().flat_map(|rate| rate.window.departures(end)).filter(|&(at, _)| at >= from);
        let recent = history.into_iter().flat_map(|history| history.up_to(through, unit)).filter(|&(at, _)| at >= from);
        let mut past: Vec<(u64, u64)> = earlier.chain(recent).filter(|(_, cost)| *cost > 0).collect();
        past.sort_unstable();
        past
    }

    /// Goes on from what left by others, and from what they have in flight.
    fn take_over(&mut self, now: u64, outstanding: u32, pasts: SmallVec<[Vec<(u64, u64)>; 2]>) {
        self.held += outstanding;
        let mut pasts = pasts.into_iter();
        for bucket in &mut self.buckets {
            match bucket {
                Bucket::Slots(slots) => slots.taken += outstanding,
                Bucket::Rate(_) => bucket.look_back(now, &pasts.next().unwrap_or_default()),
            }
        }
        self.hold_to_shares(now);
    }

    /// Writes down what is in flight, for heirs.
    fn draw_up(&mut self, number: u64, through: u64) {
        if self.held > 0 {
            let deed = Deed { number, through, outstanding: self.held, heirs: SmallVec::new() };
            self.estate.get_or_insert_default().deeds.push(deed);
        }
    }

    /// How many that were in flight then a new heir has to see the end of.
    fn bequeath(&mut self, number: u64, heir: KeyIndex) -> u32 {
        let mut deeds = self.estate.iter_mut().flat_map(|estate| &mut estate.deeds);
        let Some(deed) = deeds.find(|deed| deed.number == number) else { return 0 };
        deed.heirs.push(heir);
        deed.outstanding
    }

    fn close_deeds(&mut self, permit: &Permit, after: u64) {
        let Some(estate) = &mut self.estate else { return };
        for deed in estate.deeds.iter_mut().filter(|deed| deed.concerns(permit, after)) {
            deed.outstanding = deed.outstanding.saturating_sub(1);
        }
        estate.deeds.retain(|deed| deed.outstanding > 0);
        self.estate.take_if(|estate| estate.is_empty());
    }

    /// Forgets limits that are gone once nothing counts of what left under them.
    pub(crate) fn forget_retired(&mut self, now: u64) {
        if let Some(estate) = &mut self.estate {
            estate.retired.retain(|(_, until)| *until > now);
            self.estate.take_if(|estate| estate.is_empty());
        }
    }
}

impl Deed {
    fn concerns(&self, permit: &Permit, after: u64) -> bool {
        permit.nth <= self.through && self.number > after
    }
}

impl Estate {
    fn is_empty(&self) -> bool {
        self.retired.is_empty() && self.deeds.is_empty()
    }

    pub(crate) fn take(&mut self, now: u64, due: u64, cost: &Cost) {
        for (bucket, _) in &mut self.retired {
            bucket.expire(now);
            bucket.take(now, due, bucket.share_of(cost));
        }
    }

    pub(crate) fn restamp(&mut self, now: u64, permit: &Permit) {
        self.retired.iter_mut().for_each(|(bucket, _)| bucket.restamp(permit.at, now, bucket.share_of(&permit.taken)));
    }

    pub(crate) fn settle(&mut self, now: u64, permit: &Permit, spent: Spent) {
        self.retired.iter_mut().for_each(|(bucket, _)| settle_bucket(bucket, now, permit, spent));
    }

    /// Its heirs are in other places now.
    pub(crate) fn follow(&mut self, moved: &HashMap<KeyIndex, KeyIndex, RandomState>) {
        let heirs = self.deeds.iter_mut().flat_map(|deed| &mut deed.heirs);
        heirs.for_each(|heir| *heir = moved.get(heir).copied().unwrap_or(*heir));
    }
}
