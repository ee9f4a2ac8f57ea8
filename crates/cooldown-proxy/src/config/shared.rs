//! Reads `shared`: where instances meet that share their limits.

use std::time::Duration;

use super::fault::Report;
use super::field::{Field, Fields};
use super::host;
use super::model::{Shared, Store, StoreForm};
use super::secret::Secret;
use super::url;

const OFTEN: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_millis(500);
const USUAL: Duration = Duration::from_millis(250);
const USUAL_PORT: u16 = 6379;
const SENTINELS_PORT: u16 = 26379;
/// Names end up in every call.
const LONGEST_NAME: usize = 128;

/// Why a text names no store. The text itself is not told: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum StoreError {
    #[error("this is no URL of a Redis or Valkey")]
    Scheme,
    #[error("the URL has no valid host")]
    Host,
    #[error("the URL has no valid port")]
    Port,
    #[error("the user or the password is not valid")]
    UserInfo,
    #[error("one host is expected")]
    OneHost,
    #[error("the name of the master is missing")]
    Master,
    #[error("this is no number of a database")]
    Database,
    #[error("the URL must not hold a query or a fragment")]
    Query,
}

impl StoreError {
    fn hint(self) -> &'static str {
        match self {
            Self::UserInfo => "write characters other than letters and digits in their %-form",
            Self::OneHost => "several are for `redis+cluster://` and `redis+sentinel://`",
            Self::Master => "write `redis+sentinel://HOST:26379,HOST:26379/NAME`",
            Self::Database => "write a number from 0 to 255 behind the last `/`; a Cluster has none",
            _ => "write a URL such as `redis://127.0.0.1:6379` or `rediss://:${REDIS_PASSWORD}@redis.internal`",
        }
    }
}

/// Reads `shared`; `None` when there is no such section.
pub(super) fn shared(file: &mut Fields<'_>, report: &mut Report) -> Option<Shared> {
    let mut section = file.take("shared")?.fields(report)?;
    let store = match section.take("redis") {
        Some(field) => store(&field, report),
        None => {
            let hint = "write `redis: \"redis://127.0.0.1:6379\"`, or remove `shared`";
            report.fault(&section.at().clone(), "`shared`: redis is required", hint);
            None
        }
    };
    let prefix = section.take("prefix").and_then(|field| prefix(&field, report));
    let every = section.take("share").and_then(|field| field.duration(OFTEN..=SELDOM, report));
    let instance = section.take("instance").and_then(|field| name(&field, report));
    section.close(report);
    let prefix = prefix.unwrap_or_else(|| "cooldown".to_owned());
    Some(Shared { store: store?, prefix, every: every.unwrap_or(USUAL), instance })
}

