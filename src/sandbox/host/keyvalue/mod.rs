//! `wasi:keyvalue`: what an agent keeps from run to run, in the buckets `agent` and `session`.
//!
//! Invariants: a guest names a bucket of its own or none; every key and value is within its bounds before the host sees it; what one call
//! holds is bounded, and what an attempt moves is counted; a lost lease ends the attempt and is never an error that the guest could pass
//! over. The drafts differ in their types alone, and each has one thin binding of this.

mod draft;
mod draft2;

use std::sync::Arc;

use wasmtime::component::{HasData, Resource, ResourceTable, ResourceTableError};

use crate::domain::memory::{LARGEST_VALUE, MemoryFault, check_key, check_value};
use crate::domain::receipt::CallKind;
use crate::sandbox::fault::Fault;
use crate::sandbox::memory::{BucketName, Changed, KeptValue, KeyPage, KeyValues, MemoryChange, MemoryRefused};
use crate::sandbox::signals::{Halt, Stop};
use crate::sandbox::spec::GuestHost;
use crate::sandbox::state::{Attempt, State};

pub(crate) use draft::Imports as Draft;
pub(crate) use draft2::{Imports as Draft2, link_get_many, link_get_many_of_old};

/// The most keys of one `get-many`, `set-many` or `delete-many`.
const MANY: usize = 1_000;
/// The most bytes of values that one `get-many` answers with.
const MANY_BYTES: usize = 4 * 1024 * 1024;
/// How many values are read from the store at once.
const READ_AT_ONCE: usize = 8;
/// The most keys of one change.
const CHANGED_AT_ONCE: usize = 64;

/// Names [`KeyValueView`] for the linker.
pub(crate) struct HasKeyValues;

impl HasData for HasKeyValues {
    type Data<'a> = KeyValueView<'a>;
}

/// What the calls of one store work with.
pub(crate) struct KeyValueView<'a> {
    attempt: &'a Attempt,
    table: &'a mut ResourceTable,
}

/// A bucket that a guest has opened.
pub struct Opened(BucketName);

/// A key that a guest may swap the value of.
pub struct Compared {
    bucket: BucketName,
    key: String,
    /// Of the value as the guest knows it.
    version: Option<u64>,
}

/// Why a call gives no answer.
#[derive(Debug)]
pub(crate) enum KeyValueError {
    /// The attempt has to end.
    Trap(wasmtime::Error),
    /// There is no such bucket.
    NoSuchStore,
    /// The attempt has nothing to keep values in.
    AccessDenied,
    /// The guest is told why.
    Other(String),
}

impl From<Fault> for KeyValueError {
    fn from(fault: Fault) -> Self {
        KeyValueError::Trap(fault.into())
    }
}

impl From<ResourceTableError> for KeyValueError {
    fn from(error: ResourceTableError) -> Self {
        KeyValueError::Trap(error.into())
    }
}

impl From<MemoryFault> for KeyValueError {
    fn from(fault: MemoryFault) -> Self {
        KeyValueError::Other(fault.to_string())
    }
}

impl From<MemoryRefused> for KeyValueError {
    fn from(refused: MemoryRefused) -> Self {
        match refused {
            MemoryRefused::LeaseLost => Fault::Halted(Halt::Stopped(Stop::LeaseLost)).into(),
            MemoryRefused::No(why) => KeyValueError::Other(why),
        }
    }
}

type Answer<T> = Result<T, KeyValueError>;

impl<'a> KeyValueView<'a> {
    /// The view of a store's state.
    pub(crate) fn of(state: &'a mut State) -> Self {
        KeyValueView { attempt: &state.attempt, table: &mut state.table }
    }

    fn open_bucket(&mut self, name: &str) -> Answer<Resource<Opened>> {
        self.attempt.call(CallKind::KeyValues)?;
        let bucket = BucketName::opened_as(name).ok_or(KeyValueError::NoSuchStore)?;
        kept(&self.attempt.host)?;
        Ok(self.table.push(Opened(bucket))?)
    }

    fn close_bucket(&mut self, bucket: Resource<Opened>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }

    /// The bucket of a call that is to be counted.
    fn begin(&self, bucket: &Resource<Opened>) -> Answer<BucketName> {
        self.attempt.act(CallKind::KeyValues)?;
        Ok(self.table.get(bucket)?.0)
    }

    async fn value(&mut self, bucket: BucketName, key: String) -> Answer<Option<KeptValue>> {
        check_key(&key)?;
        let value = kept(&self.attempt.host)?.get(bucket, &[key]).await?.pop().flatten();
        self.attempt.meter.moves(value.as_ref().map_or(0, |kept| kept.value.len()))?;
        Ok(value)
    }

    async fn get_value(&mut self, bucket: &Resource<Opened>, key: String) -> Answer<Option<Vec<u8>>> {
        let bucket = self.begin(bucket)?;
        Ok(self.value(bucket, key).await?.map(|kept| kept.value))
    }

    async fn has_key(&mut self, bucket: &Resource<Opened>, key: &str) -> Answer<bool> {
        let bucket = self.begin(bucket)?;
        check_key(key)?;
        Ok(kept(&self.attempt.host)?.has(bucket, key).await?)
    }

