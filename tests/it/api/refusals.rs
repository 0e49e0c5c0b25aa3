//! Bad requests: each is a 4xx in the one shape, and nothing is half-saved.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sandclock::api::{ApiSettings, router};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::house::{House, house, house_with, settings};

#[tokio::test]
async fn what_is_not_there_or_not_possible_is_said_in_the_one_shape() {
    let house = house().await;
    for path in ["/", "/background", "/background/", "/background/nothing", "/background/tasks/", "/docs"] {
        assert_eq!(house.get(path).await.0, 404, "{path}");
    }
    for (path, detail) in [
        ("/background/runs/run_x", "Run not found: run_x"),
        ("/background/runs/run_x/events", "Run not found: run_x"),
        ("/background/runs/run_x/attempts", "Run not found: run_x"),
        ("/background/runs/run_x/workspace", "Run not found: run_x"),
        ("/background/runs/run_x/result", "Run not found: run_x"),
        ("/background/runs/run_x/logs", "Run not found: run_x"),
        ("/background/runs/run_x/why", "Run not found: run_x"),
        ("/background/runs/run_x/why-denied", "Run not found: run_x"),
        ("/background/tasks/none/status", "Task not found: none"),
        ("/background/tasks/none/next", "Task not found: none"),
        ("/background/tasks/none/skips", "Task not found: none"),
        ("/background/agents/none", "Agent not found: none"),
    ] {
        let (status, problem) = house.get(path).await;
        assert_eq!((status, &problem["detail"]), (404, &json!(detail)), "{path}");
    }
    let response = house.client.put(house.url("/background/tasks/t")).send().await.unwrap();
    let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
    assert!(["GET", "PATCH", "DELETE"].iter().all(|method| allowed.contains(method)), "{allowed}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.status(), 405);
    house.close().await;
}

#[tokio::test]
async fn malformed_ids_and_parameters_are_the_callers_fault() {
    let house = house().await;
    house.task("t", "x").await;
    for path in [
        "/background/tasks/..%2Fx",
        "/background/tasks/.hidden",
        "/background/runs/a%0Ab",
        "/background/runs/%20",
        "/background/runs?status=foo",
        "/background/runs?limit=-1",
        "/background/runs?limit=0",
        "/background/runs?limit=1001",
        "/background/runs?limit=1&limit=2",
        "/background/runs?cursor=zzz",
        "/background/runs?order=up",
        "/background/runs?task_id=",
        "/background/runs?agent_id=a",
        "/background/tasks?agent_id=..",
        "/background/tasks/t?x=1",
        "/background/tasks/t/next?count=0",
        "/background/tasks/t/next?count=1e3",
        "/background/status?verbose",
        "/background/runs/run_x/events?after=-1",
        "/background/runs/run_x/events?after=1&cursor=1",
    ] {
        let (status, problem) = house.get(path).await;
        assert_eq!(status, 422, "{path}: {problem}");
    }
    assert_eq!(house.delete("/background/tasks/t?delete_runs=maybe").await.0, 422);
    assert_eq!(house.get("/background/runs/%ff").await.0, 400);
    assert_eq!(house.get("/background/tasks/t").await.0, 200);
    house.close().await;
}

#[tokio::test]
async fn bad_bodies_are_refused_whole() {
    let house = house().await;
    let good = json!({"task_id": "t", "query": "q", "schedule": {"type": "manual"}});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for body in [
        json!([]),
        json!("text"),
        json!({}),
        with("task_id", json!("../x")),
        with("query", json!(" ")),
        with("timeout_seconds", json!(0)),
        with("timeout_seconds", json!(-1)),
        with("schedule", json!({"type": "cron", "expression": "61 * * * *"})),
        with("schedule", json!({"type": "cron", "expression": "0 0 * * FOO"})),
        with("schedule", json!({"type": "interval"})),
        with("colour", json!("red")),
        with("replace", json!("yes")),
        with("workspace_policy", json!({"namespace_template": "../../{run_id}"})),
        with("metadata", json!([])),
    ] {
        let (status, problem) = house.post("/background/tasks", body.clone()).await;
        assert_eq!(status, 422, "{body}: {problem}");
    }
    let (_, problem) = house.post("/background/tasks", json!({"task_id": "..", "query": "", "wrong": 1, "schedule": {"type": "x"}})).await;
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    assert!(["task_id", "query", "wrong"].iter().all(|field| fields.contains(field)), "{problem}");
    assert_eq!(house.get("/background/tasks").await.1["total"], 0);

    assert_eq!(house.post("/background/tasks", good).await.0, 200);
    let before = house.get("/background/tasks/t").await;
    for patch in
        [json!({"query": null}), json!({"schedule": null}), json!({"task_id": "u"}), json!({"query": "new", "enabled": 3}), json!({"x": 1})]
    {
        assert_eq!(house.patch("/background/tasks/t", patch.clone()).await.0, 422, "{patch}");
    }
    assert_eq!(house.get("/background/tasks/t").await, before);
    let (status, problem) = house.post("/background/tasks/t/run", json!({"wait": true, "priority": 1})).await;
    assert_eq!(status, 422);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("priority") && detail.contains("metadata"), "{detail}");
    assert_eq!(house.post("/background/tasks/t/pause", json!({"until": 5})).await.0, 422);
    for (path, body) in [
        ("/background/runs/run_x/rerun", json!({"priority": 1})),
        ("/background/runs/run_x/rerun", json!({"metadata": {"rerun_of": "run_y"}})),
        ("/background/runs/run_x/mirror", json!({"force": true})),
        ("/background/runs/rerun", json!({})),
        ("/background/runs/rerun", json!({"filter": {}})),
        ("/background/runs/rerun", json!({"filter": {"status": ["running"]}})),
        ("/background/runs/rerun", json!({"filter": {"task_id": "t"}, "dryrun": true})),
        ("/background/runs/cancel", json!({"filter": {"status": ["failed"]}})),
        ("/background/runs/cancel", json!({"filter": {"task_id": "t", "colour": "red"}})),
        ("/background/runs/cancel", json!({"filter": {"since": "9999-12-31T23:59:60.9Z", "until": "0000-01-01T00:00:00Z"}})),
    ] {
        let (status, problem) = house.post(path, body.clone()).await;
        assert_eq!(status, 422, "{path} {body}: {problem}");
    }
    for path in ["/background/runs/run_x/rerun", "/background/runs/run_x/mirror"] {
        assert_eq!(house.post(path, json!({})).await.0, 404, "{path}");
    }
    assert_eq!(house.get("/background/runs").await.1["total"], 0);
    house.close().await;
}

