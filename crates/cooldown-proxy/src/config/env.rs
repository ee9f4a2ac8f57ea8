//! `${NAME}` in values: what the environment holds is data, and is never read as YAML.

use super::fault::Report;
use super::node::{Node, Value};

/// Looks a variable up.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a text with variables cannot be expanded.
#[derive(Debug, PartialEq, Eq)]
enum EnvError {
    /// `${` without a `}`.
    Open,
    /// A name that no variable can have.
    Name,
    /// Not set, and no default is given.
    Missing(String),
}

/// Replaces `${NAME}` and `${NAME:-default}` in every text of the tree; `$${` stands for `${` itself.
pub(super) fn expand(node: &mut Node, env: Env<'_>, report: &mut Report) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => match expand_text(text, env) {
            Ok(expanded) => *text = expanded,
            Err(errors) => {
                errors.iter().for_each(|error| report.fault(&node.at, error.message(), error.hint()));
                node.value = Value::Broken;
            }
        },
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| expand(value, env, report)),
        Value::List(items) => items.iter_mut().for_each(|item| expand(item, env, report)),
        Value::Text(_) | Value::Null | Value::Broken => {}
    }
}

impl EnvError {
    fn message(&self) -> String {
        match self {
            Self::Open => "`${` is not closed".to_owned(),
            Self::Name => "`${...}` does not hold the name of an environment variable".to_owned(),
            Self::Missing(name) => format!("the environment variable {name} is not set"),
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Open => "close it with `}`, or write `$${` for the characters themselves".to_owned(),
            Self::Name => "names are letters, digits and `_`; write `$${` for the characters themselves".to_owned(),
            Self::Missing(name) => format!("set it, or give a default: `${{{name}:-default}}`"),
        }
    }
}

fn expand_text(text: &str, env: Env<'_>) -> Result<String, Vec<EnvError>> {
    let mut expanded = String::new();
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            expanded.push_str(&rest[..at - 1]);
            expanded.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        expanded.push_str(&rest[..at]);
        let Some(length) = rest[at..].find('}') else {
            errors.push(EnvError::Open);
            return Err(errors);
        };
        match value_of(&rest[at + 2..at + length], env) {
            Ok(value) => expanded.push_str(&value),
            Err(error) => errors.push(error),
        }
        rest = &rest[at + length + 1..];
    }
    expanded.push_str(rest);
    if errors.is_empty() { Ok(expanded) } else { Err(errors) }
}

/// The value of `NAME` or `NAME:-default`; as in a shell, a default also replaces an empty value.
fn value_of(inner: &str, env: Env<'_>) -> Result<String, EnvError> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(EnvError::Name);
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(EnvError::Missing(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "A" => Some("one: [two]".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[rstest]
    #[case("${A}", "one: [two]")]
    #[case("<${A}${A}>", "<one: [two]one: [two]>")]
    #[case("${B:-b}", "b")]
    #[case("${EMPTY:-b}", "b")]
    #[case("${EMPTY}", "")]
    #[case("${B:-}", "")]
    #[case("$${A}", "${A}")]
    #[case("$A $ {A}", "$A $ {A}")]
    fn variables_are_replaced(#[case] text: &str, #[case] expanded: &str) {
        assert_eq!(expand_text(text, &environment).as_deref(), Ok(expanded));
    }

    #[test]
    fn what_cannot_be_replaced_is_told() {
        let missing = |name: &str| EnvError::Missing(name.to_owned());
        assert_eq!(expand_text("${B} ${A} ${C}", &environment), Err(vec![missing("B"), missing("C")]));
        assert_eq!(expand_text("${A", &environment), Err(vec![EnvError::Open]));
        assert_eq!(expand_text("${1A}", &environment), Err(vec![EnvError::Name]));
        assert_eq!(expand_text("${}", &environment), Err(vec![EnvError::Name]));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_expansion_panic(text in "[${}:A-Zé-]{0,40}") {
            let _ = expand_text(&text, &environment);
        }
    }
}
