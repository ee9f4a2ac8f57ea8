//! What an upstream's answer means: for the limits, for the one who waits for it, and for all others.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use cooldown_pacer::{Cost, Key, Lesson, Observation, Spent, Unit};
use http::StatusCode;

use super::api::REST;
use super::arrival::Arrival;
use super::call::is_json;
use super::forward::{Answer, Turn};
use super::journey::{Journey, Verdict};
use super::meter::Meter;
use super::opening::Opening;
use super::record::Record;
use super::site::Route;
use super::way::Leg;
use super::worker::Worker;
use crate::config::model::ProviderKind;
use crate::head::ResponseHead;
use crate::pacing::Label;
use crate::provider::{
    Class, FirstEvent, Said, Scope, Statement, UnixTime, begins_like_an_error, classify, classify_in_place,
    read_limits, speak_of_limits,
};
use crate::telemetry::EventKind;

/// An attempt whose response head has come.
pub(super) struct Attempt<'a> {
    pub leg: &'a Leg,
    pub turn: Turn,
    pub head: ResponseHead,
    /// Whether we asked for usage that the client has not asked for.
    pub asked_usage: bool,
}

/// What is to be done with a response.
pub(super) enum Judged<'a> {
    /// Its head said enough.
    Now(Verdict),
    /// Its body must be read first. Boxed, since few are, and everybody who waits would carry the room for it.
    Later(Pin<Box<dyn Future<Output = Verdict> + 'a>>),
}

/// Hears what a response says about limits, and decides what is done with it.
pub(super) fn judge<'a>(
    worker: &'a Rc<Worker>,
    mut attempt: Attempt<'a>,
    journey: &'a mut Journey,
    arrival: &'a Arrival,
    record: &'a mut Record,
) -> Judged<'a> {
    let route = &worker.site.routes[journey.route()];
    let (status, headers) = (attempt.head.status, &attempt.head.headers);
    let said = if speak_of_limits(headers) {
        read_limits(route.kind, status.as_u16(), headers, now())
    } else {
        Said::default()
    };
    attempt.hear(worker, journey, &said, arrival);
    if is_worth_reading(route, status, &said) {
        return Judged::Later(Box::pin(turned_away(worker, attempt, journey, arrival, record, now())));
    }
    match attempt.meter(worker, journey, arrival) {
        Some(meter) if meter.is_stream() => {
            Judged::Later(Box::pin(streamed(worker, attempt, meter, journey, arrival, record)))
        }
        meter if may_hide_an_error(route, arrival, &attempt.head) => {
            Judged::Later(Box::pin(answered(worker, attempt, meter, journey, arrival, record)))
        }
        meter => {
            attempt.turn.permit.observe(Observation::Accepted);
            Judged::Now(attempt.pass(Opening::default(), meter))
        }
    }
}

/// An error: reads what its body says, and tries again what can be.
async fn turned_away(
    worker: &Rc<Worker>,
    mut attempt: Attempt<'_>,
    journey: &mut Journey,
    arrival: &Arrival,
    record: &mut Record,
    received: UnixTime,
) -> Verdict {
    let route = &worker.site.routes[journey.route()];
    let opening = Opening::of_error(&mut attempt.turn.lease).await;
    let (status, headers) = (attempt.head.status, &attempt.head.headers);
    let body = opening.decoded(headers);
    let class = classify(route.kind, status.as_u16(), headers, Some(&body), received);
    match attempt.answer_to(worker, &class, journey, arrival, record) {
        Some(pause) => attempt.again(pause),
        None => attempt.pass(opening, None),
    }
}

