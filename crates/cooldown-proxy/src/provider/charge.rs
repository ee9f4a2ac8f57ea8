//! How a provider charges a request to its limits: what it takes up front, and what it counts in the end.

use crate::config::model::ProviderKind;

/// How a provider charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Which tokens share a limit.
    pub tokens: TokenLimits,
    /// What is taken for the output before there is one.
    pub output: OutputReservation,
    /// Whether tokens that came out of a prompt cache count.
    pub counts_cached: bool,
    /// Whether a request that failed counts.
    pub counts_failed: bool,
}

/// Which tokens share a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenLimits {
    /// Input and output together.
    Together,
    /// Input and output, each its own.
    Apart,
    /// The input alone; the output is free.
    InputOnly,
}

/// What a provider takes for the output when a request arrives. The same must be asked of our own limits: whoever asks for
/// less is refused, however short the answer would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputReservation {
    /// `max_tokens`; the model's maximum when the request has none.
    MaxTokensOrModelMaximum,
    /// `max_tokens`; nothing when the request has none.
    MaxTokens,
    /// Not the sum, but the larger of `max_tokens` and the estimated input.
    LargerOfMaxTokensAndInput,
    /// Nothing: output is counted as it is produced, so that what it will probably be must be set aside.
    AsProduced,
    /// Nothing: output is not limited.
    None,
}

impl Charge {
    /// How this kind of API charges. What its documentation leaves open is taken to count.
    pub const fn of(kind: ProviderKind) -> Self {
        let usual = Self {
            tokens: TokenLimits::Together,
            output: OutputReservation::MaxTokens,
            counts_cached: true,
            counts_failed: true,
        };
        match kind {
            ProviderKind::Azure | ProviderKind::Cerebras => {
                Self { output: OutputReservation::MaxTokensOrModelMaximum, ..usual }
            }
            ProviderKind::Groq => Self { counts_cached: false, ..usual },
            ProviderKind::Anthropic => Self {
                tokens: TokenLimits::Apart,
                output: OutputReservation::AsProduced,
                counts_cached: false,
                ..usual
            },
            ProviderKind::Fireworks => {
                Self { tokens: TokenLimits::Apart, output: OutputReservation::AsProduced, ..usual }
            }
            ProviderKind::Together => Self { output: OutputReservation::AsProduced, ..usual },
            ProviderKind::Gemini => Self { tokens: TokenLimits::InputOnly, output: OutputReservation::None, ..usual },
            // Mistral's default reservation has given way to what is really used.
            ProviderKind::Mistral => Self { output: OutputReservation::AsProduced, ..usual },
            // Limited by requests, or not at all.
            ProviderKind::OpenRouter | ProviderKind::DeepSeek | ProviderKind::GitHub => {
                Self { output: OutputReservation::None, ..usual }
            }
            // OpenAI documents the larger of `max_tokens` and the input. Both are set aside: in the end both count.
            ProviderKind::OpenAi | ProviderKind::Generic => usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_reserves_nothing_is_asked_for_nothing() {
        assert_eq!(Charge::of(ProviderKind::Anthropic).output, OutputReservation::AsProduced);
        assert!(!Charge::of(ProviderKind::Anthropic).counts_cached);
        assert_eq!(Charge::of(ProviderKind::Gemini).tokens, TokenLimits::InputOnly);
        assert_eq!(Charge::of(ProviderKind::Azure).output, OutputReservation::MaxTokensOrModelMaximum);
    }
}
