//! Whole configurations: what they mean, and how they are refused.

use std::time::Duration;

use cooldown_pacer::{Limit, Rate, Unit};
use proptest::prelude::*;
use rstest::rstest;

use super::model::{ClientBy, HostHeader, KeyField, Keys, LogFormat, Match, Provider, ProviderKind, RetryOn};
use super::{Config, Faults};
use crate::provider::{Charge, OutputReservation, Tokenizer};

/// The least that a file must hold, in front of what a test adds.
const BASE: &str = "server: {host: localhost, port: 8080}\nroutes: {api.example.com: \"https://api.example.com\"}\n";

fn environment(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("9090".to_owned()),
        "KEY" => Some("sk-from-env".to_owned()),
        "WORD" => Some("word-from-env".to_owned()),
        "YAML" => Some("1, evil: true}".to_owned()),
        _ => None,
    }
}

fn parse(text: &str) -> Result<Config, Faults> {
    super::parse("config.yaml", text, &environment)
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|faults| panic!("{faults}"))
}

fn messages(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|fault| fault.message.clone()).collect(),
    }
}

fn requests(amount: u64, seconds: u64) -> Rate {
    Rate::new(Unit::Requests, amount, Duration::from_secs(seconds)).expect("a valid rate")
}

#[test]
fn the_classic_form_means_what_it_says() {
    let config = valid(
        r#"
server:
  host: "localhost"
  port: 8080
routes:
  API.cerebras.ai: "https://api.cerebras.ai"
  "*.example.com": "https://backend.example.com"
rate_limits:
  - domain: "api.cerebras.ai"
    requests_per_second: 10
  - domain: "*.example.com"
    requests_per_second: 5
    burst: 1
    per: host
default_rate_limit:
  requests_per_second: 0.5
"#,
    );
    assert_eq!(config.routes[0].rule, Match::Host("api.cerebras.ai".to_owned()));
    assert_eq!(config.routes[0].upstream.host_header, HostHeader::Client);
    assert_eq!(config.routes[0].upstream.timeout, Duration::from_secs(60));
    assert_eq!(config.routes[1].rule, Match::Subdomains(".example.com".to_owned()));
    assert_eq!(config.domain_limits[0].limits.all, [Limit::Rate(requests(10, 1))]);
    let five = requests(5, 1).with_burst(1).expect("a valid burst");
    assert_eq!(config.domain_limits[1].limits.all, [Limit::Rate(five)]);
    assert!(config.domain_limits[1].per_host && !config.domain_limits[0].per_host);
    assert_eq!(config.default_limits.all, [Limit::Rate(requests(1, 2))]);
    let admin = config.admin.expect("the admin listener is on by default");
    assert_eq!((admin.host.as_str(), admin.port, admin.token.is_none()), ("localhost", 9900, true));
    assert_eq!(config.server.idle_timeout, Duration::from_secs(300));
    assert_eq!(config.queue.max_wait, Duration::from_secs(300));
    assert_eq!((config.retry.attempts, config.retry.hold_stream), (3, Duration::from_millis(2)));
    assert_eq!(config.queue.keepalive, None);
}

#[rstest]
#[case("anthropic", "", "/v1", KeyField::XApiKey)]
#[case("gemini", "", "/v1beta/openai", KeyField::XGoogApiKey)]
#[case("fireworks", "", "/inference/v1", KeyField::Authorization)]
#[case("openrouter", "endpoint: \"https://openrouter.ai/\"", "/api/v1", KeyField::Authorization)]
#[case("openrouter", "endpoint: \"https://openrouter.ai/api\"", "/v1", KeyField::Authorization)]
#[case("groq", "endpoint: \"http://localhost:9\"", "/v1", KeyField::Authorization)]
#[case("azure", "endpoint: \"https://me.openai.azure.com/openai\"", "/v1", KeyField::ApiKey)]
fn a_kind_knows_where_its_api_and_its_key_belong(
    #[case] kind: &str,
    #[case] endpoint: &str,
    #[case] unified_base: &str,
    #[case] key_field: KeyField,
) {
    let comma = if endpoint.is_empty() { "" } else { ", " };
    let config = valid(&format!("{BASE}providers: {{{kind}: {{api_key: k{comma}{endpoint}}}}}\n"));
    let provider = &config.providers[0];
    assert_eq!((provider.unified_base, provider.key_field), (unified_base, key_field));
}

