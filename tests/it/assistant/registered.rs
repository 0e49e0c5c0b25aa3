//! Agents that are made from the seed's spec over the API.

use serde_json::{Value, json};

use super::assistant;
use super::endpoint::{Endpoint, says};
use crate::process::daemon::{Daemon, Home};

const SPEC_PATH: &str = "/background/agents";

/// A configuration with a credential for the endpoint that registered agents may use.
fn credential(endpoint: &Endpoint, more: &str) -> String {
    format!(
        "[credentials.local]\nhost = \"127.0.0.1\"\nport = {}\nallow_http_loopback = true\nfile = \"key\"\n{more}\n",
        endpoint.address.port()
    )
}

fn spec(endpoint: &Endpoint) -> Value {
    let model = json!({"provider": "acme", "model": "small", "base_url": format!("http://{}/v1", endpoint.address), "temperature": 0.5});
    json!({"name": "helper", "system_instruction": "Be brief.", "model_config": model})
}

async fn register(daemon: &Daemon, body: Value) -> (u16, Value) {
    daemon.ask(daemon.client.post(format!("{}{SPEC_PATH}", daemon.url)).json(&body)).await
}

#[tokio::test]
async fn a_spec_becomes_an_agent_that_runs_with_the_daemons_key() {
    let endpoint = Endpoint::turns(vec![says("Hi.")]).await;
    let home = Home::new(&credential(&endpoint, "registered_agents = true"), &[("assistant", assistant())]);
    std::fs::write(home.path("key"), "the-key-of-tests\n").unwrap();
    let daemon = home.start(&[]).await;
    let spec = spec(&endpoint);
    let (status, shown) = register(&daemon, json!({"spec": spec})).await;
    assert_eq!(status, 200, "{shown}");
    let mut one = daemon.get("/background/agents/helper").await;
    // What it has used is told of one agent, not of what was just made.
    assert_eq!(
        (one.as_object_mut().unwrap().remove("used").is_some(), one.as_object_mut().unwrap().remove("budgets")),
        (true, Some(json!([])))
    );
    assert_eq!(one, shown);
    for key in ["name", "system_instruction", "model_config"] {
        assert_eq!(shown[key], spec[key], "{key}");
    }
    assert_eq!((&shown["plugin"], &shown["agent_config"]["model"]), (&json!("assistant"), &json!("small")));
    assert_eq!(register(&daemon, json!({"spec": spec})).await.0, 200, "the same again changes nothing");
    let mut other = spec.clone();
    other["system_instruction"] = json!("Be long.");
    assert_eq!(register(&daemon, json!({"spec": other})).await.0, 409);

    daemon.task("t", "helper", json!({})).await;
    let run = daemon.fire("t").await;
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("Hi.")), "{ended}");
    let call = endpoint.calls().remove(0);
    assert_eq!(call.authorization.as_deref(), Some("Bearer the-key-of-tests"));
    assert_eq!((&call.body["temperature"], &call.body["model"]), (&json!(0.5), &json!("small")));
    assert!(call.contents("system")[0].starts_with("Be brief."), "{call:?}");
    assert!(!daemon.get("/background/agents").await.to_string().contains("the-key-of-tests"));
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    assert_eq!(daemon.get("/background/agents/helper").await["model_config"], spec["model_config"], "a restart keeps it");
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_said_with_its_mend() {
    let endpoint = Endpoint::turns(vec![says("Hi.")]).await;
    let home = Home::new(&credential(&endpoint, ""), &[]);
    std::fs::write(home.path("key"), "the-key-of-tests\n").unwrap();
    let daemon = home.start(&[]).await;
    let refused = async |body: Value, part: &str| {
        let (status, problem) = register(&daemon, body).await;
        assert!(status == 422 && problem["detail"].as_str().unwrap().contains(part), "{part}: {problem}");
        problem
    };
    refused(json!({"spec": spec(&endpoint)}), "make plugins").await;
    home.plugin("assistant", &assistant());
    daemon.until("/background/agents", |told| told.to_string().contains("assistant")).await;
    refused(json!({"spec": spec(&endpoint)}), "`registered_agents = true` in `[credentials.local]`").await;
    let mut with_key = json!({"spec": {"name": "helper", "model_config": {"provider": "openai", "model": "gpt-x", "api_key": "abc123"}}});
    let problem = refused(with_key.clone(), "[credentials.openai]\nhost = \"api.openai.com\"\nenv = \"OPENAI_API_KEY\"").await;
    assert!(!problem.to_string().contains("abc123") && !daemon.log().iter().any(|line| line.contains("abc123")), "{problem}");
    with_key["spec"]["model_config"]["api_key"] = Value::Null;
    refused(with_key, "needs a credential for `api.openai.com`, and this daemon has none").await;
    daemon.stop().await;
}
