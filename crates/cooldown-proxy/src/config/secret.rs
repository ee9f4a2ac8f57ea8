//! A value that must not be shown.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A key or token. `Debug` shows nothing of it, comparison takes the same time whatever differs, and its memory is
/// overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is this secret, in a time that depends on the length of `given` alone.
    pub fn matches(&self, given: &[u8]) -> bool {
        let same_length = self.0.len() == given.len();
        // A wrong length is compared with itself, so that it takes as long as a right one.
        let expected = if same_length { self.0.as_bytes() } else { given };
        same_length & bool::from(expected.ct_eq(given))
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_but_never_shown() {
        let secret = Secret::new("sk-123".to_owned());
        assert!(secret.matches(b"sk-123"));
        assert!(!secret.matches(b"sk-124"));
        assert!(!secret.matches(b"sk-1234"));
        assert_eq!(format!("{secret:?}"), "Secret(***)");
    }
}
