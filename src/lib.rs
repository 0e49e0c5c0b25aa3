//! Sandclock runs background agents: WebAssembly components from a folder, as durable, leased, watched runs, each attempt
//! in a sandbox of its own.
//!
//! The rooms, and the one way in which they depend on each other:
//!
//! ```text
//! cli, api → daemon → { store, sandbox, plugins, workspace, egress } → domain
//! ```

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod egress;
pub mod plugins;
pub mod sandbox;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod workspace;
