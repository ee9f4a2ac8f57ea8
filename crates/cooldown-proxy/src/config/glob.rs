//! Names of models, and globs that stand for many of them.

use std::fmt;

/// A model's name, or a glob: `*` stands for any run of characters, also for none and for `/`; everything else stands
/// for itself. Upper and lower case differ.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelGlob {
    text: Box<str>,
}

/// Why a text names no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ModelError {
    /// Nothing, or blanks or control characters in it.
    #[error("this is no model name")]
    Name,
    /// A `*` where one model must be meant.
    #[error("one model is expected, not a glob")]
    Glob,
}

impl ModelError {
    /// What to write instead.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Name => "write a name or a glob, such as `qwen-*`",
            Self::Glob => "write the whole name; globs belong in `models`",
        }
    }
}

impl ModelGlob {
    /// Reads a name or a glob.
    pub(super) fn parse(text: &str) -> Result<Self, ModelError> {
        if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(ModelError::Name);
        }
        Ok(Self { text: text.into() })
    }

    /// Reads the name of one model.
    pub(super) fn parse_name(text: &str) -> Result<String, ModelError> {
        let glob = Self::parse(text)?;
        if glob.is_name() { Ok(glob.text.into()) } else { Err(ModelError::Glob) }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it stands for one model only, the one of this name.
    pub fn is_name(&self) -> bool {
        !self.text.contains('*')
    }

    /// Whether it stands for this model. Takes time in proportion to both lengths, whatever they hold.
    pub fn matches(&self, model: &str) -> bool {
        let mut parts = self.text.split('*');
        let Some(rest) = parts.next().and_then(|start| model.strip_prefix(start)) else { return false };
        let Some(end) = parts.next_back() else { return rest.is_empty() };
        let Some(mut rest) = rest.strip_suffix(end) else { return false };
        // What a part can be found in only shrinks, so the first place where it is found is the best.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        true
    }
}

impl fmt::Display for ModelGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn glob(text: &str) -> ModelGlob {
        ModelGlob::parse(text).expect("a glob")
    }

    #[rstest]
    #[case("gpt-4o", "gpt-4o", true)]
    #[case("gpt-4o", "gpt-4o-mini", false)]
    #[case("gpt-4o", "GPT-4o", false)]
    #[case("gpt-4o", "", false)]
    #[case("qwen-*", "qwen-3-32b", true)]
    #[case("qwen-*", "qwen-", true)]
    #[case("qwen-*", "qwen", false)]
    #[case("*-mini", "gpt-4o-mini", true)]
    #[case("*-mini", "gpt-4o-mini-2024", false)]
    #[case("*/*", "meta-llama/llama-3", true)]
    #[case("*/*", "a/b/c", true)]
    #[case("*/*", "llama-3", false)]
    #[case("*", "", true)]
    #[case("**", "x", true)]
    #[case("ab*ba", "aba", false)]
    #[case("ab*ba", "abba", true)]
    #[case("a*b*c", "a-b-b-c", true)]
    #[case("a*bb*c", "abc", false)]
    #[case("a.c?", "abcd", false)]
    #[case("é*", "été", true)]
    fn globs_match_as_people_mean_them(#[case] text: &str, #[case] model: &str, #[case] expected: bool) {
        assert_eq!(glob(text).matches(model), expected);
    }

    #[rstest]
    #[case("", ModelError::Name)]
    #[case("a b", ModelError::Name)]
    #[case("a\u{7f}", ModelError::Name)]
    fn what_names_no_model_is_told(#[case] text: &str, #[case] why: ModelError) {
        assert_eq!(ModelGlob::parse(text), Err(why));
        assert_eq!(ModelGlob::parse_name(text), Err(why));
    }

    #[test]
    fn the_name_of_one_model_is_no_glob() {
        assert_eq!(ModelGlob::parse_name("gpt-4").as_deref(), Ok("gpt-4"));
        assert_eq!(ModelGlob::parse_name("gpt-*"), Err(ModelError::Glob));
    }

    #[test]
    fn a_hostile_name_is_matched_in_linear_time() {
        let glob = glob(&format!("{}b", "*a".repeat(1000)));
        let model = "a".repeat(1 << 20);
        let began = Instant::now();
        assert!(!glob.matches(&model));
        assert!(glob.matches(&format!("{model}b")));
        // Back-tracking would take years.
        assert!(began.elapsed().as_secs() < 10);
    }

    /// Every way of dividing the name is tried.
    fn naive(glob: &[u8], model: &[u8]) -> bool {
        match glob.split_first() {
            None => model.is_empty(),
            Some((b'*', rest)) => (0..=model.len()).any(|taken| naive(rest, &model[taken..])),
            Some((first, rest)) => model.first() == Some(first) && naive(rest, &model[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_what_trying_every_way_matches(text in "[ab*]{1,8}", model in "[ab]{0,10}") {
            prop_assert_eq!(glob(&text).matches(&model), naive(text.as_bytes(), model.as_bytes()));
        }

        #[test]
        fn a_glob_matches_every_name_that_it_was_made_of(parts in prop::collection::vec("[a-zé/.-]{0,5}", 1..5)) {
            let text = parts.join("*");
            prop_assume!(!text.is_empty());
            prop_assert!(glob(&text).matches(&parts.join("")));
            prop_assert!(glob(&text).matches(&parts.join("xyz")) || parts.len() == 1);
        }
    }
}
