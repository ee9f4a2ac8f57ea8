//! The class of real responses, and of bodies that are none.

use cooldown_pacer::LONGEST_PERIOD;
use cooldown_pacer::Unit::{InputTokens, OutputTokens, Requests, Tokens};
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::config::model::ProviderKind::*;
use crate::provider::limits::Reset;

/// Sun, 22 Nov 2026 20:00:00 GMT: noon in Los Angeles.
const NOW: UnixTime = UnixTime::from_secs(1_795_377_600);

fn class(kind: ProviderKind, status: u16, fields: &str, body: &str) -> Class {
    let headers = fields.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, value)| {
        let name: HeaderName = name.parse().expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    });
    let body = (!body.is_empty()).then_some(body.as_bytes());
    classify(kind, status, &headers.collect(), body, NOW)
}

/// Axis, scope and wait in seconds of a class that must be a limit.
fn limit(class: Class) -> (Option<Unit>, Scope, Option<f64>) {
    let Class::Limit { axis, scope, wait, .. } = class else { panic!("no limit: {class:?}") };
    (axis, scope, wait.map(|wait| (wait.as_secs_f64() * 1e6).round() / 1e6))
}

const OPENAI_TOKENS: &str = r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 200000, Used 199821, Requested 2295. Please try again in 634ms. Visit https://platform.openai.com/account/rate-limits to learn more.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
const OPENAI_TOO_LARGE: &str = r#"{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 45411. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#;
const OPENAI_MONEY: &str = r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
const GROQ_DAY: &str = r#"{"error":{"message":"Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on tokens per day (TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s. Need more tokens? Upgrade to Dev Tier today","type":"tokens","code":"rate_limit_exceeded"}}"#;
const GROQ_MINUTE: &str = r#"{"error":{"message":"Rate limit reached for model `llama` in organization `org_x` on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s.","type":"tokens","code":"rate_limit_exceeded"}}"#;
const GROQ_TOO_LARGE: &str = r#"{"error":{"message":"Request too large for model `openai/gpt-oss-120b` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): Limit 8000, Requested 32979, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#;
const GROQ_OUTPUT_TOO_LARGE: &str = r#"{"error":{"message":"Request too large for model `m` on output tokens per minute (OTPM): Limit 4000, Requested 8192, please reduce your message size and try again.","type":"tokens","code":"rate_limit_exceeded"}}"#;
const ANTHROPIC_LIMIT: &str = r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 10,000 input tokens per minute. For details, refer to: https://docs.claude.com"},"request_id":"req_x"}"#;
const ANTHROPIC_ACCOUNT: &str = r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your account's rate limit. Please try again later."},"request_id":"req_x"}"#;
const ANTHROPIC_SPEND: &str = r#"{"type":"error","error":{"type":"rate_limit_error","message":"Spend limit reached","details":{"error_code":"enforced_spend_limit_reached"}}}"#;
const ANTHROPIC_MONTH: &str = r#"{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your account's monthly spend limit. Please try again later."}}"#;
const ANTHROPIC_OWN_SPEND: &str = r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-08-01 at 00:00 UTC."}}"#;
const ANTHROPIC_OVERLOADED: &str = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
const MISTRAL_LIMIT: &str =
    r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}"#;
const MISTRAL_FULL: &str = r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","param":null,"code":"3505"}"#;
const TOGETHER_TOKENS: &str =
    r#"{"error":{"message":"too fast","type":"rate_limit"},"error_type":"dynamic_token_limited"}"#;
const OPENROUTER_DAY: &str = r#"{"error":{"message":"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day","code":429,"metadata":{"headers":{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1795392000000"},"provider_name":null}},"user_id":"u"}"#;
const OPENROUTER_BEHIND: &str = r#"{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"m is temporarily rate-limited upstream","provider_name":"Chutes"}}}"#;
const GITHUB_SECONDARY: &str = r#"{"documentation_url":"https://docs.github.com/rest","message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}"#;
const GITHUB_PRIMARY: &str =
    r#"{"message":"API rate limit exceeded for user ID 1.","documentation_url":"https://docs.github.com/rest"}"#;
const GITHUB_FORBIDDEN: &str =
    r#"{"message":"Resource not accessible by integration","documentation_url":"https://docs.github.com/rest"}"#;
