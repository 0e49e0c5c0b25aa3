//! When a task runs.
//!
//! An *occurrence* is one nominal time of a schedule. Times come one from another, never from the moment of a dispatch, so
//! a schedule keeps its phase whatever happened to earlier occurrences.
//!
//! Invariant: a [`Schedule`] is valid and, unless it is manual, has an occurrence; everything is checked where it is read.
//! [`Schedule::next`] is strictly later than what it is given.

mod ahead;
mod cron;
mod due;
mod read;
mod state;
mod zone;

use std::time::Duration;

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::ahead::ClockChange;
pub use self::cron::{Cron, CronError};
pub use self::due::{Due, Moment, SkipReason, Skipped};
pub use self::state::{Advance, ScheduleState, SkipRange, Totals};
use self::zone::Occurrences;
use super::id::TaskId;
use super::time::{Seconds, Timestamp};

/// What happens to occurrences whose time passed while nothing could dispatch them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MisfirePolicy {
    /// The latest of them runs; the others are recorded in a skip range.
    #[default]
    RunOnce,
    /// Those later than the grace are recorded in a skip range and do not run.
    SkipMissed,
    /// Each of them runs, up to `max_catch_up` or else [`Schedule::DEFAULT_CATCH_UP`]; the earlier ones beyond it are
    /// recorded in a skip range.
    QueueAll,
    /// As `QueueAll`, with a `max_catch_up` that must be given.
    Bounded,
}

/// The kind of a schedule with what only that kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum Timing {
    /// Runs only when asked to.
    Manual,
    /// Every so many seconds of elapsed time, from `start_at` when there is one.
    Interval {
        /// The span between two occurrences, at least [`Schedule::LEAST_INTERVAL`].
        every: Seconds,
    },
    /// By a cron expression in the schedule's zone.
    Cron {
        /// The expression.
        cron: Cron,
    },
    /// Once.
    Once {
        /// When.
        run_at: Timestamp,
    },
}

/// A valid schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    timing: Timing,
    timezone: Tz,
    start_at: Option<Timestamp>,
    end_at: Option<Timestamp>,
    jitter: Option<Seconds>,
    misfire_policy: MisfirePolicy,
    max_catch_up: Option<u32>,
}

impl Schedule {
    /// The shortest interval: a millisecond.
    pub const LEAST_INTERVAL: Duration = Duration::from_millis(1);
    /// How many missed occurrences `queue_all` runs when it names no bound of its own.
    pub const DEFAULT_CATCH_UP: u32 = 1_000;
    /// The greatest `max_catch_up`.
    pub const MOST_CATCH_UP: u32 = 100_000;

    /// A schedule that runs only when asked to.
    pub fn manual() -> Self {
        Self::of(Timing::Manual)
    }

    fn of(timing: Timing) -> Self {
        Schedule {
            timing,
            timezone: Tz::UTC,
            start_at: None,
            end_at: None,
            jitter: None,
            misfire_policy: MisfirePolicy::RunOnce,
            max_catch_up: None,
        }
    }

