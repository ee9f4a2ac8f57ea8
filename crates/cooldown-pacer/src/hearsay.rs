//! What instances that use the same limits tell each other of what their upstream has taught them. See ADR 0020.
//!
//! Limits that were told, and rates that were found, are shared like those that were given: each instance holds a part,
//! which a store moves. Until it does, those that have just become acquainted with a limit divide it evenly.

use std::time::Duration;

use crate::ask::{Key, LimitsId};
use crate::bucket::Bucket;
use crate::learned::{Answered, Learned, Sense};
use crate::limit::Limit;
use crate::observation::{Lesson, Told};
use crate::pacer::Pacer;
use crate::search::Search;
use crate::share::{Share, Usage, Which, parts};
use crate::taught::Taught;
use crate::time::{Instant, nanos};

/// More than this is not kept for the others until somebody takes it: it comes again.
const MOST_KEPT: usize = 64;

/// What one instance was taught, as the others hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hearsay {
    /// Whose limit.
    pub key: Key,
    /// What was said of it.
    pub said: Said,
    /// How long ago that was true.
    pub ago: Duration,
}

/// What an upstream has taught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// An answer told the state of a limit, as all instances use it.
    Told(Told),
    /// It bears so many requests an hour of all instances, as was found by trying.
    Found(u64),
}

impl Pacer {
    /// So many instances use the limits that are [shared](Pacer::share_limits), this one included.
    pub fn set_company(&mut self, instances: u64) {
        self.keys.set_company(instances.max(1));
    }

    /// How many instances use the limits that are shared, as was said last.
    pub fn company(&self) -> u64 {
        self.keys.company()
    }

    /// What others should hear of what was learned since the last call.
    pub fn hearsay(&mut self) -> Vec<Hearsay> {
        std::mem::take(&mut self.hearsay)
    }

    /// All that others should hear that know nothing: what the upstream itself has taught this instance of these limits.
    pub fn all_hearsay(&self, now: Instant, limits: LimitsId) -> Vec<Hearsay> {
        let now = self.last_now().max(now.as_nanos());
        let states = self.keys.of(limits).filter_map(|state| Some((state.key, state.taught.as_ref()?)));
        states.flat_map(|(key, taught)| taught.tell(now).map(move |(said, ago)| said_of(key, said, ago))).collect()
    }

    /// Another instance was taught something. Less is believed at once, as if the answer had come here; nothing is believed
    /// that contradicts what this instance was told later. `is_news` says that all hear of it only now, so that an equal
    /// part is each one's; what others have known for longer they hold already.
    pub fn hear_of(&mut self, now: Instant, hearsay: &Hearsay, is_news: bool) -> Option<Lesson> {
        let now = self.advance(now);
        let Hearsay { key, said, ago } = *hearsay;
        if !self.keys.is_shared(key.limits) {
            return None;
        }
        let index = self.index_of(now, key)?;
        let guard = nanos(self.settings.guard);
        let state = self.keys.get_mut(index);
        let (waiting, typical) = (state.waiting, state.typical());
        let taught = state.taught.as_mut()?;
        let limit = match said {
            Said::Told(told) => {
                let at = now.saturating_sub(nanos(ago));
                let nth = taught.history().last_by(at);
                let answered = Answered { now, elsewhere: true, nth, at, waiting, typical, guard };
                let sense = Sense::of(&told)?;
                taught.hear_of(&answered, &sense, is_news)
            }
            Said::Found(an_hour) => {
                taught.hear_found(now, an_hour, waiting, is_news);
                None
            }
        };
        self.lapses = self.lapses.min(self.keys.get_mut(index).hold_to_shares(now));
        if limit.is_some() {
            self.keys.plan_ahead(now, index);
        }
        self.look_again();
        limit.map(|limit| Lesson::Limit { key, limit })
    }

