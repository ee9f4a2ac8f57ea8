//! The store's side: who holds how much. The script `renew.lua` does the same, line by line, and a test holds it to this.

use std::collections::BTreeMap;

use super::divide::{Claim, divide};
use super::message::{Answer, Outcome, Renewal};
use super::terms;

/// How many instances one limit may have.
pub(super) const MOST_INSTANCES: u64 = 1000;
/// The clock of the machine may jump; between two renewals it moves no further than this, in milliseconds.
const LONGEST_STEP: u64 = 500;
/// Parts are told in so many, so that products stay exact.
const GRAINS: u64 = 4096;
/// Weights beyond this make no difference, so that products stay exact.
const LARGEST_WEIGHT: u64 = 4000;

/// What the store remembers about one limit.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Which process remembers it: another one may have an older memory.
    server: String,
    generation: u64,
    /// What the machine's clock said last.
    time: u64,
    /// Milliseconds that have passed for sure.
    now: u64,
    /// Nothing is given before then; zero when nothing was lost.
    recovers: u64,
    /// All floors that were told of while it recovers.
    told_floors: u64,
    /// Floors of those that were never heard of since.
    orphans: u64,
    orphans_until: u64,
    /// How many instances there were when memory was lost, as far as anybody has told since.
    told: u64,
    /// How many of them have come back. While there are fewer, somebody is missing, and the orphans may be theirs.
    returned: u64,
    entries: BTreeMap<String, Entry>,
}

/// What is known of one instance.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// Which start of the instance this is; empty when it has left.
    boot: String,
    number: u64,
    held: u64,
    floor: u64,
    lease: u64,
    /// What earlier starts of it held, which may still be in a window.
    past: u64,
    past_until: u64,
    want: u64,
    need: u64,
    weight: u64,
    /// All floors that it knows of.
    knows: u64,
    /// How many instances it was told of.
    told: u64,
    /// What it has come as since memory was lost.
    came: Came,
}

/// What an instance has come as since memory was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Came {
    /// It was not heard; what is remembered of it may be old.
    #[default]
    Remembered,
    /// It was there before. A late copy of what it once said looks the same, so that it counts when it has heard us.
    Returning,
    /// It has returned.
    Here,
    /// It was not there before, as far as it says: a late copy of its first words would say the same.
    New,
}

/// What an instance should hold, its floor, and all floors as they should be.
struct Aim {
    target: u64,
    floor: u64,
    floors: u64,
}

impl Ledger {
    /// Hears a renewal of the instance `name`, of its start `boot`, at `time` milliseconds of the machine's clock; `server`
    /// names the process that answers.
    pub fn renew(&mut self, time: u64, server: &str, name: &str, boot: &str, renewal: &Renewal) -> Answer {
        self.tick(time, server, renewal);
        self.let_go(renewal);
        if let Some(outcome) = self.hear(name, boot, renewal) {
            return self.answer(outcome, renewal, [0; 3], 0);
        }
        if renewal.leaves {
            return self.answer(Outcome::Renewed, renewal, [0; 3], 0);
        }
        if self.recovers > 0 {
            self.told_floors = self.told_floors.max(renewal.floors);
            let Entry { held, floor, .. } = self.entries[name];
            let target = self.fitting(held, renewal.terms.amount);
            return self.answer(Outcome::Recovering, renewal, [held, target, floor], self.told_floors);
        }
        let Aim { target, floor, floors } = self.aim(name, renewal);
        let floor = self.give(name, renewal, target, floor);
        let held = self.entries[name].held;
        self.answer(Outcome::Renewed, renewal, [held, target.min(held), floor], floors)
    }

    fn tick(&mut self, time: u64, server: &str, renewal: &Renewal) {
        if self.server != server {
            // Nothing is remembered, or perhaps not the latest.
            self.server = server.to_owned();
            self.generation = time;
            self.time = time;
            self.recovers = self.now + renewal.terms.recovery();
            // Orphans among them may be heard of again, and whoever was heard of may have become one.
            self.told_floors = self.floors() + std::mem::take(&mut self.orphans);
            (self.told, self.returned) = (self.all(), 0);
            self.entries.values_mut().for_each(|entry| entry.came = Came::Remembered);
        }
        self.now += time.saturating_sub(self.time).min(LONGEST_STEP);
        self.time = time;
        if self.recovers > 0 && self.now > self.recovers {
            self.recovers = 0;
            // Floors were told of as they were to be: if all are here, the rest has never been given.
            self.orphans = if self.is_missing() { self.told_floors.saturating_sub(self.floors()) } else { 0 };
            self.orphans_until = self.now + renewal.terms.lease() + renewal.terms.forget();
        }
        if self.recovers == 0 && self.now > self.orphans_until {
            (self.orphans, self.told, self.returned) = (0, 0, 0);
        }
    }

