//! A strict upstream in virtual time, and clients that always have work for it: what the pacer learns, it learns here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use cooldown_pacer::{
    Admission, Ask, Departure, Flow, Key, Lesson, Observation, Pacer, Permit, Refill, Settings, Spent, Teaching,
    Ticket, Told, Unit,
};

use crate::world::{MILLI, SECOND, at};

/// How much longer than planned a request or a response is under way, at most.
const JITTER: u64 = 50 * MILLI;

/// How the upstream counts.
#[derive(Debug, Clone)]
pub(crate) enum Counting {
    /// In every trailing period.
    Sliding { amount: u64, period: u64, log: VecDeque<u64> },
    /// In periods that begin at multiples of themselves.
    Fixed { amount: u64, period: u64, window: u64, used: u64 },
    /// Tokens that come back evenly.
    Bucket { amount: u64, period: u64, level: f64, at: u64 },
    /// Everything is turned away until then.
    Shut { until: u64 },
}

/// What its answers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    Nothing,
    /// Refusals say when there is room again, in whole seconds.
    Waits,
    /// Every answer has the limit, the remainder and the time until it is full again.
    Limits,
}

/// An upstream, a pacer before it, and clients.
pub(crate) struct Loop {
    pub(crate) pacer: Pacer,
    pub(crate) key: Key,
    pub(crate) now: u64,
    /// When requests left, and whether they were accepted.
    pub(crate) attempts: Vec<(u64, bool)>,
    pub(crate) lessons: Vec<Lesson>,
    counting: Counting,
    telling: Telling,
    latency: u64,
    /// How much longer accepted requests take.
    thinking: u64,
    weather: Weather,
    /// How late the next timer fires.
    lateness: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    planned: BTreeMap<u64, Event>,
    waiting: BTreeMap<Ticket, (Flow, u64)>,
    count: u64,
}

/// What machine and network add to every instant. The numbers only look random.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Weather {
    Calm,
    /// Requests and responses take up to 50 ms longer each, and overtake each other.
    Jitter {
        seed: u64,
    },
    /// Every tenth timer is late as well, and every other second the machine stands still for up to 100 ms.
    Storm {
        seed: u64,
    },
}

enum Event {
    Ask { flow: Flow, since: Option<u64> },
    Reach(Sent),
    Answer(Sent, bool, Option<Told>),
}

struct Sent {
    permit: Permit,
    flow: Flow,
    since: u64,
    index: usize,
}

pub(crate) fn sliding(amount: u64, seconds: u64) -> Counting {
    Counting::Sliding { amount, period: seconds * SECOND, log: VecDeque::new() }
}

pub(crate) fn fixed(amount: u64, seconds: u64) -> Counting {
    Counting::Fixed { amount, period: seconds * SECOND, window: 0, used: 0 }
}

pub(crate) fn bucket(amount: u64, seconds: u64) -> Counting {
    Counting::Bucket { amount, period: seconds * SECOND, level: amount as f64, at: 0 }
}

impl Counting {
    pub(crate) fn accepts(&mut self, now: u64) -> bool {
        match self {
            Self::Sliding { amount, period, log } => {
                while log.front().is_some_and(|&first| first + *period <= now) {
                    log.pop_front();
                }
                let room = (log.len() as u64) < *amount;
                if room {
                    log.push_back(now);
                }
                room
            }
            Self::Fixed { amount, period, window, used } => {
                if now / *period != *window {
                    (*window, *used) = (now / *period, 0);
                }
                let room = *used < *amount;
                *used += u64::from(room);
                room
            }
            Self::Bucket { amount, period, level, at } => {
                let rate = *amount as f64 / *period as f64;
                *level = (*level + (now - *at) as f64 * rate).min(*amount as f64);
                *at = now;
                let room = *level >= 1.0;
                *level -= f64::from(u8::from(room));
                room
            }
            Self::Shut { until } => now >= *until,
        }
    }

