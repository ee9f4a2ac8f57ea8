//! Several pacers before one strict upstream that nobody has stated limits of: what one of them is taught, all obey together.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cooldown_pacer::share::{Answer, Holder, Ledger, Renewal, Terms, Which};
use cooldown_pacer::{
    Admission, Ask, Flow, Hearsay, Key, Lesson, Observation, Pacer, Permit, Settings, Spent, Teaching, Ticket,
};
use proptest::prelude::*;

use crate::upstream::{Counting, Telling, fixed, sliding};
use crate::world::{MILLI, SECOND, at, due, roll, worst_window};

const EVERY: Duration = Duration::from_millis(250);
/// What a request takes on its way to the upstream, and an answer back.
const WAY: u64 = 5 * MILLI;

/// One instance, and clients that always have a request each.
struct Member {
    boot: u64,
    pacer: Pacer,
    key: Key,
    holders: HashMap<Which, Holder>,
    flows: u64,
    busy: Vec<bool>,
    tickets: BTreeMap<Ticket, u64>,
    paused_until: u64,
    cut_until: u64,
    /// What its clock shows when it starts.
    clock: u64,
    stopped: bool,
}

/// What is under way.
enum Event {
    Reach {
        from: usize,
        boot: u64,
        flow: u64,
        permit: Permit,
        left: u64,
    },
    Answer {
        to: usize,
        boot: u64,
        flow: u64,
        permit: Permit,
        accepted: bool,
        told: Option<cooldown_pacer::Told>,
        wait: u64,
    },
    Renew {
        from: usize,
        boot: u64,
        which: Which,
        renewal: Renewal,
    },
    Renewed {
        to: usize,
        boot: u64,
        which: Which,
        answer: Answer,
    },
    Hear {
        to: usize,
        boot: u64,
        hearsay: Hearsay,
    },
    Close {
        to: usize,
        boot: u64,
        lasting: Duration,
    },
}

struct Fleet {
    members: Vec<Member>,
    counting: Counting,
    telling: Telling,
    ledgers: HashMap<Which, Ledger>,
    /// What the store remembers of what was told, and since when.
    memory: Vec<(u64, Hearsay)>,
    events: Vec<(u64, Event)>,
    /// What left for the upstream: when, and whether it was accepted.
    sent: Vec<(u64, bool)>,
    refused: Vec<u64>,
    now: u64,
    dice: u64,
    /// How long the store takes.
    delay: u64,
    dead_until: u64,
}

impl Fleet {
    fn new(counting: Counting, telling: Telling, flows: &[u64]) -> Self {
        let mut fleet = Self {
            members: Vec::new(),
            counting,
            telling,
            ledgers: HashMap::new(),
            memory: Vec::new(),
            events: Vec::new(),
            sent: Vec::new(),
            refused: Vec::new(),
            now: 0,
            dice: 88172645463325252,
            delay: MILLI,
            dead_until: 0,
        };
        flows.iter().for_each(|&flows| fleet.join(flows));
        fleet
    }

    fn roll(&mut self) -> u64 {
        roll(&mut self.dice)
    }

    /// An instance starts, and reads what the others know.
    fn join(&mut self, flows: u64) {
        let fresh = self.fresh(flows);
        self.members.push(fresh);
        let all = self.members.len() as u64;
        self.members.iter_mut().for_each(|member| member.pacer.set_company(all));
    }

    fn fresh(&mut self, flows: u64) -> Member {
        let clock = self.roll() % (1000 * SECOND);
        let mut pacer = Pacer::new(Settings { guard: Duration::from_millis(2), ..Settings::default() });
        let limits = pacer.add_teaching_limits(Vec::new(), Teaching::Cautious);
        let now = at(clock + self.now);
        pacer.share_limits(now, limits, true);
        pacer.set_company(self.members.len() as u64);
        let mut holders = HashMap::new();
        let key = Key::whole(limits);
        for (since, hearsay) in &self.memory {
            let ago = hearsay.ago + Duration::from_nanos(self.now - since);
            pacer.hear_of(now, &Hearsay { key, ago, ..*hearsay }, false);
        }
        for which in pacer.taught_limits(key) {
            let limit = pacer.limit(key, which).expect("it was heard of");
            holders.insert(which, Holder::new(Terms::new(limit, Duration::from_secs(1)), EVERY));
        }
        Member {
            boot: self.roll(),
            pacer,
            key,
            holders,
            flows,
            busy: vec![false; 64],
            tickets: BTreeMap::new(),
            paused_until: 0,
            cut_until: 0,
            clock,
            stopped: false,
        }
    }

