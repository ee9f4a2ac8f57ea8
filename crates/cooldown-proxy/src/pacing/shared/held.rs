//! What this instance holds of one limit of one key.

use std::sync::Arc;
use std::time::Duration;

use cooldown_pacer::share::{Answer, Holder, Renewal, Share, Terms, Usage, Which};
use cooldown_pacer::{Instant, Key, Limit};

use super::super::line::Line;
use super::SharedList;

/// A key that nobody uses is held for this long; those that last, always.
const IDLE: Duration = Duration::from_secs(10);
/// What a reload changed is known here after this.
const RELOADED: Duration = Duration::from_millis(50);

/// What this instance holds of one limit of one key.
#[derive(Debug)]
pub(super) struct Held {
    /// What all instances call the limit of this key: a key of the store.
    pub name: String,
    /// Which holding this is: no other one, before or after, has this number.
    pub number: u64,
    pub key: Key,
    line: Arc<Line>,
    which: Which,
    limit: Limit,
    holder: Holder,
    shape: Shape,
    /// Whether it is held without use, too.
    lasts: bool,
    used: Instant,
    /// When it is looked at next.
    pub due: Instant,
    /// When the store began to remember, as it last said.
    generation: u64,
}

/// What comes of a look.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing before then.
    Later(Instant),
    /// This is to be said.
    Renew(Renewal),
    /// Nobody uses it any more, and this is to be said.
    Leave(Renewal),
    /// There is no such limit any more.
    Gone,
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// Whether the store had lost its memory.
    pub forgot: bool,
    /// When it is looked at next.
    pub due: Instant,
}

impl Held {
    /// Holds nothing yet of a limit of a list, which is that at present.
    pub(super) fn new(
        list: &SharedList,
        (key, which): (Key, Which),
        limit: Limit,
        (name, number): (String, u64),
        shape: Shape,
    ) -> Self {
        Self {
            name,
            number,
            key,
            line: Arc::clone(&list.line),
            which,
            limit,
            holder: Holder::new(shape.terms(which, limit), shape.every),
            shape,
            lasts: list.lasting.contains(&key),
            used: shape.now,
            due: shape.now,
            generation: 0,
        }
    }

    /// The list is another one now, of which it is this limit.
    pub(super) fn go_on(&mut self, list: &SharedList, which: Which, longest: Duration) {
        self.line = Arc::clone(&list.line);
        self.which = which;
        if let Which::Stated(nth) = which {
            self.limit = list.limits[nth];
        }
        self.lasts = list.lasting.contains(&self.key);
        self.shape.longest = longest;
        self.holder.set_terms(self.shape.terms(which, self.limit));
    }

    /// Which limit of its key it is.
    pub(super) fn which(&self) -> Which {
        self.which
    }

    /// Takes an equal part of a limit that so many instances have just become acquainted with, unless the store has said
    /// what it holds.
    pub(super) fn claim(&mut self, instances: u64) {
        let Self { holder, .. } = self;
        holder.claim(instances);
        self.line.hold(self.key, self.which, self.limit, |_, _, _| (Some(holder.share()), ()));
    }

    /// Says what it holds if that is due, having come down to it at the same instant.
    pub(super) fn look(&mut self) -> Look {
        let Self { holder, used, lasts, limit, shape, which, .. } = self;
        let expected = *limit;
        let looked = self.line.hold(self.key, *which, expected, |now, there, usage| {
            if there != *limit {
                *limit = there;
                holder.set_terms(shape.terms(*which, there));
            }
            let is_used = usage.is_some_and(|usage| usage.used > 0 || usage.waiting > 0);
            let usage = usage.unwrap_or_default();
            if is_used || *lasts {
                *used = now;
            }
            let due = holder.due(&usage);
            if due > now {
                return (None, Look::Later(due));
            }
            if now.since(*used) > IDLE {
                return (Some(Share::of_stranger(*limit)), Look::Leave(holder.leave(now, &usage)));
            }
            let renewal = holder.renew(now, &usage);
            (Some(holder.share()), Look::Renew(renewal))
        });
        looked.unwrap_or_else(|| match self.which {
            Which::Stated(_) => Look::Later(self.due.after(RELOADED)),
            Which::Told(..) | Which::Found => Look::Gone,
        })
    }

    /// Whoever waits for its key next is news.
    pub(super) fn forget_asked(&self) {
        self.line.forget_asked(self.key);
    }

    /// When to look after a renewal that is not answered.
    pub(super) fn patience(&self) -> Instant {
        self.holder.due(&Usage::default())
    }

    /// The store answered. `None` if that says nothing any more.
    pub(super) fn hear(&mut self, answer: &Answer) -> Option<Heard> {
        let Self { holder, .. } = self;
        let due = self.line.hold(self.key, self.which, self.limit, |_, _, usage| match holder.hear(answer) {
            true => (Some(holder.share()), Some(holder.due(&usage.unwrap_or_default()))),
            false => (None, None),
        })??;
        let before = std::mem::replace(&mut self.generation, answer.generation);
        Some(Heard { forgot: before != 0 && before != answer.generation, due })
    }

