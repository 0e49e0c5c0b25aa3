//! `sandclock:agent/progress`: what the run's watchers see, and what they ask for.
//!
//! Invariant: no more events leave than the limits say, each within its size; a `sleep` never outlives a cancel.

use std::time::Duration;

use crate::domain::receipt::CallKind;
use crate::sandbox::host::bindings::sandclock::agent::progress::Host;
use crate::sandbox::state::Attempt;

impl Host for Attempt {
    fn report(&mut self, message: String, fraction: Option<f64>) -> wasmtime::Result<()> {
        self.act(CallKind::Progress)?;
        if self.meter.admits_event(&[message.len()]) {
            let fraction = fraction.filter(|part| part.is_finite()).map(|part| part.clamp(0.0, 1.0));
            self.host.report(message, fraction);
        }
        Ok(())
    }

    fn emit(&mut self, name: String, payload: String) -> wasmtime::Result<()> {
        self.act(CallKind::Progress)?;
        if self.meter.admits_event(&[name.len(), payload.len()]) {
            self.host.emit(name, payload);
        }
        Ok(())
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        self.call(CallKind::Progress)?;
        Ok(self.signals.cancel_asked())
    }

    async fn sleep(&mut self, ms: u32) -> wasmtime::Result<bool> {
        self.call(CallKind::Progress)?;
        // The time limit ends the guest by dropping this future.
        tokio::select! {
            biased;
            () = self.signals.cancelled() => Ok(true),
            () = tokio::time::sleep(Duration::from_millis(u64::from(ms))) => Ok(false),
        }
    }
}