    fn restart(&mut self, nth: usize) {
        let flows = self.members[nth].flows;
        let fresh = self.fresh(flows);
        self.members[nth] = fresh;
    }

    fn run_for(&mut self, nanos: u64) {
        let end = self.now + nanos;
        while self.now < end {
            self.now += MILLI;
            let now = self.now;
            let mut due: Vec<(u64, Event)> = self.events.extract_if(.., |(when, _)| *when <= now).collect();
            due.sort_by_key(|(when, _)| *when);
            due.into_iter().for_each(|(_, event)| self.happen(event));
            for nth in 0..self.members.len() {
                if !self.members[nth].stopped && self.members[nth].paused_until <= now {
                    self.act(nth);
                }
            }
        }
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.events.push((self.now + after, event));
    }

    /// Whether a member still is who it was, and awake. What comes meanwhile waits.
    fn is_there(&self, nth: usize, boot: u64) -> bool {
        self.members[nth].boot == boot && !self.members[nth].stopped
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Reach { from, boot, flow, permit, left } => {
                let accepted = self.counting.accepts(now);
                self.sent.push((left, accepted));
                if !accepted {
                    self.refused.push(now);
                }
                let told = (self.telling == Telling::Limits).then(|| self.counting.left(now)).flatten();
                let wait = self.counting.wait(now).div_ceil(SECOND) * SECOND;
                self.plan(WAY, Event::Answer { to: from, boot, flow, permit, accepted, told, wait });
            }
            Event::Answer { to, boot, .. }
            | Event::Renewed { to, boot, .. }
            | Event::Hear { to, boot, .. }
            | Event::Close { to, boot, .. }
                if self.is_there(to, boot) && self.members[to].paused_until > now =>
            {
                let later = self.members[to].paused_until;
                self.events.push((later, event));
            }
            Event::Answer { to, boot, .. } if self.is_there(to, boot) => self.answered(event),
            Event::Renew { from, boot, which, renewal } if self.dead_until <= now => {
                let ledger = self.ledgers.entry(which).or_default();
                let answer = ledger.renew(now / MILLI, "store", &format!("m{from}"), &boot.to_string(), &renewal);
                self.plan(self.delay, Event::Renewed { to: from, boot, which, answer });
            }
            Event::Renewed { to, boot, which, answer } if self.is_there(to, boot) => {
                let member = &mut self.members[to];
                let Some(holder) = member.holders.get_mut(&which) else { return };
                if member.cut_until <= now && holder.hear(&answer) {
                    member.pacer.set_share(at(member.clock + now), member.key, which, holder.share());
                }
            }
            Event::Hear { to, boot, hearsay } if self.is_there(to, boot) => {
                let member = &mut self.members[to];
                let ago = hearsay.ago + Duration::from_nanos(self.delay);
                member.pacer.hear_of(at(member.clock + now), &Hearsay { key: member.key, ago, ..hearsay }, true);
            }
            Event::Close { to, boot, lasting } if self.is_there(to, boot) => {
                let member = &mut self.members[to];
                let local = at(member.clock + now);
                member.pacer.close_too(local, member.key, local.after(lasting));
            }
            _ => {}
        }
    }

    fn answered(&mut self, event: Event) {
        let Event::Answer { to, flow, mut permit, accepted, told, wait, .. } = event else { return };
        let member = &mut self.members[to];
        let (local, key) = (at(member.clock + self.now), member.key);
        let until = (self.telling == Telling::Waits).then(|| local.after(Duration::from_nanos(wait)));
        let verdict = match accepted {
            true => Observation::Accepted,
            false => Observation::Refused { key, unit: None, until },
        };
        let mut lessons = Vec::new();
        for observation in told.map(|told| Observation::Told { key, told }).into_iter().chain([verdict]) {
            lessons.extend(member.pacer.observe(local, &mut permit, observation));
        }
        member.pacer.settle(local, permit, if accepted { Spent::AsEstimated } else { Spent::Nothing });
        member.busy[flow as usize] = false;
        let heard = member.pacer.hearsay();
        if member.cut_until > self.now || self.dead_until > self.now {
            return;
        }
        let others: Vec<(usize, u64)> = (0..self.members.len())
            .filter(|&nth| nth != to && self.members[nth].cut_until <= self.now)
            .map(|nth| (nth, self.members[nth].boot))
            .collect();
        for (to, boot) in others {
            heard.iter().for_each(|&hearsay| self.plan(self.delay, Event::Hear { to, boot, hearsay }));
            for lesson in &lessons {
                if let Lesson::Closed { until, .. } = lesson {
                    self.plan(self.delay, Event::Close { to, boot, lasting: until.since(local) });
                }
            }
        }
        for hearsay in heard {
            let alike = |one: &Hearsay| std::mem::discriminant(&one.said) == std::mem::discriminant(&hearsay.said);
            self.memory.retain(|(_, known)| !alike(known));
            self.memory.push((self.now, hearsay));
        }
    }

    fn act(&mut self, nth: usize) {
        let now = self.now;
        let member = &mut self.members[nth];
        let local = at(member.clock + now);
        let mut going = Vec::new();
        for flow in 0..member.flows {
            if std::mem::replace(&mut member.busy[flow as usize], true) {
                continue;
            }
            match member.pacer.admit(local, Ask::new(Flow(flow), [member.key])) {
                Admission::Go(permit) => going.push((flow, permit)),
                Admission::Wait(ticket) => drop(member.tickets.insert(ticket, flow)),
                Admission::Refuse(refusal) => panic!("{refusal:?}"),
            }
        }
        for (ticket, permit) in due(&mut member.pacer, local) {
            going.push((member.tickets.remove(&ticket).expect("it waits"), permit));
        }
        let boot = member.boot;
        going.into_iter().for_each(|(flow, permit)| {
            self.plan(WAY, Event::Reach { from: nth, boot, flow, permit, left: now });
        });
        self.renew(nth);
    }

    fn renew(&mut self, nth: usize) {
        let (now, boot) = (self.now, self.members[nth].boot);
        let member = &mut self.members[nth];
        let local = at(member.clock + now);
        let mut said = Vec::new();
        for which in member.pacer.taught_limits(member.key) {
            let limit = member.pacer.limit(member.key, which).expect("it was told");
            let terms = Terms::new(limit, Duration::from_secs(1));
            let company = member.pacer.company();
            let holder = member.holders.entry(which).or_insert_with(|| {
                let mut holder = Holder::new(terms, EVERY);
                holder.claim(company);
                holder
            });
            holder.set_terms(terms);
            let usage = member.pacer.usage(local, member.key, which).unwrap_or_default();
            if holder.due(&usage) <= local {
                let renewal = holder.renew(local, &usage);
                member.pacer.set_share(local, member.key, which, holder.share());
                said.push((which, renewal));
            }
        }
        if member.cut_until > now {
            return;
        }
        said.into_iter().for_each(|(which, renewal)| {
            self.plan(self.delay, Event::Renew { from: nth, boot, which, renewal });
        });
    }

    /// The part of what the upstream allows that it accepted in the last `nanos`.
    fn used(&self, nanos: u64, a_second: f64) -> f64 {
        let accepted = self.sent.iter().filter(|(when, accepted)| *accepted && *when > self.now - nanos).count();
        accepted as f64 / (a_second * nanos as f64 / SECOND as f64)
    }

    fn refused_since(&self, since: u64) -> usize {
        self.refused.iter().filter(|when| **when >= since).count()
    }

    /// The most that left in any trailing window of what was sent from then on.
    fn worst(&self, since: u64, period: u64) -> u64 {
        let mut log: Vec<(u64, u64)> =
            self.sent.iter().filter(|(when, _)| *when >= since).map(|(when, _)| (*when, 1)).collect();
        log.sort_unstable();
        worst_window(&log, period - 1)
    }
}

