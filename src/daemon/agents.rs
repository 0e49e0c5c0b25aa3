//! Which agents there are, and what an attempt of each starts from.
//!
//! Every plugin is an agent of its own name; the configuration and the API add agents and settle what they may use. What the store says
//! of them, pushes and pauses among it, is taken in by the `follow` part.

mod crashes;
mod deployed;
mod registered;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::{Map, Value};

use super::egress;
use super::executor::{Executor, Offer, Offered, Start, Tripped};
use crate::clock::Clock;
use crate::config::{AgentSettings, registered_agent, spec};
use crate::domain::agent::{Agent, Limits};
use crate::domain::budget::Budget;
use crate::domain::http::{Credential, HttpPolicy};
use crate::domain::id::AgentId;
use crate::domain::input::Faults;
use crate::domain::price::Prices;
use crate::domain::time::{Seconds, Timestamp};
use crate::egress::{Account, Gateway};
use crate::plugins::{Catalogue, Loaded, PluginStatus, Preparer};
use crate::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, DiskUse, Ended, GuestHost, Prepared, Sandbox};
use crate::store::ClaimAgent;

use crashes::Crashes;
pub(super) use deployed::Hold;
use deployed::Looks;
pub(super) use registered::id_of as registered_id_of;
pub use registered::{Registered, StoredAgent};
pub(super) use told::Said;
use told::{Here, Told};

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
    /// The credentials that agents may name.
    pub credentials: BTreeMap<String, Arc<Credential>>,
    /// What the tokens of models cost.
    pub prices: Arc<Prices>,
    /// After how many crashes in a row a digest starts no more attempts of an agent; 0 for never.
    pub quarantine_after: u32,
    /// The most memory in bytes that the sandbox was built for.
    pub most_memory_bytes: u64,
    /// The most table elements that the sandbox was built for.
    pub most_table_elements: u64,
}

impl Roster {
    /// What is set for an agent: what the configuration says, or else every default.
    pub fn settings_of(&self, agent: &AgentId) -> AgentSettings {
        self.configured.get(agent).cloned().unwrap_or_else(|| self.unnamed(agent))
    }

    /// Reads the settings of an agent that is registered.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(super) fn read(&self, agent: &AgentId, settings: &Map<String, Value>) -> Result<AgentSettings, Faults> {
        let settings = registered_agent(agent, settings, &self.limits, &self.credentials)?;
        let (limits, mut beyond) = (&settings.limits, Faults::new());
        for (name, limit, most) in [
            ("memory_bytes", limits.memory_bytes, self.most_memory_bytes),
            ("table_elements", limits.table_elements, self.most_table_elements),
        ] {
            if limit > most {
                let mend = format!("ask for less, or raise `limits.{name}` in its configuration and start it again");
                beyond.add(format!("limits.{name}"), format!("{limit}, and {most} is the most for which this daemon was started; {mend}"));
            }
        }
        beyond.into_result(settings)
    }

    fn unnamed(&self, agent: &AgentId) -> AgentSettings {
        AgentSettings {
            plugin: agent.as_str().to_owned(),
            name: None,
            timeout: None,
            max_running: None,
            max_queued_runs: None,
            env: BTreeMap::new(),
            config: BTreeMap::new(),
            limits: self.limits.clone(),
            http: Arc::default(),
            budget: Budget::default(),
            metadata: BTreeMap::new(),
        }
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
    told: Told,
    crashes: Crashes,
    looks: Looks,
    /// Where pushed components lie as files; none where this daemon takes no pushes.
    pushed: Option<PathBuf>,
}

impl Agents {
    /// The agents of a catalogue and a configuration.
    pub fn new(
        (sandbox, gateway): (Arc<Sandbox>, Arc<Gateway>),
        catalogue: Catalogue<SandboxPreparer>,
        roster: Roster,
        clock: &dyn Clock,
    ) -> Self {
        gateway.set_prices(Arc::clone(&roster.prices));
        Agents {
            sandbox,
            gateway,
            catalogue,
            roster: ArcSwap::from_pointee(roster),
            started_at: clock.now(),
            offer: Mutex::default(),
            told: Told::default(),
            crashes: Crashes::default(),
            looks: Looks::default(),
            pushed: None,
        }
    }

    /// Takes pushes, and keeps their files in this private folder.
    #[must_use]
    pub fn with_pushes(self, folder: PathBuf) -> Self {
        Agents { pushed: Some(folder), ..self }
    }

    /// Where pushed components lie as files; none where this daemon takes no pushes.
    pub(super) fn pushed_folder(&self) -> Option<&Path> {
        self.pushed.as_deref()
    }

