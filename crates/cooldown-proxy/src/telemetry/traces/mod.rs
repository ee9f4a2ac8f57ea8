//! OpenTelemetry traces: what became of a request, as spans that a collector gets over OTLP.
//!
//! A request carries a [`Trace`], which is nothing but a `None` unless traces are configured and this request is sampled.
//! It notes what happens; when it is dropped, the story goes through a bounded queue to a thread that tells the collector.
//! See ADR 0017.

mod context;
mod export;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use tokio::sync::mpsc;

use crate::config::model::Otlp;
use crate::fields::Fields;
pub use export::Exporter;

/// How many finished requests wait for the collector at most; further ones are lost, and counted.
const QUEUE: usize = 4096;
/// How many steps of one request are told at most; one that is tried again for hours has more.
const MOST_STEPS: usize = 128;
/// How many bytes of a host, a path or a name are told at most.
const LONGEST: usize = 512;

/// Begins the traces of requests. Clones are cheap.
#[derive(Clone)]
pub struct Tracer(Arc<Shared>);

struct Shared {
    queue: mpsc::Sender<Story>,
    lost: Arc<AtomicU64>,
    /// Of requests that no caller has decided about, those are sampled whose random number is below this.
    threshold: u64,
}

/// What is noted about one request. It is told when this is dropped.
#[derive(Default)]
#[must_use = "the request is told when this is dropped"]
pub struct Trace(Option<Box<Open>>);

/// A trace that is being written.
struct Open {
    tracer: Tracer,
    story: Option<Story>,
    in_line: Option<Instant>,
    attempt: Option<(Instant, SpanId)>,
    /// The attempt that is about to leave.
    next: Option<SpanId>,
    /// Since when the response is streamed.
    stream: Option<Instant>,
}

type TraceId = [u8; 16];
type SpanId = [u8; 8];

/// A request that has ended.
#[derive(Debug)]
struct Story {
    trace: TraceId,
    span: SpanId,
    parent: Option<SpanId>,
    /// `tracestate`, as it came.
    state: String,
    method: Method,
    host: Box<str>,
    path: Box<str>,
    route: Option<Arc<str>>,
    client: Option<Box<str>>,
    status: Option<StatusCode>,
    code: Option<&'static str>,
    bytes: u64,
    complete: bool,
    attempts: u32,
    steps: Vec<Step>,
    began: Instant,
    /// The time of day when it began, in nanoseconds.
    began_at: u64,
    took: Duration,
}

/// A part of a request's way.
#[derive(Debug)]
struct Step {
    kind: StepKind,
    began: Instant,
    took: Duration,
}

#[derive(Debug)]
enum StepKind {
    /// It stood in line.
    Wait,
    /// It was sent to an upstream.
    Attempt {
        span: SpanId,
        /// The first is 1.
        number: u32,
        route: Option<Arc<str>>,
        status: Option<StatusCode>,
        /// Why nothing came of it.
        error: Option<&'static str>,
    },
    /// The response's body was passed on.
    Stream { bytes: u64 },
}

impl Tracer {
    fn new(config: &Otlp) -> (Self, mpsc::Receiver<Story>, Arc<AtomicU64>) {
        let (queue, stories) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        // As OpenTelemetry does it: 56 random bits of the trace's id decide.
        let threshold = (config.sample * (1_u64 << 56) as f64) as u64;
        (Self(Arc::new(Shared { queue, lost: Arc::clone(&lost), threshold })), stories, lost)
    }

    /// Begins the trace of a request that arrived now. `path` must come without its query, which may hold secrets. Whoever
    /// sent it decides whether it is sampled, if it says so.
    pub fn begin(&self, headers: &Fields, method: &Method, host: &str, path: &str) -> Trace {
        let caller = context::caller(headers);
        if caller.as_ref().is_some_and(|caller| !caller.sampled) {
            return Trace(None);
        }
        let mut random = [0; 24];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            return Trace(None);
        }
        let (span, id) = random.split_at(8);
        let decides = u64::from_be_bytes(std::array::from_fn(|index| if index == 0 { 0 } else { id[index + 8] }));
        if caller.is_none() && decides >= self.0.threshold {
            return Trace(None);
        }
        let (trace, parent, state) = match caller {
            Some(caller) => (caller.trace, Some(caller.span), caller.state),
            None => (std::array::from_fn(|index| id[index]), None, String::new()),
        };
        let story = Story {
            trace,
            span: std::array::from_fn(|index| span[index]),
            parent,
            state,
            method: method.clone(),
            host: shortened(host),
            path: shortened(path),
            route: None,
            client: None,
            status: None,
            code: None,
            bytes: 0,
            complete: false,
            attempts: 0,
            steps: Vec::new(),
            began: Instant::now(),
            began_at: now_nanos(),
            took: Duration::ZERO,
        };
        let (tracer, story) = (self.clone(), Some(story));
        Trace(Some(Box::new(Open { tracer, story, in_line: None, attempt: None, next: None, stream: None })))
    }
}

