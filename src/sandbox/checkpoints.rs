//! What the host of an attempt offers its guest to leave to later attempts, and to ask of people.

use async_trait::async_trait;

pub use crate::domain::checkpoint::CheckpointQuota;

/// Why a checkpoint was not read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointRefused {
    /// Another attempt may have begun: this one has to end.
    #[error("the attempt may change nothing that is kept: the lease of its run is lost")]
    LeaseLost,
    /// It is past a limit; the guest is told which.
    #[error("{0}")]
    Limit(String),
    /// What is kept cannot be read or written, which is no fault of the guest's: the attempt ends.
    #[error("{0}")]
    Unkept(String),
}

/// The named values of a run. A call waits as long as the store is away; the attempt's limits end the wait. Names and values have been checked.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// A value; none where there is no such name.
    ///
    /// # Errors
    /// It cannot be read.
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointRefused>;

    /// Keeps a value, by the attempt's fence and within the quota.
    ///
    /// # Errors
    /// It was not kept.
    async fn save(&self, name: &str, value: Vec<u8>, quota: CheckpointQuota) -> Result<(), CheckpointRefused>;

    /// Forgets a value, by the attempt's fence.
    ///
    /// # Errors
    /// It was not forgotten.
    async fn remove(&self, name: &str) -> Result<(), CheckpointRefused>;

    /// The names, sorted.
    ///
    /// # Errors
    /// They cannot be read.
    async fn names(&self) -> Result<Vec<String>, CheckpointRefused>;
}

/// A person's word on a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is a yes.
    pub approved: bool,
    /// Who decided.
    pub by: String,
    /// What they said about it.
    pub note: String,
}

/// The questions of a run, and their answers.
#[async_trait]
pub trait Approvals: Send + Sync {
    /// The answer under a key; none as long as nobody gave one.
    ///
    /// # Errors
    /// It cannot be read, or the run has asked more than `most` other questions.
    async fn verdict(&self, key: &str, most: u32) -> Result<Option<Verdict>, CheckpointRefused>;
}
