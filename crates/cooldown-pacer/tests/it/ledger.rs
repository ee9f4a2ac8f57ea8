//! What is written ahead: over any departures, crashes and restarts the limit holds, and hardly anything is lost to caution.

use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Cost, Departure, Entry, Flow, Instant, Key, Limit, LimitsId, Pacer, Past, Permit, Rate, Settings,
    Spent, Teaching, Unit,
};
use proptest::collection::vec;
use proptest::prelude::{Strategy, prop_assert, prop_oneof, proptest};

const MILLISECOND: u64 = 1_000_000;
const MINUTE: Duration = Duration::from_secs(60);

/// A process that paces and dies, and the ledger that stays.
struct Site {
    limit: Rate,
    pacer: Pacer,
    key: Key,
    now: u64,
    past: Past,
    permits: Vec<(usize, Permit)>,
    /// When each request left, and what it cost in the end.
    left: Vec<(u64, u64)>,
    /// How many entries were written.
    written: usize,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time passes, in milliseconds.
    Pass(u64),
    /// A request asks, for so much.
    Ask(u64),
    /// One that left is written to its connection only so many milliseconds later.
    SentLate(usize, u64),
    /// One that left is over, and cost this part of what was expected, in percent.
    Settle(usize, u64),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..20_000u64).prop_map(Step::Pass),
        8 => (1..400u64).prop_map(Step::Ask),
        2 => (0..10usize, 1..3000u64).prop_map(|(which, late)| Step::SentLate(which, late)),
        3 => (0..10usize, 0..=100u64).prop_map(|(which, part)| Step::Settle(which, part)),
        1 => proptest::strategy::Just(Step::Crash),
    ];
    vec(step, 1..300)
}

impl Site {
    fn new(unit: Unit, amount: u64) -> Self {
        let limit = Rate::new(unit, amount, MINUTE).and_then(|rate| rate.with_burst(amount)).expect("a rate");
        let (pacer, key) = pacer(limit);
        Self {
            limit,
            pacer,
            key,
            now: MILLISECOND,
            past: Past::default(),
            permits: Vec::new(),
            left: Vec::new(),
            written: 0,
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.now)
    }

    /// Everything is written down before anybody leaves.
    fn write(&mut self) {
        let mut entries: Vec<Entry> = Vec::new();
        let now = self.now();
        self.pacer.entries(now, &mut entries);
        self.written += entries.len();
        entries.iter().for_each(|entry| self.past.note(now, &entry.noted));
    }

    fn go(&mut self, permit: Permit) {
        self.permits.push((self.left.len(), permit));
        let cost = self.permits.last().map_or(0, |(_, permit)| permit.taken().get(self.limit.unit()));
        self.left.push((self.now, cost.min(self.limit.amount())));
    }

    fn depart(&mut self) {
        let mut departures = Vec::new();
        self.pacer.due(self.now(), &mut departures);
        self.write();
        for departure in departures {
            if let Departure::Go(_, permit) = departure {
                self.go(permit);
            }
        }
    }

    fn ask(&mut self, cost: u64) {
        let cost = Cost::ONE_REQUEST.with(Unit::Tokens, cost);
        let asked = self.pacer.admit(self.now(), Ask { cost, ..Ask::new(Flow(1), [self.key]) });
        self.write();
        if let Admission::Go(permit) = asked {
            self.go(permit);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Pass(millis) => self.now += millis * MILLISECOND,
            Step::Ask(cost) => self.ask(cost),
            Step::SentLate(which, late) if self.is_in_window(which) => {
                self.now += late * MILLISECOND;
                let now = self.now();
                let (index, permit) = &mut self.permits[which];
                self.pacer.sent(now, permit);
                self.left[*index].0 = self.now;
                self.write();
            }
            Step::Settle(which, part) if which < self.permits.len() => {
                let (index, permit) = self.permits.swap_remove(which);
                let (at, cost) = self.left[index];
                // What a request did not cost counts only as long as it is in the window.
                let actual = if self.now - at < 60_000 * MILLISECOND { cost * part / 100 } else { cost };
                self.left[index].1 = actual;
                let spent = Cost::NOTHING.with(self.limit.unit(), actual);
                self.pacer.settle(self.now(), permit, Spent::Exactly(spent));
                self.write();
            }
            Step::Crash => self.crash(),
            Step::SentLate(..) | Step::Settle(..) => {}
        }
        self.depart();
    }

