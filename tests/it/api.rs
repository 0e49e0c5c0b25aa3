//! The HTTP API over a real socket: a daemon on the memory store whose guests do what the test says.

mod approvals;
pub mod house;
mod mend;
mod recount;
mod refusals;
mod seed;
mod serving;
mod streams;
mod tokens;
mod twice;
