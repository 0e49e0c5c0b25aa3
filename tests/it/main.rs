//! The integration tests: one binary, one module a subject.

// A test says by a panic what it found; clippy.toml excuses test functions only, not what they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod api;
mod assistant;
mod cli;
mod config;
mod daemon;
mod docs;
mod doctor;
mod egress;
mod fuzz;
mod guest;
mod model;
mod plugins;
mod process;
mod sandbox;
mod schedule;
mod servers;
mod simulation;
mod store;
mod workspace;