const DISCORD: &str = r#"{"message":"You are being rate limited.","retry_after":64.57,"global":false}"#;
const STRIPE_LOCK: &str = r#"{"error":{"code":"lock_timeout","message":"This object cannot be accessed right now","type":"invalid_request_error"}}"#;
const SHOPIFY_THROTTLED: &str = r#"{"errors":[{"message":"Throttled","extensions":{"code":"THROTTLED"}}],"extensions":{"cost":{"requestedQueryCost":202,"actualQueryCost":null,"throttleStatus":{"maximumAvailable":1000.0,"currentlyAvailable":118,"restoreRate":50.0}}}}"#;
const GITHUB_GRAPHQL: &str = r#"{"data":null,"errors":[{"type":"RATE_LIMITED","message":"API rate limit exceeded"}]}"#;
const APIM_QUOTA: &str =
    r#"{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:05:12."}"#;
const CEREBRAS_FULL: &str = r#"{"message":"We're experiencing high traffic right now! Please try again soon.","type":"too_many_requests_error","param":"queue","code":"queue_exceeded"}"#;
const CEREBRAS_TOKENS: &str = r#"{"message":"Tokens per minute limit exceeded - too many tokens processed.","type":"too_many_requests_error","param":"quota","code":"token_quota_exceeded"}"#;
const AZURE_LIMIT: &str = r#"{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation have exceeded token rate limit of your current pricing tier. Please retry after 1 second."}}"#;
const BEDROCK: &str = r#"{"__type":"com.amazon.coral.service#ThrottlingException","message":"Too many requests, please wait before trying again."}"#;

/// A 429 of Gemini's for this quota.
fn gemini(quota: &str, value: &str, delay: &str) -> String {
    format!(
        r#"{{"error":{{"code":429,"message":"You exceeded your current quota, please check your plan and billing details. Please retry in {delay}.","status":"RESOURCE_EXHAUSTED","details":[{{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{"quotaMetric":"generativelanguage.googleapis.com/generate_content_free_tier_requests","quotaId":"{quota}","quotaDimensions":{{"location":"global","model":"gemini-2.5-pro"}},"quotaValue":"{value}"}}]}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}"}}]}}}}"#
    )
}

#[rstest]
#[case::openai(OpenAi, 429, "retry-after: 1", OPENAI_TOKENS, (Some(Tokens), Scope::Model, Some(0.6348)))]
#[case::groq_day(Groq, 429, "retry-after: 579", GROQ_DAY, (Some(Tokens), Scope::Model, Some(578.016)))]
#[case::groq_minute(Groq, 429, "retry-after: 4.77", GROQ_MINUTE, (Some(Tokens), Scope::Model, Some(4.77)))]
#[case::a_longer_retry_after_holds(OpenAi, 429, "retry-after: 20", OPENAI_TOKENS, (Some(Tokens), Scope::Model, Some(20.0)))]
#[case::anthropic(Anthropic, 429, "retry-after: 12", ANTHROPIC_LIMIT, (Some(InputTokens), Scope::Model, Some(12.0)))]
#[case::anthropic_without_a_wait(Anthropic, 429, "", ANTHROPIC_ACCOUNT, (None, Scope::Model, None))]
#[case::mistral(Mistral, 429, "", MISTRAL_LIMIT, (None, Scope::Model, None))]
#[case::together(Together, 429, "x-ratelimit-reset: 2", TOGETHER_TOKENS, (Some(Tokens), Scope::Model, Some(2.0)))]
#[case::openrouter(OpenRouter, 429, "", OPENROUTER_DAY, (Some(Requests), Scope::Key, Some(14_400.0)))]
#[case::github_secondary(GitHub, 403, "x-ratelimit-remaining: 4000", GITHUB_SECONDARY, (Some(Requests), Scope::Key, Some(60.0)))]
#[case::github_secondary_with_a_wait(GitHub, 429, "retry-after: 90", GITHUB_SECONDARY, (Some(Requests), Scope::Key, Some(90.0)))]
#[case::github_primary(GitHub, 403, "x-ratelimit-remaining: 0\nx-ratelimit-reset: 1795377630", GITHUB_PRIMARY, (Some(Requests), Scope::Key, Some(31.0)))]
#[case::discord(Generic, 429, "retry-after: 65", DISCORD, (None, Scope::Key, Some(64.57)))]
#[case::slack(Generic, 429, "retry-after: 30", "", (None, Scope::Key, Some(30.0)))]
#[case::apim_quota(Azure, 403, "", APIM_QUOTA, (None, Scope::Model, Some(312.0)))]
#[case::cerebras(Cerebras, 429, "", CEREBRAS_TOKENS, (Some(Tokens), Scope::Model, None))]
#[case::azure(Azure, 429, "retry-after: 1\nretry-after-ms: 0\nx-ratelimit-remaining-tokens: 0\nx-ratelimit-reset-tokens: 0\nx-ratelimit-renewalperiod-tokens: 60", AZURE_LIMIT, (Some(Tokens), Scope::Model, Some(60.0)))]
#[case::foundry(Azure, 429, "retry-after: 5\nx-ratelimit-type: Tokens", "", (Some(Tokens), Scope::Model, Some(5.0)))]
#[case::bedrock(Generic, 400, "", BEDROCK, (None, Scope::Key, None))]
#[case::shopify_security(Generic, 430, "", "", (None, Scope::Key, None))]
#[case::groq_flex(Groq, 498, "", "", (None, Scope::Model, None))]
#[case::plain_text(Generic, 429, "", "Slow down. Try again in 30 seconds.", (None, Scope::Key, Some(30.0)))]
#[case::gemini_without_details(Gemini, 429, "", r#"{"error":{"code":429,"message":"Resource has been exhausted","status":"RESOURCE_EXHAUSTED"}}"#, (None, Scope::Model, None))]
#[case::only_a_time(Generic, 429, "x-ratelimit-reset: 7", "", (None, Scope::Key, Some(7.0)))]
fn a_limit_is_waited_for(
    #[case] kind: ProviderKind,
    #[case] status: u16,
    #[case] fields: &str,
    #[case] body: &str,
    #[case] expected: (Option<Unit>, Scope, Option<f64>),
) {
    let class = class(kind, status, fields, body);
    assert_eq!(limit(class), expected);
}