fn sixty() -> Counting {
    sliding(60, 1)
}

#[test]
fn a_limit_that_is_told_to_all_is_kept_and_used_by_all_together() {
    for (name, counting) in [("sliding", sixty()), ("fixed", fixed(60, 1)), ("a minute", sliding(600, 60))] {
        let mut fleet = Fleet::new(counting, Telling::Limits, &[12, 12, 12]);
        fleet.run_for(20 * SECOND);
        assert_eq!(fleet.refused_since(0), 0, "{name}");
        let (a_second, period) = if name == "a minute" { (10.0, 60 * SECOND) } else { (60.0, SECOND) };
        assert!(fleet.worst(0, period) <= (a_second * (period / SECOND) as f64) as u64, "{name}");
        fleet.run_for(if name == "a minute" { 220 * SECOND } else { 0 });
        let span = if name == "a minute" { 180 * SECOND } else { 18 * SECOND };
        assert!(fleet.used(span, a_second) >= 0.93, "{name}: {}", fleet.used(span, a_second));
    }
}

#[test]
fn an_instance_that_starts_later_obeys_at_once_what_the_others_were_told() {
    let mut fleet = Fleet::new(sixty(), Telling::Limits, &[12, 12]);
    fleet.run_for(10 * SECOND);
    fleet.join(12);
    fleet.run_for(10 * SECOND);
    assert_eq!(fleet.refused_since(0), 0);
    assert!(fleet.worst(0, SECOND) <= 60);
    assert!(fleet.used(8 * SECOND, 60.0) >= 0.95, "{}", fleet.used(8 * SECOND, 60.0));
}

