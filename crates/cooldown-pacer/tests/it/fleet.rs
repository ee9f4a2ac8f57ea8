//! Several pacers that share a limit, their store, and the network between them, in virtual time. What leaves is counted at the
//! upstream.

use std::time::Duration;

use cooldown_pacer::share::{Answer, Holder, Ledger, Outcome, Renewal, Terms, Which};
use cooldown_pacer::{Admission, Ask, Cost, Flow, Key, Limit, Pacer, Permit, Settings, Spent, Ticket, Unit};

use crate::world::{MILLI, SECOND, at, due, roll, worst_window};

const EVERY: Duration = Duration::from_millis(250);
const FIRST: Which = Which::Stated(0);
const LONGEST_REQUEST: Duration = Duration::from_secs(2);

/// One instance: a pacer, its holder, and a crowd that always has something to send, or a rate at which it comes.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) boot: u64,
    pub(crate) pacer: Pacer,
    pub(crate) key: Key,
    pub(crate) holder: Holder,
    /// How many flows keep one request waiting each.
    pub(crate) flows: u64,
    /// What each request takes.
    pub(crate) cost: u64,
    /// Requests that are under way, and when they are over.
    pub(crate) in_flight: Vec<(u64, Permit)>,
    pub(crate) waits: Vec<bool>,
    /// It does nothing until then, and knows nothing of it.
    pub(crate) paused_until: u64,
    /// Nothing it sends or should hear arrives until then.
    pub(crate) cut_until: u64,
    /// What its clock shows when it starts.
    pub(crate) clock: u64,
    pub(crate) stopped: bool,
    pub(crate) calls: u64,
    pub(crate) tickets: Vec<(Ticket, u64)>,
    pub(crate) served: Vec<(u64, u64)>,
    /// Of whom it has heard, through the store.
    pub(crate) heard_of: Known,
    /// The store has answered it when it was not recovering.
    pub(crate) settled: bool,
}

/// Of which members something is known, a bit for each.
pub(crate) type Known = u8;

pub(crate) enum Message {
    Ask { from: usize, boot: u64, renewal: Renewal },
    Reply { to: usize, boot: u64, answer: Answer, known: Known },
}

pub(crate) struct Fleet {
    pub(crate) limit: Limit,
    /// How long a request is under way.
    pub(crate) takes: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) ledger: Ledger,
    /// Whom the store has heard, or heard of.
    pub(crate) known: Known,
    pub(crate) backup: (Ledger, Known),
    pub(crate) server: u64,
    pub(crate) frozen_until: u64,
    pub(crate) dead_until: u64,
    pub(crate) clock_off: i64,
    /// When it arrives, and what.
    pub(crate) network: Vec<(u64, Message)>,
    pub(crate) now: u64,
    pub(crate) log: Vec<(u64, u64)>,
    pub(crate) dice: u64,
    pub(crate) delay: u64,
    pub(crate) loss: u64,
}

impl Fleet {
    pub(crate) fn new(limit: impl Into<Limit>, flows: &[u64]) -> Self {
        let mut fleet = Self {
            limit: limit.into(),
            takes: 0,
            members: Vec::new(),
            ledger: Ledger::default(),
            known: 0,
            backup: (Ledger::default(), 0),
            server: 1,
            frozen_until: 0,
            dead_until: 0,
            clock_off: 0,
            network: Vec::new(),
            now: 0,
            log: Vec::new(),
            dice: 88172645463325252,
            delay: MILLI,
            loss: 0,
        };
        for (nth, &flows) in flows.iter().enumerate() {
            let member = fleet.start(nth, flows, nth as u64 * 1_000_003 * MILLI);
            fleet.members.push(member);
        }
        fleet
    }

    pub(crate) fn start(&mut self, nth: usize, flows: u64, clock: u64) -> Member {
        let mut pacer = Pacer::new(Settings { guard: Duration::from_millis(2), ..Settings::default() });
        let limits = pacer.add_limits(vec![self.limit]);
        pacer.share_limits(at(clock + self.now), limits, true);
        Member {
            name: format!("m{nth}"),
            boot: self.roll(),
            pacer,
            key: Key::whole(limits),
            holder: Holder::new(Terms::new(self.limit, LONGEST_REQUEST), EVERY),
            flows,
            cost: 1,
            in_flight: Vec::new(),
            waits: vec![false; 64],
            paused_until: 0,
            cut_until: 0,
            clock,
            stopped: false,
            calls: 0,
            tickets: Vec::new(),
            served: Vec::new(),
            heard_of: 0,
            settled: false,
        }
    }

    pub(crate) fn roll(&mut self) -> u64 {
        roll(&mut self.dice)
    }

    pub(crate) fn run_for(&mut self, nanos: u64) {
        let end = self.now + nanos;
        while self.now < end {
            self.now += MILLI;
            self.deliver();
            for nth in 0..self.members.len() {
                let member = &self.members[nth];
                if !member.stopped && member.paused_until <= self.now {
                    self.act(nth);
                }
            }
        }
    }

