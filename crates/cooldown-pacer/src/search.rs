//! The rate that an upstream bears although it says nothing about it: found by trying, one cut per round trip. See ADR 0009.

use std::time::Duration;

use crate::cost::Unit;
use crate::limit::{LARGEST_AMOUNT, Rate};
use crate::pace::Pace;
use crate::share::{PARTS, Share, Usage};
use crate::time::nanos;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
/// A cut goes down to this part of what is aimed at.
const CUT: f64 = 0.95;
/// And is back at it after so many requests, but no sooner and no later than after these times.
const RETURN: f64 = 150.0;
const SOONEST_RETURN: f64 = 10.0 * SECOND as f64;
const LATEST_RETURN: f64 = 150.0 * SECOND as f64;
/// What is aimed at lies between what was accepted on average, which errs on the low side, and the rate at which the
/// upstream refused, which errs on the high side: this part of the way up.
const HOPE: f64 = 0.5;
/// What lies beyond is tried this much slower.
const CAUTION: f64 = 1.5;
/// Nor is it more than this many times what is aimed at, or being taken.
const GREED: f64 = 4.0;
/// The first guess may be this many times too low: of a crowd that leaves at once, anyone may be refused first.
const WRONG_GUESS: f64 = 3.0;
/// A pause keeps at least this part of a rate that was measured: it may have other reasons.
const KEPT: f64 = 0.5;
/// As many may leave at once after a pause.
const BURST: u64 = 2;
/// Never slower than one request in this time.
const SLOWEST: f64 = 1.0 / (10.0 * MINUTE as f64);
/// Never faster than this many a second.
const FASTEST: f64 = 1e6 / SECOND as f64;
/// Without traffic for this long, it is forgotten.
const IDLE: u64 = 10 * MINUTE;
/// A rate this many times as high as any that was ever refused, for so long without a refusal: there is no limit.
const BEYOND: f64 = 4.0;
const CALM: u64 = 5 * MINUTE;
/// What is accepted is counted for at least this long before it is trusted to be a rate.
const LEAST_CYCLE: u64 = 5 * SECOND;
/// A pause shorter than this is the price of a refusal, and no part of what the upstream bears.
const SHORT_PAUSE: u64 = SECOND;
/// No pause says more than one of this length.
const LONGEST_PAUSE: u64 = 10 * MINUTE;
/// An hour: rates are told in requests an hour.
const HOUR: f64 = 60.0 * MINUTE as f64;
/// No part of a rate is smaller.
const LEAST_PART: f64 = 1e-4;
/// Who had nothing leave by it for so long does not use it.
const UNUSED: u64 = 2 * SECOND;

/// A rate of requests that is being found. Where several instances use it, it is the rate of all of them together: this one
/// has a part of it, and what it counts stands for as much of what all do.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    /// What has been aimed at since the last cut, per nanosecond.
    aim: f64,
    /// The largest of these.
    highest: f64,
    /// What a pause leaves of it at least.
    floor: f64,
    /// Whether the first aim is still to be corrected by what was refused behind the first refused one.
    guessed: bool,
    /// How far on the way back since the last cut: 1 when it is what was aimed at. It grows with use only.
    back: f64,
    /// From where what is accepted is counted, and from where it was before the last cut.
    cycle: Mark,
    last_cycle: Mark,
    /// When the request left that was refused at the last cut.
    cut_at: u64,
    /// Whether the next request is the first one after a refusal, and whether a cycle begins with it.
    probes: bool,
    begins: bool,
    /// How many have been taken by now.
    taken: u64,
    taken_at: u64,
    pace: Pace,
    /// The part of the rate that is this instance's, and what it holds for that; `None` where no other one uses it.
    part: f64,
    pub(crate) share: Option<Share>,
    /// How many wait.
    waiting: u32,
}

/// How many had been taken at an instant.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: u64,
    taken: u64,
}

impl Mark {
    /// What was taken from here to there per nanosecond; zero where that is too short to say.
    fn rate_until(self, at: u64, taken: u64) -> f64 {
        let span = at.saturating_sub(self.at);
        if span < LEAST_CYCLE { 0.0 } else { taken.saturating_sub(self.taken) as f64 / span as f64 }
    }
}

