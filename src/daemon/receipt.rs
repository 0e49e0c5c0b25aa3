//! What is kept of what an attempt used.

use crate::domain::run::Usage;
use crate::domain::time::Seconds;
use crate::sandbox;

/// The receipt of an attempt under settings of this hash.
pub fn receipt_of(used: sandbox::Usage, config_hash: Option<String>) -> Usage {
    Usage {
        wall_seconds: Seconds::from_duration(used.wall),
        cpu_seconds: used.cpu.map(Seconds::from_duration).unwrap_or_default(),
        peak_memory_bytes: used.peak_memory_bytes,
        disk_bytes_written: used.disk_bytes_written,
        host_calls: used.host_calls,
        host_calls_by_kind: used.calls,
        events_dropped: used.events_dropped,
        log_bytes_dropped: used.log_bytes_dropped,
        outgoing: used.outgoing,
        models: used.models,
        config_hash,
    }
}