/// A stream that tells its usage. It is held back until its first token, which may be an error.
async fn streamed(
    worker: &Rc<Worker>,
    mut attempt: Attempt<'_>,
    mut meter: Box<Meter>,
    journey: &mut Journey,
    arrival: &Arrival,
    record: &mut Record,
) -> Verdict {
    let lease = &mut attempt.turn.lease;
    let opening = Opening::of_stream(lease, &mut meter, worker.site.retry.hold_stream).await;
    let kind = worker.site.routes[journey.route()].kind;
    let class = match meter.first_event() {
        Some(FirstEvent::Error(error)) => classify_in_place(kind, &attempt.head.headers, error, now()),
        _ => Class::Fine,
    };
    match attempt.answer_to(worker, &class, journey, arrival, record) {
        Some(pause) => attempt.again(pause),
        None => {
            if !meter.has_begun() {
                meter.listens_for_errors(attempt.leg.keys.clone());
            }
            attempt.pass(opening, Some(meter))
        }
    }
}

/// An answer in one piece of an API that tells errors with a 200 too. It is held back only if it begins like an error.
async fn answered(
    worker: &Rc<Worker>,
    mut attempt: Attempt<'_>,
    mut meter: Option<Box<Meter>>,
    journey: &mut Journey,
    arrival: &Arrival,
    record: &mut Record,
) -> Verdict {
    let opening = Opening::of_answer(&mut attempt.turn.lease, &attempt.head.headers).await;
    let (headers, kind) = (&attempt.head.headers, worker.site.routes[journey.route()].kind);
    let body = opening.decoded(headers);
    let class = if begins_like_an_error(&body) { classify_in_place(kind, headers, &body, now()) } else { Class::Fine };
    match attempt.answer_to(worker, &class, journey, arrival, record) {
        Some(pause) => attempt.again(pause),
        None => {
            opening.data().for_each(|data| meter.iter_mut().for_each(|meter| meter.read(data)));
            attempt.pass(opening, meter)
        }
    }
}

