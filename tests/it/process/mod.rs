//! The daemon as a process: the real binary on a SQLite file, with real components in its plugins folder, killed, stopped, started
//! again, misconfigured and fed over HTTP.
//!
//! A test waits for what the daemon tells (an event, a line of its log, its end), never for time to pass.

mod approvals;
mod bucket;
mod budget;
mod chaos;
mod configuration;
pub mod daemon;
mod deploy;
mod disk;
mod events;
mod fleet;
mod full;
mod guests;
mod kills;
mod languages;
mod moving;
mod oracle;
mod page;
mod refusals;
mod reload;
mod stops;
mod takeover;
mod tasks;
mod tls;
mod vitals;
mod workload;
