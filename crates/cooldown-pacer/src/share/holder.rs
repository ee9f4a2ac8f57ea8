//! The instance's side: what it holds of one limit, and what it says to the store.

use std::time::Duration;

use super::message::{Answer, Outcome, Renewal};
use super::terms::{FORGET, LEASE, Terms};
use super::{Share, Usage};
use crate::time::Instant;

/// Never more calls than one in this time, for one limit.
const QUICKEST: Duration = Duration::from_millis(70);
/// An answer that takes longer than this is not waited for. Shorter than that, a slow store is only slow.
const PATIENCE: Duration = Duration::from_millis(600);

/// What this instance holds of one limit of one key.
///
/// ```text
/// at due(now, usage):  renewal = renew(now, usage)   and at once, under the same lock, set_share(share())
///                      send it; when an answer comes: hear(answer), set_share(share())
/// ```
/// A renewal whose answer never comes needs no care: the next one follows, and late answers are not heard.
#[derive(Debug, Clone)]
pub struct Holder {
    terms: Terms,
    /// The time between renewals.
    every: Duration,
    number: u64,
    /// When the last renewal was sent; `None` before the first.
    sent: Option<Instant>,
    /// What was asked for in it.
    asked: u64,
    /// Whether its answer gave some of what was asked for, so that more may follow.
    more: bool,
    heard: bool,
    held: u64,
    target: u64,
    floor: u64,
    until: Instant,
    forgotten: Instant,
    floors: u64,
    /// How many instances share the limit, as far as it knows.
    instances: u64,
    /// How many it was told of, and by which memory of the store; zero if the store, or it, reckons no more with that.
    told: u64,
    generation: u64,
    /// A store that was not recovering has told it so.
    settled: bool,
    /// What it has of a limit that all have just become acquainted with, before the store has answered.
    claim: Option<u64>,
}

impl Holder {
    /// A holder that holds nothing, and says so every `every`.
    pub fn new(terms: Terms, every: Duration) -> Self {
        Self {
            terms,
            every,
            number: 0,
            sent: None,
            asked: 0,
            more: false,
            heard: false,
            held: 0,
            target: 0,
            floor: 0,
            until: Instant::START,
            forgotten: Instant::START,
            floors: 0,
            instances: 1,
            told: 0,
            generation: 0,
            settled: false,
            claim: None,
        }
    }

    /// It is one of so many instances that have all just become acquainted with the limit: it holds an equal part of it,
    /// unless the store has said by now what it holds.
    pub fn claim(&mut self, instances: u64) {
        if self.forgotten != Instant::START {
            return;
        }
        let (part, floor) = self.terms.claim(instances);
        (self.claim, self.held, self.target, self.floor) = (Some(part), part, part, floor);
        self.instances = instances.max(1);
    }

    /// The limit has changed. Of a smaller one it uses no larger part than before.
    pub fn set_terms(&mut self, terms: Terms) {
        let before = std::mem::replace(&mut self.terms, terms).amount;
        if terms.amount < before {
            let part = |of: u64| (u128::from(of) * u128::from(terms.amount) / u128::from(before)) as u64;
            (self.target, self.floor) = (part(self.target), part(self.floor));
            self.claim = self.claim.map(part);
        }
    }

    /// When to renew next, if nothing else happens: regularly, and soon when there is something to give or much to ask.
    pub fn due(&self, usage: &Usage) -> Instant {
        let Some(sent) = self.sent else { return Instant::START };
        if !self.heard {
            return sent.after(self.every.max(PATIENCE));
        }
        let want = want(&self.terms, usage);
        let is_short = want > self.held && (self.more || self.asked <= self.held || want / 2 > self.asked);
        let can_give = self.held > self.target.max(usage.used);
        let soon = QUICKEST.max(self.every / 4);
        sent.after(if is_short || can_give { soon.min(self.every) } else { self.every })
    }

    /// Gives up what it should and can, and says what it holds now. From here on no more than [`share`](Holder::share) may
    /// be used.
    pub fn renew(&mut self, now: Instant, usage: &Usage) -> Renewal {
        if now >= self.forgotten && self.claim.is_none() {
            // To the others it is one that they have never heard of.
            (self.floor, self.told, self.generation, self.settled) = (0, 0, 0, false);
        }
        if now >= self.until && self.claim.is_none() {
            self.target = self.floor;
        }
        self.held = self.held.min(self.target).max(usage.used);
        self.floor = self.floor.min(self.held);
        self.number += 1;
        self.sent = Some(now);
        self.asked = want(&self.terms, usage);
        (self.more, self.heard) = (false, false);
        self.renewal(usage.largest, usage.weight, false)
    }

    /// Gives everything back: nothing may be sent any more.
    pub fn leave(&mut self, now: Instant, usage: &Usage) -> Renewal {
        self.number += 1;
        self.sent = Some(now);
        (self.held, self.target, self.floor, self.asked) = (usage.used, 0, 0, 0);
        self.claim = None;
        (self.until, self.forgotten) = (Instant::NEVER, Instant::NEVER);
        self.renewal(0, 0, true)
    }

    /// The answer to the last renewal; true if it is heard. Late answers to earlier ones are not: what they gave has been
    /// taken back.
    pub fn hear(&mut self, answer: &Answer) -> bool {
        let Some(sent) = self.sent.filter(|_| answer.number == self.number) else { return false };
        if self.heard || matches!(answer.outcome, Outcome::Stale | Outcome::Full) {
            return false;
        }
        (self.heard, self.claim) = (true, None);
        self.more = answer.held > self.held;
        (self.held, self.target) = (answer.held, answer.target);
        self.floor = answer.floor;
        (self.floors, self.instances) = (answer.floors, answer.instances.max(1));
        (self.told, self.generation) = (answer.instances, answer.generation);
        self.settled |= answer.outcome == Outcome::Renewed;
        self.until = sent.after(LEASE);
        self.forgotten = self.until.after(FORGET);
        true
    }

