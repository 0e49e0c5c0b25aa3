//! An agent: an id, the plugin behind it, and what it may use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::id::AgentId;
use super::time::{Seconds, Timestamp};

/// What one attempt of an agent may use. Every limit has a guest in the tests that trips it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of linear memory, summed over all memories of the attempt.
    pub memory_bytes: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Bytes in the workspace, counting what the attempt finds there.
    pub disk_bytes: u64,
    /// Files, folders and links in the workspace, counting what the attempt finds there.
    pub disk_files: u64,
    /// Bytes of the answer.
    pub output_bytes: u64,
    /// Bytes of stdout, stderr and `wasi:logging` together; what is beyond is dropped and counted.
    pub log_bytes: u64,
    /// Progress reports and events of the agent's own; what is beyond is dropped and counted.
    pub events: u32,
    /// Bytes of one progress message, event name or event payload.
    pub event_bytes: u64,
    /// Calls to the sandclock interfaces and to the file system.
    pub host_calls: u64,
    /// File system calls of one attempt that run at once.
    pub concurrent_file_calls: u32,
    /// Host resources (open files, streams, pollables) held at once.
    pub handles: u32,
    /// Keys in one bucket of key-values.
    pub keyvalue_keys: u64,
    /// Bytes of keys and values in one bucket of key-values.
    pub keyvalue_bytes: u64,
    /// Bytes of keys and values that one attempt reads and writes.
    pub keyvalue_traffic_bytes: u64,
    /// Checkpoints of one run.
    pub checkpoints: u32,
    /// Bytes of the names and values of one run's checkpoints.
    pub checkpoint_bytes: u64,
    /// Questions that one run may ask people.
    pub approvals: u32,
}

const MIB: u64 = 1024 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_bytes: 256 * MIB,
            table_elements: 100_000,
            disk_bytes: 1024 * MIB,
            disk_files: 50_000,
            output_bytes: MIB - 64 * 1024,
            log_bytes: 8 * MIB,
            events: 1_000,
            event_bytes: 4 * 1024,
            host_calls: 10_000_000,
            concurrent_file_calls: 4,
            handles: 4_096,
            keyvalue_keys: 10_000,
            keyvalue_bytes: 16 * MIB,
            keyvalue_traffic_bytes: 256 * MIB,
            checkpoints: 1_000,
            checkpoint_bytes: 16 * MIB,
            approvals: 100,
        }
    }
}

/// An agent as the API shows it: the seed's fields, and what sandclock adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub agent_id: AgentId,
    /// Its name for people; the id unless the configuration says otherwise.
    pub name: String,
    /// As the seed spec has it from which the agent was made.
    pub system_instruction: Option<String>,
    /// As the seed spec has it from which the agent was made.
    pub model_config: Option<serde_json::Value>,
    /// Values for the agent.
    pub agent_config: BTreeMap<String, serde_json::Value>,
    /// Always empty.
    pub mcp_tools: Vec<serde_json::Value>,
    /// Always none.
    pub local_tools_ref: Option<String>,
    /// Always none.
    pub workspace_config: Option<serde_json::Value>,
    /// Free for the user.
    pub metadata: BTreeMap<String, serde_json::Value>,
    /// The stem of its plugin's file.
    pub plugin: String,
    /// What one attempt may use.
    pub limits: Limits,
    /// Environment variables that the guest sees.
    pub env: BTreeMap<String, String>,
    /// How many runs of it may execute at once, over all daemons.
    pub max_running: Option<u32>,
    /// The time limit of an attempt whose task gives none.
    pub timeout_seconds: Option<Seconds>,
    /// What it may spend.
    #[serde(default, skip_serializing_if = "Budget::is_empty")]
    pub budget: Budget,
    /// When it was first seen.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}
