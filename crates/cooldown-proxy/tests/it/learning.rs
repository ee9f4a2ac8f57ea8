//! Limits that nobody configured: told by the upstream's fields, or found by trying.

use std::time::Duration;

use cooldown_pacer::Unit;
use cooldown_proxy::demo::strict::Counting;
use http::StatusCode;
use rstest::rstest;

use crate::support::provider::{Allowance, Behaviour, Dialect, Hint, LlmProvider};
use crate::support::{Crowd, Proxy, chat, timed};

const CHAT: &str = "/openai/v1/chat/completions";
const SECOND: Duration = Duration::from_secs(1);

/// What a crowd of thirty met.
#[derive(Debug)]
struct Met {
    /// Errors that clients saw.
    errors: usize,
    /// The part of the attempts that were refused.
    refused: f64,
    /// The part of the limit that was used.
    used: f64,
}

/// Thirty clients against twenty requests a second that are configured nowhere; figures of the time after `settled`.
async fn crowd(behaviour: Behaviour, settled: Duration, lasting: Duration) -> Met {
    let upstream = LlmProvider::start(behaviour.latency(Duration::from_millis(30)));
    let proxy = Proxy::start(&format!("providers:\n  openai: {{endpoint: \"{}\", api_key: sk-1}}", upstream.url()));
    let crowd = Crowd { address: proxy.address(), path: CHAT, clients: 30, lasting };
    let began = std::time::Instant::now();
    let answers = crowd.call(|_, _| chat("gpt-4o", "hello")).await;
    let attempts = upstream.attempts();
    let counted = attempts.iter().filter(|attempt| {
        let after = attempt.arrival - began;
        after >= settled && after < lasting
    });
    let (mut accepted, mut refused) = (0_u32, 0_u32);
    for attempt in counted {
        if attempt.status == Some(StatusCode::OK) { accepted += 1 } else { refused += 1 }
    }
    let allowed = 20.0 * (lasting - settled).as_secs_f64();
    let met = Met {
        errors: answers.iter().filter(|(answer, _)| answer.status != StatusCode::OK).count(),
        refused: f64::from(refused) / f64::from(accepted + refused),
        used: f64::from(accepted) / allowed,
    };
    println!("{met:?}");
    met
}

fn twenty_a_second(counting: Counting) -> Allowance {
    Allowance::new(Unit::Requests, 20, SECOND).counted(counting)
}

#[rstest]
#[case::sliding(Counting::SlidingWindow)]
#[case::fixed(Counting::FixedWindow)]
#[case::bucket(Counting::TokenBucket(std::num::NonZeroU32::new(20).expect("not zero")))]
#[tokio::test]
async fn a_limit_that_is_told_is_kept_and_used(#[case] counting: Counting) {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::OpenAi).limit(twenty_a_second(counting));
    let met = crowd(behaviour, Duration::ZERO, 10 * SECOND).await;
    assert_eq!(met.errors, 0, "{met:?}");
    assert!(met.refused < 0.03 && met.used >= 0.95, "{met:?}");
}

#[rstest]
#[case::sliding(Counting::SlidingWindow)]
#[case::fixed(Counting::FixedWindow)]
#[case::bucket(Counting::TokenBucket(std::num::NonZeroU32::new(50).expect("not zero")))]
#[tokio::test]
async fn what_is_told_beside_a_configured_limit_wastes_nothing(
    #[case] counting: Counting,
    #[values("providers:\n  openai: {endpoint: \"URL\", api_key: sk-1, ", "routes:\n  /openai: {upstream: \"URL\", ")]
    way: &str,
) {
    let _timed = timed().await;
    let limit = Allowance::new(Unit::Requests, 50, Duration::from_millis(990)).counted(counting);
    let behaviour = Behaviour::new(Dialect::OpenAi).latency(Duration::from_millis(5)).limit(limit);
    let upstream = LlmProvider::start(behaviour);
    let proxy = Proxy::start(&format!("{}limits: {{requests: 50/s}}}}", way.replace("URL", &upstream.url())));
    let lasting = 8 * SECOND;
    let crowd = Crowd { address: proxy.address(), path: CHAT, clients: 32, lasting };
    let answers = crowd.call(|_, _| chat("gpt-4o", "hello")).await;
    assert!(answers.iter().all(|(answer, _)| answer.status == StatusCode::OK));
    let used = upstream.accepted() as f64 / (50.0 * lasting.as_secs_f64());
    println!("{used} used, {} refused", upstream.breaches());
    assert!(upstream.breaches() == 0 && used >= 0.97, "{used} used, {} refused", upstream.breaches());
}

#[tokio::test]
async fn a_limit_that_is_told_nowhere_is_found() {
    let _timed = timed().await;
    let behaviour = Behaviour::new(Dialect::Silent).hint(Hint::Nothing).limit(twenty_a_second(Counting::SlidingWindow));
    let met = crowd(behaviour, 15 * SECOND, 40 * SECOND).await;
    assert_eq!(met.errors, 0, "{met:?}");
    assert!(met.refused < 0.02 && met.used >= 0.80, "{met:?}");
}

#[tokio::test]
async fn what_was_learned_shows_in_the_figures() {
    use crate::support::{Binary, ask, get};
    let limit = Allowance::new(Unit::Requests, 1200, Duration::from_secs(60));
    let upstream = LlmProvider::start(Behaviour::new(Dialect::Mistral).limit(limit));
    let config = format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: {{host: 127.0.0.1, port: 0}}\n\
         providers:\n  mistral: {{endpoint: \"{}\", api_key: sk-1, limits: {{requests: 100/s}}}}\n",
        upstream.url()
    );
    let program = Binary::serve(&config);
    let message = chat("mistral-small", "hello");
    assert_eq!(ask(program.address(), "/mistral/v1/chat/completions", &message).await.status, StatusCode::OK);
    let figures = get(program.admin_address(), "localhost", "/metrics").await;
    for source in ["source=\"configured\"", "source=\"learned\",model=\"mistral-small\""] {
        let shown =
            |line: &str| line.starts_with("cooldown_upstream_room{upstream=\"mistral\"") && line.contains(source);
        assert!(figures.text().lines().any(shown), "{source} in\n{}", figures.text());
    }
    program.line("about what was learned", |line| line.contains("learned a limit") && line.contains("1200 requests"));
}
