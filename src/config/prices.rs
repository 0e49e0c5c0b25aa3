//! `[prices]`: what the tokens of models cost.

use std::collections::BTreeMap;

use super::agents::given;
use super::document::{Node, Value};
use super::fault::shown;
use super::section::{Reading, key, text_of};
use crate::domain::price::{Price, Prices};
use crate::domain::spend::Money;

/// The most models that have a price.
const MODELS: usize = 1000;
/// The longest name of a model, in bytes.
const LONGEST_NAME: usize = 128;
/// The highest price of a million tokens.
const HIGHEST: f64 = 1_000_000.0;

/// Reads `[prices]`.
pub(super) fn read<'a>(reading: &mut Reading<'a>, node: Option<&'a Node>) -> Prices {
    let mut section = reading.open(node, "prices".to_owned());
    let currency =
        section.or(key("currency", "SANDCLOCK_CURRENCY"), Prices::default().currency, |currency| currency.as_str().into(), currency_of);
    let table = section.node("models");
    section.finish();
    Prices { currency, models: models(reading, table) }
}

fn currency_of(node: &Node) -> Result<String, String> {
    match text_of(node)? {
        text if (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Ok(text.to_owned()),
        _ => Err("must be at most 8 letters, such as `USD`".to_owned()),
    }
}

fn models<'a>(reading: &mut Reading<'a>, node: Option<&'a Node>) -> BTreeMap<String, Price> {
    let mut models = BTreeMap::new();
    let table = match node.map(|node| (&node.value, &node.origin)) {
        None => return models,
        Some((Value::Table(table), _)) => table,
        Some((other, origin)) => {
            let message = format!("must hold tables such as `[prices.models.\"small-1\"]`, not {}", other.describe());
            reading.fault(origin.clone(), "prices.models", message);
            return models;
        }
    };
    for (name, node) in table {
        let path = format!("prices.models.{}", shown(name));
        let is_name = (1..=LONGEST_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        let is_pattern = name.find('*').is_none_or(|at| at + 1 == name.len());
        if !is_name || !is_pattern || models.len() >= MODELS {
            let message =
                format!("must be one of at most {MODELS} models' names of at most {LONGEST_NAME} bytes, with a `*` at its end alone");
            reading.fault(node.origin.clone(), &path, message);
            continue;
        }
        models.extend(price(reading, path, node).map(|price| (name.clone(), price)));
    }
    models
}

fn price<'a>(reading: &mut Reading<'a>, path: String, node: &'a Node) -> Option<Price> {
    let before = reading.faults.len();
    let mut section = reading.open(Some(node), path.clone()).file_only();
    let show = |money: &Money| money.units().into();
    let input = given(&mut section, "input", show, money_of);
    let cached_input = given(&mut section, "cached_input", show, money_of);
    let output = given(&mut section, "output", show, money_of);
    section.finish();
    if reading.faults.len() > before {
        return None;
    }
    match (input, output) {
        // Embeddings write nothing.
        (Some(input), output) => Some(Price { input, cached_input: cached_input.unwrap_or(input), output: output.unwrap_or(Money::ZERO) }),
        (None, _) => {
            reading.fault(node.origin.clone(), &path, "has no `input`; give the price of a million tokens that are read");
            None
        }
    }
}

fn money_of(node: &Node) -> Result<Money, String> {
    let number = match &node.value {
        // Any whole number that loses digits as a fraction is past the highest price.
        #[allow(clippy::cast_precision_loss)]
        Value::Whole(number) => Some(*number as f64),
        Value::Fraction(number) => Some(*number),
        _ => None,
    };
    let money = number.filter(|number| (0.0..=HIGHEST).contains(number)).and_then(Money::from_units);
    money.ok_or_else(|| format!("must be the price of a million tokens, a number from 0 to {HIGHEST}, not {}", node.value.describe()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, parse};
    use super::*;

    fn prices(text: &str) -> Result<Prices, String> {
        let loaded = parse(text, Path::new("s.toml"), &Environment::default());
        loaded.map(|loaded| Prices::clone(&loaded.settings.prices)).map_err(|faults| faults.to_string())
    }

    #[test]
    fn prices_are_read_with_their_defaults() {
        assert_eq!(prices("").unwrap(), Prices::default());
        let text = "[prices]\ncurrency = \"EUR\"\n[prices.models.\"small-1\"]\ninput = 2.5\noutput = 10\n\
                    [prices.models.\"small-*\"]\ninput = 1\ncached_input = 0.25\n";
        let read = prices(text).unwrap();
        let money = |units| Money::from_units(units).unwrap();
        assert_eq!(read.currency, "EUR");
        assert_eq!(read.of("small-1"), Some(&Price { input: money(2.5), cached_input: money(2.5), output: money(10.0) }));
        assert_eq!(read.of("small-9"), Some(&Price { input: money(1.0), cached_input: money(0.25), output: Money::ZERO }));
    }

    #[test]
    fn every_fault_is_told_at_its_line_with_the_mend() {
        for (text, told) in [
            ("[prices]\ncurrency = \"\"\n", "such as `USD`"),
            ("[prices]\nmodels = 3\n", "must hold tables"),
            ("[prices]\n\"small-1\" = { input = 1 }\n", "is not a setting"),
            ("[prices.models.\"a*b\"]\ninput = 1\n", "a `*` at its end"),
            ("[prices.models.\"\"]\ninput = 1\n", "names of at most 128 bytes"),
            ("[prices.models.a]\noutput = 1\n", "has no `input`"),
            ("[prices.models.a]\ninput = -1\n", "a number from 0"),
            ("[prices.models.a]\ninput = nan\n", "a number from 0"),
            ("[prices.models.a]\ninput = 1\noutputs = 1\n", "is not a setting"),
        ] {
            let faults = prices(text).unwrap_err();
            assert!(faults.contains(told) && faults.contains("s.toml:"), "{text}: {faults}");
        }
    }
}
