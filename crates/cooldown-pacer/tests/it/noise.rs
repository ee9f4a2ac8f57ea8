//! Whatever answers say, in any order: configured limits hold, nothing leaks, nothing hangs, nothing panics.

use std::collections::BTreeMap;
use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Cost, Departure, Flow, Instant, Key, Observation, Pacer, Permit, Refill, Settings, Spent, Teaching,
    Ticket, Told, Unit,
};
use proptest::prelude::*;

use crate::world::{MILLI, SECOND, at, requests_per, tokens_per, worst_window};

/// What happens next: how much later, what, and numbers that say which and how.
type Step = (u64, u8, u64, u64);

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![3 => Just(0u64), 3 => 0u64..40 * MILLI, 1 => 0u64..3 * SECOND];
    prop::collection::vec((gap, 0u8..10, any::<u64>(), any::<u64>()), 1..200)
}

fn pick<const N: usize>(which: u64, of: [u64; N]) -> u64 {
    of[(which % N as u64) as usize]
}

fn any_told(one: u64, other: u64) -> Told {
    let amount = pick(one, [0, 1, 5, 20, 1000, u64::MAX, other]);
    let millis = pick(one >> 8, [0, 1, 100, 1000, 60_000, 86_400_000, u64::MAX, other]);
    let refill = Duration::from_millis(pick(other, [0, 1, 500, 20_000, u64::MAX]));
    Told {
        unit: Unit::ALL[(one >> 16) as usize % 4],
        amount: (one & 1 << 20 == 0).then_some(amount),
        period: (one & 1 << 21 == 0).then_some(Duration::from_millis(millis)),
        left: (one & 1 << 22 == 0).then_some(pick(other >> 8, [0, 0, 1, 3, 100, u64::MAX])),
        refill: match (one >> 23) % 3 {
            0 => None,
            1 => Some(Refill::Steadily(refill)),
            _ => Some(Refill::AtOnce(refill)),
        },
    }
}

fn any_observation(keys: [Key; 2], now: u64, one: u64, other: u64) -> Observation {
    let key = keys[(one % 2) as usize];
    let later = pick(other, [0, 1, SECOND, 20 * SECOND, u64::MAX]);
    let until = (other & 1 << 30 == 0).then_some(at(now.saturating_add(later)));
    match (one >> 1) % 5 {
        0 => Observation::Refused { key, unit: None, until },
        1 => Observation::Refused { key, unit: Some(Unit::ALL[(other >> 40) as usize % 4]), until },
        2 => Observation::Closed { key, until },
        3 => Observation::Accepted,
        _ => Observation::Told { key, told: any_told(one >> 4, other) },
    }
}

/// A pacer whose answers are noise.
struct Noise {
    pacer: Pacer,
    keys: [Key; 2],
    now: u64,
    waiting: Vec<Ticket>,
    permits: BTreeMap<u64, Permit>,
    /// When requests left, and the tokens that they took.
    left: Vec<(u64, u64)>,
    count: u64,
    /// The latest instant that anybody may believe a key to be closed until.
    closable: u64,
}

impl Noise {
    fn new() -> Self {
        let settings = Settings { guard: Duration::ZERO, ..Settings::default() };
        let mut pacer = Pacer::new(settings);
        let stated = vec![requests_per(6, 1000).into(), tokens_per(600, 2000).into()];
        let paced = pacer.add_teaching_limits(stated, Teaching::Cautious);
        let unknown = pacer.add_teaching_limits(Vec::new(), Teaching::Cautious);
        let keys = [Key::whole(paced), Key::whole(unknown)];
        Self {
            pacer,
            keys,
            now: 0,
            waiting: Vec::new(),
            permits: BTreeMap::new(),
            left: Vec::new(),
            count: 0,
            closable: 0,
        }
    }

    fn go(&mut self, permit: Permit) {
        self.count += 1;
        self.left.push((self.now, permit.taken().get(Unit::Tokens)));
        self.permits.insert(self.count, permit);
    }

