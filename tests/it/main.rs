//! The integration tests: one binary, one module a subject.
#[cfg(test)]
mod workspace;

mod plugins;

mod config;
