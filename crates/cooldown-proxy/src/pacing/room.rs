//! How much room the limits have that a person could name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cooldown_pacer::{Instant, Key, Limit, LimitsId, Room, Source};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::Pacing;
use super::keys::Label;
use super::line::Line;
use crate::telemetry::snapshot::{ClientView, LimitView, LineView};
use crate::telemetry::{Caller, CooldownFigure, RoomFigure, Scope};

/// More keys than this have no name in the figures at one time: there may be as many as clients and models.
const MOST_LABELS: usize = 500;
/// So many clients of a line are told one by one.
const MOST_CLIENTS: usize = 12;

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
    known: Arc<LabelTable>,
}

/// What keys are called. It outlives a reload: a key means the same ever after.
pub(super) type LabelTable = Mutex<HashMap<Key, Label, RandomState>>;

impl Labels {
    pub(super) fn new(lists: Vec<List>, known: Arc<LabelTable>) -> Self {
        Self { lists, known }
    }

    pub(super) fn known(&self) -> &Arc<LabelTable> {
        &self.known
    }
}

impl Pacing {
    /// What is left now of every limit whose key has a name: those of routes, API keys, domains and clients, and what
    /// upstreams have taught. Limits per credentials, and per host behind a wildcard, have keys that only requests know.
    pub fn room(&self) -> Vec<RoomFigure> {
        self.rooms().into_iter().map(|(figure, _)| figure).collect()
    }

    /// The same in full.
    pub fn limits(&self) -> Vec<LimitView> {
        let now = self.clock.now();
        self.rooms().into_iter().map(|(figure, room)| limit_view(figure, &room, now)).collect()
    }

    /// Who waits for a route, called as those are that have waited there.
    pub fn line_view(&self, route: usize, callers: Vec<(u64, Caller)>) -> LineView {
        let limits = &self.routes[route];
        let (backlog, now) = limits.line.backlog(Key::whole(limits.lists.upstream));
        let millis = |from: Instant, to: Instant| to.since(from).as_millis().try_into().unwrap_or(u64::MAX);
        let waiting: HashMap<u64, u64> = backlog.flows.iter().map(|flow| (flow.flow.0, flow.waiting as u64)).collect();
        let mut clients: Vec<ClientView> = callers
            .into_iter()
            .map(|(flow, caller)| ClientView {
                name: caller.name.into(),
                waiting: waiting.get(&flow).copied().unwrap_or(0),
                served: caller.served,
            })
            .collect();
        clients.sort_by(|a, b| (b.waiting, b.served, &a.name).cmp(&(a.waiting, a.served, &b.name)));
        let more_clients = clients.len().saturating_sub(MOST_CLIENTS) as u64;
        clients.truncate(MOST_CLIENTS);
        LineView {
            waiting: backlog.waiting as u64,
            oldest_ms: backlog.oldest.map_or(0, |oldest| millis(oldest, now)),
            predicted_ms: backlog.last_leaves.map_or(0, |last| millis(now, last)),
            clients,
            more_clients,
        }
    }

    fn rooms(&self) -> Vec<(RoomFigure, Room)> {
        let configured = self.named.iter().flat_map(Named::room);
        let learned = self.labels.lists.iter().flat_map(|list| {
            let learned = list.line.learned(list.limits);
            learned.into_iter().filter_map(|(key, room)| {
                let label = self.label(key)?;
                Some((figure(Scope::Upstream, &list.upstream, &label, &room), room))
            })
        });
        let mut told = HashSet::new();
        let figures = configured.chain(learned);
        // Keys that a person cannot tell apart are told once.
        figures.filter(|(figure, _)| told.insert(RoomFigure { room: 0, ..figure.clone() })).collect()
    }

