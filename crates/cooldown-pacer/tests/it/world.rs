//! A world in virtual time around one pacer: requests arrive, wait, leave, finish or hang up, and timers are late.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Cost, Departure, Flow, Instant, Key, Limit, LimitsId, Pacer, Permit, Rate, Refusal, Settings,
    Spent, Ticket, Unit,
};

pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1000 * MILLI;

/// One request, as it is planned.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) at: u64,
    pub(crate) ask: Ask,
    /// How long the upstream takes.
    pub(crate) takes: u64,
    /// What it takes in the end.
    pub(crate) spent: Spent,
    /// When its client hangs up, whatever it is doing then.
    pub(crate) hangs_up: Option<u64>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    Left { at: u64, waited: bool },
    Refused { at: u64, refusal: Refusal },
    HungUp { at: u64 },
    Waiting,
}

enum Event {
    Arrive(usize),
    HangUp(usize),
    Finish(usize),
}

/// A pacer, its clock, and everybody's fate.
pub(crate) struct World {
    pub(crate) pacer: Pacer,
    pub(crate) now: u64,
    pub(crate) fates: Vec<Fate>,
    /// Indices of requests in the order in which they left.
    pub(crate) left: Vec<usize>,
    /// What the pacer predicted when a request joined the line.
    pub(crate) predicted: Vec<Option<u64>>,
    requests: Vec<Request>,
    permits: BTreeMap<usize, Permit>,
    tickets: BTreeMap<Ticket, usize>,
    events: BinaryHeap<Reverse<(u64, usize, usize)>>,
    planned: Vec<Event>,
    /// How late timers fire: used in turn.
    lateness: Vec<u64>,
    fired: usize,
}

pub(crate) fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

pub(crate) fn requests_per(amount: u64, millis: u64) -> Rate {
    Rate::new(Unit::Requests, amount, Duration::from_millis(millis)).expect("a valid rate")
}

pub(crate) fn tokens_per(amount: u64, millis: u64) -> Rate {
    Rate::new(Unit::Tokens, amount, Duration::from_millis(millis)).expect("a valid rate")
}

/// A request of `flow` at `at` that takes no time and costs what was estimated.
pub(crate) fn request(at: u64, flow: u64, limits: LimitsId) -> Request {
    let ask = Ask::new(Flow(flow), [Key::whole(limits)]);
    Request { at, ask, takes: 0, spent: Spent::AsEstimated, hangs_up: None }
}

pub(crate) fn with_tokens(mut request: Request, tokens: u64) -> Request {
    request.ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, tokens);
    request
}

/// A pacer with one list of limits.
pub(crate) fn pacer_with(settings: Settings, limits: &[Limit]) -> (Pacer, LimitsId) {
    let mut pacer = Pacer::new(settings);
    let id = pacer.add_limits(limits.to_vec());
    (pacer, id)
}

impl World {
    pub(crate) fn new(pacer: Pacer, requests: Vec<Request>) -> Self {
        let mut world = Self {
            pacer,
            now: 0,
            fates: vec![Fate::Waiting; requests.len()],
            left: Vec::new(),
            predicted: vec![None; requests.len()],
            requests: Vec::new(),
            permits: BTreeMap::new(),
            tickets: BTreeMap::new(),
            events: BinaryHeap::new(),
            planned: Vec::new(),
            lateness: vec![0],
            fired: 0,
        };
        for (index, request) in requests.iter().enumerate() {
            world.plan(request.at, Event::Arrive(index));
            if let Some(hangs_up) = request.hangs_up {
                world.plan(hangs_up, Event::HangUp(index));
            }
        }
        world.requests = requests;
        world
    }

    pub(crate) fn with_lateness(mut self, lateness: Vec<u64>) -> Self {
        self.lateness = if lateness.is_empty() { vec![0] } else { lateness };
        self
    }

    /// Runs until nothing is left to happen before `end`.
    pub(crate) fn run_until(&mut self, end: u64) {
        loop {
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let timer = self.pacer.next_due().map(|due| due.as_nanos().max(self.now) + self.next_lateness());
            match (event, timer) {
                (Some(event), timer) if event <= end && timer.is_none_or(|timer| event <= timer) => self.step(),
                (_, Some(timer)) if timer <= end => self.fire(timer),
                _ => break,
            }
        }
    }

    /// Runs until everybody has left, or cannot any more.
    pub(crate) fn run(&mut self) {
        self.run_until(u64::MAX / 2);
    }

    /// The machine sleeps: nothing happens until `end`, when everything does.
    pub(crate) fn sleep_until(&mut self, end: u64) {
        self.fire(end);
    }

