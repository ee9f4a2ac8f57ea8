//! One line for each request, written when its [`AccessLine`] is dropped: also when the client has left.
//!
//! The lines are formatted by hand, into the same [`Sink`] as the events of `tracing`: an event with these fields takes
//! four to five times as long to format, and this is paid for every request. See ADR 0007.

use std::cell::RefCell;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::logs::Stamp;
use super::sink::Sink;
use crate::config::model::{Log, LogFormat};

/// nginx's word for a client that left before it had an answer.
const CLIENT_LEFT: u16 = 499;
/// Longer hosts, paths and names are cut, so that one client cannot fill the log.
const LONGEST: usize = 1024;

/// Where access lines go, and in what form. Clones are cheap.
#[derive(Clone)]
pub struct AccessLog(Option<Arc<Target>>);

struct Target {
    sink: Sink,
    format: LogFormat,
}

/// What is known about one request. Lives as long as the request does, the streaming of its response included.
#[must_use = "the line is written when this is dropped"]
pub struct AccessLine(Option<Box<Record>>);

struct Record {
    target: Arc<Target>,
    /// Method, host and path, already in the form of the line.
    request: Vec<u8>,
    arrived: Instant,
    sent: Option<Instant>,
    wait: Duration,
    /// Since when it stands in line, while it does.
    in_line: Option<Instant>,
    /// From the departure to the response head, or to the failure.
    upstream: Option<Duration>,
    route: Option<Arc<str>>,
    client: Option<Box<str>>,
    status: Option<StatusCode>,
    code: Option<&'static str>,
    attempts: u32,
    bytes: u64,
    complete: bool,
}

impl AccessLog {
    /// Lines into `sink`, in the form that `log` names; none when it switches them off.
    pub fn new(sink: Sink, log: &Log) -> Self {
        Self(log.access.then(|| Arc::new(Target { sink, format: log.format })))
    }

    /// No lines.
    pub fn off() -> Self {
        Self(None)
    }

    /// Begins the line of a request that arrived now. `path` must come without its query, which may hold secrets.
    pub fn line<'a>(&self, method: &Method, host: impl FnOnce() -> &'a str, path: &str) -> AccessLine {
        AccessLine(self.0.as_ref().map(|target| {
            let host = host();
            let mut request = Vec::with_capacity(method.as_str().len() + host.len() + path.len() + 48);
            match target.format {
                LogFormat::Text => text_request(&mut request, method, host, path),
                LogFormat::Json => json_request(&mut request, method, host, path),
            }
            Box::new(Record {
                target: Arc::clone(target),
                request,
                arrived: Instant::now(),
                sent: None,
                wait: Duration::ZERO,
                in_line: None,
                upstream: None,
                route: None,
                client: None,
                status: None,
                code: None,
                attempts: 0,
                bytes: 0,
                complete: false,
            })
        }))
    }
}

impl AccessLine {
    /// The request matched this route.
    pub fn route(&mut self, name: &Arc<str>) {
        if let Some(record) = &mut self.0 {
            record.route = Some(Arc::clone(name));
        }
    }

    /// The request belongs to the client of this name. Never give a token.
    pub fn client(&mut self, name: &str) {
        if let Some(record) = &mut self.0 {
            record.client = Some(name.into());
        }
    }

    /// It stands in line from now on, until it [waited](Self::waited) or is gone.
    pub fn in_line(&mut self) {
        if let Some(record) = &mut self.0 {
            record.in_line = Some(Instant::now());
        }
    }

    /// It stood in line for `wait`, which adds to earlier waits.
    pub fn waited(&mut self, wait: Duration) {
        if let Some(record) = &mut self.0 {
            record.wait += wait;
            record.in_line = None;
        }
    }

    /// One attempt leaves for the upstream, now.
    pub fn sent(&mut self) {
        if let Some(record) = &mut self.0 {
            record.attempts += 1;
            record.sent = Some(Instant::now());
        }
    }

    /// The upstream's response head came.
    pub fn responded(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.0 {
            record.answer(status);
        }
    }

    /// The proxy answers itself, with this status and error code.
    pub fn refused(&mut self, status: StatusCode, code: &'static str) {
        if let Some(record) = &mut self.0 {
            record.answer(status);
            record.code = Some(code);
        }
    }

    /// This many more bytes of the body went to the client.
    pub fn bytes(&mut self, more: usize) {
        if let Some(record) = &mut self.0 {
            record.bytes += more as u64;
        }
    }

    /// The response was given to its last byte. Without this, a line with a status says `cut`.
    pub fn complete(&mut self) {
        if let Some(record) = &mut self.0 {
            record.complete = true;
        }
    }
}

