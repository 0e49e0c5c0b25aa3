//! Where a task's schedule stands, and what has become of its occurrences.
//!
//! Invariant: the next occurrence only moves forward under one revision, and every occurrence that it moves over is in the
//! dispatch or the skip range of the same step, so that `occurrences = runs + skipped` holds in the totals at any time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Due, Moment, Schedule, SkipReason, Skipped};
use crate::domain::id::TaskId;
use crate::domain::time::Timestamp;

/// Running counts of a schedule's occurrences. Retention never lowers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All that the schedule has had.
    pub occurrences: u64,
    /// Those that became a run, of whatever status.
    pub runs: u64,
    /// Those in skip ranges.
    pub skipped: u64,
}

/// Occurrences of a task that were skipped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipRange {
    /// The task.
    pub task_id: TaskId,
    /// The nominal time of the first.
    pub first: Timestamp,
    /// The nominal time of the last.
    pub last: Timestamp,
    /// How many there are.
    pub count: u64,
    /// Why.
    pub reason: SkipReason,
    /// When it was decided.
    pub at: Timestamp,
}

/// Where a task's schedule stands. The seed's fields, and what sandclock adds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// The task.
    pub task_id: TaskId,
    /// When the next occurrence is dispatched: its nominal time and its jitter. It stays while the task is paused, when
    /// nothing is dispatched; see [`ScheduleState::due_at`].
    pub next_due_at: Option<Timestamp>,
    /// The nominal time of the latest occurrence that was dispatched.
    pub last_due_at: Option<Timestamp>,
    /// When that was.
    pub last_dispatched_at: Option<Timestamp>,
    /// Whether nothing is dispatched until the task is resumed.
    pub paused: bool,
    /// Why, where it was not a user who paused it.
    pub paused_reason: Option<String>,
    /// Rises with every edit of the schedule, from 1.
    pub schedule_revision: u64,
    /// Always none; scripts of the seed expect the key.
    pub misfire_cursor: Option<Timestamp>,
    /// When this record last changed.
    pub updated_at: Timestamp,
    /// The nominal time of the next occurrence.
    pub next_nominal_at: Option<Timestamp>,
    /// Tells this task from an earlier one of its name.
    pub incarnation: String,
    /// What has become of its occurrences.
    pub totals: Totals,
    /// The first occurrence of the latest skip range and when that was decided, where a budget had nothing left and nothing came since: the
    /// range goes on with the next occurrence that is skipped for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_budget: Option<(Timestamp, Timestamp)>,
}

/// A schedule state after a step, and the occurrences that the step skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The state to keep.
    pub state: ScheduleState,
    /// The range to keep.
    pub skipped: Option<SkipRange>,
}

impl ScheduleState {
    /// The state of a new task.
    pub fn new(task_id: TaskId, incarnation: String, schedule: &Schedule, now: Timestamp) -> Self {
        let state = ScheduleState {
            task_id,
            next_due_at: None,
            last_due_at: None,
            last_dispatched_at: None,
            paused: false,
            paused_reason: None,
            schedule_revision: 1,
            misfire_cursor: None,
            updated_at: now,
            next_nominal_at: None,
            incarnation,
            totals: Totals::default(),
            out_of_budget: None,
        };
        state.with_next(schedule, schedule.first(now), now)
    }

    /// When the scheduler has something to do about the task; none while it is paused or nothing is left.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.next_due_at.filter(|_| !self.paused)
    }

    /// Decides about the due occurrences of an enabled task; nothing is due while it is paused. `grace` and `batch` are those
    /// of [`Moment`].
    pub fn due(&self, schedule: &Schedule, now: Timestamp, grace: Duration, batch: usize) -> Due {
        let (Some(nominal), Some(due_at)) = (self.next_nominal_at, self.due_at()) else {
            return Due { next: self.next_nominal_at, ..Due::default() };
        };
        schedule.due(nominal, &Moment { now, jitter: due_at.since(nominal), grace, batch })
    }

    /// The state after a decision was carried out: moved on, also where the runs existed already.
    pub fn dispatched(&self, schedule: &Schedule, due: &Due, now: Timestamp) -> Advance {
        let mut state = self.with_next(schedule, due.next, now);
        let runs = u64::try_from(due.fire.len()).unwrap_or(u64::MAX);
        state.totals.runs = state.totals.runs.saturating_add(runs);
        state.totals.occurrences = state.totals.occurrences.saturating_add(runs);
        if let Some(last) = due.fire.last() {
            state.last_due_at = Some(*last);
            state.last_dispatched_at = Some(now);
        }
        state.skipping(due.skipped, now)
    }

    /// The state after occurrences that were due could not become runs, beside those of the same decision that did.
    pub fn refused(&self, refused: Option<Skipped>, now: Timestamp) -> Advance {
        self.clone().skipping(refused, now)
    }
}