#[rstest]
#[case(OpenAi, "(TPM): Limit 10, Used 1000, Requested 1.")]
#[case(Gemini, &gemini("GenerateRequestsPerMinutePerProjectPerModel", "250", "2678400s"))]
fn no_reset_is_believed_that_its_window_does_not_allow(#[case] kind: ProviderKind, #[case] body: &str) {
    let Class::Limit { stated: Some(stated), .. } = class(kind, 429, "", body) else { panic!("a stated limit") };
    assert_eq!(stated.window, Some(Duration::from_secs(60)));
    assert_eq!(stated.reset.map(Reset::after), Some(Duration::from_secs(600)));
}

#[test]
fn no_amount_is_believed_that_no_api_allows() {
    let body = "(TPM): Limit 9999999999999999, Used 1, Requested 1. Please try again in 5s.";
    let Class::Limit { stated: Some(stated), wait, .. } = class(OpenAi, 429, "", body) else {
        panic!("a stated limit")
    };
    assert_eq!((stated.limit, stated.remaining), (None, None));
    assert_eq!(wait, Some(Duration::from_secs(5)));
}

#[test]
fn githubs_margin_makes_no_wait_longer_than_the_longest() {
    let fields = "x-ratelimit-remaining: 0\nx-ratelimit-reset: 1826000000";
    assert_eq!(limit(class(GitHub, 403, fields, "")).2, Some(LONGEST_PERIOD.as_secs_f64()));
}

#[rstest]
#[case::minute("GenerateContentInputTokensPerModelPerMinute-FreeTier", "34.4s", (Some(InputTokens), Scope::Model, Some(34.4)))]
#[case::requests("GenerateRequestsPerMinutePerProjectPerModel", "53s", (Some(Requests), Scope::Model, Some(53.0)))]
#[case::a_day_ends_at_pacific_midnight("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "22s", (Some(Requests), Scope::Model, Some(43_200.0)))]
fn geminis_quota_tells_axis_and_wait(
    #[case] quota: &str,
    #[case] delay: &str,
    #[case] expected: (Option<Unit>, Scope, Option<f64>),
) {
    let class = class(Gemini, 429, "", &gemini(quota, "250", delay));
    assert_eq!(limit(class), expected);
    let Class::Limit { stated: Some(stated), .. } = class else { panic!("{class:?}") };
    assert_eq!((stated.limit, stated.remaining), (Some(250), Some(0)));
}

