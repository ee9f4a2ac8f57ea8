//! What the names of limit fields leave open, by provider.

use std::time::Duration;

use cooldown_pacer::Unit;

use super::{Meaning, Scope, text};
use crate::config::model::ProviderKind;
use crate::fields::Fields;
use crate::provider::value::{Bare, Form};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How a provider means what it says.
#[derive(Debug, Clone, Copy)]
pub(in crate::provider) struct Dialect {
    /// What its limits are counted for.
    pub(in crate::provider) scope: Scope,
    /// How its resets read without a unit.
    pub(super) bare: Bare,
    /// What a reset that is a span means.
    span: Meaning,
    /// What a reset that is a point in time means.
    absolute: Meaning,
    /// The window of its requests where neither name nor value tells.
    requests: Option<Duration>,
    /// The window of its tokens where neither name nor value tells.
    tokens: Option<Duration>,
    /// Whether `x-ratelimit-resource` and `x-ratelimit-bucket` name a pool.
    has_pools: bool,
}

impl Dialect {
    /// What is known of a kind of API.
    pub(in crate::provider) const fn of(kind: ProviderKind) -> Self {
        let unknown = Self {
            scope: Scope::Model,
            bare: Bare::BySize,
            span: Meaning::Unknown,
            absolute: Meaning::Unknown,
            requests: None,
            tokens: None,
            has_pools: false,
        };
        match kind {
            ProviderKind::OpenAi | ProviderKind::DeepSeek => Self { span: Meaning::ToFull, ..unknown },
            ProviderKind::Azure => Self {
                bare: Bare::Seconds,
                span: Meaning::WindowEnd,
                requests: Some(MINUTE),
                tokens: Some(MINUTE),
                ..unknown
            },
            ProviderKind::Anthropic => {
                Self { absolute: Meaning::ToFull, requests: Some(MINUTE), tokens: Some(MINUTE), ..unknown }
            }
            ProviderKind::Groq => Self { span: Meaning::ToFull, requests: Some(DAY), tokens: Some(MINUTE), ..unknown },
            ProviderKind::Cerebras | ProviderKind::Mistral | ProviderKind::Gemini => {
                Self { bare: Bare::Seconds, ..unknown }
            }
            ProviderKind::Together => {
                Self { bare: Bare::Seconds, requests: Some(SECOND), tokens: Some(SECOND), ..unknown }
            }
            // Whether its tokens are per second or per minute depends on whom one asks.
            ProviderKind::Fireworks => Self { scope: Scope::Key, ..unknown },
            ProviderKind::OpenRouter => Self { scope: Scope::Key, absolute: Meaning::WindowEnd, ..unknown },
            ProviderKind::GitHub => Self {
                scope: Scope::Key,
                span: Meaning::WindowEnd,
                absolute: Meaning::WindowEnd,
                has_pools: true,
                ..unknown
            },
            ProviderKind::Generic => Self { scope: Scope::Key, has_pools: true, ..unknown },
        }
    }

    /// What a reset means that was written in this form.
    pub(super) const fn meaning(&self, form: Form) -> Meaning {
        match form {
            Form::Span => self.span,
            Form::Absolute => self.absolute,
        }
    }

    /// The window of an axis where neither name nor value tells.
    pub(super) fn window(&self, axis: Unit, headers: &Fields) -> Option<Duration> {
        let resource = if self.has_pools { text(headers, "x-ratelimit-resource") } else { None };
        match (axis, resource) {
            (Unit::Requests, Some("core" | "graphql" | "integration_manifest")) => Some(HOUR),
            (Unit::Requests, Some("search" | "code_search")) => Some(MINUTE),
            (Unit::Requests, _) => self.requests,
            _ => self.tokens,
        }
    }

    /// What the plain fields (`x-ratelimit-remaining`) of this response are counted for.
    pub(super) fn plain_scope(&self, headers: &Fields) -> Scope {
        if !self.has_pools || text(headers, "x-ratelimit-global").is_some() {
            return self.scope;
        }
        let pool = text(headers, "x-ratelimit-resource").or_else(|| text(headers, "x-ratelimit-bucket"));
        pool.map_or(self.scope, Scope::pool)
    }
}
