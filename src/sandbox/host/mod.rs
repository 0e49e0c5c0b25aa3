//! The interfaces offered to guests, one file each.

pub(crate) mod approval;
pub(crate) mod checkpoint;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod disk;
pub(crate) mod file_streams;
pub(crate) mod filesystem;
pub(crate) mod http;
pub(crate) mod keyvalue;
pub(crate) mod ledger;
pub(crate) mod logging;
pub(crate) mod logs;
pub(crate) mod progress;
pub(crate) mod walk;

/// What `wit/agent.wit` says, in Rust.
#[allow(missing_docs)]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "agent",
        imports: {
            "sandclock:agent/progress.sleep": async | trappable,
            "sandclock:agent/checkpoint": async | trappable,
            "sandclock:agent/approval": async | trappable,
            default: trappable,
        },
        exports: { default: async },
        require_store_data_send: true,
    });
}