    fn depart(&mut self) {
        let mut departures = Vec::new();
        self.pacer.due(at(self.now), &mut departures);
        for departure in departures {
            match departure {
                Departure::Go(ticket, permit) => {
                    self.waiting.retain(|&other| other != ticket);
                    self.go(permit);
                }
                Departure::Refuse(..) => panic!("nobody is in a hurry"),
            }
        }
    }

    fn permit(&self, which: u64) -> Option<u64> {
        let index = (which % self.permits.len().max(1) as u64) as usize;
        self.permits.keys().nth(index).copied()
    }

    /// A key closes until it was told to, 31 days at most, or for a minute at most if it was not told. Where what was
    /// told proved too short, up to a second of back-off holds too.
    fn note_closing(&mut self, observation: &Observation) {
        let (Observation::Refused { until, .. } | Observation::Closed { until, .. }) = observation else { return };
        let untold = self.now + 60 * SECOND;
        let told = |until: Instant| until.as_nanos().min(self.now + 31 * 24 * 3600 * SECOND).max(self.now + SECOND);
        self.closable = self.closable.max(until.map_or(untold, told));
    }

    fn step(&mut self, &(gap, what, one, other): &Step) {
        self.now += gap;
        match what {
            0..=3 => {
                let cost = Cost::ONE_REQUEST.with(Unit::Tokens, one % 200);
                let since = (other % 5 == 0).then_some(at(self.now.saturating_sub(SECOND)));
                let ask = Ask { cost, since, ..Ask::new(Flow(one % 3), self.keys) };
                match self.pacer.admit(at(self.now), ask) {
                    Admission::Go(permit) => self.go(permit),
                    Admission::Wait(ticket) => self.waiting.push(ticket),
                    Admission::Refuse(refusal) => panic!("{refusal:?}"),
                }
            }
            4 => {
                if let Some(ticket) = self.waiting.pop() {
                    assert!(self.pacer.cancel(at(self.now), ticket));
                }
            }
            5 => self.depart(),
            6..=7 => {
                let observation = any_observation(self.keys, self.now, one >> 8, other);
                self.note_closing(&observation);
                if let Some(permit) = self.permit(one).and_then(|which| self.permits.get_mut(&which)) {
                    self.pacer.observe(at(self.now), permit, observation);
                }
            }
            _ => {
                if let Some(permit) = self.permit(one).and_then(|which| self.permits.remove(&which)) {
                    let exactly = Spent::Exactly(permit.taken());
                    self.pacer.settle(at(self.now), permit, if other % 2 == 0 { exactly } else { Spent::AsEstimated });
                }
            }
        }
        for ticket in &self.waiting {
            assert!(self.pacer.predict(at(self.now), *ticket).is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_observed_configured_limits_hold_and_nothing_leaks(steps in any_steps()) {
        let mut noise = Noise::new();
        steps.iter().for_each(|step| noise.step(step));
        for key in noise.keys {
            for closure in noise.pacer.closed(at(noise.now), key.limits) {
                prop_assert!(closure.until <= at(noise.closable), "nobody said that it is closed for so long");
            }
        }
        for permit in std::mem::take(&mut noise.permits).into_values() {
            noise.pacer.settle(at(noise.now), permit, Spent::AsEstimated);
        }
        let mut timers = 0;
        while let Some(due) = noise.pacer.next_due() {
            noise.now = noise.now.max(due.as_nanos());
            noise.depart();
            for permit in std::mem::take(&mut noise.permits).into_values() {
                noise.pacer.settle(at(noise.now), permit, Spent::AsEstimated);
            }
            timers += 1;
            prop_assert!(timers < 10_000, "{} wait for ever", noise.waiting.len());
        }
        prop_assert!(noise.waiting.is_empty());
        let requests: Vec<(u64, u64)> = noise.left.iter().map(|&(at, _)| (at, 1)).collect();
        prop_assert!(worst_window(&requests, SECOND) <= 6);
        prop_assert!(worst_window(&noise.left, 2 * SECOND) <= 600);
        let later = noise.now + 100 * 24 * 3600 * SECOND;
        prop_assert_eq!(noise.pacer.keys_in_use(at(later)), 0);
    }
}