#[tokio::test]
async fn bad_bytes_are_refused_before_they_are_read_as_anything() {
    let house = house().await;
    let post = |kind: &str, body: Vec<u8>| house.client.post(house.url("/background/tasks")).header("content-type", kind).body(body);
    let deep = "[".repeat(20_000);
    for (kind, body, expected) in [
        ("application/json", b"{\"task_id\": \"t\",".to_vec(), 400),
        ("application/json", b"{\"task_id\": \"\xff\"}".to_vec(), 400),
        ("application/json", deep.into_bytes(), 400),
        ("application/json", vec![b' '; 64 * 1024 + 1], 413),
        ("application/json", Vec::new(), 400),
        ("application/x-www-form-urlencoded", b"task_id=t".to_vec(), 415),
        ("text/plain", b"{}".to_vec(), 415),
    ] {
        assert_eq!(house.send(post(kind, body)).await.0, expected, "{kind} {expected}");
    }
    let gzip = post("application/json", b"{}".to_vec()).header("content-encoding", "gzip");
    assert_eq!(house.send(gzip).await.0, 415);
    house.close().await;
}

#[tokio::test]
async fn a_request_has_its_time() {
    let settings = ApiSettings { request_timeout: Duration::from_millis(50), ..settings() };
    let house = house_with(settings, Duration::from_millis(50)).await;
    let never = reqwest::Body::wrap_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let request = house.client.post(house.url("/background/tasks")).header("content-type", "application/json").body(never);
    let (status, problem) = house.send(request).await;
    assert_eq!((status, &problem["request_timeout_seconds"]), (504, &json!(0.05)));
    house.close().await;
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        prop_oneof![
            Just("manual"),
            Just("cron"),
            Just("once"),
            Just("interval"),
            Just("* * * * *"),
            Just("2026-02-30T00:00:00Z"),
            Just("Europe/Berlin")
        ]
        .prop_map(Value::from),
    ];
    let name = prop_oneof![
        Just("task_id"),
        Just("query"),
        Just("schedule"),
        Just("type"),
        Just("seconds"),
        Just("expression"),
        Just("run_at"),
        Just("timezone"),
        Just("start_at"),
        Just("end_at"),
        Just("jitter_seconds"),
        Just("misfire_policy"),
        Just("retry_policy"),
        Just("max_retries"),
        Just("session_policy"),
        Just("workspace_policy"),
        Just("namespace_template"),
        Just("metadata"),
        Just("timeout_seconds"),
        Just("wait"),
        Just("max_queued"),
        Just("replace"),
        Just("enabled"),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop_oneof![8 => name.clone(), 1 => ".{0,8}"], inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A task that is right but for one field.
fn nearly_a_task() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        Just("query"),
        Just("schedule"),
        Just("timeout_seconds"),
        Just("retry_policy"),
        Just("overlap_policy"),
        Just("session_policy"),
        Just("workspace_policy"),
        Just("metadata"),
        Just("max_queued"),
        Just("cancel_grace_seconds"),
    ];
    (names, any_json()).prop_map(|(name, value)| {
        let mut task = json!({"task_id": "p", "query": "q", "schedule": {"type": "manual"}, "replace": true});
        task[name] = value;
        task
    })
}

