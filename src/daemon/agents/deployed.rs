//! Which component serves an agent: a push or the plugins folder, and what holds it back.
//!
//! Invariant, the one rule of what wins: an agent's own push, else the push to the agent of its plugin's name, else the file of that name
//! in the plugins folder. While a push is on its way to this daemon, what served before serves on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::told::Told;
use super::{Agents, Here, Registered, Roster, Said};
use crate::daemon::deployment::Deployment;
use crate::daemon::executor::Tripped;
use crate::domain::id::AgentId;
use crate::domain::text;
use crate::domain::time::Timestamp;
use crate::plugins::{Digest, Loaded, PluginState, PluginStatus};
use crate::sandbox::{Ended, Prepared};

/// What is kept of the error of the attempt that has a digest held back, in bytes.
const ERROR_BYTES: usize = 400;

/// Why no attempt of an agent starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Hold {
    /// Somebody paused it.
    Paused(String),
    /// Its digest crashed too often.
    Quarantined(String),
    /// Its plugin does not serve here.
    NotServing(String),
}

impl fmt::Display for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Hold::Paused(why) | Hold::Quarantined(why) | Hold::NotServing(why)) = self;
        out.write_str(why)
    }
}

/// How often the follower has looked at the store.
#[derive(Default)]
pub(super) struct Looks {
    begun: AtomicU64,
    done: watch::Sender<u64>,
}

fn by(who: Option<&str>) -> String {
    who.map(|who| format!(" by {}", text::printable(who, 128))).unwrap_or_default()
}

fn said(words: Option<&str>) -> String {
    words.map(|words| format!(": {}", text::printable(words, ERROR_BYTES))).unwrap_or_default()
}

/// Who pushed a digest and when, in words.
fn pushed(deployment: &Deployment) -> String {
    let agent = &deployment.agent_id;
    match (deployment.serving, deployment.since()) {
        (Some(digest), Some(since)) => format!("the push of {digest} to agent {agent} at {}{}", since.at, by(since.by.as_deref())),
        (Some(digest), None) => format!("the push of {digest} to agent {agent}"),
        (None, _) => format!("a push to agent {agent}"),
    }
}

impl Agents {
    /// The component that serves an agent with this plugin.
    ///
    /// # Errors
    /// There is none here at the moment, and why.
    pub(super) fn loaded_of(&self, agent: &AgentId, stem: &str) -> Result<Arc<Loaded<Prepared>>, Hold> {
        let told = self.told.said.load();
        if let (false, Some((_, registered))) = (self.is_configured(agent), told.registered.get(agent))
            && let Err(faults) = &registered.settings
        {
            return Err(Hold::NotServing(format!("this daemon cannot use its registration: {faults}")));
        }
        let Some(push) = told.push_of(agent, stem) else {
            return self.catalogue.serving(stem).ok_or_else(|| Hold::NotServing(self.why_no_file(stem)));
        };
        match self.told.here(&push.digest) {
            Here::Ready(loaded) => Ok(loaded),
            Here::Coming => self
                .told
                .last_of(agent)
                .ok_or_else(|| Hold::NotServing(format!("{} is being brought from the store and compiled", pushed(&push.owner)))),
            Here::Refused(reason) => Err(Hold::NotServing(format!("{} was refused by this daemon: {reason}", pushed(&push.owner)))),
        }
    }

    fn why_no_file(&self, stem: &str) -> String {
        match self.catalogue.list().into_iter().find(|plugin| plugin.stem == stem).map(|plugin| plugin.state) {
            Some(PluginState::Compiling) => format!("its plugin `{stem}` is being compiled"),
            Some(PluginState::Rejected { reason }) => format!("its plugin `{stem}` was rejected: {reason}"),
            Some(PluginState::Accepted { .. }) | None => format!("there is no plugin file `{stem}.wasm` in the plugins folder"),
        }
    }

