//! When a task runs.

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::time::{Seconds, Timestamp};

/// What happens to occurrences whose time passed while nothing could dispatch them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MisfirePolicy {
    /// One run for however many were missed; the others are recorded in a skip range.
    #[default]
    RunOnce,
    /// Those later than the grace are recorded in a skip range and do not run.
    SkipMissed,
    /// Each of them runs, up to the task's bound; beyond it they are recorded in a skip range.
    QueueAll,
}

/// The kind of a schedule with what only that kind has.
#[derive(Clone, Debug, PartialEq)]
pub enum Timing {
    /// Runs only when asked to.
    Manual,
    /// Every so many seconds from an anchor.
    Interval {
        /// The span between two occurrences, more than nothing.
        every: Seconds,
    },
    /// By a cron expression.
    Cron {
        /// The expression as it was given, and valid.
        expression: String,
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
    /// Its kind.
    pub timing: Timing,
    /// The zone in which cron labels and times without an offset are read.
    pub timezone: Tz,
    /// No occurrence is before this.
    pub start_at: Option<Timestamp>,
    /// No occurrence is after this.
    pub end_at: Option<Timestamp>,
    /// The most that is added to an occurrence's time, differing from task to task.
    pub jitter: Option<Seconds>,
    /// What happens to missed occurrences.
    pub misfire_policy: MisfirePolicy,
}

impl Schedule {
    /// Reads a schedule.
    pub fn parse(mut fields: super::input::Fields<'_>) -> Option<Schedule> {
        fields.fault("type", "stub");
        None
    }
}
impl Serialize for Schedule {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_unit()
    }
}
impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("stub"))
    }
}
