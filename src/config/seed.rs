//! The variables of the system that people come from, as values of our own settings.
//!
//! Invariant: one of our own variables beats them, so nothing here is judged that a later reader judges anyway.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Node, Value};
use super::environment::{Environment, flag_of};
use super::fault::{ConfigFault, Origin};

/// The values that the seed's variables give, by our settings' dotted paths.
#[derive(Default)]
pub(super) struct Seed {
    pub(super) values: BTreeMap<&'static str, Node>,
    pub(super) faults: Vec<ConfigFault>,
    pub(super) warnings: Vec<String>,
    asked: BTreeSet<&'static str>,
}

/// Variables that pass their value on as it is.
const SAME: [(&str, &str); 5] = [
    ("OMNICOREAGENT_BACKGROUND_AGENT_ID", "default_agent"),
    ("OMNICOREAGENT_BACKGROUND_START_WORKER", "worker.enabled"),
    ("OMNICOREAGENT_WORKSPACE_DIR", "paths.workspace"),
    ("OMNICOREAGENT_SERVE_API_PREFIX", "server.api_prefix"),
    ("OMNICOREAGENT_SERVE_REQUEST_TIMEOUT", "server.request_timeout_seconds"),
];

/// Translates what is set.
pub(super) fn translate(env: &Environment) -> Seed {
    let mut seed = Seed::default();
    for (variable, key) in SAME {
        if let Some(value) = seed.get(env, variable) {
            seed.put(key, variable, value);
        }
    }
    seed.listen(env);
    seed.token(env);
    seed.log_level(env);
    seed.store(env);
    seed.background(env);
    seed.warn_of_the_rest(env);
    seed
}

impl Seed {
    fn get<'e>(&mut self, env: &'e Environment, variable: &'static str) -> Option<&'e str> {
        self.asked.insert(variable);
        env.get(variable)
    }

    fn put(&mut self, key: &'static str, variable: &str, value: &str) {
        self.values.insert(key, Node { value: Value::Text(value.to_owned()), origin: Origin::of_variable(variable) });
    }

    fn fault(&mut self, variable: &str, message: impl Into<String>) {
        self.faults.push(ConfigFault { origin: Origin::of_variable(variable), key: None, message: message.into() });
    }

    /// A switch; none when it is missing or unreadable.
    fn switch(&mut self, env: &Environment, variable: &'static str) -> Option<bool> {
        match flag_of(self.get(env, variable)?) {
            Ok(on) => Some(on),
            Err(message) => {
                self.fault(variable, message);
                None
            }
        }
    }

    /// A port alone keeps to the loopback addresses: a public one must be asked for.
    fn listen(&mut self, env: &Environment) {
        let (host_variable, port_variable) = ("OMNICOREAGENT_SERVE_HOST", "OMNICOREAGENT_SERVE_PORT");
        let host = self.get(env, host_variable);
        let port = self.get(env, port_variable);
        let variable = if host.is_some() { host_variable } else { port_variable };
        if host.is_none() && port.is_none() {
            return;
        }
        let port = port.unwrap_or("8000");
        let address = match host {
            Some(host) if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
            Some(host) => format!("{host}:{port}"),
            None => format!("localhost:{port}"),
        };
        self.put("server.listen", variable, &address);
    }

    fn token(&mut self, env: &Environment) {
        let (enabled_variable, token_variable) = ("OMNICOREAGENT_SERVE_AUTH_ENABLED", "OMNICOREAGENT_SERVE_AUTH_TOKEN");
        let enabled = self.switch(env, enabled_variable);
        let token = self.get(env, token_variable);
        match (enabled, token) {
            (Some(true), Some(token)) => self.put("server.token", token_variable, token),
            (Some(true), None) => self.fault(enabled_variable, format!("asks for a token and there is none; set {token_variable}")),
            (_, Some(_)) => self.warnings.push(format!("{token_variable} has no effect unless {enabled_variable} is true")),
            (_, None) => {}
        }
    }

