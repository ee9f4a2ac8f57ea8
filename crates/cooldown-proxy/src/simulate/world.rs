//! Virtual time: requests arrive, wait, leave and are over, one event after the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use cooldown_pacer::{Admission, Departure, Instant, Observation, Pacer, Permit, Refusal, Spent, Ticket, Urgency};
use foldhash::fast::RandomState;

use super::site::{Caller, Way};
use super::tally::Tally;
use super::workload::Arrivals;

/// What is not over by then is told as unfinished.
const HORIZON: Duration = Duration::from_secs(366 * 24 * 3600);
/// Whoever is refused does not ask again in the same instant.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// One client.
#[derive(Debug)]
pub(super) struct Sender {
    /// The group that its figures belong to.
    pub(super) group: usize,
    pub(super) caller: Caller,
    pub(super) arrivals: Arrivals,
    pub(super) start: Duration,
    pub(super) call: Call,
    /// Its place among the ways.
    pub(super) ways: usize,
    /// How many requests it has made.
    pub(super) made: u64,
}

/// What is the same for all requests of one client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) takes: Duration,
    pub(super) budget: Duration,
    pub(super) urgency: Option<Urgency>,
    pub(super) retries: u32,
}

/// A request whose instant is known: one of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    pub(super) sender: usize,
    pub(super) ways: usize,
    pub(super) takes: Duration,
}

/// A request that is not over.
#[derive(Debug)]
struct Job {
    sender: usize,
    ways: usize,
    takes: Duration,
    /// When it asked first.
    since: u64,
    tries: u32,
    /// The way that it took, once it has left.
    way: usize,
    permit: Option<Permit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client begins.
    Begin(usize),
    /// A client makes its next request.
    Next(usize),
    /// The next request of the log arrives.
    Logged(usize),
    /// A request that was refused asks again.
    Again(usize),
    /// A request is over.
    Over(usize),
}

/// Pacers, clients, and what happens to them.
pub(super) struct World<'a> {
    now: u64,
    pacers: Vec<Pacer>,
    ways: &'a [Vec<Way>],
    senders: Vec<Sender>,
    log: &'a [Arrival],
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    waiting: HashMap<(usize, Ticket), (usize, usize), RandomState>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    tallies: Vec<Tally>,
    departures: Vec<Departure>,
}

impl<'a> World<'a> {
    /// Clients that begin, and a log, which may be empty. `groups` is how many groups there are.
    pub(super) fn new(
        pacers: Vec<Pacer>,
        ways: &'a [Vec<Way>],
        senders: Vec<Sender>,
        log: &'a [Arrival],
        groups: usize,
    ) -> Self {
        let mut world = Self {
            now: 0,
            pacers,
            ways,
            senders,
            log,
            jobs: Vec::new(),
            free: Vec::new(),
            waiting: HashMap::default(),
            events: BinaryHeap::new(),
            planned: 0,
            tallies: (0..groups).map(|_| Tally::new()).collect(),
            departures: Vec::new(),
        };
        if let Some(first) = log.first() {
            world.plan(nanos(first.at), Event::Logged(0));
        } else {
            for sender in 0..world.senders.len() {
                world.plan(nanos(world.senders[sender].start), Event::Begin(sender));
            }
        }
        world
    }

    /// Runs until everything is over, and tells what became of each group.
    pub(super) fn run(mut self) -> Vec<Tally> {
        let horizon = nanos(HORIZON);
        loop {
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let timer = self.next_due();
            match (event, timer) {
                (Some(event), timer) if event <= horizon && timer.is_none_or(|(due, _)| event <= due) => self.step(),
                (_, Some((due, line))) if due <= horizon => self.fire(due, line),
                _ => break,
            }
        }
        for job in self.jobs.iter().flatten() {
            self.tallies[self.senders[job.sender].group].unfinished();
        }
        self.tallies
    }

