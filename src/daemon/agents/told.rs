//! What the store says of agents, as this daemon knows it: deployments, registered agents, and the pushed components that are ready here.
//!
//! Invariant: only the follower ([`super::super::follow`]) takes in what the store says, so that an older look never follows a newer one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::registered::Registered;
use crate::daemon::deployment::Deployment;
use crate::domain::id::AgentId;
use crate::plugins::{Digest, Loaded};
use crate::sandbox::Prepared;

/// What the store says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::daemon) struct Said {
    /// The deployments, with the revs of their records.
    pub(in crate::daemon) deployments: BTreeMap<AgentId, (u64, Arc<Deployment>)>,
    /// The agents that were registered.
    pub(in crate::daemon) registered: BTreeMap<AgentId, (u64, Arc<Registered>)>,
}

/// A push that stands in for a plugin file.
pub(super) struct Push {
    /// The agent that was pushed to.
    pub(super) owner: Arc<Deployment>,
    /// What serves.
    pub(super) digest: Digest,
}

impl Said {
    /// An agent's deployment, if the store says something of it.
    pub(super) fn deployment(&self, agent: &AgentId) -> Option<&Arc<Deployment>> {
        self.deployments.get(agent).map(|(_, deployment)| deployment)
    }

    /// The push that serves an agent with a plugin of this stem: its own, or else the one to the agent of the plugin's name.
    pub(super) fn push_of(&self, agent: &AgentId, stem: &str) -> Option<Push> {
        let of = |agent: &AgentId| {
            let owner = self.deployment(agent)?;
            Some(Push { owner: Arc::clone(owner), digest: owner.serving? })
        };
        of(agent).or_else(|| of(&AgentId::parse(stem).ok()?))
    }

    /// Every digest that is to be ready.
    pub(in crate::daemon) fn wanted(&self) -> HashSet<Digest> {
        self.deployments.values().filter_map(|(_, deployment)| deployment.serving).collect()
    }
}

/// A pushed component on this daemon.
#[derive(Clone)]
pub(super) enum Here {
    /// It is being fetched, compiled or prepared.
    Coming,
    /// Attempts can start from it.
    Ready(Arc<Loaded<Prepared>>),
    /// This daemon does not take it, and why.
    Refused(String),
}

/// What this daemon knows.
#[derive(Default)]
pub(super) struct Told {
    pub(super) said: ArcSwap<Said>,
    /// Whoever changes what is known, or the settings under which it is understood, does so in its turn.
    turn: Mutex<()>,
    here: Mutex<HashMap<Digest, Here>>,
    /// What each agent's attempts started from when the last offer was made.
    last: Mutex<HashMap<AgentId, Arc<Loaded<Prepared>>>>,
}

impl Told {
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_here(&self) -> MutexGuard<'_, HashMap<Digest, Here>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, HashMap<AgentId, Arc<Loaded<Prepared>>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn here(&self, digest: &Digest) -> Here {
        self.all_here().get(digest).cloned().unwrap_or(Here::Coming)
    }

    pub(super) fn has_here(&self, digest: &Digest) -> bool {
        self.all_here().contains_key(digest)
    }

    pub(super) fn put_here(&self, digest: Digest, here: Here) {
        self.all_here().insert(digest, here);
    }

    pub(super) fn forget_here(&self, digest: &Digest) {
        self.all_here().remove(digest);
    }

    /// Keeps to those that are wanted; answers with those of them that nobody has begun to bring.
    pub(super) fn begin(&self, wanted: &HashSet<Digest>) -> Vec<Digest> {
        let mut here = self.all_here();
        here.retain(|digest, _| wanted.contains(digest));
        let new: Vec<Digest> = wanted.iter().filter(|digest| !here.contains_key(digest)).copied().collect();
        for digest in &new {
            here.insert(*digest, Here::Coming);
        }
        new
    }

    /// Whether something is still on its way.
    pub(super) fn is_coming(&self) -> bool {
        self.all_here().values().any(|here| matches!(here, Here::Coming))
    }

    pub(super) fn last_of(&self, agent: &AgentId) -> Option<Arc<Loaded<Prepared>>> {
        self.last().get(agent).cloned()
    }

    pub(super) fn note_last(&self, agents: HashMap<AgentId, Arc<Loaded<Prepared>>>) {
        *self.last() = agents;
    }
}
