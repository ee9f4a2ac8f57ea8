//! What instances tell each other of what was closed, ordered and learned.

use std::collections::HashMap;
use std::time::Duration;

use cooldown_pacer::{Hearsay, Instant, Key, Refill, Said, Told, Unit};
use serde::{Deserialize, Serialize};

use super::SharedList;

/// More orders and closings than this are not repeated to a store that comes back.
const MOST_KEPT: usize = 100;
/// A message that is longer is none of ours.
const LONGEST_MESSAGE: usize = 4096;
/// A pause lasts until somebody ends it; a store that nobody talks to forgets it after this.
const LONGEST: Duration = Duration::from_secs(86_400);
/// What was learned is believed for no longer than this without being told again.
const BELIEF: Duration = Duration::from_secs(600);

/// A key, in words that all instances understand.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Named {
    /// The list's name.
    pub list: String,
    pub subject: u64,
}

/// What is told at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// The start of the instance that tells it.
    from: u64,
    /// Whether it was told before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    #[serde(flatten)]
    pub key: Named,
    #[serde(flatten)]
    pub tale: Tale,
}

/// What became of a key. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tale {
    /// It is closed for so long.
    Closed(u64),
    /// A person opened all keys of its list.
    Opened(()),
    /// A person paused it, or lets it go on.
    Paused(bool),
    /// An answer told a limit.
    Told(Report),
    /// A rate was found: so many requests an hour.
    Found(u64),
    /// There are so many instances. It is said of no key.
    Company(u64),
}

/// What an answer told, so many milliseconds ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    unit: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<u64>,
    /// In nanoseconds, as all instances name the limit by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steadily: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at_once: Option<u64>,
    ago: u64,
}

/// What was closed and ordered here, and is told again to a store that was lost meanwhile.
#[derive(Debug, Default)]
pub(super) struct Kept {
    known: HashMap<String, (Message, Instant)>,
}

impl Named {
    pub(super) fn of(list: &SharedList, key: Key) -> Self {
        Self { list: list.name.clone(), subject: key.subject }
    }
}

impl Message {
    pub(super) fn new(from: u64, key: Named, tale: Tale) -> Self {
        Self { from, again: false, key, tale }
    }

    /// What one instance was taught, for the others.
    pub(super) fn of_hearsay(from: u64, key: Named, hearsay: &Hearsay, again: bool) -> Self {
        let tale = match hearsay.said {
            Said::Told(told) => Tale::Told(Report::new(&told, hearsay.ago)),
            Said::Found(an_hour) => Tale::Found(an_hour),
        };
        Self { from, again, key, tale }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What it is about: the store remembers the last that was told of that.
    pub(super) fn about(&self) -> String {
        let Named { list, subject } = &self.key;
        let what = match &self.tale {
            Tale::Closed(_) | Tale::Opened(()) => "closed".to_owned(),
            Tale::Paused(_) => "paused".to_owned(),
            Tale::Told(Report { unit, period, .. }) => format!("told {unit} {}", period.unwrap_or(0)),
            Tale::Found(_) => "found".to_owned(),
            Tale::Company(_) => "company".to_owned(),
        };
        format!("{list} {subject:016x} {what}")
    }

    /// For how long it holds; not any more, if that is nothing.
    pub(super) fn lasting(&self) -> Duration {
        match &self.tale {
            Tale::Closed(left) => Duration::from_millis(*left),
            Tale::Opened(()) | Tale::Paused(false) | Tale::Company(_) => Duration::ZERO,
            Tale::Paused(true) => LONGEST,
            Tale::Told(Report { period, .. }) => BELIEF.max(Duration::from_nanos(period.unwrap_or(0))),
            Tale::Found(_) => BELIEF,
        }
    }

    /// Whether what was told before stays if that holds for longer.
    pub(super) fn yields(&self) -> bool {
        matches!(self.tale, Tale::Closed(_))
    }

    /// What others tell: nothing that this instance, which is `own`, has told itself.
    pub(super) fn read(text: &[u8], own: u64) -> Option<Self> {
        let message: Self = serde_json::from_slice(text).ok().filter(|_| text.len() <= LONGEST_MESSAGE)?;
        (message.from != own).then_some(message)
    }

    /// The same as it stands so long after it was told, if it holds for `left` more.
    pub(super) fn later(self, since: Duration, left: Duration) -> Self {
        let tale = match self.tale {
            Tale::Closed(_) => Tale::Closed(millis(left)),
            Tale::Told(report) => Tale::Told(Report { ago: report.ago.saturating_add(millis(since)), ..report }),
            other => other,
        };
        Self { tale, ..self }
    }

    /// What to tell before the number of instances, and after it.
    pub(super) fn around_company() -> (String, String) {
        const NUMBER: u64 = 1_234_567;
        let message = Self::new(0, Named { list: String::new(), subject: 0 }, Tale::Company(NUMBER)).text();
        let (before, after) = message.split_once(&NUMBER.to_string()).unwrap_or_default();
        (before.to_owned(), after.to_owned())
    }
}

impl Report {
    fn new(told: &Told, ago: Duration) -> Self {
        let (steadily, at_once) = match told.refill {
            Some(Refill::Steadily(after)) => (Some(millis(after)), None),
            Some(Refill::AtOnce(after)) => (None, Some(millis(after))),
            None => (None, None),
        };
        let unit = Unit::ALL.iter().position(|unit| *unit == told.unit).unwrap_or(0) as u8;
        let period = told.period.map(|period| period.as_nanos().try_into().unwrap_or(u64::MAX));
        Self { unit, amount: told.amount, period, left: told.left, steadily, at_once, ago: millis(ago) }
    }

