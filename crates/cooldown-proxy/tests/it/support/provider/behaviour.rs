//! What a provider allows, how it says so, and when it fails.

use std::num::NonZeroU32;
use std::time::Duration;

use cooldown_pacer::Unit;
use cooldown_proxy::demo::strict::Counting;

use super::failure::Failure;

/// How a provider behaves. Made by [`Behaviour::new`] and changed by its methods.
#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    pub(super) dialect: Dialect,
    pub(super) hint: Hint,
    pub(super) allowances: Vec<Allowance>,
    pub(super) concurrency: Option<usize>,
    pub(super) charging: Charging,
    pub(super) latency: Duration,
    pub(super) per_token: Duration,
    pub(super) bytes_per_token: f64,
    pub(super) ratios: Vec<(&'static str, f64)>,
    /// Counts tokens as OpenAI does, instead of bytes.
    pub(super) tokenizes: bool,
    pub(super) keys: Vec<&'static str>,
    failures: Vec<(When, Failure)>,
}

/// In whose fields and words a provider states its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Azure,
    Anthropic,
    Groq,
    Cerebras,
    Mistral,
    OpenRouter,
    /// States limits in the bodies of refusals alone.
    Gemini,
    /// Answers every path, for it has no models.
    GitHub,
    /// States nothing: a bare 429.
    Silent,
}

/// How a refusal tells when to try again, beside what its body says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// `retry-after`, in whole seconds rounded up; Groq writes fractions.
    RetryAfter,
    /// `retry-after-ms`.
    RetryAfterMs,
    /// No field tells.
    Nothing,
}

/// One limit: an amount per period, for each key by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(super) unit: Unit,
    pub(super) amount: NonZeroU32,
    pub(super) period: Duration,
    pub(super) counting: Counting,
    pub(super) per: Per,
}

/// What a limit is counted per.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Per {
    Key,
    KeyAndModel,
}

/// What a request takes from the limits on tokens when it arrives. `max_tokens` is [`MODEL_MAXIMUM`] when it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charging {
    /// Input and `max_tokens`, however short the answer is.
    Reserved,
    /// The same; what was not needed returns with the last byte of the answer.
    Settled,
    /// The larger of the input and `max_tokens`; no more than the input when there is no `max_tokens`.
    Larger,
    /// Input, and the output that will really come.
    Actual,
}

/// When a failure strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// At the attempt with this number; the first is 1.
    Attempt(usize),
    /// At every attempt up to this number.
    UpTo(usize),
    /// At every attempt with this key.
    Key(&'static str),
    /// At every attempt for this model.
    Model(&'static str),
    Always,
}

/// What a request without `max_tokens` may produce, in tokens.
pub(super) const MODEL_MAXIMUM: u32 = 4096;

impl Behaviour {
    /// One that allows everything to everybody, at once, and counts four bytes of prompt as a token.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            hint: Hint::RetryAfter,
            allowances: Vec::new(),
            concurrency: None,
            charging: Charging::Actual,
            latency: Duration::ZERO,
            per_token: Duration::ZERO,
            bytes_per_token: 4.0,
            ratios: Vec::new(),
            tokenizes: false,
            keys: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a limit.
    pub(crate) fn limit(mut self, allowance: Allowance) -> Self {
        self.allowances.push(allowance);
        self
    }

    /// At most this many requests of one key in flight.
    pub(crate) fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = Some(most);
        self
    }

    /// Charges tokens like this; [`Charging::Actual`] when nothing is said.
    pub(crate) fn charging(mut self, charging: Charging) -> Self {
        self.charging = charging;
        self
    }

    /// Tells when to try again like this; [`Hint::RetryAfter`] when nothing is said.
    pub(crate) fn hint(mut self, hint: Hint) -> Self {
        self.hint = hint;
        self
    }

    /// Takes this long before each answer but a refusal.
    pub(crate) fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Takes this long before each token of a stream.
    pub(crate) fn token_every(mut self, delay: Duration) -> Self {
        self.per_token = delay;
        self
    }

    /// Counts this many bytes of prompt as a token for one model.
    pub(crate) fn bytes_per_token(mut self, model: &'static str, bytes: f64) -> Self {
        self.ratios.push((model, bytes));
        self
    }

    /// Counts the tokens of prompts as OpenAI does for GPT-4o, with four for the role and the marks of each message and three
    /// in front of the answer.
    pub(crate) fn tokenizing(mut self) -> Self {
        self.tokenizes = true;
        self
    }

    /// Accepts these keys only; any but an empty one when nothing is said.
    pub(crate) fn keys(mut self, keys: &[&'static str]) -> Self {
        self.keys = keys.to_vec();
        self
    }

    /// Fails like this. Of several that strike at once the first counts. Attempts that fail count against the limits.
    pub(crate) fn failing(mut self, when: When, failure: Failure) -> Self {
        self.failures.push((when, failure));
        self
    }

    /// How the attempt with this number, counted from 1, fails.
    pub(super) fn failure(&self, number: usize, key: &str, model: &str) -> Option<Failure> {
        let strikes = |when: &When| match *when {
            When::Attempt(nth) => number == nth,
            When::UpTo(last) => number <= last,
            When::Key(failing) => key == failing,
            When::Model(failing) => model == failing,
            When::Always => true,
        };
        self.failures.iter().find(|(when, _)| strikes(when)).map(|(_, failure)| *failure)
    }

    pub(super) fn knows(&self, key: &str) -> bool {
        if self.keys.is_empty() { !key.is_empty() } else { self.keys.contains(&key) }
    }

    /// The tokens of a prompt in so many messages.
    pub(super) fn tokens(&self, model: &str, text: &str, messages: usize) -> u32 {
        if self.tokenizes {
            let found = tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len();
            return u32::try_from(found + 4 * messages + 3).unwrap_or(u32::MAX);
        }
        let own = self.ratios.iter().find(|(known, _)| *known == model);
        (text.len() as f64 / own.map_or(self.bytes_per_token, |(_, ratio)| *ratio)).ceil() as u32
    }
}

impl Allowance {
    /// So much of a unit in every trailing period.
    pub(crate) fn new(unit: Unit, amount: u32, period: Duration) -> Self {
        let amount = NonZeroU32::new(amount).expect("a limit allows something");
        Self { unit, amount, period, counting: Counting::SlidingWindow, per: Per::Key }
    }

    /// Counted in another way.
    pub(crate) fn counted(self, counting: Counting) -> Self {
        Self { counting, ..self }
    }

    /// For each model by itself.
    pub(crate) fn per_model(self) -> Self {
        Self { per: Per::KeyAndModel, ..self }
    }
}