async fn answer(house: &House, method: Method, path: &str, body: impl Into<Body>) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost").header("content-type", "application/json");
    let response = router(house.manager.clone(), settings()).oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn for_any<S: Strategy>(cases: u32, strategy: S, judge: impl AsyncFn(&House, S::Value)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let house = runtime.block_on(house());
    runtime.block_on(house.task("t", "x"));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |value| {
            runtime.block_on(judge(&house, value));
            Ok(())
        })
        .unwrap();
    runtime.block_on(house.close());
}

#[tokio::test]
async fn what_is_asked_of_an_agent_s_memory_must_make_sense() {
    let house = house().await;
    for (query, status, told) in [
        ("", 200, ""),
        ("?bucket=agent", 404, "Agent's key-values not found: a"),
        ("?session=..%2F%00x", 404, "not found"),
        ("?bucket=agent&session=s", 422, "leave one of them out"),
        ("?bucket=session", 422, "which session"),
        ("?bucket=other", 422, "agent or session"),
        ("?key=k", 422, "say which"),
        ("?bucket=agent&cursor=x", 422, "next_cursor"),
        ("?bucket=agent&cursor=300", 422, "next_cursor"),
        ("?values=true", 422, "not a known parameter"),
    ] {
        let (found, body) = house.get(&format!("/background/agents/a/memory{query}")).await;
        assert_eq!(found, status, "{query} {body}");
        assert!(body.to_string().contains(told), "{query} {body}");
    }
    assert_eq!(house.delete("/background/agents/a/memory").await.1["buckets"], 0);
    assert_eq!(house.delete("/background/agents/a/memory?session=s").await.0, 404);
    assert_eq!(house.delete("/background/agents/a/memory?bucket=both").await.0, 422);
    assert_eq!(house.get("/background/agents/a%2Fb/memory").await.0, 422);
    house.close().await;
}

