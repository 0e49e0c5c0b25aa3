//! From what wasmtime reports to how the attempt ended.
//!
//! Invariant: whatever a guest does, its attempt ends with one bounded sentence that names the limit or the cause; nothing
//! here can panic on a guest's text.

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::egress::Egress;
use super::host::checkpoint::Ends;
use super::meter::{Meter, Trip};
use super::signals::{Halt, Stop};
use super::spec::{Ended, bounded};
use crate::domain::agent::Limits;
use crate::domain::park::Park;
use crate::domain::policy::ErrorKind;

/// Why the host trapped the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// It has to end now.
    #[error("the attempt has to end")]
    Halted(Halt),
    /// It made more host calls than its limit, which is given.
    #[error("the guest made more than {0} host calls, which is its limit `host_calls`")]
    HostCalls(u64),
    /// It moved more bytes of key-values and checkpoints than its limit, which is given.
    #[error("the guest read and wrote more than {0} bytes of key-values and checkpoints, which is its limit `keyvalue_traffic_bytes`")]
    KeyValueTraffic(u64),
    /// It is a command that wrote more to its standard output than its result may have.
    #[error("the standard output is longer than a result may be")]
    Output,
    /// It used an interface that is not served.
    #[error("{0} are not served by this version of sandclock")]
    Unsupported(&'static str),
}

impl From<Halt> for Ended {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Stopped(stop) => Ended::Stopped(stop),
            Halt::TimedOut => Ended::TimedOut,
        }
    }
}

/// The part of a guest's life in which an error came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The instance was being made, start functions included.
    Instantiation,
    /// The guest was called, or its answer read.
    Call,
}

/// The exit status of a guest that ended itself through `wasi:cli/exit`.
pub(crate) fn exit_status(error: &wasmtime::Error) -> Option<i32> {
    error.downcast_ref::<I32Exit>().map(|exit| exit.0)
}

/// How an attempt ended whose guest did not return.
pub(crate) fn ended_by(error: &wasmtime::Error, phase: Phase, limits: &Limits, meter: &Meter) -> Ended {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return match *fault {
            Fault::Halted(halt) => halt.into(),
            Fault::HostCalls(_) | Fault::KeyValueTraffic(_) => Ended::failed(ErrorKind::HostCalls, fault.to_string()),
            Fault::Output => too_long(limits),
            Fault::Unsupported(_) => Ended::failed(ErrorKind::Unsupported, fault.to_string()),
        };
    }
    if let Some(Ends(ended)) = error.downcast_ref::<Ends>() {
        return ended.clone();
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Ended::Stopped(Stop::NoCapacity);
    }
    if is_too_many_handles(error) {
        return Ended::failed(ErrorKind::HostCalls, format!("the guest holds more than its limit `handles` of {}", limits.handles));
    }
    if is_too_much_data(error) {
        return too_much_data(error, limits);
    }
    if let Some(trip) = meter.tripped() {
        let (kind, limit) = limit_of(trip, limits);
        return Ended::failed(kind, format!("{limit}; {}", describe(error)));
    }
    if error.downcast_ref::<Trap>().is_some() || error.downcast_ref::<WasmBacktrace>().is_some() {
        return Ended::failed(ErrorKind::Trap, describe(error));
    }
    match phase {
        Phase::Instantiation => Ended::failed(ErrorKind::AgentMissing, format!("the plugin cannot be instantiated: {error:#}")),
        Phase::Call => Ended::failed(ErrorKind::Output, format!("the guest's answer or its memory is malformed: {error:#}")),
    }
}

/// A guest that fails for good after a request of its was refused: that is its kind, with the rule that refused it.
pub(crate) fn after_denial(ended: Ended, egress: Option<&dyn Egress>) -> Ended {
    let (says, message) = match &ended {
        Ended::Failed { kind: ErrorKind::GuestPermanent, message, .. } => ("it says: ", message),
        Ended::Failed { kind: ErrorKind::Trap, message, .. } => ("", message),
        _ => return ended,
    };
    match egress.and_then(Egress::denied) {
        Some(denied) => Ended::failed(ErrorKind::EgressDenied, format!("the guest was refused {denied}; {says}{message}")),
        None => ended,
    }
}

