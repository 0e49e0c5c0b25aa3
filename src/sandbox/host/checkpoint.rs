//! `sandclock:agent/checkpoint`: linked, so that guests built for it start; a call ends the attempt with a sentence.

use crate::sandbox::fault::Fault;
use crate::sandbox::host::bindings::sandclock::agent::checkpoint::Host;
use crate::sandbox::state::Attempt;

const NOT_SERVED: Fault = Fault::Unsupported("checkpoints");

impl Host for Attempt {
    fn load(&mut self, _name: String) -> wasmtime::Result<Option<Vec<u8>>> {
        Err(NOT_SERVED.into())
    }

    fn save(&mut self, _name: String, _value: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        Err(NOT_SERVED.into())
    }

    fn remove(&mut self, _name: String) -> wasmtime::Result<()> {
        Err(NOT_SERVED.into())
    }

    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        Err(NOT_SERVED.into())
    }
}