    /// Why attempts of an agent that a component serves do not start all the same.
    pub(super) fn held_back(&self, agent: &AgentId, digest: &Digest) -> Option<Hold> {
        let told = self.told.said.load();
        let deployment = told.deployment(agent);
        if let Some(pause) = deployment.and_then(|deployment| deployment.paused.as_ref()) {
            let (who, why) = (by(pause.by.as_deref()), said(pause.reason.as_deref()));
            return Some(Hold::Paused(format!(
                "it was paused at {}{who}, and `sandclock agents resume {agent}` lets it go on{why}",
                pause.at
            )));
        }
        let mend = format!("push another digest, roll back, or let it go with `sandclock agents release {agent}`");
        if let Some(held) = deployment.and_then(|deployment| deployment.quarantine_of(digest)) {
            let (crashes, run, error) = (held.crashes, &held.run_id, said(Some(&held.error)));
            let what = format!("its digest {digest} is in quarantine since {}, after {crashes} crashes in a row", held.at);
            return Some(Hold::Quarantined(format!("{what}, the last one in run {run}; {mend}{error}")));
        }
        let marked = self.crashes.is_marked(agent, &digest.to_string());
        marked.then(|| Hold::Quarantined(format!("its digest {digest} goes into quarantine, for it crashed too often in a row; {mend}")))
    }

    /// Why no attempt of an agent starts here; none when they do.
    pub(in crate::daemon) fn hold_of(&self, agent: &AgentId) -> Option<Hold> {
        match self.loaded_of(agent, &self.settings_of(agent).plugin) {
            Ok(loaded) => self.held_back(agent, &loaded.digest),
            Err(hold) => {
                // Whoever paused it is told so, whatever its plugin does.
                let paused = self.told.said.load().deployment(agent).is_some_and(|deployment| deployment.paused.is_some());
                if paused { self.held_back(agent, &Digest::of(&[])) } else { Some(hold) }
            }
        }
    }

    /// Whether the store says that there is such an agent.
    pub(super) fn is_said(&self, agent: &AgentId) -> bool {
        let told = self.told.said.load();
        told.registered.contains_key(agent) || told.deployment(agent).is_some_and(|deployment| !deployment.history.is_empty())
    }

    /// What an agent's plugin is in the state of, which digest serves and why that one.
    pub(super) fn show_deployed(&self, agent: &AgentId, file: Option<&PluginStatus>) -> Map<String, Value> {
        let (told, stem) = (self.told.said.load_full(), self.settings_of(agent).plugin);
        let (push, loaded) = (told.push_of(agent, &stem), self.loaded_of(agent, &stem));
        let hold = self.hold_of(agent);
        let state = match (&push, file.map(|file| &file.state)) {
            (Some(push), _) => match self.told.here(&push.digest) {
                Here::Coming => "compiling",
                Here::Ready(_) => "accepted",
                Here::Refused(_) => "rejected",
            },
            (None, Some(PluginState::Compiling)) => "compiling",
            (None, Some(PluginState::Accepted { .. })) => "accepted",
            (None, Some(PluginState::Rejected { .. })) => "rejected",
            (None, None) => "missing",
        };
        let rejected = match (&push, file.map(|file| &file.state)) {
            (None, Some(PluginState::Rejected { reason })) => Some(reason.clone()),
            _ => hold.as_ref().map(ToString::to_string),
        };
        let deployment = told.deployment(agent);
        let quarantine = loaded.as_ref().ok().and_then(|loaded| deployment?.quarantine_of(&loaded.digest));
        let since = push.as_ref().and_then(|push| push.owner.since().cloned());
        let shown = json!({
            "state": state,
            "reason": rejected,
            "digest": loaded.as_ref().ok().map(|loaded| loaded.digest),
            "origin": self.origin(agent),
            "source": if push.is_some() { "push" } else { "folder" },
            "pushed": push.as_ref().map(|push| json!({"agent_id": push.owner.agent_id, "digest": push.digest,
                "at": since.as_ref().map(|since| since.at), "by": since.as_ref().and_then(|since| since.by.clone()),
                "note": since.as_ref().and_then(|since| since.note.clone())})),
            "overridden": file.and_then(|file| self.overridden_by(&file.stem)),
            "paused": deployment.and_then(|deployment| deployment.paused.clone()),
            "quarantined": quarantine,
        });
        match shown {
            Value::Object(shown) => shown,
            _ => Map::new(),
        }
    }

