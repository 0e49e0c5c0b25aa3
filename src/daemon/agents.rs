//! Which agents there are, and what an attempt of each starts from.
//!
//! Every plugin is an agent of its own name; the configuration adds agents and settles what they may use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::egress;
use super::executor::{Executor, Offer, Offered, Start};
use crate::clock::Clock;
use crate::config::AgentSettings;
use crate::domain::agent::{Agent, Limits};
use crate::domain::http::HttpPolicy;
use crate::domain::id::AgentId;
use crate::domain::time::Timestamp;
use crate::egress::Gateway;
use crate::plugins::{Catalogue, Loaded, PluginState, PluginStatus, Preparer};
use crate::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, DiskUse, GuestHost, Prepared, Sandbox};
use crate::store::ClaimAgent;

/// Prepares components for the sandbox.
pub struct SandboxPreparer(pub Arc<Sandbox>);

impl Preparer for SandboxPreparer {
    type Prepared = Prepared;

    fn prepare(&self, component: &wasmtime::component::Component) -> Result<Prepared, String> {
        self.0.prepare(component).map_err(|error| error.to_string())
    }
}

/// What is set for agents.
#[derive(Clone, Debug, PartialEq)]
pub struct Roster {
    /// The agents of the configuration.
    pub configured: BTreeMap<AgentId, AgentSettings>,
    /// The limits of agents that the configuration does not name.
    pub limits: Limits,
}

impl Roster {
    /// What is set for an agent: what the configuration says, or else every default.
    pub fn settings_of(&self, agent: &AgentId) -> AgentSettings {
        self.configured.get(agent).cloned().unwrap_or_else(|| AgentSettings {
            plugin: agent.as_str().to_owned(),
            name: None,
            timeout: None,
            max_running: None,
            max_queued_runs: None,
            env: BTreeMap::new(),
            config: BTreeMap::new(),
            limits: self.limits.clone(),
            http: Arc::default(),
            metadata: BTreeMap::new(),
        })
    }
}

/// The daemon's agents.
pub struct Agents {
    sandbox: Arc<Sandbox>,
    gateway: Arc<Gateway>,
    catalogue: Catalogue<SandboxPreparer>,
    roster: ArcSwap<Roster>,
    started_at: Timestamp,
    offer: Mutex<Option<(u64, Offer)>>,
}

impl Agents {
    /// The agents of a catalogue and a configuration.
    pub fn new(
        (sandbox, gateway): (Arc<Sandbox>, Arc<Gateway>),
        catalogue: Catalogue<SandboxPreparer>,
        roster: Roster,
        clock: &dyn Clock,
    ) -> Self {
        Agents { sandbox, gateway, catalogue, roster: ArcSwap::from_pointee(roster), started_at: clock.now(), offer: Mutex::default() }
    }

    /// Puts other settings into force for the attempts that start from now on.
    pub fn configure(&self, roster: Roster) {
        self.roster.store(Arc::new(roster));
        // Offers are kept by the catalogue's version: one that was made meanwhile is made again.
        self.catalogue.touch();
    }

    /// The plugins behind them.
    pub fn catalogue(&self) -> &Catalogue<SandboxPreparer> {
        &self.catalogue
    }

    fn settings_of(&self, agent: &AgentId) -> AgentSettings {
        self.roster.load().settings_of(agent)
    }

    fn is_configured(&self, agent: &AgentId) -> bool {
        self.roster.load().configured.contains_key(agent)
    }

    fn plugin_of(&self, agent: &AgentId) -> Option<PluginStatus> {
        let stem = self.settings_of(agent).plugin;
        self.catalogue.list().into_iter().find(|plugin| plugin.stem == stem)
    }