    /// A connection is made within a time-out: a request is never written a whole window late.
    fn is_in_window(&self, which: usize) -> bool {
        self.permits.get(which).is_some_and(|(index, _)| self.now - self.left[*index].0 < 55_000 * MILLISECOND)
    }

    fn crash(&mut self) {
        self.permits.clear();
        (self.pacer, self.key) = pacer(self.limit);
        self.pacer.recall(self.now(), self.key, self.limit.unit(), &self.past);
        self.write();
    }

    /// What really left in the window that ends at `end`.
    fn in_window(&self, end: u64) -> u64 {
        self.since((end + MILLISECOND).saturating_sub(60_000 * MILLISECOND), end)
    }

    fn since(&self, from: u64, end: u64) -> u64 {
        self.left.iter().filter(|(at, _)| (from..=end).contains(at)).map(|(_, cost)| cost).sum()
    }
}

fn pacer(limit: Rate) -> (Pacer, Key) {
    let mut pacer = Pacer::new(Settings::default());
    pacer.write_ahead(MINUTE);
    let key = Key::whole(pacer.add_limits(vec![limit.into()]));
    (pacer, key)
}

proptest! {
    #[test]
    fn over_any_crashes_no_window_holds_more_than_the_limit(
        steps in steps(), amount in prop_oneof![1..20u64, 100..1000u64], tokens in proptest::bool::ANY,
    ) {
        let unit = if tokens { Unit::Tokens } else { Unit::Requests };
        let mut site = Site::new(unit, amount);
        for step in steps {
            site.step(step);
            prop_assert!(site.in_window(site.now) <= amount, "{} of {amount} at {}", site.in_window(site.now), site.now);
        }
    }

    #[test]
    fn a_crash_costs_no_more_than_a_hundredth_of_a_limit(
        steps in steps(), amount in prop_oneof![1..20u64, 1000..100_000u64], tokens in proptest::bool::ANY,
    ) {
        let unit = if tokens { Unit::Tokens } else { Unit::Requests };
        let mut site = Site::new(unit, amount);
        for step in steps.into_iter().filter(|step| !matches!(step, Step::Crash | Step::Pass(..))) {
            site.step(step);
            // Instants are told to a few thousandths of a period, and a guard is kept as well.
            let lately = site.since(site.now.saturating_sub(59_900 * MILLISECOND), site.now);
            let really = site.since(site.now.saturating_sub(60_700 * MILLISECOND), site.now);
            let counted = site.past.used(site.now());
            prop_assert!(counted >= lately, "{counted} of {lately} are counted");
            prop_assert!(counted <= really + amount / 100, "{counted} instead of {really} are counted of {amount}");
        }
    }
}

#[test]
fn after_a_crash_the_rest_of_the_window_is_there_at_once() {
    let mut site = Site::new(Unit::Requests, 50);
    (0..30).for_each(|_| site.step(Step::Ask(0)));
    site.step(Step::Pass(10_000));
    site.step(Step::Crash);
    (0..50).for_each(|_| site.step(Step::Ask(0)));
    assert_eq!(site.left.len(), 50, "20 leave at once, and no more");
    site.step(Step::Pass(49_000));
    assert_eq!(site.left.len(), 50);
    site.step(Step::Pass(2_000));
    assert!(site.left.len() > 50, "the window has passed");
}