#[test]
fn every_section_is_understood() {
    let config = valid(
        r#"
server:
  host: 127.0.0.1
  port: "${PORT}"
  workers: 2
  max_body: 1MiB
  header_timeout: 5s
  drain_timeout: 1m
  idle_timeout: 1h
routes:
  api.github.com:
    upstream: https://api.github.com
    provider: github
    limits: {requests: [10/s, "5000/h, burst 100"], concurrency: 20}
    timeout: 90
    connect_timeout: 3s
    host_header: upstream
  /internal: http://127.0.0.1:9000/base
  "*": http://[::1]:9001
rate_limits: [{domain: "*", limits: {tokens: 60k/min, input_tokens: 1M/day}}]
providers:
  cerebras: {api_key: "${KEY}", rate_limit: 10, timeout: 60}
  groq:
    api_keys: [one, two]
    models: ["llama-*"]
    limits: {requests: 30/min}
    model_limits: {"llama-*": {tokens: "30k/min, burst 5k"}}
    model_aliases: {gpt-4: llama-3.3-70b, 4o: llama-4}
    tokenizer: o200k_base
    fallback: true
  openai: {api_key: client}
  own:
    api_key: x
    key_field: api-key
    endpoint: "http://localhost:1/base"
    models: [m]
    provider: groq
    reserve_output: larger
    count_cached: true
    tokenizer: {"m-*": cl100k_base, m: off, "*": o200k_base}
  github: {api_key: client}
clients:
  alice: {token: "${KEY}", weight: 2, urgency: 1, limits: {requests: 100/min}}
  bob: {}
queue: {max_wait: 30s, max_depth: 7, keepalive: 15s, client_by: [token, x-cooldown-client, ip], ageing: 5s, guard: 0s}
retry: {attempts: 5, on: [429, connect], hold_stream: 0s}
admin: off
log: {level: debug, format: json, access: false}
"#,
    );
    assert_eq!(config.server.port, 9090);
    assert_eq!(config.server.workers.map(std::num::NonZeroUsize::get), Some(2));
    assert_eq!(config.server.max_body, 1 << 20);
    let github = &config.routes[0];
    assert_eq!((github.provider, github.limits.len()), (ProviderKind::GitHub, 3));
    assert_eq!(github.upstream.timeout, Duration::from_secs(90));
    assert_eq!(github.upstream.host_header, HostHeader::Upstream);
    assert_eq!(config.routes[1].upstream.base_path, "/base");
    assert_eq!(config.routes[2].upstream.host, "::1");
    let [cerebras, groq, openai, own, hub] = config.providers.as_slice() else { panic!("five providers") };
    assert_eq!((cerebras.upstream.host.as_str(), cerebras.upstream.tls), ("api.cerebras.ai", true));
    assert_eq!(cerebras.limits.all, [Limit::Rate(requests(10, 1))]);
    assert!(matches!(&cerebras.keys, Keys::Ours(keys) if keys[0].expose() == "sk-from-env"));
    assert!(matches!(&groq.keys, Keys::Ours(keys) if keys.len() == 2));
    assert_eq!(groq.model_limits[0].0.as_str(), "llama-*");
    assert_eq!(groq.model_aliases[0], ("gpt-4".to_owned(), "llama-3.3-70b".to_owned()));
    assert_eq!((groq.model_aliases[1].0.as_str(), groq.fallback, groq.unified_base), ("4o", true, "/openai/v1"));
    assert_eq!((groq.key_field, groq.charge), (KeyField::Authorization, Charge::of(ProviderKind::Groq)));
    assert!(matches!(openai.keys, Keys::Client) && !openai.models.is_empty());
    let tokenizers = |provider: &Provider| -> Vec<(String, Option<Tokenizer>)> {
        provider.tokenizers.iter().map(|(glob, tokenizer)| (glob.to_string(), *tokenizer)).collect()
    };
    assert_eq!(tokenizers(openai), []);
    assert_eq!(tokenizers(groq), [("*".to_owned(), Some(Tokenizer::O200kBase))]);
    let expected = [("m-*", Some(Tokenizer::Cl100kBase)), ("m", None), ("*", Some(Tokenizer::O200kBase))];
    assert_eq!(tokenizers(own), expected.map(|(glob, tokenizer)| (glob.to_owned(), tokenizer)));
    assert_eq!((own.kind, hub.kind), (ProviderKind::Groq, ProviderKind::GitHub));
    assert_eq!((own.key_field, own.unified_base, own.fallback), (KeyField::ApiKey, "/v1", false));
    assert_eq!(own.charge.output, OutputReservation::LargerOfMaxTokensAndInput);
    assert!(own.charge.counts_cached && !Charge::of(ProviderKind::Groq).counts_cached);
    let clients = config.clients.expect("clients");
    assert_eq!((clients[0].urgency.level(), clients[1].urgency.level()), (1, 3));
    assert_eq!(config.queue.client_by, [ClientBy::Token, ClientBy::Header, ClientBy::Ip]);
    assert_eq!(config.queue.keepalive, Some(Duration::from_secs(15)));
    assert_eq!(config.retry.on, [RetryOn::Status(429), RetryOn::Connect]);
    assert_eq!(config.retry.hold_stream, Duration::ZERO);
    assert!(config.admin.is_none());
    assert_eq!((config.log.format, config.log.access), (LogFormat::Json, false));
}