#[test]
fn a_refusal_tells_the_limit_exactly() {
    let Class::Limit { stated: Some(stated), .. } = class(Groq, 429, "", GROQ_DAY) else { panic!("no limit") };
    assert_eq!((stated.axis, stated.limit, stated.remaining), (Tokens, Some(100_000), Some(2950)));
    assert_eq!(stated.window, Some(Duration::from_secs(86_400)));
    assert!(matches!(stated.reset, Some(Reset::ToFull(_))));
    let Class::Limit { stated: Some(stated), .. } = class(OpenRouter, 429, "", OPENROUTER_DAY) else {
        panic!("no limit")
    };
    assert_eq!((stated.limit, stated.window), (Some(50), Some(Duration::from_secs(86_400))));
}

#[rstest]
#[case::openai(OpenAi, 429, "", OPENAI_MONEY)]
#[case::anthropic(Anthropic, 429, "", ANTHROPIC_SPEND)]
#[case::anthropic_even_with_a_wait(Anthropic, 429, "retry-after: 600", ANTHROPIC_MONTH)]
#[case::anthropic_own(Anthropic, 400, "", ANTHROPIC_OWN_SPEND)]
#[case::anthropic_without_a_reason(Anthropic, 429, "", "")]
#[case::openrouter(OpenRouter, 402, "", r#"{"error":{"code":402,"message":"Insufficient credits"}}"#)]
#[case::deepseek(DeepSeek, 402, "", r#"{"error":{"message":"Insufficient Balance"}}"#)]
fn spent_money_is_not_waited_for(
    #[case] kind: ProviderKind,
    #[case] status: u16,
    #[case] fields: &str,
    #[case] body: &str,
) {
    assert_eq!(class(kind, status, fields, body), Class::Money);
}

#[rstest]
#[case::openai(OpenAi, 429, OPENAI_TOO_LARGE, Some(Tokens), Some(30_000))]
#[case::groq(Groq, 413, GROQ_TOO_LARGE, Some(Tokens), Some(8000))]
#[case::groq_output(Groq, 413, GROQ_OUTPUT_TOO_LARGE, Some(OutputTokens), Some(4000))]
#[case::too_many_bytes(Generic, 413, "", None, None)]
fn what_can_never_fit_is_told_so(
    #[case] kind: ProviderKind,
    #[case] status: u16,
    #[case] body: &str,
    #[case] axis: Option<Unit>,
    #[case] limit: Option<u64>,
) {
    assert_eq!(class(kind, status, "", body), Class::Impossible { axis, limit });
}

#[test]
fn a_model_that_a_tier_does_not_have_can_never_be_asked() {
    let body = gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "0", "22s");
    assert_eq!(class(Gemini, 429, "", &body), Class::Impossible { axis: Some(Requests), limit: Some(0) });
}

#[rstest]
#[case::anthropic(Anthropic, 529, "", ANTHROPIC_OVERLOADED, None)]
#[case::unavailable(Together, 503, "", "", None)]
#[case::unavailable_for_a_while(OpenAi, 503, "retry-after: 3", "", Some(3))]
#[case::slow_down(OpenAi, 429, "", r#"{"error":{"type":"slow_down","message":"ramping too fast"}}"#, None)]
#[case::mistral(Mistral, 429, "", MISTRAL_FULL, None)]
#[case::cerebras(Cerebras, 429, "", CEREBRAS_FULL, None)]
#[case::openrouter(OpenRouter, 429, "", OPENROUTER_BEHIND, None)]
#[case::stripe_lock(Generic, 429, "", STRIPE_LOCK, None)]
#[case::problem(
    Generic,
    429,
    "",
    r#"{"type":"https://iana.org/assignments/http-problem-types#temporary-reduced-capacity","title":"Reduced"}"#,
    None
)]
fn a_full_upstream_is_no_limit_of_ours(
    #[case] kind: ProviderKind,
    #[case] status: u16,
    #[case] fields: &str,
    #[case] body: &str,
    #[case] wait: Option<u64>,
) {
    assert_eq!(class(kind, status, fields, body), Class::Capacity { wait: wait.map(Duration::from_secs) });
}

