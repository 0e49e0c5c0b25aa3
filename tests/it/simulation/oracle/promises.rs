//! What callers were told: whatever was acknowledged is so, and stays so.

use std::collections::{BTreeMap, BTreeSet};

use sandclock::domain::id::{RunId, TaskId};
use sandclock::domain::run::Status;
use sandclock::domain::task::Task;

use super::{Model, Oracle};

/// What a task's only client knows of it.
#[derive(Default)]
struct Known {
    /// The number of the wish that made the task what it is; none when it is not there.
    wish: Option<u64>,
    /// Wishes of which no answer came: each may have been carried out, and may be later.
    open: BTreeSet<Option<u64>>,
    /// Whether it is paused; none when that cannot be said.
    paused: Option<bool>,
}

#[derive(Default)]
pub struct Promises {
    tasks: BTreeMap<TaskId, Known>,
    made: BTreeSet<RunId>,
    cancelled: BTreeSet<RunId>,
}

/// The wish that a task's text names.
fn wish_of(task: &Task) -> Option<u64> {
    task.query.split_whitespace().last()?.parse().ok()
}

impl Oracle {
    /// A task was registered, changed or (with none) deleted, and its client knows.
    pub fn kept(&self, task: &TaskId, wish: Option<u64>, is_new: bool) {
        self.tell(|model| {
            let is = model.tasks.get(task).and_then(wish_of);
            let known = model.promises.tasks.entry(task.clone()).or_default();
            let fits = is == wish || known.open.contains(&is);
            known.wish = wish;
            if is_new {
                known.paused = known.open.is_empty().then_some(false);
            }
            if !fits {
                model.fault(format!("wish {wish:?} about {task} was acknowledged and the task is of wish {is:?}"));
            }
        });
    }

    /// No answer came to a wish about a task.
    pub fn open(&self, task: &TaskId, wish: Option<u64>) {
        self.tell(|model| {
            let known = model.promises.tasks.entry(task.clone()).or_default();
            known.open.insert(wish);
            known.paused = None;
        });
    }

    /// A task was paused or resumed; none when no answer came.
    pub fn paused(&self, task: &TaskId, paused: Option<bool>) {
        self.tell(|model| {
            let known = model.promises.tasks.entry(task.clone()).or_default();
            // One whose answer never came may still be carried out.
            if known.open.is_empty() {
                known.paused = paused;
            }
            if paused.is_none() {
                known.open.insert(known.wish);
            }
        });
    }

    /// A run was made and its caller knows.
    pub fn made(&self, run: &RunId) {
        self.tell(|model| {
            if !model.runs.contains_key(run) {
                model.fault(format!("{run} was acknowledged and is not there"));
            }
            model.promises.made.insert(run.clone());
        });
    }

    /// A run's cancel was acknowledged.
    pub fn cancelled(&self, run: &RunId) {
        self.tell(|model| {
            let life = model.runs.get(run).filter(|life| !life.deleted);
            if life.is_some_and(|life| life.run.cancel_requested_at.is_none()) {
                model.fault(format!("the cancel of {run} was acknowledged and the run does not know of it"));
            }
            model.promises.cancelled.insert(run.clone());
        });
    }

    /// A run's cancel was refused, for it had ended.
    pub fn refused(&self, run: &RunId) {
        self.tell(|model| {
            if model.runs.get(run).is_some_and(|life| life.live()) {
                model.fault(format!("the cancel of {run} was refused as if it had ended"));
            }
        });
    }
}

impl Model {
    pub(super) fn judge_promises(&mut self) {
        let mut faults = Vec::new();
        for run in &self.promises.made {
            if !self.runs.contains_key(run) {
                faults.push(format!("{run} was acknowledged and is gone"));
            }
        }
        for run in &self.promises.cancelled {
            let life = self.runs.get(run).filter(|life| !life.deleted);
            if life.is_some_and(|life| life.run.status != Status::Cancelled) {
                faults.push(format!("the cancel of {run} was acknowledged and it ended otherwise"));
            }
        }
        for (task, known) in &self.promises.tasks {
            let is = self.tasks.get(task).and_then(wish_of);
            if is != known.wish && !known.open.contains(&is) {
                faults.push(format!("{task} is of wish {is:?}; {:?} was acknowledged last", known.wish));
            }
            let paused = self.schedules.get(task).map(|state| state.paused);
            if let (Some(known), Some(paused)) = (known.paused, paused)
                && known != paused
            {
                faults.push(format!("{task} is paused: {paused}; what was acknowledged last says {known}"));
            }
        }
        self.faults.append(&mut faults);
    }
}
