//! What specs stand for.

use super::*;
use crate::config::{AgentSettings, Environment, parse, registered_agent};
use crate::domain::agent::Limits;

const OPENAI: &str = "[credentials.main]\nhost = \"api.openai.com\"\nenv = \"K\"\nregistered_agents = true\n";

fn register(config: &str, body: Json) -> Result<AgentSettings, Faults> {
    let settings = parse(config, std::path::Path::new("x.toml"), &Environment::default()).unwrap().settings;
    let Json::Object(table) = body else { panic!("an object") };
    registered_agent(&AgentId::parse("helper").unwrap(), &table, &Limits::default(), &settings.credentials)
}

fn faults(body: Json) -> Vec<(String, String)> {
    let faults = register(OPENAI, body).unwrap_err();
    faults.iter().map(|fault| (fault.field.clone(), fault.message.clone())).collect()
}

#[test]
fn a_spec_is_the_assistant_with_its_endpoint_and_credential() {
    let spec = json!({"agent_id": "helper", "name": "The helper", "system_instruction": "Be brief.", "metadata": {"team": "a"},
        "model_config": {"provider": "OpenAI", "model": "gpt-x", "temperature": 0.2, "max_tokens": 500, "api_key": null},
        "agent_config": {"max_steps": 7, "tools": ["read"]}, "mcp_tools": [], "local_tools_ref": null, "created_at": "2026-01-01T00:00:00Z"});
    let settings = register(OPENAI, json!({"spec": spec, "max_running": 2})).unwrap();
    assert_eq!((settings.plugin.as_str(), settings.name.as_deref(), settings.max_running), (ASSISTANT, Some("The helper"), Some(2)));
    let config = json!(settings.config);
    let expected = json!({"endpoint": "https://api.openai.com/v1", "instruction": "Be brief.", "max_tokens": 500, "max_turns": 7,
        "model": "gpt-x", "temperature": 0.2, "tools": ["read"]});
    assert_eq!(config, expected);
    let shown: Vec<String> = settings.http.allow.iter().map(crate::domain::http::Allowed::shown).collect();
    assert_eq!(shown, ["{ url = \"https://api.openai.com/v1/chat/completions\", methods = [\"POST\"] }"]);
    assert_eq!(settings.http.credentials.iter().map(|credential| credential.name.as_str()).collect::<Vec<_>>(), ["main"]);
    assert_eq!(settings.metadata.get("team"), Some(&json!("a")));
}

#[test]
fn what_stands_beside_a_spec_adds_to_it() {
    let spec = json!({"model_config": {"provider": "openai", "model": "m"}});
    let body = json!({"spec": spec, "config": {"max_turns": 3}, "http": {"allow": ["https://docs.example"], "credentials": ["main"]}});
    let settings = register(OPENAI, body).unwrap();
    assert_eq!(
        (settings.http.allow.len(), settings.config.get("max_turns"), settings.config.get("model")),
        (2, Some(&json!(3)), Some(&json!("m")))
    );
    let told = faults(json!({"spec": spec, "plugin": "other"}));
    assert_eq!(told[0].0, "plugin");
}

#[test]
fn all_that_is_wrong_is_told_at_its_field() {
    let spec = json!({"name": 5, "colour": "red", "mcp_tools": [{"name": "x"}], "agent_config": {"memory": 1},
        "model_config": {"provider": "openai", "temperature": 0.5, "top_k": 3, "api_key": ""}});
    let told = faults(json!({"spec": spec}));
    let fields: Vec<&str> = told.iter().map(|(field, _)| field.as_str()).collect();
    let expected = [
        "spec.name",
        "spec.mcp_tools",
        "spec.agent_config.memory",
        "spec.model_config.model",
        "spec.model_config.api_key",
        "spec.model_config.top_k",
        "spec.colour",
    ];
    assert_eq!(fields, expected);
    assert!(told[4].1.contains("[credentials.openai]"), "{told:?}");
    assert_eq!(faults(json!({"spec": {"name": "x"}}))[0].0, "spec.model_config");
    let told = faults(json!({"spec": {"model_config": {"provider": "groq", "model": "m"}}}));
    assert!(told[0].0 == "spec.model_config.provider" && told[0].1.contains("[credentials.groq]\nhost = \"api.groq.com\""), "{told:?}");
    assert_eq!(faults(json!({"spec": "x"}))[0].0, "spec");
}

#[test]
fn an_inner_endpoint_is_for_those_whom_a_credential_of_its_own_lets_there() {
    let spec = json!({"model_config": {"base_url": "http://127.0.0.1:11434/v1", "model": "m"}});
    let local =
        |more: &str| format!("[credentials.local]\nhost = \"127.0.0.1\"\nport = 11434\nenv = \"K\"\nallow_http_loopback = true\n{more}");
    assert!(register(&local(""), json!({"spec": spec})).unwrap_err().to_string().contains("registered_agents = true"));
    let settings = register(&local("registered_agents = true"), json!({"spec": spec})).unwrap();
    assert_eq!(settings.http.allow.len(), 1);
    let more = json!({"spec": spec, "http": {"allow": ["http://127.0.0.1:8080", {"url": "http://127.0.0.1:11434/", "addresses": ["10.0.0.0/8"]}]}});
    let told = register(&local("registered_agents = true"), more).unwrap_err();
    assert_eq!(told.iter().filter(|fault| fault.field == "http.allow").count(), 2, "{told}");
}

#[test]
fn a_key_is_answered_with_the_lines_for_its_endpoint() {
    let body = json!({"spec": {"model_config": {"provider": "openai", "model": "m", "api_key": "abc"}}});
    let mend = instead_of_a_key(&body).unwrap();
    assert!(mend.contains("[credentials.openai]\nhost = \"api.openai.com\"") && !mend.contains("abc"), "{mend}");
    assert_eq!(instead_of_a_key(&json!({"env": {"API_KEY": "x"}})), None);
}

#[test]
fn the_values_of_the_assistant_are_those_of_the_plugin() {
    let source = include_str!("../../../plugins/assistant/src/settings.rs");
    let list =
        source.split_once("const KNOWN").and_then(|(_, rest)| rest.split_once('=')).and_then(|(_, rest)| rest.split_once("];")).unwrap().0;
    let known: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(known.len() > 10, "{known:?}");
    let elsewhere = ["endpoint", "extra", "instruction", "max_tokens", "model", "temperature", "top_p"];
    let here: Vec<&str> = OF_AGENT.into_iter().filter(|key| *key != "max_steps").collect();
    assert!(known.iter().all(|key| here.contains(key) || elsewhere.contains(key)), "{known:?}");
    assert!(here.iter().chain(&elsewhere).all(|key| known.contains(key)), "{known:?}");
}
