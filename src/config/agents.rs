//! The settings of agents, their limits, and the tasks of the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::domain::agent::Limits;
use crate::domain::approval::MOST_APPROVALS;
use crate::domain::checkpoint::MOST_CHECKPOINTS;
use crate::domain::id::{AgentId, TaskId};
use crate::domain::memory::MOST_KEYS;

use super::budget;
use super::document::{Node, Table, Value};
use super::fault::{ConfigFault, Origin, shown};
use super::http::{self, Credentials};
use super::section::{Reading, Section, file_key, key, seconds_json, seconds_of, text_of, whole_of};
use super::settings::{AgentSettings, TaskEntry};

/// The id of the agent that is there without a file, and the plugin behind it.
pub(super) const DEFAULT_AGENT: &str = "default";
const DEFAULT_PLUGIN: &str = "hello";
/// The longest time limit that a setting may give, in seconds: a year.
pub(super) const LONGEST: f64 = 366.0 * 86_400.0;
const GIB: u64 = 1024 * 1024 * 1024;

/// Reads limits, `base` for what is not given.
pub(super) fn limits(section: &mut Section<'_, '_>, base: &Limits) -> Limits {
    Limits {
        // A linear memory grows by pages of 64 KiB, and a 32-bit guest has at most 4 GiB of it.
        memory_bytes: section.whole(key("memory_bytes", "SANDCLOCK_LIMITS_MEMORY_BYTES"), base.memory_bytes, 65_536..=4 * GIB),
        table_elements: section.whole(key("table_elements", "SANDCLOCK_LIMITS_TABLE_ELEMENTS"), base.table_elements, 1..=100_000_000),
        disk_bytes: section.whole(key("disk_bytes", "SANDCLOCK_LIMITS_DISK_BYTES"), base.disk_bytes, 0..=1024 * 1024 * GIB),
        disk_files: section.whole(key("disk_files", "SANDCLOCK_LIMITS_DISK_FILES"), base.disk_files, 0..=100_000_000),
        // The answer is kept in a record, and a record is at most 1 MiB.
        output_bytes: section.whole(
            key("output_bytes", "SANDCLOCK_LIMITS_OUTPUT_BYTES"),
            base.output_bytes,
            1..=Limits::default().output_bytes,
        ),
        log_bytes: section.whole(key("log_bytes", "SANDCLOCK_LIMITS_LOG_BYTES"), base.log_bytes, 0..=GIB),
        events: section.whole(key("events", "SANDCLOCK_LIMITS_EVENTS"), base.events, 0..=1_000_000),
        event_bytes: section.whole(key("event_bytes", "SANDCLOCK_LIMITS_EVENT_BYTES"), base.event_bytes, 1..=65_536),
        host_calls: section.whole(key("host_calls", "SANDCLOCK_LIMITS_HOST_CALLS"), base.host_calls, 1..=1_000_000_000_000),
        concurrent_file_calls: section.whole(
            key("concurrent_file_calls", "SANDCLOCK_LIMITS_CONCURRENT_FILE_CALLS"),
            base.concurrent_file_calls,
            1..=1024,
        ),
        handles: section.whole(key("handles", "SANDCLOCK_LIMITS_HANDLES"), base.handles, 16..=1_000_000),
        keyvalue_keys: section.whole(key("keyvalue_keys", "SANDCLOCK_LIMITS_KEYVALUE_KEYS"), base.keyvalue_keys, 0..=MOST_KEYS),
        keyvalue_bytes: section.whole(key("keyvalue_bytes", "SANDCLOCK_LIMITS_KEYVALUE_BYTES"), base.keyvalue_bytes, 0..=GIB),
        keyvalue_traffic_bytes: section.whole(
            key("keyvalue_traffic_bytes", "SANDCLOCK_LIMITS_KEYVALUE_TRAFFIC_BYTES"),
            base.keyvalue_traffic_bytes,
            0..=1024 * GIB,
        ),
        checkpoints: section.whole(key("checkpoints", "SANDCLOCK_LIMITS_CHECKPOINTS"), base.checkpoints, 0..=MOST_CHECKPOINTS.into()),
        checkpoint_bytes: section.whole(key("checkpoint_bytes", "SANDCLOCK_LIMITS_CHECKPOINT_BYTES"), base.checkpoint_bytes, 0..=GIB),
        approvals: section.whole(key("approvals", "SANDCLOCK_LIMITS_APPROVALS"), base.approvals, 0..=MOST_APPROVALS.into()),
    }
}

