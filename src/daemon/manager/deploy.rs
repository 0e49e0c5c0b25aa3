//! Deployment: push, roll back, history, pause, resume, release.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Manager;
use crate::daemon::agents::Agents;
use crate::daemon::deployment::{self, Back, Deployment, Pause, Wish};
use crate::daemon::error::ManagerError;
use crate::daemon::pushed;
use crate::daemon::transitions::Step;
use crate::daemon::txn::Txn;
use crate::daemon::upload::Upload;
use crate::domain::id::AgentId;
use crate::domain::input::Faults;
use crate::plugins::Digest;

/// How long an answer waits for this daemon to see what was committed.
const SEEN: Duration = Duration::from_secs(5);
/// The longest note or reason, in characters.
const WORDS: usize = 1000;

/// What came of a push or a rollback.
#[derive(Clone, Debug)]
pub struct Deployed {
    /// Whether anything changed: the same digest again changes nothing.
    pub changed: bool,
    /// The digest that serves from now on; none for the plugins folder.
    pub digest: Option<Digest>,
    /// The agent as the API shows it.
    pub agent: Value,
}

fn checked(what: &str, words: Option<String>) -> Result<Option<String>, ManagerError> {
    let words = words.filter(|words| !words.trim().is_empty());
    match &words {
        Some(words) if words.chars().count() > WORDS => {
            Err(Faults::one(what, format!("must have at most {WORDS} characters; say it in fewer")).into())
        }
        _ => Ok(words),
    }
}

/// Waits until what is to serve an agent is ready on this daemon, for a while: whoever pushes or rolls back wants no further attempt of what
/// served before.
async fn ready_here(agents: &Agents, agent: &AgentId, digest: Digest) {
    if tokio::time::timeout(SEEN, agents.is_here(&digest)).await.is_err() {
        tracing::info!(%agent, %digest, "what is to serve an agent is not ready here yet; what served before does until then");
    }
}

impl Manager {
    fn deployable(&self) -> Result<&Arc<Agents>, ManagerError> {
        self.0.agents.as_ref().ok_or_else(|| ManagerError::Conflict("This daemon has no plugins; ask one that has.".to_owned()))
    }

    /// An agent that there is.
    fn known_agent(&self, agent: &AgentId) -> Result<&Arc<Agents>, ManagerError> {
        let agents = self.0.agents.as_ref().filter(|agents| agents.knows(agent));
        agents.ok_or_else(|| ManagerError::not_found("Agent", agent))
    }

    /// Waits until this daemon goes by what was committed, for a while.
    pub(super) async fn seen(&self, agents: &Agents) {
        let look = agents.next_look();
        // The one that the commit called for may be over.
        self.inner().wakeups.agents.notify_one();
        if tokio::time::timeout(SEEN, agents.looked_up_to(look)).await.is_err() {
            tracing::debug!("a change to an agent is committed and not seen here yet");
        }
    }

    /// Opens a place for a component that is to be pushed to an agent.
    ///
    /// # Errors
    /// This daemon takes no pushes, too many come in at once, or the file cannot be made.
    pub async fn begin_upload(&self, agent: &AgentId) -> Result<Upload, ManagerError> {
        let agents = self.deployable()?;
        let Some(folder) = agents.pushed_folder() else {
            return Err(ManagerError::Conflict("This daemon takes no pushes: it has no data folder for them.".to_owned()));
        };
        let Ok(turn) = Arc::clone(&self.0.uploads).try_acquire_owned() else {
            return Err(ManagerError::Busy {
                message: "as many components as may are being pushed at the moment; try again shortly".to_owned(),
                retry_after: Duration::from_secs(2),
            });
        };
        let (name, most) = (self.inner().entropy.hex_name(), agents.catalogue().max_file_bytes());
        Upload::open(folder, &name, agent, most, turn).await
    }

