//! How a command ends: one code for each thing that a script may want to tell apart, and one sentence for people.

use std::fmt::Write as _;
use std::process::ExitCode;

/// The exit codes of the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done; a run that was waited for has completed.
    Done = 0,
    /// A run that was waited for failed, timed out or was cancelled; the daemon met a fault; or the store can lose an acknowledged run.
    Failed = 1,
    /// The command line, the configuration or what was sent is wrong.
    Usage = 2,
    /// The daemon knows no such task, run, agent or file.
    NotFound = 3,
    /// What is there stands in the way; a run that was waited for was skipped for another one.
    Conflict = 4,
    /// The time for waiting is over, or the run is parked until somebody decides.
    WaitRanOut = 5,
    /// No daemon, or no store, answers at the address.
    Unreachable = 6,
    /// A signal ended the command.
    Interrupted = 130,
}

impl Exit {
    /// Every code, in the order of the documentation.
    pub const ALL: [Exit; 8] =
        [Exit::Done, Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Conflict, Exit::WaitRanOut, Exit::Unreachable, Exit::Interrupted];

    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What the code means, for the help.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "completed or done",
            Exit::Failed => "failed: a run ended failed, timeout or cancelled; a daemon's fault; a store that loses runs",
            Exit::Usage => "usage: the command line, the configuration or what was sent is wrong",
            Exit::NotFound => "not found",
            Exit::Conflict => "conflict: what is there stands in the way, or the run was skipped",
            Exit::WaitRanOut => "the wait ran out, or the run is parked",
            Exit::Unreachable => "no daemon, or no store, answers",
            Exit::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// The exit codes as the help shows them.
pub fn help() -> String {
    let mut text = "Exit codes:\n".to_owned();
    for exit in Exit::ALL {
        // Writing into a text cannot fail.
        let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
    }
    text
}

/// Why a command did not end as it was meant to.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// One sentence for stderr.
    #[error("{sentence}")]
    Told {
        /// The code to end with.
        exit: Exit,
        /// What, where and the mend.
        sentence: String,
    },
    /// Whoever read the output has gone; there is nobody to tell.
    #[error("the output's reader has gone")]
    Closed,
}

impl Fault {
    /// A fault of this exit.
    pub fn new(exit: Exit, sentence: impl Into<String>) -> Self {
        Fault::Told { exit, sentence: sentence.into() }
    }

    /// A fault of what the user gave.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Usage, sentence)
    }

    /// A fault of the work itself.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Failed, sentence)
    }

    /// The code to end with.
    pub fn exit(&self) -> Exit {
        match self {
            Fault::Told { exit, .. } => *exit,
            Fault::Closed => Exit::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_code_with_its_number() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 130]);
        for exit in Exit::ALL {
            assert!(help().contains(&format!("{:>3}  {}", exit.code(), exit.meaning())), "{exit:?}");
        }
    }
}