/// Reads `[agents]`. The agent `default` is there without an entry when it is the one for tasks that name none.
pub(super) fn agents<'a>(
    reading: &mut Reading<'a>,
    root: Option<&'a Node>,
    default_agent: &AgentId,
    base: (&Limits, &Credentials),
) -> BTreeMap<AgentId, AgentSettings> {
    let mut agents = BTreeMap::new();
    let table = match root.map(|node| (&node.value, &node.origin)) {
        None => None,
        Some((Value::Table(table), _)) => Some(table),
        Some((other, origin)) => {
            reading.fault(origin.clone(), "agents", format!("must hold tables such as `[agents.default]`, not {}", other.describe()));
            None
        }
    };
    for (name, node) in table.into_iter().flatten() {
        match AgentId::parse(name) {
            Ok(id) => {
                let settings = agent(reading, &id, Some(node), base);
                agents.insert(id, settings);
            }
            Err(error) => reading.fault(node.origin.clone(), &format!("agents.{}", shown(name)), format!("has a bad name: {error}")),
        }
    }
    if default_agent.as_str() == DEFAULT_AGENT && !agents.contains_key(default_agent) {
        let settings = agent(reading, default_agent, None, base);
        agents.insert(default_agent.clone(), settings);
    }
    agents
}

/// Reads one agent's settings.
pub(super) fn agent<'a>(
    reading: &mut Reading<'a>,
    id: &AgentId,
    node: Option<&'a Node>,
    (base, credentials): (&Limits, &Credentials),
) -> AgentSettings {
    let path = format!("agents.{id}");
    let mut section = reading.open(node, path.clone());
    let own_plugin = if id.as_str() == DEFAULT_AGENT { DEFAULT_PLUGIN } else { id.as_str() };
    let plugin = section.or(file_key("plugin"), own_plugin.to_owned(), |stem| stem.as_str().into(), stem_of);
    let mut section = section.file_only();
    let name = given(&mut section, "name", |name| name.as_str().into(), name_of);
    let timeout = given(&mut section, "timeout_seconds", seconds_json, |node| seconds_of(node, &(0.001..=LONGEST)));
    let max_running = given(&mut section, "max_running", |most: &u32| (*most).into(), |node| whole_of(node, &(1..=100_000)));
    let max_queued_runs = given(&mut section, "max_queued_runs", |most: &u64| (*most).into(), |node| whole_of(node, &(1..=1_000_000_000)));
    // The guest may see the values, whoever runs `config show` need not.
    let env = given(&mut section, "env", |env| env.keys().cloned().collect::<Vec<_>>().into(), env_of).unwrap_or_default();
    let config = given(&mut section, "config", json_of, values_of).unwrap_or_default();
    let metadata = given(&mut section, "metadata", json_of, values_of).unwrap_or_default();
    let (limits_node, http_node, budget_node) = (section.node("limits"), section.node("http"), section.node("budget"));
    section.finish();
    let mut section = reading.open(limits_node, format!("{path}.limits")).file_only();
    let limits = limits(&mut section, base);
    section.finish();
    let http = http::policy(reading, http_node, format!("{path}.http"), credentials);
    let budget = budget::budget(reading, budget_node, &format!("{path}.budget"));
    AgentSettings { plugin, name, timeout, max_running, max_queued_runs, env, config, limits, http, budget, metadata }
}

/// A setting without a default.
pub(super) fn given<T>(
    section: &mut Section<'_, '_>,
    name: &'static str,
    show: impl FnOnce(&T) -> Json,
    read: impl FnOnce(&Node) -> Result<T, String>,
) -> Option<T> {
    let (value, origin) = section.given(file_key(name), read)?;
    section.tell(name, show(&value), origin);
    Some(value)
}

fn stem_of(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    if text.ends_with(".wasm") {
        return Err(format!("must be the plugin's name without `.wasm`, not `{}`", shown(text)));
    }
    match AgentId::parse(text) {
        Ok(stem) => Ok(stem.as_str().to_owned()),
        Err(_) => Err(format!("must be a plugin's name of 1 to 128 letters, digits, `_`, `.` and `-`, not `{}`", shown(text))),
    }
}

