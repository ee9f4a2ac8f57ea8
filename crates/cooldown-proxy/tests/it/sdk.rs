//! The official SDKs, unmodified and with their own retries off, through the proxy.
//!
//! They are loud: an interpreter that starts keeps a core busy.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use cooldown_pacer::Unit;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::provider::{Allowance, Behaviour, Dialect, Failure, LlmProvider, Outcome, StreamError, When};
use crate::support::{PATIENCE, Proxy, loud};

/// One per cent shorter than the second that the proxy paces for, for the noise of a shared machine.
const SHORT_SECOND: Duration = Duration::from_millis(990);
/// What a crowd asks for at once.
const CROWD: usize = 40;
/// A crowd should take three seconds.
const LONGEST_CROWD: Duration = Duration::from_secs(5);
/// What the provider allows in a second, and lets go at once after idling.
const RATE: u32 = 10;

/// An SDK, and the script that calls with it.
#[derive(Debug, Clone, Copy)]
enum Sdk {
    OpenAiPython,
    AnthropicPython,
    OpenAiNode,
}

impl Sdk {
    fn dialect(self) -> Dialect {
        if matches!(self, Self::AnthropicPython) { Dialect::Anthropic } else { Dialect::OpenAi }
    }

    /// The provider's name in the configuration, which stands in the base URL.
    fn provider(self) -> &'static str {
        if matches!(self, Self::AnthropicPython) { "anthropic" } else { "openai" }
    }

    /// Runs a scenario of its script against the proxy, and returns what it printed.
    async fn run(self, proxy: &Proxy, scenario: &str) -> Value {
        let installed = installed();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
        let (interpreter, script) = match self {
            Self::OpenAiPython => (installed.join("python/bin/python"), "openai_sdk.py"),
            Self::AnthropicPython => (installed.join("python/bin/python"), "anthropic_sdk.py"),
            Self::OpenAiNode => (PathBuf::from("node"), "openai_sdk.cjs"),
        };
        let mut command = Command::new(interpreter);
        command.arg(scripts.join(script)).arg(format!("http://{}", proxy.address())).arg(scenario);
        // The SDKs read keys, base URLs and proxies from the environment.
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("NODE_PATH", installed.join("node_modules"));
        // The scripts import one another; nothing is written beside them.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).kill_on_drop(true);
        let ran = timeout(PATIENCE, command.output()).await.expect("it ends");
        let Output { status, stdout, stderr } = ran.expect("the SDKs are installed: run `make setup`");
        assert!(status.success(), "{self:?}: {}", String::from_utf8_lossy(&stderr));
        serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stdout)))
    }
}

/// Where `make setup` installs the SDKs: beside the build.
fn installed() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_cooldown-proxy")).ancestors().map(|folder| folder.join("sdk"));
    let found = beside.into_iter().find(|folder| folder.join("installed").is_file());
    found.expect("the SDKs are not installed: run `make setup`")
}

/// A proxy before a provider that fails for the models `*-bad`, `*-denied` and `*-broken`.
fn proxy_before_failures(sdk: Sdk) -> (LlmProvider, Proxy) {
    let later = Failure::StreamError { after: 2, error: StreamError::Capacity };
    let behaviour = Behaviour::new(sdk.dialect())
        .keys(&["sk-test"])
        .failing(When::Model("gpt-bad"), Failure::BadRequest)
        .failing(When::Model("claude-bad"), Failure::BadRequest)
        .failing(When::Model("gpt-denied"), Failure::Unauthorized)
        .failing(When::Model("claude-denied"), Failure::Unauthorized)
        .failing(When::Model("gpt-broken"), later)
        .failing(When::Model("claude-broken"), later);
    let provider = LlmProvider::start(behaviour);
    let proxy = proxy(sdk, &provider, 100);
    (provider, proxy)
}

fn proxy(sdk: Sdk, provider: &LlmProvider, rate: u32) -> Proxy {
    let (name, url) = (sdk.provider(), provider.url());
    Proxy::start(&format!("providers:\n  {name}: {{api_key: sk-test, endpoint: \"{url}\", rate_limit: {rate}}}"))
}