    /// Puts other settings into force for the attempts that start from now on.
    pub fn configure(&self, roster: Roster) {
        self.exchange_roster(roster);
        // Offers are kept by the catalogue's version: one that was made meanwhile is made again.
        self.catalogue.touch();
    }

    /// The plugins behind them.
    pub fn catalogue(&self) -> &Catalogue<SandboxPreparer> {
        &self.catalogue
    }

    fn settings_of(&self, agent: &AgentId) -> AgentSettings {
        let (roster, said) = (self.roster.load(), self.told.said.load());
        let registered = said.registered.get(agent).and_then(|(_, registered)| registered.settings.as_ref().ok());
        match registered.filter(|_| !roster.configured.contains_key(agent)) {
            Some(settings) => settings.clone(),
            None => roster.settings_of(agent),
        }
    }

    /// Whether the configuration of this daemon names the agent.
    pub(super) fn is_configured(&self, agent: &AgentId) -> bool {
        self.roster.load().configured.contains_key(agent)
    }

    fn plugin_of(&self, agent: &AgentId) -> Option<PluginStatus> {
        let stem = self.settings_of(agent).plugin;
        self.catalogue.list().into_iter().find(|plugin| plugin.stem == stem)
    }

    /// Whether the plugins folder or a push has this plugin.
    pub(super) fn has_plugin(&self, stem: &str) -> bool {
        let is_pushed = |owner: AgentId| self.deployment_of(&owner).is_some_and(|of| of.serving.is_some());
        self.catalogue.list().iter().any(|plugin| plugin.stem == stem) || AgentId::parse(stem).is_ok_and(is_pushed)
    }

    /// Whether the plugins folder has a file for an agent.
    pub(super) fn has_file(&self, agent: &AgentId) -> bool {
        self.plugin_of(agent).is_some()
    }

    /// Whether a push to the agent of its plugin's name serves an agent that has no push of its own.
    pub(super) fn has_push_of_plugin(&self, agent: &AgentId) -> bool {
        let stem = self.settings_of(agent).plugin;
        stem != agent.as_str() && AgentId::parse(&stem).is_ok_and(|owner| self.deployment_of(&owner).is_some_and(|of| of.serving.is_some()))
    }

    /// An agent that nothing would serve any more without the push to another.
    pub(super) fn lives_by_push_to(&self, owner: &AgentId) -> Option<AgentId> {
        let serving = |agent: &AgentId| self.deployment_of(agent).is_some_and(|deployment| deployment.serving.is_some());
        let has_file = self.catalogue.list().iter().any(|plugin| plugin.stem == owner.as_str());
        if has_file || !serving(owner) {
            return None;
        }
        let lives = |agent: &AgentId| agent != owner && !serving(agent) && self.settings_of(agent).plugin == owner.as_str();
        self.ids().into_iter().find(lives)
    }

    /// The ids of all agents: those of the configuration, of the API, of pushes and of the plugins.
    pub fn ids(&self) -> Vec<AgentId> {
        let said = self.told.said.load();
        let pushed = said.deployments.iter().filter(|(_, (_, deployment))| !deployment.history.is_empty()).map(|(agent, _)| agent.clone());
        let plugins = self.catalogue.list().into_iter().filter_map(|plugin| AgentId::parse(&plugin.stem).ok());
        let configured = self.roster.load();
        let named = configured.configured.keys().chain(said.registered.keys()).cloned();
        let mut ids: Vec<AgentId> = named.chain(pushed).chain(plugins).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Whether there is such an agent, whatever the state of its plugin.
    pub fn knows(&self, agent: &AgentId) -> bool {
        self.is_configured(agent) || self.is_said(agent) || self.plugin_of(agent).is_some()
    }

    /// Where an agent comes from, for people.
    pub fn origin_of(&self, agent: &AgentId) -> String {
        match (self.origin(agent), self.plugin_of(agent)) {
            ("plugin", Some(plugin)) => format!("the plugin file {}", plugin.file_name),
            ("configuration", _) => "the configuration".to_owned(),
            (other, _) => format!("a {other}"),
        }
    }

    /// Where an agent comes from, in a word.
    pub(super) fn origin(&self, agent: &AgentId) -> &'static str {
        if self.is_configured(agent) {
            "configuration"
        } else if self.told.said.load().registered.contains_key(agent) {
            "registration"
        } else if self.plugin_of(agent).is_some() {
            "plugin"
        } else {
            "push"
        }
    }

    /// Why an agent's runs cannot start here; none when they can.
    pub fn why_not_serving(&self, agent: &AgentId) -> Option<String> {
        self.hold_of(agent).map(|hold| hold.to_string())
    }