    /// The push that stands in for a file of the plugins folder, in words.
    pub(in crate::daemon) fn overridden_by(&self, stem: &str) -> Option<String> {
        let told = self.told.said.load();
        let deployment = told.deployment(&AgentId::parse(stem).ok()?).filter(|deployment| deployment.serving.is_some())?;
        let agent = &deployment.agent_id;
        Some(format!("overridden by {}; `sandclock agents rollback {agent} --to folder` ends that", pushed(deployment)))
    }

    /// The pushes to agents of the store, with the state of each here: agent, state, reason, size, digest, since.
    pub(in crate::daemon) fn pushes(&self) -> Vec<Value> {
        let told = self.told.said.load();
        let serving = told.deployments.values().filter_map(|(_, deployment)| Some((deployment, deployment.serving?)));
        let show = |(deployment, digest): (&Arc<Deployment>, Digest)| {
            let (state, reason) = match self.told.here(&digest) {
                Here::Coming => ("compiling", None),
                Here::Ready(_) => ("accepted", None),
                Here::Refused(reason) => ("rejected", Some(reason)),
            };
            let since = deployment.since();
            json!({
                "plugin": deployment.agent_id,
                "file": "(pushed)",
                "size": since.and_then(|since| since.size_bytes),
                "modified_at": since.map(|since| since.at),
                "state": state,
                "reason": reason,
                "digest": (state == "accepted").then_some(digest),
                "source": "push",
                "overridden": null,
            })
        };
        serving.map(show).collect()
    }

    /// An agent's deployment as this daemon knows it.
    pub(in crate::daemon) fn deployment_of(&self, agent: &AgentId) -> Option<Arc<Deployment>> {
        self.told.said.load().deployment(agent).cloned()
    }

    /// The registration of an agent as this daemon knows it.
    pub(in crate::daemon) fn registration_of(&self, agent: &AgentId) -> Option<Arc<Registered>> {
        self.told.said.load().registered.get(agent).map(|(_, registered)| Arc::clone(registered))
    }

    /// How many runs of each agent may wait, where something says so.
    pub(in crate::daemon) fn queue_bounds(&self) -> BTreeMap<AgentId, u64> {
        self.ids().into_iter().filter_map(|agent| Some((agent.clone(), self.settings_of(&agent).max_queued_runs?))).collect()
    }

    /// What the daemon knew before it looked, and the settings under which it understood that.
    pub(in crate::daemon) fn known(&self) -> (Arc<Said>, Arc<Roster>) {
        let _turn = self.told.turn();
        (self.told.said.load_full(), self.roster.load_full())
    }

