//! What an attempt used, item by item.
//!
//! Invariant: a receipt has a bounded size whatever the attempt did, and leaves out what was not used.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spend::Money;
use super::text;

/// How many models an attempt's receipt tells apart.
const MODELS: usize = 16;
/// What stands for models beyond these.
const OTHERS: &str = "(others)";
/// What stands for a model that no answer named.
const UNNAMED: &str = "(unnamed)";
/// The longest name of a model, in bytes.
const NAME_BYTES: usize = 128;

fn is_none(number: &u64) -> bool {
    *number == 0
}

/// Tokens of models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Read, those from a cache among them.
    #[serde(rename = "input_tokens")]
    pub input: u64,
    /// Of those read, how many came from a cache.
    #[serde(rename = "cached_tokens", skip_serializing_if = "is_none")]
    pub cached: u64,
    /// Written.
    #[serde(rename = "output_tokens")]
    pub output: u64,
    /// Of those read and written, how many nobody counted: they are estimated from bytes.
    #[serde(rename = "estimated_tokens", skip_serializing_if = "is_none")]
    pub estimated: u64,
}

impl Tokens {
    /// Those read and written.
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    fn each(self, other: Tokens, join: impl Fn(u64, u64) -> u64) -> Tokens {
        Tokens {
            input: join(self.input, other.input),
            cached: join(self.cached, other.cached),
            output: join(self.output, other.output),
            estimated: join(self.estimated, other.estimated),
        }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Tokens) -> Tokens {
        self.each(other, u64::saturating_add)
    }

    /// What is more than in `other`, each for itself.
    #[must_use]
    pub fn beyond(self, other: Tokens) -> Tokens {
        self.each(other, u64::saturating_sub)
    }
}

/// What one model, or all of them, were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelUse {
    /// Calls.
    pub calls: u64,
    /// Their tokens.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// What they cost by the price table.
    pub money: Money,
    /// How many of the tokens have no price.
    #[serde(skip_serializing_if = "is_none")]
    pub unpriced_tokens: u64,
}

impl ModelUse {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: ModelUse) -> ModelUse {
        ModelUse {
            calls: self.calls.saturating_add(other.calls),
            tokens: self.tokens.plus(other.tokens),
            money: self.money.plus(other.money),
            unpriced_tokens: self.unpriced_tokens.saturating_add(other.unpriced_tokens),
        }
    }
}

/// What models were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Models {
    /// All of them together.
    #[serde(flatten)]
    pub all: ModelUse,
    /// The currency of the money, where something has a price.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub currency: String,
    /// By the names that the answers gave; the first sixteen, and the others together.
    pub by_model: BTreeMap<String, ModelUse>,
}

impl Models {
    /// Whether no model was asked.
    pub fn is_empty(&self) -> bool {
        *self == Models::default()
    }

    /// Adds what a model was asked.
    pub fn add(&mut self, model: Option<&str>, used: ModelUse) {
        self.all = self.all.plus(used);
        let name = model.map_or_else(|| UNNAMED.to_owned(), |name| text::printable(name, NAME_BYTES));
        let is_known = self.by_model.contains_key(&name) || self.by_model.len() < MODELS;
        let entry = self.by_model.entry(if is_known { name } else { OTHERS.to_owned() }).or_default();
        *entry = entry.plus(used);
    }
}

/// The calls of an attempt that left, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outgoing {
    /// Calls that left.
    pub calls: u64,
    /// Bytes sent, headers included.
    pub bytes_out: u64,
    /// Bytes received, headers included.
    pub bytes_in: u64,
}

impl Outgoing {
    /// Whether nothing left.
    pub fn is_empty(&self) -> bool {
        *self == Outgoing::default()
    }

    /// Bytes both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes_out.saturating_add(self.bytes_in)
    }
}

/// What a guest calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// `sandclock:agent/context`.
    Context,
    /// `sandclock:agent/progress`.
    Progress,
    /// `sandclock:agent/checkpoint`.
    Checkpoint,
    /// `sandclock:agent/approval`.
    Approval,
    /// `wasi:filesystem`.
    Files,
    /// `wasi:keyvalue`.
    KeyValues,
    /// `wasi:config`.
    Config,
    /// `wasi:logging`.
    Logging,
    /// `wasi:http`: requests, whether they left or were refused.
    Http,
}

impl CallKind {
    /// Every kind.
    pub const ALL: [CallKind; 9] = [
        CallKind::Context,
        CallKind::Progress,
        CallKind::Checkpoint,
        CallKind::Approval,
        CallKind::Files,
        CallKind::KeyValues,
        CallKind::Config,
        CallKind::Logging,
        CallKind::Http,
    ];
}

/// Calls by kind; what was not called is left out.
pub type CallsByKind = BTreeMap<CallKind, u64>;

#[cfg(test)]
mod tests {
    use super::*;

    fn used(input: u64, unpriced_tokens: u64) -> ModelUse {
        let tokens = Tokens { input, output: 1, ..Tokens::default() };
        ModelUse { calls: 1, tokens, money: Money::from_nanos(input), unpriced_tokens }
    }

    #[test]
    fn models_are_told_apart_up_to_a_number() {
        let mut models = Models::default();
        assert!(models.is_empty());
        for index in 0..100 {
            models.add(Some(&format!("m{index}\n{}", "x".repeat(1000))), used(1, 1));
        }
        models.add(None, used(1, 0));
        models.add(Some("m0"), used(5, 0));
        assert_eq!((models.by_model.len(), models.all.calls, models.all.tokens.total(), models.all.unpriced_tokens), (17, 102, 208, 100));
        assert_eq!(models.by_model[OTHERS].calls, 86);
        assert!(serde_json::to_string(&models).unwrap().len() < 8192);
    }

    #[test]
    fn what_was_not_used_is_left_out_and_read_as_nothing() {
        let mut models = Models::default();
        models.add(Some("m"), used(3, 0));
        let text = serde_json::to_string(&models).unwrap();
        let one = r#"{"calls":1,"input_tokens":3,"output_tokens":1,"money":3e-9"#;
        assert_eq!(text, format!(r#"{one},"by_model":{{"m":{one}}}}}}}"#));
        assert_eq!(serde_json::from_str::<Models>(&text).unwrap(), models);
        let kinds: CallsByKind = CallKind::ALL.into_iter().zip(1..).collect();
        assert_eq!(serde_json::from_value::<CallsByKind>(serde_json::to_value(&kinds).unwrap()).unwrap(), kinds);
    }
}
