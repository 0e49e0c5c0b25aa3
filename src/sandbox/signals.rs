//! What the worker tells a running attempt: a cancel, the end of its lease, a stop.
//!
//! Invariant: leases are measured with CLOCK_BOOTTIME, which runs through suspend, so that an attempt that slept past its lease
//! knows it when it wakes. The first stop wins and stays; a lease that was extended in time is held again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, SystemClock};

/// The clock of leases and time limits: nanoseconds since the machine started, suspend included.
pub fn boottime_nanos() -> u64 {
    SystemClock.boot().0
}

/// Why an attempt was ended from outside. None of these is the guest's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A cancel was asked for and its grace is over.
    #[error("the guest was stopped: a cancel was asked for and its grace is over")]
    CancelGraceOver,
    /// The lease ended, or was found lost.
    #[error("the guest was stopped: the lease of its run is lost")]
    LeaseLost,
    /// The daemon is shutting down and its grace is over.
    #[error("the guest was stopped: the daemon is shutting down")]
    ShuttingDown,
    /// The sandbox holds as many instances as it can; the attempt did not begin.
    #[error("the attempt did not begin: the sandbox holds as many instances as it can")]
    NoCapacity,
    /// A budget has nothing left.
    #[error("the guest was stopped: a budget has nothing left")]
    BudgetSpent,
}

const STOPS: [Stop; 5] = [Stop::CancelGraceOver, Stop::LeaseLost, Stop::ShuttingDown, Stop::NoCapacity, Stop::BudgetSpent];

/// Why an attempt has to end now: the worker's stop or the attempt's own time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The worker says so.
    Stopped(Stop),
    /// The time limit passed.
    TimedOut,
}

/// The worker's line to one attempt. All of it is lock-free and may be called from any thread.
pub struct AttemptSignals {
    clock: Arc<dyn Clock>,
    cancel: AtomicBool,
    /// 0 for none, otherwise one more than the index in [`STOPS`].
    stop: AtomicU8,
    /// The lease was found lost, whatever stopped the guest before.
    lost: AtomicBool,
    /// By [`Clock::boot`]; 0 for none.
    lease_end: AtomicU64,
    /// The processor time of the guest in nanoseconds.
    cpu: AtomicU64,
    /// The processor time in nanoseconds at which somebody wants to be told; the largest number for nobody.
    cpu_alarm: AtomicU64,
    cpu_rang: Notify,
    changed: Notify,
}

impl AttemptSignals {
    /// Signals of an attempt that nobody has cancelled, without a lease, by the machine's clock.
    pub fn new() -> Arc<Self> {
        Self::by(Arc::new(SystemClock))
    }

    /// The same by another clock.
    pub fn by(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(AttemptSignals {
            clock,
            cancel: AtomicBool::default(),
            stop: AtomicU8::default(),
            lost: AtomicBool::default(),
            lease_end: AtomicU64::default(),
            cpu: AtomicU64::default(),
            cpu_alarm: AtomicU64::new(u64::MAX),
            cpu_rang: Notify::default(),
            changed: Notify::default(),
        })
    }

    /// Notes the processor time that the guest has taken so far. It is asked after each turn of the guest and costs two loads and a store.
    pub fn note_cpu(&self, spent: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.cpu.store(nanos, Ordering::Relaxed);
        if nanos >= self.cpu_alarm.load(Ordering::Relaxed) {
            self.cpu_alarm.store(u64::MAX, Ordering::Relaxed);
            // One that nobody waits for yet is kept.
            self.cpu_rang.notify_one();
        }
    }