    /// A look at the store begins; its number.
    pub(in crate::daemon) fn begin_look(&self) -> u64 {
        self.looks.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Takes in what a look saw and understood under these settings. Answers with the digests that somebody has to bring.
    pub(in crate::daemon) fn looked(&self, look: u64, seen: Said, under: &Arc<Roster>) -> Vec<Digest> {
        let turn = self.told.turn();
        let before = self.told.said.load_full();
        let wanted = seen.wanted();
        let let_go: HashSet<AgentId> = before
            .deployments
            .iter()
            .filter(|(agent, (_, deployment))| {
                let now = seen.deployment(agent);
                deployment.quarantined.iter().any(|held| now.is_none_or(|now| now.quarantine_of(&held.digest).is_none()))
            })
            .map(|(agent, _)| agent.clone())
            .collect();
        let is_news = *before != seen;
        if is_news {
            self.told.said.store(Arc::new(seen));
        }
        // Other settings came into force while the store was read.
        let is_outdated = !Arc::ptr_eq(under, &self.roster.load());
        if is_outdated {
            self.read_registered_again();
        }
        drop(turn);
        let new = self.told.begin(&wanted);
        self.crashes.looked(look, &let_go);
        if is_news || is_outdated || !new.is_empty() {
            self.catalogue.touch();
        }
        self.end_look(look);
        new
    }

    /// A look is over, whatever came of it.
    pub(in crate::daemon) fn end_look(&self, look: u64) {
        self.looks.done.send_if_modified(|done| {
            let is_later = *done < look;
            *done = look.max(*done);
            is_later
        });
    }

    /// The number of the look that begins next.
    pub(in crate::daemon) fn next_look(&self) -> u64 {
        self.looks.begun.load(Ordering::SeqCst) + 1
    }

    /// Waits until the first look is done.
    pub(in crate::daemon) async fn seen_once(&self) {
        self.looked_up_to(1).await;
    }

    /// Waits until the look of that number is done.
    pub(in crate::daemon) async fn looked_up_to(&self, wanted: u64) {
        // The sender lives as long as the agents do.
        let _ = self.looks.done.subscribe().wait_for(|done| *done >= wanted).await;
    }

    /// Waits until no pushed component is on its way here.
    pub(in crate::daemon) async fn all_here(&self) {
        self.until(|told| !told.is_coming()).await;
    }

    /// Whether a pushed component is ready here, or on its way.
    pub(in crate::daemon) fn has_here(&self, digest: &Digest) -> bool {
        self.told.has_here(digest)
    }

    /// Waits until a pushed component is ready here, or refused, or is to serve no more.
    pub(in crate::daemon) async fn is_here(&self, digest: &Digest) {
        self.until(|told| !matches!(told.here(digest), Here::Coming) || !told.said.load().wanted().contains(digest)).await;
    }

    async fn until(&self, is_so: impl Fn(&Told) -> bool) {
        let mut changes = self.catalogue.changes();
        while !is_so(&self.told) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// A pushed component is ready here, is refused, or has to be tried again with the next look.
    pub(in crate::daemon) fn arrived(&self, digest: Digest, came: Result<Arc<Loaded<Prepared>>, (String, bool)>) {
        match came {
            Ok(loaded) => self.told.put_here(digest, Here::Ready(loaded)),
            Err((_, true)) => self.told.forget_here(&digest),
            Err((reason, false)) => self.told.put_here(digest, Here::Refused(reason)),
        }
        self.catalogue.touch();
    }

    /// Puts other settings into force, for the registered agents too.
    pub(super) fn exchange_roster(&self, roster: Roster) {
        let _turn = self.told.turn();
        self.gateway.set_prices(Arc::clone(&roster.prices));
        self.roster.store(Arc::new(roster));
        self.read_registered_again();
    }

    /// Reads the registered agents again under the settings in force; to be called in one's turn.
    fn read_registered_again(&self) {
        let roster = self.roster.load();
        self.told.said.rcu(|told| {
            let mut told = Said::clone(told);
            for (_, registered) in told.registered.values_mut() {
                *registered = Arc::new(Registered::read(registered.stored.clone(), &roster));
            }
            told
        });
    }

    /// What is set for agents.
    pub(in crate::daemon) fn roster(&self) -> Arc<Roster> {
        self.roster.load_full()
    }

    pub(super) fn note_crash(&self, agent: &AgentId, digest: &str, ended: &Ended) -> Option<Tripped> {
        let crashes = self.crashes.note(agent, digest, ended, self.roster.load().quarantine_after)?;
        let error = match ended {
            Ended::Failed { message, .. } => text::printable(message, ERROR_BYTES),
            _ => String::new(),
        };
        tracing::warn!(%agent, digest, crashes, "a digest goes into quarantine: it crashed too often in a row, and no attempt of it starts");
        self.catalogue.touch();
        Some(Tripped { agent: agent.clone(), digest: Digest::parse(digest).ok()?, crashes, error })
    }

    pub(super) fn settle_crash(&self, tripped: &Tripped, is_kept: bool) {
        let seen_by = is_kept.then(|| self.next_look());
        self.crashes.settle(&tripped.agent, &tripped.digest.to_string(), seen_by);
        self.catalogue.touch();
    }

    /// Warns once of each file of the folder that a push stands in for.
    pub(in crate::daemon) fn warn_overridden(&self, warned: &mut HashMap<String, Digest>) {
        let told = self.told.said.load();
        let overridden: HashMap<String, Digest> = told
            .deployments
            .values()
            .filter_map(|(_, deployment)| {
                let stem = deployment.agent_id.as_str();
                let file = self.catalogue.serving(stem)?;
                deployment.serving.filter(|pushed| *pushed != file.digest).map(|_| (stem.to_owned(), file.digest))
            })
            .collect();
        for (stem, digest) in &overridden {
            if warned.get(stem) != Some(digest)
                && let Some(why) = self.overridden_by(stem)
            {
                tracing::warn!(plugin = %stem, file = %digest, why, "a plugin file does not serve");
            }
        }
        *warned = overridden;
    }

    /// When an agent was last changed in the store.
    pub(super) fn said_at(&self, agent: &AgentId) -> Option<Timestamp> {
        let told = self.told.said.load();
        let registered = told.registered.get(agent).map(|(_, registered)| registered.stored.updated_at);
        let pushed = told.deployment(agent).and_then(|deployment| deployment.history.last()).map(|entry| entry.at);
        registered.max(pushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::daemon::agents::{SandboxPreparer, StoredAgent};
    use crate::domain::agent::Limits;
    use crate::egress::Gateway;
    use crate::plugins::{Catalogue, PluginSettings};
    use crate::sandbox::{Sandbox, SandboxSettings};

    #[tokio::test]
    async fn a_reload_that_meets_a_look_at_the_store_stays_in_force_for_registered_agents() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = SandboxSettings::default();
        let sandbox = Arc::new(Sandbox::new(&rooms).unwrap());
        let plugins = PluginSettings::new(folder.path().join("plugins"), folder.path().join("cache"));
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        let catalogue = Catalogue::open(plugins, sandbox.engine().clone(), SandboxPreparer(Arc::clone(&sandbox))).unwrap();
        let gateway = Gateway::new(tokio::runtime::Handle::current(), Arc::new(SystemClock));
        let with_files = |disk_files: u64| {
            let limits = Limits { disk_files, ..Limits::default() };
            let (configured, credentials) = (BTreeMap::new(), BTreeMap::new());
            let (most_memory_bytes, most_table_elements) = (rooms.max_memory_bytes, rooms.max_table_elements);
            Roster { configured, limits, credentials, prices: Arc::default(), quarantine_after: 0, most_memory_bytes, most_table_elements }
        };
        let agents = Agents::new((sandbox, gateway), catalogue, with_files(1), &SystemClock);
        let (id, at) = (AgentId::parse("registered").unwrap(), Timestamp::default());
        let stored = StoredAgent { agent_id: id.clone(), settings: Map::new(), by: None, created_at: at, updated_at: at };

        let look = agents.begin_look();
        let (_, under) = agents.known();
        let seen = |under: &Roster| {
            let read = Arc::new(Registered::read(stored.clone(), under));
            Said { registered: BTreeMap::from([(id.clone(), (1, read))]), ..Said::default() }
        };
        agents.configure(with_files(2));
        agents.looked(look, seen(&under), &under);
        assert_eq!(agents.settings_of(&id).limits.disk_files, 2);
        // The next look takes what has not changed as it was known.
        let (known, under) = agents.known();
        agents.looked(agents.begin_look(), Said::clone(&known), &under);
        assert_eq!(agents.settings_of(&id).limits.disk_files, 2);
    }
}
