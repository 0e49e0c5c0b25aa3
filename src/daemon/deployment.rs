//! What the store says of an agent's deployment: which pushed digest serves it, the history of that, its pause, and digests that are
//! held back. Pure but for the names of records.
//!
//! Invariants: a push wins over the plugins folder until the agent is rolled back to the folder; the history is bounded, and so is the
//! number of digests whose bytes are kept; a digest that serves is always kept.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::ManagerError;
use super::transitions::Step;
use super::txn::{Entity, Txn};
use crate::domain::id::AgentId;
use crate::domain::time::Timestamp;
use crate::plugins::Digest;
use crate::store::{Index, Kind, RecordId};

use super::pushed::StoredPlugin;

/// How many digests of an agent are kept with their bytes.
pub(super) const KEPT: usize = 10;
/// How many entries a history has at most.
const ENTRIES: usize = 50;
/// How many digests are remembered as held back.
const QUARANTINES: usize = 20;

/// How an entry of a history came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A component was pushed.
    Push,
    /// An earlier one was put back.
    Rollback,
}

/// One change of what serves an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// How it came about.
    pub how: How,
    /// What serves from then on; none for the plugins folder.
    pub digest: Option<Digest>,
    /// What served before; none for the plugins folder.
    pub before: Option<Digest>,
    /// The component's size in bytes.
    pub size_bytes: Option<u64>,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// The name of whoever asked for it, where callers have names.
    pub by: Option<String>,
    /// What they said of it.
    pub note: Option<String>,
}

/// Since when an agent's runs wait, who wanted that and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when, by the store's clock.
    pub at: Timestamp,
    /// The name of whoever asked for it, where callers have names.
    pub by: Option<String>,
    /// What they said of it.
    pub reason: Option<String>,
}

/// A digest that crashed too often in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The digest.
    pub digest: Digest,
    /// Since when, by the store's clock.
    pub at: Timestamp,
    /// How many attempts in a row had crashed.
    pub crashes: u32,
    /// The run of the last of them.
    pub run_id: String,
    /// What became of that one, bounded.
    pub error: String,
}

/// What the store says of an agent. Agents that were never pushed to, paused or held back have no such record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The agent.
    pub agent_id: AgentId,
    /// The pushed digest that serves; none while the plugins folder does.
    pub serving: Option<Digest>,
    /// What served when, the oldest first.
    #[serde(default)]
    pub history: Vec<Entry>,
    /// Whether its runs wait.
    #[serde(default)]
    pub paused: Option<Pause>,
    /// The digests that start no attempts.
    #[serde(default)]
    pub quarantined: Vec<Quarantine>,
}

impl Entity for Deployment {
    const KIND: Kind = Kind::Deployment;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// Names the record of an agent's deployment.
pub(super) fn id_of(agent: &AgentId) -> RecordId {
    RecordId::new(Kind::Deployment, agent.as_str())
}

/// Who wants a change of what serves, and what they say of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Their name, where callers have names.
    pub who: Option<String>,
    /// What is to be kept with it.
    pub note: Option<String>,
}

/// Where a rollback leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// To what served before the present digest was pushed.
    Before,
    /// To this digest.
    To(Digest),
    /// To the plugins folder.
    Folder,
}

impl Deployment {
    /// Nothing is said of the agent yet.
    pub fn none(agent: &AgentId) -> Self {
        Deployment { agent_id: agent.clone(), serving: None, history: Vec::new(), paused: None, quarantined: Vec::new() }
    }

    /// The digests whose bytes are kept: the newest ones, and the one that serves.
    pub fn kept(&self) -> BTreeSet<Digest> {
        let mut kept: BTreeSet<Digest> = self.serving.into_iter().collect();
        for digest in self.history.iter().rev().filter_map(|entry| entry.digest) {
            if kept.len() >= KEPT {
                break;
            }
            kept.insert(digest);
        }
        kept
    }