#[test]
fn a_limit_that_is_told_to_be_lower_is_lower_for_all_at_once() {
    let mut fleet = Fleet::new(sixty(), Telling::Limits, &[12, 12, 12]);
    fleet.run_for(10 * SECOND);
    fleet.counting = sliding(30, 1);
    let changed = fleet.now;
    fleet.run_for(10 * SECOND);
    // What left before the news had come is in the first window.
    assert!(fleet.worst(changed + 100 * MILLI, SECOND) <= 30, "{}", fleet.worst(changed + 100 * MILLI, SECOND));
    assert!(fleet.refused_since(changed + SECOND) == 0, "{}", fleet.refused_since(changed + SECOND));
    assert!(fleet.used(8 * SECOND, 30.0) >= 0.9, "{}", fleet.used(8 * SECOND, 30.0));
}

#[test]
fn a_told_limit_follows_demand_and_outlives_the_store() {
    let mut fleet = Fleet::new(sixty(), Telling::Limits, &[20, 0, 0]);
    fleet.run_for(12 * SECOND);
    assert!(fleet.used(4 * SECOND, 60.0) >= 0.9, "alone: {}", fleet.used(4 * SECOND, 60.0));
    fleet.dead_until = u64::MAX;
    (fleet.members[1].flows, fleet.members[2].flows) = (20, 20);
    fleet.run_for(10 * SECOND);
    assert!(fleet.used(5 * SECOND, 60.0) >= 0.1, "without the store: {}", fleet.used(5 * SECOND, 60.0));
    fleet.dead_until = 0;
    fleet.run_for(10 * SECOND);
    assert!(fleet.used(4 * SECOND, 60.0) >= 0.95, "back: {}", fleet.used(4 * SECOND, 60.0));
    assert!(fleet.worst(0, SECOND) <= 60);
}

#[test]
fn a_limit_that_is_learned_without_the_store_is_divided_evenly_and_flows() {
    let mut fleet = Fleet::new(sixty(), Telling::Limits, &[12, 12, 12]);
    fleet.dead_until = 20 * SECOND;
    fleet.run_for(20 * SECOND);
    assert_eq!(fleet.refused_since(0), 0);
    assert!(fleet.worst(0, SECOND) <= 60);
    assert!(fleet.used(18 * SECOND, 60.0) >= 0.92, "{}", fleet.used(18 * SECOND, 60.0));
}

