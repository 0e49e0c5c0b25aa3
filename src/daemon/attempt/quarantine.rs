//! The attempt with which a digest has crashed too often in a row: the quarantine is kept in the change of its outcome.

use super::Work;
use crate::daemon::deployment::{self, Quarantine};
use crate::daemon::executor::Tripped;
use crate::daemon::transitions::Step;
use crate::daemon::txn::Txn;
use crate::domain::event::{Event, EventName};
use crate::domain::id::RunId;
use crate::sandbox::Ended;

impl Work<'_> {
    /// Whether the attempt's digest has crashed too often with this end.
    pub(super) fn tripped(&self, ended: &Ended) -> Option<Tripped> {
        let digest = self.claimed.attempt.digest.as_deref()?;
        self.inner.executor.note_end(&self.run.agent_id, digest, ended)
    }

    /// What the run's history says of that.
    pub(super) fn quarantine_event(&self, tripped: &Tripped) -> Event {
        Event::of(&self.run, EventName::Quarantined, self.inner.clock.now())
            .with("digest", tripped.digest.to_string())
            .with("crashes", tripped.crashes)
            .with("error", tripped.error.as_str())
    }
}

/// Holds the digest back from then on, unless another attempt has had it held back.
///
/// # Errors
/// The deployment is not loaded yet.
pub(super) fn keep(txn: &mut Txn<'_>, tripped: &Tripped, run: &RunId) -> Step<()> {
    let mut deployment = deployment::read(txn, &tripped.agent)?;
    let (digest, crashes) = (tripped.digest, tripped.crashes);
    let quarantine = Quarantine { digest, at: txn.now(), crashes, run_id: run.as_str().to_owned(), error: tripped.error.clone() };
    if deployment.hold(quarantine) { deployment::write(txn, deployment) } else { Ok(()) }
}
