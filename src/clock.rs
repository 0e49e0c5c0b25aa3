//! The clocks and the chance that everything but the domain reads, so that a simulation can bring its own.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::domain::time::Timestamp;

/// An instant on a clock that runs through suspend (`CLOCK_BOOTTIME`), in nanoseconds. A daemon measures its leases with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(pub u64);

/// Where the present comes from.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. Only stores without a server of their own judge anything by it: what is due. It may step.
    fn now(&self) -> Timestamp;
    /// The wall clock as it was when the process began, and the time since by the clock that runs through suspend. It never steps:
    /// stores without a server of their own judge leases by it.
    fn steady(&self) -> Timestamp;
    /// The clock that runs through suspend.
    fn boot(&self) -> BootInstant;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// The clocks at the first reading. The wall clock is read last, so that a steady reading is never before a wall clock's that was taken
/// earlier and has not stepped.
static BEGAN: LazyLock<(BootInstant, Timestamp)> = LazyLock::new(|| {
    let boot = SystemClock.boot();
    (boot, SystemClock.now())
});

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn steady(&self) -> Timestamp {
        let (boot, wall) = *BEGAN;
        wall + Duration::from_nanos(self.boot().0.saturating_sub(boot.0))
    }

    fn boot(&self) -> BootInstant {
        let at = clock_gettime(ClockId::Boottime);
        let nanos =
            u64::try_from(at.tv_sec).unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(u64::try_from(at.tv_nsec).unwrap_or(0));
        BootInstant(nanos)
    }
}

/// Where chance comes from.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the bytes with randomness.
    fn fill(&self, bytes: &mut [u8]);

    /// Ten random bytes: the random part of an id.
    fn id_bytes(&self) -> [u8; 10] {
        let mut bytes = [0; 10];
        self.fill(&mut bytes);
        bytes
    }

    /// A name of twenty hexadecimal digits, for what must not be taken for another.
    fn hex_name(&self) -> String {
        self.id_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A number from 0 to 1.
    fn fraction(&self) -> f64 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
    }
}

/// The machine's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // A kernel that gives no randomness gives none to anybody; ids then come from the clock alone and collide loudly.
        if getrandom::fill(bytes).is_err() {
            tracing::error!("the machine gives no randomness; new ids may collide and be refused");
        }
    }
}
