//! Who waits, and in which order: start-time fair queueing within an urgency, urgencies that age. See ADR 0003.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;
use slab::Slab;

use crate::ask::{Flow, Ticket, Urgency, Weight};
use crate::cost::Cost;
use crate::keys::KeySet;

/// No neighbour in a flow.
const NONE: u32 = u32::MAX;
/// Flows beyond the bound share this many.
const SHARED_FLOWS: u64 = 64;

/// Virtual time of fair queueing, in picoseconds of the binding limit's capacity.
type Tag = u128;

/// Where a waiter is in the line.
pub(crate) type Place = u32;

/// All that wait for one pacer.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    waiters: Slab<Waiter>,
    pub(crate) queues: Slab<Queue>,
    index: HashMap<(KeySet, u8), u32, RandomState>,
    /// Tags of queues that emptied, until virtual time has passed them: who asks again at once does not jump the round.
    emptied: HashMap<(KeySet, u8), Tag, RandomState>,
    /// Wait budgets, soonest first.
    budgets: BTreeSet<(u64, Place)>,
    /// Virtual time between queues.
    now: Tag,
    /// Numbers tickets, and flows that start to wait with the same tag.
    count: u64,
    ageing: u64,
    max_flows: usize,
}

/// A request that waits.
#[derive(Debug, Clone)]
pub(crate) struct Waiter {
    pub(crate) cost: Cost,
    /// When it first asked.
    pub(crate) arrived: u64,
    /// The end of its wait budget; `u64::MAX` without one.
    pub(crate) latest: u64,
    pub(crate) queue: u32,
    pub(crate) flow: u32,
    number: u32,
    before: Place,
    behind: Place,
}

/// The requests of one urgency that the same keys concern.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) keys: KeySet,
    /// Urgency without age.
    pub(crate) level: u8,
    /// Flows with somebody waiting, the one that is served next first.
    pub(crate) order: BTreeSet<(Tag, u64, u32)>,
    pub(crate) flows: Slab<FlowState>,
    index: HashMap<Flow, u32, RandomState>,
    /// When the first of each flow arrived.
    pub(crate) oldest: BTreeSet<(u64, u32)>,
    /// The start tag of the latest departure: virtual time among its flows.
    now: Tag,
    /// Start tag of the whole queue among queues.
    tag: Tag,
    /// Orders queues that reached the same tag.
    number: u64,
    /// Weights of the flows with somebody waiting.
    pub(crate) weight: u64,
    pub(crate) waiting: u32,
    /// What all of them will take.
    pub(crate) backlog: Cost,
    /// Whether they have had different costs since the queue formed.
    pub(crate) mixed: bool,
}

/// One client's part of a queue; remembered after it emptied until virtual time has passed it.
#[derive(Debug, Clone)]
pub(crate) struct FlowState {
    pub(crate) flow: Flow,
    pub(crate) weight: u32,
    pub(crate) start: Tag,
    pub(crate) number: u64,
    pub(crate) head: Place,
    pub(crate) tail: Place,
    pub(crate) waiting: u32,
    pub(crate) backlog: Cost,
}

/// How long the requests of each urgency have waited that lift it. All queues of one urgency age together: a client with
/// a long backlog of its own would otherwise hold the oldest requests, and be served before its equals.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ages(pub(crate) [u64; Urgency::LEVELS]);

/// What decides between queues; the smallest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// Urgency less what age has gained.
    pub(crate) level: u8,
    tag: Tag,
    urgency: u8,
    number: u64,
}

/// Who joins the line.
pub(crate) struct Joining {
    pub(crate) keys: KeySet,
    pub(crate) flow: Flow,
    pub(crate) weight: Weight,
    pub(crate) urgency: Urgency,
    pub(crate) cost: Cost,
    pub(crate) arrived: u64,
    pub(crate) latest: u64,
    /// To the head of its flow instead of its end.
    pub(crate) returns: bool,
}

impl Line {
    pub(crate) fn new(ageing: u64, max_flows: usize) -> Self {
        Self {
            waiters: Slab::new(),
            queues: Slab::new(),
            index: HashMap::with_hasher(RandomState::default()),
            emptied: HashMap::with_hasher(RandomState::default()),
            budgets: BTreeSet::new(),
            now: 0,
            count: 0,
            ageing: ageing.max(1),
            max_flows,
        }
    }

    pub(crate) fn set_bounds(&mut self, ageing: u64, max_flows: usize) {
        (self.ageing, self.max_flows) = (ageing.max(1), max_flows);
    }