    /// What the pacer may use now.
    pub fn share(&self) -> Share {
        if let Some(part) = self.claim {
            return Share { hoped: part, ..Share::least(part) };
        }
        if self.forgotten == Instant::START {
            return Share::least(self.terms.stranger());
        }
        let amount = self.target.min(self.held);
        Share {
            amount,
            until: self.until,
            floor: self.floor.min(amount),
            forgotten: self.forgotten,
            least: if self.until == Instant::NEVER { 0 } else { self.terms.stranger() },
            hoped: (self.terms.amount / self.instances).max(amount),
        }
    }

    fn renewal(&self, need: u64, weight: u64, leaves: bool) -> Renewal {
        Renewal {
            terms: self.terms,
            number: self.number,
            held: self.held,
            floor: self.floor,
            want: self.asked,
            need,
            weight,
            floors: self.floors,
            instances: self.told,
            generation: self.generation,
            settled: self.settled,
            leaves,
        }
    }
}

/// What an instance would like to hold: what it uses, what waits, and some for what comes.
fn want(terms: &Terms, usage: &Usage) -> u64 {
    if usage.used == 0 && usage.waiting == 0 {
        return 0;
    }
    usage.used.saturating_add(usage.waiting).saturating_add(usage.recent.max(1)).min(terms.amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Unit;
    use crate::limit::Rate;

    fn terms() -> Terms {
        let rate = Rate::new(Unit::Requests, 60, Duration::from_secs(1)).expect("a rate");
        Terms::new(rate.into(), Duration::ZERO)
    }

    fn holder() -> Holder {
        Holder::new(terms(), Duration::from_millis(250))
    }

    fn at(millis: u64) -> Instant {
        Instant::START.after(Duration::from_millis(millis))
    }

    fn answer(number: u64, held: u64, target: u64, floor: u64) -> Answer {
        let outcome = Outcome::Renewed;
        Answer { outcome, number, held, target, floor, floors: floor, instances: 3, generation: 1 }
    }

    #[test]
    fn what_is_in_the_window_is_given_back_only_when_it_has_left_it() {
        let mut holder = holder();
        holder.renew(at(0), &Usage::default());
        assert!(holder.hear(&answer(1, 40, 20, 5)));
        assert_eq!(holder.share().amount, 20, "nothing above the target is used any more");
        assert_eq!(holder.renew(at(250), &Usage { used: 35, ..Usage::default() }).held, 35);
        assert_eq!(holder.renew(at(500), &Usage { used: 12, ..Usage::default() }).held, 20);
    }

    #[test]
    fn only_the_answer_to_the_last_renewal_is_heard_and_only_once() {
        let mut holder = holder();
        holder.renew(at(0), &Usage::default());
        holder.renew(at(250), &Usage::default());
        assert!(!holder.hear(&answer(1, 40, 40, 5)));
        assert!(holder.hear(&answer(2, 10, 10, 5)));
        assert!(!holder.hear(&answer(2, 10, 10, 5)));
        assert_eq!(holder.share().until, at(3250), "a lease counts from before it was asked for");
    }

    #[test]
    fn behind_its_lease_an_instance_has_its_floor() {
        let mut holder = holder();
        holder.renew(at(0), &Usage::default());
        holder.hear(&answer(1, 40, 40, 5));
        assert_eq!(holder.renew(at(3000), &Usage { used: 3, ..Usage::default() }).held, 5);
        assert_eq!(holder.share().amount, 5);
        holder.renew(at(3_700_000), &Usage::default());
        assert_eq!(holder.share().floor, 0, "in the end the others do not reckon with it");
    }

    #[test]
    fn what_is_claimed_is_told_and_held_until_the_store_says_otherwise() {
        let mut holder = holder();
        holder.claim(3);
        assert_eq!(holder.share().amount, 19);
        let renewal = holder.renew(at(0), &Usage { used: 3, ..Usage::default() });
        assert_eq!((renewal.held, renewal.floor), (19, 4));
        assert_eq!(holder.renew(at(60_000), &Usage::default()).held, 19, "nobody has answered");
        assert!(holder.hear(&answer(2, 20, 12, 5)));
        holder.claim(2);
        assert_eq!(holder.share().amount, 12, "now the store has said what it holds");
    }

    #[test]
    fn of_a_limit_that_has_become_smaller_no_larger_part_is_used() {
        let mut holder = holder();
        holder.renew(at(0), &Usage::default());
        holder.hear(&answer(1, 40, 30, 6));
        let rate = Rate::new(Unit::Requests, 20, Duration::from_secs(1)).expect("a rate");
        holder.set_terms(Terms::new(rate.into(), Duration::ZERO));
        assert_eq!((holder.share().amount, holder.share().floor), (10, 2));
        holder.set_terms(terms());
        assert_eq!(holder.share().amount, 10, "more is for the store to give");
    }

    #[test]
    fn it_asks_soon_when_it_is_newly_short_and_regularly_when_it_stays_so() {
        let mut holder = holder();
        let busy = Usage { used: 20, waiting: 100, ..Usage::default() };
        holder.renew(at(0), &Usage::default());
        holder.hear(&answer(1, 20, 20, 5));
        assert_eq!(holder.due(&Usage::default()), at(250));
        assert_eq!(holder.due(&busy), at(70));
        holder.renew(at(70), &busy);
        holder.hear(&answer(2, 20, 20, 5));
        assert_eq!(holder.due(&busy), at(320));
    }
}