#[rstest]
#[case(OpenAi, 401, "", Class::Credentials)]
#[case(
    Gemini,
    400,
    r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}"#,
    Class::Credentials
)]
#[case(GitHub, 403, GITHUB_FORBIDDEN, Class::Fault)]
#[case(
    OpenAi,
    400,
    r#"{"error":{"code":"context_length_exceeded","message":"limit 8192, requested 9000"}}"#,
    Class::Fault
)]
#[case(OpenAi, 400, r#"{"error":{"message":"Invalid prompt: our spend limit, try again in 5s"}}"#, Class::Fault)]
#[case(Generic, 500, "", Class::Fault)]
#[case(Generic, 404, "not found", Class::Fault)]
#[case(Generic, 200, "", Class::Fine)]
#[case(Generic, 304, "", Class::Fine)]
fn other_errors_are_nobodys_limit(
    #[case] kind: ProviderKind,
    #[case] status: u16,
    #[case] body: &str,
    #[case] expected: Class,
) {
    assert_eq!(class(kind, status, "", body), expected);
}

#[rstest]
#[case::stripe_rate("stripe-rate-limited-reason: global-rate")]
fn stripes_reason_tells_a_limit_from_a_lock(#[case] fields: &str) {
    assert_eq!(limit(class(Generic, 429, fields, STRIPE_LOCK)), (None, Scope::Key, None));
}

#[rstest]
#[case(Generic, SHOPIFY_THROTTLED, Some(1.68))]
#[case(GitHub, GITHUB_GRAPHQL, Some(60.0))]
fn graphql_refuses_with_a_200(#[case] kind: ProviderKind, #[case] body: &str, #[case] wait: Option<f64>) {
    assert_eq!(limit(class(kind, 200, "", body)).2, wait);
}

#[rstest]
#[case::chat(OpenAi, OPENAI_TOKENS, "limit")]
#[case::responses(OpenAi, r#"{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"rate_limit_exceeded","message":"Rate limit reached on tokens per min (TPM): Limit 200000, Used 199821, Requested 2295."}}}"#, "limit")]
#[case::responses_error(
    OpenAi,
    r#"{"type":"error","code":"rate_limit_exceeded","message":"slow","param":null,"sequence_number":1}"#,
    "limit"
)]
#[case::openrouter(
    OpenRouter,
    r#"{"id":"x","choices":[{"delta":{},"finish_reason":"error"}],"error":{"code":429,"message":"slow"}}"#,
    "limit"
)]
#[case::anthropic_limit(Anthropic, ANTHROPIC_ACCOUNT, "limit")]
#[case::anthropic_unreasoned(
    Anthropic,
    r#"{"type":"error","error":{"details":null,"type":"rate_limit_error","message":"Slow"}}"#,
    "limit"
)]
#[case::anthropic_full(Anthropic, ANTHROPIC_OVERLOADED, "capacity")]
#[case::gemini_full(Gemini, r#"[{"error":{"code":503,"status":"UNAVAILABLE","message":"overloaded"}}]"#, "capacity")]
#[case::money(OpenAi, OPENAI_MONEY, "money")]
#[case::server(OpenAi, r#"{"error":{"type":"server_error","message":"The server had an error"}}"#, "fault")]
#[case::responses_fine(
    OpenAi,
    r#"{"type":"response.created","response":{"id":"r","status":"in_progress","error":null,"usage":null}}"#,
    "fine"
)]
#[case::anthropic_fine(
    Anthropic,
    r#"{"type":"message_start","message":{"id":"m","role":"assistant","usage":{"input_tokens":9}}}"#,
    "fine"
)]
#[case::chat_fine(
    OpenAi,
    r#"{"id":"x","object":"chat.completion.chunk","choices":[{"delta":{"content":"rate_limit_exceeded"}}]}"#,
    "fine"
)]
#[case::any_fine(Generic, r#"{"status":"unavailable","type":"tokens","code":429}"#, "fine")]
#[case::partial_graphql(GitHub, r#"{"data":{"a":1},"errors":[{"type":"NOT_FOUND","message":"no"}]}"#, "fine")]
#[case::no_json(OpenAi, "[DONE]", "fine")]
fn an_event_of_a_stream_has_the_class_of_its_error(
    #[case] kind: ProviderKind,
    #[case] json: &str,
    #[case] expected: &str,
) {
    let class = match classify_error_json(kind, json.as_bytes(), NOW) {
        Class::Fine => "fine",
        Class::Limit { .. } => "limit",
        Class::Capacity { .. } => "capacity",
        Class::Money => "money",
        Class::Impossible { .. } => "impossible",
        Class::Credentials => "credentials",
        Class::Fault => "fault",
    };
    assert_eq!(class, expected);
}

