//! What is held of which limits: those that a configuration names as long as it does, others while somebody uses them.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use cooldown_pacer::share::Which;
use cooldown_pacer::{Instant, Key, Limit};
use foldhash::fast::RandomState;

use super::super::line::Line;
use super::SharedList;
use super::held::{self, Held, Shape};
use super::task::{Link, Task};
use super::watch::Taught;

/// How many limits of keys are held that come and go with requests; those beyond are a stranger's.
const MOST_HELD: usize = 4096;

impl Task {
    /// Looks at the keys that somebody waits for.
    pub(super) fn look_at_callers(&mut self, now: Instant) {
        for line in std::mem::take(&mut self.calling).iter().filter_map(Weak::upgrade) {
            line.asked().into_iter().for_each(|key| self.look_at_key(now, &line, key));
        }
    }

    /// Holds all limits of a key that somebody waits for, and looks soon at those that are held.
    fn look_at_key(&mut self, now: Instant, line: &Arc<Line>, key: Key) {
        let stated = self.lists.get(&key.limits).map_or(&[][..], |list| &list.limits);
        let stated = stated.iter().enumerate().map(|(nth, limit)| (Which::Stated(nth), *limit));
        let stated = stated.map(|(which, limit)| Taught { which, limit, is_claimed: false });
        let all: Vec<Taught> = stated.chain(line.taught(key)).collect();
        for Taught { which, limit, is_claimed } in &all {
            match self.index.get(&(key, *which)) {
                Some(&slot) => self.plan(slot, now.min(self.held[slot].due)),
                None => self.hold(now, (key, *which), *limit, *is_claimed),
            }
        }
        if all.is_empty() || !self.holds_all(key, &all) {
            line.forget_asked(key);
        }
    }

    /// Holds what upstreams have taught of a key that is in use; or else only what the store must know of. Whatever is not
    /// held then, whoever waits next asks for.
    pub(super) fn hold_taught(&mut self, key: Key, is_in_use: bool) {
        let Some(line) = self.lists.get(&key.limits).map(|list| Arc::clone(&list.line)) else { return };
        let now = self.clock.now();
        let all = line.taught(key);
        for Taught { which, limit, is_claimed } in &all {
            if (is_in_use || *is_claimed) && !self.index.contains_key(&(key, *which)) {
                self.hold(now, (key, *which), *limit, *is_claimed);
            }
        }
        if !self.holds_all(key, &all) {
            line.forget_asked(key);
        }
    }

    fn holds_all(&self, key: Key, all: &[Taught]) -> bool {
        all.iter().all(|taught| self.index.contains_key(&(key, taught.which)))
    }

    fn hold(&mut self, now: Instant, (key, which): (Key, Which), limit: Limit, is_claimed: bool) {
        let Some(list) = self.lists.get(&key.limits) else { return };
        if self.held.len() >= MOST_HELD && !list.lasting.contains(&key) {
            if !std::mem::replace(&mut self.was_full, true) {
                tracing::warn!(
                    most = MOST_HELD,
                    "more limits are in use than are shared: the rest has a small fixed part"
                );
            }
            return;
        }
        self.count += 1;
        let name = held::name(&self.prefix, list, key.subject, which);
        let shape = Shape { every: self.every, longest: self.longest, now };
        let mut held = Held::new(list, (key, which), limit, (name, self.count), shape);
        // Who cannot ask the store has an equal part of what was taught.
        if !matches!(which, Which::Stated(_)) && (is_claimed || !matches!(self.link, Link::Up(_))) {
            held.claim(self.company);
        }
        let slot = self.held.insert(held);
        self.index.insert((key, which), slot);
        self.schedule.change(slot, now, now);
        self.figures.limits.store(self.held.len() as u64, Relaxed);
    }

    /// Other lists are shared now. What is found again goes on.
    pub(super) fn state(&mut self, lists: Vec<SharedList>) {
        let now = self.clock.now();
        self.lists = lists.into_iter().map(|list| (list.id, list)).collect();
        if matches!(self.link, Link::Down { until: Instant::NEVER }) {
            self.link = Link::Down { until: now };
        }
        self.lists.values().for_each(|list| list.line.set_company(self.company));
        let mut found: HashMap<(Key, Which), usize, RandomState> = HashMap::default();
        let slots: Vec<usize> = self.held.iter().map(|(slot, _)| slot).collect();
        let mut gone = Vec::new();
        for slot in slots {
            let held = &mut self.held[slot];
            let place = self.lists.get(&held.key.limits).and_then(|list| {
                let stated = (0..list.limits.len()).map(Which::Stated);
                let which = match held.which() {
                    Which::Stated(_) => stated.collect(),
                    taught => vec![taught],
                };
                let named = |which: &Which| held::name(&self.prefix, list, held.key.subject, *which) == held.name;
                which.into_iter().find(named).map(|which| (list, which))
            });
            match place {
                Some((list, which)) => {
                    held.go_on(list, which, self.longest);
                    found.insert((held.key, which), slot);
                }
                None => gone.push(slot),
            }
        }
        gone.into_iter().for_each(|slot| self.leave_one(slot));
        self.index = found;
        self.index.values().for_each(|&slot| {
            let before = std::mem::replace(&mut self.held[slot].due, now);
            self.schedule.change(slot, before, now);
        });
        let lasting = self.lists.values().flat_map(|list| {
            let stated = || list.limits.iter().enumerate().map(|(nth, limit)| (Which::Stated(nth), *limit));
            list.lasting.iter().flat_map(move |key| stated().map(|(which, limit)| ((*key, which), limit)))
        });
        let new: Vec<_> = lasting.filter(|(place, _)| !self.index.contains_key(place)).collect();
        new.into_iter().for_each(|(place, limit)| self.hold(now, place, limit, false));
        self.look_at_all(now);
    }

    /// A list may have got limits of which nothing is held, and those who wait may have come before it was known here.
    fn look_at_all(&mut self, now: Instant) {
        self.held.iter().for_each(|(_, held)| held.forget_asked());
        let lines: Vec<_> = self.lists.values().map(|list| (list.id, Arc::clone(&list.line))).collect();
        for (id, line) in lines {
            line.waited_for(id).into_iter().for_each(|key| self.look_at_key(now, &line, key));
        }
    }

    fn leave_one(&mut self, slot: usize) {
        if let (Some(renewal), Link::Up(connection)) = (self.held[slot].leave(true), &self.link) {
            self.say(&connection.clone(), slot, renewal);
        }
        self.forget(slot);
    }

    pub(super) fn forget(&mut self, slot: usize) {
        let held = self.held.remove(slot);
        held.forget_asked();
        self.schedule.remove(slot, held.due);
        self.index.retain(|_, known| *known != slot);
        self.figures.limits.store(self.held.len() as u64, Relaxed);
    }

    pub(super) fn plan(&mut self, slot: usize, due: Instant) {
        let before = std::mem::replace(&mut self.held[slot].due, due);
        self.schedule.change(slot, before, due);
    }
}
