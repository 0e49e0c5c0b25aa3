//! The binary as its users meet it: exit codes, tables, JSON, streams and signals, against a daemon that plays fixed answers, and
//! against a real one.

mod client;
mod dev;
mod hostile;
mod https;
mod local;
mod mend;
mod new;
mod real;
pub mod stage;
mod waiting;