#[test]
fn a_thousand_a_minute_are_written_down_three_hundred_times() {
    let mut site = Site::new(Unit::Requests, 1000);
    (0..1000).for_each(|_| site.step(Step::Ask(0)));
    assert_eq!((site.left.len(), site.written), (1000, 334));
}

#[test]
fn who_ends_in_good_order_loses_nothing_to_caution() {
    let mut site = Site::new(Unit::Tokens, 100_000);
    (0..3).for_each(|_| site.step(Step::Ask(100)));
    assert_eq!(site.past.used(site.now()), 333);
    let mut entries = Vec::new();
    site.pacer.last_entries(site.now(), &mut entries);
    entries.iter().for_each(|entry| site.past.note(site.now(), &entry.noted));
    assert_eq!(site.past.used(site.now()), 300);
}

#[test]
fn that_what_left_counts_for_longer_is_written_down_at_once() {
    let mut site = Site::new(Unit::Requests, 60);
    (0..30).for_each(|_| site.step(Step::Ask(0)));
    let hour = Rate::new(Unit::Requests, 500, 60 * MINUTE).expect("a rate");
    site.pacer.state_limits(site.now(), site.key.limits, vec![site.limit.into(), hour.into()], None);
    let mut entries = Vec::new();
    site.pacer.entries(site.now(), &mut entries);
    assert!(entries.iter().any(|entry| entry.noted.keep >= 60 * MINUTE), "{entries:?}");
}

#[test]
fn limits_below_a_minute_are_not_written_down() {
    let mut pacer = Pacer::new(Settings::default());
    pacer.write_ahead(MINUTE);
    let short = Rate::new(Unit::Requests, 100, Duration::from_secs(59)).expect("a rate");
    let key = Key::whole(pacer.add_limits(vec![short.into()]));
    let Admission::Go(permit) = pacer.admit(Instant::START, Ask::new(Flow(1), [key])) else { panic!("it may leave") };
    pacer.settle(Instant::START, permit, Spent::Nothing);
    assert!(!pacer.has_entries());
}

#[test]
fn a_limit_that_a_reload_brings_writes_down_what_has_left_before_it() {
    let mut pacer = Pacer::new(Settings::default());
    pacer.write_ahead(MINUTE);
    let rate = |seconds| Limit::Rate(Rate::new(Unit::Requests, 100, Duration::from_secs(seconds)).expect("a rate"));
    let id = LimitsId::new(1);
    pacer.state_limits(Instant::START, id, vec![rate(50)], None);
    for _ in 0..7 {
        let asked = pacer.admit(Instant::START, Ask::new(Flow(1), [Key::whole(id)]));
        assert!(matches!(asked, Admission::Go(_)));
    }
    assert!(!pacer.has_entries());
    pacer.state_limits(Instant::START, id, vec![rate(3600)], None);
    let mut entries = Vec::new();
    pacer.entries(Instant::START, &mut entries);
    assert!(matches!(entries[..], [Entry { noted, .. }] if noted.afresh && noted.more == 7));
}

#[test]
fn a_limit_that_was_learned_is_recalled_with_what_had_left() {
    let mut pacer = Pacer::new(Settings::default());
    pacer.write_ahead(MINUTE);
    let key = Key::whole(pacer.add_teaching_limits(Vec::new(), Teaching::Cautious));
    let rate = Rate::new(Unit::Requests, 20, MINUTE).and_then(|rate| rate.with_burst(20)).expect("a rate");
    pacer.recall_limit(Instant::START, key, rate);
    let mut past = Past::default();
    past.note(Instant::START, &cooldown_pacer::Noted { keep: MINUTE, more: 15, ..Default::default() });
    pacer.recall(Instant::START, key, Unit::Requests, &past);
    let room = pacer.learned(Instant::START, key.limits);
    assert!(matches!(room[..], [(_, room)] if room.left == 5), "{room:?}");
    assert_eq!(pacer.told_limits(key, MINUTE).len(), 1);
}