    /// The entry since which the present digest serves; none while the folder does.
    pub fn since(&self) -> Option<&Entry> {
        let serving = self.serving?;
        self.history.iter().rev().find(|entry| entry.digest == Some(serving))
    }

    /// The record of a digest's being held back.
    pub fn quarantine_of(&self, digest: &Digest) -> Option<&Quarantine> {
        self.quarantined.iter().find(|held| held.digest == *digest)
    }

    /// Has a digest serve. Answers whether that changes anything.
    pub fn push(&mut self, digest: Digest, size_bytes: u64, at: Timestamp, wish: Wish) -> bool {
        if self.serving == Some(digest) {
            return false;
        }
        self.enter(How::Push, Some(digest), Some(size_bytes), at, wish);
        true
    }

    /// Where a rollback leads; none is the folder.
    ///
    /// # Errors
    /// The sentence that says why it leads nowhere.
    pub fn back(&self, to: Back) -> Result<Option<Digest>, String> {
        let agent = &self.agent_id;
        let target = match to {
            Back::Folder => None,
            Back::To(digest) => Some(digest),
            Back::Before => {
                let Some(serving) = self.serving else {
                    return Err(format!(
                        "agent {agent} is served by the plugins folder, which keeps no earlier digest: name one of its history with `to`"
                    ));
                };
                let pushed = self.history.iter().rev().find(|entry| entry.how == How::Push && entry.digest == Some(serving));
                pushed.map(|entry| entry.before).ok_or_else(|| {
                    format!("the history of agent {agent} no longer says what served before {serving}: name a digest of it with `to`")
                })?
            }
        };
        match target {
            same if same == self.serving => Err(match same {
                Some(digest) => format!("{digest} serves agent {agent} already; name another digest of its history"),
                None => format!("agent {agent} is served by the plugins folder already; no push stands in for it"),
            }),
            Some(digest) if !self.kept().contains(&digest) => Err(format!(
                "{digest} is none of the digests that are kept of agent {agent}, the newest {KEPT}: `sandclock agents history {agent}` lists them; push the component again"
            )),
            target => Ok(target),
        }
    }

    /// Puts an earlier digest, or the folder, back.
    pub fn roll_back(&mut self, to: Option<Digest>, at: Timestamp, wish: Wish) {
        let size = self.history.iter().rev().find(|entry| to.is_some() && entry.digest == to).and_then(|entry| entry.size_bytes);
        self.enter(How::Rollback, to, size, at, wish);
    }

    fn enter(&mut self, how: How, digest: Option<Digest>, size_bytes: Option<u64>, at: Timestamp, wish: Wish) {
        let before = std::mem::replace(&mut self.serving, digest);
        self.history.push(Entry { how, digest, before, size_bytes, at, by: wish.who, note: wish.note });
        let beyond = self.history.len().saturating_sub(ENTRIES);
        self.history.drain(..beyond);
    }

    /// Holds a digest back. Answers whether it was not held back before.
    pub fn hold(&mut self, quarantine: Quarantine) -> bool {
        if self.quarantine_of(&quarantine.digest).is_some() {
            return false;
        }
        self.quarantined.push(quarantine);
        let beyond = self.quarantined.len().saturating_sub(QUARANTINES);
        self.quarantined.drain(..beyond);
        true
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.serving.is_none() && self.history.is_empty() && self.paused.is_none() && self.quarantined.is_empty()
    }
}

/// Reads an agent's deployment; one that says nothing where there is none.
///
/// # Errors
/// It is not loaded yet.
pub(super) fn read(txn: &mut Txn<'_>, agent: &AgentId) -> Step<Deployment> {
    Ok(txn.get::<Deployment, ManagerError>(&id_of(agent))?.map_or_else(|| Deployment::none(agent), |found| Deployment::clone(&found)))
}

