//! One daemon: the façade that everything goes through, and the parts that work in the background.
//!
//! ```text
//! api, cli ─→ manager ─┐
//! scheduler ───────────┤→ committer ─→ store
//! worker ─→ attempt ───┤
//! recovery ────────────┘        renewals ─→ store (leases only)
//! ```
//!
//! Invariants: only the committer applies changes, only `domain::lifecycle` chooses a status. How it fails: each part tells of an
//! error in the log and goes on; what was not committed did not happen.

pub mod agents;
mod attempt;
pub mod committer;
mod entities;
pub mod error;
pub mod executor;
pub mod foreground;
mod guest;
pub mod identity;
mod inner;
pub mod live;
pub mod manager;
pub mod open;
mod recovery;
mod renewals;
mod run;
mod scheduler;
pub mod signals;
pub mod spawn;
mod transitions;
pub mod txn;
mod worker;

pub use error::ManagerError;
pub use inner::{DaemonSettings, Inner};
pub use manager::{Listing, Manager, RunWish, WorkspaceListing};
pub use run::{Daemon, DaemonParts};
