//! What lines tell the thread that shares their limits, and what it does with them.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cooldown_pacer::share::{Share, Usage, Which};
use cooldown_pacer::{Hearsay, Instant, Key, Lesson, Limit, LimitsId};
use foldhash::fast::RandomState;

use super::super::line::Line;
use super::held::counts_alike;
use super::{SharedList, Sharer};

/// What the thread must know at once.
#[derive(Debug)]
pub(in crate::pacing) enum News {
    /// These lists are shared from now on.
    Lists(Vec<SharedList>),
    /// Somebody waits in this line for a limit that is shared.
    Waits(Weak<Line>),
    /// An upstream closed a key for so long, or a person did.
    Closed(Key, Duration),
    /// A person opened it.
    Opened(Key),
    /// A person paused it, or lets it go on.
    Paused(Key, bool),
    /// An upstream taught something.
    Taught(Hearsay),
    /// The proxy ends in good order.
    Leave,
    /// It ends.
    End,
}

pub(super) type KeySet = HashSet<Key, RandomState>;

/// What an upstream has taught of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taught {
    pub which: Which,
    pub limit: Limit,
    /// Whether this instance has taken an equal part, and the store does not know.
    pub is_claimed: bool,
}

/// What a line notes for the thread. All of it happens under the line's lock.
#[derive(Debug)]
pub(in crate::pacing) struct Watch {
    sharer: Sharer,
    lists: Vec<LimitsId>,
    /// Keys that somebody began to wait for since the thread last looked: no more than wait.
    asked: KeySet,
    /// Whether the thread knows that there are some.
    is_told: bool,
    /// Keys that the thread knows somebody waits for, and renews with that in view: more who wait are no news.
    known: KeySet,
}

impl Watch {
    pub(in crate::pacing) fn new(sharer: Sharer) -> Self {
        Self { sharer, lists: Vec::new(), asked: KeySet::default(), is_told: false, known: KeySet::default() }
    }

    /// These lists of the line are shared from now on.
    pub(in crate::pacing) fn set_lists(&mut self, lists: Vec<LimitsId>) {
        self.lists = lists;
        self.known.retain(|key| self.lists.contains(&key.limits));
    }

    /// What two lines noted that are one now, which the thread has not been [told](Self::moved) of.
    pub(in crate::pacing) fn join(one: &mut Option<Self>, other: Option<Self>) {
        match (one, other) {
            (Some(one), Some(other)) => {
                one.lists.extend(other.lists);
                one.asked.extend(other.asked);
                one.known.clear();
            }
            (one, other) => *one = one.take().or(other),
        }
    }

    /// A request waits for these keys.
    pub(in crate::pacing) fn waits(&mut self, line: &Arc<Line>, keys: impl Iterator<Item = Key>) {
        self.asked.extend(keys.filter(|key| self.lists.contains(&key.limits) && !self.known.contains(key)));
        if !self.asked.is_empty() && !std::mem::replace(&mut self.is_told, true) {
            self.tell(News::Waits(Arc::downgrade(line)));
        }
    }

    /// The upstream closed a key.
    pub(in crate::pacing) fn closed(&self, key: Key, lasting: Duration) {
        if self.lists.contains(&key.limits) {
            self.tell(News::Closed(key, lasting));
        }
    }

    /// The upstream taught something of a key.
    pub(in crate::pacing) fn taught(&self, hearsay: Hearsay) {
        if self.lists.contains(&hearsay.key.limits) {
            self.tell(News::Taught(hearsay));
        }
    }

    /// The next one who waits for it is news.
    pub(in crate::pacing) fn forget(&mut self, key: Key) {
        self.known.remove(&key);
    }

    /// Whom the thread was told of may be a line that is not there any more: it is told of this one.
    pub(in crate::pacing) fn moved(&mut self, line: &Arc<Line>) {
        self.is_told = false;
        self.waits(line, std::iter::empty());
    }

    fn tell(&self, news: News) {
        // At its end there is nobody to tell.
        let _ = self.sharer.send(news);
    }
}