/// Writes an agent's deployment, or takes it away where it says nothing; lets go of the plugins that it no longer keeps.
///
/// # Errors
/// Something is not loaded yet.
pub(super) fn write(txn: &mut Txn<'_>, after: Deployment) -> Step<()> {
    let before = read(txn, &after.agent_id)?;
    let kept = after.kept();
    let gone: Vec<RecordId> = before.kept().difference(&kept).map(StoredPlugin::id_of).collect();
    txn.need(&gone)?;
    for id in gone {
        if let Some(plugin) = txn.get::<StoredPlugin, ManagerError>(&id)? {
            let plugin = plugin.without(&after.agent_id);
            txn.put(id, Arc::new(plugin))?;
        }
    }
    let id = id_of(&after.agent_id);
    if after.is_empty() {
        txn.delete(id)
    } else {
        txn.put(id, Arc::new(after))?
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u64) -> Digest {
        Digest::of(&number.to_be_bytes())
    }

    fn deployed(pushes: impl IntoIterator<Item = u64>) -> Deployment {
        let mut deployment = Deployment::none(&AgentId::parse("a").unwrap());
        for (at, number) in pushes.into_iter().enumerate() {
            deployment.push(digest(number), number, Timestamp::from_seconds(i64::try_from(at).unwrap()), Wish::default());
        }
        deployment
    }

    #[test]
    fn the_same_digest_again_is_no_entry() {
        let mut deployment = deployed([1, 1, 2]);
        assert_eq!(deployment.history.len(), 2);
        assert!(!deployment.push(digest(2), 2, Timestamp::from_seconds(0), Wish::default()));
    }

    #[test]
    fn rollbacks_go_back_step_by_step_to_the_folder_and_never_forth() {
        let mut deployment = deployed([1, 2, 3]);
        for expected in [Some(digest(2)), Some(digest(1)), None] {
            let to = deployment.back(Back::Before).unwrap();
            assert_eq!(to, expected);
            deployment.roll_back(to, Timestamp::from_seconds(0), Wish::default());
        }
        assert!(deployment.back(Back::Before).unwrap_err().contains("plugins folder"));
        assert_eq!(deployment.back(Back::To(digest(3))), Ok(Some(digest(3))));
        assert!(deployment.back(Back::To(digest(9))).unwrap_err().contains("none of the digests"));
        // What came in between and was taken back is passed over.
        deployment.roll_back(Some(digest(1)), Timestamp::from_seconds(0), Wish::default());
        deployment.push(digest(4), 4, Timestamp::from_seconds(0), Wish::default());
        assert_eq!(deployment.back(Back::Before), Ok(Some(digest(1))));
    }

    #[test]
    fn history_and_kept_digests_are_bounded_and_what_serves_is_kept() {
        let mut deployment = deployed(0..200);
        assert_eq!((deployment.history.len(), deployment.kept().len()), (ENTRIES, KEPT));
        let first = digest(190);
        assert!(deployment.kept().contains(&first));
        for _ in 0..60 {
            deployment.roll_back(Some(first), Timestamp::from_seconds(0), Wish::default());
            deployment.roll_back(Some(digest(199)), Timestamp::from_seconds(0), Wish::default());
        }
        assert_eq!(deployment.kept(), BTreeSet::from([first, digest(199)]));
        deployment.roll_back(None, Timestamp::from_seconds(0), Wish::default());
        assert!(deployment.kept().len() == 2 && deployment.serving.is_none());
    }

    #[test]
    fn a_digest_is_held_back_once_and_alone() {
        let mut deployment = deployed([1]);
        let held = |number| Quarantine {
            digest: digest(number),
            at: Timestamp::from_seconds(0),
            crashes: 5,
            run_id: String::new(),
            error: String::new(),
        };
        assert!(deployment.hold(held(1)) && !deployment.hold(held(1)));
        assert!(deployment.quarantine_of(&digest(2)).is_none());
        (2..100).for_each(|number| assert!(deployment.hold(held(number))));
        assert_eq!(deployment.quarantined.len(), QUARANTINES);
    }
}