impl Search {
    /// Starts from the rate a second at which requests were taken before one that left at `at` was refused. `taken` had
    /// been taken before it.
    /// Where other instances use it too, `share` is this one's.
    pub(crate) fn new(now: u64, at: u64, rate: f64, taken: u64, waiting: u32, share: Option<Share>) -> Self {
        let part = share.map_or(1.0, |share| part(share.at(now)));
        let aim = (rate / part / SECOND as f64).clamp(1.0 / SECOND as f64, FASTEST);
        let mut pace = Pace::smooth(aim * CUT * part, BURST, now);
        pace.take(now, BURST);
        pace.line_up(now, 1, waiting);
        Self {
            aim,
            highest: aim,
            floor: SLOWEST,
            guessed: true,
            back: 0.0,
            cycle: Mark { at, taken },
            last_cycle: Mark { at: at.saturating_sub(SECOND), taken: taken.saturating_sub(rate as u64) },
            cut_at: at,
            probes: true,
            begins: true,
            taken,
            taken_at: now,
            pace,
            part,
            share,
            waiting,
        }
    }

    /// Starts from a rate that was found by an earlier process, as after a refusal: nobody knows what left just now.
    pub(crate) fn recalled(now: u64, rate: &Rate) -> Self {
        let aim = rate.amount() as f64 / nanos(rate.period()).max(1) as f64;
        let aim = aim.clamp(SLOWEST, FASTEST);
        let mut pace = Pace::smooth(aim * CUT, BURST, now);
        pace.take(now, BURST);
        let mark = Mark { at: now, taken: 0 };
        Self {
            aim,
            highest: aim,
            floor: aim * KEPT,
            guessed: false,
            back: 0.0,
            cycle: mark,
            last_cycle: mark,
            cut_at: now,
            probes: false,
            begins: true,
            taken: 0,
            taken_at: now,
            pace,
            part: 1.0,
            share: None,
            waiting: 0,
        }
    }

    /// Another instance was refused, or remembers that it was: all together send so many requests an hour from now on, of
    /// which `share` are this one's. So many were taken here.
    pub(crate) fn told(now: u64, an_hour: u64, taken: u64, waiting: u32, share: Share) -> Self {
        let rate = (an_hour as f64 / HOUR * SECOND as f64 / CUT).max(f64::MIN_POSITIVE);
        let own = rate * part(share.at(now));
        let search = Self::new(now, now, own, taken, waiting, Some(share));
        Self { guessed: false, probes: false, ..search }
    }

    /// Another instance was refused at this one's rate, or a lower one: what all together send from now on.
    pub(crate) fn hear(&mut self, now: u64, an_hour: u64) {
        let told = (an_hour as f64 / HOUR).clamp(SLOWEST, FASTEST);
        if told < self.rate(now) {
            self.aim = (told / CUT).clamp(SLOWEST, FASTEST);
            (self.back, self.cut_at, self.guessed) = (0.0, now, false);
            self.cycle = Mark { at: now, taken: self.taken };
            self.set_pace(now);
        }
    }

    /// What all together send, in requests an hour.
    pub(crate) fn an_hour(&self, now: u64) -> u64 {
        ((self.rate(now) * HOUR) as u64).max(1)
    }

    /// Whether a request left by it lately.
    pub(crate) fn is_in_use(&self, now: u64) -> bool {
        now.saturating_sub(self.taken_at) < IDLE / 2
    }

    /// The part of it that is this instance's from now on, or what is left of that at `now`. When it changes next.
    pub(crate) fn hold_to_share(&mut self, now: u64) -> u64 {
        let Some(share) = self.share else { return u64::MAX };
        self.part = part(share.at(now));
        self.set_pace(now);
        share.changes(now)
    }

    /// No other instance uses it any more.
    pub(crate) fn keep_to_itself(&mut self, now: u64) {
        (self.part, self.share) = (1.0, None);
        self.set_pace(now);
    }

    /// What it says of its use where it is shared. A part of a rate can be given back at any time.
    pub(crate) fn usage(&self, now: u64, weight: u64) -> Usage {
        let is_used = self.waiting > 0 || now.saturating_sub(self.taken_at) < UNUSED;
        let waiting = if self.waiting > 0 { u64::from(PARTS) } else { 0 };
        Usage { used: u64::from(is_used), recent: 0, waiting, largest: u64::from(self.waiting.min(1)), weight }
    }

    fn set_pace(&mut self, now: u64) {
        self.pace.set_rate(now, self.rate(now) * self.part);
    }

