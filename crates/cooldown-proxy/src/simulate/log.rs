//! Workloads as they were: the access lines that the proxy writes with `log: {format: json}`.

use std::io::BufRead;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

/// One request of a log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Logged {
    /// From the first request of the log.
    pub(super) at: Duration,
    pub(super) client: String,
    /// The route that it took, by its name.
    pub(super) route: Option<String>,
    pub(super) host: String,
    pub(super) path: String,
    /// From the departure to the last byte of the answer.
    pub(super) takes: Duration,
}

/// Who sent a request that names nobody.
const NOBODY: &str = "(unnamed)";

#[derive(Deserialize)]
struct Line {
    timestamp: String,
    target: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    route: Option<String>,
    #[serde(default)]
    client: Option<String>,
    #[serde(default)]
    wait_ms: f64,
    #[serde(default)]
    total_ms: f64,
}

/// Whether a text begins like a log, and not like a description.
pub(super) fn is_log(beginning: &str) -> bool {
    beginning.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| {
        line.trim_start().starts_with('{')
            && serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line.get("timestamp").is_some())
    })
}

/// Reads the access lines of a log, in the order in which the requests arrived. Other lines are passed over.
///
/// # Errors
/// When it cannot be read, or has no access line.
pub(super) fn read(log: impl BufRead) -> Result<Vec<Logged>, String> {
    let mut requests: Vec<(i128, Line)> = Vec::new();
    for line in log.lines() {
        let line = line.map_err(|error| format!("the log cannot be read: {error}"))?;
        let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
        if line.target == "access"
            && let Some(arrived) = line.arrived()
        {
            requests.push((arrived, line));
        }
    }
    requests.sort_by_key(|(arrived, _)| *arrived);
    let Some(first) = requests.first().map(|(arrived, _)| *arrived) else {
        return Err("the log has no access lines; they are written with `log: {format: json, access: true}`".to_owned());
    };
    Ok(requests.into_iter().map(|(arrived, line)| line.logged(arrived - first)).collect())
}

impl Line {
    /// In nanoseconds of Unix time. A line is written when its request is over.
    fn arrived(&self) -> Option<i128> {
        let written: Timestamp = self.timestamp.parse().ok()?;
        Some(written.as_nanosecond() - millis(self.total_ms).as_nanos() as i128)
    }

    fn logged(self, at: i128) -> Logged {
        Logged {
            at: Duration::from_nanos(u64::try_from(at).unwrap_or(0)),
            client: self.client.unwrap_or_else(|| NOBODY.to_owned()),
            route: self.route,
            host: without_port(&self.host).to_ascii_lowercase(),
            path: self.path,
            takes: millis((self.total_ms - self.wait_ms).max(0.0)),
        }
    }
}

/// What is no time counts as none.
fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or(Duration::ZERO)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.contains(']') && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = concat!(
        r#"{"timestamp":"2026-11-25T10:00:00.000Z","level":"INFO","message":"listening","target":"cooldown_proxy"}"#,
        "\n",
        r#"{"timestamp":"2026-11-25T10:00:07.000Z","level":"INFO","target":"access","method":"GET","host":"a.example:8080","path":"/x","status":200,"route":"a.example","client":"bob","wait_ms":1000.0,"upstream_ms":1.0,"total_ms":3000.0,"attempts":1,"bytes":1}"#,
        "\n",
        "no JSON\n",
        r#"{"timestamp":"2026-11-25T10:00:06.000Z","level":"INFO","target":"access","method":"GET","host":"a.example","path":"/","status":200,"wait_ms":0.0,"total_ms":500.0,"attempts":1,"bytes":1}"#,
        "\n",
    );

    #[test]
    fn a_log_is_read_in_the_order_of_arrivals() {
        assert!(is_log(LOG) && !is_log("clients: []") && !is_log("{clients: []}"));
        let requests = read(LOG.as_bytes()).expect("a log");
        let times: Vec<(u64, u64)> =
            requests.iter().map(|r| (r.at.as_millis() as u64, r.takes.as_millis() as u64)).collect();
        assert_eq!(times, [(0, 2000), (1500, 500)]);
        assert_eq!((requests[0].client.as_str(), requests[0].host.as_str()), ("bob", "a.example"));
        assert_eq!(requests[1].client, NOBODY);
    }

    #[test]
    fn a_log_without_access_lines_is_told() {
        assert!(read("{}\n".as_bytes()).expect_err("nothing to simulate").contains("format: json"));
    }
}
