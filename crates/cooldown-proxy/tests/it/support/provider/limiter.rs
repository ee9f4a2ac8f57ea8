//! All limits of a provider: a request takes from every one of them at the same instant, or from none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cooldown_pacer::Unit;

use super::ask::Ask;
use super::behaviour::{Allowance, Behaviour, Charging, MODEL_MAXIMUM, Per};
use super::meter::Meter;

/// Enforces the allowances and the concurrency of a [`Behaviour`].
pub(super) struct Limiter {
    allowances: Vec<Allowance>,
    concurrency: Option<usize>,
    charging: Charging,
    origin: Instant,
    /// By the allowance's place, the key, and the model where it is counted by model.
    meters: HashMap<(usize, String, String), Meter>,
    in_flight: HashMap<String, usize>,
    most_in_flight: usize,
}

/// What the limiter says about one request.
pub(super) enum Verdict {
    Within(Admission),
    /// A breach: refused, and not counted against any limit.
    Over(Breach),
    /// Larger than a whole limit: refused, and no use to try again.
    Impossible(Breach),
}

/// What an accepted request took. It must be [settled](Limiter::settle).
pub(super) struct Admission {
    key: String,
    at: u64,
    /// What may return in the end, by meter.
    surplus: Vec<((usize, String, String), u64)>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Breach {
    /// Too many in flight.
    Concurrency,
    /// This limit has no room; it will have after `wait`, if nothing else comes.
    Limit { reading: Reading, requested: u64, wait: Duration },
}

/// One limit as it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) unit: Unit,
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) period: Duration,
    /// Until it is full again; for a fixed window, its end.
    pub(super) full_in: Duration,
}

impl Limiter {
    pub(super) fn new(behaviour: &Behaviour) -> Self {
        Self {
            allowances: behaviour.allowances.clone(),
            concurrency: behaviour.concurrency,
            charging: behaviour.charging,
            origin: Instant::now(),
            meters: HashMap::new(),
            in_flight: HashMap::new(),
            most_in_flight: 0,
        }
    }

    /// Judges a request that arrived at `arrival`.
    pub(super) fn judge(&mut self, ask: &Ask, arrival: Instant) -> Verdict {
        let now = self.micros(arrival);
        let flying = self.in_flight.get(&ask.key).copied().unwrap_or_default();
        if self.concurrency.is_some_and(|most| flying >= most) {
            return Verdict::Over(Breach::Concurrency);
        }
        let allowances = self.allowances.clone();
        let mut worst = None;
        for (place, allowance) in allowances.iter().enumerate() {
            let requested = self.cost(allowance.unit, ask);
            let meter = self.meter(place, ask, now);
            let (whole, wait) = (meter.whole(), meter.wait(now, requested));
            let breach = |reading| Breach::Limit { reading, requested, wait: Duration::from_micros(wait) };
            if requested > whole {
                return Verdict::Impossible(breach(self.reading(place, ask, now)));
            }
            if wait > 0 && worst.is_none_or(|(longest, _)| wait > longest) {
                worst = Some((wait, breach(self.reading(place, ask, now))));
            }
        }
        if let Some((_, breach)) = worst {
            return Verdict::Over(breach);
        }
        Verdict::Within(self.admit(ask, now))
    }

    /// Ends a request: its place in flight returns, and what it did not need where the provider settles.
    pub(super) fn settle(&mut self, admission: &Admission) {
        if let Some(flying) = self.in_flight.get_mut(&admission.key) {
            *flying -= 1;
        }
        let now = self.micros(Instant::now());
        for (name, surplus) in &admission.surplus {
            if let Some(meter) = self.meters.get_mut(name) {
                meter.give_back(admission.at, now, *surplus);
            }
        }
    }

    /// The limits that concern a request, as they stand.
    pub(super) fn readings(&mut self, ask: &Ask) -> Vec<Reading> {
        let now = self.micros(Instant::now());
        (0..self.allowances.len()).map(|place| self.reading(place, ask, now)).collect()
    }

    /// Requests in flight, over all keys: now, and at most so far.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.in_flight.values().sum(), self.most_in_flight)
    }

    fn admit(&mut self, ask: &Ask, now: u64) -> Admission {
        let mut surplus = Vec::new();
        for (place, allowance) in self.allowances.clone().iter().enumerate() {
            let cost = self.cost(allowance.unit, ask);
            self.meter(place, ask, now).take(now, cost);
            if self.charging == Charging::Settled {
                surplus.push((self.name(place, ask), cost - actual(allowance.unit, ask).min(cost)));
            }
        }
        *self.in_flight.entry(ask.key.clone()).or_default() += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight.values().sum());
        Admission { key: ask.key.clone(), at: now, surplus }
    }

    /// What a request takes of a unit when it arrives.
    fn cost(&self, unit: Unit, ask: &Ask) -> u64 {
        let input = u64::from(ask.input);
        let most = u64::from(ask.max_output.unwrap_or(if ask.produces_text() { MODEL_MAXIMUM } else { 0 }));
        match (unit, self.charging) {
            (Unit::Requests | Unit::InputTokens, _) | (_, Charging::Actual) => actual(unit, ask),
            (Unit::Tokens, Charging::Larger) => input.max(u64::from(ask.max_output.unwrap_or_default())),
            (Unit::Tokens, Charging::Reserved | Charging::Settled) => input + most,
            (Unit::OutputTokens, Charging::Larger | Charging::Reserved | Charging::Settled) => most,
        }
    }

    fn reading(&mut self, place: usize, ask: &Ask, now: u64) -> Reading {
        let Allowance { unit, amount, period, .. } = self.allowances[place];
        let meter = self.meter(place, ask, now);
        let limit = u64::from(amount.get());
        let (remaining, full_in) = (meter.remaining(now).min(limit), Duration::from_micros(meter.full_in(now)));
        Reading { unit, limit, remaining, period, full_in }
    }

    fn meter(&mut self, place: usize, ask: &Ask, now: u64) -> &mut Meter {
        let Allowance { amount, period, counting, .. } = self.allowances[place];
        let name = self.name(place, ask);
        self.meters.entry(name).or_insert_with(|| Meter::new(amount, period, counting, now))
    }

    fn name(&self, place: usize, ask: &Ask) -> (usize, String, String) {
        let model = match self.allowances[place].per {
            Per::Key => String::new(),
            Per::KeyAndModel => ask.model.clone(),
        };
        (place, ask.key.clone(), model)
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_micros() as u64
    }
}

/// What a request takes of a unit in the end.
fn actual(unit: Unit, ask: &Ask) -> u64 {
    match unit {
        Unit::Requests => 1,
        Unit::Tokens => u64::from(ask.input) + u64::from(ask.output),
        Unit::InputTokens => u64::from(ask.input),
        Unit::OutputTokens => u64::from(ask.output),
    }
}