    /// What this instance took from one mark on, in terms of what all did.
    fn accepted(&self, since: Mark, at: u64, taken: u64) -> f64 {
        since.rate_until(at, taken) / self.part
    }

    /// Requests a nanosecond.
    fn rate(&self, now: u64) -> f64 {
        let passed = self.back - 1.0;
        let passed = if passed > 0.0 { passed / CAUTION } else { passed };
        let rate = self.aim * (1.0 + (1.0 - CUT) * passed * passed * passed);
        let accepted = self.accepted(self.cycle, now, self.taken);
        rate.min(GREED * self.aim.max(accepted)).clamp(SLOWEST, FASTEST)
    }

    /// The upstream refused a request that left at `at`, before which `taken` had been taken: too much was tried.
    pub(crate) fn cut(&mut self, now: u64, at: u64, taken: u64) {
        let rate = self.rate(now);
        let accepted = self.accepted(self.cycle, at, taken).min(rate);
        self.begins = accepted > 0.0;
        if self.begins {
            self.aim = (accepted + (rate - accepted) * HOPE).clamp(SLOWEST, FASTEST);
            self.floor = self.aim * KEPT;
            self.last_cycle = std::mem::replace(&mut self.cycle, Mark { at, taken });
        } else {
            // So soon after the last one it says only that this is still too much.
            self.aim = self.aim.min(rate);
        }
        self.highest = self.highest.max(self.aim);
        (self.back, self.cut_at, self.taken, self.probes) = (0.0, at, taken, true);
        self.set_pace(now);
    }

    /// A request that left at `at` to try whether there is room again was refused. Where that takes long, much was
    /// taken at once of what has to last for a long period.
    pub(crate) fn stays_closed(&mut self, now: u64, at: u64, taken: u64) {
        (self.taken, self.probes) = (taken, true);
        let at = at.min(self.cut_at.saturating_add(LONGEST_PAUSE));
        if at.saturating_sub(self.cut_at) < LEAST_CYCLE {
            return;
        }
        let lasts = self.accepted(self.last_cycle, at, taken);
        self.aim = self.aim.min(lasts.max(self.floor));
        self.begins = true;
        self.set_pace(now);
    }

    pub(crate) fn earliest(&self) -> u64 {
        self.pace.earliest(1)
    }

    pub(crate) fn earliest_after(&self, now: u64) -> u64 {
        self.pace.earliest_after(now, 1, 1)
    }

    /// When a request leaves behind so many others.
    pub(crate) fn departure(&self, now: u64, before: f64) -> u64 {
        let missing = before + 1.0 - self.pace.level(now);
        now.saturating_add(self.pace.span(missing.max(0.0)) as u64)
    }

    /// A request leaves at `now`, which it could have done at `due`; the key was closed until `opened`, and `taken` that
    /// left before are not known to have been refused.
    pub(crate) fn take(&mut self, now: u64, due: u64, opened: u64, taken: u64) {
        self.taken = taken;
        if std::mem::take(&mut self.probes) {
            self.probe(now);
        }
        if self.pace.level(now) < BURST as f64 {
            let longest = self.pace.span(BURST as f64).max(SECOND as f64);
            let held = (now.saturating_sub(self.taken_at.max(opened)) as f64).min(longest);
            self.back += held / (RETURN / self.rate(now)).clamp(SOONEST_RETURN, LATEST_RETURN);
        }
        self.taken_at = now;
        self.pace.set_rate(due, self.rate(now) * self.part);
        self.pace.take(due, 1);
    }

    /// The first request after a refusal leaves.
    fn probe(&mut self, now: u64) {
        if std::mem::take(&mut self.guessed) {
            let counted = self.taken.saturating_sub(self.last_cycle.taken) as f64 / SECOND as f64 / self.part;
            self.aim = counted.clamp(self.aim, self.aim * WRONG_GUESS).min(FASTEST);
            self.highest = self.aim;
        }
        // What a longer pause says has been heard from the probes within it.
        let paused = now.saturating_sub(self.cut_at);
        if self.begins && !(SHORT_PAUSE..LEAST_CYCLE).contains(&paused) {
            self.cycle = Mark { at: now, taken: self.taken };
        }
    }

    pub(crate) fn give_back(&mut self, now: u64) {
        self.pace.change(now, 1, 0);
    }