#[rstest]
#[case("", &["server host is required", "server port is required", "at least one route must be configured"])]
#[case("routes: {a: \"http://a\"}", &["server host is required", "server port is required"])]
#[case("server: {host: localhost}\nroutes: {a: \"http://a\"}", &["server port is required"])]
#[case("server: {port: 1}\nroutes: {a: \"http://a\"}", &["server host is required"])]
#[case("server: {host: localhost, port: 1}", &["at least one route must be configured"])]
#[case("server: {host: localhost, port: 1}\nroutes:\nproviders: {}", &["at least one route must be configured"])]
fn what_is_required_is_asked_for(#[case] text: &str, #[case] expected: &[&str]) {
    assert_eq!(messages(text), expected);
}

#[rstest]
#[case("providers: {cerebras: {}}", "provider cerebras: API key is required")]
#[case("providers: {cerebras: {api_key: \"${NONE:-}\"}}", "provider cerebras: API key is required")]
#[case("providers: {cerebras: {api_key: \"${NONE}\"}}", "the environment variable NONE is not set")]
#[case("providers: {cerebras: {api_keys: []}}", "provider cerebras: API key is required")]
#[case("providers: {own: {api_key: k, models: [m]}}", "provider own: endpoint is required")]
#[case("providers: {azure: {api_key: k}}", "provider azure: endpoint is required")]
#[case("providers: {own: {api_key: k, endpoint: \"http://a\"}}", "provider own: at least one model is required")]
#[case("providers: {groq: {api_key: k, models: []}}", "provider groq: at least one model is required")]
#[case("providers: {groq: {api_key: k, endpoint: \"ftp://a\"}}", "`providers.groq.endpoint`: this is no http(s) URL")]
#[case("providers: {groq: {api_key: \"k v\"}}", "`providers.groq.api_key`: this cannot be sent in a header field")]
#[case("providers: {groq: {api_keys: [k, k]}}", "`providers.groq.api_keys[1]`: this key is given twice")]
#[case(
    "providers: {\"a/b\": {api_key: k, endpoint: \"http://a\", models: [m]}}",
    "provider a/b: the name cannot stand in a path"
)]
#[case(
    "rate_limits: [{domain: a, requests_per_second: 0}]",
    "`rate_limits[0].requests_per_second`: the rate must be positive"
)]
#[case(
    "rate_limits: [{domain: a, requests_per_second: -5}]",
    "`rate_limits[0].requests_per_second`: the rate must be positive"
)]
#[case(
    "rate_limits: [{domain: a, requests_per_second: .nan}]",
    "`rate_limits[0].requests_per_second`: a plain number is expected"
)]
#[case(
    "default_rate_limit: {requests_per_second: 0}",
    "`default_rate_limit.requests_per_second`: the rate must be positive"
)]
#[case("default_rate_limit: {limits: {tokens: 0/s}}", "`default_rate_limit.limits.tokens`: the rate must be positive")]
#[case("default_rate_limit: {burst: 3}", "`default_rate_limit.burst`: a burst needs `requests_per_second`")]
#[case("default_rate_limit: {}", "`default_rate_limit`: a limit is required")]
#[case("default_rate_limit: {limits: {}}", "`default_rate_limit.limits`: no limit is given")]
#[case(
    "default_rate_limit: {requests_per_second: 2, burst: 3}",
    "`default_rate_limit.burst`: the burst must be between 1 and the amount per period"
)]
#[case("rate_limits: [{requests_per_second: 1}]", "`rate_limits[0]`: domain is required")]
#[case(
    "rate_limits: [{domain: \"a:80\", requests_per_second: 1}]",
    "`rate_limits[0].domain`: a host without a port is expected"
)]
#[case(
    "rate_limits: [{domain: a, requests_per_second: 1}, {domain: A, requests_per_second: 1}]",
    "`rate_limits[1]`: this domain is given twice"
)]
#[case("rate_limits: {domain: a}", "`rate_limits`: a list is expected")]
#[case("admin: {host: 0.0.0.0}", "admin: a token is required where `host` is not loopback")]
#[case("admin: {host: \"::\", token: \"${NONE:-}\"}", "admin: a token is required where `host` is not loopback")]
#[case("admin: {host: 0.0.0.0, token: \"${NONE}\"}", "the environment variable NONE is not set")]
#[case("admin: {port: 8080}", "admin: `server` listens on the same host and port")]
#[case("admin: on", "`admin`: `off` or fields are expected")]
#[case("clients: {}", "`clients`: no client is named, so none could call")]
#[case("clients: {a: {weight: 0}}", "`clients.a.weight`: a whole number from 1 to 1000 is expected")]
#[case("clients: {a: {urgency: 8}}", "`clients.a.urgency`: a whole number from 0 to 7 is expected")]
#[case("clients: {a: {token: \"\"}}", "`clients.a.token`: the token is empty")]
#[case("clients: {a: {token: x}, b: {token: x}}", "client b has the token of client a")]
#[case(
    "clients: {a: {token: x}}\nqueue: {client_by: [ip]}",
    "client a can never be recognised: `queue.client_by` does not contain `token`"
)]
#[case("queue: {max_wait: 5}", "`queue.max_wait`: this is no duration: the unit is missing")]
#[case("queue: {max_wait: 2d}", "`queue.max_wait`: a duration from 0s to 1d is expected")]
#[case("queue: {max_depth: 0}", "`queue.max_depth`: a whole number from 1 to 1000000 is expected")]
#[case("queue: {client_by: [ip, ip]}", "`queue.client_by[1]`: this is given twice")]
#[case("queue: {keepalive: 15}", "`queue.keepalive`: this is no duration: the unit is missing")]
#[case("queue: {keepalive: 500ms}", "`queue.keepalive`: a duration from 1s to 1h is expected")]
#[case("retry: {hold_stream: 61s}", "`retry.hold_stream`: a duration from 0s to 1m is expected")]
#[case("providers: {groq: {api_key: k, models: [\"a b\"]}}", "`providers.groq.models[0]`: this is no model name")]
#[case("providers: {groq: {api_key: k, fallback: yes}}", "`providers.groq.fallback`: this is none of the known values")]
#[case(
    "providers: {groq: {api_key: k, key_field: cookie}}",
    "`providers.groq.key_field`: this is none of the known values"
)]
#[case(
    "providers: {groq: {api_key: k, reserve_output: all}}",
    "`providers.groq.reserve_output`: this is none of the known values"
)]
#[case(
    "providers: {groq: {api_key: k, count_cached: 1}}",
    "`providers.groq.count_cached`: this is none of the known values"
)]
#[case(
    "providers: {groq: {api_key: k, tokenizer: gpt-4o}}",
    "`providers.groq.tokenizer`: this is none of the known values"
)]
#[case("providers: {groq: {api_key: k, tokenizer: [off]}}", "`providers.groq.tokenizer`: a single value is expected")]
#[case(
    "providers: {groq: {api_key: k, tokenizer: {\"llama-*\": llama3}}}",
    "`providers.groq.tokenizer.llama-*`: this is none of the known values"
)]
#[case("providers: {groq: {api_key: k, tokenizer: {a: }}}", "`providers.groq.tokenizer.a`: a single value is expected")]
#[case(
    "providers: {groq: {api_key: k, tokenizer: {a b: off}}}",
    "`providers.groq.tokenizer.a b`: this is no model name"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: [a]}}",
    "`providers.groq.model_aliases`: names and their values are expected"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: {a: }}}",
    "`providers.groq.model_aliases.a`: this is no model name"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: {a: [b]}}}",
    "`providers.groq.model_aliases.a`: a single value is expected"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: {a: b c}}}",
    "`providers.groq.model_aliases.a`: this is no model name"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: {a b: c}}}",
    "`providers.groq.model_aliases.a b`: this is no model name"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: {\"gpt-*\": b}}}",
    "`providers.groq.model_aliases.gpt-*`: one model is expected, not a glob"
)]
#[case(
    "providers: {groq: {api_key: k, model_aliases: {a: \"llama-*\"}}}",
    "`providers.groq.model_aliases.a`: one model is expected, not a glob"
)]
#[case("providers: {groq: {api_key: k, model_aliases: {a: b, a: c}}}", "this is given twice")]
#[case(
    "providers: {groq: {api_key: k, model_limits: {\"\": {requests: 1/s}}}}",
    "`providers.groq.model_limits.`: this is no model name"
)]
#[case(
    "providers: {groq: {api_key: k, model_limits: {\"a*\": {}}}}",
    "`providers.groq.model_limits.a*`: no limit is given"
)]
#[case("retry: {on: [200]}", "`retry.on[0]`: a status from 400 to 599 or `connect` is expected")]
#[case("log: {level: loud}", "`log.level`: this is none of the known values")]
#[case("log: {access: yes}", "`log.access`: this is none of the known values")]
#[case("log: json", "`log`: fields are expected")]
#[case("state: {path: \"\"}", "state: `path` is required")]
#[case("state: {}", "state: `path` is required")]
#[case("state: ./x", "`state`: fields are expected")]
#[case("shared: {prefix: p}", "`shared`: redis is required")]
#[case("shared: {redis: \"http://x\"}", "`shared.redis`: this is no URL of a Redis or Valkey")]
#[case("shared: {redis: \"redis://a,b\"}", "`shared.redis`: one host is expected")]
#[case("shared: {redis: \"redis://a\", prefix: \"a{b\"}", "`shared.prefix`: braces say where a key is kept")]
#[case("shared: {redis: \"redis://a\", share: 2s}", "`shared.share`: a duration from 100ms to 500ms is expected")]
#[case("shared: {redis: \"redis://a\", instance: \"a b\"}", "`shared.instance`: this is no name for it")]
#[case(
    "default_rate_limit: {limits: {requests: {amount: 5, per: day, resets: \"00:00\"}}}",
    "`default_rate_limit.limits.requests`: limits by the calendar are not supported by this version"
)]
#[case("colour: red", "unknown field `colour`")]
#[case("log: {levle: info}", "unknown field `levle` in `log`")]
#[case("log: {level: info, level: warn}", "this is given twice")]
#[case("log: {level: \"${NONE}\"}", "the environment variable NONE is not set")]
fn a_fault_behind_a_valid_start_is_told(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(messages(&format!("{BASE}{text}\n")), [expected]);
}

