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
    /// what a guest knows has been charged. A call that was given up is told as well. It may be told more than once of one call, each time of what is
    /// new, and of several calls at once. It has to return when the attempt's lease is lost, for the attempt's end waits for it.
    async fn charge(&self, used: Spend);

    /// Told that a call that was let out has ended, however it did; all that it used has been told by then.
    fn end_call(&self);

    /// Whether a budget is on tokens or money, so that what an answer says of its cost must be seen.
    fn counts_tokens(&self) -> bool;

    /// Whether a budget is on money, so that no call of a model may be free for want of a price.
    fn counts_money(&self) -> bool {
        false
    }
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