    /// Gives everything back. What leaves later has a stranger's share, if `comes_back`, and none otherwise. `None` where
    /// nobody knows what has left: then it is over with its lease.
    pub(super) fn leave(&mut self, comes_back: bool) -> Option<Renewal> {
        let Self { holder, limit, .. } = self;
        self.line.hold(self.key, self.which, *limit, |now, _, usage| {
            let renewal = holder.leave(now, &usage.unwrap_or_default());
            let share = if comes_back { Share::of_stranger(*limit) } else { holder.share() };
            (Some(share), renewal)
        })
    }
}

/// What all holdings have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// How often one is renewed.
    pub every: Duration,
    /// How long a request may be in flight.
    pub longest: Duration,
    pub now: Instant,
}

impl Shape {
    /// A part of a found rate is given back at once, unlike a place in flight.
    fn terms(&self, which: Which, limit: Limit) -> Terms {
        let in_flight = if which == Which::Found { Duration::from_secs(1) } else { self.longest };
        Terms::new(limit, in_flight)
    }
}

/// What all instances call a limit of a key, whatever its amount: a key of the store, all of which is one slot of a Cluster.
pub(super) fn name(prefix: &str, list: &SharedList, subject: u64, which: Which) -> String {
    let what = match which {
        Which::Stated(nth) => of_stated(list, nth),
        // What all instances call by one name is what they were told in the same words, or told each other.
        Which::Told(unit, period) => format!("told {unit}/{} ms", period.as_millis()),
        Which::Found => "found".to_owned(),
    };
    let list = list.name.replace(['{', '}'], "_");
    format!("{prefix}:{{{list} {subject:016x} {what}}}")
}

fn of_stated(list: &SharedList, nth: usize) -> String {
    let limit = list.limits[nth];
    // Of several limits that count the same over the same period the order decides, and that of the amounts is everywhere
    // the same.
    let is_before = |other: &Limit, at: usize| (amount(*other), at) < (amount(limit), nth);
    let alike = list.limits.iter().enumerate().filter(|(_, other)| counts_alike(**other, limit));
    let rank = alike.filter(|(at, other)| is_before(other, *at)).count();
    let number = if rank == 0 { String::new() } else { format!(" #{}", rank + 1) };
    format!("{}{number}", kind(limit))
}

/// Whether two limits are one whose amount may have changed.
pub(super) fn counts_alike(one: Limit, other: Limit) -> bool {
    match (one, other) {
        (Limit::Rate(one), Limit::Rate(other)) => (one.unit(), one.period()) == (other.unit(), other.period()),
        (Limit::Concurrency(_), Limit::Concurrency(_)) => true,
        _ => false,
    }
}

fn kind(limit: Limit) -> String {
    match limit {
        Limit::Rate(rate) => format!("{}/{} ms", rate.unit(), rate.period().as_millis()),
        Limit::Concurrency(_) => "in flight".to_owned(),
    }
}

fn amount(limit: Limit) -> u64 {
    match limit {
        Limit::Rate(rate) => rate.amount(),
        Limit::Concurrency(most) => u64::from(most.get()),
    }
}

#[cfg(test)]
mod tests {
    use cooldown_pacer::{LimitsId, Settings};

    use super::super::super::alarm::AlarmThread;
    use super::super::super::clock::Clock;
    use super::*;
    use crate::config;

    fn list(limits: &[&str], name: &str) -> (SharedList, AlarmThread) {
        let clock = Clock::start();
        let thread = AlarmThread::start(clock).expect("a thread");
        let line = Line::new(Settings::default(), clock, thread.alarm(), None);
        let limits = limits.iter().map(|text| config::limit(text).expect("a limit")).collect();
        let id = LimitsId::new(0);
        (SharedList { line, id, name: name.to_owned(), upstream: None, limits, lasting: Vec::new() }, thread)
    }

    #[test]
    fn a_limit_is_called_the_same_whatever_its_amount_and_its_place() {
        let (one, _thread) = list(&["10/s", "600/min", "8 concurrent"], "client {a}");
        let (other, _thread) = list(&["9 concurrent", "900/min", "20/s"], "client {a}");
        for (nth, place) in [(0, 2), (1, 1), (2, 0)] {
            assert_eq!(
                name("cooldown", &one, 7, Which::Stated(nth)),
                name("cooldown", &other, 7, Which::Stated(place))
            );
        }
        assert_eq!(
            name("cooldown", &one, 7, Which::Stated(0)),
            "cooldown:{client _a_ 0000000000000007 requests/1000 ms}"
        );
    }

    #[test]
    fn limits_that_count_the_same_have_names_of_their_own() {
        let (one, _thread) = list(&["10/s", "20/s"], "x");
        let (other, _thread) = list(&["20/s", "10/s"], "x");
        let name = |list, nth| name("p", list, 0, Which::Stated(nth));
        assert_eq!(name(&one, 0), name(&other, 1));
        assert_ne!(name(&one, 0), name(&one, 1));
    }
}
