//! What runs use up, in the meters that budgets limit and receipts show.
//!
//! Invariant: amounts are whole numbers of a meter's smallest unit, and sums stop at the largest number instead of starting over.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::time::Seconds;

const NANOS: f64 = 1e9;

/// An amount of the currency of the price table, to its billionth. As JSON it is a number of whole units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u64);

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(0);

    /// So many billionths.
    pub const fn from_nanos(nanos: u64) -> Money {
        Money(nanos)
    }

    /// So many whole units; none for what is no amount.
    pub fn from_units(units: f64) -> Option<Money> {
        let nanos = (units * NANOS).round();
        // Past nine million units a double, which is what JSON has, is not exact to the billionth any more.
        (0.0..=u64::MAX as f64).contains(&nanos).then_some(Money(nanos as u64))
    }

    /// The billionths.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// The whole units.
    pub fn units(self) -> f64 {
        self.0 as f64 / NANOS
    }

    /// The sum, at most the largest amount.
    #[must_use]
    pub const fn plus(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.units())
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.units())
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = f64::deserialize(deserializer)?;
        Money::from_units(units).ok_or_else(|| serde::de::Error::custom("an amount of money is a number of at least 0"))
    }
}

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// Time from an attempt's start to its end, in microseconds.
    WallSeconds,
    /// Processor time, in microseconds.
    CpuSeconds,
    /// Outgoing calls.
    Calls,
    /// Bytes of outgoing calls and their answers.
    Bytes,
    /// Tokens of models, read and written.
    Tokens,
    /// Money, in billionths.
    Money,
}

impl Meter {
    /// Every meter.
    pub const ALL: [Meter; 6] = [Meter::WallSeconds, Meter::CpuSeconds, Meter::Calls, Meter::Bytes, Meter::Tokens, Meter::Money];

    /// The meter as the configuration, records and the API spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Meter::WallSeconds => "wall_seconds",
            Meter::CpuSeconds => "cpu_seconds",
            Meter::Calls => "calls",
            Meter::Bytes => "bytes",
            Meter::Tokens => "tokens",
            Meter::Money => "money",
        }
    }

    /// How many of the meter's smallest unit make one of what its name says.
    const fn unit(self) -> f64 {
        match self {
            Meter::WallSeconds | Meter::CpuSeconds => 1e6,
            Meter::Money => NANOS,
            Meter::Calls | Meter::Bytes | Meter::Tokens => 1.0,
        }
    }

    /// An amount in the meter's smallest unit, as a number of what its name says.
    pub fn shown(self, amount: u64) -> f64 {
        amount as f64 / self.unit()
    }
}

/// What was used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spend {
    /// Time from start to end.
    pub wall_seconds: Seconds,
    /// Processor time.
    pub cpu_seconds: Seconds,
    /// Outgoing calls.
    pub calls: u64,
    /// Bytes of outgoing calls and their answers.
    pub bytes: u64,
    /// Tokens of models, read and written.
    pub tokens: u64,
    /// What the price table says that the tokens cost.
    pub money: Money,
}

impl Spend {
    /// Whether nothing was.
    pub fn is_nothing(&self) -> bool {
        *self == Spend::default()
    }

    /// The amount in a meter, in its smallest unit.
    pub fn of(&self, meter: Meter) -> u64 {
        let micros = |seconds: Seconds| u64::try_from(seconds.duration().as_micros()).unwrap_or(u64::MAX);
        match meter {
            Meter::WallSeconds => micros(self.wall_seconds),
            Meter::CpuSeconds => micros(self.cpu_seconds),
            Meter::Calls => self.calls,
            Meter::Bytes => self.bytes,
            Meter::Tokens => self.tokens,
            Meter::Money => self.money.nanos(),
        }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Spend) -> Spend {
        let seconds = |a: Seconds, b: Seconds| Seconds::from_duration(a.duration().saturating_add(b.duration()));
        Spend {
            wall_seconds: seconds(self.wall_seconds, other.wall_seconds),
            cpu_seconds: seconds(self.cpu_seconds, other.cpu_seconds),
            calls: self.calls.saturating_add(other.calls),
            bytes: self.bytes.saturating_add(other.bytes),
            tokens: self.tokens.saturating_add(other.tokens),
            money: self.money.plus(other.money),
        }
    }
}