#[test]
fn no_json_makes_the_daemon_fail() {
    for_any(300, prop_oneof![any_json(), nearly_a_task()], async |house, body| {
        for (method, path) in [
            (Method::POST, "/background/tasks"),
            (Method::PATCH, "/background/tasks/t"),
            (Method::POST, "/background/tasks/t/pause"),
            (Method::POST, "/background/agents"),
            (Method::POST, "/background/runs/rerun"),
            (Method::POST, "/background/runs/cancel"),
            (Method::POST, "/background/runs/run_x/rerun"),
            (Method::POST, "/background/runs/run_x/mirror"),
        ] {
            let (status, told) = answer(house, method, path, body.to_string()).await;
            assert!(status < 500, "{path} {body}: {status} {told}");
        }
    });
}

/// A wish about many runs that is right but for one field, or right.
fn nearly_a_wish() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        Just("task_id"),
        Just("agent_id"),
        Just("status"),
        Just("since"),
        Just("until"),
        Just("error_kind"),
        Just("limit"),
        Just("cursor"),
        Just("dry_run"),
        Just("all"),
    ];
    let times = prop_oneof![Just("2026-01-01T00:00:00Z"), Just("9999-12-31T23:59:59+14:00"), Just("0001-01-01T00:00:00-12:00")];
    let value = prop_oneof![
        4 => any_json(),
        2 => times.prop_map(Value::from),
        2 => prop::sample::select(vec!["failed", "queued", "trap", "t", "1.2.3", "-1.0", "9223372036854775807.11.0"]).prop_map(Value::from),
        1 => prop::sample::subsequence(vec!["failed", "queued", "running", "skipped"], 0..4).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
    ];
    prop::collection::vec((names, value), 0..4).prop_map(|fields| {
        let mut wish = json!({"filter": {}});
        for (name, value) in fields {
            let place = if ["limit", "cursor", "dry_run", "all"].contains(&name) { &mut wish } else { &mut wish["filter"] };
            place[name] = value;
        }
        wish
    })
}

#[test]
fn no_wish_about_many_runs_makes_the_daemon_fail() {
    for_any(500, nearly_a_wish(), async |house, body| {
        for path in ["/background/runs/rerun", "/background/runs/cancel"] {
            let (status, told) = answer(house, Method::POST, path, body.to_string()).await;
            assert!(status < 500, "{path} {body}: {status} {told}");
        }
    });
}

#[test]
fn no_bytes_make_the_daemon_fail() {
    for_any(300, prop::collection::vec(any::<u8>(), 0..200), async |house, body| {
        for path in ["/background/tasks", "/background/tasks/t/run", "/background/runs/run_x/cancel", "/background/runs/cancel"] {
            let (status, told) = answer(house, Method::POST, path, body.clone()).await;
            assert!(status < 500, "{path} {body:?}: {status} {told}");
        }
    });
}

#[test]
fn no_path_or_query_makes_the_daemon_fail() {
    let escaped = |text: String| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let raw =
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>());
    let part = prop_oneof![".{0,20}".prop_map(escaped), raw, "[0-9a-z._-]{1,10}", "-?[0-9]{1,22}", "[ad]-?[0-9a-f]{1,17}"];
    for_any(300, (part.clone(), part), async |house, (first, second)| {
        for path in [
            format!("/background/tasks/{first}"),
            format!("/background/tasks/t/next?count={second}"),
            format!("/background/tasks/t/skips?cursor={second}"),
            format!("/background/runs/{first}/workspace?cursor={second}"),
            format!("/background/runs/{first}/workspace/files/{second}"),
            format!("/background/runs/{first}/logs?after={second}&attempt={second}"),
            format!("/background/runs/{first}/events?after={second}"),
            format!("/background/runs?cursor={first}&limit={second}"),
            format!("/background/runs?task_id={first}&status={second}"),
            format!("/background/tasks?{first}={second}"),
        ] {
            let (status, told) = answer(house, Method::GET, &path, Body::empty()).await;
            assert!(status < 500, "{path}: {status} {told}");
        }
    });
}
