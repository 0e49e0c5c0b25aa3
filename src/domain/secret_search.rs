//! Finds what looks like a secret in a JSON value, so that it is refused before anything keeps it.
//!
//! Invariant: what it answers with holds no part of a value: paths only, and of a name that itself looks like a secret not even that.
//!
//! It goes by names and by the well-known beginnings of keys, so a secret under an innocent name and without such a beginning passes.

use serde_json::Value;

use super::input::shown_name;

/// How many finds are told.
const MOST: usize = 16;

/// What the names of secrets end with, without `_` and `-`, in lower case.
const NAMES: [&str; 12] = [
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "authorization",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "cookie",
];

/// What keys of well-known services begin with, and how many characters follow at the least.
const BEGINNINGS: [(&str, usize); 17] = [
    ("sk-", 8),
    ("sk_live_", 4),
    ("sk_test_", 4),
    ("rk_live_", 4),
    ("ghp_", 4),
    ("gho_", 4),
    ("ghu_", 4),
    ("ghs_", 4),
    ("ghr_", 4),
    ("github_pat_", 4),
    ("glpat-", 4),
    ("xoxb-", 4),
    ("xoxp-", 4),
    ("xoxa-", 4),
    ("AKIA", 12),
    ("ASIA", 12),
    ("AIza", 12),
];

/// The paths of everything in a value that looks like a secret, such as `env.OPENAI_API_KEY`.
pub fn secrets_in(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(value, "", false, &mut found);
    found
}

fn walk(value: &Value, path: &str, named: bool, found: &mut Vec<String>) {
    if found.len() >= MOST {
        return;
    }
    match value {
        Value::String(text) if !text.is_empty() && (named || looks_secret(text)) => found.push(path.to_owned()),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, value)| walk(value, &format!("{path}[{at}]"), named, found));
        }
        Value::Object(object) => {
            for (name, value) in object {
                let is_key = looks_secret(name);
                let shown = if is_key { "(a name that looks like a secret)".to_owned() } else { shown_name(name) };
                let path = if path.is_empty() { shown } else { format!("{path}.{shown}") };
                if is_key {
                    found.push(path);
                } else {
                    walk(value, &path, named || is_name(name), found);
                }
            }
        }
        _ => {}
    }
}

fn is_name(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    NAMES.iter().any(|ending| plain.ends_with(ending))
}

fn looks_secret(text: &str) -> bool {
    if text.contains("-----BEGIN") && text.contains("PRIVATE KEY") {
        return true;
    }
    let is_separator =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '=' | ':' | '(' | ')' | '<' | '>' | '?' | '&');
    let words = || text.split(is_separator).filter(|word| !word.is_empty());
    if words().any(|word| begins_like_a_key(word) || is_web_token(word)) || has_password_in_url(text) {
        return true;
    }
    let scheme = words().zip(words().skip(1)).any(|(one, next)| one.eq_ignore_ascii_case("bearer") && next.len() >= 8);
    scheme
        || text.trim_start().get(..6).is_some_and(|start| start.eq_ignore_ascii_case("basic "))
            && !text.trim().contains("  ")
            && words().count() == 2
}

fn begins_like_a_key(word: &str) -> bool {
    BEGINNINGS.iter().any(|(beginning, more)| {
        word.strip_prefix(beginning).is_some_and(|rest| {
            let key = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')).count();
            key >= *more
        })
    })
}

/// A JSON web token: three parts, the first of them an object in base64.
fn is_web_token(word: &str) -> bool {
    word.starts_with("eyJ") && word.len() >= 30 && word.split('.').count() == 3
}

/// `scheme://user:password@host`.
fn has_password_in_url(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_found_by_name_and_by_form_at_any_depth() {
        let body = json!({
            "spec": {"model_config": {"api_key": "abc"}},
            "env": {"OPENAI_API_KEY": "x", "DbPassword": "y", "REGION": "eu", "EMPTY_TOKEN": ""},
            "config": {"headers": [{"X": "Bearer abcdefgh"}], "deep": {"secret": {"value": ["z"]}}, "max_tokens": 100, "token": 5},
            "metadata": {"a": "use sk-tiger-7421 here", "b": "postgres://u:p@h/db", "ghp_abcdefghij": 1},
        });
        assert_eq!(
            secrets_in(&body),
            [
                "spec.model_config.api_key",
                "env.OPENAI_API_KEY",
                "env.DbPassword",
                "config.headers[0].X",
                "config.deep.secret.value[0]",
                "metadata.a",
                "metadata.b",
                "metadata.(a name that looks like a secret)",
            ]
        );
    }

    #[test]
    fn keys_of_well_known_services_are_known_by_their_beginnings() {
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIB";
        for secret in [
            "sk-proj-abcdefgh",
            "ghp_0123456789",
            "github_pat_11AAAA",
            "xoxb-1234-abcd",
            "AKIAIOSFODNN7EXAMPLE",
            "AIzaSyA1234567890abc",
            pem,
            "bearer 0123456789",
            "Authorization: Bearer 0123456789",
            "Basic dXNlcjpwYXNz",
            "key=sk-abcdefghijkl",
            "glpat-abcdefgh",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh",
        ] {
            assert!(looks_secret(secret), "{secret}");
        }
        for plain in [
            "sk-learn",
            "the bearer of this",
            "Basic settings of the app",
            "AKIA",
            "https://example.org/a:b@c",
            "eu",
            "a-b-c",
            "task-123456789",
        ] {
            assert!(!looks_secret(plain), "{plain}");
        }
    }
}
