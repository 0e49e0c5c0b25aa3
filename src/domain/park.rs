//! What a parked run waits for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::run::Status;
use super::spend::Exhausted;
use super::time::Timestamp;

/// What somebody has to do before a run goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Park {
    /// Answer a question.
    Approval {
        /// The name under which the agent asks.
        key: String,
        /// The question, untrusted.
        question: String,
    },
    /// Grant more of a budget.
    Budget(Exhausted),
}

impl Park {
    /// The status of a run that waits for it.
    pub const fn status(&self) -> Status {
        match self {
            Park::Approval { .. } => Status::AwaitingApproval,
            Park::Budget(_) => Status::AwaitingBudget,
        }
    }
}

/// A wait that an agent's attempt began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// What for.
    #[serde(flatten)]
    pub park: Park,
    /// Since when.
    pub since: Timestamp,
    /// When the wait is over and the run fails.
    pub until: Timestamp,
}

impl fmt::Display for Park {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Park::Approval { key, question } => write!(out, "the agent asks under the key `{key}`: {question}"),
            Park::Budget(exhausted) => exhausted.fmt(out),
        }
    }
}
