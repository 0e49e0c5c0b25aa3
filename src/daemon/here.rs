//! What one run in the foreground leaves to itself, and the answers that were given before it asks: nobody keeps it for another attempt.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::domain::checkpoint::{CheckpointNames, CheckpointQuota};
use crate::domain::id::RunId;
use crate::sandbox::checkpoints::{Approvals, CheckpointRefused, Checkpoints, Verdict};

struct Held {
    names: CheckpointNames,
    values: BTreeMap<String, Vec<u8>>,
}

/// The checkpoints of a run that no daemon executes, by the same rules.
pub struct RunCheckpoints(Mutex<Held>);

impl RunCheckpoints {
    /// None yet.
    pub fn none(run: RunId) -> Self {
        RunCheckpoints(Mutex::new(Held { names: CheckpointNames::none(run), values: BTreeMap::new() }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Checkpoints for RunCheckpoints {
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointRefused> {
        Ok(self.held().values.get(name).cloned())
    }

    async fn save(&self, name: &str, value: Vec<u8>, quota: CheckpointQuota) -> Result<(), CheckpointRefused> {
        let mut held = self.held();
        let names = held.names.clone().with(name, value.len() as u64, quota);
        held.names = names.map_err(|limit| CheckpointRefused::Limit(limit.to_string()))?;
        held.values.insert(name.to_owned(), value);
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), CheckpointRefused> {
        let mut held = self.held();
        held.names.names.remove(name);
        held.values.remove(name);
        Ok(())
    }

    async fn names(&self) -> Result<Vec<String>, CheckpointRefused> {
        Ok(self.held().values.keys().cloned().collect())
    }
}

/// The answers that a run in the foreground finds. A question without one ends it.
#[derive(Clone, Debug, Default)]
pub struct GivenAnswers(BTreeMap<String, Verdict>);

impl GivenAnswers {
    /// Yes to some, no to others, in the name of whoever is at the terminal.
    pub fn of(approved: &[String], denied: &[String]) -> Self {
        let verdict = |approved| Verdict { approved, by: "terminal".to_owned(), note: String::new() };
        let yes = approved.iter().map(|key| (key.clone(), verdict(true)));
        GivenAnswers(yes.chain(denied.iter().map(|key| (key.clone(), verdict(false)))).collect())
    }
}

#[async_trait]
impl Approvals for GivenAnswers {
    async fn verdict(&self, key: &str, _most: u32) -> Result<Option<Verdict>, CheckpointRefused> {
        Ok(self.0.get(key).cloned())
    }
}