    fn log_level(&mut self, env: &Environment) {
        let variable = "OMNICOREAGENT_SERVE_LOG_LEVEL";
        if let Some(level) = self.get(env, variable) {
            let level = level.to_ascii_lowercase();
            let level = match level.as_str() {
                "warning" => "warn",
                "critical" | "fatal" => "error",
                other => other,
            };
            self.put("logging.level", variable, level);
        }
    }

    fn store(&mut self, env: &Environment) {
        let (store_variable, url_variable) = ("OMNICOREAGENT_BACKGROUND_TASK_STORE", "OMNICOREAGENT_BACKGROUND_TASK_STORE_URL");
        let uri_variable = "OMNICOREAGENT_BACKGROUND_TASK_STORE_URI";
        let (store, url, uri) = (self.get(env, store_variable), self.get(env, url_variable), self.get(env, uri_variable));
        // The variable of its own, and the one that other programs share, of the store that was meant.
        let shared =
            |own: &'static str, of_all: &'static str| [own, of_all].into_iter().find_map(|name| env.get(name).map(|url| (name, url)));
        let is_mongodb = uri.is_some() || store == Some("mongodb");
        match (store, url) {
            _ if is_mongodb => match shared(uri_variable, "MONGODB_URI") {
                Some((variable, uri)) => self.put("store.url", variable, uri),
                None => self.put("store.url", store_variable, "mongodb"),
            },
            (None | Some("in_memory" | "sql" | "redis"), Some(url)) => self.put("store.url", url_variable, url),
            (Some("sql"), None) => match env.get("DATABASE_URL") {
                Some(url) => self.put("store.url", "DATABASE_URL", url),
                None => self.put("store.url", store_variable, "sqlite"),
            },
            (Some("redis"), None) => match env.get("REDIS_URL") {
                Some(url) => self.put("store.url", "REDIS_URL", url),
                None => self.put("store.url", store_variable, "redis"),
            },
            (Some("in_memory"), None) => self.put("store.url", store_variable, "memory"),
            // Any other name is refused where the store is read, unless one of our own variables beats it.
            (Some(other), _) => self.put("store.url", store_variable, other),
            (None, None) => {}
        }
        // With a store of our own, the names of theirs mean nothing.
        let ours = env.get("SANDCLOCK_STORE").is_some();
        self.store_names(env, is_mongodb && !ours, store == Some("redis") && !ours);
    }

    /// The names that keep a store apart from others on its server.
    fn store_names(&mut self, env: &Environment, is_mongodb: bool, is_redis: bool) {
        let of_redis = ("store.prefix", "OMNICOREAGENT_BACKGROUND_TASK_STORE_PREFIX");
        let of_mongodb = ("store.prefix", "OMNICOREAGENT_BACKGROUND_TASK_STORE_COLLECTION_PREFIX");
        let database = ("store.database", "OMNICOREAGENT_BACKGROUND_TASK_STORE_DATABASE");
        for ((key, variable), means) in [(of_redis, is_redis), (of_mongodb, is_mongodb), (database, is_mongodb)] {
            if let Some(value) = self.get(env, variable) {
                if means {
                    self.put(key, variable, value);
                } else {
                    self.warnings.push(format!("{variable} has no effect on this store"));
                }
            }
        }
        let database = self.values.contains_key("store.database");
        if let Some(name) = env.get("MONGODB_DATABASE").filter(|_| is_mongodb && !database) {
            self.put("store.database", "MONGODB_DATABASE", name);
        }
    }

    fn background(&mut self, env: &Environment) {
        let variable = "OMNICOREAGENT_BACKGROUND_ENABLED";
        if self.switch(env, variable) == Some(false) {
            self.fault(variable, "turns background runs off, and the daemon does nothing else; unset it, or do not start the daemon");
        }
    }

    /// What is set and means nothing here is said, so that nobody relies on it.
    fn warn_of_the_rest(&mut self, env: &Environment) {
        for name in env.names() {
            let concerns = name.starts_with("OMNICOREAGENT_BACKGROUND_") || name.starts_with("OMNICOREAGENT_SERVE_");
            if concerns && !self.asked.contains(name) {
                self.warnings.push(format!("{name} has no effect here"));
            }
        }
    }
}
