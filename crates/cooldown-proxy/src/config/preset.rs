//! What is known of providers: where they are and which models they have.

use super::model::{KeyField, ProviderKind};

/// Where a provider is, and what it serves. Clients write the API's own path behind `/<name>`, so no endpoint has one.
pub(super) struct Preset {
    /// The base URL; `None` where each customer has another.
    pub(super) endpoint: Option<&'static str>,
    /// What its API has in place of `/v1`, where requests of OpenAI's form belong.
    pub(super) unified_base: &'static str,
    /// Where it wants its key.
    pub(super) key_field: KeyField,
    /// Model names and globs.
    pub(super) models: &'static [&'static str],
    /// Whether the API has models at all.
    pub(super) has_models: bool,
}

/// The kinds of API by the name that the configuration gives them.
pub(super) const KINDS: [(&str, ProviderKind); 13] = [
    ("openai", ProviderKind::OpenAi),
    ("azure", ProviderKind::Azure),
    ("anthropic", ProviderKind::Anthropic),
    ("cerebras", ProviderKind::Cerebras),
    ("groq", ProviderKind::Groq),
    ("gemini", ProviderKind::Gemini),
    ("mistral", ProviderKind::Mistral),
    ("openrouter", ProviderKind::OpenRouter),
    ("together", ProviderKind::Together),
    ("fireworks", ProviderKind::Fireworks),
    ("deepseek", ProviderKind::DeepSeek),
    ("github", ProviderKind::GitHub),
    ("generic", ProviderKind::Generic),
];

/// The fields for keys by the name that the configuration gives them.
pub(super) const KEY_FIELDS: [(&str, KeyField); 4] = [
    ("authorization", KeyField::Authorization),
    ("x-api-key", KeyField::XApiKey),
    ("api-key", KeyField::ApiKey),
    ("x-goog-api-key", KeyField::XGoogApiKey),
];

/// Where requests of OpenAI's form belong in most APIs.
pub(super) const USUAL_BASE: &str = "/v1";

/// The kind that a provider's name stands for.
pub(super) fn kind_of(name: &str) -> ProviderKind {
    KINDS.iter().find(|(known, _)| *known == name).map_or(ProviderKind::Generic, |(_, kind)| *kind)
}

/// What is known of a kind.
pub(super) fn preset(kind: ProviderKind) -> Preset {
    Preset {
        endpoint: endpoint(kind),
        unified_base: unified_base(kind),
        key_field: key_field(kind),
        models: models(kind),
        has_models: kind != ProviderKind::GitHub,
    }
}

fn endpoint(kind: ProviderKind) -> Option<&'static str> {
    Some(match kind {
        ProviderKind::OpenAi => "https://api.openai.com",
        ProviderKind::Anthropic => "https://api.anthropic.com",
        ProviderKind::Cerebras => "https://api.cerebras.ai",
        ProviderKind::Groq => "https://api.groq.com",
        ProviderKind::Gemini => "https://generativelanguage.googleapis.com",
        ProviderKind::Mistral => "https://api.mistral.ai",
        ProviderKind::OpenRouter => "https://openrouter.ai",
        ProviderKind::Together => "https://api.together.xyz",
        ProviderKind::Fireworks => "https://api.fireworks.ai",
        ProviderKind::DeepSeek => "https://api.deepseek.com",
        ProviderKind::GitHub => "https://api.github.com",
        ProviderKind::Azure | ProviderKind::Generic => return None,
    })
}

fn unified_base(kind: ProviderKind) -> &'static str {
    match kind {
        ProviderKind::Groq => "/openai/v1",
        ProviderKind::Gemini => "/v1beta/openai",
        ProviderKind::OpenRouter => "/api/v1",
        ProviderKind::Fireworks => "/inference/v1",
        _ => USUAL_BASE,
    }
}

fn key_field(kind: ProviderKind) -> KeyField {
    match kind {
        ProviderKind::Anthropic => KeyField::XApiKey,
        ProviderKind::Azure => KeyField::ApiKey,
        ProviderKind::Gemini => KeyField::XGoogApiKey,
        _ => KeyField::Authorization,
    }
}

fn models(kind: ProviderKind) -> &'static [&'static str] {
    match kind {
        ProviderKind::OpenAi | ProviderKind::Azure => {
            &["gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "text-embedding-*", "whisper-*", "tts-*", "dall-e-*"]
        }
        ProviderKind::Anthropic => &["claude-*"],
        ProviderKind::Cerebras => &["llama3.1-*", "llama-3.3-*", "llama-4-*", "qwen-3-*", "gpt-oss-*", "zai-glm-*"],
        ProviderKind::Groq => {
            &["llama-*", "meta-llama/*", "openai/gpt-oss-*", "qwen/*", "moonshotai/*", "groq/*", "whisper-*"]
        }
        ProviderKind::Gemini => &["gemini-*", "gemma-*"],
        ProviderKind::Mistral => {
            &["mistral-*", "ministral-*", "magistral-*", "codestral-*", "devstral-*", "pixtral-*", "open-mi*"]
        }
        ProviderKind::OpenRouter | ProviderKind::Together => &["*/*"],
        ProviderKind::Fireworks => &["accounts/*"],
        ProviderKind::DeepSeek => &["deepseek-*"],
        ProviderKind::GitHub | ProviderKind::Generic => &[],
    }
}
