//! What guests keep from run to run, as records: a bucket with its totals, its keys in leaves, and each value on its own.
//!
//! Invariants: a bucket's record names all that is in it by its incarnation, and its totals are those of its leaves, in every commit; so a
//! quota holds however many daemons write at once. The names of records are made of ids that have no separator, of hashes and of random
//! names, so that no key of a guest's and no session's name leads into another's bucket. Each change leaves a receipt under its run and
//! fence: one whose answer was lost is found to be made, and is not made twice.
//!
//! How it fails: a change that does not fit is decided again by the committer; what cannot be read is told to the guest in a sentence.

mod bury;
mod guest;
mod here;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::txn::{Entity, Stop, Txn};
use crate::domain::id::{AgentId, RunId};
use crate::domain::memory::{Bucket, MemoryFault, Quota, Totals, counted};
use crate::domain::time::Timestamp;
use crate::sandbox::memory::{Changed, MemoryChange};
use crate::store::{Index, Kind, RecordId, StoreError, When};

pub(super) use bury::{bury, retire};
pub(super) use guest::AttemptMemory;
pub use here::RunMemory;

/// Over how many records the keys of a bucket are spread, so that a new key writes few of the others.
pub(super) const LEAVES: u8 = 32;

/// The record of a bucket.
pub(super) fn bucket_id(agent: &AgentId, session: Option<&str>) -> RecordId {
    RecordId::new(
        Kind::KeyValue,
        &match session {
            None => format!("a/{agent}"),
            Some(session) => format!("s/{agent}/{}", blake3::hash(session.as_bytes()).to_hex()),
        },
    )
}

/// The record of some of a bucket's keys.
pub(super) fn leaf_id(incarnation: &str, leaf: u8) -> RecordId {
    RecordId::new(Kind::KeyValue, &format!("n/{incarnation}/{leaf:02}"))
}

/// The record of a value, and the leaf that has its key. The incarnation is a secret of ours, so that no guest can choose keys of one leaf.
fn entry_ids(incarnation: &str, key: &str) -> (RecordId, RecordId) {
    let hash = blake3::Hasher::new().update(incarnation.as_bytes()).update(&[0]).update(key.as_bytes()).finalize();
    let leaf = hash.as_bytes().first().map_or(0, |byte| byte % LEAVES);
    (RecordId::new(Kind::KeyValue, &format!("v/{incarnation}/{}", hash.to_hex())), leaf_id(incarnation, leaf))
}

/// The record of a value.
pub(super) fn value_id(incarnation: &str, key: &str) -> RecordId {
    entry_ids(incarnation, key).0
}

impl Entity for Bucket {
    const KIND: Kind = Kind::KeyValue;

    fn index(&self, _now: Timestamp) -> Index {
        // Of a session it is since when nothing was written; an agent's own bucket is kept as long as nobody clears it.
        let due = self.session_id.as_ref().map(|_| When::In(std::time::Duration::ZERO));
        Index { agent: Some(self.agent_id.clone()), due, ..Index::default() }
    }
}

/// Some of a bucket's keys, each with the length of its value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Leaf(pub(super) BTreeMap<String, u64>);

impl Entity for Leaf {
    const KIND: Kind = Kind::KeyValue;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// A value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Its key, so that whoever reads the record knows whose it is.
    key: String,
    /// Another one after each writing.
    pub(super) version: u64,
    /// In base64, for a record is JSON.
    value: String,
}

impl Kept {
    fn of(key: &str, version: u64, value: &[u8]) -> Kept {
        Kept { key: key.to_owned(), version, value: STANDARD.encode(value) }
    }

    /// The bytes.
    ///
    /// # Errors
    /// The record holds something else.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, StoreError> {
        STANDARD.decode(&self.value).map_err(|error| StoreError::corrupt(format!("the value of a key is not base64: {error}")))
    }
}

impl Entity for Kept {
    const KIND: Kind = Kind::KeyValue;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// The last change that a run's attempts have made, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Receipt {
    run_id: RunId,
    fence: u64,
    /// Counts the changes under the fence.
    number: u64,
    /// The sum, where it was one.
    sum: Option<i128>,
}

impl Entity for Receipt {
    const KIND: Kind = Kind::KeyValue;

