//! What runs ask people over the API: who may answer, what an answer says, and what scripts of the system before do.

use std::sync::Arc;
use std::time::Duration;

use sandclock::api::{Access, ApiSettings};
use sandclock::config::{NamedToken, Secret, TokenHash};
use sandclock::domain::role::{Role, Roles};
use serde_json::{Value, json};

use super::house::{House, house_with, settings};

const KEY: &str = "may%2FI%3F";

async fn house() -> House {
    let tokens = Role::ALL.map(|role| NamedToken {
        name: role.as_str().into(),
        hash: TokenHash::of(role.as_str().as_bytes()),
        roles: Roles::of([role]),
    });
    let access = Arc::new(Access::new(Some(Secret::new("root")), tokens.to_vec()));
    house_with(ApiSettings { access, ..settings() }, Duration::from_secs(30)).await
}

async fn get(house: &House, path: &str) -> Value {
    house.send(house.client.get(house.url(path)).bearer_auth("root")).await.1
}

async fn post(house: &House, token: &str, path: &str, body: Value) -> (u16, Value) {
    house.send(house.client.post(house.url(path)).bearer_auth(token).json(&body)).await
}

/// A run that waits for an answer.
async fn asked(house: &House) -> String {
    let task = json!({"task_id": "t", "query": "ask", "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel", "replace": true});
    post(house, "root", "/background/tasks", task).await;
    let run = post(house, "root", "/background/tasks/t/run", json!({"wait": true})).await.1;
    assert_eq!(run["status"], "awaiting_approval", "{run}");
    run["run_id"].as_str().unwrap().to_owned()
}

async fn ended(house: &House, run: &str) -> Value {
    loop {
        let now = get(house, &format!("/background/runs/{run}")).await;
        if now["finished_at"].is_string() {
            return now;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn whoever_may_approve_answers_and_nobody_else() {
    let house = house().await;
    let run = asked(&house).await;
    let path = format!("/background/runs/{run}/approvals/{KEY}");
    let yes = json!({"decision": "approve", "approver": "ana", "note": "fine\nby me"});
    for token in ["read", "operate", "deploy"] {
        assert_eq!(post(&house, token, &path, yes.clone()).await.0, 403, "{token}");
    }
    let waiting = get(&house, "/background/approvals").await;
    let one = &waiting["approvals"][0];
    assert_eq!(
        (&waiting["total"], &one["key"], &one["question"], &one["run_id"]),
        (&json!(1), &json!("may/I?"), &json!("May I?"), &json!(run))
    );
    let (status, decided) = post(&house, "approve", &path, yes.clone()).await;
    assert_eq!(
        (status, &decided["approved"], &decided["by"], &decided["key"]),
        (200, &json!(true), &json!("ana"), &json!("may/I?")),
        "{decided}"
    );
    assert_eq!(ended(&house, &run).await["result_preview"], "true by ana: fine\nby me");
    let (status, again) = post(&house, "approve", &path, yes).await;
    assert_eq!((status, &again["at"]), (200, &decided["at"]), "the same once more");
    let (status, refused) = post(&house, "approve", &path, json!({"decision": "deny"})).await;
    assert_eq!(status, 409, "{refused}");
    let all = get(&house, &format!("/background/runs/{run}/approvals")).await;
    assert_eq!((&all["approvals"][0]["key"], &all["approvals"][0]["answer"]["by"]), (&json!("may/I?"), &json!("ana")));
    assert_eq!(get(&house, "/background/approvals?task_id=t").await["total"], 0);
    house.close().await;
}

#[tokio::test]
async fn an_answer_without_a_name_is_that_of_the_token() {
    let house = house().await;
    let run = asked(&house).await;
    let no = json!({"decision": "deny", "approver": " "});
    assert_eq!(post(&house, "approve", &format!("/background/runs/{run}/approvals/{KEY}"), no).await.0, 200);
    assert_eq!(ended(&house, &run).await["result_preview"], "false by approve: ");
    house.close().await;
}

#[tokio::test]
async fn what_is_no_answer_is_refused_and_changes_nothing() {
    let house = house().await;
    let run = asked(&house).await;
    let path = format!("/background/runs/{run}/approvals/{KEY}");
    for body in [
        json!({}),
        json!({"decision": "maybe"}),
        json!({"decision": true}),
        json!({"decision": "approve", "arguments": {}}),
        json!({"decision": "approve", "note": "x".repeat(2049)}),
        json!({"decision": "approve", "approver": "a\u{1b}[2J"}),
        json!([]),
    ] {
        let (status, refused) = post(&house, "approve", &path, body.clone()).await;
        assert_eq!(status, 422, "{body}: {refused}");
    }
    let other = format!("/background/runs/{run}/approvals/other");
    let (status, refused) = post(&house, "approve", &other, json!({"decision": "approve"})).await;
    assert!(status == 404 && refused["detail"].as_str().unwrap().contains("`may/I?`"), "{refused}");
    let nobody = "/background/runs/run_0190a0a0a0a07000800000000000000a/approvals/k";
    assert_eq!(post(&house, "approve", nobody, json!({"decision": "approve"})).await.0, 404);
    assert_eq!(get(&house, &format!("/background/runs/{run}")).await["status"], "awaiting_approval");
    house.close().await;
}

#[tokio::test]
async fn a_script_that_answers_and_then_resumes_works_as_before() {
    let house = house().await;
    for _ in 0..10 {
        let run = asked(&house).await;
        let yes = json!({"decision": "approve", "approver": "ana", "note": ""});
        assert_eq!(post(&house, "approve", &format!("/background/runs/{run}/approvals/{KEY}"), yes).await.0, 200);
        let (status, resumed) = post(&house, "operate", &format!("/background/runs/{run}/resume"), json!({})).await;
        assert!(status == 200 && [json!("queued"), json!("completed")].contains(&resumed["status"]), "{resumed}");
        assert_eq!(ended(&house, &run).await["attempt"], 2);
    }
    let run = asked(&house).await;
    let path = format!("/background/runs/{run}/resume");
    assert_eq!(post(&house, "operate", &path, json!({})).await.0, 403, "without an answer it takes the right to give one");
    assert_eq!(post(&house, "approve", &path, json!({})).await.0, 403, "and the right to resume");
    assert_eq!(post(&house, "root", &path, json!({})).await.0, 200);
    house.close().await;
}
