//! Agents that are registered over the API.

use serde_json::{Value, json};

use super::{answer, answered, post, why};
use crate::guest::plain;
use crate::process::daemon::{Daemon, Home};
use crate::process::guests::answers;

const AGENTS: &str = "/background/agents";

async fn patch(daemon: &Daemon, agent: &str, body: Value) -> (u16, Value) {
    daemon.ask(daemon.client.patch(format!("{}{AGENTS}/{agent}", daemon.url)).json(&body)).await
}

async fn delete(daemon: &Daemon, agent: &str) -> (u16, Value) {
    daemon.ask(daemon.client.delete(format!("{}{AGENTS}/{agent}", daemon.url))).await
}

#[tokio::test]
async fn one_plugin_backs_many_agents_each_with_settings_of_its_own() {
    let home = Home::new("[agents.configured]\nplugin = \"shared\"\n", &[("shared", plain::echo())]);
    let daemon = home.start(&[]).await;
    for number in 0..3 {
        let (agent, name) = (format!("agent{number}"), format!("The {number}th"));
        let body = json!({"agent_id": agent, "plugin": "shared", "name": name, "config": {"n": number}, "env": {"REGION": "eu"},
            "max_running": 1, "timeout_seconds": 60, "limits": {"memory_bytes": 16_777_216}, "metadata": {"team": "ops"}});
        let (status, told) = post(&daemon, AGENTS, body.clone()).await;
        assert_eq!(status, 200, "{told}");
        assert_eq!((&told["name"], &told["origin"], &told["state"]), (&json!(name), &json!("registration"), &json!("accepted")));
        assert_eq!((&told["agent_config"], &told["env"]), (&json!({"n": number}), &json!({"REGION": "(set)"})));
        assert_eq!((&told["limits"]["memory_bytes"], &told["max_running"]), (&json!(16_777_216), &json!(1)));
        assert_eq!(post(&daemon, AGENTS, body).await.0, 200, "the same again changes nothing");
        daemon.task(&agent, &agent, json!({})).await;
        let run = daemon.fire(&agent).await;
        assert_eq!(run["policy"]["timeout_seconds"], 60, "{run}");
        daemon.terminal(&run).await;
        assert_eq!(answer(&daemon, &agent).await, answered("q", &plain::echo()));
    }
    let (status, told) = post(&daemon, AGENTS, json!({"agent_id": "agent0", "plugin": "shared"})).await;
    assert!(status == 409 && told["detail"].as_str().unwrap().contains("replace"), "{told}");
    let (status, told) = patch(&daemon, "agent0", json!({"name": "Zero", "max_running": null})).await;
    assert_eq!((status, &told["name"], &told["max_running"], &told["agent_config"]), (200, &json!("Zero"), &Value::Null, &json!({"n": 0})));
    let (status, told) = post(&daemon, AGENTS, json!({"agent_id": "agent0", "plugin": "shared", "replace": true})).await;
    assert_eq!((status, &told["name"], &told["agent_config"]), (200, &json!("agent0"), &json!({})));
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    assert_eq!(daemon.get("/background/agents/agent1").await["name"], "The 1th");
    assert_eq!(answer(&daemon, "agent1").await, answered("q", &plain::echo()));
    assert_eq!(delete(&daemon, "agent1").await.0, 200);
    assert_eq!(delete(&daemon, "agent1").await.0, 404);
    let waits = daemon.fire("agent1").await;
    assert_eq!(why(&daemon, &waits).await["code"], "agent_unknown");
    assert_eq!(delete(&daemon, "shared").await.0, 409);
    assert_eq!(delete(&daemon, "configured").await.0, 409);
    let (status, told) = post(&daemon, AGENTS, json!({"agent_id": "agent1", "plugin": "shared"})).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(daemon.terminal(&waits).await["status"], "completed");
    let waits = daemon.fire("agent1").await;
    daemon.terminal(&waits).await;
    daemon.stop().await;
}

#[tokio::test]
async fn every_fault_is_told_at_once_and_the_configuration_wins() {
    let home = Home::new("[agents.configured]\nplugin = \"a\"\n", &[("a", answers("a"))]);
    let daemon = home.start(&[]).await;
    let body = json!({"agent_id": "x", "plugin": 5, "colour": "red", "limits": {"memory_bytes": 1}, "env": {"": "x"}});
    let (status, told) = post(&daemon, AGENTS, body).await;
    let fields: Vec<&str> = told["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert_eq!((status, fields), (422, vec!["plugin", "env", "colour", "limits.memory_bytes"]), "{told}");
    for (body, status, says) in [
        (json!({"agent_id": "configured", "plugin": "a"}), 409, "configuration"),
        (json!({"plugin": "a"}), 422, "agent_id"),
        (json!({"agent_id": "x"}), 422, "plugin"),
        (json!({"agent_id": "../x", "plugin": "a"}), 422, "agent_id"),
        (json!({"agent_id": "x", "spec": {"name": "x", "model_config": {"model": "m"}}}), 422, "spec"),
        (json!([1]), 422, "object"),
        (json!({"agent_id": "x", "plugin": "../a"}), 422, "plugin"),
    ] {
        let (got, told) = post(&daemon, AGENTS, body).await;
        assert_eq!(got, status, "{told}");
        assert!(told["detail"].as_str().unwrap().contains(says), "{says}: {told}");
    }
    assert_eq!(patch(&daemon, "a", json!({"name": "x"})).await.0, 404, "nobody registered it");
    assert_eq!(patch(&daemon, "configured", json!({"name": "x"})).await.0, 409);
    let (status, told) = post(&daemon, AGENTS, json!({"agent_id": "later", "plugin": "not-there"})).await;
    assert_eq!((status, &told["state"]), (200, &json!("missing")), "its plugin may come");
    daemon.stop().await;
}

#[tokio::test]
async fn a_body_with_a_secret_is_refused_and_nothing_keeps_logs_or_repeats_it() {
    let home = Home::new("", &[("a", answers("a"))]);
    let daemon = home.start(&[]).await;
    let secret = "tiger7421tiger7421";
    assert_eq!(post(&daemon, AGENTS, json!({"agent_id": "x", "plugin": "a"})).await.0, 200);
    for body in [
        json!({"agent_id": "s", "plugin": "a", "env": {"OPENAI_API_KEY": secret}}),
        json!({"agent_id": "s", "plugin": "a", "config": {"deep": [{"password": secret}]}}),
        json!({"agent_id": "s", "plugin": "a", "metadata": {"note": format!("Bearer {secret}")}}),
        json!({"agent_id": "s", "plugin": "a", "config": {"key": format!("sk-{secret}")}}),
        json!({"agent_id": "s", "spec": {"name": "s", "model_config": {"api_key": secret}}}),
        json!({"agent_id": format!("ghp_{secret}"), "plugin": "a"}),
        json!({"agent_id": "s", "plugin": format!("sk-{secret}"), "max_running": format!("sk-{secret}")}),
    ] {
        let (status, told) = post(&daemon, AGENTS, body.clone()).await;
        assert!(status == 422 && told["detail"].as_str().unwrap().contains("[credentials.NAME]"), "{told}");
        assert!(!told.to_string().contains(secret), "{told}");
        let (status, told) = patch(&daemon, "x", json!({"config": body})).await;
        assert!(status == 422 && !told.to_string().contains(secret), "{told}");
    }
    assert!(!daemon.get(AGENTS).await.to_string().contains("\"s\""));
    assert!(daemon.log().iter().all(|line| !line.contains(secret)));
    daemon.stop().await;
    let mut folders = vec![home.path(".sandclock")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
            }
        }
    }
}
