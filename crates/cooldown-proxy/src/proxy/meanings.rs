//! What an upstream means by what it says about limits: found out by comparing its responses.

use std::collections::HashMap;
use std::time::Duration;

use cooldown_pacer::{Instant, Key, Refill, Told, Unit};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::provider::{Basis, Meaning, Reset, Statement, tell_apart};

/// More limits than this are not remembered: then all are forgotten, and compared anew.
const MOST: usize = 1000;
/// How many responses more must say one thing than the other before a reset is taken for it.
const VOTES: i8 = 2;
const MOST_VOTES: i8 = 8;
/// How many responses in a row must lead to the same window before it is believed, or to another before it is not.
const AGREED: u8 = 3;

/// What is known of an upstream's limits.
#[derive(Debug, Default)]
pub(super) struct Meanings(Mutex<HashMap<Name, Heard, RandomState>>);

/// What tells one limit from another: whose it is, what it counts, how much it allows.
type Name = (Key, Unit, Option<u64>);

/// What was heard of one limit.
#[derive(Debug, Clone, Copy)]
struct Heard {
    /// An earlier response that later ones are compared with, and when it came. It stays until one tells something: between
    /// two that follow each other closely, a reset that stands still looks like one that runs down.
    said: Statement,
    at: Instant,
    /// Positive where resets looked like times to a full bucket, negative where they looked like ends of windows.
    votes: i8,
    window: Window,
}

/// A window that nobody states, and how certain it is.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    /// What the last responses led to.
    likely: Option<Duration>,
    agreed: u8,
    /// How much was used when they did. A window that follows from one amount alone may be an accident.
    used: Option<u64>,
    amounts: u8,
    believed: Option<Duration>,
}

impl Meanings {
    /// What a statement about a key's limit tells a pacer. How much is left means nothing by itself: not without the time
    /// after which there is more.
    pub(super) fn told(&self, key: Key, said: &Statement, now: Instant) -> Option<Told> {
        let (votes, believed) = self.compare(key, said, now);
        let period = said.window.filter(|_| said.basis == Basis::Stated).or(believed);
        if period.is_none() && said.reset.is_none() {
            return None;
        }
        let refill = said.reset.map(|reset| refill(reset, votes));
        Some(Told { unit: said.axis, amount: said.limit, period, left: said.remaining, refill })
    }

    /// What earlier responses tell about this one: votes about its reset, and the window that it leaves open.
    fn compare(&self, key: Key, said: &Statement, now: Instant) -> (i8, Option<Duration>) {
        let mut heard = self.0.lock();
        let name = (key, said.axis, said.limit);
        if heard.len() >= MOST && !heard.contains_key(&name) {
            heard.clear();
        }
        let Some(known) = heard.get_mut(&name) else {
            heard.insert(name, Heard { said: *said, at: now, votes: 0, window: Window::default() });
            return (0, None);
        };
        let apart = now.since(known.at);
        let meaning = tell_apart(&known.said, said, apart);
        match meaning {
            Some(Meaning::ToFull) => known.votes = (known.votes + 1).min(MOST_VOTES),
            Some(Meaning::WindowEnd) => known.votes = (known.votes - 1).max(-MOST_VOTES),
            Some(Meaning::Unknown) | None => {}
        }
        known.window.hear(said);
        if meaning.is_some() || is_no_measure(&known.said, apart) {
            (known.said, known.at) = (*said, now);
        }
        (known.votes, known.window.believed)
    }
}

/// Whether nothing more can be told by comparing with a statement: nothing was used, or half of its time has passed.
fn is_no_measure(said: &Statement, apart: Duration) -> bool {
    let used = said.limit.zip(said.remaining).is_some_and(|(limit, left)| left < limit);
    !used || said.reset.is_none_or(|reset| apart.saturating_mul(2) >= reset.after())
}

