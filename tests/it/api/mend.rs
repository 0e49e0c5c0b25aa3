//! Why a run is where it is, runs once more, many at once, mirrors, and the occurrences ahead: as the API tells them.

use serde_json::{Value, json};

use super::house::{House, Order, house, keys};

async fn why(house: &House, run: &str) -> Value {
    let (status, why) = house.get(&format!("/background/runs/{run}/why")).await;
    assert_eq!((status, &why["run_id"]), (200, &json!(run)), "{why}");
    assert!(why["sentence"].is_string() && why["as_of"].is_string() && why["task_id"].is_string(), "{why}");
    why
}

#[tokio::test]
async fn a_run_tells_why_in_a_sentence_and_in_members() {
    let house = house().await;
    house.task("t", "hold").await;
    let run = house.start("t").await;
    let mut running = why(&house, &run).await;
    while running["code"] != "running" {
        running = why(&house, &run).await;
    }
    let shown = house.get(&format!("/background/runs/{run}")).await.1;
    assert_eq!(running["started_at"], shown["started_at"]);
    let sentence = format!("Attempt 1 runs since {} on worker daemon.1 under a lease until", shown["started_at"].as_str().unwrap());
    assert!(running["sentence"].as_str().unwrap().starts_with(&sentence), "{running}");
    house.orders.send(Order::Answer("done".into())).unwrap();
    house.client.get(house.url(&format!("/background/runs/{run}/events/stream"))).send().await.unwrap().bytes().await.unwrap();
    let completed = why(&house, &run).await;
    assert_eq!((&completed["status"], &completed["code"], &completed["attempt"]), (&json!("completed"), &json!("completed"), &json!(1)));
    house.close().await;
}

#[tokio::test]
async fn a_rerun_takes_what_a_run_takes() {
    let house = house().await;
    house.task("t", "x").await;
    let (_, first) = house.post("/background/tasks/t/run", json!({"wait": true, "query": "y", "metadata": {"ticket": 7}})).await;
    let path = format!("/background/runs/{}/rerun", first["run_id"].as_str().unwrap());
    let (status, second) = house.post(&path, json!({"wait": true})).await;
    assert_eq!((status, &second["status"], &second["result_preview"]), (200, &json!("completed"), &json!("did: y")));
    assert_eq!(second["trigger_metadata"], json!({"ticket": 7, "rerun_of": first["run_id"]}));
    assert_eq!(keys(&second), keys(&first), "a run like any other");
    let response = house.client.post(house.url(&path)).send().await.unwrap();
    assert_eq!(response.status(), 200, "no body is needed");
    let (status, third) = house.post(&path, json!({"query": "z", "metadata": {"ticket": 8}, "wait": true, "timeout_seconds": 30})).await;
    assert_eq!((status, &third["result_preview"], &third["trigger_metadata"]["ticket"]), (200, &json!("did: z"), &json!(8)));

    house.task("h", "hold").await;
    let live = house.start("h").await;
    let (status, problem) = house.post(&format!("/background/runs/{live}/rerun"), json!({})).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("only a run that has ended"), "{problem}");
    assert_eq!(house.patch("/background/tasks/t", json!({"enabled": false})).await.0, 200);
    let (status, problem) = house.post(&path, json!({})).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("enable it"), "{problem}");
    assert_eq!(house.delete("/background/tasks/t").await.0, 200);
    let (status, problem) = house.post(&path, json!({})).await;
    assert!(status == 404 && problem["detail"].as_str().unwrap().contains("register it again"), "{problem}");
    house.orders.send(Order::Answer("done".into())).unwrap();
    house.close().await;
}

#[tokio::test]
async fn a_rerun_under_a_key_is_made_once() {
    let house = house().await;
    house.task("t", "x").await;
    let first = house.run("t").await;
    let path = format!("/background/runs/{first}/rerun");
    let post = async |body: Value| house.send(house.client.post(house.url(&path)).header("Idempotency-Key", "k").json(&body)).await;
    let (status, made) = post(json!({})).await;
    assert_eq!((status, &made["trigger_metadata"]["rerun_of"]), (200, &json!(first)));
    assert_eq!(post(json!({})).await, (200, made.clone()));
    assert_eq!(post(json!({"query": "another"})).await.0, 409);
    assert_eq!(house.get("/background/runs").await.1["total"], 2);
    assert_eq!(house.delete("/background/tasks/t?delete_runs=true").await.0, 200);
    assert_eq!(post(json!({})).await, (200, made), "the answer outlives what it was about");
    house.close().await;
}