fn name_of(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    if text.trim().is_empty() || text.chars().count() > 256 || text.chars().any(char::is_control) {
        return Err("must be 1 to 256 characters without control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn env_of(node: &Node) -> Result<BTreeMap<String, String>, String> {
    let Value::Table(table) = &node.value else {
        return Err(format!("must be a table of texts, not {}", node.value.describe()));
    };
    let mut env = BTreeMap::new();
    for (name, node) in table {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!("has the variable `{}`, whose name is empty or has a `=`; rename it", shown(name)));
        }
        match &node.value {
            Value::Text(text) if !text.contains('\0') => env.insert(name.clone(), text.clone()),
            _ => return Err(format!("has the variable `{}`, which must be a text in quotes without zero bytes", shown(name))),
        };
    }
    Ok(env)
}

fn values_of(node: &Node) -> Result<BTreeMap<String, Json>, String> {
    let Value::Table(table) = &node.value else {
        return Err(format!("must be a table, not {}", node.value.describe()));
    };
    table.iter().map(|(name, node)| json(node).map(|value| (name.clone(), value))).collect()
}

fn json_of(values: &BTreeMap<String, Json>) -> Json {
    Json::Object(values.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A value as JSON; times become texts.
fn json(node: &Node) -> Result<Json, String> {
    Ok(match &node.value {
        Value::Text(text) | Value::Time(text) => Json::from(text.as_str()),
        Value::Whole(number) => Json::from(*number),
        Value::Flag(flag) => Json::from(*flag),
        Value::Fraction(number) => {
            serde_json::Number::from_f64(*number).map(Json::Number).ok_or_else(|| format!("must not hold {number}; give a number"))?
        }
        Value::TooLarge(digits) => return Err(format!("must not hold {}, which is past 64 bits; write it as a text", shown(digits))),
        Value::List(nodes) => Json::Array(nodes.iter().map(json).collect::<Result<_, _>>()?),
        Value::Table(table) => Json::Object(object(table)?),
    })
}

fn object(table: &Table) -> Result<Map<String, Json>, String> {
    table.iter().map(|(name, node)| json(node).map(|value| (name.clone(), value))).collect()
}

/// Reads `[[tasks]]`: ids are judged here, the rest of a task is the domain's to judge.
pub(super) fn tasks(reading: &mut Reading<'_>, root: Option<&Node>) -> Vec<TaskEntry> {
    let Some(root) = root else { return Vec::new() };
    let Value::List(nodes) = &root.value else {
        reading.fault(root.origin.clone(), "tasks", format!("must be written as `[[tasks]]`, not as {}", root.value.describe()));
        return Vec::new();
    };
    let mut seen: BTreeMap<TaskId, u32> = BTreeMap::new();
    let mut tasks = Vec::new();
    for node in nodes {
        match task(node, &mut seen) {
            Ok(task) => tasks.push(task),
            Err(message) => reading.faults.push(ConfigFault { origin: node.origin.clone(), key: Some("tasks".to_owned()), message }),
        }
    }
    tasks
}

fn task(node: &Node, seen: &mut BTreeMap<TaskId, u32>) -> Result<TaskEntry, String> {
    let Value::Table(table) = &node.value else {
        return Err(format!("must hold tables, not {}", node.value.describe()));
    };
    let Origin::File { file, line } = &node.origin else {
        return Err("must be written in the file".to_owned());
    };
    let id = match table.get("task_id").map(|id| &id.value) {
        Some(Value::Text(id)) => TaskId::parse(id).map_err(|error| format!("has a task whose id is bad: {error}"))?,
        Some(other) => return Err(format!("has a task whose `task_id` must be a text in quotes, not {}", other.describe())),
        None => return Err("has a task without a `task_id`; give it one".to_owned()),
    };
    let object = object(table).map_err(|message| format!("has the task `{id}`, which {message}"))?;
    if let Some(first) = seen.get(&id) {
        return Err(format!("has the task `{id}` a second time, after line {first}; rename or remove one of them"));
    }
    seen.insert(id, *line);
    let mut lines = BTreeMap::new();
    note_lines(table, "", &mut lines);
    Ok(TaskEntry { table: object, file: Arc::<Path>::clone(file), line: *line, lines })
}

fn note_lines(table: &Table, path: &str, lines: &mut BTreeMap<String, u32>) {
    for (name, node) in table {
        let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if let Value::Table(inner) = &node.value {
            note_lines(inner, &at, lines);
        }
        if let Origin::File { line, .. } = &node.origin {
            lines.insert(at, *line);
        }
    }
}
