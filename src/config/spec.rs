//! An agent as the seed's system describes one (`name`, `system_instruction`, `model_config`), as the keys of `[agents.NAME]`: the plugin
//! `assistant` with its values, the one endpoint that it may call, and the credential for that.
//!
//! Invariant: a key is refused and never kept or repeated. It fails with all that is wrong at once, each at its field.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::provider::Endpoint;
use crate::domain::http::Credential;
use crate::domain::id::AgentId;
use crate::domain::input::{Faults, Fields};

/// The plugin that such an agent runs.
pub const ASSISTANT: &str = "assistant";
/// The key under which a registration keeps what it was made from.
pub const SPEC: &str = "spec";

const KNOWN: [&str; 11] = [
    "agent_id",
    "agent_config",
    "created_at",
    "local_tools_ref",
    "mcp_tools",
    "metadata",
    "model_config",
    "name",
    "system_instruction",
    "updated_at",
    "workspace_config",
];
const OF_MODEL: [&str; 7] = ["provider", "model", "base_url", "temperature", "top_p", "max_tokens", "extra"];
/// The values of the assistant that `agent_config` can give; a test compares them with the plugin's.
const OF_AGENT: [&str; 12] = [
    "max_answer_bytes",
    "max_context_bytes",
    "max_mistakes",
    "max_steps",
    "max_tool_bytes",
    "max_tool_calls",
    "max_tries",
    "max_turns",
    "max_wait_seconds",
    "stream",
    "timeout_seconds",
    "tools",
];

/// The id in a spec, or the one that its name can be.
pub fn id_of(spec: &Json) -> Option<AgentId> {
    let text = |key: &str| spec.get(key).and_then(Json::as_str);
    text("agent_id").or(text("name")).and_then(|id| AgentId::parse(id).ok())
}

/// The instruction and the model of an agent that was made from a spec, as they were given.
pub fn shown(settings: &Map<String, Json>) -> (Option<String>, Option<Json>) {
    let of = |key: &str| settings.get(SPEC).and_then(|spec| spec.get(key)).filter(|value| !value.is_null()).cloned();
    (of("system_instruction").and_then(|text| text.as_str().map(str::to_owned)), of("model_config"))
}

/// What to do instead of giving a key to an agent: a sentence, with the lines for the endpoint of the body's spec.
pub fn instead_of_a_key(body: &Json) -> Option<String> {
    let model = body.get(SPEC)?.get("model_config")?;
    let text = |key: &str| model.get(key).and_then(Json::as_str);
    let endpoint = Endpoint::find(text("provider"), text("base_url").or(text("endpoint"))).ok()?;
    Some(format!(
        "looks like a secret, and agents never hold keys: take it out, add these lines to the daemon's configuration, set the variable, and register the agent again\n{}",
        endpoint.lines()
    ))
}

/// Settings with the keys that their spec stands for; as they are without one. What is given beside the spec wins, and adds to its lists.
///
/// # Errors
/// All that is wrong with the spec.
pub(super) fn expanded(table: &Map<String, Json>, credentials: &BTreeMap<String, Arc<Credential>>) -> Result<Map<String, Json>, Faults> {
    let mut given = table.clone();
    let Some(spec) = given.shift_remove(SPEC) else { return Ok(given) };
    let mut faults = Faults::new();
    if given.contains_key("plugin") {
        faults.add("plugin", format!("cannot stand beside `spec`, whose agents run the plugin `{ASSISTANT}`; leave one of them out"));
    }
    let named = given.get("http").and_then(|http| http.get("credentials")).and_then(Json::as_array).is_some_and(|names| !names.is_empty());
    let made = read(spec, &mut faults, (!named).then_some(credentials));
    faults.into_result(merged(made, given))
}