    /// When a pacer has something to do, and which.
    fn next_due(&self) -> Option<(u64, usize)> {
        let due = self.pacers.iter().enumerate().filter_map(|(line, pacer)| Some((pacer.next_due()?.as_nanos(), line)));
        due.min().map(|(due, line)| (due.max(self.now), line))
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at, self.planned, event)));
    }

    fn step(&mut self) {
        let Some(Reverse((at, _, event))) = self.events.pop() else { return };
        self.now = self.now.max(at);
        match event {
            Event::Begin(sender) => self.begin(sender),
            Event::Next(sender) => self.next(sender),
            Event::Logged(index) => self.logged(index),
            Event::Again(job) => self.ask(job),
            Event::Over(job) => self.over(job),
        }
    }

    fn fire(&mut self, due: u64, line: usize) {
        self.now = due;
        let mut departures = std::mem::take(&mut self.departures);
        self.pacers[line].due(Instant::from_nanos(due), &mut departures);
        for departure in departures.drain(..) {
            match departure {
                Departure::Go(ticket, permit) => {
                    if let Some((job, way)) = self.waiting.remove(&(line, ticket)) {
                        self.leave(job, way, permit);
                    }
                }
                Departure::Refuse(ticket, refusal) => {
                    if let Some((job, _)) = self.waiting.remove(&(line, ticket)) {
                        self.refused(job, refusal);
                    }
                }
            }
        }
        self.departures = departures;
    }

    fn begin(&mut self, sender: usize) {
        match self.senders[sender].arrivals {
            Arrivals::AtOnce { requests } => (0..requests).for_each(|_| self.make(sender)),
            Arrivals::Evenly { .. } => self.next(sender),
            Arrivals::Closed { under_way, .. } => (0..under_way).for_each(|_| self.next(sender)),
        }
    }

    /// A client's next request, if there is one.
    fn next(&mut self, sender: usize) {
        let Sender { arrivals, made, start, .. } = self.senders[sender];
        let (requests, until) = match arrivals {
            Arrivals::AtOnce { .. } => return,
            Arrivals::Evenly { requests, until, .. } | Arrivals::Closed { requests, until, .. } => (requests, until),
        };
        if made >= requests || self.now >= nanos(until) {
            return;
        }
        if let Arrivals::Evenly { rate, .. } = arrivals {
            // Counted from the start, so that nothing adds up.
            let passed = rate.period().as_nanos() * u128::from(made + 1) / u128::from(rate.amount());
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            self.plan(nanos(start).saturating_add(passed), Event::Next(sender));
        }
        self.make(sender);
    }

    fn make(&mut self, sender: usize) {
        let Sender { ways, call, .. } = &mut self.senders[sender];
        let (ways, takes) = (*ways, call.takes);
        self.senders[sender].made += 1;
        self.arrive(Arrival { at: Duration::ZERO, sender, ways, takes });
    }

    fn logged(&mut self, index: usize) {
        if let Some(next) = self.log.get(index + 1) {
            self.plan(nanos(next.at), Event::Logged(index + 1));
        }
        self.arrive(self.log[index]);
    }

    fn arrive(&mut self, Arrival { sender, ways, takes, .. }: Arrival) {
        self.tallies[self.senders[sender].group].asked();
        let job = Job { sender, ways, takes, since: self.now, tries: 0, way: 0, permit: None };
        let index = match self.free.pop() {
            Some(index) => {
                self.jobs[index] = Some(job);
                index
            }
            None => {
                self.jobs.push(Some(job));
                self.jobs.len() - 1
            }
        };
        self.ask(index);
    }

    fn ask(&mut self, index: usize) {
        let Some(job) = self.jobs[index].as_mut() else { return };
        job.tries += 1;
        let now = Instant::from_nanos(self.now);
        let Sender { caller, call, .. } = &self.senders[job.sender];
        let latest = now.after(call.budget);
        let ways = &self.ways[job.ways];
        let asks = ways.iter().map(|way| caller.ask(way, call.urgency, latest));
        let (way, ask) = match ways.len() {
            1 => (0, caller.ask(&ways[0], call.urgency, latest)),
            // The way that it can go first, and of equals the first one.
            _ => {
                let foreseen =
                    asks.enumerate().map(|(way, ask)| (self.pacers[ways[way].line].foresee(now, &ask), way, ask));
                let Some((_, way, ask)) = foreseen.min_by_key(|(leaves, way, _)| (*leaves, *way)) else { return };
                (way, ask)
            }
        };
        let line = ways[way].line;
        match self.pacers[line].admit(now, ask) {
            Admission::Go(permit) => self.leave(index, way, permit),
            Admission::Wait(ticket) => drop(self.waiting.insert((line, ticket), (index, way))),
            Admission::Refuse(refusal) => self.refused(index, refusal),
        }
    }

    fn leave(&mut self, index: usize, way: usize, permit: Permit) {
        let Some(job) = self.jobs[index].as_mut() else { return };
        job.permit = Some(permit);
        job.way = way;
        self.tallies[self.senders[job.sender].group].left(Duration::from_nanos(self.now - job.since));
        let at = self.now.saturating_add(nanos(job.takes));
        self.plan(at, Event::Over(index));
    }

    fn refused(&mut self, index: usize, refusal: Refusal) {
        let Some(job) = self.jobs[index].as_ref() else { return };
        let (sender, tries) = (job.sender, job.tries);
        let pause = refusal.retry_after.max(SHORTEST_PAUSE);
        let tally = &mut self.tallies[self.senders[sender].group];
        tally.refused(refusal.why);
        if tries <= self.senders[sender].call.retries {
            self.plan(self.now.saturating_add(nanos(pause)), Event::Again(index));
            return;
        }
        tally.gave_up();
        self.forget(index);
        self.follow(sender, pause);
    }

    fn over(&mut self, index: usize) {
        let Some(mut job) = self.jobs[index].take() else { return };
        self.free.push(index);
        let now = Instant::from_nanos(self.now);
        let way = &self.ways[job.ways][job.way];
        if let Some(mut permit) = job.permit.take() {
            if !permit.accepted() {
                self.pacers[way.line].observe(now, &mut permit, Observation::Accepted);
            }
            self.pacers[way.line].settle(now, permit, Spent::Exactly(way.spent));
        }
        self.tallies[self.senders[job.sender].group].over(Duration::from_nanos(self.now));
        self.follow(job.sender, Duration::ZERO);
    }

    fn forget(&mut self, index: usize) {
        self.jobs[index] = None;
        self.free.push(index);
    }

    /// In a closed loop, each request that is over is followed by another.
    fn follow(&mut self, sender: usize, pause: Duration) {
        if let Arrivals::Closed { think, .. } = self.senders[sender].arrivals {
            let pause = pause.saturating_add(think);
            self.plan(self.now.saturating_add(nanos(pause)), Event::Next(sender));
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
