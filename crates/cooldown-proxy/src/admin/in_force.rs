//! The configuration in force, in the words of the file, with everything that was left out and nothing that is secret.

use cooldown_pacer::Limit;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::config::model::{Client, ClientBy, Keys, LogFormat, Provider, RetryOn, Route, Server};

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// Everything that is in force. Durations are seconds, sizes bytes, limits words.
pub(super) fn in_force(config: &Config) -> Value {
    let Config { queue, retry, log, .. } = config;
    json!({
        "server": server(&config.server),
        "routes": config.routes.iter().map(|one| (one.name.clone(), route(one))).collect::<Map<_, _>>(),
        "rate_limits": config.domain_limits.iter().map(|domain| json!({
            "domain": domain.name,
            "per_host": domain.per_host,
            "limits": words(&domain.limits),
        })).collect::<Vec<_>>(),
        "default_rate_limit": words(&config.default_limits),
        "providers": config.providers.iter().map(|one| (one.name.clone(), provider(one))).collect::<Map<_, _>>(),
        "clients": config.clients.as_ref().map(|clients| {
            clients.iter().map(|one| (one.name.clone(), client(one))).collect::<Map<_, _>>()
        }),
        "queue": {
            "max_wait": queue.max_wait.as_secs_f64(),
            "max_depth": queue.max_depth,
            "client_by": queue.client_by.iter().map(client_by).collect::<Vec<_>>(),
            "ageing": queue.ageing.as_secs_f64(),
            "guard": queue.guard.as_secs_f64(),
            "keepalive": queue.keepalive.map(|keepalive| keepalive.as_secs_f64()),
        },
        "retry": {
            "attempts": retry.attempts,
            "on": retry.on.iter().map(retry_on).collect::<Vec<_>>(),
            "hold_stream": retry.hold_stream.as_secs_f64(),
        },
        "admin": config.admin.as_ref().map(|admin| json!({
            "host": admin.host,
            "port": admin.port,
            "token": admin.token.as_ref().map(|_| HIDDEN),
        })),
        "shared": config.shared.as_ref().map(|shared| json!({
            "redis": shared.store.to_string(),
            "prefix": shared.prefix,
            "share": shared.every.as_secs_f64(),
            "instance": shared.instance,
        })),
        "log": {
            "level": log.level.to_string().to_lowercase(),
            "format": if log.format == LogFormat::Json { "json" } else { "text" },
            "access": log.access,
        },
        "telemetry": config.traces.as_ref().map(|traces| json!({
            "otlp": format!("{}:{}{}", traces.collector.host, traces.collector.port, traces.collector.base_path),
            "headers": traces.headers.iter().map(|(name, _)| (name.to_string(), HIDDEN.into())).collect::<Map<_, _>>(),
            "sample": traces.sample,
            "service_name": traces.service,
        })),
    })
}

fn server(server: &Server) -> Value {
    json!({
        "host": server.host,
        "port": server.port,
        "workers": server.workers,
        "max_connections": server.max_connections,
        "max_body": server.max_body,
        "header_timeout": server.header_timeout.as_secs_f64(),
        "drain_timeout": server.drain_timeout.as_secs_f64(),
        "idle_timeout": server.idle_timeout.as_secs_f64(),
    })
}

fn route(route: &Route) -> Value {
    json!({
        "upstream": route.upstream.to_string(),
        "timeout": route.upstream.timeout.as_secs_f64(),
        "connect_timeout": route.upstream.connect_timeout.as_secs_f64(),
        "limits": words(&route.limits),
    })
}

fn provider(provider: &Provider) -> Value {
    json!({
        "endpoint": provider.upstream.to_string(),
        "timeout": provider.upstream.timeout.as_secs_f64(),
        "connect_timeout": provider.upstream.connect_timeout.as_secs_f64(),
        "api_keys": match &provider.keys {
            Keys::Client => json!("client"),
            Keys::Ours(keys) => json!(vec![HIDDEN; keys.len()]),
        },
        "models": provider.models.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "model_aliases": provider.model_aliases.iter().map(|(alias, model)| (alias.clone(), json!(model))).collect::<Map<_, _>>(),
        "fallback": provider.fallback,
        "limits": words(&provider.limits),
        "model_limits": provider.model_limits.iter().map(|(glob, limits)| (glob.to_string(), json!(words(limits)))).collect::<Map<_, _>>(),
    })
}

fn client(client: &Client) -> Value {
    json!({
        "token": client.token.as_ref().map(|_| HIDDEN),
        "urgency": client.urgency.level(),
        "limits": words(&client.limits),
    })
}

fn words(limits: &[Limit]) -> Vec<String> {
    limits.iter().map(ToString::to_string).collect()
}

fn client_by(by: &ClientBy) -> &'static str {
    match by {
        ClientBy::Token => "token",
        ClientBy::Header => "x-cooldown-client",
        ClientBy::Authorization => "authorization",
        ClientBy::Ip => "ip",
    }
}

fn retry_on(on: &RetryOn) -> Value {
    match on {
        RetryOn::Status(status) => json!(status),
        RetryOn::Connect => json!("connect"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_force_is_told_but_secrets() {
        let text = "server: {host: localhost, port: 0}\n\
                    routes: {a.example: {upstream: \"http://a\", limits: {requests: 30/min}}}\n\
                    providers: {openai: {api_keys: [sk-first, sk-second]}}\n\
                    clients: {alice: {token: t-secret, weight: 2}}\n\
                    admin: {host: localhost, port: 0, token: t-admin}\n";
        let config = crate::config::parse("config.yaml", text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
        let told = in_force(&config);
        assert_eq!(told["providers"]["openai"]["api_keys"], json!([HIDDEN, HIDDEN]));
        assert!(
            told["routes"]["a.example"]["limits"][0].as_str().is_some_and(|limit| limit.starts_with("30 requests"))
        );
        assert_eq!(told["queue"]["max_wait"], 300.0, "what was left out is told");
        let told = told.to_string();
        assert!(!["sk-", "t-secret", "t-admin"].iter().any(|secret| told.contains(secret)), "{told}");
    }
}