    /// What silent instances can no longer use is free.
    fn let_go(&mut self, renewal: &Renewal) {
        let (now, hold, forget) = (self.now, renewal.terms.hold, renewal.terms.forget());
        self.entries.retain(|_, entry| {
            if now > entry.past_until {
                entry.past = 0;
            }
            if now > entry.lease + hold {
                entry.held = entry.floor;
            }
            if entry.boot.is_empty() { entry.past > 0 } else { now <= entry.lease + forget }
        });
    }

    /// Writes down what an instance says; what became of it, if it is not heard.
    fn hear(&mut self, name: &str, boot: &str, renewal: &Renewal) -> Option<Outcome> {
        let full = self.entries.len() as u64 >= MOST_INSTANCES;
        let (hold, lease) = (renewal.terms.hold, self.now + renewal.terms.lease());
        // A lease has time to spare for a clock that jumps; what is over without one needs it too.
        let sure = self.now + LONGEST_STEP;
        let is_new = !self.entries.contains_key(name);
        if is_new && full {
            return Some(Outcome::Full);
        }
        let is_stale = |entry: &Entry| entry.boot == boot && renewal.number <= entry.number;
        if self.entries.get(name).is_some_and(is_stale) {
            return Some(Outcome::Stale);
        }
        self.count(name, boot, renewal);
        let entry = self.entries.entry(name.to_owned()).or_default();
        if entry.boot != boot {
            if entry.held > 0 {
                entry.past += entry.held;
                entry.past_until = entry.past_until.max(entry.lease.max(sure) + hold);
            }
            entry.boot = boot.to_owned();
        }
        entry.number = renewal.number;
        entry.held = renewal.held.max(renewal.floor);
        entry.floor = renewal.floor;
        entry.lease = lease;
        entry.want = renewal.want.min(renewal.terms.amount);
        entry.need = renewal.need.min(renewal.terms.amount);
        entry.weight = renewal.weight.clamp(1, LARGEST_WEIGHT);
        (entry.knows, entry.told) = (renewal.floors, renewal.instances);
        if renewal.leaves {
            entry.past += entry.held;
            entry.past_until = entry.past_until.max(sure + hold);
            (entry.boot, entry.held, entry.floor, entry.lease) = (String::new(), 0, 0, 0);
        }
        None
    }

    /// Counts those that were there when memory was lost: how many they were, as they say, and how many are back.
    fn count(&mut self, name: &str, boot: &str, renewal: &Renewal) {
        let entry = self.entries.entry(name.to_owned()).or_default();
        let knows_us = renewal.generation == self.generation;
        if !knows_us {
            // What we have told ourselves is no news, and has newcomers in it.
            self.told = self.told.max(renewal.instances);
        }
        let was_there = renewal.settled && !knows_us;
        if entry.came == Came::Remembered && was_there && self.recovers == 0 {
            self.orphans -= self.orphans.min(renewal.floor.saturating_sub(entry.floor));
        }
        if entry.came == Came::Returning && entry.boot == boot && knows_us {
            entry.came = Came::Here;
            self.returned += 1;
            if self.recovers == 0 && !self.is_missing() {
                self.orphans = 0;
            }
        } else if entry.came != Came::Here {
            entry.came = if was_there { Came::Returning } else { Came::New };
        }
    }

    /// Whether somebody who may use a floor has not come back since memory was lost.
    fn is_missing(&self) -> bool {
        self.returned < self.told
    }

    /// What an instance should hold, and its floor.
    fn aim(&self, name: &str, renewal: &Renewal) -> Aim {
        let amount = renewal.terms.amount;
        let mut capacity = amount - self.reserve(amount);
        let mut fixed = self.orphans;
        let mut claims = Vec::new();
        let (mut own, mut own_floor, mut floors) = (0, 0, self.orphans);
        let all = self.instances();
        for (rank, (other, entry)) in self.known().enumerate() {
            if entry.lease < self.now {
                fixed += entry.held;
                floors += entry.floor;
                continue;
            }
            let floor = floor(amount, entry.want, all, rank as u64);
            if other == name {
                (own, own_floor) = (claims.len(), floor);
            }
            floors += floor;
            claims.push(Claim { want: entry.want.max(floor), need: entry.need, weight: entry.weight });
        }
        fixed += self.entries.values().map(|entry| entry.past).sum::<u64>();
        capacity -= capacity.min(fixed);
        let targets = divide(capacity, &claims, renewal.terms.spare(), self.now / renewal.terms.turn());
        Aim { target: targets[own], floor: own_floor, floors: floors.min(terms::most_floors(amount)) }
    }

