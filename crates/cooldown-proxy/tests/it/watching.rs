//! The Grafana dashboard and the alarms: whatever they ask for exists, and is explained.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cooldown_proxy::telemetry::snapshot::SharedView;
use cooldown_proxy::telemetry::{CooldownFigure, LimitFigures, Metrics, RoomFigure, Scope};
use http::StatusCode;
use regex_automata::meta::Regex;
use serde_json::Value;

const DASHBOARD: &str = include_str!("../../../../packaging/grafana/dashboard.json");
const ALARMS: &str = include_str!("../../../../packaging/prometheus/alerts.yaml");
const EXPLAINED: &str = include_str!("../../../../docs/metrics.md");

/// Labels that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// Every figure with its labels, as a scrape tells them of a proxy to which everything has happened.
fn told() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::new();
    for figures in [metrics.route("r"), metrics.domain("d")] {
        figures.arrived(1);
        figures.waited(Duration::from_millis(20));
        figures.attempt();
        figures.responded(StatusCode::OK);
        figures.refused("queue_full");
        figures.upstream_error("upstream_timeout");
        figures.turned_away("limit");
        figures.retried();
        figures.tokens(100, 130);
    }
    metrics.route("r").traced(Duration::from_millis(20), "4bf92f3577b34da6a3ce929d0e0e4736".to_owned());
    let narrow = || (Some("2".to_owned()), Some("m".to_owned()));
    metrics.ask_for_limits(Box::new(move || LimitFigures {
        room: [Scope::Upstream, Scope::Domain, Scope::Client]
            .map(|scope| {
                let ((key, model), limit) = (narrow(), "10 requests a second".to_owned());
                RoomFigure { scope, name: "n".to_owned(), key, model, source: "configured", limit, room: 1 }
            })
            .into(),
        cooldowns: vec![CooldownFigure {
            upstream: "r".to_owned(),
            key: narrow().0,
            model: narrow().1,
            left: Duration::from_secs(1),
        }],
        shared: Some(SharedView::default()),
    }));
    let text = metrics.encode().expect("figures");
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
        told.entry(name.to_owned()).or_default().extend(found(r#"[a-z_]+=""#, rest, &["=\""]));
    }
    told
}

/// Everything in `text` that matches, without these endings.
fn found(pattern: &str, text: &str, endings: &[&str]) -> Vec<String> {
    let regex = Regex::new(pattern).expect("a pattern");
    let whole = regex.find_iter(text).map(|found| &text[found.range()]);
    whole.map(|name| endings.iter().fold(name, |name, end| name.trim_end_matches(end)).to_owned()).collect()
}

/// Every query in a document.
fn queries(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "expr" || name == "query" => into.push(text.clone()),
                    value => queries(value, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| queries(item, into)),
        _ => {}
    }
}

/// The labels that a query names: in braces, and where it groups.
fn labels(query: &str) -> Vec<String> {
    let mut names = found(r#"[a-z_]+ *(=~|!~|!=|=) *""#, query, &["\"", " ", "~", "=", "!", " "]);
    for group in found(r"(by|without|on|ignoring) *\([^)]*\)", query, &[]) {
        let inside = group.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
        names.extend(inside.split(',').map(|name| name.trim().to_owned()));
    }
    names
}

#[test]
fn every_figure_and_label_of_the_dashboard_and_the_alarms_exists() {
    let told = told();
    let alarms: Value = serde_saphyr::from_str(ALARMS).expect("YAML");
    for (file, document) in
        [("dashboard.json", serde_json::from_str(DASHBOARD).expect("JSON")), ("alerts.yaml", alarms)]
    {
        let mut asked = Vec::new();
        queries(&document, &mut asked);
        let asked: Vec<String> = asked.into_iter().filter(|query| query.contains("cooldown_")).collect();
        assert!(asked.len() >= 6, "{file}: {} queries", asked.len());
        for query in asked {
            let names = found("cooldown_[a-z_]+", &query, &[]);
            let known: BTreeSet<&String> = names
                .iter()
                .flat_map(|name| told.get(name).unwrap_or_else(|| panic!("{file}: nobody tells {name}: {query}")))
                .collect();
            for label in labels(&query) {
                let exists = known.contains(&label) || OF_PROMETHEUS.contains(&label.as_str());
                assert!(exists, "{file}: no label {label}: {query}");
            }
        }
    }
}

#[test]
fn every_figure_is_explained() {
    for name in told().keys() {
        let short = ["upstream_", "domain_", "client_"]
            .iter()
            .fold(name.trim_start_matches("cooldown_"), |name, scope| name.strip_prefix(scope).unwrap_or(name));
        let short =
            ["_bucket", "_sum", "_count"].iter().fold(short, |name, end| name.strip_suffix(end).unwrap_or(name));
        assert!(EXPLAINED.contains(&format!("{short}`")) || EXPLAINED.contains(&format!("{short}{{")), "{name}");
    }
}
