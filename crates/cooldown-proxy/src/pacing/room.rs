//! How much room the limits have that a person could name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cooldown_pacer::{Key, LimitsId, Room, Source};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::Pacing;
use super::keys::Label;
use super::line::Line;
use crate::telemetry::{CooldownFigure, RoomFigure, Scope};

/// More keys than this have no name in the figures: there may be as many as clients and models.
const MOST_LABELS: usize = 500;

/// A key with a name.
#[derive(Debug)]
pub(super) struct Named {
    pub scope: Scope,
    pub name: String,
    pub label: Label,
    pub line: Arc<Line>,
    pub key: Key,
}

/// A list of limits that its upstream may add to.
#[derive(Debug)]
pub(super) struct List {
    pub upstream: String,
    pub limits: LimitsId,
    pub line: Arc<Line>,
}

/// What was learned, and what the keys are called that it was learned of.
#[derive(Debug)]
pub(super) struct Labels {
    lists: Vec<List>,
    known: Mutex<HashMap<(usize, Key), Label, RandomState>>,
}

impl Labels {
    pub(super) fn new(lists: Vec<List>) -> Self {
        Self { lists, known: Mutex::default() }
    }
}

impl Pacing {
    /// What is left now of every limit whose key has a name: those of routes, API keys, domains and clients, and what
    /// upstreams have taught. Limits per credentials, and per host behind a wildcard, have keys that only requests know.
    pub fn room(&self) -> Vec<RoomFigure> {
        let configured = self.named.iter().flat_map(Named::room);
        let now = self.clock.now();
        let learned = self.labels.lists.iter().flat_map(|list| {
            let learned = list.line.learned(now, list.limits);
            learned.into_iter().filter_map(|(key, room)| {
                let label = self.label(&list.line, key)?;
                Some(figure(Scope::Upstream, &list.upstream, &label, &room))
            })
        });
        let mut told = HashSet::new();
        let figures = configured.chain(learned);
        // Keys that a person cannot tell apart are told once.
        figures.filter(|figure: &RoomFigure| told.insert(RoomFigure { room: 0, ..figure.clone() })).collect()
    }

    /// Which upstreams, keys and models are closed, and for how long.
    pub fn cooldowns(&self) -> Vec<CooldownFigure> {
        let now = self.clock.now();
        let closures = self.labels.lists.iter().flat_map(|list| {
            let closed = list.line.closed(now, list.limits);
            closed.into_iter().filter_map(|closure| {
                let Label { key, model } = self.label(&list.line, closure.key)?;
                let left = closure.until.since(now);
                let (key, model) = (key.map(String::from), model.map(String::from));
                Some(CooldownFigure { upstream: list.upstream.clone(), key, model, left })
            })
        });
        let mut told = HashSet::new();
        closures
            .filter(|figure| told.insert((figure.upstream.clone(), figure.key.clone(), figure.model.clone())))
            .collect()
    }

    /// Remembers what a person calls a key.
    pub fn name(&self, route: usize, key: Key, label: impl FnOnce() -> Label) {
        let line = Arc::as_ptr(self.line(route)).addr();
        let mut known = self.labels.known.lock();
        if known.len() < MOST_LABELS {
            known.entry((line, key)).or_insert_with(label);
        }
    }

    /// A key that stands for all of an upstream needs no name.
    fn label(&self, line: &Arc<Line>, key: Key) -> Option<Label> {
        let known = self.labels.known.lock().get(&(Arc::as_ptr(line).addr(), key)).cloned();
        known.or_else(|| (key == Key::whole(key.limits)).then(Label::default))
    }
}

impl Named {
    fn room(&self) -> impl Iterator<Item = RoomFigure> + '_ {
        let rooms = self.line.room(self.key).into_iter().filter(|room| room.source == Source::Configured);
        rooms.map(|room| figure(self.scope, &self.name, &self.label, &room))
    }
}

fn figure(scope: Scope, name: &str, label: &Label, room: &Room) -> RoomFigure {
    RoomFigure {
        scope,
        name: name.to_owned(),
        key: label.key.as_deref().map(str::to_owned),
        model: label.model.as_deref().map(str::to_owned),
        limit: room.limit.to_string(),
        source: match room.source {
            Source::Configured => "configured",
            Source::Learned => "learned",
            Source::Found => "found",
        },
        room: room.left,
    }
}