impl Advance {
    /// Adds the range that this step began, for want of budget, to the one before it, which is in the store as `kept`.
    #[must_use]
    pub fn joined(self, kept: Option<&SkipRange>) -> Self {
        let Some(range) = self.skipped else { return self };
        let range = match kept {
            Some(kept) => SkipRange { first: kept.first, at: kept.at, count: kept.count.saturating_add(range.count), ..range },
            None => range,
        };
        let state = ScheduleState { out_of_budget: Some((range.first, range.at)), ..self.state };
        Advance { state, skipped: Some(range) }
    }
}

impl ScheduleState {
    /// The state of a task that is paused, with a reason where it was not a user who did it.
    pub fn paused(&self, reason: Option<String>, now: Timestamp) -> Self {
        ScheduleState { paused: true, paused_reason: reason, updated_at: now, ..self.clone() }
    }

    /// The state of a task that is resumed: past now, with what was due meanwhile in a skip range. A task that is not paused
    /// stays as it is.
    pub fn resumed(&self, schedule: &Schedule, now: Timestamp) -> Advance {
        if !self.paused {
            return Advance { state: self.clone(), skipped: None };
        }
        let state = ScheduleState { paused: false, paused_reason: None, ..self.clone() };
        state.moved_past(schedule, now, SkipReason::Paused)
    }

    /// The state of a task that is enabled again: past now, with what was due meanwhile in a skip range. A pause stays.
    pub fn enabled(&self, schedule: &Schedule, now: Timestamp) -> Advance {
        self.moved_past(schedule, now, SkipReason::Disabled)
    }

    /// The state of a task whose schedule is edited. A pause stays; what was due by the old schedule and not dispatched is in
    /// a skip range.
    pub fn edited(&self, old: &Schedule, new: &Schedule, now: Timestamp) -> Advance {
        let passed = self.next_nominal_at.and_then(|nominal| old.skip_until(nominal, now, SkipReason::Missed).0);
        let passed = passed.map(|passed| {
            let left_out = new.start_at.is_some_and(|start| passed.last < start) || new.end_at.is_some_and(|end| passed.first > end);
            let reason = match (self.paused, left_out) {
                (true, _) => SkipReason::Paused,
                (false, true) => SkipReason::OutsideWindow,
                (false, false) => SkipReason::Missed,
            };
            Skipped { reason, ..passed }
        });
        let mut state = self.with_next(new, new.first(now), now);
        state.schedule_revision = state.schedule_revision.saturating_add(1);
        state.skipping(passed, now)
    }

    fn moved_past(&self, schedule: &Schedule, now: Timestamp, reason: SkipReason) -> Advance {
        let Some(nominal) = self.next_nominal_at else {
            return Advance { state: ScheduleState { updated_at: now, ..self.clone() }, skipped: None };
        };
        let (passed, next) = schedule.skip_until(nominal, now, reason);
        self.with_next(schedule, next, now).skipping(passed, now)
    }

    fn with_next(&self, schedule: &Schedule, next: Option<Timestamp>, now: Timestamp) -> Self {
        let due = next.map(|nominal| nominal + schedule.jitter_of(&self.task_id, &self.incarnation, nominal));
        ScheduleState { next_due_at: due, next_nominal_at: next, updated_at: now, out_of_budget: None, ..self.clone() }
    }

    fn skipping(mut self, passed: Option<Skipped>, at: Timestamp) -> Advance {
        let Some(Skipped { first, last, count, reason }) = passed else { return Advance { state: self, skipped: None } };
        self.totals.skipped = self.totals.skipped.saturating_add(count);
        self.totals.occurrences = self.totals.occurrences.saturating_add(count);
        let range = SkipRange { task_id: self.task_id.clone(), first, last, count, reason, at };
        Advance { state: self, skipped: Some(range) }
    }
}