    /// What an instance should come down to while nothing is given: all of what it holds, unless all together hold more
    /// than there is. That happens where they divided a new limit by themselves, or it has become smaller.
    fn fitting(&self, held: u64, amount: u64) -> u64 {
        let all: u64 = self.entries.values().map(|entry| entry.held + entry.past).sum();
        if all <= amount { held } else { held * (amount * GRAINS / all) / GRAINS }
    }

    /// Raises what an instance holds towards its target as far as there is something free, and its floor with it.
    fn give(&mut self, name: &str, renewal: &Renewal, target: u64, floor: u64) -> u64 {
        let amount = renewal.terms.amount;
        let held: u64 = self.entries.values().map(|entry| entry.held + entry.past).sum();
        let free = amount.saturating_sub(self.reserve(amount) + self.orphans + held);
        let (told_floors, told) = self.told_to_others(name);
        let floors = if told < self.all() { 0 } else { told_floors.min(terms::most_floors(amount)) };
        let floors = floors.saturating_sub(self.floors() + self.orphans);
        let Some(entry) = self.entries.get_mut(name) else { return 0 };
        entry.held += target.saturating_sub(entry.held).min(free);
        let floor = floor.min(entry.held);
        // A lower one is written down when the instance says that it has it.
        entry.floor += floor.saturating_sub(entry.floor).min(floors);
        floor.min(entry.floor)
    }

    /// All floors that every other instance knows of, and how many instances. No floor is raised beyond that, or before:
    /// when the store loses its memory, whoever is there can tell of those that are cut off.
    fn told_to_others(&self, name: &str) -> (u64, u64) {
        let others = self.known().filter(|(other, entry)| *other != name && entry.lease >= self.now);
        others.fold((u64::MAX, u64::MAX), |(floors, told), (_, entry)| (floors.min(entry.knows), told.min(entry.told)))
    }

    /// What is kept for strangers. The floor of a silent instance does as well: nearly always it is dead.
    fn reserve(&self, amount: u64) -> u64 {
        let silent = self.known().filter(|(_, entry)| entry.lease < self.now).map(|(_, entry)| entry.floor);
        terms::reserve(amount).saturating_sub(silent.sum::<u64>() + self.orphans)
    }

    fn answer(&self, outcome: Outcome, renewal: &Renewal, [held, target, floor]: [u64; 3], floors: u64) -> Answer {
        Answer {
            outcome,
            number: renewal.number,
            held,
            target,
            floor,
            floors: floors.max(self.floors() + self.orphans),
            instances: self.all(),
            generation: self.generation,
        }
    }

    /// Those that have not left.
    fn known(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter().filter(|(_, entry)| !entry.boot.is_empty())
    }

    fn instances(&self) -> u64 {
        self.known().count() as u64
    }

    /// The same with those that are missing. Among them may be any that are only remembered.
    fn all(&self) -> u64 {
        let that = |came: Came| self.known().filter(|(_, entry)| entry.came == came).count() as u64;
        let (remembered, returning) = (that(Came::Remembered), that(Came::Returning));
        let missing = self.told.saturating_sub(self.returned + returning);
        self.instances() - remembered + remembered.max(missing)
    }

    fn floors(&self) -> u64 {
        self.entries.values().map(|entry| entry.floor).sum()
    }
}

/// The floor of one of `all` instances: an equal part of what the busy or the idle ones may have. What cannot be divided is
/// for the busy ones that come first.
fn floor(amount: u64, want: u64, all: u64, rank: u64) -> u64 {
    if want == 0 {
        return terms::idle_floors(amount) / all;
    }
    let floors = terms::floors(amount, all);
    floors / all + u64::from(rank < floors % all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_are_all_that_they_may_be_to_the_last_unit() {
        for (amount, all) in [(60, 1), (60, 2), (60, 3), (60, 4), (60, 7), (60, 40), (7, 3), (1_000_000_000, 6)] {
            let sum: u64 = (0..all).map(|rank| floor(amount, 1, all, rank)).sum();
            assert_eq!(sum, terms::floors(amount, all), "{amount} for {all}");
            assert!(sum <= terms::most_floors(amount));
        }
        assert!((0..5).map(|rank| floor(60, 1, 5, rank)).sum::<u64>() >= 60 * 3 / 10, "three tenths flow on for ever");
        assert!(floor(60, 1, 3, 0) == 4, "without one of three, the others have more than nine tenths");
    }
}