#[rstest]
#[case("a: ftp://a", "`routes.a`: this is no http(s) URL")]
#[case("a: not a url", "`routes.a`: this is no http(s) URL")]
#[case("a: https://me:hunter2@a", "`routes.a`: the URL must not hold a user name or password")]
#[case("a: https://a/?key=hunter2", "`routes.a`: the URL must not hold a query")]
#[case("a: {}", "route `a`: upstream is required")]
#[case("a: [x]", "`routes.a`: fields are expected")]
#[case("\"a:80\": http://a", "route `a:80`: a host without a port is expected")]
#[case("\"/\": http://a", "route `/`: this is no path prefix")]
#[case("a: {upstream: \"http://a\", provider: openia}", "`routes.a.provider`: this is none of the known values")]
#[case(
    "a: {upstream: \"http://a\", limits: {requests: 60/m}}",
    "`routes.a.limits.requests`: `m` can mean minute or month"
)]
#[case(
    "a: {upstream: \"http://a\", limits: {requests: [1/s, 0/s]}}",
    "`routes.a.limits.requests[1]`: the rate must be positive"
)]
#[case(
    "a: {upstream: \"http://a\", limits: {concurrency: 0}}",
    "`routes.a.limits.concurrency`: the number in flight must be from 1 to 1000000"
)]
#[case("a: {upstream: \"http://a\", timeout: 0}", "`routes.a.timeout`: a duration from 1ms to 1d is expected")]
#[case("A: http://a\n  a: http://b", "route `a` matches the same requests as `A`")]
#[case(
    "a: {upstream: \"https://a\", http2: prior_knowledge}",
    "`routes.a.http2`: over TLS both sides agree on the version by themselves"
)]
#[case("a: {upstream: \"http://a\", tls: {server_name: b}}", "`routes.a.tls`: the upstream is spoken to in the clear")]
#[case(
    "a: {upstream: \"https://a\", tls: {ca: nowhere.pem}}",
    "`routes.a.tls.ca`: the file cannot be read: No such file or directory (os error 2)"
)]
#[case("a: {upstream: \"https://a\", tls: {cert: tests/tls/cert.pem}}", "`routes.a.tls`: key is required")]
#[case(
    "a: {upstream: \"https://a\", tls: {server_name: \"a b\"}}",
    "`routes.a.tls.server_name`: this is no name that a certificate can carry"
)]
#[case("a: {upstream: \"https://a\", tls: {insecure: true}}", "unknown field `insecure` in `routes.a.tls`")]
fn a_faulty_route_is_told(#[case] route: &str, #[case] expected: &str) {
    assert_eq!(messages(&format!("server: {{host: localhost, port: 1}}\nroutes:\n  {route}\n")), [expected]);
}

