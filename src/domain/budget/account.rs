//! What was spent and granted, as accounts keep it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Allowance;
use crate::domain::id::RunId;
use crate::domain::spend::{Money, Spend};
use crate::domain::time::{Seconds, Timestamp};

/// How many grants an account shows, latest last.
const GRANTS_SHOWN: usize = 50;
const DAY_MICROS: i64 = 86_400_000_000;

/// A day in UTC, such as `2026-11-23`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(String);

impl Day {
    /// The day of an instant.
    pub fn of(at: Timestamp) -> Day {
        Day(at.to_datetime().date_naive().to_string())
    }

    /// The first instant of the day that follows that of `at`.
    pub fn end_of(at: Timestamp) -> Timestamp {
        let into = u64::try_from(at.micros().rem_euclid(DAY_MICROS)).unwrap_or(0);
        at + Duration::from_micros(DAY_MICROS.unsigned_abs() - into)
    }

    /// Whether what is kept of this day counts at `now`: on the day itself, and on the one before, for a clock was set back. What a clock that
    /// was years ahead has left is nobody's.
    fn counts_at(&self, now: Timestamp) -> bool {
        *self == Day::of(now) || *self == Day::of(Day::end_of(now))
    }
}

/// Running sums of what attempts have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Used {
    /// Runs that ended with an attempt.
    pub runs: u64,
    /// Attempts whose end is known.
    pub attempts: u64,
    /// What they spent, and what those have been charged that have not ended or were lost.
    #[serde(flatten)]
    pub spent: Spend,
}

impl Used {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Used) -> Used {
        Used {
            runs: self.runs.saturating_add(other.runs),
            attempts: self.attempts.saturating_add(other.attempts),
            spent: self.spent.plus(other.spent),
        }
    }
}

/// What was spent on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OnDay {
    day: Day,
    spent: Spend,
}

impl OnDay {
    /// Adds to the day of `now`, or to the one that is kept where that counts still.
    fn add(kept: &mut Option<OnDay>, more: Spend, now: Timestamp) {
        match kept {
            Some(kept) if kept.day.counts_at(now) => kept.spent = kept.spent.plus(more),
            _ => *kept = Some(OnDay { day: Day::of(now), spent: more }),
        }
    }

    fn on(kept: Option<&OnDay>, now: Timestamp) -> Spend {
        kept.filter(|kept| kept.day.counts_at(now)).map(|kept| kept.spent).unwrap_or_default()
    }
}

/// A part of the account of a task or an agent. Daemons add to parts of their own, and the account is the sum of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    /// Over all days.
    #[serde(flatten)]
    pub used: Used,
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<OnDay>,
}

impl Part {
    /// Adds what was used; a task's day is of no interest.
    pub fn add(&mut self, more: Used) {
        self.used = self.used.plus(more);
    }

    /// Adds what was used, to the day too.
    pub fn add_on_day(&mut self, more: Used, now: Timestamp) {
        self.add(more);
        OnDay::add(&mut self.day, more.spent, now);
    }

    /// What was spent on the day of `now`.
    pub fn on_day(&self, now: Timestamp) -> Spend {
        OnDay::on(self.day.as_ref(), now)
    }
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// When.
    pub at: Timestamp,
    /// Who gave it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// How much more of which meters.
    pub amount: Allowance,
}

/// What was granted beyond limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Granted {
    /// All of it.
    pub amount: Spend,
    /// For which day, where it is a day's.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<Day>,
    /// The latest grants, in their order.
    pub grants: Vec<Grant>,
}

impl Granted {
    /// Adds a grant.
    pub fn add(&mut self, grant: Grant) {
        self.amount = self.amount.plus(amount_of(&grant.amount));
        self.grants.push(grant);
        self.grants.drain(..self.grants.len().saturating_sub(GRANTS_SHOWN));
    }

    /// Adds a grant for the day on which it is made.
    pub fn add_on_day(&mut self, grant: Grant) {
        if !self.day.as_ref().is_some_and(|day| day.counts_at(grant.at)) {
            self.amount = Spend::default();
            self.day = Some(Day::of(grant.at));
        }
        self.add(grant);
    }

    /// What was granted for the day of `now`.
    pub fn on_day(&self, now: Timestamp) -> Spend {
        if self.day.as_ref().is_some_and(|day| day.counts_at(now)) { self.amount } else { Spend::default() }
    }
}

fn amount_of(allowance: &Allowance) -> Spend {
    Spend {
        wall_seconds: allowance.wall_seconds.unwrap_or_default(),
        cpu_seconds: allowance.cpu_seconds.unwrap_or_default(),
        calls: allowance.calls.unwrap_or(0),
        bytes: allowance.bytes.unwrap_or(0),
        tokens: allowance.tokens.unwrap_or(0),
        money: allowance.money.unwrap_or_default(),
    }
}

/// What an attempt has been charged so far, and how far its charges are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charged {
    /// The attempt's fence.
    pub fence: u64,
    /// The number of its last charge; each has one of its own, and they are made in order.
    pub number: u64,
    /// All that it was charged.
    pub spent: Spend,
}

/// The account of a run that has a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAccount {
    /// The run.
    pub run_id: RunId,
    /// What its attempts have spent.
    pub spent: Spend,
    /// What was granted to it.
    #[serde(default)]
    pub granted: Granted,
    /// Of its latest attempt that was charged.
    #[serde(default)]
    pub charged: Charged,
}

impl RunAccount {
    /// An account of which nothing was spent.
    pub fn new(run_id: RunId) -> RunAccount {
        RunAccount { run_id, spent: Spend::default(), granted: Granted::default(), charged: Charged::default() }
    }

    /// Whether a charge was made already: the answer to its commit was lost, or its attempt has ended.
    pub fn has_charged(&self, fence: u64, number: u64) -> bool {
        self.charged.fence > fence || (self.charged.fence == fence && self.charged.number >= number)
    }

    /// Charges an attempt.
    pub fn charge(&mut self, fence: u64, number: u64, more: Spend) {
        let before = if self.charged.fence == fence { self.charged.spent } else { Spend::default() };
        self.charged = Charged { fence, number, spent: before.plus(more) };
        self.spent = self.spent.plus(more);
    }

    /// Ends an attempt that has used so much in all: charges what it was not charged yet, and answers with that. Nothing can be charged to
    /// the attempt from then on.
    pub fn settle(&mut self, fence: u64, used: Spend) -> Spend {
        let charged = if self.charged.fence == fence { self.charged.spent } else { Spend::default() };
        let rest = beyond(used, charged);
        self.charge(fence, u64::MAX, rest);
        rest
    }
}

/// What of `used` was not charged yet, meter by meter.
fn beyond(used: Spend, charged: Spend) -> Spend {
    let seconds = |a: Seconds, b: Seconds| Seconds::from_duration(a.duration().saturating_sub(b.duration()));
    Spend {
        wall_seconds: seconds(used.wall_seconds, charged.wall_seconds),
        cpu_seconds: seconds(used.cpu_seconds, charged.cpu_seconds),
        calls: used.calls.saturating_sub(charged.calls),
        bytes: used.bytes.saturating_sub(charged.bytes),
        tokens: used.tokens.saturating_sub(charged.tokens),
        money: Money::from_nanos(used.money.nanos().saturating_sub(charged.money.nanos())),
    }
}
