//! One daemon: the façade that everything goes through, and the parts that work in the background.
//!
//! ```text
//! api, cli ─→ manager ─┐
//! scheduler ───────────┤→ committer ─→ store
//! worker ─→ attempt ───┤
//! recovery, retention ─┘        renewals ─→ store (leases only)
//! ```
//!
//! Invariants: only the committer applies changes, only `domain::lifecycle` chooses a status. How it fails: each part tells of an
//! error in the log and goes on; what was not committed did not happen.

mod account;
mod admission;
pub mod agents;
mod approvals;
mod attempt;
mod bounds;
pub mod capabilities;
mod checkpoints;
pub mod committer;
pub mod deployment;
pub mod doctor;
mod egress;
mod entities;
pub mod error;
pub mod executor;
mod fleet;
mod follow;
pub mod foreground;
mod guest;
mod here;
mod hints;
mod idempotency;
pub mod identity;
mod inner;
mod kept;
pub mod live;
pub mod manager;
mod memory;
pub mod moving;
pub mod open;
mod outage;
mod owed;
mod patience;
mod pushed;
pub mod receipt;
mod recovery;
pub mod reload;
mod removal;
mod renewals;
mod retention;
mod run;
mod scheduler;
pub mod signals;
pub mod spawn;
mod sweep;
mod transitions;
pub mod txn;
mod upload;
mod worker;

pub use bounds::{Bounds, Retention};
pub use error::ManagerError;
pub use idempotency::Answered;
pub use inner::{DaemonSettings, Inner};
pub use manager::{FileContent, Listing, Manager, RunWish, WorkspaceFile, WorkspaceListing};
pub use run::{Daemon, DaemonParts};
