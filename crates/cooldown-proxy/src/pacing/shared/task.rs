//! The thread that holds what this instance has of shared limits: everything that happens, one thing after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cooldown_pacer::share::{Answer, Outcome, Renewal};
use cooldown_pacer::{Instant, Key, LimitsId};
use foldhash::fast::RandomState;
use redis::{FromRedisValue, PushInfo, PushKind};
use slab::Slab;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::super::clock::Clock;
use super::super::line::Line;
use super::closings::{Closings, Message, Named};
use super::held::{self, Held, Look, Shape};
use super::schedule::Schedule;
use super::standing::{Figures, Reach};
use super::store::{Connected, Connection, Store, StoreError};
use super::watch::News;
use super::{Identity, Shared, SharedList};
use crate::telemetry::{EventKind, Metrics};

/// Lines that call are looked at no more often than this.
const LOOKS: Duration = Duration::from_millis(20);
/// A store that was lost is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// A store that heals itself is given up when it has not answered for so long.
const GIVEN_UP: Duration = Duration::from_secs(5);
/// How long the end waits for the store to hear of it.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// The store losing its memory within this time is one event: every limit finds out by itself.
const ONE_EVENT: Duration = Duration::from_secs(5);
/// No key stays closed for longer because another instance says so.
const LONGEST_CLOSING: Duration = Duration::from_secs(86_400);
/// How many limits of keys are held that come and go with requests; those beyond are a stranger's.
const MOST_HELD: usize = 4096;
/// What is told of an error of the store's.
const LONGEST_WHY: usize = 200;

/// Everything that the thread knows.
pub(super) struct Task {
    store: Arc<Store>,
    identity: Arc<Identity>,
    prefix: String,
    every: Duration,
    longest: Duration,
    clock: Clock,
    figures: Arc<Figures>,
    metrics: Arc<Metrics>,
    lists: HashMap<LimitsId, SharedList, RandomState>,
    held: Slab<Held>,
    /// Where what is held of a limit of a key is among `held`.
    index: HashMap<(Key, usize), usize, RandomState>,
    schedule: Schedule,
    /// How many were ever held.
    count: u64,
    /// Lines with keys that somebody waits for, and when they were last looked at.
    calling: Vec<Weak<Line>>,
    looked: Instant,
    closings: Closings,
    link: Link,
    /// How many connections there were.
    epoch: u64,
    pushes: UnboundedReceiver<PushInfo>,
    events: JoinSet<Event>,
    answered: Instant,
    forgot: Option<Instant>,
    was_full: bool,
}

/// How it stands with the connection.
enum Link {
    Up(Connection),
    Connecting,
    Down { until: Instant },
}

/// What became of what was asked of the store. Each tells by which connection.
enum Event {
    Connected(u64, Result<Connected, StoreError>),
    Answered { epoch: u64, slot: usize, number: u64, answer: Result<Answer, StoreError> },
    Closed(u64, Result<(), StoreError>),
}