    /// The ids of all agents: those of the configuration and those of the plugins.
    pub fn ids(&self) -> Vec<AgentId> {
        let plugins = self.catalogue.list().into_iter().filter_map(|plugin| AgentId::parse(&plugin.stem).ok());
        let mut ids: Vec<AgentId> = self.roster.load().configured.keys().cloned().chain(plugins).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Whether there is such an agent, whatever the state of its plugin.
    pub fn knows(&self, agent: &AgentId) -> bool {
        self.is_configured(agent) || self.plugin_of(agent).is_some()
    }

    /// Where an agent comes from, for people.
    pub fn origin_of(&self, agent: &AgentId) -> String {
        match (self.is_configured(agent), self.plugin_of(agent)) {
            (true, _) => "the configuration".to_owned(),
            (false, Some(plugin)) => format!("the plugin file {}", plugin.file_name),
            (false, None) => "nowhere".to_owned(),
        }
    }

    /// Why an agent's runs cannot start here; none when they can.
    pub fn why_not_serving(&self, agent: &AgentId) -> Option<String> {
        let stem = self.settings_of(agent).plugin;
        if self.catalogue.serving(&stem).is_some() {
            return None;
        }
        Some(match self.plugin_of(agent).map(|plugin| plugin.state) {
            Some(PluginState::Compiling) => format!("its plugin `{stem}` is being compiled"),
            Some(PluginState::Rejected { reason }) => format!("its plugin `{stem}` was rejected: {reason}"),
            Some(PluginState::Accepted { .. }) | None => format!("there is no plugin file `{stem}.wasm` in the plugins folder"),
        })
    }

    /// An agent as the API shows it; none when there is no such one.
    pub fn show(&self, agent: &AgentId) -> Option<Value> {
        let plugin = self.plugin_of(agent);
        if plugin.is_none() && !self.is_configured(agent) {
            return None;
        }
        let settings = self.settings_of(agent);
        let updated_at = plugin.as_ref().and_then(|plugin| plugin.modified_at).unwrap_or(self.started_at);
        let shown = Agent {
            agent_id: agent.clone(),
            name: settings.name.unwrap_or_else(|| agent.as_str().to_owned()),
            system_instruction: None,
            model_config: None,
            agent_config: settings.config,
            mcp_tools: Vec::new(),
            local_tools_ref: None,
            workspace_config: None,
            metadata: settings.metadata,
            plugin: settings.plugin,
            limits: settings.limits,
            // Names only: a value may be a secret.
            env: settings.env.into_keys().map(|name| (name, String::from("(set)"))).collect(),
            max_running: settings.max_running,
            timeout_seconds: settings.timeout,
            created_at: updated_at,
            updated_at,
        };
        let mut shown = serde_json::to_value(shown).ok()?;
        if let Value::Object(object) = &mut shown {
            let (state, reason) = match plugin.as_ref().map(|plugin| &plugin.state) {
                Some(PluginState::Compiling) => ("compiling", None),
                Some(PluginState::Accepted { .. }) => ("accepted", None),
                Some(PluginState::Rejected { reason }) => ("rejected", Some(reason.clone())),
                None => ("missing", self.why_not_serving(agent)),
            };
            object.insert("state".to_owned(), json!(state));
            object.insert("reason".to_owned(), json!(reason));
            object.insert("digest".to_owned(), json!(plugin.and_then(|plugin| plugin.serving).map(|digest| digest.to_string())));
        }
        Some(shown)
    }

    fn make_offer(&self) -> Offer {
        let offered = self.ids().into_iter().filter_map(|agent| {
            let settings = self.settings_of(&agent);
            let loaded = self.catalogue.serving(&settings.plugin)?;
            let claim = ClaimAgent { agent: agent.clone(), digest: loaded.digest.to_string(), max_running: settings.max_running };
            let env = settings.env.into_iter().collect();
            let (sandbox, gateway) = (Arc::clone(&self.sandbox), Arc::clone(&self.gateway));
            let config = config_texts(&settings.config);
            let start = SandboxStart { sandbox, gateway, loaded, limits: settings.limits, env, config, http: settings.http };
            Some(Offered { claim, start: Arc::new(start) })
        });
        Arc::new(offered.collect())
    }
}

impl Executor for Agents {
    fn offer(&self) -> Offer {
        let version = *self.catalogue.changes().borrow();
        let mut kept = self.offer.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, offer)) if *of == version => Arc::clone(offer),
            _ => {
                let offer = self.make_offer();
                *kept = Some((version, Arc::clone(&offer)));
                offer
            }
        }
    }
}

struct SandboxStart {
    sandbox: Arc<Sandbox>,
    gateway: Arc<Gateway>,
    http: Arc<HttpPolicy>,
    loaded: Arc<Loaded<Prepared>>,
    limits: Limits,
    env: Vec<(String, String)>,
    config: Arc<[(String, String)]>,
}

/// The values of an agent's configuration as its guests read them: texts as they are, all else as JSON.
pub(super) fn config_texts(values: &BTreeMap<String, Value>) -> Arc<[(String, String)]> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    values.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

#[async_trait]
impl Start for SandboxStart {
    fn disk(&self) -> DiskUse {
        DiskUse { bytes: self.limits.disk_bytes, files: self.limits.disk_files }
    }

    async fn execute(&self, mut spec: AttemptSpec, host: Arc<dyn GuestHost>, signals: Arc<AttemptSignals>) -> AttemptReport {
        spec.limits = self.limits.clone();
        spec.env.clone_from(&self.env);
        spec.config = Arc::clone(&self.config);
        egress::execute(&self.sandbox, &self.loaded.prepared, spec, (&self.gateway, &self.http), host, signals).await
    }
}
