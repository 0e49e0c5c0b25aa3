//! Where a daemon's parts run, so that a simulation can freeze or drop all of one daemon.
//!
//! Invariant: a part is started here and nowhere else, and whoever starts it keeps what tells of its end.

use std::pin::Pin;

use tokio::task::JoinHandle;

use crate::store::StoreError;

/// Something that a daemon does beside other things.
pub type Part = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts the parts of one daemon.
pub trait Spawner: Send + Sync + 'static {
    /// Starts a part.
    fn spawn(&self, part: Part) -> JoinHandle<()>;

    /// Starts a part that no amount of other work may starve. What is given back ends when the part has ended.
    ///
    /// # Errors
    /// The system gives no thread.
    fn spawn_apart(&self, part: Part) -> Result<Part, StoreError>;

    /// Does work that blocks, away from the parts.
    fn block(&self, work: Box<dyn FnOnce() + Send>);
}

/// Parts run on the runtime of whoever starts the daemon; what must not starve has a thread and a runtime of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnRuntime;

impl Spawner for OnRuntime {
    fn spawn(&self, part: Part) -> JoinHandle<()> {
        tokio::spawn(part)
    }

    fn spawn_apart(&self, part: Part) -> Result<Part, StoreError> {
        let no_thread = |error: std::io::Error| StoreError::Unavailable(format!("the system gives no thread for lease renewals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let thread = std::thread::Builder::new().name("renewals".to_owned()).spawn(move || runtime.block_on(part)).map_err(no_thread)?;
        Ok(Box::pin(async move {
            let joined = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
            if !joined.unwrap_or(false) {
                tracing::error!("the renewal of leases ended in a panic");
            }
        }))
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        // Whoever wants to know of its end has the other end of what the work holds.
        drop(tokio::task::spawn_blocking(work));
    }
}