    pub(crate) fn line_up(&mut self, now: u64) {
        self.waiting += 1;
        self.pace.line_up(now, 1, 1);
    }

    pub(crate) fn leave_line(&mut self, now: u64) {
        self.waiting = self.waiting.saturating_sub(1);
        self.pace.leave_line(now, 1);
    }

    /// The time between two requests.
    pub(crate) fn spacing(&self) -> u64 {
        self.pace.span(1.0) as u64
    }

    /// How many may leave at once.
    pub(crate) fn left(&self, now: u64) -> i64 {
        self.pace.level(now).floor() as i64
    }

    /// Whether nothing is left to be found, or nobody asks any more.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        let is_beyond = self.rate(now) >= BEYOND * self.highest && now.saturating_sub(self.cut_at) >= CALM;
        is_beyond || now.saturating_sub(self.taken_at) >= IDLE
    }

    /// The rate in whole requests a minute, or an hour where it is slow.
    pub(crate) fn found(&self, now: u64) -> Option<Rate> {
        let rate = self.rate(now);
        let period = if rate * MINUTE as f64 >= 1.0 { MINUTE } else { 60 * MINUTE };
        let amount = ((rate * period as f64).round() as u64).clamp(1, LARGEST_AMOUNT);
        let rate = Rate::new(Unit::Requests, amount, Duration::from_nanos(period)).ok()?;
        rate.with_burst(BURST.min(amount)).ok()
    }
}

/// The part of a rate that so many of its parts are.
fn part(parts: u64) -> f64 {
    (parts as f64 / f64::from(PARTS)).clamp(LEAST_PART, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty of a crowd were taken in a moment, and then it was closed for a second.
    fn after_a_crowd_of_twenty() -> Search {
        let mut search = Search::new(SECOND / 10, SECOND / 20, 20.0, 20, 30, None);
        search.take(SECOND, SECOND, SECOND, 20);
        search
    }

    fn a_second(search: &Search, now: u64) -> f64 {
        search.rate(now) * SECOND as f64
    }

    #[test]
    fn a_refusal_right_after_the_first_pause_does_not_take_the_pause_for_the_rate() {
        let mut search = after_a_crowd_of_twenty();
        search.cut(SECOND + SECOND / 10, SECOND + SECOND / 12, 22);
        assert!(a_second(&search, 2 * SECOND) >= 16.0, "{} a second", a_second(&search, 2 * SECOND));
    }

    #[test]
    fn of_a_crowd_whoever_is_refused_first_is_not_all_that_is_known() {
        let mut search = Search::new(SECOND / 10, SECOND / 20, 9.0, 9, 30, None);
        search.take(SECOND / 5, SECOND / 5, SECOND / 5, 20);
        assert!(a_second(&search, SECOND) >= 0.9 * 20.0, "{} a second", a_second(&search, SECOND));
    }

    #[test]
    fn one_refusal_costs_a_twentieth() {
        let mut search = after_a_crowd_of_twenty();
        let mut now = SECOND;
        for nth in 0..300 {
            now += SECOND / 20;
            search.take(now, now, SECOND, 21 + nth);
        }
        let before = a_second(&search, now);
        search.cut(now, now, 321);
        assert!(a_second(&search, now) >= 0.93 * before, "{before} and then {}", a_second(&search, now));
    }

    #[test]
    fn a_pause_that_lasts_shows_how_long_the_period_is() {
        let mut search = Search::new(2 * SECOND, SECOND, 60.0, 60, 30, None);
        for at in [2, 7, 14, 26, 51].map(|seconds| seconds * SECOND) {
            search.take(at, at, at, 60);
            search.stays_closed(at, at, 60);
        }
        search.take(MINUTE, MINUTE, MINUTE, 60);
        assert!((0.9..1.3).contains(&a_second(&search, MINUTE)), "{} a second", a_second(&search, MINUTE));
    }

    #[test]
    fn an_outage_does_not_make_a_rate_that_was_measured_forgotten() {
        let mut search = after_a_crowd_of_twenty();
        search.cut(20 * SECOND, 20 * SECOND, 400);
        let before = a_second(&search, 20 * SECOND);
        for minute in 1..600 {
            search.stays_closed(minute * MINUTE, minute * MINUTE, 400);
        }
        assert!(a_second(&search, 600 * MINUTE) >= 0.45 * before, "{before} before it");
    }
}
