//! Reads `clients`, `queue` and `retry`, which say who waits, how, and for how long.

use std::time::Duration;

use cooldown_pacer::{Urgency, Weight};

use super::fault::Report;
use super::field::{Field, Fields, Named};
use super::limits;
use super::model::{Client, ClientBy, Queue, Retry, RetryOn};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
const MOST_DEPTH: u64 = 1_000_000;
const MOST_ATTEMPTS: u64 = 100;

/// Reads `clients`; `None` when there is no such section.
pub(super) fn clients(file: &mut Fields<'_>, queue: &Queue, report: &mut Report) -> Option<Vec<Client>> {
    let field = file.take("clients")?;
    let entries = field.named(report);
    if entries.is_empty() && field.is_map() {
        field.fault(report, "no client is named, so none could call", "name one, or remove `clients`");
    }
    let mut clients: Vec<Client> = Vec::new();
    for entry in &entries {
        let Some(client) = client(entry, report) else { continue };
        check_against(&client, entry, &clients, queue, report);
        clients.push(client);
    }
    Some(clients)
}

fn client(entry: &Named<'_>, report: &mut Report) -> Option<Client> {
    let name = entry.name.to_owned();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("client {}: the name cannot stand in a header field", name.escape_debug());
        report.fault(entry.at, message, "use visible ASCII characters without blanks");
    }
    let mut fields = entry.field.clone().fields(report)?;
    let token = fields.take("token").and_then(|field| {
        let token = field.secret(report);
        if token.is_none() && field.is("") {
            field.fault(report, "the token is empty", "set it, or remove the field to name the client by header");
        }
        token
    });
    let weight = fields.take("weight").and_then(|field| field.whole(1..=u64::from(Weight::LARGEST), report));
    let urgency = fields.take("urgency").and_then(|field| field.whole(0..=7, report));
    let limits = fields.take("limits").map(|field| limits::general(field, report)).unwrap_or_default();
    fields.close(report);
    Some(Client {
        name,
        token,
        weight: weight.and_then(|weight| Weight::new(weight as u32)).unwrap_or(Weight::ONE),
        urgency: urgency.and_then(|urgency| Urgency::new(urgency as u8)).unwrap_or_default(),
        limits,
    })
}

/// Two clients must be told apart, and each must have a way to show who it is.
fn check_against(client: &Client, entry: &Named<'_>, earlier: &[Client], queue: &Queue, report: &mut Report) {
    let name = entry.name.escape_debug();
    let token = client.token.as_ref().map(|token| token.expose().as_bytes());
    let same =
        earlier.iter().find(|other| token.zip(other.token.as_ref()).is_some_and(|(token, other)| other.matches(token)));
    if let Some(other) = same {
        let message = format!("client {name} has the token of client {}", other.name.escape_debug());
        report.fault(entry.at, message, "give each client a token of its own");
    }
    let (way, word) = match client.token {
        Some(_) => (ClientBy::Token, "token"),
        None => (ClientBy::Header, "x-cooldown-client"),
    };
    if !queue.client_by.contains(&way) {
        let message = format!("client {name} can never be recognised: `queue.client_by` does not contain `{word}`");
        report.fault(entry.at, message, format!("add `{word}` to `queue.client_by`"));
    }
}

/// Reads `queue`.
pub(super) fn queue(file: &mut Fields<'_>, report: &mut Report) -> Queue {
    let mut queue = Queue::default();
    let Some(mut section) = file.take("queue").and_then(|field| field.fields(report)) else { return queue };
    if let Some(wait) = section.take("max_wait").and_then(|field| field.duration(Duration::ZERO..=DAY, report)) {
        queue.max_wait = wait;
    }
    if let Some(depth) = section.take("max_depth").and_then(|field| field.whole(1..=MOST_DEPTH, report)) {
        queue.max_depth = depth as usize;
    }
    let ageing = Duration::from_millis(100)..=HOUR;
    if let Some(ageing) = section.take("ageing").and_then(|field| field.duration(ageing, report)) {
        queue.ageing = ageing;
    }
    let guard = Duration::ZERO..=SECOND;
    if let Some(guard) = section.take("guard").and_then(|field| field.duration(guard, report)) {
        queue.guard = guard;
    }
    if let Some(field) = section.take("client_by") {
        queue.client_by = client_by(field, report);
    }
    if let Some(field) = section.take("keepalive").filter(|field| !field.is("off")) {
        queue.keepalive = field.duration(SECOND..=HOUR, report);
    }
    section.close(report);
    queue
}

fn client_by(field: Field<'_>, report: &mut Report) -> Vec<ClientBy> {
    let ways = [
        ("token", ClientBy::Token),
        ("x-cooldown-client", ClientBy::Header),
        ("authorization", ClientBy::Authorization),
        ("ip", ClientBy::Ip),
    ];
    if field.is_list() && field.clone().items().is_empty() {
        field.fault(report, "at least one way is needed", "write `client_by: [ip]`");
    }
    let mut chosen = Vec::new();
    for item in field.items() {
        match item.choice(&ways, report) {
            Some(way) if chosen.contains(&way) => item.fault(report, "this is given twice", "keep one of them"),
            way => chosen.extend(way),
        }
    }
    chosen
}

/// Reads `retry`.
pub(super) fn retry(file: &mut Fields<'_>, report: &mut Report) -> Retry {
    let mut retry = Retry::default();
    let Some(mut section) = file.take("retry").and_then(|field| field.fields(report)) else { return retry };
    if let Some(attempts) = section.take("attempts").and_then(|field| field.whole(1..=MOST_ATTEMPTS, report)) {
        retry.attempts = attempts as u32;
    }
    if let Some(field) = section.take("on") {
        retry.on = field.items().iter().filter_map(|item| retry_on(item, report)).collect();
    }
    if let Some(time) = section.take("hold_stream").and_then(|field| field.duration(Duration::ZERO..=MINUTE, report)) {
        retry.hold_stream = time;
    }
    section.close(report);
    retry
}

fn retry_on(field: &Field<'_>, report: &mut Report) -> Option<RetryOn> {
    if field.is("connect") {
        return Some(RetryOn::Connect);
    }
    let status = field.text(report)?.parse().ok().filter(|status| (400..=599).contains(status));
    if status.is_none() {
        field.fault(
            report,
            "a status from 400 to 599 or `connect` is expected",
            "write `on: [429, 503, 529, connect]`",
        );
    }
    status.map(RetryOn::Status)
}
