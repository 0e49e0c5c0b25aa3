//! What a run's attempts leave to those that follow, by name.
//!
//! Invariant: a run never has more names and bytes than its quota, but for those that a smaller quota finds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::RunId;

/// The longest name of a checkpoint, and the longest key of a question, in bytes.
pub const LONGEST_NAME: usize = 128;
/// The largest value of a checkpoint, in bytes: in a record, which is JSON of at most a megabyte, it takes a third more.
pub const LARGEST_CHECKPOINT: usize = 512 * 1024;
/// The most checkpoints that a run may be allowed: all names are in one record.
pub const MOST_CHECKPOINTS: u32 = 2_000;

/// What is wrong with a name or a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {LONGEST_NAME} bytes, no control characters, and as a key is not `.` or `..`")]
pub struct BadName;

/// Checks the name of a checkpoint or the key of a question.
///
/// # Errors
/// It is empty, too long, or has control characters.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let is_good = (1..=LONGEST_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    if is_good { Ok(()) } else { Err(BadName) }
}

/// How much one run may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointQuota {
    /// Names.
    pub names: u32,
    /// Bytes of names and values.
    pub bytes: u64,
}

/// A checkpoint that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointLimit {
    /// One name more.
    #[error("the run has as many checkpoints as its limit `checkpoints` of {0} allows; remove one, or have the limit raised")]
    Names(u32),
    /// More bytes.
    #[error("the run's checkpoints would have {wanted} bytes, and its limit `checkpoint_bytes` is {most}; remove some, or have it raised")]
    Bytes {
        /// What they would have.
        wanted: u64,
        /// What they may have.
        most: u64,
    },
}

/// The names of a run's checkpoints, each with the length of its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointNames {
    /// The run.
    pub run_id: RunId,
    /// The names.
    pub names: BTreeMap<String, u64>,
}

impl CheckpointNames {
    /// None yet.
    pub const fn none(run_id: RunId) -> Self {
        CheckpointNames { run_id, names: BTreeMap::new() }
    }

    /// The bytes of all names and values.
    pub fn bytes(&self) -> u64 {
        self.names.iter().fold(0_u64, |sum, (name, bytes)| sum.saturating_add(name.len() as u64).saturating_add(*bytes))
    }

    /// The names after a value of so many bytes was kept under one of them.
    ///
    /// # Errors
    /// It is more than the quota allows. What takes no more room than before always fits.
    pub fn with(mut self, name: &str, bytes: u64, quota: CheckpointQuota) -> Result<Self, CheckpointLimit> {
        let before = self.names.insert(name.to_owned(), bytes);
        if before.is_none() && self.names.len() > quota.names as usize {
            return Err(CheckpointLimit::Names(quota.names));
        }
        let wanted = self.bytes();
        if wanted > quota.bytes && before.is_none_or(|before| before < bytes) {
            return Err(CheckpointLimit::Bytes { wanted, most: quota.bytes });
        }
        Ok(self)
    }
}

/// Checks the key of a question, which is part of a path when it is answered.
///
/// # Errors
/// It is no name, or one that a path takes for a folder.
pub fn check_key(key: &str) -> Result<(), BadName> {
    if matches!(key, "." | "..") { Err(BadName) } else { check_name(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_holds_for_names_and_bytes_and_lets_shrink_what_is_over_it() {
        let run = RunId::parse("run_019ab3f2c1d47000a1b2c3d4e5f60718").unwrap();
        let quota = CheckpointQuota { names: 2, bytes: 10 };
        let two = CheckpointNames::none(run).with("a", 4, quota).unwrap().with("b", 4, quota).unwrap();
        assert_eq!(two.clone().with("c", 0, quota), Err(CheckpointLimit::Names(2)));
        assert_eq!(two.clone().with("a", 5, quota), Err(CheckpointLimit::Bytes { wanted: 11, most: 10 }));
        let smaller = CheckpointQuota { names: 1, bytes: 5 };
        assert_eq!(two.with("a", 3, smaller).unwrap().names["a"], 3);
    }

    #[test]
    fn names_are_short_texts_of_one_line() {
        assert!(check_name("turn-0001").is_ok() && check_name(&"é".repeat(64)).is_ok());
        for bad in ["", "a\nb", "\u{7f}", &"é".repeat(65)] {
            assert_eq!(check_name(bad), Err(BadName), "{bad:?}");
        }
        // An answer's path could not name them.
        for bad in [".", ".."] {
            assert_eq!((check_name(bad), check_key(bad)), (Ok(()), Err(BadName)));
        }
    }
}
