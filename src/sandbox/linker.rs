//! The one linker: all that any guest may import. Deny by default happens at call time, because toolchains import whole worlds.

use wasmtime::Engine;
use wasmtime::component::Linker;
use wasmtime_wasi::p2::bindings::filesystem;

use super::host::bindings::Agent;
use super::host::filesystem::{Files, FilesView};
use super::host::keyvalue::{self, HasKeyValues, KeyValueView};
use super::host::{config, logging};
use super::state::{Attempt, State};
use super::{HasAttempt, SandboxError};

/// Links WASI 0.2 with our own file system, `wasi:http`, the drafts of `wasi:config`, `wasi:keyvalue` and `wasi:logging`, and the
/// interfaces of `sandclock:agent`. A component fits the first linker or, where it was built against a draft that changed under its name,
/// the second.
///
/// # Errors
/// Two definitions collide, which is a fault of ours.
pub(crate) fn build(engine: &Engine) -> Result<[Linker<State>; 2], SandboxError> {
    let both = || {
        let (mut now, mut of_old) = (link(engine)?, link(engine)?);
        keyvalue::link_get_many(&mut now)?;
        keyvalue::link_get_many_of_old(&mut of_old)?;
        Ok([now, of_old])
    };
    both().map_err(|error: wasmtime::Error| SandboxError::Engine(format!("{error:#}")))
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
    Agent::add_to_linker::<State, HasAttempt>(&mut linker, of_attempt)?;
    config::Rc1::add_to_linker::<State, HasAttempt>(&mut linker, of_attempt)?;
    config::Draft::add_to_linker::<State, HasAttempt>(&mut linker, of_attempt)?;
    config::Draft20240927::add_to_linker::<State, HasAttempt>(&mut linker, of_attempt)?;
    logging::Draft::add_to_linker::<State, HasAttempt>(&mut linker, of_attempt)?;
    logging::Unversioned::add_to_linker::<State, HasAttempt>(&mut linker, of_attempt)?;
    keyvalue::Draft::add_to_linker::<State, HasKeyValues>(&mut linker, |state| KeyValueView::of(state))?;
    keyvalue::Draft2::add_to_linker::<State, HasKeyValues>(&mut linker, |state| KeyValueView::of(state))?;
    Ok(linker)
}

fn of_attempt(state: &mut State) -> &mut Attempt {
    &mut state.attempt
}
