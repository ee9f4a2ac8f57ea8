//! What one instance's upstream has closed, as the others are told.

use std::collections::HashMap;
use std::time::Duration;

use cooldown_pacer::{Instant, Key};
use serde::{Deserialize, Serialize};

use super::SharedList;

/// More than this is not repeated to a store that comes back.
const MOST_KEPT: usize = 100;
/// A message that is longer is none of ours.
const LONGEST_MESSAGE: usize = 4096;

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
    #[serde(flatten)]
    key: Named,
    /// For how long it is closed, in milliseconds.
    left: u64,
}

/// What was closed here and is told again to a store that was lost meanwhile.
#[derive(Debug, Default)]
pub(super) struct Closings {
    known: HashMap<Named, Instant>,
}

impl Named {
    pub(super) fn of(list: &SharedList, key: Key) -> Self {
        Self { list: list.name.clone(), subject: key.subject }
    }

    /// How the store knows it.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|_| text.len() <= LONGEST_MESSAGE)
    }
}

impl Message {
    pub(super) fn new(from: u64, key: Named, left: Duration) -> Self {
        Self { from, key, left: left.as_millis().try_into().unwrap_or(u64::MAX) }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What others tell: nothing that this instance has told itself.
    pub(super) fn read(text: &[u8], own: u64) -> Option<(Named, Duration)> {
        let message: Self = serde_json::from_slice(text).ok().filter(|_| text.len() <= LONGEST_MESSAGE)?;
        (message.from != own).then(|| (message.key, Duration::from_millis(message.left)))
    }
}

impl Closings {
    pub(super) fn note(&mut self, now: Instant, key: Named, until: Instant) {
        self.known.retain(|_, until| *until > now);
        if self.known.len() < MOST_KEPT || self.known.contains_key(&key) {
            self.known.insert(key, until);
        }
    }

    /// What is still closed, and for how long.
    pub(super) fn all(&self, now: Instant) -> Vec<(Named, Duration)> {
        let open = self.known.iter().filter(|(_, until)| **until > now);
        open.map(|(key, until)| (key.clone(), until.since(now))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_by_the_others_and_not_by_who_told_it() {
        let key = Named { list: "provider groq https://api.groq.com:443 key".to_owned(), subject: u64::MAX };
        let text = Message::new(7, key.clone(), Duration::from_secs(3)).text();
        assert_eq!(Message::read(text.as_bytes(), 8), Some((key.clone(), Duration::from_secs(3))));
        assert_eq!(Message::read(text.as_bytes(), 7), None);
        assert_eq!(Named::read(key.text().as_bytes()), Some(key));
        assert_eq!(Message::read(b"{\"from\":1}", 7), None);
        assert_eq!(Message::read(&[b' '; 2 * LONGEST_MESSAGE], 7), None);
    }

    #[test]
    fn what_is_open_again_is_not_told_any_more() {
        let mut closings = Closings::default();
        let at = |seconds| Instant::START.after(Duration::from_secs(seconds));
        for subject in 0..2 * MOST_KEPT as u64 {
            closings.note(at(0), Named { list: String::new(), subject }, at(1 + subject));
        }
        assert_eq!(closings.all(at(0)).len(), MOST_KEPT);
        assert_eq!(closings.all(at(50)).len(), MOST_KEPT - 50);
    }
}