impl Trace {
    /// Whether anything is noted.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The number under which a collector finds it, in hexadecimal; `None` if nothing is noted.
    pub fn id(&self) -> Option<String> {
        let story = self.0.as_ref()?.story.as_ref()?;
        Some(context::hexadecimal(&story.trace))
    }

    /// It matched this route.
    pub fn route(&mut self, name: &Arc<str>) {
        self.note(|open, _| {
            if let Some(story) = &mut open.story {
                story.route = Some(Arc::clone(name));
            }
        });
    }

    /// It belongs to the client of this name. Never give a token.
    pub fn client(&mut self, name: &str) {
        self.note(|open, _| {
            if let Some(story) = &mut open.story {
                story.client = Some(shortened(name));
            }
        });
    }

    /// It stands in line from now on.
    pub fn in_line(&mut self) {
        self.note(|open, now| {
            open.give_up_attempt(now, "not_sent");
            (open.stream, open.in_line) = (None, Some(now));
        });
    }

    /// It stands in line no more.
    pub fn waited(&mut self) {
        self.note(Open::end_wait);
    }

    /// Makes the attempt that leaves next the parent of whatever the upstream does.
    pub fn propagate(&mut self, headers: &mut Fields) {
        let Some(open) = &mut self.0 else { return };
        let mut span = [0; 8];
        // Without a number of its own, the attempt is told and leads nowhere.
        if let (Some(story), Ok(())) = (&open.story, aws_lc_rs::rand::fill(&mut span)) {
            context::tell(headers, &story.trace, &span);
            open.next = Some(span);
        }
    }

    /// One attempt leaves for the upstream, now.
    pub fn sent(&mut self) {
        self.note(|open, now| {
            open.give_up_attempt(now, "not_sent");
            open.stream = None;
            open.attempt = Some((now, open.next.take().unwrap_or_default()));
            if let Some(story) = &mut open.story {
                story.attempts += 1;
            }
        });
    }

    /// The upstream's response head came.
    pub fn responded(&mut self, status: StatusCode) {
        self.note(|open, now| {
            open.end_attempt(now, Some(status), None);
            open.stream = Some(now);
            if let Some(story) = &mut open.story {
                story.status = Some(status);
            }
        });
    }

    /// The upstream turned the last attempt away: this word says why.
    pub fn turned_away(&mut self, why: &'static str) {
        self.note(|open, _| {
            let steps = open.story.iter_mut().flat_map(|story| story.steps.iter_mut().rev());
            let errors = steps.filter_map(|step| match &mut step.kind {
                StepKind::Attempt { error, .. } => Some(error),
                StepKind::Wait | StepKind::Stream { .. } => None,
            });
            errors.take(1).for_each(|error| *error = Some(why));
        });
    }

    /// The proxy answers itself, with this status and error code.
    pub fn refused(&mut self, status: StatusCode, code: &'static str) {
        self.note(|open, now| {
            open.give_up_attempt(now, code);
            open.end_wait(now);
            open.stream = None;
            if let Some(story) = &mut open.story {
                (story.status, story.code) = (Some(status), Some(code));
            }
        });
    }

    /// This many more bytes of the body went to the client.
    pub fn bytes(&mut self, more: usize) {
        if let Some(story) = self.0.as_mut().and_then(|open| open.story.as_mut()) {
            story.bytes += more as u64;
        }
    }

    /// The response was given to its last byte.
    pub fn complete(&mut self) {
        if let Some(story) = self.0.as_mut().and_then(|open| open.story.as_mut()) {
            story.complete = true;
        }
    }

    fn note(&mut self, note: impl FnOnce(&mut Open, Instant)) {
        if let Some(open) = &mut self.0 {
            note(open, Instant::now());
        }
    }
}

impl Open {
    fn end_wait(&mut self, now: Instant) {
        if let Some(began) = self.in_line.take() {
            self.step(StepKind::Wait, began, now);
        }
    }

    fn give_up_attempt(&mut self, now: Instant, error: &'static str) {
        self.end_attempt(now, None, Some(error));
    }

