//! The ids of agents, tasks, runs and attempts.
//!
//! Invariant: an id that exists is safe as a file name and as a part of a store's key: letters, digits, `_`, `.`
//! and `-`, at most 128 of them, neither `.` nor `..`, and it does not start with a dot.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use uuid::Builder;

use super::time::Timestamp;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {what}: use 1 to 128 letters, digits, `_`, `.` and `-`, not starting with a dot")]
pub struct InvalidId {
    what: &'static str,
    text: String,
}

fn check(what: &'static str, text: &str) -> Result<Arc<str>, InvalidId> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if text.is_empty() || text.len() > 128 || text.starts_with('.') || !text.bytes().all(allowed) {
        let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
        return Err(InvalidId { what, text: shown });
    }
    Ok(Arc::from(text))
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text and takes it as an id.
            ///
            /// # Errors
            /// The text has a character, a length or a form that an id may not have.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check($what, text).map($name)
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

id_type!(
    /// Names an agent.
    AgentId, "agent_id"
);
id_type!(
    /// Names a task.
    TaskId, "task_id"
);
id_type!(
    /// Names a run: `run_` and 32 hexadecimal digits in UUIDv7 layout. Its order says nothing.
    RunId, "run_id"
);
id_type!(
    /// Names an attempt: `attempt_` and 32 hexadecimal digits.
    AttemptId, "attempt_id"
);
id_type!(
    /// Names a worker. The part before the dot is the daemon's lasting id, the part after it this incarnation of it.
    WorkerId, "worker_id"
);

fn hex_v7(prefix: &str, at: Timestamp, random: &[u8; 10]) -> Arc<str> {
    let millis = u64::try_from(at.micros().div_euclid(1000)).unwrap_or(0);
    let uuid = Builder::from_unix_timestamp_millis(millis, random).into_uuid();
    Arc::from(format!("{prefix}{}", uuid.simple()))
}

impl RunId {
    /// Whether a text has the form of the ids that are made here: `run_` and 32 hexadecimal digits.
    pub fn is_made(text: &str) -> bool {
        text.strip_prefix("run_").is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The id of a run that was asked for at `at`, with ten bytes of randomness.
    pub fn manual(at: Timestamp, random: [u8; 10]) -> Self {
        RunId(hex_v7("run_", at, &random))
    }

    /// The id of an occurrence's run. The same occurrence always gives the same id, so that a second dispatch collides;
    /// a task that was deleted and made again has another `incarnation`, an edited schedule another `revision`.
    pub fn of_occurrence(task: &TaskId, incarnation: &str, revision: u64, nominal: Timestamp) -> Self {
        let mut hash = Sha256::new();
        for part in [task.as_str(), incarnation, &revision.to_string(), &nominal.micros().to_string()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let mut random = [0; 10];
        for (to, from) in random.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        RunId(hex_v7("run_", nominal, &random))
    }
}

impl AttemptId {
    /// The id of a run's attempt under a fence: every claim of a run has another one, and the same claim always the same.
    pub fn of_claim(run: &RunId, fence: u64, at: Timestamp) -> Self {
        let mut hash = Sha256::new();
        hash.update(run.as_str().as_bytes());
        hash.update(fence.to_be_bytes());
        let mut random = [0; 10];
        for (to, from) in random.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        AttemptId(hex_v7("attempt_", at, &random))
    }
}

impl WorkerId {
    /// This incarnation of a daemon's worker.
    ///
    /// # Errors
    /// A part has a character that an id may not have.
    pub fn of(daemon: &str, incarnation: &str) -> Result<Self, InvalidId> {
        Self::parse(&format!("{daemon}.{incarnation}"))
    }

    /// The daemon's lasting id.
    pub fn daemon(&self) -> &str {
        self.0.rsplit_once('.').map_or(&self.0, |(daemon, _)| daemon)
    }
}
