//! What the worker needs of whatever executes attempts, so that a simulation can bring its own.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::agent::Limits;
use crate::domain::budget::Budget;
use crate::domain::id::AgentId;
use crate::domain::time::Seconds;
use crate::egress::Account;
use crate::plugins::Digest;
use crate::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, DiskUse, Ended, GuestHost};
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

    /// What the agent's runs, each of its tasks and the agent in one day may spend.
    fn budget(&self) -> Budget {
        Budget::default()
    }

    /// The hash of what is set for the agent, where there is such a thing.
    fn config_hash(&self) -> Option<&str> {
        None
    }

    /// Executes an attempt to its end. The agent's own limits and environment stand in for those of `spec`.
    /// Its outgoing calls are charged to `account` where there is one.
    async fn execute(
        &self,
        spec: AttemptSpec,
        host: Arc<dyn GuestHost>,
        account: Option<Arc<dyn Account>>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport;
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

    /// The time limit of an attempt of this agent whose task gives none, where the agent gives one.
    fn timeout_of(&self, _agent: &AgentId) -> Option<Seconds> {
        None
    }

    /// What this agent may spend.
    fn budget_of(&self, _agent: &AgentId) -> Budget {
        Budget::default()
    }

    /// Takes note of how an attempt of a digest ended; answers where the digest has crashed too often in a row. It is offered no more
    /// from then on, and whoever asked says with [`Executor::settle`] whether the store keeps that.
    fn note_end(&self, _agent: &AgentId, _digest: &str, _ended: &Ended) -> Option<Tripped> {
        None
    }

    /// The outcome of the attempt that tripped it was committed, or was not.
    fn settle(&self, _tripped: &Tripped, _is_kept: bool) {}
}

/// A digest that has crashed too often in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tripped {
    /// Whose attempts they were.
    pub agent: AgentId,
    /// The digest.
    pub digest: Digest,
    /// How many attempts in a row crashed.
    pub crashes: u32,
    /// What became of the last one.
    pub error: String,
}