    /// Everybody who waits, queue by queue and flow by flow, each flow in its order.
    pub(crate) fn everybody(&self) -> Vec<(Ticket, Joining)> {
        let mut all = Vec::with_capacity(self.waiters.len());
        for (_, queue) in &self.queues {
            for &(.., flow) in &queue.order {
                let flow = &queue.flows[flow as usize];
                let mut place = flow.head;
                while let Some(waiter) = self.waiters.get(place as usize) {
                    let joining = Joining {
                        keys: queue.keys.clone(),
                        flow: flow.flow,
                        weight: Weight::new(flow.weight).unwrap_or(Weight::ONE),
                        urgency: Urgency::new(queue.level).unwrap_or_default(),
                        cost: waiter.cost,
                        arrived: waiter.arrived,
                        latest: waiter.latest,
                        returns: false,
                    };
                    all.push((self.ticket(place), joining));
                    place = waiter.behind;
                }
            }
        }
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(crate) fn waiter(&self, place: Place) -> &Waiter {
        &self.waiters[place as usize]
    }

    pub(crate) fn queue_of(&self, waiter: &Waiter) -> &Queue {
        &self.queues[waiter.queue as usize]
    }

    /// The name of a place that its holder may keep.
    pub(crate) fn ticket(&self, place: Place) -> Ticket {
        Ticket(u64::from(self.waiter(place).number) << 32 | u64::from(place))
    }

    /// The place that a ticket names, if its request still waits.
    pub(crate) fn place(&self, ticket: Ticket) -> Option<Place> {
        let (place, number) = (ticket.0 as u32, (ticket.0 >> 32) as u32);
        self.waiters.get(place as usize).filter(|waiter| waiter.number == number).map(|_| place)
    }

    /// The place whose wait budget ends first, and when.
    pub(crate) fn first_budget(&self) -> Option<(u64, Place)> {
        self.budgets.first().copied()
    }

    pub(crate) fn join(&mut self, joining: Joining) -> Place {
        self.count += 1;
        let queue = self.queue_for(&joining);
        let state = &mut self.queues[queue as usize];
        let flow = state.flow_for(joining.flow, joining.weight, self.count, self.max_flows);
        let place = self.waiters.insert(Waiter {
            cost: joining.cost,
            arrived: joining.arrived,
            latest: joining.latest,
            queue,
            flow,
            number: self.count as u32,
            before: NONE,
            behind: NONE,
        }) as Place;
        if joining.latest < u64::MAX {
            self.budgets.insert((joining.latest, place));
        }
        self.link(place, joining.returns);
        place
    }

    fn queue_for(&mut self, joining: &Joining) -> u32 {
        let level = joining.urgency.level();
        let name = (joining.keys.clone(), level);
        if let Some(&queue) = self.index.get(&name) {
            return queue;
        }
        let tag = self.emptied.remove(&name).map_or(self.now, |tag| tag.max(self.now));
        let queue = self.queues.insert(Queue::new(joining.keys.clone(), level, tag, self.count)) as u32;
        self.index.insert(name, queue);
        queue
    }

    /// Puts a waiter at the end of its flow, or in front of all that are not older: those returned before it.
    fn link(&mut self, place: Place, returns: bool) {
        let Waiter { queue, flow, cost, arrived, .. } = self.waiters[place as usize];
        let behind = if returns { self.first_not_older(queue, flow, arrived) } else { NONE };
        let queue = &mut self.queues[queue as usize];
        let state = &mut queue.flows[flow as usize];
        let before = self.waiters.get(behind as usize).map_or(state.tail, |behind| behind.before);
        self.waiters[place as usize].before = before;
        self.waiters[place as usize].behind = behind;
        if let Some(before) = self.waiters.get_mut(before as usize) {
            before.behind = place;
        } else {
            state.head = place;
        }
        if let Some(second) = self.waiters.get_mut(behind as usize) {
            second.before = place;
        } else {
            state.tail = place;
        }
        if state.waiting == 0 {
            state.start = state.start.max(queue.now);
            queue.order.insert((state.start, state.number, flow));
            queue.oldest.insert((arrived, flow));
            queue.weight += u64::from(state.weight);
        } else if before == NONE {
            queue.oldest.remove(&(self.waiters[behind as usize].arrived, flow));
            queue.oldest.insert((arrived, flow));
        }
        state.waiting += 1;
        state.backlog = state.backlog.plus(&cost);
        queue.note_cost(&cost);
        queue.waiting += 1;
        queue.backlog = queue.backlog.plus(&cost);
    }

    fn first_not_older(&self, queue: u32, flow: u32, arrived: u64) -> Place {
        let mut place = self.queues[queue as usize].flows[flow as usize].head;
        while let Some(waiter) = self.waiters.get(place as usize)
            && waiter.arrived < arrived
        {
            place = waiter.behind;
        }
        place
    }

    /// Takes a waiter out of the line. The queue goes when it was the last one.
    pub(crate) fn leave(&mut self, place: Place) -> (Waiter, KeySet) {
        let waiter = self.waiters.remove(place as usize);
        self.budgets.remove(&(waiter.latest, place));
        if let Some(before) = self.waiters.get_mut(waiter.before as usize) {
            before.behind = waiter.behind;
        }
        if let Some(behind) = self.waiters.get_mut(waiter.behind as usize) {
            behind.before = waiter.before;
        }
        let next_arrived = self.waiters.get(waiter.behind as usize).map(|behind| behind.arrived);
        let queue = &mut self.queues[waiter.queue as usize];
        queue.unlink(place, &waiter, next_arrived);
        let keys = queue.keys.clone();
        if queue.waiting == 0 {
            let emptied = self.queues.remove(waiter.queue as usize);
            self.forget(emptied);
        }
        (waiter, keys)
    }

    /// Remembers no more of an empty queue than its tag, and that only while it matters.
    fn forget(&mut self, queue: Queue) {
        let name = (queue.keys, queue.level);
        self.index.remove(&name);
        if self.waiters.is_empty() {
            self.emptied.clear();
        } else if queue.tag > self.now {
            if self.emptied.len() == self.emptied.capacity() {
                let now = self.now;
                self.emptied.retain(|_, tag| *tag > now);
                // Room for as many again, so that this is amortized constant.
                self.emptied.reserve(self.emptied.len() + 1);
            }
            self.emptied.insert(name, queue.tag);
        }
    }

    /// Forgets the tags of empty queues: the places of their keys may become those of others.
    pub(crate) fn forget_emptied(&mut self) {
        self.emptied.clear();
    }

    /// Takes a waiter out of the line because it leaves, and charges its flow `span` of the binding limit.
    pub(crate) fn depart(&mut self, place: Place, span: u128) -> (Waiter, KeySet) {
        let Waiter { queue, flow, .. } = self.waiters[place as usize];
        self.count += 1;
        let state = &mut self.queues[queue as usize];
        let start = state.tag.max(self.now);
        self.now = start;
        state.number = self.count;
        state.tag = start + span / u128::from(state.weight.max(1));
        state.charge(flow, span, self.count);
        self.leave(place)
    }

    /// How long the first of a queue that waits longest has waited.
    pub(crate) fn age(&self, queue: u32, now: u64) -> u64 {
        let oldest = self.queues[queue as usize].oldest.first();
        oldest.map_or(0, |&(arrived, _)| now.saturating_sub(arrived))
    }

    /// What decides between this queue and others.
    pub(crate) fn rank(&self, queue: u32, ages: &Ages) -> Rank {
        let state = &self.queues[queue as usize];
        let age = ages.0[usize::from(state.level)];
        let gained = (age / self.ageing).min(u64::from(state.level)) as u8;
        Rank { level: state.level - gained, tag: state.tag.max(self.now), urgency: state.level, number: state.number }
    }

    /// When age will next change the order of the queues; `u64::MAX` if it does not.
    pub(crate) fn next_ageing(&self, now: u64) -> u64 {
        let changes = self.queues.iter().filter_map(|(_, state)| {
            let arrived = state.oldest.first()?.0;
            let gained = now.saturating_sub(arrived) / self.ageing;
            let next = (gained + 1).saturating_mul(self.ageing).saturating_add(arrived);
            (gained < u64::from(state.level)).then_some(next)
        });
        changes.min().unwrap_or(u64::MAX)
    }

    /// The queue that is served next.
    pub(crate) fn first_queue(&self, ages: &Ages) -> Option<u32> {
        self.queues.iter().map(|(queue, _)| queue as u32).min_by_key(|&queue| self.rank(queue, ages))
    }

    /// The waiter of a queue that is served next.
    pub(crate) fn first_of(&self, queue: u32) -> Option<Place> {
        let queue = &self.queues[queue as usize];
        queue.order.first().map(|&(.., flow)| queue.flows[flow as usize].head)
    }

    /// Whether a waiter is served first of its flow.
    pub(crate) fn is_first_of_flow(&self, place: Place) -> bool {
        self.waiter(place).before == NONE
    }

    /// How many wait in front of one in its own flow, and what they take. At once for the last one.
    pub(crate) fn ahead_in_flow(&self, place: Place) -> (f64, Cost) {
        let waiter = self.waiter(place);
        let flow = &self.queue_of(waiter).flows[waiter.flow as usize];
        if waiter.behind == NONE {
            return (f64::from(flow.waiting - 1), flow.backlog.minus(&waiter.cost));
        }
        let in_front = std::iter::successors(self.waiters.get(waiter.before as usize), |waiter| {
            self.waiters.get(waiter.before as usize)
        });
        in_front.fold((0.0, Cost::NOTHING), |(count, cost), waiter| (count + 1.0, cost.plus(&waiter.cost)))
    }
}

impl Queue {
    fn new(keys: KeySet, level: u8, tag: Tag, number: u64) -> Self {
        Self {
            keys,
            level,
            order: BTreeSet::new(),
            flows: Slab::new(),
            index: HashMap::with_hasher(RandomState::default()),
            oldest: BTreeSet::new(),
            now: 0,
            tag,
            number,
            weight: 0,
            waiting: 0,
            backlog: Cost::NOTHING,
            mixed: false,
        }
    }

