//! What is told afterwards: pages, results, logs and files.

use std::time::Duration;

use sandclock::api::ApiSettings;
use sandclock::daemon::{Bounds, Retention};
use serde_json::{Value, json};

use super::house::{Order, house, house_with, house_within, keys, settings};

#[tokio::test]
async fn pages_follow_each_other_in_either_order_and_miss_nothing() {
    let house = house().await;
    house.task("t", "x").await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(house.run("t").await);
    }
    for (query, expected) in [("", made.clone()), ("&order=desc", made.iter().rev().cloned().collect())] {
        let (mut seen, mut path) = (Vec::new(), format!("/background/runs?task_id=t&limit=3{query}"));
        loop {
            let (status, page) = house.get(&path).await;
            assert_eq!((status, &page["total"]), (200, &json!(7)));
            let runs = page["runs"].as_array().unwrap();
            assert!(runs.len() <= 3);
            seen.extend(runs.iter().map(|run| run["run_id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next_cursor"].as_str() else { break };
            // The order comes with the cursor.
            path = format!("/background/runs?task_id=t&limit=3&cursor={next}");
        }
        assert_eq!(seen, expected);
    }
    let (_, page) = house.get("/background/runs?limit=1").await;
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(house.get(&format!("/background/runs?order=desc&cursor={cursor}")).await.0, 422);
    let (_, filtered) = house.get("/background/runs?status=failed").await;
    assert_eq!(filtered, json!({"runs": [], "total": 0, "next_cursor": null}));
    assert_eq!(keys(&house.get("/background/tasks?agent_id=default").await.1), ["tasks", "total", "next_cursor"]);
    house.close().await;
}

#[tokio::test]
async fn events_come_in_pages_too() {
    let house = house().await;
    house.task("t", "x").await;
    let id = house.run("t").await;
    let (_, first) = house.get(&format!("/background/runs/{id}/events?limit=3")).await;
    assert_eq!((&first["count"], &first["next_cursor"]), (&json!(3), &json!("3")));
    let (_, second) = house.get(&format!("/background/runs/{id}/events?limit=3&cursor=3")).await;
    assert_eq!((&second["count"], &second["events"][0]["sequence"], &second["next_cursor"]), (&json!(1), &json!(4), &Value::Null));
    assert_eq!(house.get(&format!("/background/runs/{id}/events?after=4")).await.1["count"], 0);
    house.close().await;
}

#[tokio::test]
async fn a_result_is_told_whole_as_text_or_json() {
    let house = house().await;
    house.task("t", "hold").await;
    let id = house.start("t").await;
    let path = format!("/background/runs/{id}/result");
    let (status, problem) = house.get(&path).await;
    assert_eq!((status, problem["detail"].as_str().unwrap().ends_with("has no result yet")), (404, true));
    let whole = "<b>é</b>\n".repeat(500);
    house.orders.send(Order::Answer(whole.clone())).unwrap();
    house.manager.wait_for_run(&sandclock::domain::id::RunId::parse(&id).unwrap(), Duration::from_secs(60)).await.unwrap();
    let response = house.client.get(house.url(&path)).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(response.text().await.unwrap(), whole);
    let (_, told) = house.send(house.client.get(house.url(&path)).header("accept", "application/json")).await;
    assert_eq!(told, json!({"run_id": id, "status": "completed", "result": whole}));
    house.close().await;
}

#[tokio::test]
async fn logs_are_told_per_attempt() {
    let house = house().await;
    house.task("t", "x").await;
    let id = house.run("t").await;
    let (status, logs) = house.get(&format!("/background/runs/{id}/logs?attempt=1")).await;
    assert_eq!((status, &logs["lines"][0]["text"], &logs["lines"][0]["stream"]), (200, &json!("working"), &json!("stdout")));
    let after = logs["next_offset"].as_u64().unwrap();
    assert_eq!(house.get(&format!("/background/runs/{id}/logs?after={after}")).await.1["lines"], json!([]));
    assert_eq!(house.get(&format!("/background/runs/{id}/logs?after={}", i64::MAX)).await.0, 200);
    assert_eq!(house.get(&format!("/background/runs/{id}/logs?attempt=2")).await.0, 404);
    assert_eq!(house.get(&format!("/background/runs/{id}/logs?attempt=0")).await.0, 422);
    house.close().await;
}

#[tokio::test]
async fn a_guests_file_is_downloaded_and_never_rendered() {
    let house = house().await;
    house.task("t", "x").await;
    let id = house.run("t").await;
    let (_, listing) = house.get(&format!("/background/runs/{id}/workspace")).await;
    let file = listing["files"].as_array().unwrap().iter().find(|file| file["name"] == "day 1 \"é\".html").unwrap();
    assert_eq!((&file["relative_path"], &file["size"], &file["is_dir"]), (&json!("notes/day 1 \"é\".html"), &json!(25), &json!(false)));
    let path = format!("/background/runs/{id}/workspace/files/notes/day%201%20%22%C3%A9%22.html");
    let response = house.client.get(house.url(&path)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((header("content-type"), header("content-length")), ("application/octet-stream".into(), "25".into()));
    assert!(header("content-disposition").starts_with("attachment; filename=\"day_1"), "{}", header("content-disposition"));
    assert_eq!(
        (header("x-content-type-options"), header("content-security-policy")),
        ("nosniff".into(), "sandbox; default-src 'none'".into())
    );
    assert_eq!(response.bytes().await.unwrap().as_ref(), b"<script>alert(1)</script>");
    let head = house.client.head(house.url(&path)).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "25"));
    house.close().await;
}

