//! What the workspaces need of an object store.

use async_trait::async_trait;
use bytes::Bytes;

/// Why an object could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectError {
    /// The store does not answer, or not in time.
    Unavailable(String),
    /// It answers and does not do it.
    Refused(String),
    /// There is no such object.
    Missing,
    /// The object has more bytes than were asked for.
    TooLarge,
}

/// Objects by key. Every call is bounded in time, and repeats by itself what is worth it.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// Writes an object whole or not at all, over one that is there.
    ///
    /// # Errors
    /// See [`ObjectError`].
    async fn put(&self, key: &str, content: Bytes) -> Result<(), ObjectError>;

    /// Reads an object of at most so many bytes.
    ///
    /// # Errors
    /// See [`ObjectError`].
    async fn get(&self, key: &str, most: u64) -> Result<Bytes, ObjectError>;

    /// The keys of all objects below `folder`, which has no slash at its end.
    ///
    /// # Errors
    /// See [`ObjectError`].
    async fn list(&self, folder: &str) -> Result<Vec<String>, ObjectError>;

    /// Deletes objects; those that are not there are deleted.
    ///
    /// # Errors
    /// See [`ObjectError`]; some may be gone then.
    async fn delete(&self, keys: Vec<String>) -> Result<(), ObjectError>;
}
