//! What one attempt of a run reads and changes of its two buckets.
//!
//! Invariant: every change stands or falls with the attempt's lease in the commit that makes it; each read asks the store. A store that is
//! away is asked again until it is back, for the attempt's own limits end the wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{Kept, LEAVES, Leaf, Order, bucket_id, leaf_id, value_id};
use crate::clock::Entropy;
use crate::daemon::committer::{CommitError, Committer};
use crate::daemon::live::LiveRun;
use crate::daemon::patience::{self, Patience};
use crate::domain::memory::{Bucket, BucketName, Quota};
use crate::domain::run::Run;
use crate::sandbox::memory::{Changed, KeptValue, KeyPage, KeyValues, MemoryChange, MemoryRefused};
use crate::store::{Record, RecordId, Store, StoreError};

/// How many keys make a page full; a page ends with the leaf that passes it.
const PAGE_KEYS: usize = 256;
/// How many leaves are read at once.
const LEAVES_AT_ONCE: u8 = 8;

/// The key-values of one attempt.
pub(in crate::daemon) struct AttemptMemory {
    store: Arc<dyn Store>,
    committer: Committer,
    entropy: Arc<dyn Entropy>,
    live: LiveRun,
    run: Arc<Run>,
    /// Counts the changes.
    changes: AtomicU64,
    /// The incarnations of the agent's and the session's bucket, as they were seen last.
    seen: Mutex<[Option<String>; 2]>,
}

impl AttemptMemory {
    /// Of an attempt of this run.
    pub(in crate::daemon) fn new(
        store: Arc<dyn Store>,
        committer: Committer,
        entropy: Arc<dyn Entropy>,
        run: Arc<Run>,
        live: LiveRun,
    ) -> AttemptMemory {
        AttemptMemory { store, committer, entropy, live, run, changes: AtomicU64::new(0), seen: Mutex::default() }
    }

    fn session_of(&self, bucket: BucketName) -> Option<&str> {
        (bucket == BucketName::Session).then_some(&*self.run.session_id)
    }

    fn seen(&self, bucket: BucketName) -> Option<String> {
        let [agent, session] = &*self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if bucket == BucketName::Agent { agent.clone() } else { session.clone() }
    }

    fn see(&self, bucket: BucketName, incarnation: Option<String>) {
        let [agent, session] = &mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *(if bucket == BucketName::Agent { agent } else { session }) = incarnation;
    }

    async fn records(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, MemoryRefused> {
        patience::read(&*self.store, ids).await.map_err(|error| refused(&error))
    }

    /// Reads records of a bucket, whose names depend on its incarnation; none where there is no such bucket.
    async fn of_bucket(
        &self,
        bucket: BucketName,
        ids: impl Fn(&str) -> Vec<RecordId>,
    ) -> Result<Option<Vec<Option<Record>>>, MemoryRefused> {
        loop {
            let seen = self.seen(bucket);
            let mut wanted = vec![bucket_id(&self.run.agent_id, self.session_of(bucket))];
            wanted.extend(seen.as_deref().into_iter().flat_map(&ids));
            let mut records = self.records(&wanted).await?.into_iter();
            let Some(found) = records.next().flatten() else {
                self.see(bucket, None);
                return Ok(None);
            };
            let found: Bucket = found.decode().map_err(|error| refused(&error))?;
            if seen.as_deref() == Some(&*found.incarnation) {
                return Ok(Some(records.collect()));
            }
            self.see(bucket, Some(found.incarnation));
        }
    }

    fn order(&self, bucket: BucketName, change: MemoryChange, quota: Quota) -> Order {
        let mut version = [0; 8];
        self.entropy.fill(&mut version);
        Order {
            agent: self.run.agent_id.clone(),
            session: self.session_of(bucket).map(str::to_owned),
            run: self.run.run_id.clone(),
            fence: self.live.fence,
            number: self.changes.fetch_add(1, Ordering::Relaxed) + 1,
            quota,
            change,
            version: u64::from_ne_bytes(version),
            incarnation: self.entropy.hex_name(),
        }
    }
}

fn refused(error: &StoreError) -> MemoryRefused {
    match error {
        StoreError::TakenOver(_) => MemoryRefused::LeaseLost,
        other => MemoryRefused::No(other.to_string()),
    }
}

#[async_trait]
impl KeyValues for AttemptMemory {
    async fn get(&self, bucket: BucketName, keys: &[String]) -> Result<Vec<Option<KeptValue>>, MemoryRefused> {
        let ids = |incarnation: &str| keys.iter().map(|key| value_id(incarnation, key)).collect();
        let Some(records) = self.of_bucket(bucket, ids).await? else { return Ok(vec![None; keys.len()]) };
        let value = |record: Option<Record>| -> Result<Option<KeptValue>, StoreError> {
            let Some(record) = record else { return Ok(None) };
            let kept: Kept = record.decode()?;
            Ok(Some(KeptValue { value: kept.bytes()?, version: kept.version }))
        };
        records.into_iter().map(value).collect::<Result<_, _>>().map_err(|error| refused(&error))
    }

    async fn has(&self, bucket: BucketName, key: &str) -> Result<bool, MemoryRefused> {
        let ids = |incarnation: &str| vec![super::entry_ids(incarnation, key).1];
        let leaf = self.of_bucket(bucket, ids).await?.and_then(|mut records| records.pop().flatten());
        let leaf: Option<Leaf> = leaf.map(|leaf| leaf.decode()).transpose().map_err(|error| refused(&error))?;
        Ok(leaf.is_some_and(|leaf| leaf.0.contains_key(key)))
    }

    async fn keys(&self, bucket: BucketName, page: u64) -> Result<KeyPage, MemoryRefused> {
        let mut keys = Vec::new();
        let mut next = u8::try_from(page).unwrap_or(LEAVES);
        while next < LEAVES && keys.len() < PAGE_KEYS {
            let some = next..next.saturating_add(LEAVES_AT_ONCE).min(LEAVES);
            let ids = |incarnation: &str| some.clone().map(|leaf| leaf_id(incarnation, leaf)).collect();
            let Some(leaves) = self.of_bucket(bucket, ids).await? else { return Ok(KeyPage::default()) };
            for leaf in leaves {
                next += 1;
                let leaf: Option<Leaf> = leaf.map(|leaf| leaf.decode()).transpose().map_err(|error| refused(&error))?;
                keys.extend(leaf.unwrap_or_default().0.into_keys());
                if keys.len() >= PAGE_KEYS {
                    break;
                }
            }
        }
        Ok(KeyPage { keys, next: (next < LEAVES).then_some(u64::from(next)) })
    }

    async fn change(&self, bucket: BucketName, change: MemoryChange, quota: Quota) -> Result<Changed, MemoryRefused> {
        let order = Arc::new(self.order(bucket, change, quota));
        let mut patience = Patience::new();
        loop {
            if !self.live.signals.may_act() {
                return Err(MemoryRefused::LeaseLost);
            }
            let reads = order.reads(self.seen(bucket).as_deref());
            let wanted = Arc::clone(&order);
            let made = self.committer.commit(reads, Vec::new(), move |txn| wanted.carry_out(txn)).await;
            match made {
                Ok((changed, incarnation)) => {
                    self.see(bucket, incarnation);
                    return Ok(changed);
                }
                Err(error) if error.is_loss() => return Err(MemoryRefused::LeaseLost),
                Err(CommitError::Refused(fault)) => return Err(MemoryRefused::No(fault.to_string())),
                Err(CommitError::Store(error)) if !error.is_transient() => return Err(refused(&error)),
                Err(_) => patience.wait().await,
            }
        }
    }
}
