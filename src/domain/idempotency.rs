//! The name that a caller gives a request, so that asking twice does it once.
//!
//! Invariant: what is kept of the caller's text and of the request are hashes, of one length whatever was given.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The longest text of a key, in bytes.
pub const LONGEST_KEY: usize = 255;

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a key: use 1 to 255 visible ASCII characters without spaces, such as a UUID of your own")]
pub struct InvalidKey;

/// A request under the name that its caller gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    name: String,
    request: String,
}

impl IdempotencyKey {
    /// The key `text` of a request for `path` with `body`. Keys of different scopes have nothing to do with each other; none and
    /// null are the same body as an empty object, and the order of an object's members does not matter.
    ///
    /// # Errors
    /// The text is empty, too long, or has other characters than visible ASCII.
    pub fn parse(scope: &str, text: &str, path: &str, body: Option<&Value>) -> Result<Self, InvalidKey> {
        if text.is_empty() || text.len() > LONGEST_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidKey);
        }
        let mut canonical = String::new();
        match body {
            None | Some(Value::Null) => canonical.push_str("{}"),
            Some(body) => write_canonical(body, &mut canonical),
        }
        Ok(IdempotencyKey { name: hash(&[scope, text]), request: hash(&[path, &canonical]) })
    }

    /// What its answer is kept under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells the request from another one under the same key.
    pub fn request(&self) -> &str {
        &self.request
    }
}

fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a value so that equal ones are written alike.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name.as_str());
            out.push('{');
            for (name, member) in members {
                let _ = write!(out, "{}:", Value::from(name.as_str()));
                write_canonical(member, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            for value in values {
                write_canonical(value, out);
                out.push(',');
            }
            out.push(']');
        }
        plain => {
            let _ = write!(out, "{plain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(text: &str, path: &str, body: Option<Value>) -> IdempotencyKey {
        IdempotencyKey::parse("run", text, path, body.as_ref()).unwrap()
    }

    #[test]
    fn a_key_is_visible_ascii_of_bounded_length() {
        for good in ["a", "0b9c6a52-3e55-4d44-9f6e-1a2b3c4d5e6f", "\"quoted\"", &"k".repeat(255)] {
            assert_eq!(key(good, "p", None).name().len(), 64, "{good}");
        }
        for bad in ["", " ", "a b", "tab\t", "é", "\u{7f}", "null\0", &"k".repeat(256)] {
            assert_eq!(IdempotencyKey::parse("run", bad, "p", None), Err(InvalidKey), "{bad:?}");
        }
    }

    #[test]
    fn a_request_is_its_path_and_what_its_body_means() {
        let same = [
            json!({"a": 1, "b": {"c": [1, {"d": null, "e": "x"}], "f": true}}),
            json!({"b": {"f": true, "c": [1, {"e": "x", "d": null}]}, "a": 1}),
        ];
        assert_eq!(key("k", "p", Some(same[0].clone())), key("k", "p", Some(same[1].clone())));
        assert_eq!(key("k", "p", None), key("k", "p", Some(json!({}))));
        assert_eq!(key("k", "p", None), key("k", "p", Some(Value::Null)));
        let others =
            [json!({}), json!([]), json!({"a": 1}), json!({"a": "1"}), json!({"a": [1, 2]}), json!({"a": [2, 1]}), json!({"a": [[1], 2]})];
        for (at, one) in others.iter().enumerate() {
            for other in others.iter().skip(at + 1) {
                assert_ne!(key("k", "p", Some(one.clone())).request(), key("k", "p", Some(other.clone())).request(), "{one} {other}");
            }
        }
        assert_ne!(key("k", "p", None).request(), key("k", "q", None).request());
        assert_ne!(key("k", "p", None).name(), key("l", "p", None).name());
        assert_ne!(key("k", "p", None).name(), IdempotencyKey::parse("task", "k", "p", None).unwrap().name());
    }
}
