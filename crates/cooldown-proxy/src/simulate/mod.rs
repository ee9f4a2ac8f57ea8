//! How long a workload would take under a configuration, in virtual time: a day of traffic takes seconds. The pacers are
//! those that the proxy would have; upstreams are taken to keep to the limits that were configured, and to teach nothing.

mod log;
mod report;
mod site;
mod tally;
mod workload;
mod world;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use crate::config::{self, Config, Faults};
use site::{Site, Way};
use tally::Tally;
use workload::{Arrivals, Target, Workload};
use world::{Arrival, Call, Sender, World};

pub use report::{Report, Run};
pub use tally::Figures;

/// What is to be simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulate {
    /// A description in YAML, or a log of access lines in JSON.
    pub workload: PathBuf,
    /// The configuration.
    pub config: PathBuf,
    /// Another one, to be shown beside it.
    pub compare: Option<PathBuf>,
}

/// Why nothing can be simulated. All of these are faults of what was given.
#[derive(Debug)]
pub enum Fault {
    /// A configuration is faulty.
    Config(Faults),
    /// The workload is faulty, or does not go with the configuration.
    Workload(String),
    /// The system refuses a thread.
    System(anyhow::Error),
}

/// A workload that was read.
enum Work {
    Described(Workload),
    Logged(Vec<log::Logged>),
}

/// How much of a file is looked at to see what it is.
const BEGINNING: usize = 64 * 1024;
/// A description is not larger than this, in bytes.
const LARGEST_DESCRIPTION: u64 = 4 << 20;

/// Simulates a workload under one or two configurations.
///
/// # Errors
/// What is wrong with what was given.
pub fn run(simulate: &Simulate) -> Result<Report, Fault> {
    let work =
        read(&simulate.workload).map_err(|why| Fault::Workload(format!("{}: {why}", simulate.workload.display())))?;
    let configs = std::iter::once(&simulate.config).chain(&simulate.compare);
    let runs: Result<Vec<Run>, Fault> = configs
        .map(|path| {
            let config = config::load(path).map_err(Fault::Config)?;
            run_under(&work, &config, &path.display().to_string())
        })
        .collect();
    Ok(Report { workload: simulate.workload.display().to_string(), runs: runs? })
}

fn read(path: &Path) -> Result<Work, String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let mut file = BufReader::with_capacity(BEGINNING, File::open(path).map_err(unreadable)?);
    let beginning = file.fill_buf().map_err(unreadable)?;
    if log::is_log(&String::from_utf8_lossy(beginning)) {
        return log::read(file).map(Work::Logged);
    }
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > LARGEST_DESCRIPTION {
        return Err("it is larger than 4 MiB and no log of access lines in JSON".to_owned());
    }
    Workload::parse(&std::fs::read_to_string(path).map_err(unreadable)?).map(Work::Described)
}

fn run_under(work: &Work, config: &Config, name: &str) -> Result<Run, Fault> {
    let site = Site::new(config).map_err(Fault::System)?;
    let plan = match work {
        Work::Described(workload) => Plan::of_workload(workload, &site, config),
        Work::Logged(requests) => Plan::of_log(requests, &site, config),
    };
    let plan = plan.map_err(|why| Fault::Workload(format!("under {name}: {why}")))?;
    let tallies = World::new(site.pacers(), &plan.ways, plan.senders, &plan.log, plan.groups.len()).run();
    let mut all = Tally::new();
    tallies.iter().for_each(|tally| all.add(tally));
    let clients = plan.groups.into_iter().zip(tallies.iter().map(Tally::figures)).collect();
    Ok(Run { config: name.to_owned(), clients, all: all.figures(), passed_over: plan.passed_over })
}

/// A workload under one configuration.
#[derive(Default)]
struct Plan {
    groups: Vec<String>,
    ways: Vec<Vec<Way>>,
    senders: Vec<Sender>,
    log: Vec<Arrival>,
    /// Requests that lead nowhere, or come from nobody who may call.
    passed_over: u64,
}