/// What a budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// One run, over all of its attempts.
    Run,
    /// A task, over all of its runs.
    Task,
    /// An agent, over all runs of one day in UTC.
    Day,
}

impl BudgetScope {
    /// The scope as the configuration, records and the API spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            BudgetScope::Run => "run",
            BudgetScope::Task => "task",
            BudgetScope::Day => "day",
        }
    }
}

/// A budget that has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Told", into = "Told")]
pub struct Exhausted {
    /// Whose budget.
    pub scope: BudgetScope,
    /// The meter that is at its end.
    pub meter: Meter,
    /// What the budget allows, in the meter's smallest unit.
    pub limit: u64,
    /// What was spent of it, in the meter's smallest unit.
    pub spent: u64,
}

/// A budget that has nothing left as records and the API have it: in what the meter's name says.
#[derive(Serialize, Deserialize)]
struct Told {
    scope: BudgetScope,
    meter: Meter,
    limit: serde_json::Number,
    spent: serde_json::Number,
}

impl From<Exhausted> for Told {
    fn from(met: Exhausted) -> Told {
        let number = |amount: u64| match met.meter {
            Meter::Calls | Meter::Bytes | Meter::Tokens => amount.into(),
            meter => serde_json::Number::from_f64(meter.shown(amount)).unwrap_or_else(|| 0.into()),
        };
        Told { scope: met.scope, meter: met.meter, limit: number(met.limit), spent: number(met.spent) }
    }
}

impl From<Told> for Exhausted {
    fn from(told: Told) -> Exhausted {
        let amount = |number: &serde_json::Number| {
            number.as_u64().filter(|_| told.meter.unit() == 1.0).unwrap_or_else(|| {
                let smallest = number.as_f64().unwrap_or(0.0) * told.meter.unit();
                smallest.round() as u64
            })
        };
        Exhausted { scope: told.scope, meter: told.meter, limit: amount(&told.limit), spent: amount(&told.spent) }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (spent, limit, meter) = (self.meter.shown(self.spent), self.meter.shown(self.limit), self.meter.as_str().replace('_', " "));
        write!(out, "the budget of the {} has no {meter} left: {spent} of {limit} are spent", self.scope.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact_to_the_billionth() {
        let price = Money::from_units(0.000_000_075).unwrap();
        assert_eq!(price.nanos(), 75);
        assert_eq!(serde_json::to_string(&Money::from_nanos(2_500_000_001)).unwrap(), "2.500000001");
        assert_eq!(serde_json::from_str::<Money>("2.500000001").unwrap().nanos(), 2_500_000_001);
        for bad in ["-1", "1e300"] {
            assert!(serde_json::from_str::<Money>(bad).is_err(), "{bad}");
        }
        for large in [Money::from_nanos(u64::MAX), Money::from_nanos(1 << 60)] {
            let text = serde_json::to_string(&large).unwrap();
            assert!(serde_json::from_str::<Money>(&text).unwrap() >= large, "what is kept can be read: {text}");
        }
        assert_eq!(Money::from_nanos(u64::MAX).plus(Money::from_nanos(1)).nanos(), u64::MAX);
    }

    #[test]
    fn an_empty_budget_is_told_in_the_units_of_its_meter() {
        let met = |meter, limit, spent| Exhausted { scope: BudgetScope::Run, meter, limit, spent };
        for (exhausted, limit) in [
            (met(Meter::Money, 500_000_000, 500_000_001), "0.5"),
            (met(Meter::WallSeconds, 30_000_000, 30_000_017), "30.0"),
            (met(Meter::Tokens, u64::MAX, 7), "18446744073709551615"),
        ] {
            let text = serde_json::to_string(&exhausted).unwrap();
            assert!(text.contains(&format!("\"limit\":{limit},")), "{text}");
            assert_eq!(serde_json::from_str::<Exhausted>(&text).unwrap(), exhausted);
        }
    }

    #[test]
    fn what_is_spent_is_summed_in_every_meter() {
        let one = Spend {
            wall_seconds: Seconds::whole(2),
            cpu_seconds: Seconds::whole(1),
            calls: 3,
            bytes: 5,
            tokens: 7,
            money: Money::from_nanos(11),
        };
        let sum = one.plus(one);
        for meter in Meter::ALL {
            assert!(one.of(meter) > 0);
            assert_eq!(sum.of(meter), 2 * one.of(meter), "{}", meter.as_str());
        }
    }
}
