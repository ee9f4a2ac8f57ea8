//! What a reload does to a line: other limits, other settings, and another line that it takes over. See ADR 0012.

use std::sync::Arc;
use std::time::Duration;

use cooldown_pacer::{Instant, Key, Limit, LimitsId, Pacer, Settings, Ticket};

use super::super::change::{Change, Legacy, Statement};
use super::super::shared::Watch;
use super::{Inner, Line, Outcome};

impl Line {
    /// States the lists of a change that are new, with what an earlier process wrote down of them. What has left before in
    /// this one counts for them once the change is made.
    pub(in super::super) fn announce(self: &Arc<Self>, change: &Change) {
        self.decide(|inner, now, _| {
            let new = change.statements.iter().filter(|statement| inner.pacer.limits(statement.id).is_empty());
            let new: Vec<&Statement> = new.collect();
            for Statement { id, limits, teaching, recalled, .. } in new {
                inner.pacer.state_limits(now, *id, limits.clone(), *teaching);
                for (subject, memory) in recalled {
                    memory.give_to(&mut inner.pacer, now, Key { limits: *id, subject: *subject });
                }
            }
        });
    }

    /// Makes a change of its limits, all of it at one instant. What has left stays counted. Who waits goes on waiting, or
    /// asks again if other lists may concern it now.
    pub(in super::super) fn change(self: &Arc<Self>, change: &Change) {
        self.decide(|inner, now, _| {
            if let Some(number) = change.regroups {
                inner.configuration = number;
                let all: Vec<Ticket> = inner.waiting.keys().copied().collect();
                inner.send_away(now, all, || Outcome::Elsewhere);
            }
            inner.note_gone(now, change);
            if let Some(sharer) = &change.sharer {
                let lists = change.statements.iter().filter(|list| list.shared).map(|list| list.id).collect();
                inner.watch.get_or_insert_with(|| Watch::new(sharer.clone())).set_lists(lists);
            }
            for Statement { id, limits, teaching, legacy, shared, .. } in &change.statements {
                inner.pacer.state_limits(now, *id, limits.clone(), *teaching);
                inner.pacer.share_limits(now, *id, *shared);
                match legacy {
                    Legacy::None => {}
                    Legacy::Of(from) => inner.pacer.inherit(now, *id, from.clone()),
                    Legacy::OfMoved(from) => inner.newcomers.push((*id, from.clone(), now.after(longest(limits)))),
                }
            }
            inner.newcomers.retain(|(.., until)| *until > now);
            if inner.gone_until > now {
                for (id, from, _) in std::mem::take(&mut inner.newcomers) {
                    inner.pacer.inherit(now, id, from);
                }
            }
        });
    }

    /// Whether a list of limits has any.
    pub(in super::super) fn has_limits(&self, id: LimitsId) -> bool {
        self.look(|pacer, _| !pacer.limits(id).is_empty())
    }

    /// Whether this line, or the one that has taken it over, is that one.
    pub(in super::super) fn is_now(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let moved = self.inner.lock().moved.as_ref().map(|(line, _)| Arc::clone(line));
        moved.map_or_else(|| Arc::ptr_eq(self, other), |line| line.is_now(other))
    }

    /// Replaces what holds for all of it.
    pub(in super::super) fn set_settings(self: &Arc<Self>, settings: Settings) {
        self.decide(|inner, now, _| inner.pacer.set_settings(now, settings));
    }

    /// Whether anything is known about a list of limits that somebody could still be held up by.
    pub(in super::super) fn remembers(self: &Arc<Self>, id: LimitsId) -> bool {
        self.decide(|inner, now, _| inner.pacer.remembers(now, id))
    }

    /// Takes over everything from another line: limits, who waits, and permits. What that one is asked from now on is
    /// asked here. Two lines never take over each other, so that the order of their locks is certain.
    pub(in super::super) fn absorb(self: &Arc<Self>, other: &Arc<Self>) {
        let mut left = other.inner.lock();
        self.decide(|inner, now, line| {
            let pacer = std::mem::replace(&mut left.pacer, Pacer::new(Settings::default()));
            let moved = inner.pacer.absorb(now, pacer);
            let ticket = |ticket| moved.ticket(ticket);
            let waiting = left.waiting.drain().filter_map(|(old, tell)| Some((ticket(old)?, tell)));
            inner.waiting.extend(waiting);
            let movable = left.movable.drain().filter_map(|(old, keys)| Some((ticket(old)?, keys)));
            inner.movable.extend(movable);
            inner.gone_until = inner.gone_until.max(left.gone_until);
            inner.newcomers.append(&mut left.newcomers);
            Watch::join(&mut inner.watch, left.watch.take());
            inner.watch.iter_mut().for_each(|watch| watch.moved(line));
            left.moved = Some((Arc::clone(line), moved));
        });
    }
}

impl Inner {
    /// Remembers for how long those limits matter that a change takes away.
    fn note_gone(&mut self, now: Instant, change: &Change) {
        let lists = change.statements.iter().map(|list| (list.id, &list.limits[..]));
        for (id, limits) in lists.chain(change.gone.iter().map(|id| (*id, &[][..]))) {
            let gone = self.pacer.limits(id).iter().filter(|limit| !limits.contains(limit));
            let lasting = gone.map(|limit| longest(std::slice::from_ref(limit))).max().unwrap_or_default();
            self.gone_until = self.gone_until.max(now.after(lasting));
        }
    }
}

/// For how long one of these limits remembers. A number in flight only looks at what is: a little more than nothing.
fn longest(limits: &[Limit]) -> Duration {
    let lasting = limits.iter().map(|limit| match limit {
        Limit::Rate(rate) => rate.period() + rate.period() / 10,
        Limit::Concurrency(_) => Duration::from_secs(1),
    });
    lasting.max().unwrap_or_default()
}
