//! What the host of an attempt offers its guest to keep from run to run.

use std::ops::RangeInclusive;

use async_trait::async_trait;

pub use crate::domain::memory::{BucketName, Quota};

/// A value, and which writing of it this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptValue {
    /// The bytes.
    pub value: Vec<u8>,
    /// Another one after each writing of the key.
    pub version: u64,
}

/// Some of a bucket's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys, in an order of their own.
    pub keys: Vec<String>,
    /// What to ask for what follows; none when this is all.
    pub next: Option<u64>,
}

/// What is to become of a bucket. The whole of it is done, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryChange {
    /// Sets each of these keys to its value, or deletes it where there is none.
    Write(Vec<(String, Option<Vec<u8>>)>),
    /// Adds to the number that a key's value is.
    Increment {
        /// The key; without a value it counts as 0.
        key: String,
        /// What is added.
        delta: i128,
        /// Where the sum must lie.
        range: RangeInclusive<i128>,
    },
    /// Sets a key if it has not been written since.
    Swap {
        /// The key.
        key: String,
        /// The version that it must have; none when it must have no value.
        expected: Option<u64>,
        /// The new value.
        value: Vec<u8>,
    },
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It was made.
    Done,
    /// The sum that the key's value is now.
    Sum(i128),
    /// Somebody else had written the key; nothing was done.
    Stale,
}

/// Why what a guest keeps could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryRefused {
    /// Another attempt may have begun: this one has to end.
    #[error("the attempt may change nothing that is kept: the lease of its run is lost")]
    LeaseLost,
    /// The guest is told why.
    #[error("{0}")]
    No(String),
}

/// What is kept of a guest's from run to run. A call waits as long as the store is away; the attempt's limits end the wait. Keys and values
/// have been checked.
#[async_trait]
pub trait KeyValues: Send + Sync {
    /// The values of keys, in order; none where there is no such key.
    ///
    /// # Errors
    /// They cannot be read.
    async fn get(&self, bucket: BucketName, keys: &[String]) -> Result<Vec<Option<KeptValue>>, MemoryRefused>;

    /// Whether there is such a key.
    ///
    /// # Errors
    /// It cannot be read.
    async fn has(&self, bucket: BucketName, key: &str) -> Result<bool, MemoryRefused>;

    /// A page of a bucket's keys: the first for 0, and what [`KeyPage::next`] says for those that follow.
    ///
    /// # Errors
    /// They cannot be read.
    async fn keys(&self, bucket: BucketName, page: u64) -> Result<KeyPage, MemoryRefused>;

    /// Makes a change, by the attempt's fence and within the quota.
    ///
    /// # Errors
    /// It was not made.
    async fn change(&self, bucket: BucketName, change: MemoryChange, quota: Quota) -> Result<Changed, MemoryRefused>;
}