impl Record {
    fn answer(&mut self, status: StatusCode) {
        self.status = Some(status);
        if let Some(sent) = self.sent.take() {
            self.upstream = Some(sent.elapsed());
        }
    }

    fn write(&self, line: &mut Vec<u8>) {
        match self.target.format {
            LogFormat::Text => self.write_text(line),
            LogFormat::Json => self.write_json(line),
        }
    }

    fn write_text(&self, line: &mut Vec<u8>) {
        Stamp::now(|stamp| line.extend_from_slice(stamp.as_bytes()));
        line.extend_from_slice(b"  INFO access: ");
        line.extend_from_slice(&self.request);
        line.push(b' ');
        number(line, self.shown_status().into());
        self.each_field(line, |line, name| {
            line.push(b' ');
            line.extend_from_slice(name.as_bytes());
            line.push(b'=');
        });
        line.push(b'\n');
    }

    fn write_json(&self, line: &mut Vec<u8>) {
        line.extend_from_slice(br#"{"timestamp":""#);
        Stamp::now(|stamp| line.extend_from_slice(stamp.as_bytes()));
        line.extend_from_slice(br#"","level":"INFO","target":"access","#);
        line.extend_from_slice(&self.request);
        line.extend_from_slice(br#","status":"#);
        number(line, self.shown_status().into());
        self.each_field(line, |line, name| {
            line.extend_from_slice(br#",""#);
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(br#"":"#);
        });
        line.extend_from_slice(b"}\n");
    }

    /// The fields after the status, the same in both forms; those that say nothing are left out.
    fn each_field(&self, line: &mut Vec<u8>, name: fn(&mut Vec<u8>, &str)) {
        for (field, value) in
            [("route", self.route.as_deref()), ("client", self.client.as_deref()), ("code", self.code)]
        {
            if let Some(value) = value {
                name(line, field);
                self.quoted(line, value);
            }
        }
        name(line, "wait_ms");
        millis(line, self.wait + self.in_line.map_or(Duration::ZERO, |since| since.elapsed()));
        if let Some(upstream) = self.upstream.or_else(|| self.sent.map(|sent| sent.elapsed())) {
            name(line, "upstream_ms");
            millis(line, upstream);
        }
        name(line, "total_ms");
        millis(line, self.arrived.elapsed());
        name(line, "attempts");
        number(line, self.attempts.into());
        name(line, "bytes");
        number(line, self.bytes);
        if self.status.is_some() && !self.complete {
            name(line, "cut");
            line.extend_from_slice(b"true");
        }
    }

    fn shown_status(&self) -> u16 {
        self.status.map_or(CLIENT_LEFT, |status| status.as_u16())
    }

    fn quoted(&self, line: &mut Vec<u8>, value: &str) {
        match self.target.format {
            LogFormat::Text => plain(line, value),
            LogFormat::Json => json_string(line, value),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        // A thread that is ending has no buffer any more; its lines go without one.
        let written = LINE.try_with(|line| {
            let mut line = line.borrow_mut();
            line.clear();
            self.write(&mut line);
            self.target.sink.line(&line);
        });
        if written.is_err() {
            let mut line = Vec::new();
            self.write(&mut line);
            self.target.sink.line(&line);
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccessLog").field(&self.0.is_some()).finish()
    }
}

impl fmt::Debug for AccessLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLine").finish_non_exhaustive()
    }
}

fn text_request(line: &mut Vec<u8>, method: &Method, host: &str, path: &str) {
    plain(line, method.as_str());
    line.push(b' ');
    plain(line, host);
    plain(line, path);
}

fn json_request(line: &mut Vec<u8>, method: &Method, host: &str, path: &str) {
    for (before, value) in
        [(&br#""method":"#[..], method.as_str()), (&br#","host":"#[..], host), (&br#","path":"#[..], path)]
    {
        line.extend_from_slice(before);
        json_string(line, value);
    }
}

/// The value, with everything escaped that could end a field or a line, or speak to a terminal.
fn plain(line: &mut Vec<u8>, value: &str) {
    for byte in shortened(value).bytes() {
        match byte {
            b'!'..=b'~' if byte != b'\\' => line.push(byte),
            _ => push(line, format_args!("\\x{byte:02x}")),
        }
    }
}

fn json_string(line: &mut Vec<u8>, value: &str) {
    line.push(b'"');
    for byte in shortened(value).bytes() {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            0..=31 | 127 => push(line, format_args!("\\u{byte:04x}")),
            _ => line.push(byte),
        }
    }
    line.push(b'"');
}

fn shortened(value: &str) -> &str {
    &value[..value.floor_char_boundary(LONGEST)]
}

/// Milliseconds with one decimal.
fn millis(line: &mut Vec<u8>, time: Duration) {
    let tenths = u64::try_from(time.as_micros() / 100).unwrap_or(u64::MAX);
    number(line, tenths / 10);
    line.extend_from_slice(&[b'.', b'0' + (tenths % 10) as u8]);
}

fn number(line: &mut Vec<u8>, number: u64) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push(line: &mut Vec<u8>, what: fmt::Arguments<'_>) {
    // Writing to a vector does not fail.
    let _ = line.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::Page;
    use super::*;

    fn lines(format: LogFormat, requests: impl FnOnce(&AccessLog)) -> String {
        let page = Page::default();
        let (sink, guard) = Sink::start(Box::new(page.clone())).expect("a thread");
        requests(&AccessLog::new(sink, &Log { level: tracing::Level::INFO, format, access: true }));
        drop(guard);
        page.text()
    }

    fn json(text: &str) -> serde_json::Value {
        serde_json::from_str(text).expect("one JSON object")
    }

    #[test]
    fn a_line_tells_the_whole_story_of_a_request() {
        let text = lines(LogFormat::Json, |log| {
            let mut line = log.line(&Method::POST, || "api.example.com", "/v1/chat");
            line.route(&Arc::from("api.example.com"));
            line.client("alice");
            line.waited(Duration::from_micros(12_345));
            line.sent();
            line.responded(StatusCode::OK);
            line.bytes(1000);
            line.bytes(24);
            line.complete();
        });
        let line = json(&text);
        assert_eq!(line["target"], "access");
        assert_eq!(line["method"], "POST");
        assert_eq!(line["host"], "api.example.com");
        assert_eq!(line["path"], "/v1/chat");
        assert_eq!(line["status"], 200);
        assert_eq!(line["route"], "api.example.com");
        assert_eq!(line["client"], "alice");
        assert_eq!(line["wait_ms"], 12.3);
        assert_eq!(line["attempts"], 1);
        assert_eq!(line["bytes"], 1024);
        assert!(line["upstream_ms"].is_number() && line["total_ms"].is_number());
        assert!(line["cut"].is_null() && line["code"].is_null());
    }

    #[test]
    fn a_client_that_leaves_gets_its_line_too() {
        let text = lines(LogFormat::Text, |log| drop(log.line(&Method::GET, || "h", "/slow")));
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("INFO access: GET h/slow 499 wait_ms=0.0 total_ms="), "{text}");
    }

    #[test]
    fn a_response_that_breaks_off_is_told_from_a_whole_one() {
        let text = lines(LogFormat::Text, |log| {
            let mut line = log.line(&Method::GET, || "h", "/");
            line.sent();
            line.responded(StatusCode::OK);
        });
        assert!(text.ends_with(" cut=true\n"), "{text}");
    }

    #[test]
    fn a_refusal_names_its_code() {
        let text = lines(LogFormat::Text, |log| {
            let mut line = log.line(&Method::GET, || "h", "/");
            line.refused(StatusCode::TOO_MANY_REQUESTS, "queue_full");
            line.complete();
        });
        assert!(text.contains(" 429 code=queue_full "), "{text}");
        assert!(!text.contains("upstream_ms"), "nothing was sent: {text}");
    }

    #[test]
    fn nothing_that_a_client_sends_can_forge_a_line() {
        let hostile = "/a\"b\\\n2026 INFO access: \u{1b}[31m\u{e9}";
        let text = lines(LogFormat::Text, |log| drop(log.line(&Method::GET, || "h", hostile)));
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("GET h/a\"b\\x5c\\x0a2026\\x20INFO"), "{text}");
        let line = lines(LogFormat::Json, |log| drop(log.line(&Method::GET, || "h", hostile)));
        assert_eq!(line.lines().count(), 1);
        assert_eq!(json(&line)["path"], hostile);
    }

    #[test]
    fn a_long_path_is_cut() {
        let text = lines(LogFormat::Text, |log| drop(log.line(&Method::GET, || "h", &"é".repeat(100_000))));
        assert!(text.len() < 5 * LONGEST);
    }

    #[test]
    fn lines_that_are_switched_off_are_not_written() {
        let mut line = AccessLog::off().line(&Method::GET, || "h", "/");
        line.sent();
        line.responded(StatusCode::OK);
        assert!(line.0.is_none());
    }
}