impl Task {
    pub(super) fn new(
        shared: &Shared,
        identity: Identity,
        (clock, longest): (Clock, Duration),
        figures: Arc<Figures>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            store: Arc::new(Store::new(shared)),
            identity: Arc::new(identity),
            prefix: shared.prefix.clone(),
            every: shared.every,
            longest,
            clock,
            figures,
            metrics,
            lists: HashMap::default(),
            held: Slab::new(),
            index: HashMap::default(),
            schedule: Schedule::default(),
            count: 0,
            calling: Vec::new(),
            looked: Instant::START,
            closings: Closings::default(),
            link: Link::Down { until: Instant::START },
            epoch: 0,
            pushes: unbounded_channel().1,
            events: JoinSet::new(),
            answered: Instant::START,
            forgot: None,
            was_full: false,
        }
    }

    /// Runs until it is told to end.
    pub(super) async fn run(mut self, mut news: UnboundedReceiver<News>) {
        loop {
            self.act();
            let wake = tokio::time::Instant::from_std(self.clock.at(self.next()));
            tokio::select! {
                told = news.recv() => match told {
                    Some(News::Lists(lists)) => self.state(lists),
                    Some(News::Waits(line)) => self.calling.push(line),
                    Some(News::Closed(key, lasting)) => self.tell_closed(key, lasting),
                    Some(News::Leave) => return self.leave().await,
                    Some(News::End) | None => return,
                },
                Some(event) = self.events.join_next() => event.into_iter().for_each(|event| self.hear(event)),
                Some(push) = self.pushes.recv() => self.hear_push(&push),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// When there is something to do by itself.
    fn next(&self) -> Instant {
        let calls = if self.calling.is_empty() { Instant::NEVER } else { self.looked.after(LOOKS) };
        let own = match &self.link {
            Link::Up(_) => self.schedule.next().unwrap_or(Instant::NEVER),
            Link::Connecting => Instant::NEVER,
            Link::Down { until } => *until,
        };
        // Timers have their limits, and nothing is lost by a look in an hour.
        own.min(calls).min(self.clock.now().after(Duration::from_secs(3600)))
    }

    fn act(&mut self) {
        let now = self.clock.now();
        if !self.calling.is_empty() && self.looked.after(LOOKS) <= now {
            self.looked = now;
            self.look_at_callers(now);
        }
        match &self.link {
            Link::Down { until } if *until <= now => self.connect(),
            Link::Up(connection) => self.renew(&connection.clone()),
            _ => {}
        }
    }

    fn connect(&mut self) {
        self.epoch += 1;
        self.link = Link::Connecting;
        let (epoch, store) = (self.epoch, Arc::clone(&self.store));
        self.events.spawn(async move { Event::Connected(epoch, store.connect().await) });
    }

    /// Renews what is due.
    fn renew(&mut self, connection: &Connection) {
        while let Some(slot) = self.schedule.due(self.clock.now()) {
            match self.held[slot].look() {
                Look::Later(due) => self.plan(slot, due),
                Look::Renew(renewal) => {
                    self.say(connection, slot, renewal);
                    self.plan(slot, self.held[slot].patience());
                }
                Look::Leave(renewal) => {
                    self.say(connection, slot, renewal);
                    self.forget(slot);
                }
            }
        }
    }

    fn say(&mut self, connection: &Connection, slot: usize, renewal: Renewal) {
        let (epoch, store, identity) = (self.epoch, Arc::clone(&self.store), Arc::clone(&self.identity));
        let Held { name, number, .. } = &self.held[slot];
        let (name, number, connection) = (name.clone(), *number, connection.clone());
        self.events.spawn(async move {
            let answer = store.renew(connection, name, &identity, number, &renewal).await;
            Event::Answered { epoch, slot, number, answer }
        });
    }

    fn plan(&mut self, slot: usize, due: Instant) {
        let before = std::mem::replace(&mut self.held[slot].due, due);
        self.schedule.change(slot, before, due);
    }

    fn forget(&mut self, slot: usize) {
        let held = self.held.remove(slot);
        self.schedule.remove(slot, held.due);
        self.index.retain(|_, known| *known != slot);
        self.figures.limits.store(self.held.len() as u64, Relaxed);
    }

    /// Looks at the keys that somebody waits for: those that nothing is held of yet are held from now on.
    fn look_at_callers(&mut self, now: Instant) {
        for line in std::mem::take(&mut self.calling).iter().filter_map(Weak::upgrade) {
            for key in line.asked() {
                let limits = self.lists.get(&key.limits).map_or(0, |list| list.limits.len());
                for nth in 0..limits {
                    match self.index.get(&(key, nth)) {
                        Some(&slot) => self.plan(slot, now.min(self.held[slot].due)),
                        None => self.hold(now, key, nth),
                    }
                }
            }
        }
    }

    fn hold(&mut self, now: Instant, key: Key, nth: usize) {
        let Some(list) = self.lists.get(&key.limits) else { return };
        if self.held.len() >= MOST_HELD && !list.lasting.contains(&key) {
            if !std::mem::replace(&mut self.was_full, true) {
                tracing::warn!(
                    most = MOST_HELD,
                    "more limits are in use than are shared: the rest has a small fixed part"
                );
            }
            return;
        }
        self.count += 1;
        let name = held::name(&self.prefix, list, key.subject, nth);
        let shape = Shape { every: self.every, longest: self.longest, now };
        let slot = self.held.insert(Held::new(list, (key, nth), (name, self.count), shape));
        self.index.insert((key, nth), slot);
        self.schedule.change(slot, now, now);
        self.figures.limits.store(self.held.len() as u64, Relaxed);
    }

    /// Other lists are shared now. What is found again goes on.
    fn state(&mut self, lists: Vec<SharedList>) {
        let now = self.clock.now();
        self.lists = lists.into_iter().map(|list| (list.id, list)).collect();
        let mut found: HashMap<(Key, usize), usize, RandomState> = HashMap::default();
        let slots: Vec<usize> = self.held.iter().map(|(slot, _)| slot).collect();
        let mut gone = Vec::new();
        for slot in slots {
            let held = &mut self.held[slot];
            let place = self.lists.get(&held.key.limits).and_then(|list| {
                let named = |nth: &usize| held::name(&self.prefix, list, held.key.subject, *nth) == held.name;
                (0..list.limits.len()).find(named).map(|nth| (list, nth))
            });
            match place {
                Some((list, nth)) => {
                    held.go_on(list, nth, self.longest);
                    found.insert((held.key, nth), slot);
                }
                None => gone.push(slot),
            }
        }
        gone.into_iter().for_each(|slot| self.leave_one(slot));
        self.index = found;
        self.index.values().for_each(|&slot| {
            let before = std::mem::replace(&mut self.held[slot].due, now);
            self.schedule.change(slot, before, now);
        });
        let lasting = self
            .lists
            .values()
            .flat_map(|list| list.lasting.iter().flat_map(|key| (0..list.limits.len()).map(|nth| (*key, nth))));
        let new: Vec<(Key, usize)> = lasting.filter(|place| !self.index.contains_key(place)).collect();
        new.into_iter().for_each(|(key, nth)| self.hold(now, key, nth));
    }

    fn leave_one(&mut self, slot: usize) {
        if let (Some(renewal), Link::Up(connection)) = (self.held[slot].leave(true), &self.link) {
            self.say(&connection.clone(), slot, renewal);
        }
        self.forget(slot);
    }

    /// Gives everything back.
    async fn leave(mut self) {
        let Link::Up(connection) = &self.link else { return };
        let connection = connection.clone();
        let slots: Vec<usize> = self.held.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(renewal) = self.held[slot].leave(false) {
                self.say(&connection, slot, renewal);
            }
        }
        // Without it, the store finds out by itself.
        let all = async { while self.events.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Connected(epoch, connected) if epoch == self.epoch => match connected {
                Ok(connected) => self.connected(connected),
                Err(why) => self.lose(&why),
            },
            Event::Answered { epoch, slot, number, answer } => match answer {
                Ok(answer) => self.hear_answer(slot, number, &answer),
                Err(why) => {
                    self.figures.unanswered.fetch_add(1, Relaxed);
                    self.fail(epoch, &why);
                }
            },
            Event::Closed(epoch, Err(why)) => self.fail(epoch, &why),
            Event::Connected(..) | Event::Closed(_, Ok(())) => {}
        }
    }

    fn connected(&mut self, connected: Connected) {
        let now = self.clock.now();
        let Connected { connection, pushes, closed } = connected;
        (self.pushes, self.answered) = (pushes, now);
        self.link = Link::Up(connection);
        self.reached();
        closed.into_iter().for_each(|(key, left)| self.hear_closed(&key, left));
        self.closings.all(now).into_iter().for_each(|(key, left)| self.say_closed(key, left));
        let slots: Vec<usize> = self.held.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.plan(slot, now));
    }

    fn hear_answer(&mut self, slot: usize, number: u64, answer: &Answer) {
        self.answered = self.clock.now();
        self.figures.renewals.fetch_add(1, Relaxed);
        self.reached();
        let Some(held) = self.held.get_mut(slot).filter(|held| held.number == number) else { return };
        if answer.outcome == Outcome::Full {
            let text = "a limit is shared by more instances than it can be: this one has nothing of it";
            return self.tell("too many instances", text.to_owned());
        }
        let Some(heard) = held.hear(answer) else { return };
        self.plan(slot, heard.due);
        self.figures.instances.store(answer.instances, Relaxed);
        if heard.forgot {
            self.memory_lost();
        }
    }

    /// Something that was asked by a connection came to nothing.
    fn fail(&mut self, epoch: u64, why: &StoreError) {
        if epoch != self.epoch || !matches!(self.link, Link::Up(_)) {
            return;
        }
        let silent = self.clock.now().since(self.answered);
        if !self.store.heals_itself() || silent > GIVEN_UP {
            self.lose(why);
        } else if silent > self.every * 4 {
            self.not_reached(why);
        }
    }

    fn lose(&mut self, why: &StoreError) {
        self.link = Link::Down { until: self.clock.now().after(AGAIN) };
        self.not_reached(why);
    }

    fn reached(&mut self) {
        if self.figures.reach() != Reach::Reached {
            self.figures.set_reach(Reach::Reached);
            self.tell("reached", "the store of shared limits is reached".to_owned());
        }
    }

    fn not_reached(&mut self, why: &StoreError) {
        if self.figures.reach() == Reach::Lost {
            return;
        }
        self.figures.set_reach(Reach::Lost);
        let why: String = why.to_string().chars().take(LONGEST_WHY).flat_map(char::escape_debug).collect();
        let text = format!("the store of shared limits cannot be reached: {why}; a part of each limit flows on");
        self.tell("lost", text);
    }

    fn memory_lost(&mut self) {
        let now = self.clock.now();
        if self.forgot.is_some_and(|before| now.since(before) < ONE_EVENT) {
            return;
        }
        self.forgot = Some(now);
        self.figures.lost_memories.fetch_add(1, Relaxed);
        self.tell(
            "memory lost",
            "the store of shared limits has lost its memory: nothing is shared anew for a while".to_owned(),
        );
    }

    fn tell(&self, subject: &str, text: String) {
        match subject {
            "reached" => tracing::info!("{text}"),
            _ => tracing::warn!("{text}"),
        }
        self.metrics.events().tell(EventKind::Shared, None, subject, text);
    }

    /// The upstream closed a key here.
    fn tell_closed(&mut self, key: Key, lasting: Duration) {
        let Some(list) = self.lists.get(&key.limits) else { return };
        let (named, now) = (Named::of(list, key), self.clock.now());
        self.closings.note(now, named.clone(), now.after(lasting));
        self.say_closed(named, lasting);
    }

    fn say_closed(&mut self, key: Named, left: Duration) {
        let Link::Up(connection) = &self.link else { return };
        let (epoch, store, connection) = (self.epoch, Arc::clone(&self.store), connection.clone());
        let boot = self.identity.boot;
        self.figures.closings_told.fetch_add(1, Relaxed);
        self.events.spawn(async move { Event::Closed(epoch, store.close(connection, boot, (key, left)).await) });
    }

    fn hear_push(&mut self, push: &PushInfo) {
        match (&push.kind, push.data.as_slice()) {
            (PushKind::Message, [_, message]) => {
                let text = Vec::<u8>::from_redis_value_ref(message).unwrap_or_default();
                let heard = Message::read(&text, self.identity.boot);
                heard.into_iter().for_each(|(key, left)| self.hear_closed(&key, left));
            }
            (PushKind::Disconnection, _) => self.fail(self.epoch, &StoreError::Silent),
            _ => {}
        }
    }

    /// An upstream closed a key at another instance.
    fn hear_closed(&self, named: &Named, left: Duration) {
        let Some(list) = self.lists.values().find(|list| list.name == named.list) else { return };
        let left = left.min(LONGEST_CLOSING);
        list.line.close(Key { limits: list.id, subject: named.subject }, left);
        self.figures.closings_heard.fetch_add(1, Relaxed);
        let upstream = list.upstream.as_deref();
        let seconds = left.as_secs_f64();
        tracing::info!(upstream, seconds, "closed by the upstream, as another instance was told");
        let text = format!("closed by the upstream for {seconds:.1} s, as another instance was told");
        self.metrics.events().tell(EventKind::Closed, upstream, &named.list, text);
    }
}
