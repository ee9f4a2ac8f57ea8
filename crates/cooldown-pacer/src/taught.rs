//! What an upstream has taught about one key: closed or not, how many may try, which limits it told, which rate was found.

use smallvec::SmallVec;

use crate::ask::{Permit, Spent};
use crate::bucket::Bucket;
use crate::cooldown::{Closing, Cooldown, TurnedAway};
use crate::cost::{Cost, Unit};
use crate::hearsay::join;
use crate::history::History;
use crate::learned::{Answered, Learned, Sense};
use crate::limit::{Limit, Rate};
use crate::pacer::Teaching;
use crate::ramp::Ramp;
use crate::search::Search;
use crate::share::{Share, parts};

const SECOND: u64 = 1_000_000_000;
/// How many limits an upstream may tell of for one key.
const MOST_LEARNED: usize = 8;
/// How many go at first to an upstream that nothing is known about.
const FIRST_CROWD: u64 = 8;
/// A request without an answer for this long has not been refused: refusals come fast.
const PATIENCE: u64 = SECOND;
/// Where a rate was found, that rate is what protects the upstream.
const PATIENCE_AT_A_RATE: u64 = SECOND / 20;
/// A key without traffic for this long, about which nothing is known, is as new.
const IDLE: u64 = 60 * SECOND;
/// So many cuts within [`STRIKES_WITHIN`] are not explained by the limits that are known.
const STRIKES: u32 = 3;
const STRIKES_WITHIN: u64 = 10 * SECOND;

/// What an upstream has taught about one key.
#[derive(Debug, Clone)]
pub(crate) struct Taught {
    cooldown: Cooldown,
    ramp: Option<Ramp>,
    /// Whether the ramp is the one that a new key starts with.
    starting: bool,
    history: History,
    pub(crate) learned: SmallVec<[Learned; 1]>,
    pub(crate) search: Option<Search>,
    /// How many of those that left were turned away, or never sent.
    lost: u64,
    /// Cuts that known limits should have prevented, and when the first of them was.
    strikes: u32,
    struck: u64,
    /// How many instances use these limits; zero where this one is alone.
    pub(crate) company: u64,
}

impl Taught {
    pub(crate) fn new(now: u64, teaching: Teaching, stated: &[Limit], company: u64) -> Self {
        let is_paced = stated.iter().any(|limit| matches!(limit, Limit::Rate(_)));
        let starting = teaching == Teaching::Cautious && !is_paced;
        Self {
            cooldown: Cooldown::default(),
            ramp: starting.then(|| Ramp::new(now, FIRST_CROWD, PATIENCE)),
            starting,
            history: History::default(),
            learned: SmallVec::new(),
            search: None,
            lost: 0,
            strikes: 0,
            struck: 0,
            company,
        }
    }

