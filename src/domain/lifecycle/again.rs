//! A run once more: what a new run takes over from one that has ended.

use serde_json::{Value, json};

use super::{Draft, Refused};
use crate::domain::run::Run;

/// The name under which a run's trigger metadata keeps the run that it repeats.
pub const RERUN_OF: &str = "rerun_of";

/// Makes of a draft the wish to repeat a run: with the run's query and trigger metadata where the draft has none of its own, and with
/// the run's name.
///
/// # Errors
/// The run has not ended, or its metadata uses the name for something else.
pub fn again(run: &Run, draft: Draft) -> Result<Draft, Refused> {
    if !run.status.is_terminal() {
        return Err(Refused::NotEnded { run: run.run_id.clone(), status: run.status.as_str() });
    }
    let mut metadata = if draft.trigger_metadata.is_empty() { run.trigger_metadata.clone() } else { draft.trigger_metadata };
    // A run of an older version may have the name for something of its user's.
    let is_ours = |value: &Value| value.as_str().is_some_and(|id| id.starts_with("run_"));
    if metadata.get(RERUN_OF).is_some_and(|value| !is_ours(value)) {
        return Err(Refused::Taken { run: run.run_id.clone(), name: RERUN_OF });
    }
    metadata.insert(RERUN_OF.to_owned(), json!(run.run_id));
    let query = draft.query.or_else(|| Some(run.query_snapshot.clone()));
    Ok(Draft { query, trigger_metadata: metadata, ..draft })
}
