//! `sandclock:agent/approval`: linked, so that guests built for it start; a call ends the attempt with a sentence.

use crate::sandbox::fault::Fault;
use crate::sandbox::host::bindings::sandclock::agent::approval::{Decision, Host};
use crate::sandbox::state::Attempt;

const NOT_SERVED: Fault = Fault::Unsupported("approvals");

impl Host for Attempt {
    fn ask(&mut self, _key: String, _question: String) -> wasmtime::Result<Decision> {
        Err(NOT_SERVED.into())
    }

    fn find(&mut self, _key: String) -> wasmtime::Result<Option<Decision>> {
        Err(NOT_SERVED.into())
    }
}
