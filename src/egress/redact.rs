//! Takes known secrets out of whatever is kept or shown.
//!
//! Invariant: a value that was read as a credential is known from before its first use to the daemon's end, under the credential's last
//! values too, as it is, percent-encoded, in JSON, and in base64 wherever it stands in what was encoded. What is cut between two writes is
//! found; what a guest takes apart itself is not.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use aho_corasick::{AhoCorasick, MatchKind};
use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::domain::secret::Secret;

/// What stands in a text where a secret was.
pub const MARK: &str = "(hidden)";
/// How many values of one credential are remembered, the newest; each has a few dozen forms, and some are read as two.
const REMEMBERED: usize = 16;
/// The least that is held back of an answer, in bytes; more goes in powers of two.
const LEAST_BACK: usize = 256;

/// What to look for.
pub struct Forms {
    search: AhoCorasick,
    /// The same, to find how much of an end may be the start of one.
    texts: Vec<Vec<u8>>,
}

/// The values of each credential, the newest last.
#[derive(Default)]
struct Known {
    values: HashMap<String, Vec<Secret>>,
    /// What was made for some credentials; forgotten when anything is learned.
    made: HashMap<Vec<String>, Arc<Forms>>,
}

/// The secrets of a daemon.
#[derive(Default)]
pub struct Redactor {
    known: Mutex<Known>,
    forms: ArcSwapOption<Forms>,
}

/// The value as URLs have it: each byte that is not kept as `%` and two digits of one case.
fn percent(value: &str, kept: &str, is_small: bool) -> Vec<u8> {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else if is_small {
            out.push_str(&format!("%{byte:02x}"));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out.into_bytes()
}

/// The value as it stands in JSON, with more escaped than must be: these signs with digits of one case, and slashes if wanted.
fn json(value: &str, escaped: &dyn Fn(char) -> bool, is_small: bool, slash: bool) -> Vec<u8> {
    let mut out = String::new();
    for sign in value.chars() {
        match sign {
            _ if escaped(sign) && is_small => out.push_str(&format!("\\u{:04x}", u32::from(sign))),
            _ if escaped(sign) => out.push_str(&format!("\\u{:04X}", u32::from(sign))),
            '/' if slash => out.push_str("\\/"),
            '"' | '\\' => out.extend(['\\', sign]),
            _ => out.push(sign),
        }
    }
    out.into_bytes()
}

fn forms_of(value: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![value.as_bytes().to_vec()];
    for is_small in [false, true] {
        forms.extend(["", "-_.~", "-_.~/"].map(|kept| percent(value, kept, is_small)));
        for slash in [false, true] {
            forms.push(json(value, &|_| false, is_small, slash));
            // What writers escape that expect their JSON in HTML.
            forms.push(json(value, &|sign| "<>&".contains(sign), is_small, slash));
            forms.push(json(value, &|sign| "<>&'\"+`".contains(sign), is_small, slash));
        }
        forms.push(json(value, &|sign| sign.is_ascii() && !sign.is_ascii_alphanumeric(), is_small, false));
    }
    for before in 0..3usize {
        // Of the signs at both ends, neighbours of the value decide a part.
        let first = (before * 8).div_ceil(6);
        let sure = ((before + value.len()) * 8 / 6).saturating_sub(first);
        let padded = [&vec![0; before], value.as_bytes()].concat();
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            forms.push(text.bytes().skip(first).take(sure).collect());
        }
    }
    // Shorter ones would be found in anything.
    forms.retain(|form| form.len() >= 6);
    forms
}

impl Forms {
    fn of<'a>(values: impl Iterator<Item = &'a Secret>) -> Option<Arc<Forms>> {
        let mut texts: Vec<Vec<u8>> = values.flat_map(|secret| forms_of(secret.expose())).collect();
        texts.sort_unstable();
        texts.dedup();
        let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts).ok()?;
        (!texts.is_empty()).then(|| Arc::new(Forms { search, texts }))
    }

    fn longest(&self) -> usize {
        self.texts.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Some bytes without secrets; none where there is none in them.
    pub fn bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.search.is_match(bytes) {
            return None;
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut from = 0;
        for found in self.search.find_iter(bytes) {
            out.extend_from_slice(bytes.get(from..found.start()).unwrap_or_default());
            out.extend_from_slice(MARK.as_bytes());
            from = found.end();
        }
        out.extend_from_slice(bytes.get(from..).unwrap_or_default());
        Some(out)
    }
}

