//! How near estimates of prompts come: from bytes, and from counted tokens. What a provider charges is made up here as
//! OpenAI documents it, by the same tokenizer and by others.

mod prompts;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cooldown_proxy::provider::{Estimator, PromptSize, Reserve, Tokenizer, Usage, peek};
use prompts::{Charged, Prompt, Random, Workload};
use tiktoken_rs::CoreBPE;

/// After so many responses the estimates are judged, by so many more requests.
const LEARNED: usize = 20;
const JUDGED: usize = 400;

/// How far estimates were off, each as a share of what was charged.
#[derive(Default)]
struct Errors {
    first: f64,
    all: Vec<f64>,
}

fn main() {
    // Tests of all targets run it as well.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    load();
    let charging: [(&str, &CoreBPE); 3] = [
        ("o200k_base", tiktoken_rs::o200k_base_singleton()),
        ("cl100k_base", tiktoken_rs::cl100k_base_singleton()),
        ("p50k_base", tiktoken_rs::p50k_base_singleton()),
    ];
    println!(
        "\nerror of estimates, prompts counted by o200k_base: first request | mean and 95th percentile after {LEARNED}"
    );
    for (name, vocabulary) in charging {
        for workload in Workload::ALL {
            let (bytes, counted) = run(workload, vocabulary);
            println!("charged by {name:<11} {:<22} bytes {bytes}   counted {counted}", workload.name());
        }
    }
    times();
}

fn load() {
    let (before, began) = (resident(), Instant::now());
    Tokenizer::O200kBase.load();
    println!("o200k_base: loaded in {:?}, {} MB more", began.elapsed(), (resident() - before) / 1000);
    let (before, began) = (resident(), Instant::now());
    Tokenizer::Cl100kBase.load();
    println!("cl100k_base: loaded in {:?}, {} MB more", began.elapsed(), (resident() - before) / 1000);
}

/// Both estimates for one workload at one provider.
fn run(workload: Workload, charging: &CoreBPE) -> (Errors, Errors) {
    let mut random = Random::new(7);
    let (by_bytes, by_tokens) = (Estimator::default(), Estimator::default());
    let (mut bytes, mut counted) = (Errors::default(), Errors::default());
    for nth in 0..LEARNED + JUDGED {
        let prompt = Prompt::make(workload, &mut random);
        let charged = prompt.charged(charging);
        let body = prompt.body();
        let peek = peek(body.as_bytes()).expect("a JSON object");
        let size = PromptSize { bytes: peek.prompt_bytes(), tokens: None };
        bytes.judge(&by_bytes, size, charged, nth);
        let size = PromptSize { tokens: peek.prompt_tokens(Tokenizer::O200kBase), ..size };
        counted.judge(&by_tokens, size, charged, nth);
    }
    (bytes, counted)
}

impl Errors {
    /// Estimates a request, and then learns what was charged.
    fn judge(&mut self, estimator: &Estimator, prompt: PromptSize, charged: Charged, nth: usize) {
        let reserve = Reserve { model: "m", prompt, max_output: None, answers: 1 };
        let estimate = estimator.estimate(&reserve).input as f64;
        let error = (estimate - charged.0 as f64).abs() / charged.0 as f64;
        match nth {
            0 => self.first = error,
            nth if nth >= LEARNED => self.all.push(error),
            _ => {}
        }
        let usage = Usage { input: charged.0, cached_input: 0, output: 1, total: charged.0 + 1 };
        estimator.learn("m", &prompt, 1, 0, &usage);
    }
}

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut all = self.all.clone();
        all.sort_by(f64::total_cmp);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let high = all[all.len() * 95 / 100];
        write!(f, "{:5.1} % | {:5.1} %, {:5.1} %", 100.0 * self.first, 100.0 * mean, 100.0 * high)
    }
}

/// What it takes to find the size of a prompt.
fn times() {
    println!("\nbest time for a prompt: bytes, tokens");
    let mut random = Random::new(11);
    for length in [1_000, 8_000, 16_000, 64_000, 500_000] {
        let body = Prompt::of_length(length, &mut random).body();
        time(&format!("mixed, {length} bytes"), &body);
    }
    for unit in ["a", "!", " ", "q7Zk"] {
        let content = unit.repeat(800_000 / unit.len());
        let body = serde_json::json!({"messages": [{"role": "user", "content": content}]}).to_string();
        time(&format!("800 kB of {unit:?}"), &body);
    }
    let many = serde_json::json!({"input": vec!["a"; 200_000]}).to_string();
    time("200,000 texts of a byte", &many);
}

fn time(name: &str, body: &str) {
    let best = |count: &dyn Fn() -> u64| -> Duration {
        let once = || {
            let began = Instant::now();
            black_box(count());
            began.elapsed()
        };
        (0..50).map(|_| once()).min().unwrap_or_default()
    };
    let seen = peek(body.as_bytes()).expect("a JSON object");
    let bytes = best(&|| seen.prompt_bytes());
    let tokens = best(&|| seen.prompt_tokens(Tokenizer::O200kBase).unwrap_or_default());
    println!("{name:<24} {bytes:>12.1?} {tokens:>12.1?}");
}

/// Memory of this process, in kB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}
