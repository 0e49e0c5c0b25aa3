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

/// What is known of a token that only its bearer has. It fits tokens of chance, which nobody can guess from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    const SCHEME: &'static str = "sha256:";

    /// The hash of a token.
    pub fn of(token: &[u8]) -> Self {
        TokenHash(Sha256::digest(token).into())
    }

    /// Reads `sha256:` and 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::SCHEME)?.as_bytes();
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let mut hash = [0; 32];
        let (pairs, []) = digits.as_chunks::<2>() else { return None };
        if pairs.len() != hash.len() {
            return None;
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(TokenHash(hash))
    }

    /// Whether it is the hash of what is given. How long the answer takes says nothing about where the two differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.iter().zip(Sha256::digest(given)).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(Self::SCHEME)?;
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_as_it_is_read_and_only_its_token_matches() {
        let hash = TokenHash::of(b"tiger-7421");
        assert_eq!(TokenHash::parse(&hash.to_string()), Some(hash));
        assert_eq!(TokenHash::parse(&hash.to_string().to_uppercase().replace("SHA256", "sha256")), Some(hash));
        assert!(hash.matches(b"tiger-7421") && !hash.matches(b"tiger-7422") && !hash.matches(b""));
        let text = hash.to_string();
        for wrong in
            [&text[7..], &text[..70], "sha256:", "", &text.replace("sha256", "sha512"), &format!("{text}0"), &format!("{}zz", &text[..69])]
        {
            assert_eq!(TokenHash::parse(wrong), None, "{wrong}");
        }
    }

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
