//! OTLP in protobuf: of its messages, the fields that are told. The numbers are those of
//! `opentelemetry/proto/trace/v1/trace.proto`, which are stable; an integration test reads them with the official types.

use std::time::{Duration, Instant};

use prost::Message;

use super::{Step, StepKind, Story};

/// What a collector gets at `/v1/traces`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(enumeration = "Kind", tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// Attributes of one span or resource.
#[derive(Default)]
struct Attributes(Vec<Attribute>);

/// The stories of this service, as a collector gets them. `number` gives spans that are only children their numbers.
pub(super) fn export(service: &str, stories: &[Story], mut number: impl FnMut() -> [u8; 8]) -> Export {
    let spans = stories.iter().flat_map(|story| {
        let steps: Vec<Span> = story.steps.iter().map(|step| child(story, step, &mut number)).collect();
        std::iter::once(request(story)).chain(steps)
    });
    let scope = Scope { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let scopes = vec![ScopeSpans { scope: Some(scope), spans: spans.collect() }];
    let mut attributes = Attributes::default();
    attributes.text("service.name", service);
    attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    Export { resources: vec![ResourceSpans { resource: Some(Resource { attributes: attributes.0 }), scopes }] }
}

/// The whole of a request.
fn request(story: &Story) -> Span {
    let mut attributes = Attributes::default();
    attributes.text("http.request.method", story.method.as_str());
    attributes.text("server.address", &story.host);
    attributes.text("url.path", &story.path);
    attributes.status(story.status.map(|status| status.as_u16()));
    if let Some(client) = &story.client {
        attributes.text("cooldown.client", client);
    }
    attributes.number("cooldown.attempts", i64::from(story.attempts));
    let error = match story.status {
        None => Some("client_left"),
        Some(_) if story.code.is_some() => story.code,
        Some(_) if !story.complete => Some("cut"),
        Some(_) => None,
    };
    let name = named(story, story.route.as_deref());
    let mut span = span(story, name, Kind::Server, story.began, story.took);
    span.span_id = story.span.to_vec();
    span.parent_span_id = story.parent.map(|parent| parent.to_vec()).unwrap_or_default();
    let is_servers = story.status.is_none_or(|status| status.is_server_error()) || error.is_some();
    finish(span, attributes, story.route.as_deref(), error, is_servers)
}

fn child(story: &Story, step: &Step, number: &mut impl FnMut() -> [u8; 8]) -> Span {
    let mut attributes = Attributes::default();
    let (name, kind, id, route, error, failed) = match &step.kind {
        StepKind::Wait => ("wait".to_owned(), Kind::Internal, number(), None, None, false),
        StepKind::Stream { bytes } => {
            attributes.number("http.response.body.size", i64::try_from(*bytes).unwrap_or(i64::MAX));
            ("stream".to_owned(), Kind::Internal, number(), None, None, false)
        }
        StepKind::Attempt { span, number, route, status, error } => {
            attributes.text("http.request.method", story.method.as_str());
            attributes.status(status.map(|status| status.as_u16()));
            if *number > 1 {
                attributes.number("http.request.resend_count", i64::from(number - 1));
            }
            let failed = status.is_none_or(|status| status.is_client_error() || status.is_server_error());
            (named(story, route.as_deref()), Kind::Client, *span, route.as_deref(), *error, failed || error.is_some())
        }
    };
    let mut span = span(story, name, kind, step.began, step.took);
    span.span_id = id.to_vec();
    span.parent_span_id = story.span.to_vec();
    finish(span, attributes, route, error, failed)
}

fn span(story: &Story, name: String, kind: Kind, began: Instant, took: Duration) -> Span {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let start = story.began_at.saturating_add(nanos(began.duration_since(story.began)));
    Span {
        trace_id: story.trace.to_vec(),
        trace_state: story.state.clone(),
        name,
        kind: kind.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(nanos(took)),
        ..Span::default()
    }
}

fn finish(mut span: Span, mut attributes: Attributes, route: Option<&str>, error: Option<&str>, failed: bool) -> Span {
    if let Some(route) = route {
        attributes.text("cooldown.upstream", route);
    }
    if let Some(error) = error {
        attributes.text("error.type", error);
    }
    span.status = failed.then(|| Status { message: String::new(), code: ERROR });
    span.attributes = attributes.0;
    span
}

/// `METHOD route`: names of spans must be few.
fn named(story: &Story, route: Option<&str>) -> String {
    [story.method.as_str(), route.unwrap_or("-")].join(" ")
}

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        self.add(key, Value::Text(value.to_owned()));
    }

    fn number(&mut self, key: &str, value: i64) {
        self.add(key, Value::Number(value));
    }

    fn status(&mut self, status: Option<u16>) {
        if let Some(status) = status {
            self.number("http.response.status_code", i64::from(status));
        }
    }

    fn add(&mut self, key: &str, value: Value) {
        self.0.push(Attribute { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) });
    }
}
