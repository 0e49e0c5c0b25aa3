//! Agents that were registered over the API: kept in the store, seen by every daemon, read like `[agents.NAME]`.
//!
//! Invariant: what the store keeps of one holds nothing that looks like a secret; the configuration of a daemon wins over it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Roster;
use crate::config::AgentSettings;
use crate::daemon::txn::Entity;
use crate::domain::id::AgentId;
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, RecordId};

/// An agent as the store keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredAgent {
    /// Its id.
    pub agent_id: AgentId,
    /// The keys of `[agents.NAME]`, as they were given.
    pub settings: Map<String, Value>,
    /// The name of whoever wrote it last, where callers have names.
    pub by: Option<String>,
    /// When it was registered, by the store's clock.
    pub created_at: Timestamp,
    /// When it was written last.
    pub updated_at: Timestamp,
}

impl Entity for StoredAgent {
    const KIND: Kind = Kind::Agent;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// Names the record of an agent.
pub(in crate::daemon) fn id_of(agent: &AgentId) -> RecordId {
    RecordId::new(Kind::Agent, agent.as_str())
}

/// A registered agent as this daemon understands it.
#[derive(Clone, Debug, PartialEq)]
pub struct Registered {
    /// As the store keeps it.
    pub stored: StoredAgent,
    /// Its settings, or why this daemon cannot use them.
    pub settings: Result<AgentSettings, String>,
}

impl Registered {
    /// Reads what the store keeps, under what this daemon has for all agents.
    pub(in crate::daemon) fn read(stored: StoredAgent, roster: &Roster) -> Self {
        let settings = roster.read(&stored.agent_id, &stored.settings).map_err(|faults| faults.to_string());
        Registered { stored, settings }
    }
}