    /// Another instance was told that a key is closed until then. What left before is known to be refused: further answers
    /// to it say nothing new.
    pub fn close_too(&mut self, now: Instant, key: Key, until: Instant) {
        let now = self.advance(now);
        let granted = self.granted;
        let Some(index) = self.index_of(now, key) else { return };
        if let Some(taught) = &mut self.keys.get_mut(index).taught {
            taught.close_too(now, until.as_nanos(), granted);
        }
        self.look_again();
    }

    /// The limits of a key that were told or found. Those of the same unit and period are the same on all instances.
    pub fn taught_limits(&self, key: Key) -> Vec<Which> {
        let taught = self.keys.find(key).and_then(|state| state.taught.as_ref());
        taught.map_or_else(Vec::new, |taught| taught.which())
    }

    /// Whether this instance has an equal part of what was taught, and the store has not said what it holds.
    pub fn is_claimed(&self, key: Key, which: Which) -> bool {
        let taught = self.keys.find(key).and_then(|state| state.taught.as_ref());
        let share = taught.and_then(|taught| match which {
            Which::Stated(_) => None,
            Which::Told(..) => taught.told(which)?.share,
            Which::Found => taught.search.as_ref()?.share,
        });
        share.is_some_and(|share| share.is_claimed())
    }

    /// The limit of a key that is meant, if there is one now.
    pub fn limit(&self, key: Key, which: Which) -> Option<Limit> {
        let state = || self.keys.find(key)?.taught.as_ref();
        match which {
            Which::Stated(nth) => self.keys.stated(key.limits).get(nth).copied(),
            Which::Told(..) => Some(state()?.told(which)?.bucket.as_ref()?.limit()),
            Which::Found => state()?.search.as_ref().map(|_| parts()),
        }
    }

    /// Keeps what an upstream has just told for the others.
    pub(crate) fn tell(&mut self, key: Key, said: Said, ago: u64) {
        if self.hearsay.len() < MOST_KEPT {
            self.hearsay.push(said_of(key, said, ago));
        }
    }

    /// Keeps the rate at which an upstream has just refused for the others.
    pub(crate) fn tell_found(&mut self, now: u64, key: Key) {
        let taught = self.keys.find(key).filter(|_| self.keys.is_shared(key.limits));
        let search = taught.and_then(|state| state.taught.as_ref()?.search.as_ref());
        if let Some(an_hour) = search.map(|search| search.an_hour(now)) {
            self.tell(key, Said::Found(an_hour), 0);
        }
    }
}

impl Taught {
    /// Other instances use these limits, this one included so many; none others if that is zero.
    pub(crate) fn set_company(&mut self, now: u64, company: u64) {
        let was_alone = self.company == 0;
        self.company = company;
        if company == 0 {
            self.learned.iter_mut().for_each(|learned| learned.keep_to_itself(now));
            self.search.iter_mut().for_each(|search| search.keep_to_itself(now));
        } else if was_alone {
            self.learned.iter_mut().for_each(|learned| join(learned, now, company));
            self.search.iter_mut().for_each(|search| search.share = Some(Share::of_one_of(company, parts())));
        }
        self.hold_to_shares(now);
    }

