//! What is known of providers: where they are and which models they have.

use super::model::ProviderKind;

/// Where a provider is, and what it serves. Clients write the API's own path behind `/<name>`, so no endpoint has one.
pub(super) struct Preset {
    /// The base URL; `None` where each customer has another.
    pub(super) endpoint: Option<&'static str>,
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

const OPENAI_MODELS: &[&str] =
    &["gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "text-embedding-*", "whisper-*", "tts-*", "dall-e-*"];

/// The kind that a provider's name stands for.
pub(super) fn kind_of(name: &str) -> ProviderKind {
    KINDS.iter().find(|(known, _)| *known == name).map_or(ProviderKind::Generic, |(_, kind)| *kind)
}

/// What is known of a kind.
pub(super) fn preset(kind: ProviderKind) -> Preset {
    let llm = |endpoint, models| Preset { endpoint: Some(endpoint), models, has_models: true };
    match kind {
        ProviderKind::OpenAi => llm("https://api.openai.com", OPENAI_MODELS),
        ProviderKind::Azure => Preset { endpoint: None, models: OPENAI_MODELS, has_models: true },
        ProviderKind::Anthropic => llm("https://api.anthropic.com", &["claude-*"]),
        ProviderKind::Cerebras => llm(
            "https://api.cerebras.ai",
            &["llama3.1-*", "llama-3.3-*", "llama-4-*", "qwen-3-*", "gpt-oss-*", "zai-glm-*"],
        ),
        ProviderKind::Groq => llm(
            "https://api.groq.com",
            &["llama-*", "meta-llama/*", "openai/gpt-oss-*", "qwen/*", "moonshotai/*", "groq/*", "whisper-*"],
        ),
        ProviderKind::Gemini => llm("https://generativelanguage.googleapis.com", &["gemini-*", "gemma-*"]),
        ProviderKind::Mistral => llm(
            "https://api.mistral.ai",
            &["mistral-*", "ministral-*", "magistral-*", "codestral-*", "devstral-*", "pixtral-*", "open-mi*"],
        ),
        ProviderKind::OpenRouter => llm("https://openrouter.ai", &["*/*"]),
        ProviderKind::Together => llm("https://api.together.xyz", &["*/*"]),
        ProviderKind::Fireworks => llm("https://api.fireworks.ai", &["accounts/*"]),
        ProviderKind::DeepSeek => llm("https://api.deepseek.com", &["deepseek-*"]),
        ProviderKind::GitHub => Preset { endpoint: Some("https://api.github.com"), models: &[], has_models: false },
        ProviderKind::Generic => Preset { endpoint: None, models: &[], has_models: true },
    }
}