impl Plan {
    fn of_workload(workload: &Workload, site: &Site<'_>, config: &Config) -> Result<Self, String> {
        let mut plan = Self::default();
        for (index, group) in workload.groups.iter().enumerate() {
            plan.groups.push(group.name.clone());
            let routes = site.routes(&group.target);
            if routes.is_empty() {
                let Target { host, path, model } = &group.target;
                let model = model.as_deref().map(|model| format!(" and model {model}")).unwrap_or_default();
                return Err(format!("client {}: no route for host {host}, path {path}{model}", group.name));
            }
            let call = Call {
                takes: group.takes,
                budget: group.patience.unwrap_or(config.queue.max_wait).min(config.queue.max_wait),
                urgency: group.urgency,
                retries: group.retries,
            };
            for nth in 0..group.count {
                let caller = site.caller(&group.name, nth)?;
                let ways = plan.ways.len();
                plan.ways.push(site.ways(&routes, &group.target, caller, group.tokens));
                let (arrivals, start) = (group.arrivals, group.start_of(nth));
                plan.senders.push(Sender { group: index, caller, arrivals, start, call, ways, made: 0 });
            }
        }
        Ok(plan)
    }

    fn of_log(requests: &[log::Logged], site: &Site<'_>, config: &Config) -> Result<Self, String> {
        let mut plan = Self::default();
        let call = Call { takes: std::time::Duration::ZERO, budget: config.queue.max_wait, urgency: None, retries: 0 };
        let mut senders: HashMap<&str, usize> = HashMap::new();
        let mut known: HashMap<(usize, Vec<usize>, &str), usize> = HashMap::new();
        for request in requests {
            let target = Target { host: request.host.clone(), path: request.path.clone(), model: None };
            let routes = match request.route.as_deref().and_then(|name| site.route_named(name)) {
                Some(route) => vec![route],
                None => site.routes(&target),
            };
            if routes.is_empty() {
                plan.passed_over += 1;
                continue;
            }
            let sender = match senders.get(request.client.as_str()) {
                Some(sender) => *sender,
                None => {
                    let Ok(caller) = site.caller(&request.client, 0) else {
                        plan.passed_over += 1;
                        continue;
                    };
                    let (group, arrivals) = (plan.groups.len(), Arrivals::AtOnce { requests: 0 });
                    plan.groups.push(request.client.clone());
                    plan.senders.push(Sender { group, caller, arrivals, start: request.at, call, ways: 0, made: 0 });
                    senders.insert(&request.client, group);
                    group
                }
            };
            let caller = plan.senders[sender].caller;
            let ways = *known.entry((sender, routes, &request.host)).or_insert_with_key(|(_, routes, _)| {
                plan.ways.push(site.ways(routes, &target, caller, None));
                plan.ways.len() - 1
            });
            plan.log.push(Arrival { at: request.at, sender, ways, takes: request.takes });
        }
        if plan.log.is_empty() {
            return Err("no request of the log leads anywhere, or comes from a configured client".to_owned());
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "server: {host: localhost, port: 0}\nadmin: off\n";

    fn config(sections: &str) -> Config {
        config::parse("config.yaml", &format!("{CONFIG}{sections}"), &|_| None)
            .unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn simulated(sections: &str, workload: &str) -> Run {
        let work = Work::Described(Workload::parse(workload).expect("a workload"));
        run_under(&work, &config(sections), "config.yaml").unwrap_or_else(|fault| panic!("{fault:?}"))
    }

    fn of<'a>(run: &'a Run, name: &str) -> &'a Figures {
        &run.clients.iter().find(|(client, _)| client == name).expect("it is told").1
    }

    #[test]
    fn a_batch_takes_as_long_as_its_limit_says() {
        let run = simulated(
            "routes: {\"*\": {upstream: \"http://a\", limits: {requests: \"10/s, burst 1\"}}}\nqueue: {max_wait: 1h}\n",
            "clients: [{name: batch, requests: 6000, takes: 1s}]",
        );
        let figures = of(&run, "batch");
        assert_eq!((figures.answered, figures.gave_up), (6000, 0));
        // 5999 intervals of 100 ms, 1 % for the guard, and the last answer.
        assert!((600.0..607.0).contains(&figures.finished), "{figures:?}");
        assert!((295.0..306.0).contains(&figures.wait_p50), "{figures:?}");
    }

    #[test]
    fn who_cannot_be_served_in_time_is_refused_and_gives_up_after_its_retries() {
        let run = simulated(
            "routes: {\"*\": {upstream: \"http://a\", limits: {requests: \"1/min\"}}}\nqueue: {max_wait: 30s}\n",
            "clients: [{name: a, requests: 10, retries: 0}]",
        );
        let figures = of(&run, "a");
        assert_eq!((figures.answered, figures.gave_up, figures.refused_late), (1, 9, 9));
    }

    #[test]
    fn a_day_of_traffic_is_shared_by_weight() {
        let run = simulated(
            "routes: {\"*\": {upstream: \"http://a\", limits: {requests: 1/s}}}\nclients: {a: {weight: 2}, b: {}}\n",
            "duration: 1d\nclients:\n  - {name: a, under_way: 8, takes: 100ms}\n  - {name: b, under_way: 8, takes: 100ms}\n",
        );
        let (a, b) = (of(&run, "a").answered as f64, of(&run, "b").answered as f64);
        assert!((1.9..2.1).contains(&(a / b)), "{a} to {b}");
        assert!(a + b > 86_400.0 * 0.99, "all of the limit is used: {}", a + b);
    }

    #[test]
    fn tokens_count_where_a_provider_is_asked() {
        let run = simulated(
            "providers: {openai: {api_key: k, limits: {tokens: \"60k/min, burst 1k\"}}}\nqueue: {max_wait: 1h}\n",
            "clients: [{name: a, model: gpt-4o, requests: 600, tokens: {input: 500, output: 500}}]",
        );
        // 600,000 tokens at 60,000 a minute.
        assert!((530.0..680.0).contains(&run.all.finished), "{:?}", run.all);
    }

    #[test]
    fn several_keys_serve_as_much_as_they_allow_together() {
        let workload = "clients: [{name: a, model: gpt-4o, requests: 600}]";
        let finished = |keys: &str| {
            let sections = format!(
                "providers: {{openai: {{api_keys: [{keys}], limits: {{requests: 60/min}}}}}}\nqueue: {{max_wait: 1h}}\n"
            );
            simulated(&sections, workload).all.finished
        };
        let (one, two) = (finished("k"), finished("k, l"));
        assert!((0.45..0.55).contains(&(two / one)), "{two} s with two keys, {one} s with one");
    }

    #[test]
    fn what_leads_nowhere_and_who_is_not_known_is_told() {
        let why = |sections: &str, workload: &str| {
            let work = Work::Described(Workload::parse(workload).expect("a workload"));
            match run_under(&work, &config(sections), "config.yaml") {
                Err(Fault::Workload(why)) => why,
                other => panic!("{other:?}"),
            }
        };
        let nowhere = why("routes: {a.example: \"http://a\"}\n", "clients: [{name: a, host: b.example, requests: 1}]");
        assert!(nowhere.contains("no route for host b.example"), "{nowhere}");
        let unknown = why("routes: {\"*\": \"http://a\"}\nclients: {b: {}}\n", "clients: [{name: a, requests: 1}]");
        assert!(unknown.contains("client a"), "{unknown}");
    }

    #[test]
    fn a_log_is_played_again() {
        let line = |second: u32| {
            format!(
                "{{\"timestamp\":\"2026-11-25T10:00:{second:02}.000Z\",\"target\":\"access\",\"host\":\"a.example\",\"path\":\"/\",\"client\":\"bob\",\"wait_ms\":0.0,\"total_ms\":100.0}}\n"
            )
        };
        let text: String = (0..30).map(line).collect();
        let work = Work::Logged(log::read(text.as_bytes()).expect("a log"));
        let config = config("routes: {a.example: {upstream: \"http://a\", limits: {requests: \"30/min, burst 1\"}}}\n");
        let run = run_under(&work, &config, "config.yaml").unwrap_or_else(|fault| panic!("{fault:?}"));
        let figures = of(&run, "bob");
        // One a second came, one in two seconds may leave.
        assert_eq!(figures.answered, 30);
        assert!((57.0..60.0).contains(&figures.finished) && (28.0..31.0).contains(&figures.wait_max), "{figures:?}");
    }
}
