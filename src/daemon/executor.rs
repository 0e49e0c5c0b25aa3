//! What the worker needs of whatever executes attempts, so that a simulation can bring its own.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::agent::Limits;
use crate::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, DiskUse, GuestHost};
use crate::store::ClaimAgent;

/// Starts attempts of one agent from one digest.
#[async_trait]
pub trait Start: Send + Sync + 'static {
    /// Whether attempts use their workspace, so that it must be there.
    fn needs_workspace(&self) -> bool {
        true
    }

    /// The most that a workspace of the agent may hold.
    fn disk(&self) -> DiskUse {
        let limits = Limits::default();
        DiskUse { bytes: limits.disk_bytes, files: limits.disk_files }
    }

    /// Executes an attempt to its end. The agent's own limits and environment stand in for those of `spec`.
    async fn execute(&self, spec: AttemptSpec, host: Arc<dyn GuestHost>, signals: Arc<AttemptSignals>) -> AttemptReport;
}

/// An agent that attempts can be made of right now.
#[derive(Clone)]
pub struct Offered {
    /// What a claim asks for.
    pub claim: ClaimAgent,
    /// What its attempts start from, whatever is replaced meanwhile.
    pub start: Arc<dyn Start>,
}

/// All agents that attempts can be made of right now.
pub type Offer = Arc<Vec<Offered>>;

/// Executes attempts.
pub trait Executor: Send + Sync + 'static {
    /// The agents whose runs may be claimed now.
    fn offer(&self) -> Offer;
}
