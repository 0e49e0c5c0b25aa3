//! What a run's attempts have left to those that follow, for whoever looks after it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::Manager;
use crate::daemon::checkpoints::{self, Kept};
use crate::daemon::error::ManagerError;
use crate::domain::checkpoint::CheckpointNames;
use crate::domain::id::RunId;

impl Manager {
    /// The names of a run's checkpoints, each with the length of its value in bytes.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn checkpoints(&self, run: &RunId) -> Result<Value, ManagerError> {
        self.run(run).await?;
        let record = self.record(checkpoints::names_id(run)).await?;
        let names: CheckpointNames = record.map_or_else(|| Ok(CheckpointNames::none(run.clone())), |record| record.decode())?;
        let shown: Vec<Value> = names.names.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        Ok(json!({"run_id": run, "checkpoints": shown, "total": shown.len(), "total_bytes": names.bytes()}))
    }

    /// The value of a checkpoint: as text where it is one, else in base64.
    ///
    /// # Errors
    /// There is no such run or checkpoint.
    pub async fn checkpoint(&self, run: &RunId, name: &str) -> Result<Value, ManagerError> {
        self.run(run).await?;
        let record = self.record(checkpoints::value_id(run, name)).await?;
        let bytes = record.ok_or_else(|| ManagerError::not_found("Checkpoint", name))?.decode::<Kept>()?.bytes()?;
        let mut shown = json!({"run_id": run, "name": name, "bytes": bytes.len()});
        if let Value::Object(object) = &mut shown {
            object.extend(content(bytes));
        }
        Ok(shown)
    }
}

/// Bytes that a guest kept, as the API shows them: `value` where they are text, else `value_base64`.
pub(super) fn content(bytes: Vec<u8>) -> Map<String, Value> {
    let (key, text) = match String::from_utf8(bytes) {
        Ok(text) => ("value", text),
        Err(error) => ("value_base64", STANDARD.encode(error.as_bytes())),
    };
    Map::from_iter([(key.to_owned(), Value::String(text))])
}
