//! The one linker: all that any guest may import. Deny by default happens at call time, because toolchains import whole worlds.

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::filesystem;

use super::host::bindings::Agent;
use super::host::filesystem::{Files, FilesView};
use super::state::{Attempt, State};
use super::{HasAttempt, SandboxError};

/// Links WASI 0.2 with our own file system, `wasi:http` and the interfaces of `sandclock:agent`.
///
/// # Errors
/// Two definitions collide, which is a fault of ours.
pub(crate) fn build(engine: &Engine) -> Result<Linker<State>, SandboxError> {
    link(engine).map_err(|error| SandboxError::Engine(format!("{error:#}")))
}

fn link(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // Ours takes the place of wasmtime-wasi's, which knows no quota.
    linker.allow_shadowing(true);
    filesystem::types::add_to_linker::<State, Files>(&mut linker, |state| FilesView::of(state))?;
    filesystem::preopens::add_to_linker::<State, Files>(&mut linker, |state| FilesView::of(state))?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Agent::add_to_linker::<State, HasAttempt>(&mut linker, |state: &mut State| -> &mut Attempt { &mut state.attempt })?;
    Ok(linker)
}