impl Window {
    fn hear(&mut self, said: &Statement) {
        let used = said.limit.zip(said.remaining).map(|(limit, left)| limit.saturating_sub(left));
        if said.basis == Basis::Assumed || used.is_none_or(|used| used == 0) {
            return;
        }
        if said.basis == Basis::Stated && said.window.is_some() {
            self.believed = said.window;
            return;
        }
        let window = said.window.filter(|_| said.basis == Basis::Inferred);
        if window != self.likely {
            *self = Self { likely: window, agreed: 1, used, amounts: 1, believed: self.believed };
        } else {
            self.agreed = self.agreed.saturating_add(1);
            self.amounts = self.amounts.saturating_add(u8::from(used != self.used));
            self.used = used;
        }
        if self.agreed >= AGREED && (self.amounts > 1 || self.likely.is_none()) {
            self.believed = self.likely;
        }
    }
}

/// What comes back when. What a kind of API is known to mean holds unless its responses contradict; where nothing is known,
/// nothing is counted on before the time that was told.
fn refill(reset: Reset, votes: i8) -> Refill {
    match reset {
        Reset::ToFull(after) if votes > -VOTES => Refill::Steadily(after),
        Reset::Unknown(after) if votes >= VOTES => Refill::Steadily(after),
        Reset::ToFull(after) | Reset::WindowEnd(after) | Reset::Unknown(after) => Refill::AtOnce(after),
    }
}

#[cfg(test)]
mod tests {
    use cooldown_pacer::{Pacer, Settings};

    use super::*;
    use crate::provider::Scope;

    fn key() -> Key {
        Key::whole(Pacer::new(Settings::default()).add_limits(Vec::new()))
    }

    fn at(millis: u64) -> Instant {
        Instant::START.after(Duration::from_millis(millis))
    }

    /// Twenty a second, of which `left` are left and all will be `after` this many milliseconds.
    fn said(left: u64, after: u64, window: Option<u64>) -> Statement {
        Statement {
            axis: Unit::Requests,
            scope: Scope::Model,
            limit: Some(20),
            window: window.map(Duration::from_millis),
            basis: Basis::Inferred,
            remaining: Some(left),
            reset: Some(Reset::ToFull(Duration::from_millis(after))),
        }
    }

    #[test]
    fn a_window_is_believed_when_several_responses_lead_to_it() {
        let (meanings, key) = (Meanings::default(), key());
        let period = |left, after, window, now| {
            meanings.told(key, &said(left, after, window), at(now)).expect("it tells something").period
        };
        assert_eq!(period(18, 900, Some(10_000), 0), None, "an accident");
        assert_eq!(period(17, 900, None, 1), None);
        assert_eq!(period(10, 503, Some(1000), 2), None);
        assert_eq!(period(9, 551, Some(1000), 3), None);
        assert_eq!(period(8, 602, Some(1000), 4), Some(Duration::from_secs(1)));
        assert_eq!(period(2, 602, None, 5), Some(Duration::from_secs(1)), "one contradiction is none");
    }

    #[test]
    fn a_reset_that_comes_nearer_by_the_time_that_passed_is_the_end_of_a_window() {
        let (meanings, key) = (Meanings::default(), key());
        let refills: Vec<Refill> = (0..4)
            .map(|nth| {
                let said = said(18 - 3 * nth, 900 - 200 * nth, None);
                meanings.told(key, &said, at(200 * nth)).and_then(|told| told.refill).expect("a reset")
            })
            .collect();
        assert!(matches!(refills[0], Refill::Steadily(_)), "as this kind of API has it");
        assert_eq!(refills[3], Refill::AtOnce(Duration::from_millis(300)));
    }

    #[test]
    fn a_reset_that_stands_still_while_all_is_used_is_the_time_to_a_full_bucket() {
        let (meanings, key) = (Meanings::default(), key());
        // One response every 20 ms: no two that follow each other tell anything.
        let refills = (0..40).map(|nth| {
            let told = Statement { reset: Some(Reset::Unknown(Duration::from_millis(990))), ..said(0, 0, None) };
            meanings.told(key, &told, at(20 * nth)).and_then(|told| told.refill).expect("a reset")
        });
        let refills: Vec<Refill> = refills.collect();
        assert!(matches!(refills[0], Refill::AtOnce(_)), "nothing is counted on before anything is known");
        assert!(matches!(refills[39], Refill::Steadily(_)));
    }
}
