//! The thread that holds what this instance has of shared limits: everything that happens, one thing after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cooldown_pacer::share::{Answer, Outcome, Renewal, Which};
use cooldown_pacer::{Instant, Key, LimitsId};
use foldhash::fast::RandomState;
use redis::PushInfo;
use slab::Slab;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::super::clock::Clock;
use super::super::line::Line;
use super::held::{Held, Look};
use super::message::Kept;
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
/// An instance says so often that it is there, and is taken for gone when it has not for so long.
const PRESENT: Duration = Duration::from_secs(3);
const GONE: Duration = Duration::from_secs(10);
/// What is told of an error of the store's.
const LONGEST_WHY: usize = 200;

/// Everything that the thread knows.
pub(super) struct Task {
    pub(super) store: Arc<Store>,
    pub(super) identity: Arc<Identity>,
    pub(super) prefix: String,
    pub(super) every: Duration,
    pub(super) longest: Duration,
    pub(super) clock: Clock,
    pub(super) figures: Arc<Figures>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) lists: HashMap<LimitsId, SharedList, RandomState>,
    pub(super) held: Slab<Held>,
    /// Where what is held of a limit of a key is among `held`.
    pub(super) index: HashMap<(Key, Which), usize, RandomState>,
    pub(super) schedule: Schedule,
    /// How many were ever held.
    pub(super) count: u64,
    /// Lines with keys that somebody waits for, and when they were last looked at.
    pub(super) calling: Vec<Weak<Line>>,
    looked: Instant,
    pub(super) kept: Kept,
    /// When this instance says next that it is there, and when it says again what it has learned.
    presents: Instant,
    pub(super) repeats: Instant,
    /// How many instances there are.
    pub(super) company: u64,
    pub(super) link: Link,
    /// How many connections there were.
    pub(super) epoch: u64,
    pushes: UnboundedReceiver<PushInfo>,
    pub(super) events: JoinSet<Event>,
    answered: Instant,
    forgot: Option<Instant>,
    pub(super) was_full: bool,
}

/// How it stands with the connection.
pub(super) enum Link {
    Up(Connection),
    Connecting,
    Down { until: Instant },
}

/// What became of what was asked of the store. Each tells by which connection.
pub(super) enum Event {
    Connected(u64, Result<Connected, StoreError>),
    Answered { epoch: u64, slot: usize, number: u64, answer: Result<Answer, StoreError> },
    Present(u64, Result<u64, StoreError>),
    Told(u64, Result<(), StoreError>),
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
            kept: Kept::default(),
            presents: Instant::START,
            repeats: Instant::START,
            company: 1,
            // It is reached when there are lists: what it remembers is of them.
            link: Link::Down { until: Instant::NEVER },
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
                    Some(News::Leave) => return self.leave().await,
                    Some(News::End) | None => return,
                    Some(news) => self.pass_on(news),
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
            Link::Up(_) => self.schedule.next().unwrap_or(Instant::NEVER).min(self.presents).min(self.repeats),
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
            Link::Up(connection) => {
                let connection = connection.clone();
                self.renew(&connection);
                if self.presents <= now {
                    self.presents = now.after(PRESENT);
                    self.say_present(connection, GONE);
                }
                if self.repeats <= now {
                    self.repeat(now);
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self) {
        self.epoch += 1;
        self.link = Link::Connecting;
        let (epoch, store, boot) = (self.epoch, Arc::clone(&self.store), self.identity.boot);
        self.events.spawn(async move { Event::Connected(epoch, store.connect(boot).await) });
    }

    fn say_present(&mut self, connection: Connection, lasting: Duration) {
        let (epoch, store, identity) = (self.epoch, Arc::clone(&self.store), Arc::clone(&self.identity));
        self.events.spawn(async move { Event::Present(epoch, store.present(connection, &identity, lasting).await) });
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
                Look::Gone => self.forget(slot),
            }
        }
    }

    pub(super) fn say(&mut self, connection: &Connection, slot: usize, renewal: Renewal) {
        let (epoch, store, identity) = (self.epoch, Arc::clone(&self.store), Arc::clone(&self.identity));
        let Held { name, number, .. } = &self.held[slot];
        let (name, number, connection) = (name.clone(), *number, connection.clone());
        self.events.spawn(async move {
            let answer = store.renew(connection, name, &identity, number, &renewal).await;
            Event::Answered { epoch, slot, number, answer }
        });
    }

    /// There are so many instances now.
    pub(super) fn set_company(&mut self, company: u64) {
        self.figures.instances.store(company.max(1), Relaxed);
        if std::mem::replace(&mut self.company, company.max(1)) != company.max(1) {
            self.lists.values().for_each(|list| list.line.set_company(self.company));
        }
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
        self.say_present(connection, Duration::ZERO);
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
            Event::Present(_, Ok(company)) => self.set_company(company),
            Event::Present(epoch, Err(why)) | Event::Told(epoch, Err(why)) => self.fail(epoch, &why),
            Event::Connected(..) | Event::Told(_, Ok(())) => {}
        }
    }

    fn connected(&mut self, connected: Connected) {
        let now = self.clock.now();
        let Connected { connection, pushes, told } = connected;
        (self.pushes, self.answered) = (pushes, now);
        self.link = Link::Up(connection);
        self.reached();
        told.into_iter().for_each(|message| self.hear_message(message, false));
        self.repeat(now);
        self.presents = now;
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
        if heard.forgot {
            self.memory_lost();
        }
    }

    /// Something that was asked by a connection came to nothing.
    pub(super) fn fail(&mut self, epoch: u64, why: &StoreError) {
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
        // What was taught meanwhile and is not held yet must flow nevertheless.
        let company = self.company;
        let taught =
            self.held.iter_mut().map(|(_, held)| held).filter(|held| !matches!(held.which(), Which::Stated(_)));
        taught.for_each(|held| held.claim(company));
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
        self.repeat(now);
        self.presents = now;
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
}
