//! `sandclock:agent/context`: who is running.

use std::time::Duration;

use crate::domain::receipt::CallKind;
use crate::sandbox::host::bindings::sandclock::agent::context::Host;
use crate::sandbox::state::Attempt;

impl Host for Attempt {
    fn run_id(&mut self) -> wasmtime::Result<String> {
        self.call(CallKind::Context)?;
        Ok(self.context.run_id.clone())
    }

    fn task_id(&mut self) -> wasmtime::Result<String> {
        self.call(CallKind::Context)?;
        Ok(self.context.task_id.clone())
    }

    fn agent_id(&mut self) -> wasmtime::Result<String> {
        self.call(CallKind::Context)?;
        Ok(self.context.agent_id.clone())
    }

    fn session_id(&mut self) -> wasmtime::Result<String> {
        self.call(CallKind::Context)?;
        Ok(self.context.session_id.clone())
    }

    fn attempt(&mut self) -> wasmtime::Result<u32> {
        self.call(CallKind::Context)?;
        Ok(self.context.attempt)
    }

    fn trigger(&mut self) -> wasmtime::Result<String> {
        self.call(CallKind::Context)?;
        Ok(self.context.trigger.clone())
    }

    fn due_at(&mut self) -> wasmtime::Result<Option<String>> {
        self.call(CallKind::Context)?;
        Ok(self.context.due_at.clone())
    }

    fn metadata(&mut self) -> wasmtime::Result<String> {
        self.call(CallKind::Context)?;
        Ok(self.context.metadata.clone())
    }

    fn time_left_ms(&mut self) -> wasmtime::Result<Option<u32>> {
        self.call(CallKind::Context)?;
        if self.deadline == 0 {
            return Ok(None);
        }
        let left = Duration::from_nanos(self.deadline.saturating_sub(self.signals.now())).as_millis();
        // Host numbers stay below 2^31: some languages have no unsigned ones.
        Ok(Some(u32::try_from(left).unwrap_or(u32::MAX).min(i32::MAX as u32)))
    }
}
