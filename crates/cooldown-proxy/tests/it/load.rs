//! The load generator, direct and through the proxy.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_proxy::demo::in_process::InProcess;
use cooldown_proxy::demo::mock::MockProvider;
use cooldown_proxy::demo::strict::{Counting, Rule};
use cooldown_proxy::load::{Report, measure};
use tempfile::TempDir;

use crate::support::{command, timed};

const LATENCY: Duration = Duration::from_millis(5);

fn strict(amount: u32) -> MockProvider {
    let amount = NonZeroU32::new(amount).expect("above zero");
    let rule = Rule { counting: Counting::SlidingWindow, amount, period: Duration::from_secs(1) };
    MockProvider::start(rule, LATENCY).expect("a port")
}

/// Runs `load` with these arguments, off the runtime that serves.
async fn load(arguments: &[&str]) -> Report {
    let line = ["cooldown-proxy", "load"].iter().chain(arguments).map(|argument| (*argument).into());
    let command = cooldown_proxy::cli::parse(line).unwrap_or_else(|error| panic!("{error}"));
    let cooldown_proxy::cli::Command::Load { load, .. } = command else { panic!("{command:?}") };
    tokio::task::spawn_blocking(move || measure(&load)).await.expect("no panic").expect("it runs")
}

#[tokio::test]
async fn the_promises_are_measured_at_any_url() {
    let _timed = timed().await;
    let provider = strict(50);
    let direct = format!("http://{}/v1/chat/completions", provider.address());
    let options = ["--clients", "8", "--greedy", "8", "--duration", "4s", "--limit", "50/s", "--tokens", "20:10"];
    let blind = load(&[[direct.as_str()].as_slice(), &options].concat()).await;
    assert!(blind.refused > 100, "{blind}");
    drop(provider);

    let provider = strict(50);
    let sections =
        format!("routes: {{\"*\": {{upstream: \"http://{}\", limits: {{requests: 50/s}}}}}}", provider.address());
    let proxy = InProcess::start(&sections).expect("a proxy");
    let url = format!("http://{}/v1/chat/completions", proxy.address());
    let paced = load(&[[url.as_str()].as_slice(), &options].concat()).await;
    assert_eq!((paced.refused, paced.errors, provider.strict().breaches()), (0, 0, 0), "{paced}");
    // How much it is on a quiet machine is what `promises` is for.
    assert!((0.9..1.02).contains(&paced.used.expect("a limit was stated")), "{paced}");
    assert!(paced.fairness > 0.95, "{paced}");
    assert_eq!(paced.tokens, Some(17 * paced.answered), "what the answers say");
    assert!(paced.in_line.expect("the proxy says it").max > 50.0, "{paced}");
}

/// Answers one connection after the other; the first one after `stall`.
fn one_at_a_time(stall: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let mut stall = Some(stall);
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            std::thread::sleep(stall.take().unwrap_or_default());
            // Whoever has left does not need it.
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_stands_still_does_not_look_fast_in_an_open_loop() {
    let _timed = timed().await;
    let url = format!("http://127.0.0.1:{}/", one_at_a_time(Duration::from_millis(1500)));
    let report = load(&[&url, "--rate", "50/s", "--duration", "2s"]).await;
    assert!(report.sent >= 90, "the rate is kept: {report}");
    // Three in four were due while it stood.
    assert!(report.waits.p50 > 300.0 && report.waits.max > 1400.0, "{report}");
}

#[test]
fn a_url_where_nobody_listens_is_a_failure_with_the_exit_code_1() {
    let folder = TempDir::new().expect("a folder");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let url = format!("http://127.0.0.1:{port}/?key=secret");
    let finished = command(&folder, &["load", &url, "--duration", "300ms", "--clients", "1"]);
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    assert!(finished.stdout.contains("no connection") && !finished.stdout.contains("secret"), "{finished:?}");
}
