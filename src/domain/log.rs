//! What the log of an attempt is told of its guest's lines.

use serde::{Deserialize, Serialize};

/// Which of its two streams a guest wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How much a line matters, as the guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// The flow of control.
    Trace,
    /// For whoever looks for a fault.
    Debug,
    /// For whoever watches.
    Info,
    /// Something may be wrong.
    Warn,
    /// Something is wrong.
    Error,
    /// It cannot go on.
    Critical,
}