    /// Its kind, with what only that kind has.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Its kind in the records' word: manual, interval, cron or once.
    pub fn kind(&self) -> &'static str {
        match self.timing {
            Timing::Manual => "manual",
            Timing::Interval { .. } => "interval",
            Timing::Cron { .. } => "cron",
            Timing::Once { .. } => "once",
        }
    }

    /// The zone in which cron labels and times without an offset are read.
    pub fn timezone(&self) -> Tz {
        self.timezone
    }

    /// No occurrence is before this.
    pub fn start_at(&self) -> Option<Timestamp> {
        self.start_at
    }

    /// No occurrence is after this.
    pub fn end_at(&self) -> Option<Timestamp> {
        self.end_at
    }

    /// The most that may be added to an occurrence's time.
    pub fn jitter(&self) -> Option<Seconds> {
        self.jitter
    }

    /// What happens to missed occurrences.
    pub fn misfire_policy(&self) -> MisfirePolicy {
        self.misfire_policy
    }

    /// How many missed occurrences may run after one another.
    pub fn max_catch_up(&self) -> u32 {
        self.max_catch_up.unwrap_or(Self::DEFAULT_CATCH_UP)
    }

    /// The first occurrence of a schedule that begins at `now`. An interval starts at `start_at`, or keeps the phase of a past
    /// one, or else is `now` and a span; cron gives the first label after `now`; once gives its time, past or not.
    pub fn first(&self, now: Timestamp) -> Option<Timestamp> {
        let start = self.start_at.unwrap_or(Timestamp::MIN);
        let first = match &self.timing {
            Timing::Manual => None,
            Timing::Once { run_at } => Some(*run_at).filter(|run_at| *run_at >= start),
            Timing::Interval { every } => match self.start_at {
                Some(start) => {
                    let late = now.micros().saturating_sub(start.micros()).max(0);
                    let span = micros(*every);
                    nth_interval(start, span, late / span + i64::from(late % span > 0))
                }
                None => nth_interval(now, micros(*every), 1),
            },
            Timing::Cron { cron } => {
                Occurrences::new(cron, self.timezone).after(now.max(Timestamp::from_micros(start.micros().saturating_sub(1))))
            }
        };
        first.filter(|first| self.has_not_ended(*first))
    }

    /// The occurrence that follows the nominal time of another one.
    pub fn next(&self, nominal: Timestamp) -> Option<Timestamp> {
        let next = match &self.timing {
            Timing::Manual | Timing::Once { .. } => None,
            Timing::Interval { every } => nth_interval(nominal, micros(*every), 1),
            Timing::Cron { cron } => Occurrences::new(cron, self.timezone).after(nominal),
        };
        next.filter(|next| self.has_not_ended(*next))
    }

    /// How much later than its nominal time an occurrence of a task becomes due: evenly spread from nothing to
    /// `jitter_seconds`, the same whenever it is asked, and never past the next occurrence, so that jitter makes none of them
    /// late. `incarnation` tells a task from an earlier one of its name.
    pub fn jitter_of(&self, task: &TaskId, incarnation: &str, nominal: Timestamp) -> Duration {
        let Some(most) = self.jitter.filter(|jitter| !jitter.is_zero()) else { return Duration::ZERO };
        let most = self.next(nominal).map_or(most.duration(), |next| most.duration().min(next.since(nominal)));
        let mut hash = Sha256::new();
        for part in ["jitter", task.as_str(), incarnation, &nominal.micros().to_string()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let chance = hash.finalize().iter().take(8).fold(0u128, |chance, byte| chance << 8 | u128::from(*byte));
        // A 64-bit chance times the number of microseconds to choose from, of which the upper half is the choice.
        Duration::from_micros(u64::try_from((chance * (most.as_micros() + 1)) >> 64).unwrap_or(0))
    }

    fn has_not_ended(&self, at: Timestamp) -> bool {
        self.end_at.is_none_or(|end| at <= end)
    }

    /// How many occurrences there are from `first`, which is one, to `until`, included.
    fn count(&self, first: Timestamp, until: Timestamp) -> u64 {
        let until = self.end_at.map_or(until, |end| end.min(until));
        if until < first {
            return 0;
        }
        match &self.timing {
            Timing::Manual | Timing::Once { .. } => 1,
            Timing::Interval { every } => u64::try_from((until.micros() - first.micros()) / micros(*every)).unwrap_or(0) + 1,
            Timing::Cron { cron } => Occurrences::new(cron, self.timezone).count(first, until) + 1,
        }
    }

    /// The occurrence that is `number` further than `first`.
    fn nth(&self, first: Timestamp, number: u64) -> Option<Timestamp> {
        if number == 0 {
            return Some(first);
        }
        let nth = match &self.timing {
            Timing::Manual | Timing::Once { .. } => None,
            Timing::Interval { every } => nth_interval(first, micros(*every), i64::try_from(number).ok()?),
            Timing::Cron { cron } => Occurrences::new(cron, self.timezone).nth_after(first, number),
        };
        nth.filter(|nth| self.has_not_ended(*nth))
    }
}

/// A span in microseconds; more than nothing, since it divides.
fn micros(span: Seconds) -> i64 {
    i64::try_from(span.duration().as_micros()).unwrap_or(i64::MAX).max(1)
}

fn nth_interval(start: Timestamp, span: i64, number: i64) -> Option<Timestamp> {
    let at = start.micros().checked_add(span.checked_mul(number)?)?;
    (at <= Timestamp::MAX.micros()).then(|| Timestamp::from_micros(at))
}

#[cfg(test)]
mod tests;