    /// When the requests left, in nanoseconds.
    pub(crate) fn departures(&self) -> Vec<u64> {
        self.left.iter().map(|&index| self.left_at(index).expect("it left")).collect()
    }

    pub(crate) fn left_at(&self, index: usize) -> Option<u64> {
        match self.fates[index] {
            Fate::Left { at, .. } => Some(at),
            _ => None,
        }
    }

    pub(crate) fn request(&self, index: usize) -> &Request {
        &self.requests[index]
    }

    /// Who waits, as indices of requests.
    pub(crate) fn waiting(&self) -> Vec<usize> {
        self.tickets.values().copied().collect()
    }

    pub(crate) fn ticket_of(&self, index: usize) -> Option<Ticket> {
        self.tickets.iter().find(|&(_, &of)| of == index).map(|(&ticket, _)| ticket)
    }

    fn next_lateness(&self) -> u64 {
        self.lateness[self.fired % self.lateness.len()]
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.planned.push(event);
        let index = self.planned.len() - 1;
        self.events.push(Reverse((at, index, 0)));
    }

    fn step(&mut self) {
        let Some(Reverse((at_nanos, index, _))) = self.events.pop() else { return };
        self.now = self.now.max(at_nanos);
        match self.planned[index] {
            Event::Arrive(index) => self.arrive(index),
            Event::HangUp(index) => self.hang_up(index),
            Event::Finish(index) => self.finish(index),
        }
    }

    fn fire(&mut self, timer: u64) {
        self.now = timer;
        self.fired += 1;
        let mut departures = Vec::new();
        self.pacer.due(at(timer), &mut departures);
        for departure in departures {
            match departure {
                Departure::Go(ticket, permit) => {
                    let index = self.tickets.remove(&ticket).expect("a ticket is granted once");
                    self.leave(index, permit, true);
                }
                Departure::Refuse(ticket, refusal) => {
                    let index = self.tickets.remove(&ticket).expect("a ticket is refused once");
                    self.fates[index] = Fate::Refused { at: self.now, refusal };
                }
            }
        }
    }

    fn arrive(&mut self, index: usize) {
        match self.pacer.admit(at(self.now), self.requests[index].ask.clone()) {
            Admission::Go(permit) => self.leave(index, permit, false),
            Admission::Wait(ticket) => {
                self.predicted[index] = self.pacer.predict(at(self.now), ticket).map(Instant::as_nanos);
                self.tickets.insert(ticket, index);
            }
            Admission::Refuse(refusal) => self.fates[index] = Fate::Refused { at: self.now, refusal },
        }
    }

    fn leave(&mut self, index: usize, permit: Permit, waited: bool) {
        self.fates[index] = Fate::Left { at: self.now, waited };
        self.left.push(index);
        self.permits.insert(index, permit);
        self.plan(self.now + self.requests[index].takes, Event::Finish(index));
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(ticket) = self.ticket_of(index) {
            self.tickets.remove(&ticket);
            assert!(self.pacer.cancel(at(self.now), ticket), "a waiting request can be cancelled");
            assert!(!self.pacer.cancel(at(self.now), ticket), "but only once");
            self.fates[index] = Fate::HungUp { at: self.now };
        }
    }

    fn finish(&mut self, index: usize) {
        let permit = self.permits.remove(&index).expect("a request finishes once");
        self.pacer.settle(at(self.now), permit, self.requests[index].spent);
    }
}

/// Those whose turn has come by now, where nobody is ever refused.
pub(crate) fn due(pacer: &mut Pacer, now: Instant) -> Vec<(Ticket, Permit)> {
    let mut departures = Vec::new();
    if pacer.next_due().is_some_and(|due| due <= now) {
        pacer.due(now, &mut departures);
    }
    let going = departures.into_iter().map(|departure| match departure {
        Departure::Go(ticket, permit) => (ticket, permit),
        Departure::Refuse(..) => panic!("nobody is refused"),
    });
    going.collect()
}

/// The next throw of a die that always falls in the same way (xorshift, 64 bits).
pub(crate) fn roll(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice >> 11
}

/// The most that left in any trailing window of `period`, both ends included.
pub(crate) fn worst_window(departures: &[(u64, u64)], period: u64) -> u64 {
    let mut worst = 0;
    let mut sum = 0;
    let mut oldest = 0;
    for &(now, cost) in departures {
        sum += cost;
        while departures[oldest].0 + period < now {
            sum -= departures[oldest].1;
            oldest += 1;
        }
        worst = worst.max(sum);
    }
    worst
}
