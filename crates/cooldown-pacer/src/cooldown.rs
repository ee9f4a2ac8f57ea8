//! A key that its upstream has closed: until when, and which answers have already been heard in that.

/// The longest time that an upstream may close a key for.
const LONGEST: u64 = 31 * 24 * 3600 * 1_000_000_000;
/// Without being told, a key closes for this long at first, and twice as long each time that its probe is turned away.
const FIRST_BACK_OFF: u64 = 50_000_000;
/// What is told counts, but once a told wait has proved too short, this much of the back-off holds too.
const LEAST_TOLD: u64 = 1_000_000_000;
/// And no longer than this.
const LONGEST_BACK_OFF: u64 = 60_000_000_000;

/// The present or last closing of a key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cooldown {
    began: u64,
    until: u64,
    /// Nobody leaves before this: the same, or never while a person has paused the key.
    opens: u64,
    is_paused: bool,
    /// The number of the last permit that was granted before it began: what those before it have to say is already known.
    last_before: u64,
    /// How many of the key's requests had left before it began, and those since then that were never sent.
    left_before: u64,
    /// How many closings came without an accepted request between them, this one included.
    in_a_row: u32,
}

/// A request that was turned away.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TurnedAway {
    /// The number of its permit, and of the latest one.
    pub(crate) nth: u64,
    pub(crate) granted: u64,
    /// When it left.
    pub(crate) at: u64,
    /// How many of the key's requests had left before it, and have left by now.
    pub(crate) left_before: u64,
    pub(crate) left: u64,
    /// When there is room again, where that was said.
    pub(crate) until: Option<u64>,
}

/// What a request that was turned away means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// The key closes. `first` = requests were accepted since it closed before.
    New { first: bool },
    /// It stays closed for longer. `notable` = by a tenth or more.
    Longer { notable: bool },
    /// Nothing that was not known.
    Known,
}

impl Cooldown {
    /// A request was turned away by a key whose requests leave one every `spacing` at most. Where they are far apart,
    /// trying again much sooner than the next one is due finds nothing new.
    pub(crate) fn close(&mut self, now: u64, away: &TurnedAway, spacing: u64) -> Closing {
        let told = away.until.map(|until| until.clamp(now, now.saturating_add(LONGEST)));
        if away.nth <= self.last_before {
            return told.map_or(Closing::Known, |until| self.extend(until));
        }
        // Refusals come fast: one that left after the closing and before this one was not refused.
        if away.left_before > self.left_before {
            self.in_a_row = 0;
        }
        let first = self.in_a_row == 0;
        let first_back_off = spacing.clamp(FIRST_BACK_OFF, LONGEST_BACK_OFF);
        let back_off = LONGEST_BACK_OFF.min(first_back_off << self.in_a_row.min(16));
        self.in_a_row = self.in_a_row.saturating_add(1);
        (self.began, self.last_before, self.left_before) = (now, away.granted, away.left);
        // An upstream that keeps saying "at once" and keeps refusing is not asked in a circle.
        let least = if first { 0 } else { back_off.min(LEAST_TOLD) };
        let until = told.map_or(now.saturating_add(back_off), |told| told.max(now.saturating_add(least)));
        self.set_until(self.until.max(until));
        Closing::New { first }
    }

    /// A person closes the key until then, if it is not closed for longer.
    pub(crate) fn close_by_hand(&mut self, now: u64, until: u64) {
        let until = until.min(now.saturating_add(LONGEST));
        if until > self.until {
            self.began = now;
            self.set_until(until);
        }
    }

    /// Another instance was told that it is closed until then: what the answers to those that have left say is known.
    pub(crate) fn close_too(&mut self, now: u64, until: u64, granted: u64, left: u64) {
        self.close_by_hand(now, until);
        (self.last_before, self.left_before) = (granted, left);
    }

    /// A person opens the key.
    pub(crate) fn open_by_hand(&mut self, now: u64) {
        self.set_until(self.until.min(now));
    }

