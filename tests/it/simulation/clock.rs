//! The clocks of a machine in virtual time: the runtime's, plus what the machine's wall clock is off by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sandclock::clock::{BootInstant, Clock};
use sandclock::domain::time::Timestamp;
use tokio::time::Instant;

/// When every simulation begins.
pub const EPOCH: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// One machine's clocks.
pub struct SimClock {
    began: Instant,
    /// How far the wall clock was off when the machine started, in microseconds.
    first: i64,
    /// How far it is off now.
    off: AtomicI64,
}

fn moved(at: Timestamp, micros: i64) -> Timestamp {
    Timestamp::from_micros(at.micros() + micros)
}

impl SimClock {
    pub fn new(began: Instant, off: i64) -> Arc<Self> {
        Arc::new(SimClock { began, first: off, off: AtomicI64::new(off) })
    }

    /// Time that has passed in the simulation.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sets the wall clock forward or back.
    pub fn step(&self, micros: i64) {
        self.off.fetch_add(micros, Ordering::Relaxed);
    }

    /// Sets the wall clock right.
    pub fn mend(&self) {
        self.off.store(0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        moved(EPOCH + self.elapsed(), self.off.load(Ordering::Relaxed))
    }

    fn steady(&self) -> Timestamp {
        moved(EPOCH + self.elapsed(), self.first)
    }

    fn boot(&self) -> BootInstant {
        // A machine that has been up for a day.
        BootInstant(u64::try_from((Duration::from_secs(86_400) + self.elapsed()).as_nanos()).unwrap())
    }
}
