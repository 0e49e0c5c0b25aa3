//! Waits that become longer, for calls of guests that wait until the store is back.

use std::time::Duration;

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
