//! Waits that become longer, for calls of guests that wait until the store is back.

use std::time::Duration;

use crate::store::{Record, RecordId, Store, StoreError};

const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// How long to leave a store alone that is away, or records that many change at once; twice as long with each time, up to the most.
pub(super) struct Patience(Duration);

impl Patience {
    /// The shortest wait comes first.
    pub(super) const fn new() -> Self {
        Patience(FIRST)
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST);
    }
}

/// Reads records in order. A store that is away is asked again until it is back: the attempt's own limits end the wait.
///
/// # Errors
/// No waiting mends it.
pub(super) async fn read(store: &dyn Store, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
    let mut patience = Patience::new();
    loop {
        match store.get(ids).await {
            Err(error) if error.is_transient() => patience.wait().await,
            other => return other,
        }
    }
}
