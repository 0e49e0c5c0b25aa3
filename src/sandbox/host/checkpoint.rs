//! `sandclock:agent/checkpoint`: what a run's attempts leave to those that follow.
//!
//! Invariants: a value that was saved is kept when the call returns; names and values are within their bounds before the host sees
//! them; a lost lease or a store that cannot keep ends the attempt and is never an error that the guest could pass over.

use crate::domain::checkpoint::{LARGEST_CHECKPOINT, check_name};
use crate::domain::policy::ErrorKind;
use crate::domain::receipt::CallKind;
use crate::sandbox::checkpoints::{CheckpointQuota, CheckpointRefused, Checkpoints};
use crate::sandbox::fault::Fault;
use crate::sandbox::host::bindings::sandclock::agent::checkpoint::Host;
use crate::sandbox::signals::{Halt, Stop};
use crate::sandbox::spec::Ended;
use crate::sandbox::state::Attempt;

/// What ends the attempt instead of being told to the guest.
pub(crate) fn ends(refused: CheckpointRefused) -> wasmtime::Error {
    match refused {
        CheckpointRefused::LeaseLost => Fault::Halted(Halt::Stopped(Stop::LeaseLost)).into(),
        CheckpointRefused::Limit(why) => Ends(Ended::failed(ErrorKind::HostCalls, why)).into(),
        CheckpointRefused::Unkept(why) => Ends(Ended::failed(ErrorKind::Host, why)).into(),
    }
}

/// An end that a host call decided on.
#[derive(Debug, thiserror::Error)]
#[error("the attempt ends in a host call")]
pub(crate) struct Ends(pub(crate) Ended);

impl Attempt {
    fn left(&self) -> wasmtime::Result<&dyn Checkpoints> {
        self.host.checkpoints().ok_or_else(|| Fault::Unsupported("checkpoints").into())
    }
}

impl Host for Attempt {
    async fn load(&mut self, name: String) -> wasmtime::Result<Option<Vec<u8>>> {
        self.call(CallKind::Checkpoint)?;
        let left = self.left()?;
        // No such name can have been saved.
        if check_name(&name).is_err() {
            return Ok(None);
        }
        let value = left.load(&name).await.map_err(ends)?;
        self.meter.moves(value.as_ref().map_or(0, Vec::len))?;
        Ok(value)
    }

    async fn save(&mut self, name: String, value: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        self.act(CallKind::Checkpoint)?;
        self.meter.moves(value.len())?;
        if let Err(bad) = check_name(&name) {
            return Ok(Err(bad.to_string()));
        }
        if value.len() > LARGEST_CHECKPOINT {
            return Ok(Err(format!("a checkpoint has at most {LARGEST_CHECKPOINT} bytes, and this one {}", value.len())));
        }
        match self.left()?.save(&name, value, self.checkpoints).await {
            Err(CheckpointRefused::Limit(why)) => Ok(Err(why)),
            other => other.map(Ok).map_err(ends),
        }
    }

    async fn remove(&mut self, name: String) -> wasmtime::Result<()> {
        self.act(CallKind::Checkpoint)?;
        let left = self.left()?;
        if check_name(&name).is_err() {
            return Ok(());
        }
        left.remove(&name).await.map_err(ends)
    }

    async fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        self.call(CallKind::Checkpoint)?;
        let names = self.left()?.names().await.map_err(ends)?;
        self.meter.moves(names.iter().map(String::len).sum())?;
        Ok(names)
    }
}

impl CheckpointQuota {
    /// What an agent's limits allow.
    pub(crate) fn of(limits: &crate::domain::agent::Limits) -> Self {
        CheckpointQuota { names: limits.checkpoints, bytes: limits.checkpoint_bytes }
    }
}