impl Line {
    /// Looks at a limit of a key and what this instance does with it (`None` for a key that is not in use), and changes
    /// what it holds of it, all at one instant. `None` if there is no such limit, or a reload has just put one that counts
    /// something else than `expected` in its place.
    pub(super) fn hold<R>(
        self: &Arc<Self>,
        key: Key,
        which: Which,
        expected: Limit,
        change: impl FnOnce(Instant, Limit, Option<Usage>) -> (Option<Share>, R),
    ) -> Option<R> {
        self.decide(|inner, now, _| {
            let usage = inner.pacer.usage(now, key, which);
            if usage.is_none_or(|usage| usage.waiting == 0) {
                inner.watch.iter_mut().for_each(|watch| watch.forget(key));
            }
            let limit = inner.pacer.limit(key, which).filter(|there| counts_alike(*there, expected))?;
            let (share, told) = change(now, limit, usage);
            share.into_iter().for_each(|share| inner.pacer.set_share(now, key, which, share));
            Some(told)
        })
    }

    /// What upstreams have taught of a key.
    pub(super) fn taught(self: &Arc<Self>, key: Key) -> Vec<Taught> {
        self.decide(|inner, _, _| {
            let which = inner.pacer.taught_limits(key).into_iter();
            let taught = |which| {
                let (limit, is_claimed) = (inner.pacer.limit(key, which)?, inner.pacer.is_claimed(key, which));
                Some(Taught { which, limit, is_claimed })
            };
            which.filter_map(taught).collect()
        })
    }

    /// So many instances share limits.
    pub(super) fn set_company(self: &Arc<Self>, instances: u64) {
        self.decide(|inner, _, _| inner.pacer.set_company(instances));
    }

    /// All that upstreams have taught this instance itself of a list of limits.
    pub(super) fn all_hearsay(self: &Arc<Self>, limits: LimitsId) -> Vec<Hearsay> {
        self.decide(|inner, now, _| inner.pacer.all_hearsay(now, limits))
    }

    /// Another instance was taught something; whether somebody waits for the key, and what is worth telling of it.
    pub(super) fn hear_of(self: &Arc<Self>, hearsay: &Hearsay, is_news: bool) -> (bool, Option<Lesson>) {
        self.decide(|inner, now, _| {
            let lesson = inner.pacer.hear_of(now, hearsay, is_news);
            (inner.pacer.is_waited_for(hearsay.key), lesson)
        })
    }

    /// The keys of a list that somebody waits for.
    pub(super) fn waited_for(self: &Arc<Self>, limits: LimitsId) -> Vec<Key> {
        self.decide(|inner, _, _| {
            let keys = inner.pacer.keys_of(limits);
            keys.filter(|key| inner.pacer.is_waited_for(*key)).collect()
        })
    }

    /// The keys that somebody began to wait for since the last call. More who wait for them are not told of until the key
    /// is [`forgotten`](Self::forget_asked), or looked at when nobody waits for it.
    pub(super) fn asked(self: &Arc<Self>) -> KeySet {
        self.decide(|inner, _, _| {
            let Some(watch) = &mut inner.watch else { return KeySet::default() };
            watch.is_told = false;
            let asked = std::mem::take(&mut watch.asked);
            watch.known.extend(&asked);
            asked
        })
    }

    /// The next one who waits for a key is news: something of it is not held, or may not be.
    pub(super) fn forget_asked(self: &Arc<Self>, key: Key) {
        self.decide(|inner, _, _| inner.watch.iter_mut().for_each(|watch| watch.forget(key)));
    }
}

#[cfg(test)]
mod tests {
    use cooldown_pacer::{Rate, Unit};
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::super::line::tests::{place, shared_line};
    use super::*;

    #[test]
    fn more_who_wait_for_what_is_waited_for_are_no_news() {
        // Of so small a limit nobody has anything before the store has said so: everybody waits.
        let limit = Rate::new(Unit::Requests, 1, Duration::from_secs(3600)).expect("a rate").into();
        let (sharer, mut news) = unbounded_channel();
        let (line, key, _alarm) = shared_line(limit, Some(sharer));
        let mut is_told = move || matches!(news.try_recv(), Ok(News::Waits(_)));
        let look = || line.hold(key, Which::Stated(0), limit, |_, _, usage| (None, usage.unwrap_or_default().waiting));

        let first = place(&line, key);
        assert!(is_told(), "somebody waits");
        let second = place(&line, key);
        assert!(!is_told(), "it has been told and not looked at");
        assert_eq!(line.asked().len(), 1);
        let third = place(&line, key);
        assert_eq!((is_told(), look()), (false, Some(3)), "those who renew see it");

        drop((first, second, third));
        assert_eq!(look(), Some(0));
        let fourth = place(&line, key);
        assert!(is_told(), "nobody was known to wait any more");
        assert_eq!(line.asked().len(), 1);
        line.forget_asked(key);
        let fifth = place(&line, key);
        assert!(is_told(), "nothing is held of it");
        drop((fourth, fifth));
    }
}
