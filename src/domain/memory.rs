//! What guests keep from run to run: buckets of key-values, and how much one of them may hold.
//!
//! Invariant: a bucket's totals are those of its entries, and no change that makes a bucket larger takes it past its quota.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::id::AgentId;
use super::time::Timestamp;

/// The longest key, in bytes.
pub const LONGEST_KEY: usize = 256;
/// The largest value, in bytes: in a record it is a third longer.
pub const LARGEST_VALUE: usize = 512 * 1024;
/// The most keys that a quota may allow a bucket.
pub const MOST_KEYS: u64 = 10_000;

/// Which of the two buckets that an agent's attempt has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BucketName {
    /// The agent's own, for all of its runs.
    Agent,
    /// That of the run's session, for the agent's runs of that session.
    Session,
}

impl BucketName {
    /// The bucket that a guest opens by this name; the empty one and `default` stand for the agent's.
    pub fn opened_as(name: &str) -> Option<BucketName> {
        match name {
            "agent" | "default" | "" => Some(BucketName::Agent),
            "session" => Some(BucketName::Session),
            _ => None,
        }
    }

    /// The name as people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            BucketName::Agent => "agent",
            BucketName::Session => "session",
        }
    }
}

/// What a bucket may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// What a bucket holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// A bucket, as it is kept beside its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Whose it is.
    pub agent_id: AgentId,
    /// The session; none for the agent's own bucket.
    pub session_id: Option<String>,
    /// Random, and part of the names of its entries: a bucket that is made again under the same name finds none of the old ones.
    pub incarnation: String,
    /// What it holds.
    #[serde(flatten)]
    pub totals: Totals,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last written to, to within [`Bucket::STALE_SECONDS`].
    pub written_at: Timestamp,
}

impl Bucket {
    /// How far [`Bucket::written_at`] may lag behind, so that not every write of a value is one of its bucket too.
    pub const STALE_SECONDS: u64 = 600;

    /// Which of an agent's buckets it is.
    pub fn name(&self) -> BucketName {
        if self.session_id.is_some() { BucketName::Session } else { BucketName::Agent }
    }
}

/// Why a key, a value or a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// The key is empty or too long.
    #[error("a key has 1 to {LONGEST_KEY} bytes, and this one has {0}")]
    Key(usize),
    /// The value is too large.
    #[error("a value has at most {LARGEST_VALUE} bytes, and this one has {0}; keep it in several")]
    Value(usize),
    /// There would be too many keys.
    #[error("the bucket would hold {0} keys, and its quota `keyvalue_keys` is {1}; delete some")]
    Keys(u64, u64),
    /// There would be too many bytes.
    #[error("the bucket would hold {0} bytes, and its quota `keyvalue_bytes` is {1}; delete something")]
    Bytes(u64, u64),
    /// What is to be counted up is no number.
    #[error("the value is no whole number in decimal digits, so nothing can be added to it")]
    NotANumber,
    /// The sum has no room in the number's type.
    #[error("the sum does not fit into 64 bits")]
    TooLarge,
}

/// Judges a key.
///
/// # Errors
/// It is empty or too long.
pub fn check_key(key: &str) -> Result<(), MemoryFault> {
    if (1..=LONGEST_KEY).contains(&key.len()) { Ok(()) } else { Err(MemoryFault::Key(key.len())) }
}

/// Judges a value.
///
/// # Errors
/// It is too large.
pub fn check_value(value: &[u8]) -> Result<(), MemoryFault> {
    if value.len() <= LARGEST_VALUE { Ok(()) } else { Err(MemoryFault::Value(value.len())) }
}

impl Totals {
    /// The totals when the value of a key of so many bytes changes its length; none stands for no value. What only shrinks a bucket is
    /// never refused.
    ///
    /// # Errors
    /// The bucket would pass its quota.
    pub fn changed(self, key: usize, before: Option<u64>, after: Option<u64>, quota: Quota) -> Result<Totals, MemoryFault> {
        let entry = |value: Option<u64>| value.map_or(0, |value| value.saturating_add(key as u64));
        let count = |value: Option<u64>| u64::from(value.is_some());
        let totals = Totals {
            keys: (self.keys + count(after)).saturating_sub(count(before)),
            bytes: self.bytes.saturating_add(entry(after)).saturating_sub(entry(before)),
        };
        if totals.keys > quota.keys && totals.keys > self.keys {
            Err(MemoryFault::Keys(totals.keys, quota.keys))
        } else if totals.bytes > quota.bytes && totals.bytes > self.bytes {
            Err(MemoryFault::Bytes(totals.bytes, quota.bytes))
        } else {
            Ok(totals)
        }
    }
}

