//! The simulation, as a command.

use tempfile::TempDir;

use crate::support::{Binary, Finished, Upstream, command, get, plain, until};

const SERVER: &str = "server: {host: localhost, port: 0}\nadmin: off\n";
const WORKLOAD: &str =
    "clients:\n  - {name: batch, requests: 600}\n  - {name: people, count: 3, rate: 6/min, duration: 5m}\n";

fn folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let config = |limit| {
        format!("{SERVER}routes: {{\"*\": {{upstream: \"http://127.0.0.1:9\", limits: {{requests: {limit}}}}}}}\n")
    };
    for (name, text) in [
        ("config.yaml", config("60/min")),
        ("faster.yaml", config("120/min")),
        ("faulty.yaml", SERVER.to_owned()),
        ("workload.yaml", WORKLOAD.to_owned()),
        ("typo.yaml", "clients: [{name: a, request: 1}]".to_owned()),
    ] {
        std::fs::write(folder.path().join(name), text).expect("the file is written");
    }
    folder
}

fn finished_after(finished: &Finished, run: usize) -> f64 {
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    report["runs"][run]["all"]["finished"].as_f64().expect("a number")
}

#[test]
fn twice_the_limit_takes_half_the_time() {
    let folder = folder();
    let finished = command(&folder, &["simulate", "workload.yaml", "--compare", "faster.yaml", "--json"]);
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let (slow, fast) = (finished_after(&finished, 0), finished_after(&finished, 1));
    assert!(slow > 600.0 && (0.4..0.6).contains(&(fast / slow)), "{slow} s and {fast} s");
    let table = command(&folder, &["simulate", "workload.yaml", "--compare", "faster.yaml"]);
    for part in ["config.yaml", "faster.yaml", "batch", "people", "wait p99", "finished"] {
        assert!(table.stdout.contains(part), "no `{part}` in:\n{}", table.stdout);
    }
}

#[tokio::test]
async fn what_the_proxy_logs_can_be_played_again() {
    let upstream = Upstream::start(plain).await;
    let config = format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: off\nlog: {{format: json}}\nroutes: {{\"*\": \"{}\"}}\n",
        upstream.url()
    );
    let binary = Binary::serve(&config);
    for _ in 0..3 {
        get(binary.address(), "a.example", "/x").await;
    }
    until("there are three access lines", || {
        binary.lines().iter().filter(|line| line.contains(r#""target":"access""#)).count() == 3
    })
    .await;
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("config.yaml"), config).expect("the file is written");
    std::fs::write(folder.path().join("access.log"), binary.lines().join("\n")).expect("the file is written");
    let finished = command(&folder, &["simulate", "access.log", "--json"]);
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!(report["runs"][0]["all"]["answered"], 3);
}

#[test]
fn what_is_faulty_has_the_exit_code_2() {
    let folder = folder();
    for arguments in [
        ["simulate", "workload.yaml", "--config", "faulty.yaml"],
        ["simulate", "typo.yaml", "--config", "config.yaml"],
        ["simulate", "missing.yaml", "--config", "config.yaml"],
    ] {
        let finished = command(&folder, &arguments);
        assert_eq!(finished.status.code(), Some(2), "{finished:?}");
        assert!(!finished.stderr.is_empty() && finished.stdout.is_empty(), "{finished:?}");
    }
}