/// What a spec stands for. `credentials` are those to find one among; none where one is named.
fn read(spec: Json, faults: &mut Faults, credentials: Option<&BTreeMap<String, Arc<Credential>>>) -> Map<String, Json> {
    let mut fields = Fields::open(SPEC, spec, faults);
    for key in ["agent_id", "created_at", "updated_at"] {
        fields.raw(key);
    }
    let (name, metadata) = (fields.optional::<String>("name"), fields.raw("metadata"));
    let instruction = fields.or_default::<String>("system_instruction");
    for (key, mend) in [
        ("mcp_tools", "the tools of the assistant are those of `agent_config.tools`"),
        ("local_tools_ref", "the tools of the assistant are those of `agent_config.tools`"),
        ("workspace_config", "the workspace is the run's own, and the daemon's configuration says where it is"),
    ] {
        let value = fields.raw(key);
        let is_empty =
            value.as_ref().is_none_or(|value| value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty));
        if !is_empty {
            fields.fault(key, format!("cannot be made into an agent here: {mend}; leave it out"));
        }
    }
    let mut config = Map::new();
    agent_config(&mut fields, &mut config);
    let http = model_config(&mut fields, &mut config, credentials);
    fields.refuse_rest(&KNOWN);
    if !instruction.is_empty() {
        config.insert("instruction".to_owned(), json!(instruction));
    }
    let mut made = Map::new();
    made.insert("plugin".to_owned(), json!(ASSISTANT));
    let rest = [("name", name.map(Json::from)), ("metadata", metadata), ("config", Some(Json::Object(config))), ("http", http)];
    made.extend(rest.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    made
}

fn agent_config(fields: &mut Fields<'_>, config: &mut Map<String, Json>) {
    let Some(mut given) = fields.nested("agent_config") else { return };
    for key in OF_AGENT {
        let Some(value) = given.raw(key) else { continue };
        config.insert(if key == "max_steps" { "max_turns" } else { key }.to_owned(), value);
    }
    given.refuse_rest(&OF_AGENT);
}

/// Reads the model into the assistant's values, and gives what it may call.
fn model_config(
    fields: &mut Fields<'_>,
    config: &mut Map<String, Json>,
    credentials: Option<&BTreeMap<String, Arc<Credential>>>,
) -> Option<Json> {
    let Some(mut model) = fields.nested("model_config") else {
        if !fields.has("model_config") {
            fields.fault("model_config", "is required: `{\"provider\": \"openai\", \"model\": \"...\"}`");
        }
        return None;
    };
    let provider = model.optional::<String>("provider");
    let base_url = ["base_url", "endpoint", "api_base"].into_iter().filter_map(|key| model.optional::<String>(key)).next();
    if let Some(name) = model.required::<String>("model") {
        config.insert("model".to_owned(), json!(name));
    }
    for key in ["temperature", "top_p", "max_tokens", "extra"] {
        if let Some(value) = model.raw(key) {
            config.insert(key.to_owned(), value);
        }
    }
    let endpoint = Endpoint::find(provider.as_deref(), base_url.as_deref());
    // An empty one is an environment without the variable: it is the daemon's that counts.
    if let (Some(_), Ok(endpoint)) = (model.raw("api_key"), &endpoint) {
        model.fault(
            "api_key",
            format!("is never given to an agent: take it out, and add these lines to the daemon's configuration\n{}", endpoint.lines()),
        );
    }
    let http = match endpoint {
        Err((field, why)) => {
            model.fault(field, why);
            None
        }
        Ok(endpoint) => {
            config.insert("endpoint".to_owned(), json!(endpoint.base));
            let found = match credentials.map(|credentials| endpoint.credential(credentials)) {
                None => Vec::new(),
                Some(Ok(name)) => vec![name],
                Some(Err(why)) => {
                    model.fault("provider", why);
                    Vec::new()
                }
            };
            Some(json!({"allow": [{"url": endpoint.url(), "methods": ["POST"]}], "credentials": found}))
        }
    };
    model.refuse_rest(&OF_MODEL);
    http
}

/// What was made, with what was given: tables are taken together, lists one after the other, and of all else what was given.
fn merged(mut made: Map<String, Json>, given: Map<String, Json>) -> Map<String, Json> {
    for (key, value) in given {
        let value = match (made.shift_remove(&key), value) {
            (Some(Json::Object(made)), Json::Object(given)) => Json::Object(merged(made, given)),
            (Some(Json::Array(made)), Json::Array(given)) if key == "allow" => made.into_iter().chain(given).collect(),
            (_, value) => value,
        };
        made.insert(key, value);
    }
    made
}

#[cfg(test)]
mod tests;