    /// What is left, and after how long all of it is there.
    pub(crate) fn left(&self, now: u64) -> Option<Told> {
        let (amount, period, left, full) = match self {
            Self::Sliding { amount, period, log } => {
                let full = log.back().map_or(0, |&last| last + period - now);
                (*amount, *period, amount - log.len() as u64, Refill::Steadily(Duration::from_nanos(full)))
            }
            Self::Fixed { amount, period, window, used } => {
                let full = (window + 1) * period - now;
                (*amount, *period, amount - used, Refill::AtOnce(Duration::from_nanos(full)))
            }
            Self::Bucket { amount, period, level, .. } => {
                let full = (*amount as f64 - level) * *period as f64 / *amount as f64;
                (*amount, *period, *level as u64, Refill::Steadily(Duration::from_nanos(full as u64)))
            }
            Self::Shut { .. } => return None,
        };
        Some(Told {
            unit: Unit::Requests,
            amount: Some(amount),
            period: Some(Duration::from_nanos(period)),
            left: Some(left),
            refill: Some(full),
        })
    }

    /// When there is room again.
    pub(crate) fn wait(&self, now: u64) -> u64 {
        match self {
            Self::Sliding { period, log, .. } => log.front().map_or(0, |&first| first + period - now),
            Self::Fixed { period, window, .. } => (window + 1) * period - now,
            Self::Bucket { amount, period, level, .. } => ((1.0 - level) * (period / amount) as f64) as u64,
            Self::Shut { until } => until.saturating_sub(now),
        }
    }
}

impl Weather {
    fn seed(self) -> u64 {
        match self {
            Self::Calm => 0,
            Self::Jitter { seed } | Self::Storm { seed } => seed,
        }
    }

    /// A number below `bound` for the `nth` of something.
    fn number(self, nth: u64, bound: u64) -> u64 {
        let mut mixed = (nth ^ self.seed() << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % bound
    }

    fn jitter(self, nth: u64) -> u64 {
        if matches!(self, Self::Calm) { 0 } else { self.number(nth, JITTER) }
    }

    fn timer_lateness(self, nth: u64) -> u64 {
        let is_late = matches!(self, Self::Storm { .. }) && self.number(2 * nth, 10) == 0;
        if is_late { self.number(2 * nth + 1, JITTER) } else { 0 }
    }

    /// When what is due at `at` happens: at once, unless the machine stands still.
    fn happens(self, at: u64) -> u64 {
        let second = at / SECOND;
        if !matches!(self, Self::Storm { .. }) || self.number(second, 2) == 0 {
            return at;
        }
        let from = second * SECOND + self.number(second + 1, SECOND - 2 * JITTER);
        let to = from + self.number(second + 2, 2 * JITTER);
        if at >= from { at.max(to) } else { at }
    }
}

impl Loop {
    /// `flows` clients, each with `depth` requests that wait or are under way at any time.
    pub(crate) fn new(counting: Counting, telling: Telling, teaching: Teaching) -> Self {
        let mut pacer = Pacer::new(Settings::default());
        let key = Key::whole(pacer.add_teaching_limits(Vec::new(), teaching));
        Self {
            pacer,
            key,
            now: 0,
            attempts: Vec::new(),
            lessons: Vec::new(),
            counting,
            telling,
            latency: SECOND / 30,
            thinking: 0,
            weather: Weather::Calm,
            lateness: 0,
            events: BinaryHeap::new(),
            planned: BTreeMap::new(),
            waiting: BTreeMap::new(),
            count: 0,
        }
    }

    pub(crate) fn with_latency(mut self, latency: u64) -> Self {
        self.latency = latency;
        self
    }

    /// Accepted requests take this much longer than refused ones.
    pub(crate) fn with_thinking(mut self, thinking: u64) -> Self {
        self.thinking = thinking;
        self
    }

    pub(crate) fn with_weather(mut self, weather: Weather) -> Self {
        self.weather = weather;
        self
    }

    pub(crate) fn with_clients(mut self, flows: u64, depth: u64) -> Self {
        for nth in 0..flows * depth {
            self.plan(0, Event::Ask { flow: Flow(nth % flows), since: None });
        }
        self
    }

    /// The limit is another one from now on.
    pub(crate) fn change(&mut self, counting: Counting) {
        self.counting = counting;
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        loop {
            let event = self.events.peek().map_or(u64::MAX, |&Reverse((at, _))| at);
            let timer = self.pacer.next_due().map_or(u64::MAX, |due| self.fires(due.as_nanos()));
            if event.min(timer) > end {
                break;
            }
            if timer < event {
                self.now = timer;
                self.depart();
            } else {
                self.step();
            }
        }
        self.now = end;
    }