/// What both of OpenAI's SDKs must bring.
fn assert_openai_calls(came: &Value) {
    let five = json!(["word word word word word ", 5]);
    assert_eq!(
        (&came["plain"], &came["stream"], &came["responses"], &came["responses_stream"]),
        (&five, &five, &five, &five)
    );
    assert_eq!(came["silent"], json!([7, false]), "who does not ask for usage sees none");
    assert_eq!(came["tool"], json!(["weather", {"city": "Paris"}]));
    assert_eq!((&came["embedding"], &came["models"]), (&json!(3), &json!(["mock-1"])));
    assert_eq!(came["broken_stream"]["class"], "APIError");
    let error = |class: &str, status: u16, code: Value| json!({"class": class, "status": status, "code": code});
    assert_eq!(came["bad_request"], error("BadRequestError", 400, Value::Null));
    assert_eq!(came["no_route"], error("NotFoundError", 404, json!("no_route")));
    assert_eq!(came["unauthorized"], error("AuthenticationError", 401, json!("invalid_api_key")));
}

#[tokio::test]
async fn openais_python_sdk_calls_streams_and_fails_as_it_does_without_a_proxy() {
    let _loud = loud().await;
    let (provider, proxy) = proxy_before_failures(Sdk::OpenAiPython);
    assert_openai_calls(&Sdk::OpenAiPython.run(&proxy, "calls").await);
    assert_eq!((provider.accepted(), provider.count(Outcome::Invalid)), (8, 0));
}

#[tokio::test]
async fn openais_node_sdk_calls_streams_and_fails_as_it_does_without_a_proxy() {
    let _loud = loud().await;
    let (provider, proxy) = proxy_before_failures(Sdk::OpenAiNode);
    assert_openai_calls(&Sdk::OpenAiNode.run(&proxy, "calls").await);
    assert_eq!((provider.accepted(), provider.count(Outcome::Invalid)), (8, 0));
}

#[tokio::test]
async fn anthropics_python_sdk_calls_streams_and_fails_as_it_does_without_a_proxy() {
    let _loud = loud().await;
    let (provider, proxy) = proxy_before_failures(Sdk::AnthropicPython);
    let came = Sdk::AnthropicPython.run(&proxy, "calls").await;
    let five = json!(["word word word word word ", 5]);
    assert_eq!((&came["plain"], &came["stream"]), (&five, &five));
    assert_eq!((&came["tool"], &came["stopped_by"]), (&json!(["weather", {"city": "Paris"}]), &json!("tool_use")));
    assert!(came["broken_stream"]["class"].is_string(), "{came}");
    let error = |class: &str, status: u16, code: Value| json!({"class": class, "status": status, "code": code});
    assert_eq!(came["bad_request"], error("BadRequestError", 400, Value::Null));
    assert_eq!(came["no_route"], error("NotFoundError", 404, json!("no_route")));
    assert_eq!(came["unauthorized"], error("AuthenticationError", 401, Value::Null));
    assert_eq!((provider.accepted(), provider.count(Outcome::Invalid)), (3, 0));
}

/// Forty calls at once against ten a second are all answered. While they wait, a call that allows two seconds is refused
/// at once.
async fn assert_a_crowd_is_served(sdk: Sdk) {
    let _loud = loud().await;
    let limit = Allowance::new(Unit::Requests, RATE, SHORT_SECOND);
    // One that does not tell its limits: Anthropic tells times in whole seconds, too coarse for ten a second.
    let provider = LlmProvider::start(Behaviour::new(Dialect::Silent).limit(limit));
    let proxy = proxy(sdk, &provider, RATE);
    let came = sdk.run(&proxy, "crowd").await;
    assert_eq!(came["errors"], json!([]));
    let refused = &came["refused"];
    assert_eq!((&refused["class"], &refused["code"]), (&json!("RateLimitError"), &json!("wait_too_long")), "{came}");
    assert!(refused["seconds"].as_f64().is_some_and(|seconds| seconds < 0.5), "{came}");
    assert_eq!((provider.accepted(), provider.breaches()), (CROWD, 0));
    let attempts = provider.attempts();
    let span = attempts[CROWD - 1].arrival.duration_since(attempts[0].arrival);
    assert!(span < LONGEST_CROWD, "what could leave at once, and 30 more at ten a second: {span:?}");
}

#[tokio::test]
async fn forty_calls_of_openais_python_sdk_meet_no_429_and_an_impatient_one_is_refused_at_once() {
    assert_a_crowd_is_served(Sdk::OpenAiPython).await;
}

#[tokio::test]
async fn forty_calls_of_openais_node_sdk_meet_no_429_and_an_impatient_one_is_refused_at_once() {
    assert_a_crowd_is_served(Sdk::OpenAiNode).await;
}

#[tokio::test]
async fn forty_calls_of_anthropics_python_sdk_meet_no_429_and_an_impatient_one_is_refused_at_once() {
    assert_a_crowd_is_served(Sdk::AnthropicPython).await;
}
