//! Key-values that live as long as one run in the foreground, by the same rules.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::domain::memory::{BucketName, MemoryFault, Quota, Totals, counted};
use crate::sandbox::memory::{Changed, KeptValue, KeyPage, KeyValues, MemoryChange, MemoryRefused};

/// How many keys make a page full.
const PAGE_KEYS: usize = 256;

#[derive(Clone, Default)]
struct Held {
    totals: Totals,
    entries: BTreeMap<String, KeptValue>,
    versions: u64,
}

/// The two buckets of a run that no daemon executes.
#[derive(Default)]
pub struct RunMemory {
    buckets: Mutex<[Held; 2]>,
}

impl RunMemory {
    /// Whether anything is kept at present.
    pub fn is_empty(&self) -> bool {
        self.lock().iter().all(|bucket| bucket.entries.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, [Held; 2]> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: BucketName, act: impl FnOnce(&mut Held) -> T) -> T {
        let [agent, session] = &mut *self.lock();
        act(if name == BucketName::Agent { agent } else { session })
    }
}

impl Held {
    fn set(&mut self, key: &str, value: Option<Vec<u8>>, quota: Quota) -> Result<(), MemoryFault> {
        let before = self.entries.get(key).map(|kept| kept.value.len() as u64);
        self.totals = self.totals.changed(key.len(), before, value.as_ref().map(|value| value.len() as u64), quota)?;
        self.versions += 1;
        match value {
            Some(value) => self.entries.insert(key.to_owned(), KeptValue { value, version: self.versions }),
            None => self.entries.remove(key),
        };
        Ok(())
    }

    fn change(&mut self, change: MemoryChange, quota: Quota) -> Result<Changed, MemoryFault> {
        match change {
            MemoryChange::Write(writes) => {
                writes.into_iter().try_for_each(|(key, value)| self.set(&key, value, quota))?;
                Ok(Changed::Done)
            }
            MemoryChange::Increment { key, delta, range } => {
                let before = self.entries.get(&key).map(|kept| &*kept.value);
                let sum = counted(before, delta, &range)?;
                self.set(&key, Some(sum.to_string().into_bytes()), quota)?;
                Ok(Changed::Sum(sum))
            }
            MemoryChange::Swap { key, expected, value } => {
                if self.entries.get(&key).map(|kept| kept.version) != expected {
                    return Ok(Changed::Stale);
                }
                self.set(&key, Some(value), quota)?;
                Ok(Changed::Done)
            }
        }
    }
}

#[async_trait]
impl KeyValues for RunMemory {
    async fn get(&self, bucket: BucketName, keys: &[String]) -> Result<Vec<Option<KeptValue>>, MemoryRefused> {
        Ok(self.with(bucket, |held| keys.iter().map(|key| held.entries.get(key).cloned()).collect()))
    }

    async fn has(&self, bucket: BucketName, key: &str) -> Result<bool, MemoryRefused> {
        Ok(self.with(bucket, |held| held.entries.contains_key(key)))
    }

    async fn keys(&self, bucket: BucketName, page: u64) -> Result<KeyPage, MemoryRefused> {
        let skipped = usize::try_from(page).unwrap_or(usize::MAX);
        Ok(self.with(bucket, |held| {
            let keys: Vec<String> = held.entries.keys().skip(skipped).take(PAGE_KEYS).cloned().collect();
            let read = skipped.saturating_add(keys.len());
            KeyPage { next: (read < held.entries.len()).then_some(read as u64), keys }
        }))
    }

    async fn change(&self, bucket: BucketName, change: MemoryChange, quota: Quota) -> Result<Changed, MemoryRefused> {
        self.with(bucket, |held| {
            // What is refused leaves nothing of it.
            let mut changed = held.clone();
            let answer = changed.change(change, quota).map_err(|fault| MemoryRefused::No(fault.to_string()))?;
            *held = changed;
            Ok(answer)
        })
    }
}