    /// How many were accepted in a span, of those that the upstream allows.
    pub(crate) fn used(&self, from: u64, to: u64, allowed: f64) -> f64 {
        let accepted = self.attempts.iter().filter(|&&(at, accepted)| accepted && at >= from && at < to).count();
        accepted as f64 / allowed
    }

    /// Which part of the attempts of a span was refused.
    pub(crate) fn refused(&self, from: u64, to: u64) -> f64 {
        let attempts = || self.attempts.iter().filter(|&&(at, _)| at >= from && at < to);
        attempts().filter(|&&(_, accepted)| !accepted).count() as f64 / attempts().count().max(1) as f64
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.count += 1;
        self.planned.insert(self.count, event);
        self.events.push(Reverse((self.weather.happens(at), self.count)));
    }

    /// When the timer for `due` fires. What is due already needs none.
    fn fires(&self, due: u64) -> u64 {
        if due <= self.now { self.now } else { self.weather.happens(due + self.lateness) }
    }

    /// One way between pacer and upstream.
    fn way(&self, latency: u64) -> u64 {
        self.now + latency + self.weather.jitter(self.count)
    }

    fn step(&mut self) {
        let Some(Reverse((at, number))) = self.events.pop() else { return };
        self.now = at;
        match self.planned.remove(&number).expect("planned once") {
            Event::Ask { flow, since } => self.ask(flow, since),
            Event::Reach(sent) => self.reach(sent),
            Event::Answer(sent, accepted, told) => self.answer(sent, accepted, told),
        }
    }

    fn ask(&mut self, flow: Flow, since: Option<u64>) {
        let ask = Ask { since: since.map(at), ..Ask::new(flow, [self.key]) };
        let since = since.unwrap_or(self.now);
        match self.pacer.admit(at(self.now), ask) {
            Admission::Go(permit) => self.send(permit, flow, since),
            Admission::Wait(ticket) => drop(self.waiting.insert(ticket, (flow, since))),
            Admission::Refuse(refusal) => panic!("{refusal:?}"),
        }
    }

    fn depart(&mut self) {
        let mut departures = Vec::new();
        self.pacer.due(at(self.now), &mut departures);
        self.lateness = self.weather.timer_lateness(self.count);
        for departure in departures {
            let Departure::Go(ticket, permit) = departure else { panic!("nobody is in a hurry") };
            let (flow, since) = self.waiting.remove(&ticket).expect("granted once");
            self.send(permit, flow, since);
        }
    }

    fn send(&mut self, permit: Permit, flow: Flow, since: u64) {
        let index = self.attempts.len();
        self.attempts.push((self.now, false));
        self.plan(self.way(self.latency / 2), Event::Reach(Sent { permit, flow, since, index }));
    }

    fn reach(&mut self, sent: Sent) {
        let accepted = self.counting.accepts(self.now);
        self.attempts[sent.index].1 = accepted;
        let wait = self.counting.wait(self.now).div_ceil(SECOND) * SECOND;
        let told = match self.telling {
            Telling::Limits => self.counting.left(self.now),
            Telling::Waits if !accepted => Some(Told {
                unit: Unit::Requests,
                amount: None,
                period: None,
                left: None,
                refill: Some(Refill::AtOnce(Duration::from_nanos(wait))),
            }),
            _ => None,
        };
        let thinking = if accepted { self.thinking } else { 0 };
        self.plan(self.way(self.latency - self.latency / 2 + thinking), Event::Answer(sent, accepted, told));
    }

    fn answer(&mut self, mut sent: Sent, accepted: bool, told: Option<Told>) {
        let key = self.key;
        let until = match told {
            Some(Told { left: None, refill: Some(Refill::AtOnce(wait)), .. }) => Some(at(self.now).after(wait)),
            _ => None,
        };
        let told = told.filter(|told| told.left.is_some());
        let verdict = match accepted {
            true => Observation::Accepted,
            false => Observation::Refused { key, unit: None, until },
        };
        let observations = told.map(|told| Observation::Told { key, told }).into_iter().chain([verdict]);
        for observation in observations {
            self.lessons.extend(self.pacer.observe(at(self.now), &mut sent.permit, observation));
        }
        let spent = if accepted { Spent::AsEstimated } else { Spent::Nothing };
        self.pacer.settle(at(self.now), sent.permit, spent);
        let since = (!accepted).then_some(sent.since);
        self.plan(self.now, Event::Ask { flow: sent.flow, since });
    }
}