impl Redactor {
    /// Makes a value of a credential known. It is in force when this returns.
    pub fn learn(&self, credential: &str, secret: &Secret) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let values = known.values.entry(credential.to_owned()).or_default();
        if values.last() == Some(secret) {
            return;
        }
        let is_new = !values.contains(secret);
        values.retain(|value| value != secret);
        if values.len() >= REMEMBERED {
            values.remove(0);
        }
        values.push(secret.clone());
        if is_new {
            known.made.clear();
            self.forms.store(Forms::of(known.values.values().flatten()));
        }
    }

    /// The values of some credentials alone; none where none of them was read.
    pub fn only<'a>(&self, credentials: impl Iterator<Item = &'a str>) -> Option<Arc<Forms>> {
        let names: Vec<String> = credentials.map(str::to_owned).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = known.made.get(&names) {
            return Some(Arc::clone(made));
        }
        let made = Forms::of(names.iter().filter_map(|name| known.values.get(name)).flatten())?;
        known.made.insert(names, Arc::clone(&made));
        Some(made)
    }

    /// Whether nothing is known, so that nothing can be found.
    pub fn is_empty(&self) -> bool {
        self.forms.load().is_none()
    }

    /// The text without secrets.
    pub fn text(&self, text: String) -> String {
        let forms = self.forms.load();
        let Some(forms) = forms.as_ref().filter(|forms| forms.search.is_match(&text)) else { return text };
        let mut out = String::with_capacity(text.len());
        let mut from = 0;
        for found in forms.search.find_iter(&text) {
            out.push_str(text.get(from..found.start()).unwrap_or_default());
            out.push_str(MARK);
            from = found.end();
        }
        out.push_str(text.get(from..).unwrap_or_default());
        out
    }

    /// The JSON without secrets, in names too.
    pub fn json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(list) => list.into_iter().map(|value| self.json(value)).collect(),
            Value::Object(members) => members.into_iter().map(|(name, value)| (self.text(name), self.json(value))).collect(),
            other => other,
        }
    }

    /// A text that may be JSON: what its escapes hide is found as well.
    pub fn payload(&self, text: String) -> String {
        if self.is_empty() {
            return text;
        }
        let text = self.text(text);
        let Ok(value) = serde_json::from_str::<Value>(&text) else { return text };
        let clean = self.json(value.clone());
        if clean == value { text } else { clean.to_string() }
    }
}

/// Masks one stream of bytes for who may write into it and sees when its parts come: how much is held back depends on nothing that is in
/// it, so that nobody can try a secret's beginnings on it.
pub struct Mask {
    forms: Arc<Forms>,
    /// How many bytes are always held back: no form is longer, and its own length is not told.
    back: usize,
    held: Vec<u8>,
}

impl Mask {
    /// Nothing taken yet.
    pub fn new(forms: Arc<Forms>) -> Self {
        let back = forms.longest().next_power_of_two().max(LEAST_BACK);
        Mask { forms, back, held: Vec::new() }
    }

    /// Takes the next bytes; gives all but the last ones, each secret's bytes as stars.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let ready = self.held.len().saturating_sub(self.back);
        self.give(ready)
    }

    /// What was held back when nothing follows.
    pub fn finish(&mut self) -> Vec<u8> {
        self.give(self.held.len())
    }

    /// Whether nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn give(&mut self, ready: usize) -> Vec<u8> {
        if ready == 0 {
            return Vec::new();
        }
        // One that begins behind these may turn out to be longer.
        let found: Vec<Range<usize>> =
            self.forms.search.find_iter(&self.held).map(|found| found.range()).take_while(|range| range.start < ready).collect();
        for range in found {
            if let Some(secret) = self.held.get_mut(range) {
                secret.fill(b'*');
            }
        }
        let rest = self.held.split_off(ready);
        std::mem::replace(&mut self.held, rest)
    }
}

/// What is held back of one stream of bytes, because it may be the beginning of a secret.
#[derive(Debug, Default)]
pub struct Held(Vec<u8>);

impl Held {
    /// Takes the next bytes; gives those that are sure, each secret's bytes as stars.
    pub fn push(&mut self, redactor: &Redactor, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(bytes);
        let forms = redactor.forms.load();
        let Some(forms) = forms.as_ref() else { return all };
        let mut hidden_to = 0;
        let found: Vec<Range<usize>> = forms.search.find_iter(&all).map(|found| found.range()).collect();
        for range in found {
            hidden_to = range.end;
            if let Some(secret) = all.get_mut(range) {
                secret.fill(b'*');
            }
        }
        let from = hidden_to.max(all.len().saturating_sub(forms.longest().saturating_sub(1)));
        // The longest end that begins a form is kept back until it is known what follows.
        let kept = (from..all.len()).find(|at| {
            let end = all.get(*at..).unwrap_or_default();
            let after = forms.texts.partition_point(|form| form.as_slice() < end);
            forms.texts.get(after).is_some_and(|form| form.starts_with(end))
        });
        self.0 = all.split_off(kept.unwrap_or(all.len()));
        all
    }

    /// What was held back when nothing follows.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "sk-Zebra/42+\"quoted\"";

    fn redactor() -> Redactor {
        let redactor = Redactor::default();
        redactor.learn("a", &Secret::new(SECRET));
        redactor
    }

