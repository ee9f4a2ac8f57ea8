//! What the fields of real responses say.

use std::time::Duration;

use cooldown_pacer::Unit::{InputTokens, OutputTokens, Requests, Tokens};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::config::model::ProviderKind::{self, *};

/// Thu, 21 Aug 2025 12:41:00 GMT, the `Date` of a recorded response.
const NOW: UnixTime = UnixTime::from_secs(1_755_780_060);

/// Fields, written `name: value` a line.
fn fields(text: &str) -> Fields {
    let lines = text.lines().filter_map(|line| line.trim().split_once(": "));
    lines
        .map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, HeaderValue::from_str(value.trim()).expect("a value"))
        })
        .collect()
}

fn said(kind: ProviderKind, status: u16, text: &str) -> Said {
    read_limits(kind, status, &fields(text), NOW)
}

/// The only statement about an axis.
fn about(said: &Said, axis: Unit) -> Statement {
    let mut found = said.statements.iter().filter(|said| said.axis == axis);
    let first = *found.next().unwrap_or_else(|| panic!("nothing about {axis}: {said:?}"));
    assert_eq!(found.next(), None);
    first
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Limit, remaining, window in seconds.
fn amounts(said: Statement) -> (Option<u64>, Option<u64>, Option<u64>) {
    (said.limit, said.remaining, said.window.map(|window| window.as_secs()))
}

#[test]
fn openai_refills_steadily_and_its_windows_are_inferred() {
    let said = said(
        OpenAi,
        200,
        "x-ratelimit-limit-requests: 5000
         x-ratelimit-limit-tokens: 800000
         x-ratelimit-remaining-requests: 4999
         x-ratelimit-remaining-tokens: 799986
         x-ratelimit-reset-requests: 12ms
         x-ratelimit-reset-tokens: 1ms",
    );
    let requests = about(&said, Requests);
    assert_eq!(amounts(requests), (Some(5000), Some(4999), Some(60)));
    assert_eq!(requests.reset, Some(Reset::ToFull(secs(0.012))));
    assert_eq!(requests.scope, Scope::Model);
    assert_eq!(amounts(about(&said, Tokens)), (Some(800_000), Some(799_986), Some(60)));
}

#[test]
fn a_project_limit_stands_beside_the_others() {
    let said = said(
        OpenAi,
        200,
        "x-ratelimit-limit-tokens: 800000
         x-ratelimit-remaining-tokens: 700000
         x-ratelimit-limit-project-tokens: 10000
         x-ratelimit-remaining-project-tokens: 9000",
    );
    let limits: Vec<_> = said.statements.iter().map(|said| (said.axis, said.limit, said.remaining)).collect();
    assert_eq!(limits, [(Tokens, Some(800_000), Some(700_000)), (Tokens, Some(10_000), Some(9000))]);
}

#[test]
fn groq_counts_requests_by_the_day_and_tokens_by_the_minute() {
    let text = "x-ratelimit-limit-requests: 1000
         x-ratelimit-remaining-requests: 999
         x-ratelimit-reset-requests: 1m26.4s
         x-ratelimit-limit-tokens: 6000
         x-ratelimit-remaining-tokens: 5992
         x-ratelimit-reset-tokens: 80ms";
    let told = said(Groq, 200, text);
    assert_eq!(amounts(about(&told, Requests)), (Some(1000), Some(999), Some(86_400)));
    assert_eq!(amounts(about(&told, Tokens)), (Some(6000), Some(5992), Some(60)));
    let untouched = said(Groq, 200, "x-ratelimit-limit-requests: 1000\nx-ratelimit-remaining-requests: 1000");
    assert_eq!(amounts(about(&untouched, Requests)), (Some(1000), Some(1000), Some(86_400)));
}

#[rstest]
#[case("ratelimit-policy: \"a\";q=5;w=60\nratelimit: \"a\";r=0;t=2678400", 600)]
#[case("ratelimit: limit=5, remaining=0, reset=2678400\nratelimit-policy: 5;w=86400", 90_000)]
#[case("x-ratelimit-limit-minute: 5\nx-ratelimit-remaining-minute: 0\nx-ratelimit-reset-minute: 2678400", 600)]
#[case("ratelimit: limit=5, remaining=0, reset=2678400", 2_678_400)]
fn no_reset_is_believed_that_its_window_does_not_allow(#[case] text: &str, #[case] longest: u64) {
    let reset = about(&said(Generic, 429, text), Requests).reset.map(Reset::after);
    assert_eq!(reset, Some(Duration::from_secs(longest)));
}

#[test]
fn no_amount_is_believed_that_no_api_allows() {
    let said = said(Generic, 200, "x-ratelimit-used: 1000000000000000\nx-ratelimit-remaining: 1000000000000000");
    assert_eq!(about(&said, Requests).limit, None);
}

#[rstest]
#[case("ratelimit-policy: \"a\";q=100;w=0\nratelimit: \"a\";r=0;t=30")]
#[case("x-ratelimit-limit: 100\nx-ratelimit-remaining: 0\nratelimit-policy: \"a\";q=100;w=0")]
#[case("ratelimit-limit: 100;w=0\nratelimit-remaining: 0")]
fn a_window_of_no_length_is_none(#[case] text: &str) {
    assert_eq!(amounts(about(&said(Generic, 429, text), Requests)), (Some(100), Some(0), None));
}

#[test]
fn azures_amounts_are_those_of_a_minute_and_a_reset_of_zero_is_no_time() {
    let said = said(
        Azure,
        200,
        "x-ratelimit-limit-requests: 9000
         x-ratelimit-limit-tokens: 1500000
         x-ratelimit-remaining-requests: 8999
         x-ratelimit-remaining-tokens: 745399
         x-ratelimit-renewalperiod-requests: 10
         x-ratelimit-renewalperiod-tokens: 60
         x-ratelimit-reset-requests: 0
         x-ratelimit-reset-tokens: 30",
    );
    assert_eq!(amounts(about(&said, Requests)), (Some(9000), Some(8999), Some(60)));
    assert_eq!(about(&said, Requests).reset, None);
    assert_eq!(about(&said, Tokens).reset, Some(Reset::WindowEnd(secs(30.0))));
}

#[rstest]
#[case(Azure)]
#[case(OpenAi)] // GitHub's models speak as Azure does
#[case(Generic)]
fn an_empty_token_minute_is_waited_for_whatever_retry_after_says(#[case] kind: ProviderKind) {
    let said = said(
        kind,
        429,
        "retry-after: 1
         retry-after-ms: 0
         x-ratelimit-remaining-tokens: 0
         x-ratelimit-reset-tokens: 0
         x-ratelimit-renewalperiod-tokens: 60",
    );
    assert_eq!(said.retry_after, Some(secs(60.0)));
    assert_eq!(about(&said, Tokens).wait_for(1), Some(secs(60.0)));
}

#[test]
fn anthropics_times_are_measured_against_its_own_clock() {
    let text = "date: Thu, 21 Aug 2025 12:41:00 GMT
         anthropic-ratelimit-input-tokens-limit: 80000
         anthropic-ratelimit-input-tokens-remaining: 80000
         anthropic-ratelimit-input-tokens-reset: 2025-08-21T12:40:59Z
         anthropic-ratelimit-output-tokens-limit: 16000
         anthropic-ratelimit-output-tokens-remaining: 16000
         anthropic-ratelimit-output-tokens-reset: 2025-08-21T12:41:00Z
         anthropic-ratelimit-requests-limit: 1000
         anthropic-ratelimit-requests-remaining: 999
         anthropic-ratelimit-requests-reset: 2025-08-21T12:41:02Z
         anthropic-ratelimit-tokens-limit: 96000
         anthropic-ratelimit-tokens-remaining: 96000
         anthropic-ratelimit-tokens-reset: 2025-08-21T12:40:59Z
         anthropic-priority-input-tokens-limit: 10000";
    let said = read_limits(Anthropic, 200, &fields(text), UnixTime::from_secs(1_900_000_000));
    assert_eq!(said.statements.len(), 4);
    assert_eq!(about(&said, InputTokens).reset, Some(Reset::ToFull(Duration::ZERO)));
    assert_eq!(about(&said, Requests).reset, Some(Reset::ToFull(secs(2.0))));
    assert_eq!(amounts(about(&said, OutputTokens)), (Some(16_000), Some(16_000), Some(60)));
    assert_eq!(amounts(about(&said, Tokens)), (Some(96_000), Some(96_000), Some(60)));
}

#[test]
fn a_subscription_tells_which_window_is_spent() {
    let text = |status, utilization| {
        format!(
            "anthropic-ratelimit-unified-status: {status}
             anthropic-ratelimit-unified-reset: 1755787260
             anthropic-ratelimit-unified-representative-claim: five_hour
             anthropic-ratelimit-unified-5h-utilization: {utilization}
             anthropic-ratelimit-unified-5h-reset: 1755787260
             anthropic-ratelimit-unified-7d-utilization: 0.42
             anthropic-ratelimit-unified-7d-reset: 1756000000
             retry-after: 2094"
        )
    };
    let rejected = said(Anthropic, 429, &text("rejected", "0.99"));
    let spent: Vec<_> = rejected.statements.iter().filter(|said| said.is_exhausted()).collect();
    assert_eq!(spent.len(), 1);
    assert_eq!(spent[0].window, Some(secs(5.0 * 3600.0)));
    assert_eq!(spent[0].wait_for(1), Some(secs(7200.0)));
    let allowed = said(Anthropic, 200, &text("allowed", "0.99"));
    assert_eq!(allowed.statements.len(), 2);
    assert!(!allowed.statements.iter().any(Statement::is_exhausted));
    assert_eq!(allowed.retry_after, None);
}

#[test]
fn cerebras_names_its_windows() {
    let said = said(
        Cerebras,
        200,
        "x-ratelimit-limit-requests-day: 1000000000
         x-ratelimit-limit-tokens-minute: 1000000000
         x-ratelimit-remaining-requests-day: 999997455
         x-ratelimit-remaining-tokens-minute: 999998298
         x-ratelimit-reset-requests-day: 33011.382867097855
         x-ratelimit-reset-tokens-minute: 11.382867097854614",
    );
    let requests = about(&said, Requests);
    assert_eq!(amounts(requests), (Some(1_000_000_000), Some(999_997_455), Some(86_400)));
    let Some(Reset::Unknown(reset)) = requests.reset else { panic!("{requests:?}") };
    assert!((reset.as_secs_f64() - 33_011.382_867).abs() < 1e-6);
    assert_eq!(amounts(about(&said, Tokens)), (Some(1_000_000_000), Some(999_998_298), Some(60)));
}

#[rstest]
#[case("x-ratelimit-limit-req-10-second: 60\nx-ratelimit-remaining-req-10-second: 59", Requests, (60, 59, Some(10)))]
#[case("x-ratelimit-limit-req-minute: 720\nx-ratelimit-remaining-req-minute: 717", Requests, (720, 717, Some(60)))]
#[case("x-ratelimit-limit-tokens-minute: 500000\nx-ratelimit-remaining-tokens-minute: 499932\nx-ratelimit-tokens-query-cost: 68", Tokens, (500_000, 499_932, Some(60)))]
#[case("x-ratelimit-limit-tokens-month: 1000000\nx-ratelimit-remaining-tokens-month: 999932", Tokens, (1_000_000, 999_932, Some(2_592_000)))]
#[case("x-ratelimitbysize-limit-minute: 500000\nx-ratelimitbysize-remaining-minute: 498973", Tokens, (500_000, 498_973, Some(60)))]
#[case("ratelimitbysize-limit: 500000\nratelimitbysize-remaining: 498973\nratelimitbysize-reset: 22\nratelimitbysize-query-cost: 1027", Tokens, (500_000, 498_973, None))]
fn mistral_is_read_in_all_its_generations(
    #[case] text: &str,
    #[case] axis: Unit,
    #[case] (limit, remaining, window): (u64, u64, Option<u64>),
) {
    assert_eq!(amounts(about(&said(Mistral, 200, text), axis)), (Some(limit), Some(remaining), window));
}

#[test]
fn togethers_amounts_are_those_of_a_second() {
    let said = said(
        Together,
        200,
        "x-ratelimit-limit: 10
         x-ratelimit-remaining: 9
         x-ratelimit-reset: 2
         x-tokenlimit-limit: 3000
         x-tokenlimit-remaining: 2900",
    );
    assert_eq!(amounts(about(&said, Requests)), (Some(10), Some(9), Some(1)));
    assert_eq!(about(&said, Requests).reset, Some(Reset::Unknown(secs(2.0))));
    assert_eq!(amounts(about(&said, Tokens)), (Some(3000), Some(2900), Some(1)));
}

#[test]
fn fireworks_counts_input_and_output_apart() {
    let said = said(
        Fireworks,
        200,
        "x-ratelimit-limit-requests: 600
         x-ratelimit-remaining-requests: 599
         x-ratelimit-limit-tokens-prompt: 60000
         x-ratelimit-remaining-tokens-prompt: 59000
         x-ratelimit-limit-tokens-generated: 36000
         x-ratelimit-remaining-tokens-generated: 35000
         x-ratelimit-over-limit: no",
    );
    assert_eq!(said.statements.len(), 3);
    assert_eq!(amounts(about(&said, InputTokens)), (Some(60_000), Some(59_000), None));
    assert_eq!(amounts(about(&said, OutputTokens)), (Some(36_000), Some(35_000), None));
}

#[test]
fn openrouters_reset_is_in_milliseconds_since_1970() {
    let text = "X-RateLimit-Limit: 50
         X-RateLimit-Remaining: 0
         X-RateLimit-Reset: 1788220800000";
    let said = read_limits(OpenRouter, 429, &fields(text), UnixTime::from_secs(1_788_217_200));
    let requests = about(&said, Requests);
    assert_eq!(requests.reset, Some(Reset::WindowEnd(secs(3600.0))));
    assert_eq!(requests.wait_for(1), Some(secs(3600.0)));
}

#[test]
fn githubs_resources_are_pools_of_their_own() {
    let text = |resource| {
        format!(
            "x-ratelimit-limit: 30
             x-ratelimit-remaining: 12
             x-ratelimit-used: 18
             x-ratelimit-reset: 1755780090
             x-ratelimit-resource: {resource}"
        )
    };
    let search = about(&said(GitHub, 200, &text("search")), Requests);
    let core = about(&said(GitHub, 200, &text("core")), Requests);
    assert_eq!(search.reset, Some(Reset::WindowEnd(secs(30.0))));
    assert_eq!((search.window, core.window), (Some(secs(60.0)), Some(secs(3600.0))));
    assert_ne!(search.scope, core.scope);
    assert_eq!(search.scope, about(&said(GitHub, 200, &text("search")), Requests).scope);
}

#[test]
fn discords_span_is_taken_before_its_point_in_time() {
    let said = said(
        Generic,
        200,
        "X-RateLimit-Limit: 5
         X-RateLimit-Remaining: 0
         X-RateLimit-Reset: 1470173023.123
         X-RateLimit-Reset-After: 1.25
         X-RateLimit-Bucket: abcd1234",
    );
    let requests = about(&said, Requests);
    assert_eq!(requests.reset, Some(Reset::WindowEnd(secs(1.25))));
    assert!(matches!(requests.scope, Scope::Pool(_)));
}

#[rstest]
#[case::shopify("X-Shopify-Shop-Api-Call-Limit: 32/40", (Some(40), Some(8), Some(20)))]
#[case::docker("ratelimit-limit: 100;w=21600\nratelimit-remaining: 0;w=21600", (Some(100), Some(0), Some(21_600)))]
#[case::reddit("X-Ratelimit-Remaining: 598.0\nX-Ratelimit-Used: 2\nX-Ratelimit-Reset: 300", (Some(600), Some(598), None))]
#[case::x("x-rate-limit-limit: 900\nx-rate-limit-remaining: 899\nx-rate-limit-reset: 1755780600", (Some(900), Some(899), None))]
#[case::x_app("x-app-limit-24hour-limit: 500\nx-app-limit-24hour-remaining: 499", (Some(500), Some(499), Some(86_400)))]
#[case::lists("RateLimit: \"default\";r=50;t=30\nRateLimit-Policy: \"default\";q=100;w=60", (Some(100), Some(50), Some(60)))]
#[case::tokens("RateLimit: default;r=50;t=30", (None, Some(50), None))]
#[case::dictionary("RateLimit: limit=100, remaining=50, reset=30\nRateLimit-Policy: 100;w=60", (Some(100), Some(50), Some(60)))]
#[case::plain("RateLimit-Limit: 100\nRateLimit-Remaining: 50\nRateLimit-Reset: 30\nRateLimit-Policy: 100;w=60", (Some(100), Some(50), Some(60)))]
#[case::oldest("RateLimit-Limit: 10, 10;w=1, 50;w=60\nRateLimit-Remaining: 5\nRateLimit-Reset: 1", (Some(10), Some(5), Some(1)))]
#[case::more_than_all("x-ratelimit-limit: 10\nx-ratelimit-remaining: 11", (Some(10), Some(10), None))]
#[case::nothing_allowed("x-ratelimit-limit: 0\nx-ratelimit-remaining: 5", (None, Some(5), None))]
fn any_other_api_is_read_as_well(#[case] text: &str, #[case] expected: (Option<u64>, Option<u64>, Option<u64>)) {
    assert_eq!(amounts(about(&said(Generic, 200, text), Requests)), expected);
}

#[test]
fn several_policies_are_several_limits() {
    let said = said(
        Generic,
        200,
        "RateLimit-Policy: \"a\";q=100;w=60,\"b\";q=1000;w=86400
         RateLimit-Policy: \"c\";q=5;qu=\"concurrent-requests\"
         RateLimit: \"b\";r=900;t=3600",
    );
    let limits: Vec<_> = said.statements.iter().map(|said| (amounts(*said), said.reset)).collect();
    assert_eq!(
        limits,
        [
            ((Some(1000), Some(900), Some(86_400)), Some(Reset::WindowEnd(secs(3600.0)))),
            ((Some(100), None, Some(60)), None),
        ]
    );
}

#[rstest]
#[case("retry-after: 7.66", Some(7.66))]
#[case("retry-after: 2.0", Some(2.0))]
#[case("retry-after: 0", Some(0.0))]
#[case("retry-after: -5", Some(0.0))]
#[case("date: Wed, 21 Oct 2026 07:27:00 GMT\nretry-after: Wed, 21 Oct 2026 07:28:00 GMT", Some(60.0))]
#[case("retry-after: abc", None)]
#[case("retry-after: ", None)]
#[case("retry-after: 1\nretry-after-ms: 250", Some(0.25))]
#[case("retry-after: 1\nretry-after-ms: NaN", Some(1.0))]
fn retry_after_is_read_in_both_forms(#[case] text: &str, #[case] expected: Option<f64>) {
    assert_eq!(said(Generic, 429, text).retry_after, expected.map(secs));
    assert_eq!(said(Generic, 200, text).retry_after, None);
}

#[test]
fn a_cached_response_says_nothing_of_now() {
    let text = "age: 30\nx-ratelimit-limit: 10\nx-ratelimit-remaining: 0\nRateLimit: \"default\";r=0;t=30";
    assert_eq!(said(Generic, 200, text), Said::default());
}

#[rstest]
#[case("x-ratelimit-limit: 1e30\nx-ratelimit-remaining: NaN\nx-ratelimit-reset: inf")]
#[case("x-ratelimit-limit: -1\nx-ratelimit-remaining: -1")]
#[case("x-ratelimit-limit: yes\nx-ratelimit-near-limit: true")]
#[case("RateLimit: ;;;\nRateLimit-Policy: \"a\";q=\"b\"")]
#[case("x-shopify-shop-api-call-limit: 1/0")]
#[case("anthropic-ratelimit-unified-status: rejected")]
fn nonsense_is_ignored(#[case] text: &str) {
    assert_eq!(said(Generic, 429, text), Said::default());
}

#[test]
fn a_reset_is_believed_as_far_as_its_window_allows() {
    let text =
        "x-ratelimit-limit-req-minute: 60\nx-ratelimit-remaining-req-minute: 0\nx-ratelimit-reset-req-minute: 90000";
    assert_eq!(about(&said(Mistral, 200, text), Requests).reset, Some(Reset::Unknown(secs(600.0))));
}

#[test]
fn the_wait_for_an_amount_follows_from_the_refill() {
    let bucket = Statement {
        limit: Some(6000),
        remaining: Some(1000),
        reset: Some(Reset::ToFull(secs(50.0))),
        ..Statement::new(Tokens, Scope::Model)
    };
    assert_eq!(bucket.wait_for(1000), Some(Duration::ZERO));
    assert_eq!(bucket.wait_for(2000), Some(secs(10.0)));
    assert_eq!(bucket.wait_for(1_000_000), Some(secs(50.0)));
}

#[test]
fn however_many_limits_are_named_only_so_many_are_kept() {
    let text: String = (1..200).map(|n| format!("x-ratelimit-limit-requests-{n}-minute: 5\n")).collect();
    assert_eq!(said(Generic, 200, &text).statements.len(), MOST_STATEMENTS);
}

proptest! {
    #[test]
    fn no_fields_panic(
        lines in prop::collection::vec((
            "(x-ratelimit|anthropic-ratelimit|anthropic-ratelimit-unified|ratelimit|x-tokenlimit)\
             (-(limit|remaining|used|reset|after|policy|renewalperiod|status|tokens|requests|input|5h|7d|day|[0-9]{1,12}|month)){0,4}\
             |retry-after(-ms)?|date|age|x-shopify-shop-api-call-limit",
            "[-+0-9.eEnNaAiIfmshTZ:;,=w\"/ rqt]{0,40}|[ -~]{0,60}",
        ), 0..12),
        status in 200u16..600,
    ) {
        let headers: Fields = lines
            .iter()
            .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?)))
            .collect();
        for kind in [OpenAi, Azure, Anthropic, Groq, Cerebras, Mistral, Together, OpenRouter, GitHub, Generic] {
            let said = read_limits(kind, status, &headers, NOW);
            prop_assert!(said.statements.len() <= MOST_STATEMENTS);
            for statement in &said.statements {
                let _ = statement.wait_for(1_000);
                prop_assert!(statement.remaining.unwrap_or(0) <= statement.limit.unwrap_or(u64::MAX));
            }
        }
    }
}
