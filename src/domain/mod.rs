//! Records and rules, pure: no I/O, no clock, no randomness. Time, ids and chance come in as arguments.

pub mod agent;
pub mod id;
pub mod input;
pub mod policy;
pub mod schedule;
pub mod time;
