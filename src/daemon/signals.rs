//! How the parts of one daemon wake each other. All of it may be lost or come twice: whoever waits asks the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::hints::Teller;
use crate::domain::id::RunId;

/// The daemon's wake-ups.
#[derive(Default)]
pub struct Wakeups {
    /// A run became ready, or room for one appeared.
    pub ready: Notify,
    /// A schedule changed.
    pub schedules: Notify,
    /// What the store says of agents changed.
    pub agents: Notify,
    /// What is kept, and for how long, changed.
    pub bounds: Notify,
    /// What the store's other daemons are to hear.
    pub(super) others: Teller,
    runs: Mutex<HashMap<RunId, watch::Sender<u64>>>,
}

impl Wakeups {
    /// Tells those who watch a run that something about it was committed.
    pub fn run_changed(&self, run: &RunId) {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = runs.get(run) {
            watched.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// Watches a run.
    pub fn watch_run(self: &Arc<Self>, run: &RunId) -> RunWatch {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = runs.entry(run.clone()).or_insert_with(|| watch::channel(0).0).subscribe();
        RunWatch { run: run.clone(), receiver, wakeups: Arc::clone(self) }
    }
}

/// Tells of commits about one run.
pub struct RunWatch {
    run: RunId,
    receiver: watch::Receiver<u64>,
    wakeups: Arc<Wakeups>,
}

impl RunWatch {
    /// Returns after any commit about the run since the last call, or since the watch began. Cancellation safe.
    pub async fn changed(&mut self) {
        // The sender lives in the map for as long as a watch does.
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for RunWatch {
    fn drop(&mut self) {
        let mut runs = self.wakeups.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // This watch itself is still counted.
        if runs.get(&self.run).is_some_and(|watched| watched.receiver_count() <= 1) {
            runs.remove(&self.run);
        }
    }
}