    async fn list_page(&mut self, bucket: &Resource<Opened>, page: u64) -> Answer<KeyPage> {
        let bucket = self.begin(bucket)?;
        let page = kept(&self.attempt.host)?.keys(bucket, page).await?;
        self.attempt.meter.moves(page.keys.iter().map(String::len).sum())?;
        Ok(page)
    }

    /// The values of many keys, in order.
    async fn get_values(&mut self, bucket: &Resource<Opened>, keys: &[String]) -> Answer<Vec<Option<Vec<u8>>>> {
        let bucket = self.begin(bucket)?;
        check_many(keys.len())?;
        keys.iter().try_for_each(|key| check_key(key))?;
        let (mut values, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for some in keys.chunks(READ_AT_ONCE) {
            for value in kept(&self.attempt.host)?.get(bucket, some).await? {
                let length = value.as_ref().map_or(0, |kept| kept.value.len());
                self.attempt.meter.moves(length)?;
                bytes += length;
                if bytes > MANY_BYTES {
                    return Err(KeyValueError::Other(format!(
                        "the values have more than {MANY_BYTES} bytes together; ask for fewer at once"
                    )));
                }
                values.push(value.map(|kept| kept.value));
            }
        }
        Ok(values)
    }

    /// Sets keys, or deletes those without a value. Some at a time are one change, which is made whole or not at all.
    async fn write(&mut self, bucket: &Resource<Opened>, mut writes: Vec<(String, Option<Vec<u8>>)>) -> Answer<()> {
        let bucket = self.begin(bucket)?;
        check_many(writes.len())?;
        for (key, value) in &writes {
            check_key(key)?;
            value.as_ref().map_or(Ok(()), |value| check_value(value))?;
        }
        while !writes.is_empty() {
            let mut bytes = 0;
            let mut fits = |(key, value): &(String, Option<Vec<u8>>)| {
                bytes += key.len() + value.as_ref().map_or(0, Vec::len);
                bytes <= LARGEST_VALUE
            };
            let count = writes.iter().take(CHANGED_AT_ONCE).map_while(|write| fits(write).then_some(())).count().max(1);
            let rest = writes.split_off(count);
            self.change(bucket, MemoryChange::Write(std::mem::replace(&mut writes, rest))).await?;
        }
        Ok(())
    }

    async fn add(&mut self, bucket: &Resource<Opened>, key: String, delta: i128, range: std::ops::RangeInclusive<i128>) -> Answer<i128> {
        let bucket = self.begin(bucket)?;
        check_key(&key)?;
        match self.change(bucket, MemoryChange::Increment { key, delta, range }).await? {
            Changed::Sum(sum) => Ok(sum),
            other => Err(KeyValueError::Trap(wasmtime::format_err!("an increment was answered with {other:?}"))),
        }
    }

    async fn change(&mut self, bucket: BucketName, change: MemoryChange) -> Answer<Changed> {
        self.attempt.act(CallKind::KeyValues)?;
        let bytes = match &change {
            MemoryChange::Write(writes) => writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum(),
            MemoryChange::Increment { key, .. } => key.len(),
            MemoryChange::Swap { key, value, .. } => key.len() + value.len(),
        };
        self.attempt.meter.moves(bytes)?;
        Ok(kept(&self.attempt.host)?.change(bucket, change, self.attempt.quota).await?)
    }

    async fn compare(&mut self, bucket: &Resource<Opened>, key: String) -> Answer<Resource<Compared>> {
        let bucket = self.begin(bucket)?;
        let version = self.value(bucket, key.clone()).await?.map(|kept| kept.version);
        Ok(self.table.push(Compared { bucket, key, version })?)
    }

    /// Reads the value that is to be swapped, as it is now.
    async fn look(&mut self, compared: &Resource<Compared>) -> Answer<Option<Vec<u8>>> {
        self.attempt.act(CallKind::KeyValues)?;
        let (bucket, key) = {
            let compared = self.table.get(compared)?;
            (compared.bucket, compared.key.clone())
        };
        let value = self.value(bucket, key).await?;
        self.table.get_mut(compared)?.version = value.as_ref().map(|kept| kept.version);
        Ok(value.map(|kept| kept.value))
    }

    /// Swaps the value; answers with a new handle when somebody else was faster.
    async fn exchange(&mut self, compared: Resource<Compared>, value: Vec<u8>) -> Answer<Option<Resource<Compared>>> {
        let Compared { bucket, key, version: expected } = self.table.delete(compared)?;
        check_value(&value)?;
        match self.change(bucket, MemoryChange::Swap { key: key.clone(), expected, value }).await? {
            Changed::Stale => {
                let version = self.value(bucket, key.clone()).await?.map(|kept| kept.version);
                Ok(Some(self.table.push(Compared { bucket, key, version })?))
            }
            _ => Ok(None),
        }
    }

    fn let_go(&mut self, compared: Resource<Compared>) -> wasmtime::Result<()> {
        self.table.delete(compared)?;
        Ok(())
    }
}

/// What the host keeps values in.
fn kept(host: &Arc<dyn GuestHost>) -> Answer<&dyn KeyValues> {
    host.key_values().ok_or(KeyValueError::AccessDenied)
}

fn check_many(keys: usize) -> Answer<()> {
    if keys <= MANY { Ok(()) } else { Err(KeyValueError::Other(format!("one call is of at most {MANY} keys, and this one of {keys}"))) }
}