#[test]
fn a_rate_that_is_never_told_is_found_by_all_together() {
    let mut fleet = Fleet::new(sixty(), Telling::Nothing, &[12, 12, 12]);
    fleet.run_for(120 * SECOND);
    let used = fleet.used(90 * SECOND, 60.0);
    let refused = fleet.refused_since(30 * SECOND) as f64 / (90.0 * 60.0);
    println!("{used} used, {refused} refused");
    assert!(used >= 0.85, "{used}");
    assert!(refused <= 0.01, "{refused}");
    let before = fleet.now;
    fleet.join(12);
    fleet.run_for(20 * SECOND);
    let refused = fleet.refused_since(before);
    assert!(refused <= 15, "{refused} were refused after a fourth had come");
}

#[test]
fn what_one_instance_is_refused_stops_all_and_counts_once() {
    let mut fleet = Fleet::new(sixty(), Telling::Waits, &[12, 12, 12]);
    fleet.run_for(60 * SECOND);
    let refused = fleet.refused_since(10 * SECOND) as f64 / (50.0 * 60.0);
    let used = fleet.used(50 * SECOND, 60.0);
    println!("{used} used, {refused} refused");
    assert!(refused <= 0.02, "{refused}");
    assert!(used >= 0.8, "{used}");
}

/// What goes wrong, and for how long.
#[derive(Debug, Clone)]
enum Fault {
    Restart(usize),
    Pause(usize, u64),
    Cut(usize, u64),
    StoreDies(u64),
    Load(usize, u64),
    Slow(u64),
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let long = || (0..8000u64).prop_map(|millis| millis * MILLI);
    prop_oneof![
        (0usize..2).prop_map(Fault::Restart),
        (0usize..2, long()).prop_map(|(who, long)| Fault::Pause(who, long)),
        (0usize..2, long()).prop_map(|(who, long)| Fault::Cut(who, long)),
        long().prop_map(Fault::StoreDies),
        (0usize..2, 0u64..30).prop_map(|(who, flows)| Fault::Load(who, flows)),
        (1u64..50).prop_map(|millis| Fault::Slow(millis * MILLI)),
    ]
}

fn suffer(fleet: &mut Fleet, fault: &Fault) {
    let now = fleet.now;
    match *fault {
        // Who starts without the store knows nothing.
        Fault::Restart(who) if fleet.members[who].cut_until <= now && fleet.dead_until <= now => fleet.restart(who),
        Fault::Restart(_) => {}
        Fault::Pause(who, long) => fleet.members[who].paused_until = now + long,
        Fault::Cut(who, long) => fleet.members[who].cut_until = now + long,
        Fault::StoreDies(long) => fleet.dead_until = now + long,
        Fault::Load(who, flows) => fleet.members[who].flows = flows,
        Fault::Slow(delay) => fleet.delay = delay,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// R1 for the sum under a limit that was told, whatever fails once it is known. Of larger ones a stranger has a unit
    /// that it may use beside one that was cut off: see ADR 0015.
    #[test]
    fn the_sum_obeys_a_told_limit_whatever_fails(
        amount in 30u64..50,
        flows in prop::collection::vec(1u64..20, 2..4),
        seed in 1u64..u64::MAX,
        faults in prop::collection::vec((0u64..4000, any_fault()), 0..10),
    ) {
        let mut fleet = Fleet::new(sliding(amount, 1), Telling::Limits, &flows);
        fleet.dice = seed;
        fleet.run_for(SECOND);
        for (after, fault) in &faults {
            suffer(&mut fleet, fault);
            fleet.run_for(after * MILLI);
        }
        (fleet.dead_until, fleet.delay) = (0, MILLI);
        for member in &mut fleet.members {
            (member.paused_until, member.cut_until, member.flows) = (0, 0, 20);
        }
        fleet.run_for(8 * SECOND);
        let worst = fleet.worst(200 * MILLI, SECOND);
        prop_assert!(worst <= amount, "{worst} of {amount}");
        fleet.run_for(6 * SECOND);
        let used = fleet.used(4 * SECOND, amount as f64);
        // Floors of those that start anew while a limit is new count as somebody's for an hour.
        prop_assert!(used >= 0.65, "{used} used in the end");
        let worst = fleet.worst(200 * MILLI, SECOND);
        prop_assert!(worst <= amount, "{worst} of {amount}");
    }
}
