//! What lines tell the thread that shares their limits, and what it does with them.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cooldown_pacer::share::{Share, Usage};
use cooldown_pacer::{Instant, Key, Limit, LimitsId};
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
    /// An upstream closed a key for so long.
    Closed(Key, Duration),
    /// The proxy ends in good order.
    Leave,
    /// It ends.
    End,
}

/// Keys by what was asked of a line.
pub(super) type Asked = HashSet<Key, RandomState>;

/// What a line notes for the thread. All of it happens under the line's lock.
#[derive(Debug)]
pub(in crate::pacing) struct Watch {
    sharer: Sharer,
    lists: Vec<LimitsId>,
    /// Keys that somebody began to wait for since the thread last looked: no more than wait.
    asked: Asked,
    /// Whether the thread knows that there are some.
    is_told: bool,
}

impl Watch {
    pub(in crate::pacing) fn new(sharer: Sharer) -> Self {
        Self { sharer, lists: Vec::new(), asked: Asked::default(), is_told: false }
    }

    /// These lists of the line are shared from now on.
    pub(in crate::pacing) fn set_lists(&mut self, lists: Vec<LimitsId>) {
        self.lists = lists;
    }

    /// What two lines noted that are one now.
    pub(in crate::pacing) fn join(one: &mut Option<Self>, other: Option<Self>) {
        match (one, other) {
            (Some(one), Some(other)) => {
                one.lists.extend(other.lists);
                one.asked.extend(other.asked);
                one.is_told |= other.is_told;
            }
            (one, other) => *one = one.take().or(other),
        }
    }

    /// A request waits for these keys.
    pub(in crate::pacing) fn waits(&mut self, line: &Arc<Line>, keys: impl Iterator<Item = Key>) {
        self.asked.extend(keys.filter(|key| self.lists.contains(&key.limits)));
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

    fn tell(&self, news: News) {
        // At its end there is nobody to tell.
        let _ = self.sharer.send(news);
    }
}

impl Line {
    /// Looks at what this instance does with a limit, the `nth` of a key (`None` for a key that is not in use), and changes
    /// what it holds of it, both at one instant. `None` if a reload has just put another limit in that place.
    pub(super) fn hold<R>(
        self: &Arc<Self>,
        key: Key,
        (nth, limit): (usize, Limit),
        change: impl FnOnce(Instant, Option<Usage>) -> (Option<Share>, R),
    ) -> Option<R> {
        self.decide(|inner, now, _| {
            inner.pacer.limits(key.limits).get(nth).filter(|there| counts_alike(**there, limit))?;
            let usage = inner.pacer.usage(now, key, nth);
            let (share, told) = change(now, usage);
            share.into_iter().for_each(|share| inner.pacer.set_share(now, key, nth, share));
            Some(told)
        })
    }

    /// The keys that somebody began to wait for since the last call.
    pub(super) fn asked(self: &Arc<Self>) -> Asked {
        self.decide(|inner, _, _| {
            let Some(watch) = &mut inner.watch else { return Asked::default() };
            watch.is_told = false;
            std::mem::take(&mut watch.asked)
        })
    }
}
