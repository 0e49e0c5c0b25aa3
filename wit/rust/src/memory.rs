//! What an agent keeps from run to run: bytes under keys, through `wasi:keyvalue`. [`session`] is this agent's in this session, [`agent`]
//! this agent's for all of its runs. A write that returned is kept, and every daemon of the store sees it.

use crate::Failure;
use crate::services::wasi::keyvalue::store;
use std::fmt;

/// A bucket of keys and values.
pub struct Bucket(store::Bucket);

/// Why a key or value was not taken, mostly the name of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A limit stays a limit, so the run fails with its sentence.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::permanent(error)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Error(match error {
            store::Error::NoSuchStore => "there is no such bucket: it is `session` or `agent`".to_owned(),
            store::Error::AccessDenied => "this agent may not use the bucket".to_owned(),
            store::Error::Other(why) => why,
        })
    }
}

/// What this agent keeps in this session.
///
/// # Errors
/// The daemon does not give it.
pub fn session() -> Result<Bucket, Error> {
    Ok(Bucket(store::open("session")?))
}

/// What this agent keeps over all of its runs.
///
/// # Errors
/// The daemon does not give it.
pub fn agent() -> Result<Bucket, Error> {
    Ok(Bucket(store::open("agent")?))
}

impl Bucket {
    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// The key is not one.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.get(key)?)
    }

    /// The value of a key as text; bytes that are none become U+FFFD.
    ///
    /// # Errors
    /// The key is not one.
    pub fn get_text(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.get(key)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Keeps a value.
    ///
    /// # Errors
    /// The key, the value or the bucket would be over a limit; the sentence names it.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        Ok(self.0.set(key, value.as_ref())?)
    }

    /// Forgets a key.
    ///
    /// # Errors
    /// The key is not one.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        Ok(self.0.delete(key)?)
    }

    /// The keys, in no particular order, up to a number.
    ///
    /// # Errors
    /// The daemon does not give them.
    pub fn keys(&self, at_most: usize) -> Result<Vec<String>, Error> {
        let mut keys = Vec::new();
        let mut cursor = None;
        while keys.len() < at_most {
            let page = self.0.list_keys(cursor.as_deref())?;
            keys.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        keys.truncate(at_most);
        Ok(keys)
    }

    /// The value of a key, from JSON.
    ///
    /// # Errors
    /// The key is not one, or what is kept is not of this type.
    #[cfg(feature = "json")]
    pub fn get_json<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(bytes) = self.get(key)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|fault| Error(format!("what is kept under {key:?} is not what was expected: {fault}")))
    }

    /// Keeps a value as JSON.
    ///
    /// # Errors
    /// Like those of [`Bucket::set`], or the value cannot be JSON.
    #[cfg(feature = "json")]
    pub fn set_json(&self, key: &str, value: &impl serde::Serialize) -> Result<(), Error> {
        let bytes =
            serde_json::to_vec(value).map_err(|fault| Error(format!("the value for {key:?} cannot be written as JSON: {fault}")))?;
        self.set(key, bytes)
    }
}