    /// A person says that nobody leaves until they say otherwise, or says so.
    pub(crate) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        self.set_until(self.until);
    }

    /// Whether a person has paused the key.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Every decision asks when the key opens: what holds is decided here.
    fn set_until(&mut self, until: u64) {
        self.until = until;
        self.opens = if self.is_paused { u64::MAX } else { until };
    }

    /// The request of permit `nth` was never sent.
    pub(crate) fn given_back(&mut self, nth: u64) {
        if nth > self.last_before {
            self.left_before += 1;
        }
    }

    fn extend(&mut self, until: u64) -> Closing {
        if until <= self.until {
            return Closing::Known;
        }
        let (longer, length) = (until - self.until, self.until.saturating_sub(self.began));
        self.set_until(until);
        Closing::Longer { notable: longer >= length / 10 }
    }

    /// The upstream took the request of permit `nth`.
    pub(crate) fn accepted(&mut self, nth: u64) {
        if nth > self.last_before {
            self.in_a_row = 0;
        }
    }

    /// Whether nobody is known to have been accepted since it closed.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.in_a_row > 0
    }

    /// Nobody leaves before this; [`u64::MAX`] during a pause.
    pub(crate) fn opens(&self) -> u64 {
        self.opens
    }

    /// The end of the present or last closing. A pause is none: it has no end.
    pub(crate) fn until(&self) -> u64 {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// The probe `nth` is turned away, the latest of those `granted`.
    fn close(cooldown: &mut Cooldown, now: u64, nth: u64, granted: u64, until: Option<u64>) -> Closing {
        let left_before = cooldown.left_before;
        cooldown.close(now, &TurnedAway { nth, granted, left_before, left: granted, until, at: now }, 0)
    }

    #[test]
    fn answers_to_requests_from_before_the_closing_change_nothing_but_its_end() {
        let mut cooldown = Cooldown::default();
        assert_eq!(close(&mut cooldown, 10, 1, 8, Some(SECOND)), Closing::New { first: true });
        assert_eq!(close(&mut cooldown, 11, 2, 8, None), Closing::Known);
        assert_eq!(close(&mut cooldown, 12, 3, 8, Some(SECOND / 2)), Closing::Known);
        assert_eq!(close(&mut cooldown, 13, 4, 8, Some(SECOND + 5)), Closing::Longer { notable: false });
        assert_eq!(close(&mut cooldown, 14, 5, 8, Some(2 * SECOND)), Closing::Longer { notable: true });
        assert_eq!(cooldown.until(), 2 * SECOND);
        assert_eq!(close(&mut cooldown, 3 * SECOND, 9, 9, None), Closing::New { first: false });
    }

    #[test]
    fn an_upstream_that_says_at_once_and_refuses_again_is_asked_less_and_less_often() {
        let mut cooldown = Cooldown::default();
        let mut waits = Vec::new();
        let mut now = 0;
        for nth in 1..8 {
            close(&mut cooldown, now, nth, nth, Some(now));
            waits.push((cooldown.until() - now) / 1_000_000);
            now = cooldown.until();
        }
        assert_eq!(waits, [0, 100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn without_being_told_the_wait_doubles_until_somebody_is_accepted() {
        let mut cooldown = Cooldown::default();
        let mut now = 0;
        for nth in 1..30 {
            close(&mut cooldown, now, nth, nth, None);
            let wait = cooldown.until() - now;
            assert_eq!(wait, (FIRST_BACK_OFF << (nth - 1).min(20)).min(LONGEST_BACK_OFF));
            now = cooldown.until();
        }
        cooldown.accepted(29);
        close(&mut cooldown, now, 30, 30, None);
        assert_eq!(cooldown.until() - now, LONGEST_BACK_OFF, "an answer from before the closing says nothing");
        cooldown.accepted(31);
        now = cooldown.until();
        close(&mut cooldown, now, 32, 32, None);
        assert_eq!(cooldown.until() - now, FIRST_BACK_OFF);
    }

    #[test]
    fn nobody_closes_a_key_for_years_or_in_the_past() {
        let mut cooldown = Cooldown::default();
        close(&mut cooldown, SECOND, 1, 1, Some(u64::MAX));
        assert_eq!(cooldown.until(), SECOND + LONGEST);
        let mut cooldown = Cooldown::default();
        close(&mut cooldown, SECOND, 1, 1, Some(3));
        assert_eq!(cooldown.until(), SECOND);
    }

    #[test]
    fn a_request_that_left_before_the_refused_one_was_taken() {
        let mut cooldown = Cooldown::default();
        close(&mut cooldown, 0, 1, 1, None);
        let away = TurnedAway { nth: 3, granted: 3, left_before: 2, left: 3, ..TurnedAway::default() };
        assert_eq!(cooldown.clone().close(SECOND, &away, 0), Closing::New { first: true });
        cooldown.given_back(2);
        assert_eq!(cooldown.close(SECOND, &away, 0), Closing::New { first: false });
    }
}
