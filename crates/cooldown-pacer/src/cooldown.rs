//! A key that its upstream has closed: until when, and which answers have already been heard in that.

/// The longest time that an upstream may close a key for.
const LONGEST: u64 = 31 * 24 * 3600 * 1_000_000_000;
/// Without being told, a key closes for this long at first, and twice as long each time that its probe is turned away.
const FIRST_BACK_OFF: u64 = 50_000_000;
/// And no longer than this.
const LONGEST_BACK_OFF: u64 = 60_000_000_000;

/// The present or last closing of a key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cooldown {
    began: u64,
    until: u64,
    /// The number of the last permit that was granted before it began: what those before it have to say is already known.
    last_before: u64,
    /// How many closings came without an accepted request between them, this one included.
    in_a_row: u32,
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
    /// The permit `nth` was turned away; `granted` permits have been granted by now, one every `spacing` at most. Where
    /// requests are far apart, trying again much sooner than the next one is due finds nothing new.
    pub(crate) fn close(&mut self, now: u64, nth: u64, granted: u64, spacing: u64, until: Option<u64>) -> Closing {
        let told = until.map(|until| until.clamp(now, now.saturating_add(LONGEST)));
        if nth <= self.last_before {
            return told.map_or(Closing::Known, |until| self.extend(until));
        }
        let first = self.in_a_row == 0;
        let first_back_off = spacing.clamp(FIRST_BACK_OFF, LONGEST_BACK_OFF);
        let back_off = LONGEST_BACK_OFF.min(first_back_off << self.in_a_row.min(16));
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.began = now;
        self.last_before = granted;
        self.until = self.until.max(told.unwrap_or(now.saturating_add(back_off)));
        Closing::New { first }
    }

    fn extend(&mut self, until: u64) -> Closing {
        if until <= self.until {
            return Closing::Known;
        }
        let (longer, length) = (until - self.until, self.until.saturating_sub(self.began));
        self.until = until;
        Closing::Longer { notable: longer >= length / 10 }
    }

    /// The upstream took the request of permit `nth`.
    pub(crate) fn accepted(&mut self, nth: u64) {
        if nth > self.last_before {
            self.in_a_row = 0;
        }
    }

    /// Nobody leaves before this.
    pub(crate) fn until(&self) -> u64 {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn answers_to_requests_from_before_the_closing_change_nothing_but_its_end() {
        let mut cooldown = Cooldown::default();
        assert_eq!(cooldown.close(10, 1, 8, 0, Some(SECOND)), Closing::New { first: true });
        assert_eq!(cooldown.close(11, 2, 8, 0, None), Closing::Known);
        assert_eq!(cooldown.close(12, 3, 8, 0, Some(SECOND / 2)), Closing::Known);
        assert_eq!(cooldown.close(13, 4, 8, 0, Some(SECOND + 5)), Closing::Longer { notable: false });
        assert_eq!(cooldown.close(14, 5, 8, 0, Some(2 * SECOND)), Closing::Longer { notable: true });
        assert_eq!(cooldown.until(), 2 * SECOND);
        assert_eq!(cooldown.close(3 * SECOND, 9, 9, 0, None), Closing::New { first: false });
    }

    #[test]
    fn without_being_told_the_wait_doubles_until_somebody_is_accepted() {
        let mut cooldown = Cooldown::default();
        let mut now = 0;
        for nth in 1..30 {
            cooldown.close(now, nth, nth, 0, None);
            let wait = cooldown.until() - now;
            assert_eq!(wait, (FIRST_BACK_OFF << (nth - 1).min(20)).min(LONGEST_BACK_OFF));
            now = cooldown.until();
        }
        cooldown.accepted(29);
        cooldown.close(now, 30, 30, 0, None);
        assert_eq!(cooldown.until() - now, LONGEST_BACK_OFF, "an answer from before the closing says nothing");
        cooldown.accepted(31);
        now = cooldown.until();
        cooldown.close(now, 32, 32, 0, None);
        assert_eq!(cooldown.until() - now, FIRST_BACK_OFF);
    }

    #[test]
    fn nobody_closes_a_key_for_years_or_in_the_past() {
        let mut cooldown = Cooldown::default();
        cooldown.close(SECOND, 1, 1, 0, Some(u64::MAX));
        assert_eq!(cooldown.until(), SECOND + LONGEST);
        let mut cooldown = Cooldown::default();
        cooldown.close(SECOND, 1, 1, 0, Some(3));
        assert_eq!(cooldown.until(), SECOND);
    }
}