impl Attempt<'_> {
    /// Tells the pacer what the response states about limits.
    fn hear(&mut self, worker: &Worker, journey: &Journey, said: &Said, arrival: &Arrival) {
        for statement in &said.statements {
            self.belongs(worker, journey, statement.scope, arrival);
            self.tell(worker, journey, statement, arrival);
        }
    }

    /// Remembers to which group of requests this one belongs, where the upstream forms any.
    fn belongs(&self, worker: &Worker, journey: &Journey, scope: Scope, arrival: &Arrival) {
        let path = arrival.path_behind(journey.ways.get(self.leg.way).prefix);
        worker.site.pacing.learn_pool(journey.route(), path, scope);
    }

    fn tell(&mut self, worker: &Worker, journey: &Journey, statement: &Statement, arrival: &Arrival) {
        let key = self.leg.keys.of(statement.scope);
        let route = &worker.site.routes[journey.route()];
        let Some(told) = route.meanings.told(key, statement, worker.site.pacing.clock().now()) else { return };
        let lesson = self.turn.permit.observe(Observation::Told { key, told });
        self.report(worker, journey, lesson, arrival);
    }

    /// Tells people what was learned, and remembers what the key is called.
    fn report(&self, worker: &Worker, journey: &Journey, lesson: Option<Lesson>, arrival: &Arrival) {
        let Some(lesson) = lesson else { return };
        let route = &worker.site.routes[journey.route()];
        let (Lesson::Limit { key, .. } | Lesson::Closed { key, .. }) = lesson;
        let label = self.label(route, journey, key, arrival);
        let (of_key, of_model) = (label.key.as_deref().unwrap_or("-"), label.model.as_deref().unwrap_or("-"));
        let events = worker.site.metrics.events();
        match lesson {
            Lesson::Limit { limit, .. } => {
                tracing::info!(upstream = &*route.name, key = of_key, model = of_model, %limit, "learned a limit");
                let text = format!("learned a limit: {limit}");
                events.tell(EventKind::Learned, Some(&route.name), &label.to_string(), text);
            }
            Lesson::Closed { until, .. } => {
                let seconds = until.since(worker.site.pacing.clock().now()).as_secs_f64();
                tracing::info!(
                    upstream = &*route.name,
                    key = of_key,
                    model = of_model,
                    seconds,
                    "closed by the upstream"
                );
                let text = format!("closed by the upstream for {seconds:.1} s");
                events.tell(EventKind::Closed, Some(&route.name), &label.to_string(), text);
            }
        }
        worker.site.pacing.name(journey.route(), key, || label);
    }

    fn label(&self, route: &Route, journey: &Journey, key: Key, arrival: &Arrival) -> Label {
        if key == self.leg.keys.upstream() {
            return Label::default();
        }
        let ours = journey.ways.get(self.leg.way).key.filter(|_| route.keys() > 1).map(|key| (key + 1).to_string());
        let callers = arrival.credentials.filter(|_| route.keys() == 0).map(|hash| format!("{:08x}", hash as u32));
        let model =
            arrival.model().filter(|_| key == self.leg.keys.of(Scope::Model) && key != self.leg.keys.of(Scope::Key));
        Label { key: ours.or(callers).map(Box::from), model: model.map(|model| route.own_name(model).into()) }
    }

    /// What reads its tokens, if they count.
    fn meter(&self, worker: &Rc<Worker>, journey: &Journey, arrival: &Arrival) -> Option<Box<Meter>> {
        let (call, estimate) = (arrival.call.as_deref()?, self.leg.estimate?);
        if !self.head.status.is_success() {
            return None;
        }
        Meter::new(worker, journey.route(), call, estimate, &self.head.headers, self.asked_usage)
    }

    /// Does what a class of response asks for: the pause before another attempt, or `None` if the client gets it.
    fn answer_to(
        &mut self,
        worker: &Worker,
        class: &Class,
        journey: &mut Journey,
        arrival: &Arrival,
        record: &mut Record,
    ) -> Option<Duration> {
        let route = &worker.site.routes[journey.route()];
        let (status, rules) = (self.head.status, &worker.site.retry);
        let can_be_sent_again = arrival.can_be_sent_again();
        match class {
            Class::Fine | Class::Fault => {
                self.turn.permit.observe(Observation::Accepted);
                None
            }
            Class::Limit { axis, scope, wait, stated } => {
                record.turned_away("limit");
                self.belongs(worker, journey, *scope, arrival);
                self.refused(worker, journey, (*axis, *scope, *wait), stated.as_ref(), arrival);
                journey.ways.turned_away = true;
                let retried = can_be_sent_again && (status.is_success() || rules.includes_limits(status));
                let pause = self.pause_outside(*scope, *wait, journey, arrival);
                pause.filter(|_| retried)
            }
            Class::Capacity { wait } => {
                record.turned_away("capacity");
                // A plain upstream that has trouble with one request may have none with others.
                let closes = wait.is_some() || route.kind != ProviderKind::Generic || route.api.is_some();
                if closes {
                    self.closed(worker, journey, *wait, arrival);
                }
                journey.ways.turned_away = true;
                let retried = can_be_sent_again && (status.is_success() || rules.includes(status));
                let pause = if closes { Some(Duration::ZERO) } else { journey.pause(arrival) };
                pause.filter(|_| retried && journey.may_fail_again())
            }
            Class::Money | Class::Credentials => {
                record.turned_away(if matches!(class, Class::Money) { "money" } else { "credentials" });
                let way = journey.ways.get(self.leg.way);
                if route.rest(way.key, worker.site.pacing.clock().now()) {
                    self.leg.line.vacate(self.leg.keys.of(Scope::Key));
                    way.key.iter().for_each(|key| worker.site.pacing.note_rest(way.route, *key, REST));
                    let number = way.key.map_or(0, |key| key + 1);
                    let text = match class {
                        Class::Money => "its money is spent: the key is left alone for a while",
                        _ => "it is not accepted: the key is left alone for a while",
                    };
                    let events = worker.site.metrics.events();
                    events.tell(EventKind::KeyRests, Some(&route.name), &format!("key {number}"), text.to_owned());
                }
                (can_be_sent_again && journey.ways.give_up(self.leg.way)).then_some(Duration::ZERO)
            }
            Class::Impossible { .. } => {
                record.turned_away("impossible");
                None
            }
        }
    }

    /// The line holds a request back for the keys that concern it. Where the limit is another one's (of a group that the
    /// request was not known to belong to), it pauses by itself the second time; `None` if its wait budget does not allow
    /// that.
    fn pause_outside(
        &self,
        scope: Scope,
        wait: Option<Duration>,
        journey: &mut Journey,
        arrival: &Arrival,
    ) -> Option<Duration> {
        // From now on it is known to belong there; if that does not help, it is not asked in a circle.
        if self.leg.keys.holds(scope) || journey.strays_first() {
            return Some(Duration::ZERO);
        }
        journey.pause_of(wait, arrival)
    }

    /// The upstream refused for a limit.
    fn refused(
        &mut self,
        worker: &Worker,
        journey: &Journey,
        (unit, scope, wait): (Option<Unit>, Scope, Option<Duration>),
        stated: Option<&Statement>,
        arrival: &Arrival,
    ) {
        if let Some(stated) = stated {
            self.tell(worker, journey, stated, arrival);
        }
        let cost = |unit| self.turn.permit.taken().get(unit).max(1);
        let wait = wait.or_else(|| stated.and_then(|stated| stated.wait_for(cost(stated.axis))));
        let until = wait.map(|wait| worker.site.pacing.clock().now().after(wait));
        let key = self.leg.keys.of(scope);
        let lesson = self.turn.permit.observe(Observation::Refused { key, unit, until });
        self.report(worker, journey, lesson, arrival);
    }

    /// The upstream has no room, for this model at least.
    fn closed(&mut self, worker: &Worker, journey: &Journey, wait: Option<Duration>, arrival: &Arrival) {
        let until = wait.map(|wait| worker.site.pacing.clock().now().after(wait));
        let key = self.leg.keys.narrowest();
        let lesson = self.turn.permit.observe(Observation::Closed { key, until });
        self.report(worker, journey, lesson, arrival);
    }

    /// The client gets the response.
    fn pass(self, opening: Opening, meter: Option<Box<Meter>>) -> Verdict {
        let Turn { lease, permit, .. } = self.turn;
        let (told, upgrade, protocol, unread) = (None, None, None, None);
        let head = self.head;
        Verdict::Pass(Box::new(Answer { head, told, lease, permit, opening, meter, upgrade, protocol, unread }))
    }

    /// The request goes back into the line. It was a request, whatever came of it; tokens it took none.
    fn again(self, pause: Duration) -> Verdict {
        self.turn.permit.settle(Spent::Exactly(Cost::ONE_REQUEST));
        Verdict::Again(pause)
    }
}

