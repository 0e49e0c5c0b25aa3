//! Asking twice under one `Idempotency-Key`, through the real API.

use std::time::Duration;

use futures::future::join_all;
use sandclock::daemon::Bounds;
use serde_json::{Value, json};

use super::house::{House, Order, house, house_within};

/// Posts with a key; the answer's status, whether it was replayed, and its body.
async fn post(house: &House, path: &str, key: &str, body: Option<Value>) -> (u16, bool, Value) {
    let request = house.client.post(house.url(path)).header("Idempotency-Key", key);
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let response = request.send().await.unwrap();
    let replayed = response.headers().get("idempotent-replayed").map(|value| value.to_str().unwrap().to_owned());
    assert!(replayed.is_none() || replayed.as_deref() == Some("true"));
    (response.status().as_u16(), replayed.is_some(), response.json().await.unwrap())
}

async fn runs(house: &House) -> u64 {
    house.get("/background/runs").await.1["total"].as_u64().unwrap()
}

#[tokio::test]
async fn scenario_27_a_hundred_requests_at_once_under_one_key_make_one_run() {
    for on_sqlite in [false, true] {
        let house = house_within(Bounds::default(), on_sqlite).await;
        house.task("t", "x").await;
        let path = "/background/tasks/t/run";
        let body = json!({"metadata": {"b": 1, "a": 2}, "query": "mine"});
        let asked = join_all((0..100).map(|_| post(&house, path, "k-1", Some(body.clone())))).await;
        let first = asked.iter().find(|(_, replayed, _)| !replayed).expect("one is the first");
        assert_eq!(asked.iter().filter(|(_, replayed, _)| *replayed).count(), 99);
        for (status, _, answer) in &asked {
            assert_eq!((status, answer), (&200, &first.2));
        }
        assert_eq!((runs(&house).await, &first.2["query_snapshot"], &first.2["status"]), (1, &json!("mine"), &json!("queued")));
        // However long after, the answer is the first one, though the run has gone on.
        let id = first.2["run_id"].as_str().unwrap();
        let run = sandclock::domain::id::RunId::parse(id).unwrap();
        house.manager.wait_for_run(&run, Duration::from_secs(30)).await.unwrap();
        let reordered = json!({"query": "mine", "metadata": {"a": 2, "b": 1}});
        assert_eq!(post(&house, path, "k-1", Some(reordered)).await, (200, true, first.2.clone()));
        assert_eq!(runs(&house).await, 1);
        house.close().await;
    }
}

#[tokio::test]
async fn scenario_27_a_key_with_another_request_is_a_conflict() {
    let house = house().await;
    house.task("t", "x").await;
    house.task("u", "x").await;
    let path = "/background/tasks/t/run";
    let (_, _, first) = post(&house, path, "k", None).await;
    assert_eq!(post(&house, path, "k", Some(json!({}))).await, (200, true, first.clone()), "no body is an empty one");
    for (path, body) in [(path, json!({"query": "other"})), (path, json!({"wait": true})), ("/background/tasks/u/run", json!({}))] {
        let (status, replayed, problem) = post(&house, path, "k", Some(body)).await;
        assert_eq!((status, replayed), (409, false), "{problem}");
        let told = problem["detail"].as_str().unwrap();
        assert!(told.contains("Idempotency-Key") && told.contains("key of its own"), "{told}");
    }
    assert_eq!(runs(&house).await, 1);
    // A run and a task have keys of their own, and case matters.
    let task = json!({"task_id": "v", "query": "x", "schedule": {"type": "manual"}});
    assert_eq!(post(&house, "/background/tasks", "k", Some(task)).await.0, 200);
    assert!(!post(&house, path, "K", None).await.1);
    assert_eq!(runs(&house).await, 2);
    house.close().await;
}

#[tokio::test]
async fn a_key_is_checked_and_a_refused_request_leaves_it_free() {
    let house = house().await;
    house.task("t", "x").await;
    let path = "/background/tasks/t/run";
    let long = "k".repeat(256);
    for bad in ["", "two words", "tab\there", long.as_str()] {
        let (status, _, problem) = post(&house, path, bad, None).await;
        assert_eq!(status, 400, "{bad:?}");
        assert!(problem["detail"].as_str().unwrap().contains("visible ASCII"), "{problem}");
    }
    let twice = house.client.post(house.url(path)).header("Idempotency-Key", "a").header("Idempotency-Key", "b");
    assert_eq!(house.send(twice).await.0, 400);
    let bytes = house.client.post(house.url(path)).header("Idempotency-Key", b"\xff\xfe".as_slice());
    assert_eq!(house.send(bytes).await.0, 400);
    assert_eq!(runs(&house).await, 0);
    for (path, body, status) in [
        ("/background/tasks/none/run", json!({}), 404),
        (path, json!({"wiat": true}), 422),
        ("/background/tasks", json!({"task_id": "t"}), 422),
        ("/background/tasks", json!({"task_id": "t", "query": "x", "schedule": {"type": "manual"}}), 409),
    ] {
        for _ in 0..2 {
            let (told, replayed, _) = post(&house, path, "k", Some(body.clone())).await;
            assert_eq!((told, replayed), (status, false), "{path}");
        }
    }
    assert_eq!(post(&house, path, "k", None).await.0, 200);
    assert_eq!(post(&house, path, &"k".repeat(255), None).await.0, 200);
    house.close().await;
}

