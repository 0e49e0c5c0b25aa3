//! The receipts of attempts of a real daemon, and what shows them.

use serde_json::{Value, json};

use super::*;
use crate::process::daemon::Home;

const ANSWER: &str = r#"{"model":"made-up-1","usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120}}"#;

fn config(server: &Server, more: &str) -> String {
    let allow = format!("allow = [\"http://{}\"]", server.address);
    format!(
        "[prices]\ncurrency = \"EUR\"\n[prices.models.\"made-up-1\"]\ninput = 2.0\noutput = 10.0\n\
         [agents.fetch]\n{more}[agents.fetch.http]\n{allow}\n"
    )
}

#[tokio::test]
async fn a_run_shows_what_its_attempts_used() {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json";
    let server = Server::raw(format!("{head}\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len()).into_bytes(), Vec::new()).await;
    let home = Home::new(&config(&server, ""), &[("fetch", fetch())]);
    let daemon = home.start(&[]).await;
    // It asks a model, and traps because the second request is refused: two attempts, each with its receipt.
    let query = format!("T\nP h {} /v1/chat/completions - - 1 r\n{}", server.address, get("127.0.0.1:1", "/"));
    let retry = json!({"max_retries": 1, "initial_delay_seconds": 0, "retry_on": ["exception", "egress_denied"]});
    let task = json!({"task_id": "asks", "agent_id": "fetch", "query": query, "retry_policy": retry, "schedule": {"type": "manual"}});
    daemon.post("/background/tasks", task).await;
    let run = daemon.terminal(&daemon.fire("asks").await).await;
    let attempts = daemon.attempts(&run).await;
    assert_eq!(attempts.len(), 2, "{attempts:?}");
    let first = &attempts[0]["usage"];
    let models = json!({"calls": 1, "input_tokens": 100, "output_tokens": 20, "money": 0.0004});
    assert_eq!(first["models"]["by_model"], json!({"made-up-1": models}));
    assert_eq!((&first["models"]["money"], &first["models"]["currency"]), (&json!(0.0004), &json!("EUR")));
    let calls = attempts[0]["http"]["calls"].as_array().unwrap();
    assert_eq!((&first["outgoing"]["calls"], calls.len()), (&json!(1), 2));
    assert_eq!((&first["outgoing"]["bytes_in"], &first["outgoing"]["bytes_out"]), (&calls[0]["bytes_in"], &calls[0]["bytes_out"]));
    let kinds = &first["host_calls_by_kind"];
    assert_eq!((&kinds["http"], &kinds["progress"]), (&json!(2), &json!(2 + 2)), "two reports and two events: {kinds}");
    assert!(first["cpu_seconds"].as_f64().unwrap() > 0.0 && first["wall_seconds"].as_f64() >= first["cpu_seconds"].as_f64());
    // The run's sum is that of its attempts.
    let run = daemon.run(&run).await;
    assert_eq!((&run["usage"]["calls"], &run["usage"]["tokens"], &run["usage"]["money"]), (&json!(2), &json!(240), &json!(0.0008)));
    let micros = |value: &Value| (value["wall_seconds"].as_f64().unwrap() * 1e6).round();
    let sum = micros(first) + micros(&attempts[1]["usage"]);
    assert!((micros(&run["usage"]) - sum).abs() <= 2.0, "{sum}: {run}");
    // The settings in force are those that it was made under, until they change.
    let hash = daemon.get("/background/agents/fetch").await["config_hash"].clone();
    assert!(hash.is_string() && first["config_hash"] == hash, "{hash}");
    let id = run["run_id"].as_str().unwrap();
    let shown = daemon.verb(home.0.path(), &["runs", "show", id]).await.out;
    assert!(shown.contains("2 outgoing calls") && shown.contains("240 tokens for 0.0008"), "{shown}");
    let shown = daemon.verb(home.0.path(), &["runs", "attempts", id]).await.out;
    assert!(shown.contains("120") && shown.contains("0.0004"), "{shown}");
    home.configure(&config(&server, "env = { A = \"secret-of-nobody\" }\n"));
    let changed = daemon.until("/background/agents/fetch", |agent| agent["config_hash"] != hash).await;
    assert!(!changed["config_hash"].to_string().contains("secret"));
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_that_does_nothing_has_a_small_receipt() {
    let server = Server::start().await;
    let home = Home::new(&config(&server, ""), &[("fetch", fetch())]);
    let daemon = home.start(&[]).await;
    let task = json!({"task_id": "idle", "agent_id": "fetch", "query": "O", "schedule": {"type": "manual"}});
    daemon.post("/background/tasks", task).await;
    let run = daemon.terminal(&daemon.fire("idle").await).await;
    let usage = daemon.attempts(&run).await.remove(0)["usage"].clone();
    let names: Vec<&String> = usage.as_object().unwrap().keys().collect();
    let none = ["outgoing", "models", "host_calls_by_kind"];
    assert!(!names.iter().any(|name| none.contains(&name.as_str())), "{usage}");
    assert!(usage.to_string().len() < 260, "{usage}");
    daemon.stop().await;
}