    pub(crate) fn deliver(&mut self) {
        let now = self.now;
        let mut arrived: Vec<(u64, Message)> = self.network.extract_if(.., |(when, _)| *when <= now).collect();
        arrived.sort_by_key(|(when, _)| *when);
        for (_, message) in arrived {
            match message {
                Message::Ask { from, boot, renewal } => {
                    if self.frozen_until > now {
                        self.network.push((self.frozen_until, Message::Ask { from, boot, renewal }));
                        continue;
                    }
                    if self.dead_until > now {
                        continue;
                    }
                    let time = (1_000_000 + (now / MILLI) as i64 + self.clock_off) as u64;
                    let name = self.members[from].name.clone();
                    let server = self.server.to_string();
                    if self.members[from].boot == boot {
                        self.known |= self.members[from].heard_of | 1 << from;
                    }
                    let answer = self.ledger.renew(time, &server, &name, &boot.to_string(), &renewal);
                    self.send(from, Message::Reply { to: from, boot, answer, known: self.known });
                }
                Message::Reply { to, boot, answer, known } => {
                    let member = &mut self.members[to];
                    if member.boot == boot && !member.stopped && member.holder.hear(&answer) {
                        member.heard_of |= known;
                        member.settled |= answer.outcome == Outcome::Renewed;
                        let share = member.holder.share();
                        // Paused or not: its clock goes on, its code runs later.
                        let local = at(member.clock + now.max(member.paused_until));
                        if member.paused_until <= now {
                            member.pacer.set_share(local, member.key, FIRST, share);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn send(&mut self, nth: usize, message: Message) {
        if self.members[nth].cut_until > self.now || self.roll() % 100 < self.loss {
            return;
        }
        let spread = self.roll() % self.delay.max(1);
        let again = self.roll() % 100 < self.loss;
        if let (true, Message::Ask { from, boot, renewal }) = (again, &message) {
            let late = self.roll() % (5 * SECOND);
            self.network.push((self.now + late, Message::Ask { from: *from, boot: *boot, renewal: *renewal }));
        }
        self.network.push((self.now + self.delay / 2 + spread, message));
    }

    pub(crate) fn act(&mut self, nth: usize) {
        let now = self.now;
        let member = &mut self.members[nth];
        let local = at(member.clock + now);
        for (_, permit) in member.in_flight.extract_if(.., |(over, _)| *over <= now) {
            member.pacer.settle(local, permit, Spent::AsEstimated);
        }
        for flow in 0..member.flows {
            if member.waits[flow as usize] {
                continue;
            }
            let cost = Cost::NOTHING.with(Unit::Requests, member.cost);
            match member.pacer.admit(local, Ask { cost, ..Ask::new(Flow(flow), [member.key]) }) {
                Admission::Go(permit) => {
                    member.in_flight.push((now + self.takes, permit));
                    member.served.push((now, flow));
                    self.log.push((now, member.cost));
                }
                Admission::Wait(ticket) => {
                    member.waits[flow as usize] = true;
                    member.tickets.push((ticket, flow));
                }
                Admission::Refuse(refusal) => panic!("{refusal:?}"),
            }
        }
        for (ticket, permit) in due(&mut member.pacer, local) {
            let place = member.tickets.iter().position(|(waiting, _)| *waiting == ticket).expect("it waits");
            let (_, flow) = member.tickets.swap_remove(place);
            member.in_flight.push((now + self.takes, permit));
            member.waits[flow as usize] = false;
            member.served.push((now, flow));
            self.log.push((now, member.cost));
        }
        let usage = member.pacer.usage(local, member.key, FIRST).unwrap_or_default();
        if member.holder.due(&usage) <= local {
            let renewal = member.holder.renew(local, &usage);
            member.pacer.set_share(local, member.key, FIRST, member.holder.share());
            member.calls += 1;
            let boot = member.boot;
            self.send(nth, Message::Ask { from: nth, boot, renewal });
        }
    }

    /// How much left in the last `nanos`, in parts of what the limit allows.
    pub(crate) fn used(&self, nanos: u64) -> f64 {
        let since = self.now - nanos;
        let sum = self.log.iter().filter(|(when, _)| *when > since).map(|(_, cost)| *cost).sum::<u64>() as f64;
        sum / (self.amount() as f64 * nanos as f64 / self.period() as f64)
    }

    pub(crate) fn served_by(&self, nth: usize, nanos: u64) -> usize {
        self.members[nth].served.iter().filter(|(when, _)| *when > self.now - nanos).count()
    }

    pub(crate) fn worst(&self) -> u64 {
        // What left a whole window earlier is out of it.
        worst_window(&self.log, self.period() - 1)
    }

    pub(crate) fn amount(&self) -> u64 {
        match self.limit {
            Limit::Rate(rate) => rate.amount(),
            Limit::Concurrency(max) => u64::from(max.get()),
        }
    }

    /// How long what left counts at the upstream.
    pub(crate) fn period(&self) -> u64 {
        match self.limit {
            Limit::Rate(rate) => rate.period().as_nanos() as u64,
            Limit::Concurrency(_) => self.takes,
        }
    }

    pub(crate) fn restart(&mut self, nth: usize) {
        let Member { flows, cost, cut_until, .. } = self.members[nth];
        let served = std::mem::take(&mut self.members[nth].served);
        let clock = self.roll() % (1000 * SECOND);
        let fresh = self.start(nth, flows, clock);
        self.members[nth] = Member { served, cost, cut_until, ..fresh };
    }

    /// Whether somebody holds something, and neither the store nor anybody else that runs has heard of it.
    pub(crate) fn somebody_is_forgotten(&self) -> bool {
        let others =
            |nth: usize| self.members.iter().enumerate().filter(move |(other, one)| *other != nth && !one.stopped);
        (0..self.members.len()).any(|nth| {
            let known = others(nth).fold(self.known, |known, (_, other)| known | other.heard_of);
            let member = &self.members[nth];
            !member.stopped && member.heard_of != 0 && known & (1 << nth) == 0
        })
    }

    pub(crate) fn leave(&mut self, nth: usize) {
        let local = at(self.members[nth].clock + self.now);
        let member = &mut self.members[nth];
        let usage = member.pacer.usage(local, member.key, FIRST).unwrap_or_default();
        let renewal = member.holder.leave(local, &usage);
        let boot = member.boot;
        member.stopped = true;
        self.send(nth, Message::Ask { from: nth, boot, renewal });
    }
}