/// An attempt that a budget refused a request waits for more, whatever its guest made of the silence.
pub(crate) fn after_budget(ended: Ended, egress: Option<&dyn Egress>) -> Ended {
    match (egress.and_then(Egress::exhausted), &ended) {
        (None, _) | (_, Ended::Stopped(_) | Ended::Cancelled { .. }) => ended,
        (Some(exhausted), _) => Ended::Parked(Park::Budget(exhausted)),
    }
}

/// The kind and the sentence of a limit that refused something.
pub(crate) fn limit_of(trip: Trip, limits: &Limits) -> (ErrorKind, String) {
    match trip {
        Trip::Memory => (ErrorKind::Memory, format!("the guest wanted more than its limit `memory_bytes` of {}", limits.memory_bytes)),
        Trip::Tables => (ErrorKind::Memory, format!("the guest wanted more than its limit `table_elements` of {}", limits.table_elements)),
        Trip::DiskBytes => (ErrorKind::Disk, format!("the guest wanted more than its limit `disk_bytes` of {}", limits.disk_bytes)),
        Trip::DiskFiles => (ErrorKind::Disk, format!("the guest wanted more than its limit `disk_files` of {}", limits.disk_files)),
    }
}

/// An answer that is too long, from the limit it broke.
pub(crate) fn too_long(limits: &Limits) -> Ended {
    Ended::failed(ErrorKind::Output, format!("the guest's answer is larger than its limit `output_bytes` of {}", limits.output_bytes))
}

// wasmtime keeps the types of the next two errors to itself, so that their texts are all there is; tests hold us to them.

fn is_too_many_handles(error: &wasmtime::Error) -> bool {
    let full = matches!(error.downcast_ref(), Some(ResourceTableError::Full));
    full || error.root_cause().to_string().contains("store handle limit exceeded")
}

fn is_too_much_data(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

fn too_much_data(error: &wasmtime::Error, limits: &Limits) -> Ended {
    // A host call fails below the guest's frames; reading the answer happens after they are gone.
    if error.downcast_ref::<WasmBacktrace>().is_some() {
        Ended::failed(ErrorKind::HostCalls, format!("the guest passed more than {} bytes to one host call", host_call_bytes(limits)))
    } else {
        too_long(limits)
    }
}

/// The most bytes that one call may carry from the guest to the host, the guest's answer included.
pub(crate) fn host_call_bytes(limits: &Limits) -> usize {
    const LEAST: usize = 8 * 1024 * 1024;
    // An answer in UTF-16 has up to two bytes for one of ours.
    let answer = usize::try_from(limits.output_bytes.saturating_mul(2)).unwrap_or(usize::MAX);
    answer.saturating_add(64 * 1024).max(LEAST)
}

/// One sentence about a trap, with the guest's innermost functions.
fn describe(error: &wasmtime::Error) -> String {
    let cause = match error.downcast_ref::<Trap>() {
        Some(trap) => bounded(trap.to_string(), 200),
        None => bounded(error.root_cause().to_string(), 400),
    };
    let mut text = format!("the guest trapped: {}", cause.trim_start_matches("wasm trap: "));
    let frames = error.downcast_ref::<WasmBacktrace>().map(WasmBacktrace::frames).unwrap_or_default();
    for (index, frame) in frames.iter().take(8).enumerate() {
        text.push_str(if index == 0 { " in " } else { " < " });
        match frame.func_name() {
            Some(name) => text.push_str(&bounded(name.to_owned(), 100)),
            None => text.push_str(&format!("function {}", frame.func_index())),
        }
    }
    text
}