/// Whether the body of a response may tell that the request was turned away. Other errors pass as they come.
fn is_worth_reading(route: &Route, status: StatusCode, said: &Said) -> bool {
    let is_plain = route.kind == ProviderKind::Generic && route.api.is_none();
    match status.as_u16() {
        429 | 503 | 529 => true,
        403 => !is_plain || said.retry_after.is_some() || said.statements.iter().any(Statement::is_exhausted),
        400 | 401 | 402 | 413 | 420 | 430 | 498 | 500 => !is_plain,
        _ => false,
    }
}

/// Whether a 200 may tell an error in its body: GraphQL does, and so do APIs that stand before others.
fn may_hide_an_error(route: &Route, arrival: &Arrival, head: &ResponseHead) -> bool {
    let path = arrival.head.uri.path();
    let is_such = path.ends_with("/graphql")
        || path.ends_with("/graphql.json")
        || route.kind == ProviderKind::OpenRouter
        || (route.kind == ProviderKind::Generic && route.api.is_some());
    is_such && head.status == StatusCode::OK && is_json(&head.headers) == Some(true)
}

/// The time of day, which absolute resets are measured against.
pub(super) fn now() -> UnixTime {
    // A clock before 1970 tells no time at all.
    UnixTime::try_from(SystemTime::now()).unwrap_or(UnixTime::from_secs(0))
}
