//! What may be spent: limits by meter for a run, a task and a day, what was granted beyond them, and what is left.
//!
//! Invariant: a limit is more than nothing, a grant only adds, and what was spent is never taken back; so a budget that has something left
//! has it until something is spent.

mod account;
mod read;

use serde::{Deserialize, Serialize};

use super::spend::{BudgetScope, Exhausted, Meter, Money, Spend};
use super::time::Seconds;

pub use account::{Charged, Day, Grant, Granted, Part, RunAccount, Used};
pub use read::{ALLOWANCE_FIELDS, MOST_COUNTED, read_allowance, read_task_budget};

/// How much of each meter may be spent; none for any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allowance {
    /// Time of attempts from start to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<Seconds>,
    /// Processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<Seconds>,
    /// Outgoing calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Bytes of outgoing calls and their answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Tokens of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
}

impl Allowance {
    /// What may be spent of a meter, in its smallest unit.
    pub fn of(&self, meter: Meter) -> Option<u64> {
        let micros = |seconds: Seconds| u64::try_from(seconds.duration().as_micros()).unwrap_or(u64::MAX);
        match meter {
            Meter::WallSeconds => self.wall_seconds.map(micros),
            Meter::CpuSeconds => self.cpu_seconds.map(micros),
            Meter::Calls => self.calls,
            Meter::Bytes => self.bytes,
            Meter::Tokens => self.tokens,
            Meter::Money => self.money.map(Money::nanos),
        }
    }

    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Allowance::default()
    }

    /// The limits of both, the smaller where both have one: a task may say less than its agent and never more.
    #[must_use]
    pub fn within(&self, agent: &Allowance) -> Allowance {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        Allowance {
            wall_seconds: least(self.wall_seconds, agent.wall_seconds),
            cpu_seconds: least(self.cpu_seconds, agent.cpu_seconds),
            calls: least(self.calls, agent.calls),
            bytes: least(self.bytes, agent.bytes),
            tokens: least(self.tokens, agent.tokens),
            money: least(self.money, agent.money),
        }
    }
}

/// The limits of an agent, or of a task, which has none of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Of one run, over all of its attempts.
    #[serde(skip_serializing_if = "Allowance::is_empty")]
    pub run: Allowance,
    /// Of a task, over all of its runs.
    #[serde(skip_serializing_if = "Allowance::is_empty")]
    pub task: Allowance,
    /// Of an agent, over one day in UTC.
    #[serde(skip_serializing_if = "Allowance::is_empty")]
    pub day: Allowance,
}

impl Budget {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Budget::default()
    }

    /// The limits of a scope.
    pub fn of(&self, scope: BudgetScope) -> &Allowance {
        match scope {
            BudgetScope::Run => &self.run,
            BudgetScope::Task => &self.task,
            BudgetScope::Day => &self.day,
        }
    }

    /// A task's limits within those of its agent.
    #[must_use]
    pub fn within(&self, agent: &Budget) -> Budget {
        Budget { run: self.run.within(&agent.run), task: self.task.within(&agent.task), day: self.day.within(&agent.day) }
    }
}

/// How one budget stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whose it is.
    pub scope: BudgetScope,
    /// Its limits.
    pub allowance: Allowance,
    /// What was granted beyond them.
    pub granted: Spend,
    /// What was spent.
    pub spent: Spend,
}

impl Standing {
    /// The limit of a meter with what was granted, in its smallest unit; none where it has none.
    pub fn limit(&self, meter: Meter) -> Option<u64> {
        Some(self.allowance.of(meter)?.saturating_add(self.granted.of(meter)))
    }

    /// What is left of a meter, in its smallest unit; none where it has no limit.
    pub fn left(&self, meter: Meter) -> Option<u64> {
        Some(self.limit(meter)?.saturating_sub(self.spent.of(meter)))
    }

    /// That a meter has nothing left, when `beside` is spent too that no account has yet.
    pub fn exhausted_in(&self, meter: Meter, beside: &Spend) -> Option<Exhausted> {
        let limit = self.limit(meter)?;
        let spent = self.spent.of(meter).saturating_add(beside.of(meter));
        (spent >= limit).then_some(Exhausted { scope: self.scope, meter, limit, spent })
    }
}

impl Standing {
    /// Whether there is something left of what was met at its end: more was granted since, or it was met on a day that is over. Time is
    /// never taken for that of another day, for what an attempt took of it may be known less exactly at its end than when it was stopped.
    pub fn has_more_than(&self, met: &Exhausted) -> bool {
        let is_over = || self.scope == BudgetScope::Day && !is_time(met.meter) && self.spent.of(met.meter) < met.spent;
        self.scope == met.scope
            && self.exhausted_in(met.meter, &Spend::default()).is_none()
            && (self.limit(met.meter).is_some_and(|limit| limit > met.limit) || is_over())
    }
}

/// The first budget, and its first meter, that has nothing left for another call.
pub fn exhausted(standings: &[Standing], beside: &Spend) -> Option<Exhausted> {
    standings.iter().find_map(|standing| Meter::ALL.into_iter().find_map(|meter| standing.exhausted_in(meter, beside)))
}

/// The first budget that has nothing left for another attempt. A run whose own calls are spent may still end without one, from what it has
/// kept; what only goes on by spending that which every attempt spends, or what others have spent, does not begin.
pub fn exhausted_at_start(standings: &[Standing]) -> Option<Exhausted> {
    let beside = Spend::default();
    standings.iter().find_map(|standing| {
        let mut meters = Meter::ALL.into_iter().filter(|meter| standing.scope != BudgetScope::Run || is_time(*meter));
        meters.find_map(|meter| standing.exhausted_in(meter, &beside))
    })
}

const fn is_time(meter: Meter) -> bool {
    matches!(meter, Meter::WallSeconds | Meter::CpuSeconds)
}

/// The budget of which least of a meter is left, in microseconds or whatever its smallest unit is.
pub fn tightest(standings: &[Standing], meter: Meter) -> Option<(Standing, u64)> {
    standings.iter().filter_map(|standing| Some((*standing, standing.left(meter)?))).min_by_key(|(_, left)| *left)
}

#[cfg(test)]
mod tests;