    /// The processor time that the guest has taken so far.
    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed))
    }

    /// Waits until the guest has taken so much processor time. For one waiter.
    pub async fn cpu_taken(&self, limit: Duration) {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_alarm.store(nanos, Ordering::Relaxed);
        while self.cpu() < limit {
            self.cpu_rang.notified().await;
        }
    }

    /// The present by the clock of leases and time limits, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.clock.boot().0
    }

    /// Asks the guest to stop: `progress.cancelled` turns true and `progress.sleep` returns.
    pub fn ask_cancel(&self) {
        self.cancel.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Whether a cancel was asked for.
    pub fn cancel_asked(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// Ends the guest at its next instruction or wait. Only the first call counts.
    pub fn trap_now(&self, why: Stop) {
        if why == Stop::LeaseLost {
            self.lost.store(true, Ordering::Release);
        }
        let code = STOPS.iter().zip(1..).find_map(|(stop, code)| (*stop == why).then_some(code)).unwrap_or(1);
        // A stop that is already there has the better reason.
        let _ = self.stop.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
        self.changed.notify_waiters();
    }

    /// Sets when the guest must be stopped, by [`Clock::boot`] in nanoseconds; 0 for never. Each renewal calls it with a later instant.
    pub fn set_lease_end(&self, boottime_nanos: u64) {
        let before = self.lease_end.swap(boottime_nanos, Ordering::AcqRel);
        // Whoever waits has set its alarm by the old end; a later one is found when that alarm rings.
        if before == 0 || boottime_nanos < before {
            self.changed.notify_waiters();
        }
    }

    /// Sets a later instant at which the guest must be stopped; an earlier one changes nothing. For answers that may overtake each other.
    pub fn extend_lease(&self, at: u64) {
        self.lease_end.fetch_max(at, Ordering::AcqRel);
    }

    /// Whether the lease holds by the attempt's own clock, whatever else has stopped it: its end may be told.
    pub fn holds_lease(&self) -> bool {
        let lease_end = self.lease_end.load(Ordering::Acquire);
        !self.lost.load(Ordering::Acquire) && (lease_end == 0 || self.now() < lease_end)
    }

    /// Why the attempt was ended from outside, if it was.
    pub fn stopped(&self) -> Option<Stop> {
        self.stop_at(self.now())
    }

    /// Whether the attempt may begin anything that is seen outside: a file write, an event, a request.
    pub fn may_act(&self) -> bool {
        self.stop_at(self.now()).is_none()
    }

    fn stop_at(&self, now: u64) -> Option<Stop> {
        let code = usize::from(self.stop.load(Ordering::Acquire));
        if let Some(stop) = code.checked_sub(1).and_then(|index| STOPS.get(index)) {
            return Some(*stop);
        }
        let lease_end = self.lease_end.load(Ordering::Acquire);
        (lease_end != 0 && now >= lease_end).then_some(Stop::LeaseLost)
    }

    /// Why the attempt has to end now, if it has to. `deadline` is the end of its time limit by [`Clock::boot`], 0 for none.
    pub fn halt(&self, deadline: u64) -> Option<Halt> {
        let now = self.now();
        if let Some(stop) = self.stop_at(now) {
            return Some(Halt::Stopped(stop));
        }
        (deadline != 0 && now >= deadline).then_some(Halt::TimedOut)
    }

    /// Waits until the attempt has to end. Safe to drop at any point.
    pub async fn halted(&self, deadline: u64) -> Halt {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(halt) = self.halt(deadline) {
                return halt;
            }
            match self.alarm(deadline) {
                None => changed.await,
                Some(wait) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep(wait) => {}
                },
            }
        }
    }

    /// How long a waiter may sleep before it looks again.
    fn alarm(&self, deadline: u64) -> Option<Duration> {
        let lease_end = self.lease_end.load(Ordering::Acquire);
        let first = [deadline, lease_end].into_iter().filter(|at| *at != 0).min()?;
        let left = Duration::from_nanos(first.saturating_sub(self.now()));
        // The runtime's timers stand still while the machine is suspended, this clock does not.
        Some(left.min(Duration::from_secs(1)))
    }

    /// Waits until a cancel is asked for. Safe to drop at any point.
    pub async fn cancelled(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.cancel_asked() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_stays() {
        let signals = AttemptSignals::new();
        assert!(signals.may_act());
        signals.trap_now(Stop::ShuttingDown);
        signals.trap_now(Stop::CancelGraceOver);
        assert_eq!(signals.halt(0), Some(Halt::Stopped(Stop::ShuttingDown)));
        assert!(!signals.may_act());
    }

    #[test]
    fn a_lease_that_is_extended_in_time_is_held_again() {
        let signals = AttemptSignals::new();
        signals.set_lease_end(boottime_nanos().saturating_sub(1));
        assert_eq!(signals.halt(0), Some(Halt::Stopped(Stop::LeaseLost)));
        signals.set_lease_end(boottime_nanos() + 60_000_000_000);
        assert!(signals.may_act());
        signals.set_lease_end(0);
        assert!(signals.may_act());
    }

    #[test]
    fn a_stop_for_another_reason_leaves_the_lease() {
        let signals = AttemptSignals::new();
        signals.trap_now(Stop::ShuttingDown);
        assert!(signals.holds_lease() && !signals.may_act());
        signals.trap_now(Stop::LeaseLost);
        assert_eq!((signals.holds_lease(), signals.stopped()), (false, Some(Stop::ShuttingDown)));
        let signals = AttemptSignals::new();
        signals.set_lease_end(boottime_nanos() + 60_000_000_000);
        assert!(signals.holds_lease());
        signals.extend_lease(1);
        assert!(signals.holds_lease(), "an answer that was overtaken shortens no lease");
        signals.set_lease_end(1);
        assert!(!signals.holds_lease());
    }

    #[test]
    fn a_time_limit_passes() {
        let signals = AttemptSignals::new();
        assert_eq!(signals.halt(boottime_nanos()), Some(Halt::TimedOut));
        assert_eq!(signals.halt(boottime_nanos() + 60_000_000_000), None);
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_a_stop_and_of_a_cancel() {
        let signals = AttemptSignals::new();
        let other = Arc::clone(&signals);
        let waiting = tokio::spawn(async move { (other.cancelled().await, other.halted(0).await).1 });
        tokio::task::yield_now().await;
        signals.ask_cancel();
        tokio::task::yield_now().await;
        signals.trap_now(Stop::CancelGraceOver);
        assert_eq!(waiting.await.unwrap(), Halt::Stopped(Stop::CancelGraceOver));
    }
}
