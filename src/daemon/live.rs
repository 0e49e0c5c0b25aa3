//! The runs that this daemon executes right now, and how to reach their guests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::id::RunId;
use crate::sandbox::{AttemptSignals, Stop};

/// One attempt that executes here.
#[derive(Clone)]
pub struct LiveRun {
    /// Its fence.
    pub fence: u64,
    /// The way to its guest.
    pub signals: Arc<AttemptSignals>,
}

/// The attempts that execute here.
#[derive(Default)]
pub struct LiveRuns(Mutex<HashMap<RunId, LiveRun>>);

impl LiveRuns {
    fn runs(&self) -> MutexGuard<'_, HashMap<RunId, LiveRun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an attempt.
    pub fn add(&self, run: RunId, live: LiveRun) {
        self.runs().insert(run, live);
    }

    /// Takes an attempt out, unless the run has another fence by now.
    pub fn remove(&self, run: &RunId, fence: u64) {
        let mut runs = self.runs();
        if runs.get(run).is_some_and(|live| live.fence == fence) {
            runs.remove(run);
        }
    }

    /// The attempt of a run, if it executes here.
    pub fn get(&self, run: &RunId) -> Option<LiveRun> {
        self.runs().get(run).cloned()
    }

    /// Every attempt with its run.
    pub fn all(&self) -> Vec<(RunId, LiveRun)> {
        self.runs().iter().map(|(run, live)| (run.clone(), live.clone())).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.runs().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs().is_empty()
    }

    /// Tells a run's guest that its cancel was asked for.
    pub fn ask_cancel(&self, run: &RunId) {
        if let Some(live) = self.get(run) {
            live.signals.ask_cancel();
        }
    }

    /// Stops every guest at once.
    pub fn stop_all(&self, why: Stop) {
        for (_, live) in self.all() {
            live.signals.trap_now(why);
        }
    }
}