#[rstest]
#[case("host: \"localhost:80\", port: 1", "`server.host`: a host without a port is expected")]
#[case("host: localhost, port: 80800", "`server.port`: a whole number from 0 to 65535 is expected")]
#[case("host: localhost, port: [1]", "`server.port`: a single value is expected")]
#[case("host: localhost, port: 1, workers: 0", "`server.workers`: `auto` or a number from 1 to 1024 is expected")]
#[case("host: localhost, port: 1, max_body: 10m", "`server.max_body`: this is no size: `m` is no unit of size")]
#[case(
    "host: localhost, port: 1, drain_timeout: 10M",
    "`server.drain_timeout`: this is no duration: `M` can mean minutes or months"
)]
#[case("host: localhost, port: 1, tls: {key: b}", "`server.tls`: cert is required")]
#[case(
    "host: localhost, port: 1, tls: {cert: nowhere.pem, key: tests/tls/key.pem}",
    "`server.tls.cert`: the file cannot be read: No such file or directory (os error 2)"
)]
#[case(
    "host: localhost, port: 1, tls: {cert: tests/tls, key: tests/tls/key.pem}",
    "`server.tls.cert`: the file cannot be read: it is no file"
)]
#[case(
    "host: localhost, port: 1, tls: {cert: tests/tls/key.pem, key: tests/tls/key.pem}",
    "`server.tls.cert`: the file holds no certificate in PEM"
)]
#[case(
    "host: localhost, port: 1, tls: {cert: tests/tls/cert.pem, key: tests/tls/cert.pem}",
    "`server.tls.key`: the file holds no private key in PEM"
)]
#[case(
    "host: localhost, port: 1, tls: {cert: tests/tls/cert.pem, key: tests/tls/other-key.pem}",
    "`server.tls.key`: the key does not belong to the certificate"
)]
fn a_faulty_server_is_told(#[case] server: &str, #[case] expected: &str) {
    assert_eq!(messages(&format!("server: {{{server}}}\nroutes: {{a: \"http://a\"}}\n")), [expected]);
}

