//! Reads `server`, `admin` and `log`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use super::fault::Report;
use super::field::{Field, Fields};
use super::host;
use super::identity::identity;
use super::model::{Admin, Log, LogFormat, Server, ServerTls, is_loopback};

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const MOST_WORKERS: u64 = 1024;

/// Reads `server`; its host and port are required.
pub(super) fn server(file: &mut Fields<'_>, folder: &Path, report: &mut Report) -> Option<Server> {
    let file_at = file.at().clone();
    let mut section = match file.take("server") {
        Some(field) => Some(field.fields(report)?),
        None => None,
    };
    let at = section.as_ref().map_or(file_at, |section| section.at().clone());
    let mut take = |name| section.as_mut().and_then(|section| section.take(name));
    let host = match take("host") {
        Some(field) => listen_host(&field, report),
        None => {
            report.fault(&at, "server host is required", "add `host: localhost` under `server:`");
            None
        }
    };
    let port = match take("port") {
        Some(field) => listen_port(&field, report),
        None => {
            report.fault(&at, "server port is required", "add `port: 8080` under `server:`");
            None
        }
    };
    let mut server = Server::at(host.clone().unwrap_or_default(), port.unwrap_or_default());
    if let Some(mut section) = section {
        settings(&mut section, folder, &mut server, report);
        section.close(report);
    }
    host.and(port).map(|_| server)
}

fn settings(section: &mut Fields<'_>, folder: &Path, server: &mut Server, report: &mut Report) {
    if let Some(field) = section.take("workers").filter(|field| !field.is("auto")) {
        server.workers = workers(&field, report);
    }
    if let Some(size) = section.take("max_body").and_then(|field| field.size(KIB..=GIB, report)) {
        server.max_body = size;
    }
    if let Some(time) = section.take("header_timeout").and_then(|field| field.duration(MILLISECOND..=HOUR, report)) {
        server.header_timeout = time;
    }
    if let Some(time) = section.take("drain_timeout").and_then(|field| field.duration(Duration::ZERO..=HOUR, report)) {
        server.drain_timeout = time;
    }
    if let Some(time) = section.take("idle_timeout").and_then(|field| field.duration(MILLISECOND..=DAY, report)) {
        server.idle_timeout = time;
    }
    if let Some(mut section) = section.take("tls").and_then(|field| field.fields(report)) {
        server.tls =
            identity(&mut section, folder, true, report).map(|(files, identity)| ServerTls { files, identity });
        section.close(report);
    }
}

fn workers(field: &Field<'_>, report: &mut Report) -> Option<NonZeroUsize> {
    let number = field.text(report)?.parse().ok().filter(|number| *number <= MOST_WORKERS as usize);
    let workers = number.and_then(NonZeroUsize::new);
    if workers.is_none() {
        field.fault(
            report,
            format!("`auto` or a number from 1 to {MOST_WORKERS} is expected"),
            "write `workers: auto`",
        );
    }
    workers
}

/// Reads `admin`: a section or `off`; without one it listens on loopback.
pub(super) fn admin(file: &mut Fields<'_>, server: Option<&Server>, report: &mut Report) -> Option<Admin> {
    let mut admin = Admin::default();
    let Some(field) = file.take("admin") else { return Some(admin) };
    if field.is("off") {
        return None;
    }
    let at = field.at();
    if field.is_text() {
        field.fault(report, "`off` or fields are expected", "write `admin: off`, or `admin: {port: 9900}`");
        return None;
    }
    let mut section = field.fields(report)?;
    let mut host_at = at;
    if let Some(field) = section.take("host") {
        host_at = field.at();
        admin.host = listen_host(&field, report)?;
    }
    if let Some(port) = section.take("port").and_then(|field| listen_port(&field, report)) {
        admin.port = port;
    }
    let token = section.take("token");
    let faults_before = report.len();
    admin.token = token.as_ref().and_then(|field| field.secret(report));
    let was_read = report.len() == faults_before && !token.is_some_and(|field| field.is_broken());
    section.close(report);
    if admin.token.is_none() && was_read && !is_loopback(&admin.host) {
        let hint = "add `token: \"${COOLDOWN_ADMIN_TOKEN}\"` and set that variable, or listen on `localhost`";
        report.fault(host_at, "admin: a token is required where `host` is not loopback", hint);
    }
    if server.is_some_and(|server| admin.shares_port_with(server)) {
        report.fault(at, "admin: `server` listens on the same host and port", "choose another `port`");
    }
    Some(admin)
}

/// Reads `log`.
pub(super) fn log(file: &mut Fields<'_>, report: &mut Report) -> Log {
    let mut log = Log::default();
    let Some(mut section) = file.take("log").and_then(|field| field.fields(report)) else { return log };
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    if let Some(level) = section.take("level").and_then(|field| field.choice(&levels, report)) {
        log.level = level;
    }
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    if let Some(format) = section.take("format").and_then(|field| field.choice(&formats, report)) {
        log.format = format;
    }
    if let Some(access) = section.take("access").and_then(|field| field.flag(report)) {
        log.access = access;
    }
    section.close(report);
    log
}

/// A host to listen on; an IPv6 address is given without brackets.
fn listen_host(field: &Field<'_>, report: &mut Report) -> Option<String> {
    match host::host(field.text(report)?) {
        Ok(host) => Some(host.trim_matches(['[', ']']).to_owned()),
        Err(host::HostError::Port) => {
            field.fault(report, "a host without a port is expected", "write the port under `port`");
            None
        }
        Err(why) => {
            field.fault(report, why, "write a host name or address, such as `localhost` or `0.0.0.0`");
            None
        }
    }
}

/// A port; 0 lets the system choose.
fn listen_port(field: &Field<'_>, report: &mut Report) -> Option<u16> {
    field.whole(0..=u64::from(u16::MAX), report).map(|port| port as u16)
}