    /// Has a component that was uploaded serve an agent, on every daemon of the store: it is validated, compiled and prepared here, then
    /// kept in the store, and then, in one change, it serves. What is refused changes nothing.
    ///
    /// # Errors
    /// It has another digest than the expected one, it is refused, or the store does not answer.
    pub async fn push(&self, agent: &AgentId, upload: Upload, expected: Option<Digest>, wish: Wish) -> Result<Deployed, ManagerError> {
        let wish = Wish { note: checked("note", wish.note)?, ..wish };
        let agents = self.deployable()?;
        let whole = upload.finish().await?;
        let digest = whole.digest;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Faults::one(
                "digest",
                format!(
                    "{expected} was expected, and what came has {digest} and {} bytes; nothing was changed, push it again",
                    whole.bytes
                ),
            )
            .into());
        }
        let loaded = agents.catalogue().loader().load(&whole.path).await;
        let loaded =
            loaded.map_err(|refused| Faults::one("", format!("The component is refused and nothing was changed: {}", refused.reason)))?;
        let stored = pushed::store(self.inner(), digest, whole.bytes, whole.path.clone()).await?;
        let (of, size) = (agent.clone(), whole.bytes);
        let decide = move |txn: &mut Txn<'_>| -> Step<bool> {
            let mut deployment = deployment::read(txn, &of)?;
            let changed = deployment.push(digest, size, txn.now(), wish.clone());
            if changed {
                stored.keep(txn, &of)?;
                deployment::write(txn, deployment)?;
            }
            Ok(changed)
        };
        let reads = vec![deployment::id_of(agent)];
        let changed = self.commit(reads, Vec::new(), decide).await?;
        if changed {
            agents.arrived(digest, Ok(Arc::new(loaded)));
            tracing::info!(%agent, %digest, "a pushed plugin serves");
        }
        // The next start finds it compiled, and need not ask the store for it. Only what is known to be here keeps its file.
        if let Some(folder) = agents.pushed_folder() {
            let to = folder.join(format!("{digest}.wasm"));
            let _ = tokio::fs::rename(&whole.path, to).await;
        }
        self.seen(agents).await;
        ready_here(agents, agent, digest).await;
        Ok(Deployed { changed, digest: Some(digest), agent: self.committed(agent) })
    }

    /// An agent of which something was committed; its id alone where this daemon has not seen that yet.
    pub(super) fn committed(&self, agent: &AgentId) -> Value {
        self.agent(agent).unwrap_or_else(|_| json!({"agent_id": agent}))
    }

    /// Puts an earlier digest of an agent back, or the plugins folder.
    ///
    /// # Errors
    /// There is no such agent, or nothing to go back to.
    pub async fn roll_back(&self, agent: &AgentId, back: Back, wish: Wish) -> Result<Deployed, ManagerError> {
        let wish = Wish { note: checked("note", wish.note)?, ..wish };
        let agents = self.known_agent(agent)?;
        let is_served_without = agents.has_file(agent) || agents.has_push_of_plugin(agent);
        let of = agent.clone();
        let decide = move |txn: &mut Txn<'_>| -> Step<Option<Digest>> {
            let mut deployment = deployment::read(txn, &of)?;
            let to = deployment.back(back).map_err(ManagerError::Conflict)?;
            if to.is_none() && !is_served_without {
                let sentence = format!(
                    "the plugins folder of this daemon has no plugin for agent {of}, so nothing would serve it: drop the file first, or delete the agent"
                );
                return Err(ManagerError::Conflict(sentence).into());
            }
            deployment.roll_back(to, txn.now(), wish.clone());
            deployment::write(txn, deployment)?;
            Ok(to)
        };
        let to = self.commit(vec![deployment::id_of(agent)], Vec::new(), decide).await?;
        let shown = to.map_or_else(|| "the plugins folder".to_owned(), |digest| digest.to_string());
        tracing::info!(%agent, to = shown, "an agent was rolled back");
        self.seen(agents).await;
        if let Some(digest) = to {
            ready_here(agents, agent, digest).await;
        }
        Ok(Deployed { changed: true, digest: to, agent: self.committed(agent) })
    }

    /// What served an agent when, the newest first; with what this daemon's folder has, and what is held back.
    ///
    /// # Errors
    /// There is no such agent, or the store does not answer.
    pub async fn agent_history(&self, agent: &AgentId) -> Result<Value, ManagerError> {
        self.known_agent(agent)?;
        let record = self.record(deployment::id_of(agent)).await?;
        let deployment: Deployment = record.map_or_else(|| Ok(Deployment::none(agent)), |record| record.decode())?;
        let kept = deployment.kept();
        let entries: Vec<Value> = deployment
            .history
            .iter()
            .rev()
            .map(|entry| {
                json!({
                    "how": entry.how,
                    "digest": entry.digest,
                    "before": entry.before,
                    "size_bytes": entry.size_bytes,
                    "at": entry.at,
                    "by": entry.by,
                    "note": entry.note,
                    "is_kept": entry.digest.is_none_or(|digest| kept.contains(&digest)),
                    "quarantined": entry.digest.is_some_and(|digest| deployment.quarantine_of(&digest).is_some()),
                })
            })
            .collect();
        Ok(json!({
            "agent_id": agent,
            "serving": deployment.serving,
            "source": if deployment.serving.is_some() { "push" } else { "folder" },
            "history": entries,
            "total": entries.len(),
            "paused": deployment.paused,
            "quarantined": deployment.quarantined,
        }))
    }

    /// Has an agent's runs wait, on every daemon; those that execute go on.
    ///
    /// # Errors
    /// There is no such agent, it is paused, or the store does not answer.
    pub async fn pause_agent(&self, agent: &AgentId, who: Option<String>, reason: Option<String>) -> Result<Value, ManagerError> {
        let reason = checked("reason", reason)?;
        self.change(agent, move |deployment, at| {
            if let Some(pause) = &deployment.paused {
                return Err(format!("agent {} is paused since {} already", deployment.agent_id, pause.at));
            }
            deployment.paused = Some(Pause { at, by: who.clone(), reason: reason.clone() });
            Ok(())
        })
        .await
    }

    /// Lets the runs of a paused agent start again.
    ///
    /// # Errors
    /// There is no such agent, it is not paused, or the store does not answer.
    pub async fn resume_agent(&self, agent: &AgentId, who: Option<String>) -> Result<Value, ManagerError> {
        let resumed = self.change(agent, |deployment, _| match deployment.paused.take() {
            Some(_) => Ok(()),
            None => Err(format!("agent {} is not paused", deployment.agent_id)),
        });
        let shown = resumed.await?;
        tracing::info!(%agent, by = who, "a paused agent was resumed");
        Ok(shown)
    }

    /// Lets the digests of an agent go that are in quarantine.
    ///
    /// # Errors
    /// There is no such agent, none of its digests is in quarantine, or the store does not answer.
    pub async fn release_agent(&self, agent: &AgentId, who: Option<String>) -> Result<Value, ManagerError> {
        let released = self.change(agent, |deployment, _| {
            if std::mem::take(&mut deployment.quarantined).is_empty() {
                return Err(format!("no digest of agent {} is in quarantine", deployment.agent_id));
            }
            Ok(())
        });
        let shown = released.await?;
        tracing::info!(%agent, by = who, "an agent was released from quarantine");
        Ok(shown)
    }

    async fn change(
        &self,
        agent: &AgentId,
        change: impl Fn(&mut Deployment, crate::domain::time::Timestamp) -> Result<(), String> + Send + 'static,
    ) -> Result<Value, ManagerError> {
        let agents = self.known_agent(agent)?;
        let of = agent.clone();
        let decide = move |txn: &mut Txn<'_>| -> Step<()> {
            let mut deployment = deployment::read(txn, &of)?;
            change(&mut deployment, txn.now()).map_err(ManagerError::Conflict)?;
            deployment::write(txn, deployment)
        };
        self.commit(vec![deployment::id_of(agent)], Vec::new(), decide).await?;
        self.seen(agents).await;
        self.agent(agent)
    }
}