fn name(field: &Field<'_>, report: &mut Report) -> Option<String> {
    let text = field.text(report)?;
    let is_name = (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name {
        let hint = "use up to 128 visible ASCII characters without blanks";
        field.fault(report, "this is no name for it", hint);
    }
    is_name.then(|| text.to_owned())
}

fn prefix(field: &Field<'_>, report: &mut Report) -> Option<String> {
    let prefix = name(field, report)?;
    if prefix.contains(['{', '}']) {
        field.fault(report, "braces say where a key is kept", "use other characters");
        return None;
    }
    Some(prefix)
}

fn store(field: &Field<'_>, report: &mut Report) -> Option<Store> {
    parse(field.text(report)?).map_err(|why| field.fault(report, why, why.hint())).ok()
}

/// Reads `redis[s][+cluster|+sentinel]://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]]…[/[NAME][/]DATABASE]`.
fn parse(text: &str) -> Result<Store, StoreError> {
    let (scheme, rest) = text.split_once("://").ok_or(StoreError::Scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    let (base, form) = scheme.split_once('+').unwrap_or((&scheme, ""));
    let tls = match base {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        _ => return Err(StoreError::Scheme),
    };
    let (rest, (user, password)) = match rest.rsplit_once('@') {
        Some((info, rest)) => (rest, user_info(info)?),
        None => (rest, (None, None)),
    };
    if rest.contains(['?', '#']) {
        return Err(StoreError::Query);
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (form, database) = match form {
        "" => (StoreForm::Single, path),
        "cluster" => (StoreForm::Cluster, path),
        "sentinel" => {
            let (name, database) = path.split_once('/').unwrap_or((path, ""));
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            (StoreForm::Sentinel(Some(name).filter(|_| is_name).ok_or(StoreError::Master)?.to_owned()), database)
        }
        _ => return Err(StoreError::Scheme),
    };
    let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| StoreError::Database)? };
    if form == StoreForm::Cluster && database != 0 {
        return Err(StoreError::Database);
    }
    let port = if matches!(form, StoreForm::Sentinel(_)) { SENTINELS_PORT } else { USUAL_PORT };
    let nodes = hosts.split(',').map(|node| host_and_port(node, port)).collect::<Result<Vec<_>, _>>()?;
    if form == StoreForm::Single && nodes.len() > 1 {
        return Err(StoreError::OneHost);
    }
    Ok(Store { form, tls, nodes, user, password, database })
}

fn user_info(info: &str) -> Result<(Option<Secret>, Option<Secret>), StoreError> {
    let (user, password) = info.split_once(':').ok_or(StoreError::UserInfo)?;
    let decoded = |text: &str| match text {
        "" => Ok(None),
        text => url::percent_decoded(text).map(|text| Some(Secret::new(text))).ok_or(StoreError::UserInfo),
    };
    Ok((decoded(user)?, decoded(password)?))
}

fn host_and_port(node: &str, usual: u16) -> Result<(String, u16), StoreError> {
    // The last colon of `[::1]` belongs to the address.
    let (host, port) = match node.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (node, None),
    };
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    let host = host::host(host).ok().filter(|_| !is_bare_ipv6).ok_or(StoreError::Host)?;
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(StoreError::Port)?,
        None => usual,
    };
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("redis://127.0.0.1", "redis://127.0.0.1:6379")]
    #[case("redis://127.0.0.1:7000/", "redis://127.0.0.1:7000")]
    #[case("rediss://:secret@redis.internal/3", "rediss://redis.internal:6379")]
    #[case("valkey://me:p%40ss@[::1]:7", "redis://[::1]:7")]
    #[case("redis+cluster://a:1,b,c:3", "redis+cluster://a:1,b:6379,c:3")]
    #[case("rediss+sentinel://x:pw@a,b:5/main/2", "rediss+sentinel://a:26379,b:5/main")]
    fn stores_read_as_people_write_them(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(parse(text).expect("a store").to_string(), shown);
    }

    #[test]
    fn credentials_are_read_from_their_percent_form_and_never_shown() {
        let store = parse("redis://me:p%40ss@a/7").expect("a store");
        assert!(store.user.as_ref().is_some_and(|user| user.matches(b"me")));
        assert!(store.password.as_ref().is_some_and(|password| password.matches(b"p@ss")));
        assert_eq!(store.database, 7);
        assert!(!format!("{store:?} {store}").contains("p@ss"));
    }

    #[rstest]
    #[case("127.0.0.1:6379", StoreError::Scheme)]
    #[case("http://a", StoreError::Scheme)]
    #[case("redis+ring://a", StoreError::Scheme)]
    #[case("redis://", StoreError::Host)]
    #[case("redis://a,,b", StoreError::Host)]
    #[case("redis://::1", StoreError::Host)]
    #[case("redis://a:0", StoreError::Port)]
    #[case("redis://a,b", StoreError::OneHost)]
    #[case("redis://pw@a", StoreError::UserInfo)]
    #[case("redis://:p%4@a", StoreError::UserInfo)]
    #[case("redis://:%ff@a", StoreError::UserInfo)]
    #[case("redis+sentinel://a", StoreError::Master)]
    #[case("redis://a/x", StoreError::Database)]
    #[case("redis+cluster://a/1", StoreError::Database)]
    #[case("redis://a?x=y", StoreError::Query)]
    fn a_faulty_store_is_told_why(#[case] text: &str, #[case] why: StoreError) {
        assert_eq!(parse(text), Err(why));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_store_panic(text in "(rediss?(\\+sentinel)?://)?[a-z0-9.:/@?,%\\[\\]é -]{0,30}") {
            let _ = parse(&text);
        }
    }
}