#[rstest]
#[case::invalid_utf8(b"{\"error\":{\"message\":\"\xff\xfe\"}}".to_vec())]
#[case::truncated(br#"{"error":{"message":"try ag"#.to_vec())]
#[case::deep(vec![b'['; 100_000])]
#[case::long(vec![b'a'; 1 << 20])]
#[case::repeated(br#"{"error":{"code":1,"code":[],"message":{}},"error":[]}"#.to_vec())]
fn a_body_that_is_nonsense_is_ignored(#[case] body: Vec<u8>) {
    let class = classify(Generic, 429, &Fields::default(), Some(&body), NOW);
    assert_eq!(limit(class), (None, Scope::Key, None));
}

#[test]
fn a_wait_of_many_years_is_ignored() {
    for body in [r#"{"retry_after":1e30}"#, r#"{"retry_after":"99999999999"}"#, r#"{"message":"try again in 1e12s"}"#] {
        assert_eq!(limit(class(Generic, 429, "retry-after: 1e30", body)).2, None);
    }
}

proptest! {
    #[test]
    fn no_body_panics(
        body in "[{}\\[\\]:,\"0-9a-z .]{0,120}|\\PC{0,200}",
        name in "error|errors|message|retry_after|details|code|type|status|metadata|extensions",
        inner in "\"[ -~&&[^\"\\\\]]{0,60}\"|[0-9]{1,30}|null|\\[\\{\"violations\":\\[\\{\"quotaId\":\"PerDay\"\\}\\]\\}\\]",
        status in 200u16..600,
    ) {
        let nested = format!(r#"{{"error":{{"{name}":{inner}}},"{name}":{inner}}}"#);
        for kind in [OpenAi, Anthropic, Gemini, OpenRouter, GitHub, Generic] {
            for body in [&body, &nested] {
                let _ = classify(kind, status, &Fields::default(), Some(body.as_bytes()), NOW);
                let _ = classify_error_json(kind, body.as_bytes(), NOW);
            }
        }
    }
}

#[test]
fn a_stream_that_begins_with_trouble_of_the_upstreams_is_tried_again() {
    let stream = |json: &str| classify_in_place(OpenAi, &Fields::default(), json.as_bytes(), NOW);
    let trouble = r#"{"error":{"code":"server_error","message":"The server had an error."}}"#;
    assert_eq!(stream(trouble), Class::Capacity { wait: None });
    let blame = r#"{"error":{"type":"invalid_request_error","message":"There is no such tool."}}"#;
    assert_eq!(stream(blame), Class::Fault);
    assert_eq!(stream("{}"), Class::Fine);
}

#[rstest]
#[case::graphql(r#"{"errors":[{"type":"RATE_LIMITED"}]}"#, true)]
#[case::spaced(" \n{ \"errors\" : [", true)]
#[case::gateway(r#"{"error":{"code":429}"#, true)]
#[case::nothing_came(r#"{"data": null, "errors": []}"#, true)]
#[case::data(r#"{"data":{"error":1}}"#, false)]
#[case::no_error(r#"{"error":null,"choices":[]}"#, false)]
#[case::answer(r#"{"id":"1","error":{}}"#, false)]
#[case::other_name(r#"{"errors_of_fact":1}"#, false)]
#[case::cut_off(r#"{"error":"#, false)]
#[case::list("[]", false)]
#[case::nothing("", false)]
fn an_error_is_known_by_how_it_begins(#[case] json: &str, #[case] is_error: bool) {
    assert_eq!(begins_like_an_error(json.as_bytes()), is_error);
}

#[test]
fn the_fields_of_a_200_tell_how_long_its_error_lasts() {
    let headers =
        [("retry-after", "7")].map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let body = br#"{"errors":[{"type":"RATE_LIMITED","message":"API rate limit exceeded for user ID 1."}]}"#;
    let class = classify_in_place(GitHub, &headers.into_iter().collect(), body, NOW);
    assert_eq!(limit(class).2, Some(7.0));
}
