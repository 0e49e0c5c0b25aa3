//! What one call costs.
//!
//! Invariant: a call that has left is charged for what it moved, however it ends: when its answer is complete, before the guest sees the last
//! of it, and at the latest when the bill is dropped.

use std::sync::Arc;

use super::ledger::Call;
use super::till::{Charged, Till};
use crate::domain::spend::Spend;

/// The bill of a call that may leave.
pub struct Bill {
    call: Arc<Call>,
    till: Arc<Till>,
    /// How many bytes are charged.
    bytes: u64,
}

impl Bill {
    /// Of a call that nothing was charged for yet.
    pub fn new(call: Arc<Call>, till: Arc<Till>) -> Self {
        till.open();
        Bill { call, till, bytes: 0 }
    }

    /// Charges what was not charged before.
    pub fn charge(&mut self) -> Option<Charged> {
        let moved = self.call.moved();
        let bytes = moved.saturating_sub(self.bytes);
        self.bytes = moved;
        self.till.charge(Spend { bytes, ..Spend::default() })
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.charge();
        self.till.close();
    }
}