    /// What has left lately.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Buckets of the limits that were told.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.learned.iter().filter_map(|learned| learned.bucket.as_ref())
    }

    pub(crate) fn buckets_mut(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.learned.iter_mut().filter_map(|learned| learned.bucket.as_mut())
    }

    /// Nobody leaves before this, pauses apart.
    pub(crate) fn closed_until(&self) -> u64 {
        self.cooldown.until()
    }

    pub(crate) fn earliest(&self, cost: &Cost) -> u64 {
        let ramp = self.ramp.as_ref().map_or(0, |ramp| ramp.earliest(0, 1));
        let search = self.search.as_ref().map_or(0, Search::earliest);
        let learned = self.learned.iter().map(|learned| learned.earliest(cost)).max().unwrap_or(0);
        self.cooldown.opens().max(ramp).max(search).max(learned)
    }

    /// The same if another one of `taken` leaves at `now`.
    pub(crate) fn earliest_after(&self, now: u64, cost: &Cost, taken: &Cost) -> u64 {
        let ramp = self.ramp.as_ref().map_or(0, |ramp| ramp.earliest(now, 2));
        let search = self.search.as_ref().map_or(0, |search| search.earliest_after(now));
        let learned = self.learned.iter().map(|learned| learned.earliest_after(now, cost, taken)).max().unwrap_or(0);
        self.cooldown.opens().max(ramp).max(search).max(learned)
    }

    /// When one of `cost` will leave behind others, buckets apart.
    pub(crate) fn departure(&self, now: u64, requests: f64, ahead: &Cost, cost: &Cost) -> u64 {
        let search = self.search.as_ref().map_or(now, |search| search.departure(now, requests));
        let learned = self.learned.iter().map(|learned| learned.departure(now, ahead, cost));
        learned.fold(search, u64::max)
    }

    /// How long the ramp can hold somebody up.
    pub(crate) fn longest_ramp(&self) -> u64 {
        self.ramp.as_ref().map_or(0, Ramp::longest)
    }

    pub(crate) fn take(&mut self, now: u64, due: u64, nth: u64, cost: &Cost) {
        self.history.record(now, nth, cost);
        if let Some(ramp) = &mut self.ramp {
            ramp.take(now, nth);
        }
        if let Some(search) = &mut self.search {
            search.take(now, due, self.cooldown.until(), self.history.count().saturating_sub(self.lost + 1));
        }
        for learned in &mut self.learned {
            learned.expire(now);
            learned.take(now, due, cost);
        }
    }

    pub(crate) fn restamp(&mut self, now: u64, permit: &Permit) {
        self.history.restamp(permit.nth, now);
        self.learned.iter_mut().for_each(|learned| learned.restamp(permit.at, now, &permit.taken));
    }

    pub(crate) fn settle(&mut self, now: u64, permit: &Permit, spent: Spent) {
        if !permit.heard {
            self.ramp.iter_mut().for_each(|ramp| _ = ramp.leave(now, permit.nth));
        }
        let actual = match spent {
            Spent::AsEstimated => return,
            Spent::Nothing => Cost::NOTHING,
            Spent::Exactly(cost) => cost,
        };
        self.history.settle(permit.nth, actual);
        if spent == Spent::Nothing && !permit.heard {
            self.lost += 1;
            self.cooldown.given_back(permit.nth);
            self.search.iter_mut().for_each(|search| search.give_back(now));
        }
        for learned in &mut self.learned {
            learned.settle(now, permit.nth, permit.at, &permit.taken, &actual);
        }
    }

    pub(crate) fn line_up(&mut self, now: u64, cost: &Cost) {
        self.buckets_mut().for_each(|bucket| bucket.line_up(now, cost, 1));
        self.search.iter_mut().for_each(|search| search.line_up(now));
    }

    pub(crate) fn leave_line(&mut self, now: u64, cost: &Cost) {
        self.buckets_mut().for_each(|bucket| bucket.leave_line(now, cost));
        self.search.iter_mut().for_each(|search| search.leave_line(now));
    }

    /// Forgets what holds no longer. True if somebody may leave earlier because of it.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let known = self.learned.len();
        self.learned.retain(|learned| !learned.is_over(now));
        self.learned.iter_mut().for_each(|learned| learned.expire(now));
        let search = self.search.take_if(|search| search.is_over(now));
        self.ramp.iter_mut().for_each(|ramp| ramp.expire(now));
        let ramp = self.ramp.take_if(|ramp| ramp.is_over());
        search.is_some() || ramp.is_some() || self.learned.len() < known
    }

    /// Whether it is as if nobody had ever asked.
    pub(crate) fn is_as_new(&mut self, now: u64) -> bool {
        self.expire(now);
        let latest = self.history.latest().unwrap_or(0).max(self.cooldown.opens());
        let is_idle = latest == 0 || latest.saturating_add(IDLE) <= now;
        is_idle && self.learned.is_empty() && self.search.is_none()
    }

    /// The rate that was found by trying.
    pub(crate) fn found(&self, now: u64) -> Option<Rate> {
        self.search.as_ref().filter(|search| !search.is_over(now))?.found(now)
    }

    /// An earlier process has found this rate. What the upstream tells goes before it.
    pub(crate) fn recall_found(&mut self, now: u64, rate: &Rate) {
        let is_told =
            self.buckets().any(|bucket| matches!(bucket.limit(), Limit::Rate(told) if told.unit() == rate.unit()));
        if self.search.is_none() && !is_told {
            self.search = Some(Search::recalled(now, rate));
        }
    }

    /// Whether nothing is known that the upstream's taking a request could change.
    pub(crate) fn is_plain(&self) -> bool {
        self.ramp.is_none() && self.search.is_none() && self.learned.is_empty() && !self.cooldown.is_doubtful()
    }

    /// The upstream took a request. True if somebody may leave earlier because of it.
    pub(crate) fn accepted(&mut self, now: u64, nth: u64, heard: bool) -> bool {
        self.cooldown.accepted(nth);
        if heard {
            return false;
        }
        self.ramp.iter_mut().for_each(|ramp| ramp.accepted(now, nth));
        self.expire(now) || self.ramp.is_some()
    }

    /// The request of a permit was turned away, by this key or another one.
    pub(crate) fn lose(&mut self, now: u64, nth: u64) {
        self.lost += 1;
        self.ramp.iter_mut().for_each(|ramp| _ = ramp.leave(now, nth));
    }

    /// What there is to know of a request that was turned away.
    pub(crate) fn turned_away(&self, permit: &Permit, granted: u64, until: Option<u64>) -> TurnedAway {
        let left_before = self.history.count_before(permit.nth);
        TurnedAway { nth: permit.nth, granted, at: permit.at, left_before, left: self.history.count(), until }
    }

    /// The upstream turned a request away.
    pub(crate) fn close(&mut self, now: u64, away: &TurnedAway) -> Closing {
        let spacing = self.search.as_ref().map_or(0, Search::spacing);
        let closing = self.cooldown.close(now, away, spacing);
        if matches!(closing, Closing::New { .. }) {
            self.starting = false;
            self.start_ramp(now);
        }
        closing
    }

    /// A person closes the key until then. As after any other closing, one goes first.
    pub(crate) fn close_by_hand(&mut self, now: u64, until: u64) {
        self.cooldown.close_by_hand(now, until);
        self.starting = false;
        self.start_ramp(now);
    }

    /// Another instance was told that the key is closed until then, when so many permits had been granted here.
    pub(crate) fn close_too(&mut self, now: u64, until: u64, granted: u64) {
        self.cooldown.close_too(now, until, granted, self.history.count());
        self.starting = false;
        self.start_ramp(now);
    }

    /// A person opens the key.
    pub(crate) fn open_by_hand(&mut self, now: u64) {
        self.cooldown.open_by_hand(now);
    }

    /// A person pauses the key, or lets it go on.
    pub(crate) fn set_paused(&mut self, is_paused: bool) {
        self.cooldown.set_paused(is_paused);
    }

    /// Whether a person has paused the key.
    pub(crate) fn is_paused(&self) -> bool {
        self.cooldown.is_paused()
    }

    fn start_ramp(&mut self, now: u64) {
        let patience = if self.search.is_some() { PATIENCE_AT_A_RATE } else { PATIENCE };
        self.ramp = Some(Ramp::new(now, 1, patience));
    }

    /// A limit of this unit was broken, as the upstream counts, and nothing had been refused since others were taken.
    /// `explained` says that a configured limit should have prevented it.
    pub(crate) fn cut(&mut self, now: u64, away: &TurnedAway, unit: Option<Unit>, mut explained: bool, waiting: u32) {
        // It has been counted as lost, but not as one that left before itself.
        let taken = (away.left_before + 1).saturating_sub(self.lost);
        if let Some(search) = &mut self.search {
            search.cut(now, away.at, taken);
            return;
        }
        for learned in self.learned.iter_mut().filter(|learned| learned.counts(unit)) {
            learned.refused(now);
            explained = true;
        }
        if explained && !self.is_struck_out(now) {
            return;
        }
        // If nothing was taken lately, nothing can be said about the rate: somebody else may have used it all.
        let rate = self.history.rate_before(away.nth, away.at);
        if rate > 0.0 {
            let share = (self.company > 0).then(|| Share::of_one_of(self.company, parts()));
            self.search = Some(Search::new(now, away.at, rate, taken, waiting, share));
            self.start_ramp(now);
        }
    }

    /// A probe was refused like the one before it.
    pub(crate) fn stays_closed(&mut self, now: u64, away: &TurnedAway) {
        let taken = (away.left_before + 1).saturating_sub(self.lost);
        self.search.iter_mut().for_each(|search| search.stays_closed(now, away.at, taken));
    }

    fn is_struck_out(&mut self, now: u64) -> bool {
        if self.strikes == 0 || now.saturating_sub(self.struck) > STRIKES_WITHIN {
            (self.strikes, self.struck) = (0, now);
        }
        self.strikes += 1;
        let out = self.strikes >= STRIKES;
        self.strikes %= STRIKES;
        out
    }

    /// A response told of a limit. The limit, where it is worth announcing.
    pub(crate) fn hear(&mut self, answered: &Answered, sense: &Sense) -> Option<Limit> {
        self.expire(answered.now);
        let index = match self.learned.iter().position(|learned| learned.is_meant(sense)) {
            Some(index) => index,
            None if self.learned.len() == MOST_LEARNED => return None,
            None => {
                self.learned.push(Learned::new(sense));
                self.learned.len() - 1
            }
        };
        let company = self.company;
        let learned = &mut self.learned[index];
        let was_known = learned.bucket.is_some();
        let limit = learned.hear(answered, sense, &self.history);
        let is_known = learned.bucket.is_some();
        join(learned, answered.now, company);
        if sense.unit == Unit::Requests && is_known && !was_known {
            self.search = None;
        }
        if sense.unit == Unit::Requests && std::mem::take(&mut self.starting) {
            self.ramp = None;
        }
        limit
    }

    /// The key is closed: until when.
    pub(crate) fn closed(&self, now: u64) -> Option<u64> {
        (self.cooldown.until() > now).then(|| self.cooldown.until())
    }
}