#[tokio::test]
async fn whoever_waits_under_a_key_waits_for_the_same_run() {
    let house = house().await;
    house.task("t", "hold").await;
    let path = "/background/tasks/t/run";
    let brief = json!({"wait": true, "timeout_seconds": 0.05});
    let (status, replayed, problem) = post(&house, path, "brief", Some(brief.clone())).await;
    assert_eq!((status, replayed), (504, false));
    let (again, replayed, same) = post(&house, path, "brief", Some(brief.clone())).await;
    assert_eq!((again, replayed, &same["run_id"]), (504, true, &problem["run_id"]));
    house.orders.send(Order::Answer("first".into())).unwrap();
    let run = sandclock::domain::id::RunId::parse(problem["run_id"].as_str().unwrap()).unwrap();
    house.manager.wait_for_run(&run, Duration::from_secs(30)).await.unwrap();
    let (status, replayed, told) = post(&house, path, "brief", Some(brief)).await;
    assert_eq!((status, replayed, &told["result_preview"]), (200, true, &json!("first")));
    let wait = json!({"wait": true});
    let waiting = async { join_all((0..10).map(|_| post(&house, path, "long", Some(wait.clone())))).await };
    let answering = async {
        // The run is there before it is told what to do.
        while runs(&house).await < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        house.orders.send(Order::Answer("second".into())).unwrap();
    };
    let (answers, ()) = tokio::join!(waiting, answering);
    assert_eq!(answers.iter().filter(|(_, replayed, _)| *replayed).count(), 9);
    for (status, _, run) in &answers {
        assert_eq!((status, &run["result_preview"], run), (&200, &json!("second"), &answers[0].2));
    }
    assert_eq!(runs(&house).await, 2);
    house.close().await;
}

#[tokio::test]
async fn a_task_is_registered_once_under_a_key() {
    for on_sqlite in [false, true] {
        let house = house_within(Bounds::default(), on_sqlite).await;
        let body = json!({"task_id": "t", "query": "x", "schedule": {"type": "interval", "seconds": 3600}});
        let asked = join_all((0..20).map(|_| post(&house, "/background/tasks", "k", Some(body.clone())))).await;
        let first = asked.iter().find(|(_, replayed, _)| !replayed).unwrap().2.clone();
        assert_eq!(asked.iter().filter(|(status, replayed, task)| *status == 200 && *replayed && *task == first).count(), 19);
        assert_eq!(house.patch("/background/tasks/t", json!({"query": "new"})).await.0, 200);
        assert_eq!(post(&house, "/background/tasks", "k", Some(body.clone())).await, (200, true, first.clone()));
        assert_eq!(house.get("/background/tasks/t").await.1["query"], "new", "asking again changes nothing");
        assert_eq!(house.delete("/background/tasks/t").await.0, 200);
        assert_eq!(post(&house, "/background/tasks", "k", Some(body.clone())).await, (200, true, first));
        assert_eq!(house.get("/background/tasks/t").await.0, 404);
        let other = json!({"task_id": "t", "query": "y", "schedule": {"type": "manual"}});
        assert_eq!(post(&house, "/background/tasks", "k", Some(other)).await.0, 409);
        house.close().await;
    }
}

#[tokio::test]
async fn a_full_queue_answers_429_with_the_time_to_come_back() {
    let house = house_within(Bounds { max_queued_runs: Some(1), ..Bounds::default() }, false).await;
    let task =
        json!({"task_id": "t", "agent_id": "nobody", "query": "x", "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel"});
    assert_eq!(house.post("/background/tasks", task).await.0, 200);
    assert_eq!(house.post("/background/tasks/t/run", json!({})).await.0, 200);
    let response = house.client.post(house.url("/background/tasks/t/run")).send().await.unwrap();
    assert_eq!(response.status(), 429);
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    let problem: Value = response.json().await.unwrap();
    assert_eq!((problem["retry_after"].as_u64(), &problem["title"]), (Some(seconds), &json!("Too Many Requests")));
    assert!(problem["detail"].as_str().unwrap().contains("queue.max_queued_runs"), "{problem}");
    house.close().await;
}