    fn index(&self, _now: Timestamp) -> Index {
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

/// A change that an attempt wants.
struct Order {
    agent: AgentId,
    session: Option<String>,
    run: RunId,
    fence: u64,
    /// Counts the changes of the attempt.
    number: u64,
    quota: Quota,
    change: MemoryChange,
    /// Random: the version of what it writes.
    version: u64,
    /// Random: the incarnation of a bucket that it makes.
    incarnation: String,
}

impl Order {
    fn receipt_id(&self) -> RecordId {
        RecordId::new(Kind::KeyValue, &format!("r/{}", self.run))
    }

    /// The records that it depends on where the bucket is of that incarnation, or of none that is known.
    fn reads(&self, incarnation: Option<&str>) -> Vec<RecordId> {
        let mut reads = vec![bucket_id(&self.agent, self.session.as_deref()), self.receipt_id()];
        for key in incarnation.into_iter().flat_map(|_| self.keys()) {
            let (value, leaf) = entry_ids(incarnation.unwrap_or_default(), key);
            reads.extend([value, leaf]);
        }
        reads
    }

    fn keys(&self) -> Vec<&str> {
        match &self.change {
            MemoryChange::Write(writes) => writes.iter().map(|(key, _)| &**key).collect(),
            MemoryChange::Increment { key, .. } | MemoryChange::Swap { key, .. } => vec![key],
        }
    }

    /// Makes the change, under the attempt's fence. Answers with what came of it, and the incarnation of the bucket.
    fn carry_out(&self, txn: &mut Txn<'_>) -> Result<(Changed, Option<String>), Stop<MemoryFault>> {
        txn.held(&self.run, self.fence);
        let id = bucket_id(&self.agent, self.session.as_deref());
        txn.need(&self.reads(None))?;
        let receipt = txn.get::<Receipt, _>(&self.receipt_id())?;
        let found = txn.get::<Bucket, _>(&id)?;
        let incarnation = found.as_ref().map(|bucket| bucket.incarnation.clone());
        if let Some(made) = receipt.filter(|made| (made.fence, made.number) == (self.fence, self.number)) {
            return Ok((made.sum.map_or(Changed::Done, Changed::Sum), incarnation));
        }
        if let Some(incarnation) = &incarnation {
            txn.need(&self.reads(Some(incarnation)))?;
        }
        let now = txn.now();
        let mut bucket = found.as_deref().cloned().unwrap_or_else(|| self.new_bucket(now));
        let changed = self.change(txn, &mut bucket)?;
        if matches!(changed, Changed::Stale) {
            return Ok((changed, incarnation));
        }
        let is_stale = now.since(bucket.written_at).as_secs() >= Bucket::STALE_SECONDS;
        if found.as_ref().is_none_or(|found| found.totals != bucket.totals || is_stale) && (found.is_some() || bucket.totals.keys > 0) {
            bucket.written_at = now;
            txn.put(id, Arc::new(bucket.clone()))?;
        }
        let sum = if let Changed::Sum(sum) = changed { Some(sum) } else { None };
        let receipt = Receipt { run_id: self.run.clone(), fence: self.fence, number: self.number, sum };
        txn.put(self.receipt_id(), Arc::new(receipt))?;
        Ok((changed, Some(bucket.incarnation)))
    }

    fn new_bucket(&self, now: Timestamp) -> Bucket {
        Bucket {
            agent_id: self.agent.clone(),
            session_id: self.session.clone(),
            incarnation: self.incarnation.clone(),
            totals: Totals::default(),
            created_at: now,
            written_at: now,
        }
    }

    fn change(&self, txn: &mut Txn<'_>, bucket: &mut Bucket) -> Result<Changed, Stop<MemoryFault>> {
        // A bucket that is not there yet has no entries, whatever else is in the store.
        txn.need(&self.reads(Some(&bucket.incarnation)))?;
        match &self.change {
            MemoryChange::Write(writes) => {
                for (key, value) in writes {
                    self.set(txn, bucket, key, value.as_deref())?;
                }
                Ok(Changed::Done)
            }
            MemoryChange::Increment { key, delta, range } => {
                let before = txn.get::<Kept, _>(&value_id(&bucket.incarnation, key))?;
                let before = before.map(|kept| kept.bytes()).transpose()?;
                let sum = counted(before.as_deref(), *delta, range).map_err(Stop::Refused)?;
                self.set(txn, bucket, key, Some(sum.to_string().as_bytes()))?;
                Ok(Changed::Sum(sum))
            }
            MemoryChange::Swap { key, expected, value } => {
                let before = txn.get::<Kept, _>(&value_id(&bucket.incarnation, key))?;
                if before.map(|kept| kept.version) != *expected {
                    return Ok(Changed::Stale);
                }
                self.set(txn, bucket, key, Some(value))?;
                Ok(Changed::Done)
            }
        }
    }

    /// Sets a key, or deletes it where there is no value, and keeps the leaf and the totals in step.
    fn set(&self, txn: &mut Txn<'_>, bucket: &mut Bucket, key: &str, value: Option<&[u8]>) -> Result<(), Stop<MemoryFault>> {
        let (value_id, leaf_id) = entry_ids(&bucket.incarnation, key);
        let leaf = txn.get::<Leaf, _>(&leaf_id)?;
        // What is written must have been read, whether it is there or not.
        txn.get::<Kept, _>(&value_id)?;
        let before = leaf.as_ref().and_then(|leaf| leaf.0.get(key).copied());
        let after = value.map(|value| value.len() as u64);
        bucket.totals = bucket.totals.changed(key.len(), before, after, self.quota).map_err(Stop::Refused)?;
        if before != after {
            let mut leaf = leaf.map_or_else(Leaf::default, |leaf| Leaf::clone(&leaf));
            match after {
                Some(length) => leaf.0.insert(key.to_owned(), length),
                None => leaf.0.remove(key),
            };
            if leaf.0.is_empty() { txn.delete(leaf_id) } else { txn.put(leaf_id, Arc::new(leaf))? }
        }
        match value {
            Some(value) => txn.put(value_id, Arc::new(Kept::of(key, self.version, value))),
            None => {
                txn.delete(value_id);
                Ok(())
            }
        }
    }
}