    /// An agent as the API shows it; none when there is no such one.
    pub fn show(&self, agent: &AgentId) -> Option<Value> {
        if !self.knows(agent) {
            return None;
        }
        let plugin = self.plugin_of(agent);
        let settings = self.settings_of(agent);
        let config_hash = settings.hash();
        let updated_at = plugin.as_ref().and_then(|plugin| plugin.modified_at).max(self.said_at(agent)).unwrap_or(self.started_at);
        let (system_instruction, model_config) = self
            .registration_of(agent)
            .filter(|_| !self.is_configured(agent))
            .map(|of| spec::shown(&of.stored.settings))
            .unwrap_or_default();
        let shown = Agent {
            agent_id: agent.clone(),
            name: settings.name.unwrap_or_else(|| agent.as_str().to_owned()),
            system_instruction,
            model_config,
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
            budget: settings.budget,
            created_at: updated_at,
            updated_at,
        };
        let mut shown = serde_json::to_value(shown).ok()?;
        if let Value::Object(object) = &mut shown {
            object.insert("config_hash".to_owned(), config_hash.into());
            object.extend(self.show_deployed(agent, plugin.as_ref()));
        }
        Some(shown)
    }

    fn make_offer(&self) -> Offer {
        let mut last = HashMap::new();
        let offered = self.ids().into_iter().filter_map(|agent| {
            let settings = self.settings_of(&agent);
            let loaded = self.loaded_of(&agent, &settings.plugin).ok()?;
            last.insert(agent.clone(), Arc::clone(&loaded));
            if self.held_back(&agent, &loaded.digest).is_some() {
                return None;
            }
            let claim = ClaimAgent { agent: agent.clone(), digest: loaded.digest.to_string(), max_running: settings.max_running };
            let config_hash = settings.hash();
            let env = settings.env.into_iter().collect();
            let (sandbox, gateway) = (Arc::clone(&self.sandbox), Arc::clone(&self.gateway));
            let config = config_texts(&settings.config);
            let start = SandboxStart {
                sandbox,
                gateway,
                loaded,
                limits: settings.limits,
                env,
                config,
                config_hash,
                http: settings.http,
                budget: settings.budget,
            };
            Some(Offered { claim, start: Arc::new(start) })
        });
        let offer = Arc::new(offered.collect());
        self.told.note_last(last);
        offer
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

    fn timeout_of(&self, agent: &AgentId) -> Option<Seconds> {
        self.settings_of(agent).timeout
    }

    fn budget_of(&self, agent: &AgentId) -> Budget {
        self.settings_of(agent).budget
    }

    fn note_end(&self, agent: &AgentId, digest: &str, ended: &Ended) -> Option<Tripped> {
        self.note_crash(agent, digest, ended)
    }

    fn settle(&self, tripped: &Tripped, is_kept: bool) {
        self.settle_crash(tripped, is_kept);
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
    budget: Budget,
    config_hash: String,
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

    fn budget(&self) -> Budget {
        self.budget
    }

    fn config_hash(&self) -> Option<&str> {
        Some(&self.config_hash)
    }

    async fn execute(
        &self,
        mut spec: AttemptSpec,
        host: Arc<dyn GuestHost>,
        account: Option<Arc<dyn Account>>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport {
        spec.limits = self.limits.clone();
        spec.env.clone_from(&self.env);
        spec.config = Arc::clone(&self.config);
        egress::execute(&self.sandbox, &self.loaded.prepared, spec, (&self.gateway, &self.http), (host, account), signals).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_registration_is_held_to_what_the_sandbox_was_built_for() {
        let roster = Roster {
            configured: BTreeMap::new(),
            limits: Limits::default(),
            credentials: BTreeMap::new(),
            prices: Arc::default(),
            quarantine_after: 0,
            most_memory_bytes: 256 << 20,
            most_table_elements: 100_000,
        };
        let read = |limits: Value| roster.read(&AgentId::parse("a").unwrap(), json!({"limits": limits}).as_object().unwrap());
        assert_eq!(read(json!({"memory_bytes": 256 << 20})).unwrap().limits.memory_bytes, 256 << 20);
        for (name, limit) in [("memory_bytes", 512 << 20), ("table_elements", 100_001)] {
            let told = read(json!({name: limit})).unwrap_err().to_string();
            assert!(told.contains(name) && told.contains("for which this daemon was started"), "{told}");
        }
    }

    #[test]
    fn a_configuration_is_read_as_texts() {
        let values = json!({"text": "as it \"is\"", "number": 0.5, "flag": true, "list": [1, "b"], "table": {"a": null}});
        let values: BTreeMap<String, Value> = values.as_object().unwrap().clone().into_iter().collect();
        let wanted = [("flag", "true"), ("list", "[1,\"b\"]"), ("number", "0.5"), ("table", "{\"a\":null}"), ("text", "as it \"is\"")];
        assert_eq!(config_texts(&values).to_vec(), wanted.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }
}
