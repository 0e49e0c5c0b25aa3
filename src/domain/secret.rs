//! A value that must not be seen.
//!
//! Invariant: neither `Debug` nor `Display` shows it, and it has no `Serialize`; [`Secret::expose`] is the only way to it.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// A text that no log, message or answer may show.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is the secret. How long the answer takes says nothing about where the two differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        let (own, given) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(given));
        own.iter().zip(given.iter()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(hidden)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_it_shows_it_and_only_itself_matches() {
        let secret = Secret::new("tiger-7421");
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "(hidden) (hidden) (hidden)");
        assert!(secret.matches(b"tiger-7421"));
        for other in ["", "tiger-742", "tiger-7421 ", "Tiger-7421"] {
            assert!(!secret.matches(other.as_bytes()), "{other}");
        }
    }
}
