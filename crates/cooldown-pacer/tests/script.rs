//! The script that Redis runs does what the ledger does: the same calls give the same answers, on a real server.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cooldown_pacer::share::Usage;
use cooldown_pacer::share::{Answer, Holder, Ledger, Outcome, RENEW, Renewal, Terms};
use cooldown_pacer::{Instant, Limit, Rate, Unit};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redis::Connection;

/// A server of our own, that goes with us.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port"];
        let mut command = Command::new("redis-server");
        let started = command.args(options).arg(port.to_string()).stdout(Stdio::piped()).spawn();
        let mut process = started.expect("redis-server is installed: see .ci/setup");
        let said = BufReader::new(process.stdout.take().expect("it is piped"));
        let ready = said.lines().map_while(Result::ok).any(|line| line.contains("Ready to accept connections"));
        assert!(ready, "redis-server did not start");
        Self { process, port }
    }

    fn connect(&self) -> Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("an address");
        client.get_connection().expect("it listens")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One call of the script; `clock` is the time and the server where they are not to be the real ones.
fn call(store: &mut Connection, key: &str, names: [&str; 2], renewal: &Renewal, clock: Option<(u64, &str)>) -> Answer {
    let script = redis::Script::new(RENEW);
    let mut call = script.key(key);
    names.iter().for_each(|name| {
        call.arg(name);
    });
    renewal.arguments().iter().for_each(|number| {
        call.arg(number);
    });
    if let Some((time, server)) = clock {
        call.arg(time).arg(server);
    }
    let reply: Vec<i64> = call.invoke(store).expect("the script runs");
    Answer::read(&reply).expect("an answer")
}

/// What happens next: who, after how many milliseconds, what it does with its limit, and what becomes of the answer.
#[derive(Debug, Clone)]
struct Step {
    who: usize,
    after: u64,
    usage: Usage,
    event: u8,
}

fn any_step() -> impl Strategy<Value = Step> {
    let after = prop_oneof![8 => 0u64..120, 2 => 0u64..4000, 1 => 0u64..5_000_000];
    let usage =
        (0u64..80, 0u64..10, 0u64..2000, 0u64..60, 0u64..9000).prop_map(|(used, recent, waiting, largest, weight)| {
            Usage { used, recent, waiting, largest: largest.min(waiting), weight }
        });
    (0usize..6, after, usage, 0u8..40).prop_map(|(who, after, usage, event)| Step { who, after, usage, event })
}

fn any_limit() -> impl Strategy<Value = Rate> {
    let amount = prop_oneof![1u64..20, 20u64..1000, 1_000u64..1_000_000_000];
    (amount, prop_oneof![Just(1u64), Just(60), Just(86_400), Just(2_678_400)])
        .prop_map(|(amount, seconds)| Rate::new(Unit::Tokens, amount, Duration::from_secs(seconds)).expect("a rate"))
}

fn same(store: &mut Connection, rate: Rate, steps: &[Step]) -> Result<(), TestCaseError> {
    let _: () = redis::cmd("FLUSHALL").query(store).expect("it obeys");
    let terms = Terms::new(Limit::from(rate), Duration::ZERO);
    let new = || Holder::new(terms, Duration::from_millis(250));
    let mut holders: Vec<(Holder, u64)> = (0..6).map(|_| (new(), 1)).collect();
    let (mut ledger, mut time, mut server) = (Ledger::default(), 1_764_104_075_000, 1);
    for step in steps {
        time += step.after;
        let (holder, boot) = &mut holders[step.who];
        match step.event {
            0 => (*holder, *boot) = (new(), *boot + 1),
            1 => server += 1,
            2 => time -= 30_000,
            3 => {
                ledger = Ledger::default();
                let _: () = redis::cmd("FLUSHALL").query(store).expect("it obeys");
            }
            _ => {}
        }
        let now = Instant::from_nanos(time * 1_000_000);
        let leaves = step.event == 4;
        let renewal = if leaves { holder.leave(now, &step.usage) } else { holder.renew(now, &step.usage) };
        let (name, boot_name) = (format!("host-{}:8080", step.who), boot.to_string());
        let place = format!("pod-{server}");
        let ours = ledger.renew(time, &place, &name, &boot_name, &renewal);
        let theirs = call(store, "{limit}", [&name, &boot_name], &renewal, Some((time, &place)));
        prop_assert_eq!(ours, theirs);
        if leaves {
            (*holder, *boot) = (new(), *boot + 1);
        } else if step.event != 5 {
            holder.hear(&theirs);
        }
    }
    Ok(())
}

#[test]
fn the_script_answers_as_the_ledger_does() {
    let server = Server::start();
    let store = RefCell::new(server.connect());
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() });
    let cases = (any_limit(), prop::collection::vec(any_step(), 1..80));
    let result = runner.run(&cases, |(rate, steps)| same(&mut store.borrow_mut(), rate, &steps));
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_script_asks_the_server_itself_for_its_time_and_its_name() {
    let server = Server::start();
    let mut store = server.connect();
    let rate = Rate::new(Unit::Requests, 60, Duration::from_secs(1)).expect("a rate");
    let mut holder = Holder::new(Terms::new(rate.into(), Duration::ZERO), Duration::from_millis(250));
    let first = call(&mut store, "{limit}", ["a", "1"], &holder.renew(Instant::START, &Usage::default()), None);
    assert_eq!(first.outcome, Outcome::Recovering, "it cannot know whether it has forgotten something");
    let second = call(&mut store, "{limit}", ["a", "1"], &holder.renew(Instant::START, &Usage::default()), None);
    assert_eq!(second.generation, first.generation, "it is the same server");
    let fields: u64 = redis::cmd("HLEN").arg("{limit}").query(&mut store).expect("a hash");
    let expires: i64 = redis::cmd("PTTL").arg("{limit}").query(&mut store).expect("an expiry");
    let stored: String = redis::cmd("HGET").arg("{limit}").arg("").query(&mut store).expect("what it remembers");
    assert_eq!(stored.split(' ').next().map(str::len), Some(40), "the server's run is known: {stored}");
    assert_eq!(fields, 2);
    assert!(expires > 3_600_000, "{expires} ms");
}
