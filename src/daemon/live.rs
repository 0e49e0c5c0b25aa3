//! The runs that this daemon executes right now, and how to reach their guests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::id::RunId;
use crate::sandbox::{AttemptSignals, Stop};

/// How many cancels are remembered for runs whose claim is not known here yet.
const EARLY_CANCELS: usize = 256;

/// One attempt that executes here.
#[derive(Clone)]
pub struct LiveRun {
    /// Its fence.
    pub fence: u64,
    /// The way to its guest.
    pub signals: Arc<AttemptSignals>,
    /// Ends when a cancel is asked for.
    pub cancelled: CancellationToken,
    /// Ends when the daemon stops and waits no longer.
    pub hurried: CancellationToken,
    waits: Arc<Mutex<Option<String>>>,
    history_moves: Arc<AtomicU64>,
    has_heartbeats: Arc<AtomicBool>,
    told_lost: Arc<AtomicBool>,
}

impl LiveRun {
    /// An attempt that nobody has cancelled.
    pub fn new(fence: u64, signals: Arc<AttemptSignals>) -> Self {
        LiveRun {
            fence,
            signals,
            cancelled: CancellationToken::new(),
            hurried: CancellationToken::new(),
            waits: Arc::default(),
            history_moves: Arc::default(),
            has_heartbeats: Arc::default(),
            told_lost: Arc::default(),
        }
    }

    /// Notes what the attempt waits for, in a sentence, or that it waits no longer.
    pub fn say_waits(&self, what: Option<String>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// What the attempt waits for, in a sentence.
    pub fn waits(&self) -> Option<String> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stop(&self, why: Stop) {
        self.signals.trap_now(why);
        self.hurried.cancel();
    }

    /// Notes that events are added to the run's history while it executes.
    pub fn move_history(&self) {
        self.history_moves.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that a heartbeat is added to the run's history. Nobody waits for its commit: it may come in at any later moment.
    pub fn note_heartbeat(&self) {
        self.move_history();
        self.has_heartbeats.store(true, Ordering::Release);
    }

    /// Whether heartbeats are, or will be, in the run's history.
    pub fn has_heartbeats(&self) -> bool {
        self.has_heartbeats.load(Ordering::Acquire)
    }

    /// Whether events may have been added to the run's history since its claim.
    pub fn has_history_moved(&self) -> bool {
        self.history_moves() > 0
    }

    /// Rises with each event that may be added to the run's history.
    pub fn history_moves(&self) -> u64 {
        self.history_moves.load(Ordering::Acquire)
    }

    /// Says in the log that its lease is lost, once.
    pub fn say_lost(&self, run: &RunId) {
        if !self.told_lost.swap(true, Ordering::AcqRel) {
            tracing::warn!(%run, fence = self.fence, "the lease of a run was lost: its guest is stopped, and nothing more is written for it here");
        }
    }

    /// Tells its guest that a cancel was asked for.
    pub fn ask_cancel(&self) {
        self.move_history();
        self.signals.ask_cancel();
        self.cancelled.cancel();
    }
}

#[derive(Default)]
struct State {
    /// In order, so that renewals and stops come in the same order whenever the runs are the same.
    runs: BTreeMap<RunId, LiveRun>,
    /// Cancels that were committed after a claim and before the claim's answer came back.
    early: VecDeque<RunId>,
    /// Why every guest has to stop, those that come later too.
    stopped: Option<Stop>,
}

/// The attempts that execute here.
#[derive(Default)]
pub struct LiveRuns(Mutex<State>);

impl LiveRuns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an attempt. One of the same run that is still here has lost its lease.
    pub fn add(&self, run: RunId, live: LiveRun) {
        let mut state = self.state();
        if state.early.contains(&run) {
            state.early.retain(|early| *early != run);
            live.ask_cancel();
        }
        if let Some(why) = state.stopped {
            live.stop(why);
        }
        if let Some(older) = state.runs.insert(run, live) {
            older.signals.trap_now(Stop::LeaseLost);
        }
    }

    /// Takes an attempt out, unless the run has another fence by now.
    pub fn remove(&self, run: &RunId, fence: u64) {
        let mut state = self.state();
        if state.runs.get(run).is_some_and(|live| live.fence == fence) {
            state.runs.remove(run);
        }
    }

    /// The attempt of a run, if it executes here.
    pub fn get(&self, run: &RunId) -> Option<LiveRun> {
        self.state().runs.get(run).cloned()
    }

    /// Every attempt with its run.
    pub fn all(&self) -> Vec<(RunId, LiveRun)> {
        self.state().runs.iter().map(|(run, live)| (run.clone(), live.clone())).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.state().runs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.state().runs.is_empty()
    }

    /// Tells a run's guest that its cancel was asked for.
    pub fn ask_cancel(&self, run: &RunId) {
        let mut state = self.state();
        match state.runs.get(run) {
            Some(live) => live.ask_cancel(),
            None => {
                state.early.push_back(run.clone());
                if state.early.len() > EARLY_CANCELS {
                    state.early.pop_front();
                }
            }
        }
    }

    /// Stops every guest at once, and those whose attempts have been claimed and are not here yet as soon as they come.
    pub fn stop_all(&self, why: Stop) {
        self.state().stopped = Some(why);
        for (_, live) in self.all() {
            live.stop(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_and_a_cancel_reach_also_those_who_come_after_them() {
        let (live, run) = (LiveRuns::default(), RunId::parse("run_1").unwrap());
        let [here, cancelled, late] = [1, 2, 3].map(|fence| LiveRun::new(fence, AttemptSignals::new()));
        live.add(run.clone(), here.clone());
        live.remove(&run, 1);
        live.ask_cancel(&run);
        live.add(run.clone(), cancelled.clone());
        assert!(cancelled.signals.cancel_asked() && cancelled.signals.may_act() && !here.signals.cancel_asked());
        live.remove(&run, 1);
        assert_eq!(live.get(&run).unwrap().fence, 2, "an older attempt does not take a newer one out");
        live.add(run.clone(), LiveRun::new(3, AttemptSignals::new()));
        assert!(!cancelled.signals.holds_lease(), "two attempts of a run are never both at work");
        live.stop_all(Stop::ShuttingDown);
        live.add(RunId::parse("run_2").unwrap(), late.clone());
        assert!(!cancelled.signals.may_act() && !late.signals.may_act());
    }
}
