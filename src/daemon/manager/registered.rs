//! Agents that are registered over the API.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Manager;
use crate::config::spec::{self, ASSISTANT, SPEC};
use crate::daemon::agents::{Agents, StoredAgent, registered_id_of};
use crate::daemon::deployment::{self, Deployment};
use crate::daemon::error::ManagerError;
use crate::daemon::transitions::Step;
use crate::daemon::txn::Txn;
use crate::domain::id::AgentId;
use crate::domain::input::Faults;
use crate::domain::secret_search::secrets_in;
use crate::store::{PageRequest, Scope};

/// The mend for a secret in a body.
const NO_SECRETS: &str = "looks like a secret, and a registered agent is kept in the store: put the secret into `[credentials.NAME]` of the daemon's configuration, and name that in the agent";

/// Refuses a body with what looks like a secret. It is to be asked before anything else looks at the body, for other refusals repeat what
/// was given.
///
/// # Errors
/// The paths of all that looks like one; no part of a value.
pub fn refuse_secrets(body: &Value) -> Result<(), Faults> {
    let mut faults = Faults::new();
    let of_spec = spec::instead_of_a_key(body);
    for path in secrets_in(body) {
        let mend = of_spec.as_deref().filter(|_| path.starts_with("spec.model_config")).unwrap_or(NO_SECRETS);
        faults.add(path, mend);
    }
    faults.into_result(())
}

/// The change that a patch asks for: a null takes a key away.
fn patched(settings: &Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    let mut settings = settings.clone();
    for (name, value) in patch {
        if value.is_null() {
            settings.shift_remove(name);
        } else {
            settings.insert(name.clone(), value.clone());
        }
    }
    settings
}

impl Manager {
    fn registrable(&self, agent: &AgentId) -> Result<&Arc<Agents>, ManagerError> {
        let Some(agents) = &self.0.agents else {
            return Err(ManagerError::Conflict("This daemon has no plugins; ask one that has.".to_owned()));
        };
        if agents.is_configured(agent) {
            return Err(ManagerError::Conflict(format!(
                "Agent {agent} is named in this daemon's configuration, which wins over a registration; change `[agents.{agent}]` there, or register it under another id"
            )));
        }
        Ok(agents)
    }

    /// Registers an agent with the keys of `[agents.NAME]`, for every daemon of the store. The same again changes nothing.
    ///
    /// # Errors
    /// The settings are wrong or hold a secret, the configuration names the agent, or it is registered and `replace` is false.
    pub async fn register_agent(
        &self,
        agent: &AgentId,
        settings: Map<String, Value>,
        replace: bool,
        who: Option<String>,
    ) -> Result<Value, ManagerError> {
        if settings.contains_key(SPEC) && !self.registrable(agent)?.has_plugin(ASSISTANT) {
            let mend = format!(
                "needs the plugin `{ASSISTANT}`, and this daemon has none: build it with `make plugins` and drop plugins/{ASSISTANT}.wasm into its plugins folder, or send it with `sandclock push {ASSISTANT}.wasm`"
            );
            return Err(Faults::one(SPEC, mend).into());
        }
        self.put_agent(agent, who, move |before| match before {
            Some(before) if before.settings == settings => Ok(settings.clone()),
            Some(before) if !replace => {
                Err(ManagerError::Conflict(format!("Agent already registered: {}; say `replace` to write over it", before.agent_id)))
            }
            _ => Ok(settings.clone()),
        })
        .await
    }

    /// Changes the given keys of a registered agent; a null takes one away.
    ///
    /// # Errors
    /// There is no such registered agent, or as [`Manager::register_agent`].
    pub async fn update_agent(&self, agent: &AgentId, patch: Map<String, Value>, who: Option<String>) -> Result<Value, ManagerError> {
        let id = agent.clone();
        self.put_agent(agent, who, move |before| match before {
            Some(before) => Ok(patched(&before.settings, &patch)),
            None => Err(ManagerError::not_found("Registered agent", &id)),
        })
        .await
    }

    async fn put_agent(
        &self,
        agent: &AgentId,
        who: Option<String>,
        settings: impl Fn(Option<&StoredAgent>) -> Result<Map<String, Value>, ManagerError> + Send + 'static,
    ) -> Result<Value, ManagerError> {
        let agents = self.registrable(agent)?;
        let (of, roster) = (agent.clone(), agents.roster());
        let decide = move |txn: &mut Txn<'_>| -> Step<()> {
            let id = registered_id_of(&of);
            let before = txn.get::<StoredAgent, ManagerError>(&id)?;
            let settings = settings(before.as_deref())?;
            refuse_secrets(&Value::Object(settings.clone())).map_err(ManagerError::from)?;
            roster.read(&of, &settings).map_err(ManagerError::from)?;
            let now = txn.now();
            let created_at = before.as_ref().map_or(now, |before| before.created_at);
            if before.as_ref().is_some_and(|before| before.settings == settings) {
                return Ok(());
            }
            txn.put(id, Arc::new(StoredAgent { agent_id: of.clone(), settings, by: who.clone(), created_at, updated_at: now }))
        };
        self.commit(vec![registered_id_of(agent)], Vec::new(), decide).await?;
        self.seen(agents).await;
        Ok(self.committed(agent))
    }

    /// Deletes an agent that was registered or pushed, with its pushes; its tasks stay. Those of plugin files and of the configuration are
    /// removed where they come from.
    ///
    /// # Errors
    /// There is no such agent, it is not the API's to delete, or `force` is false and runs of it are active, or its push serves another
    /// agent that nothing else would.
    pub async fn delete_agent(&self, agent: &AgentId, force: bool) -> Result<(), ManagerError> {
        self.agent(agent)?;
        let Some(agents) = &self.0.agents else { return Err(ManagerError::not_found("Agent", agent)) };
        let is_registered = agents.registration_of(agent).is_some();
        if agents.is_configured(agent) || (!is_registered && agents.origin(agent) == "plugin") {
            let origin = agents.origin_of(agent);
            return Err(ManagerError::Conflict(format!("Agent {agent} comes from {origin}; remove it there")));
        }
        let live = self.inner().store.list(Scope::LiveRunsOfAgent(agent.clone()), PageRequest::first(1)).await?;
        if !force && !live.records.is_empty() {
            return Err(ManagerError::Conflict(format!(
                "Agent {agent} has runs that have not ended; let them end, cancel them, or say `force`: they wait then until there is such an agent again"
            )));
        }
        if let (false, Some(other)) = (force, agents.lives_by_push_to(agent)) {
            return Err(ManagerError::Conflict(format!(
                "What was pushed to agent {agent} serves agent {other}, whose `plugin` names it, and the plugins folder has no such file: push to {other} first, drop a file, or say `force`: its runs wait then until something serves it"
            )));
        }
        let of = agent.clone();
        let decide = move |txn: &mut Txn<'_>| -> Step<()> {
            txn.need(&[registered_id_of(&of), deployment::id_of(&of)])?;
            // Whoever deletes the registration of a plugin's own agent wants its pushes to stay no more than its settings.
            deployment::write(txn, Deployment::none(&of))?;
            txn.delete(registered_id_of(&of));
            Ok(())
        };
        self.commit(vec![registered_id_of(agent), deployment::id_of(agent)], Vec::new(), decide).await?;
        tracing::info!(%agent, "an agent was deleted, with its pushes");
        self.seen(agents).await;
        Ok(())
    }
}
