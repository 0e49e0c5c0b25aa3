//! Which occurrences run now, which are skipped, and which is next.
//!
//! Invariant: every occurrence from the nominal time that a decision starts at up to the one it names as the next is either
//! among those to run or inside the skip range, once. Backlogs are counted, not walked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{MisfirePolicy, Schedule};
use crate::domain::time::Timestamp;

/// Why occurrences did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Their time passed while nothing could dispatch them, or the schedule was edited before anything did.
    Missed,
    /// The task was paused.
    Paused,
    /// They were due, and an edit of the schedule left them outside its new window.
    OutsideWindow,
    /// The task was disabled.
    Disabled,
    /// More were missed than the schedule catches up.
    Bound,
    /// They were due while more runs waited in the queue than may.
    QueueFull,
    /// They were due while a budget had nothing left.
    Budget,
}

/// Occurrences that do not run: all from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The nominal time of the first.
    pub first: Timestamp,
    /// The nominal time of the last.
    pub last: Timestamp,
    /// How many there are.
    pub count: u64,
    /// Why.
    pub reason: SkipReason,
}

/// What a decision about due occurrences depends on besides the schedule.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The present.
    pub now: Timestamp,
    /// How much later than its nominal time the first due occurrence was to be dispatched. It is no lateness.
    pub jitter: Duration,
    /// How late an occurrence may be and still run under `skip_missed`.
    pub grace: Duration,
    /// The most that are dispatched at once, at least 1.
    pub batch: usize,
}

/// The decision about due occurrences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The nominal times of the occurrences to dispatch now, in their order.
    pub fire: Vec<Timestamp>,
    /// The occurrences before these that are skipped.
    pub skipped: Option<Skipped>,
    /// The nominal time of the first occurrence about which nothing is decided yet.
    pub next: Option<Timestamp>,
    /// Whether that one is due already, so that another pass follows.
    pub more: bool,
}

impl Schedule {
    /// Decides about the occurrences from `nominal`, which is the next one, up to the present.
    ///
    /// `run_once` runs the latest due one and skips those before it. `skip_missed` skips those later than the grace and runs
    /// the others. `queue_all` and `bounded` run the latest [`Schedule::max_catch_up`] of them and skip those before. What
    /// does not fit in the batch is left for the next pass.
    pub fn due(&self, nominal: Timestamp, moment: &Moment) -> Due {
        let until = moment.now - moment.jitter;
        if nominal > until {
            return Due { next: Some(nominal), ..Due::default() };
        }
        let (skip, reason) = match self.misfire_policy {
            MisfirePolicy::RunOnce => (self.count(nominal, until).saturating_sub(1), SkipReason::Missed),
            MisfirePolicy::SkipMissed => (self.count(nominal, until - moment.grace - Duration::from_micros(1)), SkipReason::Missed),
            MisfirePolicy::QueueAll | MisfirePolicy::Bounded => {
                (self.count(nominal, until).saturating_sub(u64::from(self.max_catch_up().max(1))), SkipReason::Bound)
            }
        };
        let (skipped, mut next) = self.skip(nominal, skip, reason);
        let mut fire = Vec::new();
        while let Some(at) = next.filter(|at| *at <= until && self.has_not_ended(*at) && fire.len() < moment.batch.max(1)) {
            fire.push(at);
            next = self.next(at);
        }
        Due { fire, skipped, next, more: next.is_some_and(|next| next <= until) }
    }

    /// Skips the occurrences from `nominal`, which is the next one, up to `now`; gives them, and the one that follows.
    pub fn skip_until(&self, nominal: Timestamp, now: Timestamp, reason: SkipReason) -> (Option<Skipped>, Option<Timestamp>) {
        self.skip(nominal, self.count(nominal, now), reason)
    }

    fn skip(&self, nominal: Timestamp, count: u64, reason: SkipReason) -> (Option<Skipped>, Option<Timestamp>) {
        let Some(further) = count.checked_sub(1) else { return (None, Some(nominal)) };
        // What was counted can be reached; `nominal` stands in only so that no input could stop the schedule.
        let last = self.nth(nominal, further).unwrap_or(nominal);
        (Some(Skipped { first: nominal, last, count, reason }), self.next(last))
    }
}
