//! The assistant of `plugins/`, as `make plugins` builds it, in the real daemon against a scripted endpoint.

mod answers;
mod endpoint;
mod kills;
mod registered;

use serde_json::{Value, json};

use crate::process::daemon::{Daemon, Home, id};
use endpoint::Endpoint;

/// The component.
fn assistant() -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/assistant.wasm");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{} cannot be read ({e}): run `make plugins`", path.display()))
}

/// A daemon's home with an agent `helper` on this endpoint, and these lines in its `config`.
fn home(endpoint: &Endpoint, config: &str) -> Home {
    let url = format!("http://{}", endpoint.address);
    let text = format!(
        "[agents.helper]\nplugin = \"assistant\"\n[agents.helper.config]\nendpoint = \"{url}/v1\"\nmodel = \"small\"\n{config}\n\
         [agents.helper.http]\nallow = [{{ url = \"{url}/v1/chat/completions\", methods = [\"POST\"] }}, \"{url}/page\"]\n"
    );
    Home::new(&text, &[("assistant", assistant())])
}

/// A file of a run's workspace.
fn written(home: &Home, run: &Value, name: &str) -> String {
    std::fs::read_to_string(home.workspace(run).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The whole result of a run.
async fn result(daemon: &Daemon, run: &Value) -> String {
    let response = daemon.client.get(format!("{}/background/runs/{}/result", daemon.url, id(run))).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.text().await.unwrap()
}

/// Answers a question of a run.
async fn decide(daemon: &Daemon, run: &Value, key: &str, decision: &str) {
    let body = json!({"decision": decision, "approver": "Ada", "note": "as agreed"});
    daemon.post(&format!("/background/runs/{}/approvals/{key}", id(run)), body).await;
}

/// Waits until a run is parked for a person.
async fn parked(daemon: &Daemon, run: &Value) {
    daemon.event(run, |event| event["event"] == "background_run_awaiting_approval").await;
}
