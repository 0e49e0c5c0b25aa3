//! What a store carries for its one attempt.

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::checkpoints::CheckpointQuota;
use super::fault::Fault;
use super::host::disk::Disk;
use super::host::http::OutgoingHttp;
use super::limits::Limiter;
use super::memory::Quota;
use super::meter::Meter;
use super::signals::{AttemptSignals, Halt};
use super::spec::{AttemptContext, GuestHost};
use crate::domain::receipt::CallKind;

/// Everything that host functions find in the store.
pub(crate) struct State {
    pub(crate) attempt: Attempt,
    pub(crate) limiter: Limiter,
    pub(crate) table: ResourceTable,
    pub(crate) wasi: WasiCtx,
    pub(crate) http: WasiHttpCtx,
    pub(crate) outgoing_http: OutgoingHttp,
    pub(crate) disk: Arc<Disk>,
}

/// The attempt as our own interfaces see it.
pub(crate) struct Attempt {
    pub(crate) context: AttemptContext,
    pub(crate) host: Arc<dyn GuestHost>,
    pub(crate) signals: Arc<AttemptSignals>,
    pub(crate) meter: Arc<Meter>,
    /// By [`crate::clock::Clock::boot`]; 0 for none.
    pub(crate) deadline: u64,
    pub(crate) config: Arc<[(String, String)]>,
    pub(crate) quota: Quota,
    pub(crate) checkpoints: CheckpointQuota,
    pub(crate) approvals: u32,
}

impl Attempt {
    /// Counts a call of one of our interfaces.
    ///
    /// # Errors
    /// The guest has made too many and has to be trapped.
    pub(crate) fn call(&self, kind: CallKind) -> Result<(), Fault> {
        self.meter.host_call(kind)
    }

    /// Counts a call that is seen outside.
    ///
    /// # Errors
    /// The guest has made too many calls, or has to end.
    pub(crate) fn act(&self, kind: CallKind) -> Result<(), Fault> {
        self.call(kind)?;
        match self.signals.halt(self.deadline) {
            Some(halt @ Halt::Stopped(_)) => Err(Fault::Halted(halt)),
            Some(Halt::TimedOut) | None => Ok(()),
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing_http, table: &mut self.table, ctx: &mut self.http }
    }
}
