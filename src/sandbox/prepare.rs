//! A plugin that is linked and ready: what it exports, what it imports, and its instance in waiting.

use std::sync::Arc;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use super::attempt::{AgentParams, AgentResult, CommandParams, CommandResult};
use super::spec::bounded;
use super::state::State;

const ENTRY: &str = "sandclock:agent/entry@0.1.";
const COMMAND: &str = "wasi:cli/run@0.2.";

/// How a plugin is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It exports `sandclock:agent/entry`.
    Agent,
    /// It exports `wasi:cli/run`: argv is the agent and the query, stdin is the query, stdout is the result.
    Command,
}

/// Why a component cannot be an agent here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// It exports neither shape.
    #[error(
        "the component exports neither `sandclock:agent/entry@0.1.0` nor `wasi:cli/run@0.2.x`: build it for the world `sandclock:agent/agent` or as a command"
    )]
    NoEntry,
    /// It exports a shape's interface with another function in it.
    #[error("the component's export `{export}` has no function `run` of the expected type: build it against this version's wit/agent.wit")]
    WrongEntry {
        /// The interface's name.
        export: String,
    },
    /// It needs something that is not served.
    #[error("the component cannot be linked: {reason}")]
    Import {
        /// What wasmtime says, which names the import.
        reason: String,
    },
}

/// A component, linked once and instantiated for every attempt. Cloning it is cheap.
#[derive(Clone)]
pub struct Prepared {
    inner: Arc<Inner>,
}

struct Inner {
    shape: Shape,
    imports: Vec<String>,
    exports: Vec<String>,
    instance: InstancePre<State>,
    run: ComponentExportIndex,
}

impl Prepared {
    /// How it is called.
    pub fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// The names of what it imports, with their versions.
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// The names of what it exports, with their versions.
    pub fn exports(&self) -> &[String] {
        &self.inner.exports
    }

    pub(crate) fn instance(&self) -> &InstancePre<State> {
        &self.inner.instance
    }

    pub(crate) fn run(&self) -> &ComponentExportIndex {
        &self.inner.run
    }
}

/// Links a component.
///
/// # Errors
/// It exports no known entry, or imports what the linker does not have.
pub(crate) fn prepare(linkers: &[Linker<State>; 2], component: &Component) -> Result<Prepared, PrepareError> {
    let ty = component.component_type();
    let engine = component.engine();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let named = |prefix: &str| exports.iter().find(|name| name.starts_with(prefix));
    // An agent that is a command too was meant as an agent: toolchains export extras.
    let (shape, export) = match (named(ENTRY), named(COMMAND)) {
        (Some(name), _) => (Shape::Agent, name),
        (None, Some(name)) => (Shape::Command, name),
        (None, None) => return Err(PrepareError::NoEntry),
    };
    let wrong = || PrepareError::WrongEntry { export: bounded(export.clone(), 200) };
    let run = find_run(component, export).ok_or_else(wrong)?;
    let [now, of_old] = linkers;
    let unlinked = |error: wasmtime::Error| PrepareError::Import { reason: bounded(format!("{error:#}"), 1024) };
    let instance = now.instantiate_pre(component).or_else(|error| of_old.instantiate_pre(component).map_err(|_| unlinked(error)))?;
    if !fits(&instance, &run, shape) {
        return Err(wrong());
    }
    Ok(Prepared { inner: Arc::new(Inner { shape, imports, exports, instance, run }) })
}

fn find_run(component: &Component, export: &str) -> Option<ComponentExportIndex> {
    let interface = component.get_export_index(None, export)?;
    component.get_export_index(Some(&interface), "run")
}

/// Whether the function has the type that the attempt will call it with.
fn fits(instance: &InstancePre<State>, run: &ComponentExportIndex, shape: Shape) -> bool {
    let Some((ComponentItem::ComponentFunc(function), _)) = instance.component().get_export(None, run) else { return false };
    let ty = instance.instance_type();
    match shape {
        Shape::Agent => function.typecheck::<AgentParams<'_>, AgentResult>(&ty).is_ok(),
        Shape::Command => function.typecheck::<CommandParams, CommandResult>(&ty).is_ok(),
    }
}
