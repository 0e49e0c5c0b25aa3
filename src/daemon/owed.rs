//! The runs whose mirrors could not be written, for as long as they cannot: they are written from the store when the disk has room.
//!
//! Invariant: the list is bounded, and a run is in it once. How it fails: what is beyond the bound, and what is left at the daemon's
//! end, is not written again; the store has it all the same.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::ManagerError;
use super::inner::Inner;
use crate::domain::id::RunId;

/// How many runs are remembered.
const MOST: usize = 10_000;
/// How many are written in one go.
const BATCH: usize = 100;

/// Runs whose mirrors are owed.
#[derive(Default)]
pub(super) struct OwedMirrors(Mutex<VecDeque<RunId>>);

impl OwedMirrors {
    fn runs(&self) -> MutexGuard<'_, VecDeque<RunId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a run; answers whether it was not noted before.
    pub(super) fn note(&self, run: &RunId) -> bool {
        let mut runs = self.runs();
        let is_new = !runs.contains(run);
        if is_new && runs.len() < MOST {
            runs.push_back(run.clone());
        }
        is_new
    }

    /// The run that was not looked at for longest.
    fn next(&self) -> Option<RunId> {
        let mut runs = self.runs();
        let one = usize::from(!runs.is_empty());
        runs.rotate_left(one);
        runs.back().cloned()
    }

    fn forget(&self, run: &RunId) {
        self.runs().retain(|owed| owed != run);
    }
}

impl Inner {
    /// Writes mirrors that are owed, until one cannot be written.
    pub(super) async fn pay_mirrors(&self) {
        let owed = self.owed_mirrors.runs().len();
        for _ in 0..owed.min(BATCH) {
            let Some(run) = self.owed_mirrors.next() else { return };
            match self.read_run(&run).await {
                // The end of its attempt writes them, and must not be overtaken.
                Ok(now) if !now.status.is_terminal() => continue,
                Ok(_) if self.mirror_from_store(&run, None).await => {
                    tracing::info!(%run, "the mirrors of a run were written after all");
                }
                Err(ManagerError::NotFound { .. }) => {}
                Ok(_) | Err(_) => return,
            }
            self.owed_mirrors.forget(&run);
        }
    }
}