    fn end_attempt(&mut self, now: Instant, status: Option<StatusCode>, error: Option<&'static str>) {
        let Some((began, span)) = self.attempt.take() else { return };
        let (number, route) = self.story.as_ref().map_or((0, None), |story| (story.attempts, story.route.clone()));
        self.step(StepKind::Attempt { span, number, route, status, error }, began, now);
    }

    fn step(&mut self, kind: StepKind, began: Instant, now: Instant) {
        if let Some(story) = self.story.as_mut().filter(|story| story.steps.len() < MOST_STEPS) {
            story.steps.push(Step { kind, began, took: now.duration_since(began) });
        }
    }
}

impl Drop for Open {
    /// Tells the story. Never waits: a collector that is slow costs traces, not time.
    fn drop(&mut self) {
        let now = Instant::now();
        self.end_wait(now);
        self.give_up_attempt(now, "client_left");
        let bytes = self.story.as_ref().map_or(0, |story| story.bytes);
        if let Some(began) = self.stream.take() {
            self.step(StepKind::Stream { bytes }, began, now);
        }
        let Some(mut story) = self.story.take() else { return };
        story.took = now.duration_since(story.began);
        if self.tracer.0.queue.try_send(story).is_err() {
            self.tracer.0.lost.fetch_add(1, Relaxed);
        }
    }
}

fn shortened(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(LONGEST)].into()
}

fn now_nanos() -> u64 {
    // A clock before 1970 is told as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos().try_into().unwrap_or(u64::MAX))
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.is_on()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sample: f64) -> (Tracer, mpsc::Receiver<Story>, Arc<AtomicU64>) {
        let collector = crate::config::upstream("http://127.0.0.1:4318").expect("a URL");
        Tracer::new(&Otlp { collector, headers: Vec::new(), sample, service: "test".to_owned() })
    }

    fn begun(tracer: &Tracer) -> Trace {
        tracer.begin(&Fields::default(), &Method::GET, "a.example", "/")
    }

    #[test]
    fn a_trace_that_is_off_is_one_word() {
        assert_eq!(size_of::<Trace>(), size_of::<usize>());
        assert_eq!(size_of::<Option<Tracer>>(), size_of::<usize>());
    }

    #[test]
    fn as_many_are_sampled_as_was_said() {
        for (sample, expected) in [(0.0, 0..=0), (0.1, 800..=1200), (1.0, 10_000..=10_000)] {
            let (tracer, _stories, _) = tracer(sample);
            let sampled = (0..10_000).filter(|_| begun(&tracer).is_on()).count();
            assert!(expected.contains(&sampled), "{sampled} of 10,000 at {sample}");
        }
    }

    #[test]
    fn a_collector_that_stands_still_costs_traces_and_no_memory() {
        let (tracer, stories, lost) = tracer(1.0);
        for _ in 0..QUEUE + 10 {
            drop(begun(&tracer));
        }
        assert_eq!((stories.len(), lost.load(Relaxed)), (QUEUE, 10));
    }

    #[test]
    fn a_request_that_is_tried_again_tells_each_step_once() {
        let (tracer, mut stories, _) = tracer(1.0);
        let mut trace = begun(&tracer);
        let mut headers = Fields::default();
        trace.in_line();
        trace.waited();
        trace.propagate(&mut headers);
        trace.sent();
        trace.responded(StatusCode::TOO_MANY_REQUESTS);
        trace.turned_away("limit");
        trace.in_line();
        trace.waited();
        trace.propagate(&mut headers);
        trace.sent();
        trace.responded(StatusCode::OK);
        trace.bytes(7);
        trace.complete();
        drop(trace);
        let story = stories.try_recv().expect("a story");
        let told = |step: &Step| match &step.kind {
            StepKind::Wait => "wait".to_owned(),
            StepKind::Attempt { number, error, .. } => format!("attempt {number} {error:?}"),
            StepKind::Stream { bytes } => format!("stream {bytes}"),
        };
        let steps: Vec<String> = story.steps.iter().map(told).collect();
        assert_eq!(steps, ["wait", "attempt 1 Some(\"limit\")", "wait", "attempt 2 None", "stream 7"]);
    }

    #[test]
    fn a_request_that_is_tried_for_hours_is_told_within_bounds() {
        let (tracer, mut stories, _) = tracer(1.0);
        let mut trace = begun(&tracer);
        for _ in 0..10_000 {
            trace.in_line();
            trace.waited();
        }
        drop(trace);
        assert_eq!(stories.try_recv().expect("a story").steps.len(), MOST_STEPS);
    }
}
