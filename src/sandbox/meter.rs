//! What one attempt has used so far, counted from its thread and from the file jobs it started.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::fault::Fault;
use crate::domain::agent::Limits;
use crate::domain::receipt::{CallKind, CallsByKind};

/// A limit that refused something. The guest may have survived it; if it fails later, this is why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trip {
    /// More linear memory than allowed.
    Memory,
    /// More table elements than allowed.
    Tables,
    /// More bytes in the workspace than allowed.
    DiskBytes,
    /// More files in the workspace than allowed.
    DiskFiles,
}

const TRIPS: [Trip; 4] = [Trip::Memory, Trip::Tables, Trip::DiskBytes, Trip::DiskFiles];

/// The counters of one attempt.
#[derive(Debug)]
pub(crate) struct Meter {
    host_calls: AtomicU64,
    /// In the order of [`CallKind::ALL`].
    calls: [AtomicU64; CallKind::ALL.len()],
    host_calls_most: u64,
    events: AtomicU64,
    events_most: u64,
    event_bytes_most: u64,
    pub(crate) events_dropped: AtomicU64,
    log_bytes_left: AtomicU64,
    pub(crate) log_bytes_dropped: AtomicU64,
    moved_left: AtomicU64,
    moved_most: u64,
    peak_memory: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) requests_denied: AtomicU64,
    /// Told when a budget has refused a request: the attempt is to end.
    pub(crate) over_budget: Notify,
    /// 0 for none, otherwise one more than the index in [`TRIPS`].
    tripped: AtomicU8,
}

impl Meter {
    /// All zero.
    pub(crate) fn new(limits: &Limits) -> Self {
        let zero = || AtomicU64::new(0);
        Meter {
            host_calls: zero(),
            calls: Default::default(),
            host_calls_most: limits.host_calls,
            events: zero(),
            events_most: u64::from(limits.events),
            event_bytes_most: limits.event_bytes,
            events_dropped: zero(),
            log_bytes_left: AtomicU64::new(limits.log_bytes),
            log_bytes_dropped: zero(),
            moved_left: AtomicU64::new(limits.keyvalue_traffic_bytes),
            moved_most: limits.keyvalue_traffic_bytes,
            peak_memory: zero(),
            written: zero(),
            requests_denied: zero(),
            over_budget: Notify::new(),
            tripped: AtomicU8::new(0),
        }
    }

    /// Counts a host call.
    ///
    /// # Errors
    /// It is one more than the limit allows: the guest has to be trapped.
    pub(crate) fn host_call(&self, kind: CallKind) -> Result<(), Fault> {
        self.note(kind);
        let before = self.host_calls.fetch_add(1, Ordering::Relaxed);
        if before >= self.host_calls_most { Err(Fault::HostCalls(self.host_calls_most)) } else { Ok(()) }
    }

    /// Notes a call that does not count towards the limit.
    pub(crate) fn note(&self, kind: CallKind) {
        if let Some(calls) = self.calls.get(kind as usize) {
            calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The calls by kind.
    pub(crate) fn calls_by_kind(&self) -> CallsByKind {
        let counts = self.calls.iter().map(|calls| calls.load(Ordering::Relaxed));
        CallKind::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// How many host calls were made.
    pub(crate) fn host_calls(&self) -> u64 {
        self.host_calls.load(Ordering::Relaxed)
    }

    /// Whether a report or event of these sizes is passed on; one that is not is counted as dropped.
    pub(crate) fn admits_event(&self, sizes: &[usize]) -> bool {
        let fits = sizes.iter().all(|size| *size as u64 <= self.event_bytes_most);
        let admitted = fits && self.events.fetch_add(1, Ordering::Relaxed) < self.events_most;
        if !admitted {
            self.events_dropped.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// How many of `bytes` more log bytes are passed on; the rest is counted as dropped.
    pub(crate) fn admits_log(&self, bytes: usize) -> usize {
        let wanted = bytes as u64;
        let left = self.log_bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        let admitted = left.unwrap_or(0).min(wanted);
        self.log_bytes_dropped.fetch_add(wanted - admitted, Ordering::Relaxed);
        usize::try_from(admitted).unwrap_or(bytes)
    }

    /// Whether a log line of so many bytes is passed on; after one that is not, none is, so that the log has no holes.
    pub(crate) fn admits_log_line(&self, bytes: usize) -> bool {
        let wanted = bytes as u64;
        let left = self.log_bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)));
        let admitted = left.unwrap_or(0) >= wanted;
        if !admitted {
            self.log_bytes_dropped.fetch_add(wanted, Ordering::Relaxed);
        }
        admitted
    }

    /// Counts bytes of key-values that go one way or the other.
    ///
    /// # Errors
    /// They are more than the limit allows: the guest has to be trapped.
    pub(crate) fn moves(&self, bytes: usize) -> Result<(), Fault> {
        let taken = self.moved_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes as u64));
        taken.map(|_| ()).map_err(|_| Fault::KeyValueTraffic(self.moved_most))
    }

    /// Notes how much linear memory is held.
    pub(crate) fn saw_memory(&self, held: u64) {
        self.peak_memory.fetch_max(held, Ordering::Relaxed);
    }

    /// The most linear memory that was held.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_memory.load(Ordering::Relaxed)
    }

    /// Notes that a limit refused something.
    pub(crate) fn trip(&self, trip: Trip) {
        let code = TRIPS.iter().zip(1..).find_map(|(known, code)| (*known == trip).then_some(code)).unwrap_or(0);
        self.tripped.store(code, Ordering::Relaxed);
    }

    /// The limit that refused something last.
    pub(crate) fn tripped(&self) -> Option<Trip> {
        let code = usize::from(self.tripped.load(Ordering::Relaxed));
        code.checked_sub(1).and_then(|index| TRIPS.get(index)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_bytes_beyond_the_limit_are_counted_as_dropped() {
        let meter = Meter::new(&Limits { log_bytes: 10, ..Limits::default() });
        assert_eq!((meter.admits_log(6), meter.admits_log(6), meter.admits_log(6)), (6, 4, 0));
        assert_eq!(meter.log_bytes_dropped.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn events_are_limited_in_number_and_size() {
        let meter = Meter::new(&Limits { events: 2, event_bytes: 5, ..Limits::default() });
        assert!(!meter.admits_event(&[3, 6]));
        assert!(meter.admits_event(&[5, 5]));
        assert!(meter.admits_event(&[1]));
        assert!(!meter.admits_event(&[1]));
        assert_eq!(meter.events_dropped.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn the_host_call_after_the_last_is_a_fault() {
        let meter = Meter::new(&Limits { host_calls: 1, ..Limits::default() });
        assert!(meter.host_call(CallKind::Context).is_ok());
        assert!(meter.host_call(CallKind::Files).is_err());
        meter.note(CallKind::Http);
        assert_eq!(meter.calls_by_kind(), [(CallKind::Context, 1), (CallKind::Files, 1), (CallKind::Http, 1)].into());
        assert_eq!(meter.host_calls(), 2);
    }
}
