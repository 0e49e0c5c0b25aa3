//! The settings of an agent that is registered over the API: JSON with the keys of `[agents.NAME]`, read by the same reader.
//!
//! It fails with all that is wrong at once, each at its field.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::agents;
use super::document::{Node, Table, Value};
use super::environment::Environment;
use super::fault::Origin;
use super::section::Reading;
use super::seed::Seed;
use super::settings::AgentSettings;
use super::spec;
use crate::domain::agent::Limits;
use crate::domain::http::{Allowed, Credential};
use crate::domain::id::AgentId;
use crate::domain::input::Faults;

/// Reads the settings of an agent from JSON as the file has them in `[agents.NAME]`, or made from a `spec` in it; `base` are the limits for what is not given, `credentials`
/// those that it may name.
///
/// # Errors
/// All that is wrong with them.
pub fn registered_agent(
    id: &AgentId,
    table: &Map<String, Json>,
    base: &Limits,
    credentials: &BTreeMap<String, Arc<Credential>>,
) -> Result<AgentSettings, Faults> {
    let table = spec::expanded(table, credentials)?;
    let credentials = credentials.iter().map(|(name, credential)| (name.clone(), Some(Arc::clone(credential)))).collect();
    let env = Environment::default();
    let (seed, faults, entries) = (Seed::default(), Vec::new(), Vec::new());
    let node = node(&Json::Object(table));
    let mut reading = Reading { env: &env, seed, faults, entries, variables: BTreeSet::new() };
    let settings = agents::agent(&mut reading, id, Some(&node), (base, &credentials));
    let refused = refused_grants(id, &settings);
    let (all, mut faults) = (format!("agents.{id}"), Faults::new());
    for fault in reading.faults {
        let key = fault.key.unwrap_or_default();
        let field = key.strip_prefix(&all).map_or(key.as_str(), |rest| rest.trim_start_matches('.'));
        faults.add(field, fault.message);
    }
    for (field, message) in refused {
        faults.add(field, message);
    }
    faults.into_result(settings)
}

/// What a registration may not grant: whoever may register agents does not thereby reach the daemon's own network, or every key that it has.
fn refused_grants(id: &AgentId, settings: &AgentSettings) -> Vec<(&'static str, String)> {
    // Whoever gave these agents the key of a host let them reach it.
    let lets = |entry: &Allowed| {
        settings.http.credentials.iter().any(|credential| credential.registered_agents && entry.is_just(&credential.host, credential.port))
    };
    let inner = settings.http.allow.iter().filter(|entry| !entry.is_public() && !lets(entry)).map(|entry| {
        let message = format!(
            "has `{}`, which may stand for an address that is not public; only the daemon's configuration grants that, in `[agents.{id}.http]` or with a credential of that host for registered agents",
            entry.shown()
        );
        ("http.allow", message)
    });
    let kept = settings.http.credentials.iter().filter(|credential| !credential.registered_agents).map(|credential| {
        let name = &credential.name;
        let message = format!(
            "names `{name}`, which agents registered over the API may use only with `registered_agents = true` in `[credentials.{name}]`"
        );
        ("http.credentials", message)
    });
    inner.chain(kept).collect()
}

/// What JSON can say as what the file can say; a null is as good as nothing.
fn node(json: &Json) -> Node {
    let value = match json {
        Json::Null => Value::Table(Table::new()),
        Json::Bool(flag) => Value::Flag(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => Value::Whole(whole),
            (None, None, Some(fraction)) => Value::Fraction(fraction),
            _ => Value::TooLarge(number.to_string()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(values) => Value::List(values.iter().filter(|value| !value.is_null()).map(node).collect()),
        Json::Object(object) => {
            Value::Table(object.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), node(value))).collect())
        }
    };
    Node { value, origin: Origin::Default }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(table: Json) -> Result<AgentSettings, Faults> {
        let Json::Object(table) = table else { panic!("an object") };
        registered_agent(&AgentId::parse("a.b").unwrap(), &table, &Limits::default(), &BTreeMap::new())
    }

    #[test]
    fn it_reads_what_the_file_reads() {
        let body = json!({"plugin": "shared", "name": "A", "timeout_seconds": 1.5, "max_running": 2, "max_queued_runs": 7, "env": {"K": "v"},
            "config": {"list": [1, 0.5, "x", true, null, {"deep": null}]}, "metadata": null, "limits": {"memory_bytes": 65536}});
        let from_json = read(body).unwrap();
        let text = "[agents.\"a.b\"]\nplugin = \"shared\"\nname = \"A\"\ntimeout_seconds = 1.5\nmax_running = 2\nmax_queued_runs = 7
            env = { K = \"v\" }\nconfig = { list = [1, 0.5, \"x\", true, { }] }\nlimits = { memory_bytes = 65536 }";
        let loaded = crate::config::parse(text, std::path::Path::new("x.toml"), &Environment::default()).unwrap();
        assert_eq!(Some(&from_json), loaded.settings.agents.get(&AgentId::parse("a.b").unwrap()));
        assert_eq!(read(json!({})).unwrap().plugin, "a.b");
    }

    #[test]
    fn a_registration_grants_neither_inner_addresses_nor_keys_that_are_not_meant_for_it() {
        let text = "[credentials.open]\nhost = \"a.example\"\nenv = \"A_KEY\"\nregistered_agents = true\n[credentials.own]\nhost = \"a.example\"\nenv = \"A_KEY\"";
        let settings = crate::config::parse(text, std::path::Path::new("x.toml"), &Environment::default()).unwrap().settings;
        let read = |http: Json| {
            let Json::Object(table) = json!({"http": http}) else { panic!("an object") };
            registered_agent(&AgentId::parse("a").unwrap(), &table, &settings.limits, &settings.credentials)
        };
        let taken = read(json!({"allow": ["https://a.example", "https://*.b.example/x/"], "credentials": ["open"]})).unwrap();
        assert_eq!((taken.http.allow.len(), taken.http.credentials.len()), (2, 1));
        for entry in [
            json!("http://169.254.169.254"),
            json!("http://127.0.0.1:8000"),
            json!("http://[::ffff:10.0.0.1]"),
            json!("http://2130706433"),
            json!("http://localhost:8000"),
            json!({"url": "https://a.example", "addresses": ["0.0.0.0/0"]}),
        ] {
            let faults = read(json!({"allow": [entry]})).unwrap_err().to_string();
            assert!(faults.contains("http.allow") && faults.contains("not public"), "{faults}");
        }
        let faults = read(json!({"allow": ["https://a.example"], "credentials": ["own"]})).unwrap_err().to_string();
        assert!(faults.contains("http.credentials") && faults.contains("registered_agents = true"), "{faults}");
    }

    #[test]
    fn all_faults_are_told_at_their_fields() {
        let faults = read(json!({"plugin": 5, "limits": {"memory_bytes": 1, "memory": 2}, "env": {"": "x"}, "colour": "red", "config": 1}));
        let fields: Vec<String> = faults.unwrap_err().iter().map(|fault| fault.field.clone()).collect();
        assert_eq!(fields, ["plugin", "env", "config", "colour", "limits.memory_bytes", "limits.memory"]);
        let large = read(json!({"config": {"n": 18_446_744_073_709_551_615_u64}})).unwrap_err();
        assert!(large.to_string().contains("past 64 bits"), "{large}");
    }
}
