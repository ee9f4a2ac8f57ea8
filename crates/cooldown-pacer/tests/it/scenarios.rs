//! Stories that a user would tell: a workload in YAML, the timeline as a snapshot beside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_pacer::{Ask, Cost, Flow, Key, Limit, LimitsId, Pacer, Rate, Settings, Spent, Unit, Urgency, Weight};
use serde::Deserialize;

use crate::world::{Fate, MILLI, Request, World, at};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    story: String,
    limits: Vec<Stated>,
    clients: Vec<Client>,
    #[serde(default)]
    changes: Vec<Change>,
    /// Departures are told one by one, or counted for each of these many milliseconds.
    #[serde(default)]
    rows_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    #[serde(default)]
    requests: Option<u64>,
    #[serde(default)]
    tokens: Option<u64>,
    #[serde(default)]
    concurrency: Option<u32>,
    #[serde(default)]
    per_ms: u64,
    #[serde(default)]
    burst: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Client {
    name: String,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    urgency: Option<u8>,
    asks: Vec<Asks>,
}

/// `count` requests, the first at `at_ms`, one every `every_ms`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asks {
    at_ms: u64,
    count: u64,
    #[serde(default)]
    every_ms: u64,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    spends: Option<u64>,
    #[serde(default)]
    takes_ms: u64,
    #[serde(default)]
    patience_ms: Option<u64>,
    #[serde(default)]
    hangs_up_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    at_ms: u64,
    /// A reload: other limits.
    #[serde(default)]
    limits: Vec<Stated>,
    /// The machine sleeps for this long: no timer fires.
    #[serde(default)]
    sleep_ms: u64,
}

impl Stated {
    fn limit(&self) -> Limit {
        if let Some(max) = self.concurrency {
            return Limit::Concurrency(NonZeroU32::new(max).expect("a concurrency above zero"));
        }
        let (unit, amount) = match (self.requests, self.tokens) {
            (Some(amount), None) => (Unit::Requests, amount),
            (None, Some(amount)) => (Unit::Tokens, amount),
            _ => panic!("a limit names one unit"),
        };
        let rate = Rate::new(unit, amount, Duration::from_millis(self.per_ms)).expect("a valid rate");
        self.burst.map_or(rate, |burst| rate.with_burst(burst).expect("a valid burst")).into()
    }
}

fn limits(stated: &[Stated]) -> Vec<Limit> {
    stated.iter().map(Stated::limit).collect()
}

fn requests(story: &Story, id: LimitsId) -> Vec<Request> {
    let mut requests = Vec::new();
    for (flow, client) in story.clients.iter().enumerate() {
        for asks in &client.asks {
            for nth in 0..asks.count {
                requests.push(one_request(client, asks, asks.at_ms + nth * asks.every_ms, flow as u64, id));
            }
        }
    }
    requests
}

fn one_request(client: &Client, asks: &Asks, at_ms: u64, flow: u64, id: LimitsId) -> Request {
    let mut ask = Ask::new(Flow(flow), [Key::whole(id)]);
    ask.cost = Cost::ONE_REQUEST.with(Unit::Tokens, asks.tokens);
    ask.weight = client.weight.map_or(Weight::ONE, |weight| Weight::new(weight).expect("a valid weight"));
    ask.urgency = client.urgency.map_or_else(Urgency::default, |level| Urgency::new(level).expect("a valid urgency"));
    ask.latest = asks.patience_ms.map(|patience| at((at_ms + patience) * MILLI));
    let spent = asks.spends.map(|tokens| Spent::Exactly(Cost::ONE_REQUEST.with(Unit::Tokens, tokens)));
    Request {
        at: at_ms * MILLI,
        ask,
        takes: asks.takes_ms * MILLI,
        spent: spent.unwrap_or(Spent::AsEstimated),
        hangs_up: asks.hangs_up_ms.map(|at_ms| at_ms * MILLI),
    }
}

fn tell(story: &Story) -> String {
    let mut pacer = Pacer::new(Settings::default());
    let id = pacer.add_limits(limits(&story.limits));
    let mut world = World::new(pacer, requests(story, id));
    for change in &story.changes {
        world.run_until(change.at_ms * MILLI);
        if change.sleep_ms > 0 {
            world.sleep_until((change.at_ms + change.sleep_ms) * MILLI);
        } else {
            world.pacer.set_limits(at(change.at_ms * MILLI), id, limits(&change.limits));
        }
    }
    world.run();
    let mut text = format!("{}\n\n", story.story.trim());
    tell_timeline(story, &world, &mut text);
    text.push('\n');
    tell_clients(story, &world, &mut text);
    text
}

fn tell_timeline(story: &Story, world: &World, text: &mut String) {
    let mut rows: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for &index in &world.left {
        let micros = world.left_at(index).expect("it left") / 1000;
        let row = if story.rows_ms == 0 { micros } else { micros / (story.rows_ms * 1000) * story.rows_ms * 1000 };
        *rows.entry(row).or_default().entry(world.request(index).ask.flow.0).or_default() += 1;
    }
    for (micros, flows) in rows {
        let who: Vec<String> =
            flows.iter().map(|(&flow, count)| format!("{} {count}", story.clients[flow as usize].name)).collect();
        writeln!(text, "{:>12.3} ms  {}", micros as f64 / 1000.0, who.join(", ")).expect("text");
    }
}

fn tell_clients(story: &Story, world: &World, text: &mut String) {
    for (flow, client) in story.clients.iter().enumerate() {
        let (mut waits, mut refused, mut hung_up) = (Vec::new(), 0, 0);
        for (index, fate) in world.fates.iter().enumerate() {
            let request = world.request(index);
            match fate {
                _ if request.ask.flow.0 != flow as u64 => {}
                Fate::Left { at, .. } => waits.push(at - request.at),
                Fate::Refused { .. } => refused += 1,
                Fate::HungUp { .. } => hung_up += 1,
                Fate::Waiting => panic!("somebody waits for ever"),
            }
        }
        waits.sort_unstable();
        let wait = |nth: usize| waits.get(nth).map_or(0, |wait| wait / MILLI);
        let (median, longest) = (wait(waits.len() / 2), wait(waits.len().saturating_sub(1)));
        let name = &client.name;
        write!(text, "{name}: {} left, median wait {median} ms, longest {longest} ms", waits.len()).expect("text");
        writeln!(text, "; {refused} refused, {hung_up} hung up").expect("text");
    }
}

#[test]
fn every_story_ends_as_told() {
    insta::glob!("../scenarios", "*.yaml", |path| {
        let text = std::fs::read_to_string(path).expect("a readable story");
        let story: Story = serde_saphyr::from_str(&text).expect("a valid story");
        insta::assert_snapshot!(tell(&story));
    });
}
