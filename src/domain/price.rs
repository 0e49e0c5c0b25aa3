//! What the tokens of models cost.
//!
//! Invariant: prices are what the configuration says and nothing else; a model without one costs nothing, and receipts say so.

use std::collections::BTreeMap;

use super::receipt::Tokens;
use super::spend::Money;

/// How many tokens a price is for.
const PER: u128 = 1_000_000;

/// The price of a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// Of those that are read.
    pub input: Money,
    /// Of those that are read from a cache.
    pub cached_input: Money,
    /// Of those that are written.
    pub output: Money,
}

impl Price {
    /// What tokens cost, rounded up to the billionth.
    pub fn of(&self, tokens: &Tokens) -> Money {
        let cached = tokens.cached.min(tokens.input);
        let parts = [(tokens.input - cached, self.input), (cached, self.cached_input), (tokens.output, self.output)];
        let sum = parts.into_iter().fold(0u128, |sum, (count, price)| sum + u128::from(count) * u128::from(price.nanos()));
        Money::from_nanos(u64::try_from(sum.div_ceil(PER)).unwrap_or(u64::MAX))
    }
}

/// The price table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prices {
    /// The currency, for people.
    pub currency: String,
    /// By model; a name that ends in `*` stands for all that begin as it does.
    pub models: BTreeMap<String, Price>,
}

impl Default for Prices {
    fn default() -> Self {
        Prices { currency: "USD".to_owned(), models: BTreeMap::new() }
    }
}

impl Prices {
    /// The price of a model: the one of its name, or else of the longest name with a `*` that fits.
    pub fn of(&self, model: &str) -> Option<&Price> {
        let fits = |name: &&String| name.strip_suffix('*').is_some_and(|start| model.starts_with(start));
        let longest = || self.models.keys().filter(fits).max_by_key(|name| name.len()).and_then(|name| self.models.get(name));
        self.models.get(model).or_else(longest)
    }

    /// The highest of all prices, part by part; none where there is none.
    pub fn dearest(&self) -> Option<Price> {
        self.models.values().copied().reduce(|a, b| Price {
            input: a.input.max(b.input),
            cached_input: a.cached_input.max(b.cached_input),
            output: a.output.max(b.output),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(input: f64, cached: f64, output: f64) -> Price {
        let money = |units| Money::from_units(units).unwrap();
        Price { input: money(input), cached_input: money(cached), output: money(output) }
    }

    #[test]
    fn tokens_cost_what_the_table_says() {
        let price = price(2.5, 1.25, 10.0);
        let tokens = |input, cached, output| Tokens { input, cached, output, estimated: 0 };
        assert_eq!(price.of(&tokens(1_000_000, 0, 0)).units(), 2.5);
        assert_eq!(price.of(&tokens(1_000_000, 1_000_000, 1_000_000)).units(), 11.25);
        assert_eq!(price.of(&tokens(1, 0, 0)).nanos(), 2500);
        assert_eq!(price.of(&tokens(1, 9, 0)).nanos(), 1250, "no more is cached than is read");
        assert_eq!(price.of(&tokens(u64::MAX, 0, u64::MAX)).nanos(), u64::MAX);
        let small = Price { input: Money::from_nanos(1), ..price };
        assert_eq!(small.of(&tokens(1, 0, 0)).nanos(), 1, "rounded up");
    }

    #[test]
    fn the_name_goes_before_the_longest_beginning() {
        let of = |units| price(units, units, units);
        let models = [("m-1", 1.0), ("m-*", 2.0), ("m-1*", 3.0), ("a*b", 4.0)].map(|(name, units)| (name.to_owned(), of(units)));
        let mut prices = Prices { models: models.into_iter().collect(), ..Prices::default() };
        let units = |prices: &Prices, model: &str| prices.of(model).map(|price| price.input.units());
        assert_eq!(units(&prices, "m-1"), Some(1.0));
        assert_eq!(units(&prices, "m-1-mini"), Some(3.0));
        assert_eq!(units(&prices, "m-2"), Some(2.0));
        assert_eq!((units(&prices, "axb"), units(&prices, "")), (None, None));
        assert_eq!(prices.dearest(), Some(of(4.0)));
        assert_eq!(Prices::default().dearest(), None);
        prices.models.insert("*".to_owned(), of(9.0));
        assert_eq!((units(&prices, "axb"), units(&prices, "")), (Some(9.0), Some(9.0)));
    }
}
