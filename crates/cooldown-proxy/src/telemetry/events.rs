//! What happened lately that a person would want to know: a bounded list, for the dashboard.
//!
//! Written only when something goes wrong or is learned; a plain request never comes here.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::metrics::unix_millis;

/// How many are kept.
pub const MOST_EVENTS: usize = 200;
/// The same thing happening again within this time, in milliseconds, is one event that is counted.
const ONE_EVENT: u64 = 10_000;
/// How many of the latest are looked at for that.
const LOOKED_AT: usize = 20;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A limit became known, or is another one than before.
    Learned,
    /// An upstream, a key or a model closed.
    Closed,
    /// The proxy refused a request.
    Refused,
    /// A key is left alone: its money or its permission is gone.
    KeyRests,
    /// An upstream failed without an answer.
    Unreachable,
    /// Somebody did something by hand.
    ByHand,
    /// The configuration was read again.
    Reload,
    /// What should survive a restart cannot be read or written.
    State,
    /// The store of shared limits was reached, or lost, or has lost its memory.
    Shared,
}

/// One thing that happened, once or several times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one with each event, from 1.
    pub id: u64,
    /// When it first happened, in Unix milliseconds.
    pub at_ms: u64,
    /// When it last happened.
    pub last_ms: u64,
    /// How often it happened.
    pub count: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The upstream, where it concerns one.
    pub upstream: Option<String>,
    /// What it concerns: the error code, or the key and model.
    pub subject: String,
    /// What happened, in words.
    pub text: String,
    /// When it was last changed, in changes.
    #[serde(skip)]
    change: u64,
}

/// The latest events.
#[derive(Debug)]
pub struct Events {
    recent: Mutex<Recent>,
    /// The number of the latest change that nobody should miss, for those who listen.
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<Event>,
    /// How many there have been, and how many changes.
    count: u64,
    changes: u64,
}

impl Events {
    /// Something happened.
    pub fn tell(&self, kind: EventKind, upstream: Option<&str>, subject: &str, text: String) {
        if let Some(change) = self.recent.lock().add(kind, upstream, subject, text, unix_millis()) {
            self.latest.send_replace(change);
        }
    }

    /// All that changed after a change, oldest first, and the number of the latest change. After 0 comes everything.
    pub fn after(&self, change: u64) -> (Vec<Event>, u64) {
        let recent = self.recent.lock();
        let changed = recent.events.iter().filter(|event| event.change > change);
        (changed.cloned().collect(), recent.changes)
    }

    /// Is told of each new event; not of one that happens again.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self { recent: Mutex::default(), latest: watch::Sender::new(0) }
    }
}

impl Recent {
    /// The number of the change, if it is a new event.
    fn add(&mut self, kind: EventKind, upstream: Option<&str>, subject: &str, text: String, now: u64) -> Option<u64> {
        self.changes += 1;
        let is_same = |event: &&mut Event| {
            event.kind == kind
                && event.upstream.as_deref() == upstream
                && event.subject == subject
                && event.last_ms + ONE_EVENT >= now
        };
        if let Some(event) = self.events.iter_mut().rev().take(LOOKED_AT).find(is_same) {
            (event.count, event.last_ms, event.change) = (event.count + 1, now, self.changes);
            event.text = text;
            return None;
        }
        self.count += 1;
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            id: self.count,
            at_ms: now,
            last_ms: now,
            count: 1,
            kind,
            upstream: upstream.map(str::to_owned),
            subject: subject.to_owned(),
            text,
            change: self.changes,
        });
        Some(self.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_at_once_is_one_event_that_is_counted() {
        let mut recent = Recent::default();
        let mut add = |subject: &str, now| recent.add(EventKind::Refused, Some("api"), subject, String::new(), now);
        assert_eq!(add("queue_full", 1000), Some(1));
        assert_eq!(add("wait_too_long", 1001), Some(2));
        assert_eq!(add("queue_full", 1002), None);
        assert_eq!(add("queue_full", 1002 + ONE_EVENT + 1), Some(4), "later is another time");
        let counts: Vec<u64> = recent.events.iter().map(|event| event.count).collect();
        assert_eq!(counts, [2, 1, 1]);
    }

    #[test]
    fn only_the_latest_are_kept() {
        let events = Events::default();
        for nth in 0..2 * MOST_EVENTS {
            events.tell(EventKind::Learned, None, &nth.to_string(), String::new());
        }
        let (kept, _) = events.after(0);
        assert_eq!(kept.len(), MOST_EVENTS);
        assert_eq!(kept.last().map(|event| event.id), Some(2 * MOST_EVENTS as u64));
    }

    #[test]
    fn who_listens_misses_nothing_and_hears_nothing_twice() {
        let events = Events::default();
        let listener = events.listen();
        events.tell(EventKind::Closed, Some("a"), "", "for 3 s".to_owned());
        assert!(listener.has_changed().expect("it lives"));
        let (first, seen) = events.after(0);
        assert_eq!(first.len(), 1);
        assert_eq!(events.after(seen).0, []);
        events.tell(EventKind::Closed, Some("a"), "", "for 9 s".to_owned());
        let (again, _) = events.after(seen);
        assert_eq!((again[0].id, again[0].count, again[0].text.as_str()), (first[0].id, 2, "for 9 s"));
    }
}
