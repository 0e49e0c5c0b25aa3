//! Records and rules, pure: no I/O, no clock, no randomness. Time, ids and chance come in as arguments.

pub mod agent;
pub mod approval;
pub mod checkpoint;
pub mod event;
pub mod filter;
pub mod http;
pub mod id;
pub mod idempotency;
pub mod input;
pub mod lifecycle;
pub mod log;
pub mod memory;
pub mod park;
pub mod policy;
pub mod price;
pub mod receipt;
pub mod role;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod secret_search;
pub mod spend;
pub mod task;
pub mod text;
pub mod time;
pub mod why;