    /// What was told, and how long ago. `None` if it counts what we do not know.
    pub(super) fn told(&self) -> Option<(Told, Duration)> {
        let steadily = self.steadily.map(|after| Refill::Steadily(Duration::from_millis(after)));
        let at_once = self.at_once.map(|after| Refill::AtOnce(Duration::from_millis(after)));
        let told = Told {
            unit: *Unit::ALL.get(usize::from(self.unit))?,
            amount: self.amount,
            period: self.period.map(Duration::from_nanos),
            left: self.left,
            refill: steadily.or(at_once),
        };
        Some((told, Duration::from_millis(self.ago)))
    }
}

impl Kept {
    pub(super) fn note(&mut self, now: Instant, message: &Message) {
        self.known.retain(|_, (_, until)| *until > now);
        let (about, lasting) = (message.about(), message.lasting());
        if lasting.is_zero() {
            self.known.remove(&about);
        } else if self.known.len() < MOST_KEPT || self.known.contains_key(&about) {
            self.known.insert(about, (message.clone(), now.after(lasting)));
        }
    }

    /// Another instance says otherwise.
    pub(super) fn forget(&mut self, message: &Message) {
        self.known.remove(&message.about());
    }

    /// What still holds.
    pub(super) fn all(&self, now: Instant) -> Vec<Message> {
        let open = self.known.values().filter(|(_, until)| *until > now);
        open.map(|(message, until)| message.clone().later(Duration::ZERO, until.since(now))).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(subject: u64) -> Named {
        Named { list: "provider groq https://api.groq.com:443 key".to_owned(), subject }
    }

    fn told() -> Told {
        let minute = Duration::from_secs(60);
        let refill = Some(Refill::Steadily(Duration::from_millis(172_800)));
        Told { unit: Unit::Tokens, amount: Some(500_000), period: Some(minute), left: Some(499_999), refill }
    }

    #[test]
    fn what_is_told_is_understood_by_the_others_and_not_by_who_told_it() {
        let report = Report::new(&told(), Duration::from_millis(40));
        let tales = [
            Tale::Closed(3000),
            Tale::Opened(()),
            Tale::Paused(true),
            Tale::Told(report),
            Tale::Found(72_000),
            Tale::Company(3),
        ];
        for tale in tales {
            let message = Message::new(7, key(u64::MAX), tale);
            let text = message.text();
            assert_eq!(Message::read(text.as_bytes(), 8), Some(message), "{text}");
            assert_eq!(Message::read(text.as_bytes(), 7), None);
        }
        assert_eq!(report.told(), Some((told(), Duration::from_millis(40))));
        assert_eq!(Message::read(b"{\"from\":1}", 7), None);
        assert_eq!(Message::read(&[b' '; 2 * LONGEST_MESSAGE], 7), None);
    }

    #[test]
    fn the_number_of_instances_is_told_by_the_store_itself() {
        let (before, after) = Message::around_company();
        let message = Message::read(format!("{before}3{after}").as_bytes(), 7).expect("a message");
        assert_eq!(message.tale, Tale::Company(3));
    }

    #[test]
    fn what_was_told_long_ago_is_known_to_be_old() {
        let report = Report::new(&told(), Duration::from_millis(40));
        let later = Message::new(7, key(1), Tale::Told(report)).later(Duration::from_secs(2), Duration::from_secs(9));
        let Tale::Told(report) = later.tale else { panic!("it is the same") };
        assert_eq!(report.told(), Some((told(), Duration::from_millis(2040))));
        let closed = Message::new(7, key(1), Tale::Closed(9000)).later(Duration::from_secs(8), Duration::from_secs(1));
        assert_eq!(closed.tale, Tale::Closed(1000));
    }

    #[test]
    fn what_holds_no_more_is_not_told_any_more() {
        let mut kept = Kept::default();
        let at = |seconds| Instant::START.after(Duration::from_secs(seconds));
        for subject in 0..2 * MOST_KEPT as u64 {
            kept.note(at(0), &Message::new(7, key(subject), Tale::Closed(1000 * (1 + subject))));
        }
        assert_eq!(kept.all(at(0)).len(), MOST_KEPT);
        assert_eq!(kept.all(at(50)).len(), MOST_KEPT - 50);
        kept.note(at(50), &Message::new(7, key(99), Tale::Opened(())));
        kept.note(at(50), &Message::new(7, key(1), Tale::Paused(true)));
        kept.note(at(50), &Message::new(7, key(1), Tale::Paused(false)));
        assert_eq!(kept.all(at(50)).len(), MOST_KEPT - 51);
    }
}
