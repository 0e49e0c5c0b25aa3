//! Tokens with names: what each role opens, and that events tell who asked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use sandclock::api::{Access, ApiSettings};
use sandclock::config::{NamedToken, Secret, TokenHash};
use sandclock::domain::role::{Role, Roles};
use serde_json::{Value, json};

use super::house::{House, house_with, settings};

fn named(name: &str, roles: &[Role]) -> NamedToken {
    NamedToken { name: name.into(), hash: TokenHash::of(name.as_bytes()), roles: Roles::of(roles.iter().copied()) }
}

/// A house with a token for each role, whose text is its name, and the one token `root`.
async fn house() -> (House, Arc<Access>) {
    let tokens = Role::ALL.map(|role| named(role.as_str(), &[role])).to_vec();
    let access = Arc::new(Access::new(Some(Secret::new("root")), tokens));
    (house_with(ApiSettings { access: Arc::clone(&access), ..settings() }, Duration::from_secs(30)).await, access)
}

async fn ask(house: &House, token: &str, method: &Method, path: &str, body: &Value) -> (u16, Value) {
    house.send(house.client.request(method.clone(), house.url(path)).bearer_auth(token).json(body)).await
}

/// Every route below /background with its methods, as the router's source declares them: none can be forgotten here.
fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../../../src/api/mod.rs");
    let mut found = BTreeSet::new();
    for part in source.split(".route(\"").skip(1) {
        let (path, rest) = part.split_once('"').unwrap();
        let handlers = rest.split("\n").next().unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if handlers.contains(&format!("{method}(")) && path != "/health" && path != "/ready" {
                found.insert((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

#[tokio::test]
async fn who_may_only_look_changes_nothing_and_sees_everything() {
    let (house, _) = house().await;
    for (method, path) in routes() {
        let path = format!(
            "/background{}",
            path.replace("{*path}", "x").replace("{id}", "run_0190a0a0a0a07000800000000000000a").replace("{key}", "k")
        );
        let method: Method = method.parse().unwrap();
        if path.ends_with("/stream") {
            continue;
        }
        let (status, answer) = ask(&house, "read", &method, &path, &json!({})).await;
        if method == Method::GET {
            assert!(![401, 403].contains(&status), "{method} {path}: {answer}");
        } else {
            assert_eq!(status, 403, "{method} {path}: {answer}");
            let needed = answer["needs_role"].as_str().and_then(Role::parse).unwrap();
            assert!(answer["detail"].as_str().unwrap().contains(needed.as_str()), "{answer}");
            assert!(answer["detail"].as_str().unwrap().contains("tokens.read.roles"), "{answer}");
            // Who has just that role gets further, and who has all the others does not.
            for role in Role::ALL.into_iter().filter(|role| *role != Role::Read) {
                let status = ask(&house, role.as_str(), &method, &path, &json!({})).await.0;
                assert_eq!(status == 403, role != needed, "{method} {path} as {role}: {status}");
            }
        }
    }
    house.close().await;
}

#[tokio::test]
async fn each_role_opens_what_it_says() {
    let (house, _) = house().await;
    let task = json!({"task_id": "t", "query": "q", "schedule": {"type": "manual"}});
    for (token, expected) in [("read", 403), ("approve", 403), ("deploy", 403), ("operate", 200), ("root", 409)] {
        assert_eq!(ask(&house, token, &Method::POST, "/background/tasks", &task).await.0, expected, "{token}");
    }
    for (token, expected) in [("read", 403), ("approve", 403), ("deploy", 403), ("operate", 200), ("root", 200)] {
        assert_eq!(ask(&house, token, &Method::DELETE, "/background/agents/a/memory", &Value::Null).await.0, expected, "{token}");
        assert_eq!(ask(&house, token, &Method::GET, "/background/agents/a/memory", &Value::Null).await.0, 200, "{token}");
    }
    for (token, expected) in [("read", 403), ("operate", 403), ("approve", 403), ("deploy", 404), ("root", 404)] {
        assert_eq!(ask(&house, token, &Method::DELETE, "/background/agents/nobody", &json!({})).await.0, expected, "{token}");
    }
    house.close().await;
}

#[tokio::test]
async fn events_tell_whose_token_it_was() {
    let (house, _) = house().await;
    let task = json!({"task_id": "t", "query": "hold", "schedule": {"type": "manual"}});
    assert_eq!(ask(&house, "operate", &Method::POST, "/background/tasks", &task).await.0, 200);
    for (token, queued_by, cancelled_by) in [("operate", json!("operate"), json!("operate")), ("root", Value::Null, json!("api"))] {
        let run = ask(&house, token, &Method::POST, "/background/tasks/t/run", &json!({})).await.1;
        let run = run["run_id"].as_str().unwrap();
        assert_eq!(ask(&house, token, &Method::POST, &format!("/background/runs/{run}/cancel"), &json!({})).await.0, 200);
        let run_now = loop {
            let now = ask(&house, token, &Method::GET, &format!("/background/runs/{run}"), &json!({})).await.1;
            if now["finished_at"].is_string() {
                break now;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(run_now["cancel_requested_by"], cancelled_by, "{run_now}");
        let events = ask(&house, token, &Method::GET, &format!("/background/runs/{run}/events"), &json!({})).await.1;
        let events = events["events"].as_array().unwrap_or_else(|| events.as_array().unwrap());
        assert_eq!(events[0].get("requested_by").unwrap_or(&Value::Null), &queued_by, "{events:?}");
    }
    house.close().await;
}

#[tokio::test]
async fn tokens_are_exchanged_while_requests_are_served() {
    let (house, access) = house().await;
    let status = async |token: &str| ask(&house, token, &Method::GET, "/background/status", &json!({})).await.0;
    assert_eq!((status("read").await, status("root").await, status("new").await), (200, 200, 401));
    access.exchange(None, vec![named("new", &[Role::Read])]);
    assert_eq!((status("read").await, status("root").await, status("new").await), (401, 401, 200));
    house.close().await;
}