#[tokio::test]
async fn many_are_previewed_then_done_and_what_is_done_is_told() {
    let house = house().await;
    house.task("t", "x").await;
    for _ in 0..15 {
        house.run("t").await;
    }
    let filter = json!({"task_id": "t", "status": ["completed"]});
    let (status, preview) = house.post("/background/runs/rerun", json!({"filter": filter, "dry_run": true})).await;
    assert_eq!(status, 200);
    assert_eq!((&preview["matched"], &preview["complete"], &preview["dry_run"]), (&json!(15), &json!(true), &json!(true)));
    assert_eq!(preview["sample"].as_array().unwrap().len(), 10);
    let sample = ["run_id", "task_id", "agent_id", "status", "triggered_at", "finished_at", "error_kind", "error"];
    assert_eq!(keys(&preview["sample"][0]), sample);
    assert_eq!(house.get("/background/runs").await.1["total"], 15, "nothing was done");

    let (_, first) = house.post("/background/runs/rerun", json!({"filter": filter, "limit": 10})).await;
    assert_eq!((&first["done"], &first["refused"]), (&json!(10), &json!(0)), "{first}");
    let next = json!({"filter": filter, "limit": 10, "cursor": first["next_cursor"]});
    let (_, second) = house.post("/background/runs/rerun", next).await;
    assert_eq!((&second["done"], &second["next_cursor"]), (&json!(5), &json!(null)), "{second}");
    let runs: Vec<&Value> = [&first, &second].into_iter().flat_map(|part| part["runs"].as_array().unwrap()).collect();
    let mut repeated: Vec<&str> = runs.iter().map(|run| run["rerun_of"].as_str().unwrap()).collect();
    repeated.sort_unstable();
    repeated.dedup();
    assert_eq!(repeated.len(), 15);
    assert_eq!(house.get("/background/runs").await.1["total"], 30);

    house.task("h", "hold").await;
    let live = [house.start("h").await, house.start("h").await];
    let (_, cancelled) = house.post("/background/runs/cancel", json!({"filter": {"task_id": "h"}})).await;
    let ids: Vec<&str> = cancelled["runs"].as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!((ids, &cancelled["next_cursor"]), (live.iter().map(String::as_str).collect(), &json!(null)));
    assert_eq!(house.get("/background/runs/rerun").await.0, 405);
    house.close().await;
}

#[tokio::test]
async fn refusals_of_many_are_told_one_by_one() {
    let house = house().await;
    house.task("t", "x").await;
    let run = house.run("t").await;
    house.patch("/background/tasks/t", json!({"enabled": false})).await;
    let (status, done) = house.post("/background/runs/rerun", json!({"all": true})).await;
    assert_eq!((status, &done["done"], &done["refused"]), (200, &json!(0), &json!(1)));
    let reason = format!("Task t is disabled; enable it to run {run} once more");
    assert_eq!(done["refusals"], json!([{"run_id": run, "reason": reason}]));
    house.close().await;
}

#[tokio::test]
async fn mirrors_are_rebuilt_on_demand() {
    let house = house().await;
    house.task("t", "x").await;
    let run = house.run("t").await;
    let (status, answer) = house.post(&format!("/background/runs/{run}/mirror"), json!({})).await;
    assert_eq!((status, &answer["files"]), (200, &json!(["run.json", "events.jsonl", "output.md"])));
    house.close().await;
}

#[tokio::test]
async fn what_lies_ahead_is_told_across_the_next_change_of_the_clocks() {
    let house = house().await;
    let schedule = json!({"type": "cron", "expression": "30 12 * * *", "timezone": "Europe/Berlin"});
    let body = json!({"task_id": "t", "query": "x", "schedule": schedule});
    assert_eq!(house.post("/background/tasks", body).await.0, 200);
    let (_, next) = house.get("/background/tasks/t/next?count=366").await;
    let occurrences = next["occurrences"].as_array().unwrap();
    assert_eq!(occurrences.len(), 366);
    let changes: Vec<&Value> = occurrences.iter().filter(|one| one["offset_change_seconds"] != json!(0)).collect();
    let mut moved: Vec<i64> = changes.iter().map(|one| one["offset_change_seconds"].as_i64().unwrap()).collect();
    moved.sort_unstable();
    assert_eq!(moved, [-3600, 3600], "a year has two");
    // The one that is next is among them, with the occurrences beside it.
    let change = &next["clock_change"];
    assert_eq!(change["first_after"], *changes[0]);
    let at = occurrences.iter().position(|one| one == changes[0]).unwrap();
    assert_eq!(change["last_before"], if at > 0 { occurrences[at - 1].clone() } else { Value::Null });
    assert_eq!(change["to"], changes[0]["offset"]);
    house.close().await;
}