/// The sum of a value, in decimal digits, and a number; no value counts as 0.
///
/// # Errors
/// The value is no number, or the sum lies outside the range.
pub fn counted(value: Option<&[u8]>, delta: i128, range: &RangeInclusive<i128>) -> Result<i128, MemoryFault> {
    let before = match value {
        None => 0,
        Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.parse::<i128>().ok()).ok_or(MemoryFault::NotANumber)?,
    };
    before.checked_add(delta).filter(|sum| range.contains(sum)).ok_or(MemoryFault::TooLarge)
}

impl fmt::Display for BucketName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { keys: 2, bytes: 20 };

    #[test]
    fn a_bucket_takes_what_its_quota_allows_and_not_a_byte_more() {
        let one = Totals::default().changed(4, None, Some(6), QUOTA).unwrap();
        assert_eq!(one, Totals { keys: 1, bytes: 10 });
        let two = one.changed(4, None, Some(6), QUOTA).unwrap();
        assert_eq!(two, Totals { keys: 2, bytes: 20 });
        assert_eq!(two.changed(1, None, Some(0), QUOTA), Err(MemoryFault::Keys(3, 2)));
        assert_eq!(two.changed(4, Some(6), Some(7), QUOTA), Err(MemoryFault::Bytes(21, 20)));
        assert_eq!(two.changed(4, Some(6), None, QUOTA), Ok(one), "what is deleted is free again");
        assert_eq!(one.changed(4, None, None, QUOTA), Ok(one));
    }

    #[test]
    fn a_bucket_that_is_past_a_quota_that_was_lowered_may_still_shrink() {
        let past = Totals { keys: 5, bytes: 50 };
        assert!(past.changed(2, Some(8), Some(7), QUOTA).is_ok());
        assert!(past.changed(2, Some(8), None, QUOTA).is_ok());
        assert!(past.changed(2, Some(8), Some(9), QUOTA).is_err());
        assert!(past.changed(2, None, Some(0), QUOTA).is_err());
    }

    #[test]
    fn keys_and_values_have_their_lengths() {
        assert!(check_key("a/../\0é").is_ok() && check_key(&"k".repeat(LONGEST_KEY)).is_ok());
        assert!(check_key("").is_err() && check_key(&"é".repeat(LONGEST_KEY / 2 + 1)).is_err());
        assert!(check_value(&vec![0; LARGEST_VALUE]).is_ok() && check_value(&vec![0; LARGEST_VALUE + 1]).is_err());
    }

    #[test]
    fn numbers_are_counted_in_decimal_digits() {
        let signed = i128::from(i64::MIN)..=i128::from(i64::MAX);
        assert_eq!(counted(None, 5, &signed), Ok(5));
        assert_eq!(counted(Some(b"-7"), 5, &signed), Ok(-2));
        assert_eq!(counted(Some(b"9223372036854775807"), 1, &signed), Err(MemoryFault::TooLarge));
        assert_eq!(counted(Some(b"9223372036854775807"), 1, &(0..=i128::from(u64::MAX))), Ok(9_223_372_036_854_775_808));
        for text in [&b"seven"[..], b"", b"1.5", b"\xff"] {
            assert_eq!(counted(Some(text), 1, &signed), Err(MemoryFault::NotANumber));
        }
    }

    #[test]
    fn only_the_two_buckets_can_be_opened() {
        assert_eq!(["", "default", "agent"].map(BucketName::opened_as), [Some(BucketName::Agent); 3]);
        assert_eq!(BucketName::opened_as("session"), Some(BucketName::Session));
        for name in ["Agent", "session/", "../agent", "agent\0", "sessions", "other"] {
            assert_eq!(BucketName::opened_as(name), None, "{name:?}");
        }
    }
}