#[test]
fn all_faults_are_told_at_once_by_line_with_the_line_and_a_hint() {
    let faults = parse(
        "server:\n  host: localhost\n  prot: 8080\nroutes:\n  api.example.com: api.example.com\nrate_limits:\n  - domain: api.example.com\n    requests_per_second: -1\nlog: {format: xml}\n",
    )
    .expect_err("five faults");
    insta::assert_snapshot!(faults, @r#"
    error: server port is required
     --> config.yaml:1:1
      |
    1 | server:
      | ^^^^^^
      |
      = help: add `port: 8080` under `server:`

    error: unknown field `prot` in `server`
     --> config.yaml:3:3
      |
    3 |   prot: 8080
      |   ^^^^
      |
      = help: did you mean `port`?

    error: `routes.api.example.com`: this is no http(s) URL
     --> config.yaml:5:20
      |
    5 |   api.example.com: api.example.com
      |                    ^^^^^^^^^^^^^^^
      |
      = help: write a URL such as `https://api.example.com` or `http://127.0.0.1:9000/base`

    error: `rate_limits[0].requests_per_second`: the rate must be positive
     --> config.yaml:8:26
      |
    8 |     requests_per_second: -1
      |                          ^^
      |
      = help: write a rate such as `10/s`, `600/min`, `60/10s`, `14400/day` or `1M/day, burst 20k`

    error: `log.format`: this is none of the known values
     --> config.yaml:9:15
      |
    9 | log: {format: xml}
      |               ^^^
      |
      = help: write one of: text, json

    config.yaml: 5 faults
    "#);
}

#[test]
fn a_broken_file_is_told_with_its_place() {
    insta::assert_snapshot!(parse("server:\n  host: localhost\n   port: 1\n").expect_err("a fault"), @r#"
    error: this is no YAML: mapping values are not allowed in this context
     --> config.yaml:3:8
      |
    3 |    port: 1
      |        ^
      |
      = help: check the indentation, the quotes and the brackets here and in the line above

    config.yaml: 1 fault
    "#);
    insta::assert_snapshot!(parse("providers:\n  a: {api_key: ${KEY}}\n").expect_err("a fault"), @r#"
    error: this is no YAML: while parsing a flow mapping, did not find expected ',' or '}'
     --> config.yaml:2:17
      |
    2 |   a: {api_key: ***
      |                ^^^
      |
      = help: inside `{ }` and `[ ]`, put quotes around a value that contains `${...}`

    config.yaml: 1 fault
    "#);
}

#[test]
fn values_of_the_environment_are_data() {
    let faults = messages(&format!("{BASE}log: {{level: \"${{YAML}}\"}}\nqueue:\n  max_depth: ${{WORD}}\n"));
    assert_eq!(
        faults,
        [
            "`log.level`: this is none of the known values",
            "`queue.max_depth`: a whole number from 1 to 1000000 is expected"
        ]
    );
}

/// Faults of every kind around secrets, and none of the secrets in any of them.
#[rstest]
#[case("server: {host: h, port: ${}}\nproviders:\n  groq:\n    api_key: sk-hidden\n   x: 1\n")]
#[case("providers: {groq: {api_key: sk-hidden, timeout: soon, models: [\"\"]}}")]
#[case("providers: {groq: sk-hidden}")]
#[case("providers: {groq: [sk-hidden]}")]
#[case("providers: {groq: {apikey: sk-hidden}}")]
#[case("providers: {groq: {api_key: {sk-hidden: sk-hidden, sk-hidden: 1}}}")]
#[case("providers:\n  groq:\n    api_keys:\n      - sk-hidden\n      - sk-hidden\n      - \"sk hidden\"\n")]
#[case("providers:\n  groq:\n    api_keys: [\n      sk-hidden,\n      \"sk-hidden\n")]
#[case("providers: {groq: {api_key: |\n  sk-hidden")]
#[case("clients: {a: {token: sk-hidden, weight: 0}, b: {token: \"sk-hidden\", urgency: 9}}")]
#[case("clients:\n  a:\n    token: >\n      sk-hidden\n      sk-hidden\n    weight: 0\n")]
#[case("admin: {token: \"sk-hidden \t x\", host: 0.0.0.0, port: x}")]
#[case("admin: {token: sk-hidden: \"x")]
#[case("admin: {token: \"${NONE:-sk-hidden}${NONE}\", prot: 1}")]
#[case("routes: {a: \"https://me:sk-hidden@a/?x\", b: \"http://b/?token=sk-hidden#x\"}")]
#[case("shared: {redis: \"redis://me:sk-hidden@h\"}")]
#[case("providers: {groq: {api_key: \"${KEY}\", timeout: \"${KEY}\", endpoint: \"${KEY}\", models: [\"${KEY} x\"]}}")]
#[case("log: {level: \"${KEY}\"}\nqueue: {max_wait: \"${KEY}\"}\nrate_limits: [{domain: \"${KEY}_*\"}]")]
fn no_fault_shows_a_secret(#[case] text: &str) {
    let faults = parse(text).expect_err("faults");
    for shown in [faults.to_string(), format!("{faults:?}")] {
        for secret in ["sk-hidden", "sk hidden", "sk-from-env"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn the_example_starts_as_it_stands() {
    let config = super::parse("config.yaml.example", super::example(), &|_| None);
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    assert!(!config.routes.is_empty() && !config.domain_limits.is_empty() && !config.default_limits.is_empty());
}

#[test]
fn the_collector_is_where_the_file_says_or_else_where_the_environment_does() {
    let traces = |section: &str, environment: &[(&str, &str)]| {
        let text = format!("server: {{host: localhost, port: 0}}\nroutes: {{a: \"http://b\"}}\n{section}");
        let env =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        super::parse("config.yaml", &text, &env).map(|config| config.traces).map_err(|faults| faults.to_string())
    };
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://there:4318/base/"), ("OTEL_SERVICE_NAME", "named")];
    assert_eq!(traces("", &[]), Ok(None));
    let there = traces("", &environment).expect("no faults").expect("a collector");
    assert_eq!((there.collector.host.as_str(), there.collector.base_path.as_str()), ("there", "/base"));
    assert_eq!((there.sample, there.service.as_str()), (1.0, "named"));
    let here = traces("telemetry: {otlp: \"http://here:1\", sample: 0.25, service_name: s}\n", &environment);
    let here = here.expect("no faults").expect("a collector");
    assert_eq!((here.collector.port, here.sample, here.service.as_str()), (1, 0.25, "s"));
    assert_eq!(traces("telemetry: {otlp: off}\n", &environment), Ok(None));
    let faulty = traces("telemetry: {otlp: nowhere, sample: 1.5}\n", &environment).expect_err("two faults");
    assert!(faulty.contains("this is no http(s) URL") && faulty.contains("a number from 0 to 1"), "{faulty}");
    let faulty = traces("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@x")]).expect_err("a fault");
    assert!(faulty.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && !faulty.contains("hunter2"), "{faulty}");
}

#[test]
fn what_a_collector_is_told_beside_traces_is_read_and_never_shown() {
    let read = |section: &str, variable: Option<&str>| {
        let text = format!("server: {{host: localhost, port: 0}}\nroutes: {{a: \"http://b\"}}\n{section}");
        let env = |name: &str| variable.filter(|_| name == "OTEL_EXPORTER_OTLP_HEADERS").map(str::to_owned);
        super::parse("config.yaml", &text, &env)
    };
    let sent = |section: &str, variable| {
        let config = read(section, variable).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        let traces = config.traces.expect("a collector");
        let sent =
            traces.header_values().map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
        sent.collect::<Vec<_>>()
    };
    let written = "telemetry: {otlp: \"http://c\", headers: {Authorization: Bearer hunter2, x-team: hunter2}}\n";
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(sent(written, Some("a=1")), [pair("authorization", "Bearer hunter2"), pair("x-team", "hunter2")]);
    assert_eq!(sent("telemetry: {otlp: \"http://c\"}\n", Some("x-team=hunter2")), [pair("x-team", "hunter2")]);
    for faulty in [
        "telemetry: {otlp: \"http://c\", headers: {host: hunter2, x-team: \"hunter2\\t\"}}\n",
        "telemetry: {otlp: \"http://c\", headers: {x-team: [hunter2]}}\n",
        "telemetry: {otlp: \"http://c\", headers: hunter2}\n",
        "telemetry:\n  otlp: \"http://c\"\n  headers:\n    x-team: hunter2\n    x-team: hunter2\n",
        "telemetry:\n  headers:\n    x-team: \"hunter2\n",
    ] {
        let faults = read(faulty, None).expect_err("a fault").to_string();
        assert!(!faults.contains("hunter2"), "{faults}");
    }
    let faults = read("telemetry: {otlp: \"http://c\"}\n", Some("hunter2")).expect_err("a fault").to_string();
    assert!(faults.contains("OTEL_EXPORTER_OTLP_HEADERS") && !faults.contains("hunter2"), "{faults}");
}

#[test]
fn every_example_of_the_reference_is_valid() {
    let reference = include_str!("../../../../docs/configuration.md");
    let blocks: Vec<&str> = reference.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() > 8);
    for block in blocks {
        let mut text = block.to_owned();
        for line in BASE.lines() {
            let section = line.split(':').next().expect("a name");
            if !block.lines().any(|line| line.starts_with(&format!("{section}:"))) {
                text.push_str(line);
                text.push('\n');
            }
        }
        let parsed = super::parse("docs/configuration.md", &text, &|name| {
            (!name.starts_with("OTEL_")).then(|| format!("value-of-{name}"))
        });
        parsed.unwrap_or_else(|faults| panic!("{faults}"));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = super::load(&folder.path().join("none.yaml")).expect_err("no such file");
    assert!(missing.to_string().contains("none.yaml") && missing.to_string().contains("cannot be read"), "{missing}");
    let latin1 = folder.path().join("latin1.yaml");
    std::fs::write(&latin1, b"server: {host: caf\xe9}\n").expect("written");
    let faults = super::load(&latin1).expect_err("no UTF-8");
    let place = faults.iter().next().and_then(|fault| fault.place.clone()).expect("a place");
    assert_eq!((place.line, place.column), (1, 19));
}

#[test]
fn the_start_up_text_tells_how_each_upstream_is_paced() {
    let config = valid(
        r#"
server: {host: "::1", port: 8080}
routes:
  api.groq.com: {upstream: "https://api.groq.com", limits: {requests: 30/min}}
  a.example.com: https://a.example.com
  "*.example.com": http://backend:8000/base
  other.org: https://other.org
  "*": http://127.0.0.1:9000
rate_limits:
  - {domain: "*.example.com", requests_per_second: 5}
  - {domain: unrouted.org, requests_per_second: 1, per: host}
default_rate_limit: {requests_per_second: 1}
providers:
  cerebras: {api_keys: [a, b], limits: {tokens: 60k/min}, model_limits: {"qwen-*": {requests: 10/min}}, tokenizer: {"gpt-oss-*": o200k_base, "*": off}}
  groq: {api_key: c, model_aliases: {gpt-4: llama-3.3-70b}, fallback: true, tokenizer: cl100k_base}
clients: {alice: {limits: {concurrency: 4}}}
"#,
    );
    insta::assert_snapshot!(config.describe(&config.addresses()), @r#"
    listening on http://[::1]:8080, admin on http://localhost:9900
      api.groq.com → https://api.groq.com: 30 requests a minute: 3 at once, then one every 2 s
      a.example.com → https://a.example.com: 5 requests a second: 5 at once, then one every 200 ms (one allowance for all of *.example.com)
      *.example.com → http://backend:8000/base: 5 requests a second: 5 at once, then one every 200 ms
      other.org → https://other.org: 1 request a second: 1 at once, then one every 1 s
      * → http://127.0.0.1:9000: by the domain asked for
      domain unrouted.org: 1 request a second: 1 at once, then one every 1 s
      any other domain: 1 request a second: 1 at once, then one every 1 s (for each)
      /cerebras/… → https://api.cerebras.ai: 2 keys, each: 60000 tokens a minute, 6000 at once
        qwen-*: 10 requests a minute: 1 at once, then one every 6 s
        gpt-oss-*: tokens counted by o200k_base
        *: tokens estimated from bytes
      /groq/… → https://api.groq.com (fallback): not paced
        *: tokens counted by cl100k_base
        gpt-4 → llama-3.3-70b
      client alice: 4 in flight
    "#);
    let quiet = valid(&format!("{BASE}admin: off\n"));
    insta::assert_snapshot!(quiet.describe(&quiet.addresses()), @r#"
    listening on http://localhost:8080, admin off
      api.example.com → https://api.example.com: not paced
    "#);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = super::parse_bytes("x", &bytes, &environment).map_err(|faults| faults.to_string());
    }

    #[test]
    fn no_text_like_yaml_makes_the_parser_panic(
        parts in proptest::collection::vec(
            prop_oneof![
                "(server|routes|rate_limits|providers|clients|queue|admin|log|limits|api_key|token|host|port): ",
                "[a-zé]{0,5}:? ?",
                "\n( |\t){0,6}(- )?",
                "[\\[\\]{},\"'|>&*!%@`#?-]",
                "\\$\\{[A-Z]{0,4}(:-)?\\}?",
                "-?[0-9.]{1,6}(/s|k|M|MiB|ms)?",
            ],
            0..40,
        ),
    ) {
        let _ = parse(&parts.concat()).map_err(|faults| faults.to_string());
    }
}
