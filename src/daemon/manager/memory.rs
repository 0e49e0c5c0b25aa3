//! What agents keep from run to run, for whoever looks after it.

use serde_json::{Value, json};

use super::checkpoints::content;
use super::{Listing, Manager};
use crate::daemon::error::ManagerError;
use crate::daemon::memory::{self, Kept, LEAVES, Leaf};
use crate::domain::id::AgentId;
use crate::domain::memory::{Bucket, Totals};
use crate::store::{PageRequest, Record, RecordId, Scope};

/// How many buckets are read at a time to be taken out.
const CLEARED_AT_ONCE: usize = 100;
/// How many keys make a page full; a page ends with the leaf that passes it.
const PAGE_KEYS: usize = 256;

fn shown(bucket: &Bucket) -> Value {
    json!({
        "bucket": bucket.name(),
        "session_id": bucket.session_id,
        "keys": bucket.totals.keys,
        "bytes": bucket.totals.bytes,
        "created_at": bucket.created_at,
        "written_at": bucket.written_at,
    })
}

impl Manager {
    /// The buckets of an agent's key-values, its own and those of its sessions. The agent need not be there any more.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn memory(&self, agent: &AgentId, page: PageRequest) -> Result<Listing<Value>, ManagerError> {
        let scope = Scope::BucketsOfAgent(agent.clone());
        let total = self.count(&scope).await?;
        let (items, next) = self.page(scope, page, |record| Ok(shown(&record.decode::<Bucket>()?))).await?;
        Ok(Listing { items, total, next })
    }

    async fn bucket(&self, agent: &AgentId, session: Option<&str>) -> Result<Bucket, ManagerError> {
        let missing = || match session {
            Some(session) => ManagerError::not_found("Session's key-values", session),
            None => ManagerError::not_found("Agent's key-values", agent),
        };
        Ok(self.record(memory::bucket_id(agent, session)).await?.ok_or_else(missing)?.decode()?)
    }

    async fn leaf(&self, bucket: &Bucket, leaf: u8) -> Result<Leaf, ManagerError> {
        let record: Option<Record> = self.record(memory::leaf_id(&bucket.incarnation, leaf)).await?;
        Ok(record.map(|record| record.decode()).transpose()?.unwrap_or_default())
    }

    /// A bucket with some of its keys: the first ones for 0, and those that follow for what `next_cursor` says.
    ///
    /// # Errors
    /// There is no such bucket.
    pub async fn memory_keys(&self, agent: &AgentId, session: Option<&str>, cursor: u8) -> Result<Value, ManagerError> {
        let bucket = self.bucket(agent, session).await?;
        let (mut keys, mut next) = (Vec::new(), cursor);
        while next < LEAVES && keys.len() < PAGE_KEYS {
            let leaf = self.leaf(&bucket, next).await?;
            keys.extend(leaf.0.into_iter().map(|(key, bytes)| json!({"key": key, "bytes": bytes})));
            next += 1;
        }
        let mut value = shown(&bucket);
        if let Value::Object(object) = &mut value {
            object.insert("total".to_owned(), json!(bucket.totals.keys));
            object.insert("entries".to_owned(), Value::Array(keys));
            object.insert("next_cursor".to_owned(), json!((next < LEAVES).then(|| next.to_string())));
        }
        Ok(value)
    }

    /// A value: as text where it is one, else in base64.
    ///
    /// # Errors
    /// There is no such key.
    pub async fn memory_value(&self, agent: &AgentId, session: Option<&str>, key: &str) -> Result<Value, ManagerError> {
        let bucket = self.bucket(agent, session).await?;
        let id: RecordId = memory::value_id(&bucket.incarnation, key);
        let record = self.record(id).await?.ok_or_else(|| ManagerError::not_found("Key", key))?;
        let bytes = record.decode::<Kept>()?.bytes()?;
        let mut shown = json!({"key": key, "bytes": bytes.len()});
        if let Value::Object(object) = &mut shown {
            object.extend(content(bytes));
        }
        Ok(shown)
    }

    /// Clears one bucket: that of a session, or the agent's own. An attempt that goes on finds it empty.
    ///
    /// # Errors
    /// There is no such bucket.
    pub async fn clear_bucket(&self, agent: &AgentId, session: Option<&str>) -> Result<Value, ManagerError> {
        self.bucket(agent, session).await?;
        let cleared = memory::retire(self.inner(), agent, session, None).await?;
        Ok(told(cleared.as_ref().map_or(0, |_| 1), cleared.map(|bucket| bucket.totals).unwrap_or_default()))
    }

    /// Clears all that an agent has kept; what it keeps in buckets that it makes meanwhile stays.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn clear_memory(&self, agent: &AgentId) -> Result<Value, ManagerError> {
        let (mut buckets, mut totals) = (0_u64, Totals::default());
        let (begun, mut page) = (self.inner().store.now().await?, PageRequest::first(CLEARED_AT_ONCE));
        loop {
            let found = self.inner().store.list(Scope::BucketsOfAgent(agent.clone()), page).await?;
            let (mut is_all_later, next) = (true, found.next);
            for record in found.records {
                let bucket: Bucket = record.decode()?;
                if bucket.created_at > begun {
                    continue;
                }
                is_all_later = false;
                if let Some(cleared) = memory::retire(self.inner(), agent, bucket.session_id.as_deref(), None).await? {
                    buckets += 1;
                    totals.keys += cleared.totals.keys;
                    totals.bytes = totals.bytes.saturating_add(cleared.totals.bytes);
                }
            }
            // They come in the order in which they were made.
            match next {
                Some(after) if !is_all_later => page.after = Some(after),
                _ => return Ok(told(buckets, totals)),
            }
        }
    }
}

fn told(buckets: u64, totals: Totals) -> Value {
    json!({"status": "cleared", "buckets": buckets, "keys": totals.keys, "bytes": totals.bytes})
}
