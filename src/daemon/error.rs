//! Why the manager does not do what it is asked.

use std::time::Duration;

use super::committer::CommitError;
use super::txn::Stop;
use crate::domain::input::Faults;
use crate::domain::lifecycle::Refused;
use crate::store::StoreError;

/// Why the manager does not do what it is asked. Each says in one sentence what, where and the mend.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManagerError {
    /// There is no such thing.
    #[error("{what} not found: {id}")]
    NotFound {
        /// Agent, Task, Run, …
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// It does not fit what is there.
    #[error("{0}")]
    Conflict(String),
    /// The request is wrong.
    #[error("{0}")]
    Invalid(#[from] Faults),
    /// Not now.
    #[error("{message}")]
    Busy {
        /// Why.
        message: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// There is no room for more of it.
    #[error("{message}")]
    Full {
        /// What is full, and the mend.
        message: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// The store does not answer or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host cannot do its part.
    #[error("{0}")]
    Host(String),
}

impl ManagerError {
    /// Whether the store is away, full or another daemon's, which the daemon's log has told by then.
    pub const fn is_outage(&self) -> bool {
        matches!(self, ManagerError::Store(error) if error.is_outage())
    }

    /// There is no such thing.
    pub fn not_found(what: &'static str, id: impl ToString) -> Self {
        ManagerError::NotFound { what, id: id.to_string() }
    }
}

impl From<Refused> for ManagerError {
    fn from(refused: Refused) -> Self {
        ManagerError::Conflict(refused.to_string())
    }
}

impl From<CommitError<ManagerError>> for ManagerError {
    fn from(error: CommitError<ManagerError>) -> Self {
        match error {
            CommitError::Refused(error) => error,
            CommitError::LeaseLost => ManagerError::Conflict("the lease of the run is lost".to_owned()),
            CommitError::Contended => ManagerError::Busy {
                message: "the same records are changed by many at once; try again".to_owned(),
                retry_after: Duration::from_secs(1),
            },
            CommitError::Store(error) => ManagerError::Store(error),
        }
    }
}

impl From<ManagerError> for Stop<ManagerError> {
    fn from(error: ManagerError) -> Self {
        Stop::Refused(error)
    }
}

impl From<Refused> for Stop<ManagerError> {
    fn from(error: Refused) -> Self {
        Stop::Refused(error.into())
    }
}
