//! What attempts leave to those that follow: it is kept under their leases, and every attempt finds exactly what is kept.

use std::collections::{BTreeMap, BTreeSet};

use sandclock::domain::id::RunId;
use sandclock::store::{Change, Guard, Kind};
use serde::Deserialize;

use super::{GuestId, Model, Oracle};

/// Checkpoints by name.
pub type Left = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub struct Kept {
    runs: BTreeMap<RunId, Left>,
    /// Every value that was ever kept; no two are the same.
    ever: BTreeSet<Vec<u8>>,
}

/// A record of a value.
#[derive(Deserialize)]
struct Value {
    run_id: RunId,
    name: String,
    value: String,
}

/// What base64 stands for; values are text.
fn decoded(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).expect("a value is base64")
}

impl Model {
    pub(super) fn judge_checkpoints(&mut self, change: &Change) {
        // The names of a run are a record too, whose key is the run's id.
        let values = change.puts.iter().filter(|put| put.id.kind == Kind::Checkpoint && put.id.key.contains('/'));
        for put in values {
            let Value { run_id, name, value } = serde_json::from_slice(&put.body).expect("what is put is of its kind");
            let fence = self.runs.get(&run_id).map_or(0, super::Life::fence);
            if !change.guards.contains(&Guard::Held(run_id.clone(), fence)) {
                self.fault(format!("the checkpoint {name} of {run_id} does not carry the fence {fence}"));
            }
            let value = decoded(&value);
            self.kept.ever.insert(value.clone());
            self.kept.runs.entry(run_id).or_default().insert(name, value);
        }
    }
}

impl Oracle {
    /// A guest was told that a value is kept.
    pub fn saved(&self, id: GuestId, name: &str, value: &[u8]) {
        self.tell(|model| {
            let Some((run, is_last)) = model.guest(id) else { return };
            let now = model.kept.runs.get(&run).and_then(|left| left.get(name));
            // Who comes after it may have written another one before the answer was there.
            if !model.kept.ever.contains(value) || is_last && now.map(Vec::as_slice) != Some(value) {
                model.fault(format!("the checkpoint {name} of {run} was saved and is not kept"));
            }
        });
    }

    /// A guest has read all that is kept for its run, and has written nothing yet.
    pub fn finds(&self, id: GuestId, found: &Left) {
        self.tell(|model| {
            // As long as nobody has the run after it, nobody else writes.
            let Some((run, true)) = model.guest(id) else { return };
            let left = model.kept.runs.get(&run).cloned().unwrap_or_default();
            if left != *found {
                model.fault(format!("an attempt of {run} finds the checkpoints {found:?}; {left:?} were left"));
            }
        });
    }
}
