//! What calls are charged to. The gateway asks and tells; whoever keeps the account decides.

use async_trait::async_trait;

use crate::domain::spend::{Exhausted, Spend};

/// The account of an attempt's calls.
#[async_trait]
pub trait Account: Send + Sync {
    /// Asked right before a call leaves. The call itself is charged here, so that one whose daemon is lost is charged, too.
    ///
    /// # Errors
    /// A budget has nothing left: the call must not leave, and the run is to be parked.
    async fn begin_call(&self) -> Result<(), Refused>;

    /// Told what a call has used beyond its being a call: bytes, tokens, money. It is awaited before the guest gets the end of the answer, so that
    /// what a guest knows has been charged. A call that was given up is told as well.
    async fn charge(&self, used: Spend);
}

/// Why a call must not leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A budget has nothing left.
    #[error("{0}")]
    Exhausted(Exhausted),
    /// What the call would use could not be charged, or the lease is lost.
    #[error("{0}")]
    Unkept(String),
}