    #[test]
    fn a_secret_is_found_in_every_form_and_place() {
        let redactor = redactor();
        let hidden = |text: String| redactor.text(text);
        assert_eq!(hidden(format!("a{SECRET}b{SECRET}")), "a(hidden)b(hidden)");
        assert_eq!(hidden("sk-Zebra%2F42%2B%22quoted%22!".to_owned()), "(hidden)!");
        assert!(!hidden(serde_json::to_string(SECRET).unwrap()).contains("Zebra"));
        for before in ["", "a", "ab", "abc", "Bearer ", "user:"] {
            for after in ["", "x", "xy", "xyz"] {
                for engine in [&base64::engine::general_purpose::STANDARD, &base64::engine::general_purpose::URL_SAFE] {
                    let encoded = engine.encode(format!("{before}{SECRET}{after}"));
                    let shown = hidden(encoded.clone());
                    assert!(shown.contains(MARK), "{before}|{after}: {encoded}");
                    assert!(shown.len() <= before.len() * 2 + after.len() * 2 + MARK.len() + 8, "{shown}");
                }
            }
        }
        for text in ["sk%2dZebra%2f42%2b%22quoted%22", "sk-Zebra%2f42%2b%22quoted%22", "sk-Zebra/42%2B%22quoted%22"] {
            assert_eq!(hidden(text.to_owned()), MARK, "{text}");
        }
        for text in [
            r#"sk-Zebra\/42+\"quoted\""#,
            r#"sk-Zebra/42\u002B\u0022quoted\u0022"#,
            r#"sk-Zebra\/42\u002b\u0022quoted\u0022"#,
            r#"sk\u002dZebra\u002f42\u002b\u0022quoted\u0022"#,
        ] {
            assert_eq!(hidden(text.to_owned()), MARK, "{text}");
        }
        assert_eq!(hidden("nothing here".to_owned()), "nothing here");
        let escaped = format!("{{\"a\":\"\\u0073{}}}", &serde_json::to_string(&SECRET[1..]).unwrap()[1..]);
        assert_eq!(redactor.payload(escaped), json!({"a": MARK}).to_string());
        assert_eq!(redactor.json(json!([{SECRET: 1}])), json!([{MARK: 1}]));
    }

    #[test]
    fn a_secret_cut_anywhere_is_found_in_a_stream_and_nothing_else_is_lost() {
        let text = format!("before {SECRET} sk-Zebra {SECRET}{SECRET} after sk-");
        let expected = text.replace(SECRET, &"*".repeat(SECRET.len()));
        for size in 1..text.len() {
            let (redactor, mut held, mut out) = (redactor(), Held::default(), Vec::new());
            for part in text.as_bytes().chunks(size) {
                out.extend(held.push(&redactor, part));
            }
            out.extend(held.finish());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn what_a_mask_holds_back_tells_nothing_of_what_it_looks_for() {
        let of = |text: &str, size: usize| {
            let mut mask = Mask::new(redactor().only(["a"].into_iter()).unwrap());
            let mut parts: Vec<Vec<u8>> = text.as_bytes().chunks(size).map(|part| mask.push(part)).collect();
            parts.push(mask.finish());
            (parts.iter().map(Vec::len).collect::<Vec<_>>(), String::from_utf8(parts.concat()).unwrap())
        };
        let around = "-".repeat(700);
        for size in [1, 2, 3, 7, 64, 300, 2000] {
            for end in 1..=SECRET.len() {
                let text = format!("{around}{}{around}{}", &SECRET[..end], &SECRET[..end]);
                let (lengths, shown) = of(&text, size);
                assert_eq!(lengths, of(&"x".repeat(text.len()), size).0, "{end} in parts of {size}");
                assert_eq!(shown, text.replace(SECRET, &"*".repeat(SECRET.len())), "{end} in parts of {size}");
            }
        }
    }

    #[test]
    fn a_mask_knows_the_values_of_its_own_credentials_alone() {
        let redactor = redactor();
        assert!(redactor.only(["b"].into_iter()).is_none());
        redactor.learn("b", &Secret::new("another-value"));
        let mut mask = Mask::new(redactor.only(["b"].into_iter()).unwrap());
        mask.push(format!("{SECRET} another-value").as_bytes());
        assert_eq!(mask.finish(), format!("{SECRET} *************").as_bytes());
        assert_eq!(redactor.text(format!("{SECRET} another-value")), "(hidden) (hidden)");
    }

    #[test]
    fn one_credential_s_values_push_no_other_s_out_and_never_the_last_one() {
        let redactor = redactor();
        let value = |number: u32| format!("value-number-{number}-");
        for number in 0..20 {
            redactor.learn("b", &Secret::new("the-current-value"));
            redactor.learn("b", &Secret::new(value(number)));
        }
        assert_eq!(redactor.text(format!("{SECRET} the-current-value {}", value(19))), "(hidden) (hidden) (hidden)");
        assert_eq!(redactor.text(value(4)), value(4));
    }

    #[test]
    fn without_secrets_nothing_is_held_back() {
        let (redactor, mut held) = (Redactor::default(), Held::default());
        assert!(redactor.is_empty());
        assert_eq!(held.push(&redactor, b"abc"), b"abc");
        assert!(held.finish().is_empty());
    }

    #[test]
    fn old_values_stay_known() {
        let redactor = redactor();
        redactor.learn("a", &Secret::new("another-value"));
        assert_eq!(redactor.text(format!("{SECRET} another-value")), "(hidden) (hidden)");
    }
}
