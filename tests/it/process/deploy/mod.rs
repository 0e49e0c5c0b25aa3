//! Components that are pushed, rolled back, paused and held back, and agents that are registered, on the real daemon.

mod fleet;
mod pauses;
mod pushes;
mod quarantine;
mod refusals;
mod registered;

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::daemon::{Daemon, Home};
use crate::cli::stage::{Ended, file};

pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends a component to an agent.
pub async fn put(daemon: &Daemon, agent: &str, query: &str, bytes: impl Into<reqwest::Body>) -> (u16, Value) {
    let url = format!("{}/background/agents/{agent}/plugin{query}", daemon.url);
    daemon.ask(daemon.client.put(url).header("content-type", "application/wasm").body(bytes)).await
}

/// The status and body of a request with a body.
pub async fn post(daemon: &Daemon, path: &str, body: Value) -> (u16, Value) {
    daemon.ask(daemon.client.post(format!("{}{path}", daemon.url)).json(&body)).await
}

pub async fn good(daemon: &Daemon, agent: &str, bytes: Vec<u8>) -> Value {
    let (status, told) = put(daemon, agent, "", bytes).await;
    assert_eq!(status, 200, "{told}");
    told
}

/// Runs a client verb.
pub async fn verb(home: &Home, daemon: &Daemon, line: &[&str]) -> Ended {
    daemon.verb(home.0.path(), line).await
}

/// Runs a client verb, which does what it is asked.
pub async fn done(home: &Home, daemon: &Daemon, line: &[&str]) -> String {
    let ended = verb(home, daemon, line).await;
    assert_eq!(ended.code, 0, "{line:?}: {ended:?}");
    ended.out
}

/// A component as a file in a home.
pub fn saved(home: &Home, name: &str, bytes: &[u8]) -> String {
    file(home.0.path(), name, bytes);
    name.to_owned()
}

/// Runs a task once; its answer and the digest that gave it.
pub async fn answer(daemon: &Daemon, task: &str) -> (Value, Value) {
    let run = daemon.fire(task).await;
    let ended = daemon.terminal(&run).await;
    (ended["result_preview"].clone(), daemon.attempts(&run).await[0]["digest"].clone())
}

pub fn answered(text: &str, bytes: &[u8]) -> (Value, Value) {
    (json!(text), json!(digest(bytes)))
}

/// What lies in the folder of pushed components, digests apart.
pub fn left_over(home: &Home) -> Vec<String> {
    let is_digest = |name: &String| name.strip_suffix(".wasm").is_some_and(|stem| stem.len() == 64);
    names(&home.path(".sandclock/pushed")).into_iter().filter(|name| !is_digest(name)).collect()
}

pub fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub async fn why(daemon: &Daemon, run: &Value) -> Value {
    daemon.get(&format!("/background/runs/{}/why", run["run_id"].as_str().unwrap())).await
}