    /// Holds each limit to what is this instance's at `now`. When that changes next.
    pub(crate) fn hold_to_shares(&mut self, now: u64) -> u64 {
        let learned = self.learned.iter_mut().map(|learned| learned.hold_to_share(now));
        let search = self.search.iter_mut().map(|search| search.hold_to_share(now));
        learned.chain(search).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn set_share(&mut self, which: Which, share: Share) {
        match which {
            Which::Stated(_) => {}
            Which::Told(..) => self.told_mut(which).into_iter().for_each(|told| told.share = Some(share)),
            Which::Found => self.search.iter_mut().for_each(|search| search.share = Some(share)),
        }
    }

    /// What this instance does with a limit, where `usage` says it of a bucket.
    pub(crate) fn usage(
        &mut self,
        now: u64,
        which: Which,
        weight: u64,
        usage: impl FnOnce(&mut Bucket) -> Usage,
    ) -> Option<Usage> {
        match which {
            Which::Stated(_) => None,
            Which::Told(..) => self.told_mut(which)?.bucket.as_mut().map(usage),
            Which::Found => self.search.as_ref().map(|search| search.usage(now, weight)),
        }
    }

    fn which(&self) -> Vec<Which> {
        let told = self.buckets().filter_map(|bucket| match bucket.limit() {
            Limit::Rate(rate) => Some(Which::Told(rate.unit(), rate.period())),
            Limit::Concurrency(_) => None,
        });
        told.chain(self.search.as_ref().map(|_| Which::Found)).collect()
    }

    fn told(&self, which: Which) -> Option<&Learned> {
        self.learned.iter().find(|learned| is_meant(learned, which))
    }

    fn told_mut(&mut self, which: Which) -> Option<&mut Learned> {
        self.learned.iter_mut().find(|learned| is_meant(learned, which))
    }

    /// All that the upstream itself has taught.
    fn tell(&self, now: u64) -> impl Iterator<Item = (Said, u64)> {
        let told = self.learned.iter().filter_map(move |learned| learned.tell(now));
        let found = self.search.as_ref().filter(|search| search.is_in_use(now) && !search.is_over(now));
        let found = found.map(|search| (Said::Found(search.an_hour(now)), 0));
        told.map(|(told, ago)| (Said::Told(told), ago)).chain(found)
    }

    /// Whether others should hear at once what an answer has just told.
    pub(crate) fn is_worth_telling(&mut self, now: u64, told: &Told, is_news: bool) -> bool {
        let Some(sense) = Sense::of(told) else { return false };
        let learned = self.learned.iter_mut().find(|learned| learned.is_meant(&sense));
        learned.is_some_and(|learned| learned.is_worth_telling(now, is_news, told.left))
    }

    /// Another instance's answer told of a limit.
    fn hear_of(&mut self, answered: &Answered, sense: &Sense, is_news: bool) -> Option<Limit> {
        let known = self.learned.iter().any(|learned| learned.is_meant(sense) && learned.share.is_some());
        let limit = self.hear(answered, sense);
        let learned = self.learned.iter_mut().find(|learned| learned.is_meant(sense))?;
        if !known && !is_news {
            learned.share = learned.bucket.as_ref().map(|bucket| Share::of_stranger(bucket.limit()));
        }
        limit
    }

    /// Another instance found a rate, where nothing was told here.
    fn hear_found(&mut self, now: u64, an_hour: u64, waiting: u32, is_news: bool) {
        if let Some(search) = &mut self.search {
            return search.hear(now, an_hour);
        }
        if self.learned.iter().any(|learned| learned.bucket.is_some()) {
            return;
        }
        let share = if is_news { Share::of_one_of(self.company, parts()) } else { Share::of_stranger(parts()) };
        self.search = Some(Search::told(now, an_hour, self.history().count(), waiting, share));
    }
}

/// A limit that became known here is one that others use, too: an equal part of it is this instance's. Where only what is
/// left was told, an equal part of that.
pub(crate) fn join(learned: &mut Learned, now: u64, company: u64) {
    if company == 0 || learned.share.is_some() {
        return;
    }
    match &learned.bucket {
        Some(bucket) => learned.share = Some(Share::of_one_of(company, bucket.limit())),
        None => learned.crowd = company as f64,
    }
    learned.hold_to_share(now);
}

fn is_meant(learned: &Learned, which: Which) -> bool {
    let limit = learned.bucket.as_ref().map(Bucket::limit);
    matches!((limit, which), (Some(Limit::Rate(rate)), Which::Told(unit, period))
        if (rate.unit(), rate.period()) == (unit, period))
}

fn said_of(key: Key, said: Said, ago: u64) -> Hearsay {
    Hearsay { key, said, ago: Duration::from_nanos(ago) }
}