    /// The flow's state, made if it is new. Too many flows share some.
    fn flow_for(&mut self, flow: Flow, weight: Weight, number: u64, max_flows: usize) -> u32 {
        if let Some(&known) = self.index.get(&flow) {
            self.reweigh(known, weight.get());
            return known;
        }
        if self.flows.len() >= 2 * self.order.len() + SHARED_FLOWS as usize {
            self.forget_idle_flows();
        }
        let flow = if self.flows.len() < max_flows { flow } else { Flow(flow.0 % SHARED_FLOWS) };
        if let Some(&known) = self.index.get(&flow) {
            return known;
        }
        let state = FlowState {
            flow,
            weight: weight.get(),
            start: self.now,
            number,
            head: NONE,
            tail: NONE,
            waiting: 0,
            backlog: Cost::NOTHING,
        };
        let known = self.flows.insert(state) as u32;
        self.index.insert(flow, known);
        known
    }

    fn reweigh(&mut self, flow: u32, weight: u32) {
        let state = &mut self.flows[flow as usize];
        if state.waiting > 0 {
            self.weight = self.weight - u64::from(state.weight) + u64::from(weight);
        }
        state.weight = weight;
    }

    /// Forgets flows that nobody waits in and that virtual time has passed: they would start from here anyway.
    fn forget_idle_flows(&mut self) {
        let (now, index) = (self.now, &mut self.index);
        self.flows.retain(|_, state| {
            let keep = state.waiting > 0 || state.start > now;
            if !keep {
                index.remove(&state.flow);
            }
            keep
        });
    }