    /// Which upstreams, keys and models are closed, and for how long.
    pub fn cooldowns(&self) -> Vec<CooldownFigure> {
        let now = self.clock.now();
        let closures = self.labels.lists.iter().flat_map(|list| {
            let closed = list.line.closed(list.limits);
            closed.into_iter().filter_map(|closure| {
                let Label { key, model } = self.label(closure.key)?;
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

    /// Remembers what a person calls a key of a route, if there is anything to tell of it.
    pub fn name(&self, route: usize, key: Key, label: impl FnOnce() -> Label) {
        if !self.line(route).has_learned(key) {
            return;
        }
        let mut known = self.labels.known.lock();
        if known.len() >= MOST_LABELS && !known.contains_key(&key) {
            known.retain(|key, _| self.is_known(*key));
        }
        if known.len() < MOST_LABELS {
            known.entry(key).or_insert_with(label);
        }
    }

    /// Whether there is anything to tell of a key.
    fn is_known(&self, key: Key) -> bool {
        let list = self.labels.lists.iter().find(|list| list.limits == key.limits);
        list.is_some_and(|list| list.line.has_learned(key))
    }

    /// A key that stands for all of an upstream needs no name.
    fn label(&self, key: Key) -> Option<Label> {
        let known = self.labels.known.lock().get(&key).cloned();
        known.or_else(|| (key == Key::whole(key.limits)).then(Label::default))
    }
}

impl Named {
    fn room(&self) -> impl Iterator<Item = (RoomFigure, Room)> + '_ {
        let rooms = self.line.room(self.key).into_iter().filter(|room| room.source == Source::Configured);
        rooms.map(|room| (figure(self.scope, &self.name, &self.label, &room), room))
    }
}

fn limit_view(figure: RoomFigure, room: &Room, now: Instant) -> LimitView {
    let (unit, amount, period) = match room.limit {
        Limit::Rate(rate) => (rate.unit().to_string(), rate.amount(), Some(rate.period())),
        Limit::Concurrency(max) => ("in flight".to_owned(), u64::from(max.get()), None),
    };
    let millis = |span: std::time::Duration| span.as_millis().try_into().unwrap_or(u64::MAX);
    LimitView {
        scope: figure.scope.name().to_owned(),
        of: figure.name,
        limit: figure.limit,
        source: figure.source.to_owned(),
        unit,
        amount,
        period_ms: period.map(millis),
        used: amount.saturating_add_signed(room.left.saturating_neg()),
        room: room.left,
        free_in_ms: room.free_at.map(|at| millis(at.since(now))),
        key: figure.key,
        model: figure.model,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cooldown_pacer::{Ask, Flow, Observation};

    use super::super::{Admission, Credential};
    use super::*;
    use crate::config;

    fn config(routes: &str) -> config::Config {
        let text = format!("server: {{host: localhost, port: 1}}\nroutes: {{{routes}}}");
        config::parse("test.yaml", &text, &|_: &str| None).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn pacing() -> Pacing {
        Pacing::new(&config("\"*\": \"http://localhost\"")).expect("a thread")
    }

    /// Closes a model for this long and names it.
    fn close(pacing: &Pacing, model: &str, lasting: Duration) {
        let keys = pacing.keys(0, Credential::None, Some(model), "/", &pacing.common_keys(None, "", None));
        let key = keys.narrowest();
        let Admission::Go(mut permit) = pacing.line(0).admit(Ask::new(Flow(1), [key]), false, u32::MAX) else {
            panic!("{model} waits")
        };
        permit.sent(false);
        let until = Some(pacing.clock().now().after(lasting));
        let lesson = permit.observe(Observation::Closed { key, until });
        assert!(lesson.is_some());
        pacing.name(0, key, || Label { key: None, model: Some(model.into()) });
    }

    fn closed(pacing: &Pacing) -> HashSet<String> {
        pacing.cooldowns().into_iter().filter_map(|figure| figure.model).collect()
    }

    #[test]
    fn a_name_is_forgotten_when_there_is_nothing_to_tell_of_it_and_room_is_needed() {
        const SHORT: Duration = Duration::from_millis(20);
        let pacing = pacing();
        (0..MOST_LABELS - 1).for_each(|model| close(&pacing, &format!("old-{model}"), SHORT));
        close(&pacing, "lasting", Duration::from_secs(600));
        std::thread::sleep(2 * SHORT);
        (0..MOST_LABELS - 1).for_each(|model| close(&pacing, &format!("new-{model}"), Duration::from_secs(600)));
        let names = closed(&pacing);
        assert!(names.contains("lasting") && names.contains("new-0"), "{} names", names.len());
        assert_eq!(names.len(), MOST_LABELS);
        close(&pacing, "one too many", Duration::from_secs(600));
        assert_eq!(closed(&pacing), names, "there are no more names than that");
    }

    #[test]
    fn what_is_closed_stays_closed_and_named_over_reloads_and_renames() {
        let pacing = pacing();
        close(&pacing, "model", Duration::from_secs(600));
        let next = pacing.reload(&config("a: \"http://elsewhere\", \"*\": \"http://localhost\""));
        assert_eq!(closed(&next), closed(&pacing));
        assert!(!closed(&next).is_empty());
        let renamed = next.reload(&config("b: \"http://localhost\""));
        assert_eq!(closed(&renamed), closed(&pacing));
        let moved = renamed.reload(&config("b: \"http://another\""));
        assert!(closed(&moved).is_empty(), "another upstream has closed nothing");
        let back = moved.reload(&config("b: \"http://localhost\""));
        assert_eq!(closed(&back), closed(&pacing), "it was remembered");
    }

    #[test]
    fn a_limit_is_found_again_by_what_it_is_for() {
        let limited = |a: u32, more: &str| {
            config(&format!("a: {{upstream: \"http://x\", limits: {{requests: \"{a}/min, burst {a}\"}}}}{more}"))
        };
        let left = |pacing: &Pacing| pacing.room().iter().find(|figure| figure.name == "a").map(|figure| figure.room);
        let pacing = Pacing::new(&limited(10, "")).expect("a thread");
        for _ in 0..4 {
            let keys = pacing.keys(0, Credential::None, None, "/", &pacing.common_keys(None, "", None));
            let Admission::Go(mut permit) =
                pacing.line(0).admit(Ask::new(Flow(1), keys.all().iter().copied()), false, u32::MAX)
            else {
                panic!("there is room")
            };
            permit.sent(false);
        }
        assert_eq!(left(&pacing), Some(6));
        let next = pacing.reload(&limited(20, ", b: \"http://y\""));
        assert_eq!(left(&next), Some(16));
        let joined = next.reload(&{
            let mut joined = limited(20, ", b: \"http://y\"");
            joined.domain_limits.push(config::model::DomainLimits {
                name: "*".to_owned(),
                rule: config::model::Match::Any,
                per_host: false,
                limits: joined.routes[0].limits.clone(),
            });
            joined
        });
        assert!(Arc::ptr_eq(joined.line(0), joined.line(1)), "one pacer for both");
        assert_eq!(left(&joined), Some(16));
        let apart = joined.reload(&limited(5, ", b: \"http://y\""));
        assert!(Arc::ptr_eq(apart.line(0), apart.line(1)), "never split");
        assert_eq!(left(&apart), Some(1));
    }
}
