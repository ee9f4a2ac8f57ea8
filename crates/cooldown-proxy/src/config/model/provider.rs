//! Providers: what is meant by an entry of `providers`.

use super::{Limits, Upstream};
use crate::config::{ModelGlob, Secret};
use crate::provider::{Charge, Tokenizer};

/// One entry of `providers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its name; requests reach it at `/<name>/…`.
    pub name: String,
    /// What kind of API it is: the one that has its name, unless another is configured.
    pub kind: ProviderKind,
    /// Where it is.
    pub upstream: Upstream,
    /// What stands in place of `/v1` in the path of a request that named no provider and was routed by its model: empty, or
    /// starting with `/` and not ending in one.
    pub unified_base: &'static str,
    /// Its keys, at least one; `client` alone stands for the caller's own.
    pub keys: Keys,
    /// Where it wants them.
    pub key_field: KeyField,
    /// The models that it serves, beside those in `model_aliases`.
    pub models: Vec<ModelGlob>,
    /// Names under which callers may ask for a model, each with the name that this provider has for it; no name twice.
    pub model_aliases: Vec<(String, String)>,
    /// Whether it serves a model only when the others that serve it are closed, spent or unreachable.
    pub fallback: bool,
    /// What it charges to its limits.
    pub charge: Charge,
    /// By which tokenizer the prompts for a model are counted, if by any; the first entry that matches it holds. Where none
    /// does, they are estimated from their bytes.
    pub tokenizers: Vec<(ModelGlob, Option<Tokenizer>)>,
    /// Limits for each key.
    pub limits: Limits,
    /// Limits for each key and model; for a model, all entries that match it hold.
    pub model_limits: Vec<(ModelGlob, Limits)>,
}

/// A kind of API: how it states limits, usage and errors, and where it wants its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    /// OpenAI.
    OpenAi,
    /// Azure OpenAI.
    Azure,
    /// Anthropic.
    Anthropic,
    /// Cerebras.
    Cerebras,
    /// Groq.
    Groq,
    /// Google's Gemini API.
    Gemini,
    /// Mistral.
    Mistral,
    /// OpenRouter.
    OpenRouter,
    /// Together.
    Together,
    /// Fireworks.
    Fireworks,
    /// DeepSeek.
    DeepSeek,
    /// GitHub's REST API.
    GitHub,
    /// Any other HTTP API.
    Generic,
}

/// The field in which a provider wants its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyField {
    /// `authorization: Bearer KEY` (RFC 6750).
    Authorization,
    /// `x-api-key: KEY`, as Anthropic has it.
    XApiKey,
    /// `api-key: KEY`, as Azure has it.
    ApiKey,
    /// `x-goog-api-key: KEY`, as Gemini has it.
    XGoogApiKey,
}

/// Whose credentials a provider is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// The caller's own, unchanged.
    Client,
    /// Ours.
    Ours(Vec<Secret>),
}