#[tokio::test]
async fn a_path_out_of_the_workspace_leads_nowhere() {
    let house = house_with(ApiSettings { api_prefix: "/api".into(), ..settings() }, Duration::from_secs(30)).await;
    let body = json!({"task_id": "t", "query": "x", "schedule": {"type": "manual"}});
    house.post("/api/background/tasks", body).await;
    let (_, run) = house.post("/api/background/tasks/t/run", json!({"wait": true})).await;
    let base = format!("/api/background/runs/{}/workspace", run["run_id"].as_str().unwrap());
    for (path, expected) in [
        ("%2e%2e%2frun.json", 422),
        ("..%2f..%2f..%2f..%2fetc/passwd", 422),
        ("%2fetc%2fpasswd", 422),
        ("notes%2f%2fx", 422),
        ("a%00b", 422),
        ("a%ffb", 400),
        ("notes", 422),
        ("absent", 404),
        ("notes/absent", 404),
        ("run.json/x", 404),
    ] {
        let (status, problem) = house.get(&format!("{base}/files/{path}")).await;
        assert_eq!(status, expected, "{path}: {problem}");
    }
    assert_eq!(house.get("/background/runs").await.0, 404);
    house.close().await;
}

#[tokio::test]
async fn a_run_that_retention_has_deleted_is_found_nowhere() {
    let retention = Retention { completed: Some(Duration::ZERO), pass: Duration::from_millis(5), ..Retention::default() };
    let house = house_within(Bounds { retention, ..Bounds::default() }, true).await;
    house.task("t", "x").await;
    let id = house.start("t").await;
    while house.get(&format!("/background/runs/{id}")).await.0 != 404 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for part in ["", "/attempts", "/events", "/events/stream", "/result", "/logs", "/workspace", "/workspace/files/run.json"] {
        let (status, problem) = house.get(&format!("/background/runs/{id}{part}")).await;
        assert_eq!((status, problem["detail"].as_str().unwrap()), (404, format!("Run not found: {id}").as_str()), "{part}");
    }
    let cancel = house.post(&format!("/background/runs/{id}/cancel"), json!({})).await;
    assert_eq!(cancel.0, 404);
    assert_eq!(house.get("/background/runs").await.1["total"], 0);
    let status = house.get("/background/tasks/t/status").await.1;
    assert_eq!((&status["runs"], &status["latest_run"]), (&json!(0), &Value::Null));
    house.close().await;
}