    fn note_cost(&mut self, cost: &Cost) {
        self.mixed |= self.waiting > 0 && self.backlog.times(1.0 / f64::from(self.waiting)) != *cost;
    }

    /// Advances a flow's start tag by what it is served now, and virtual time with it.
    fn charge(&mut self, flow: u32, span: u128, number: u64) {
        if let Some(&(first, ..)) = self.order.first() {
            self.now = self.now.max(first);
        }
        let state = &mut self.flows[flow as usize];
        self.order.remove(&(state.start, state.number, flow));
        state.start = state.start.max(self.now) + span / u128::from(state.weight);
        state.number = number;
        self.order.insert((state.start, state.number, flow));
    }

    fn unlink(&mut self, place: Place, waiter: &Waiter, next_arrived: Option<u64>) {
        let state = &mut self.flows[waiter.flow as usize];
        if state.tail == place {
            state.tail = waiter.before;
        }
        if state.head == place {
            state.head = waiter.behind;
            self.oldest.remove(&(waiter.arrived, waiter.flow));
            match next_arrived {
                Some(arrived) => {
                    self.oldest.insert((arrived, waiter.flow));
                }
                None => {
                    self.order.remove(&(state.start, state.number, waiter.flow));
                    self.weight -= u64::from(state.weight);
                }
            }
        }
        state.waiting -= 1;
        state.backlog = state.backlog.minus(&waiter.cost);
        self.waiting -= 1;
        self.backlog = self.backlog.minus(&waiter.cost);
    }
}
