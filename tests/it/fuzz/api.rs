//! The API's router in this process: any path, query, header and body is answered in the one shape, and never with a fault of ours.

use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sandclock::api::{ApiSettings, router};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use super::json::{changed, tasks, value};
use super::{is_one_sentence, text, try_all};
use crate::api::house::{House, house, settings};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// A daemon whose API is asked without a socket.
struct Door {
    routes: Router,
    house: House,
    run: String,
}

fn door() -> Door {
    RUNTIME.block_on(async {
        let house = house().await;
        house.task("known", "say hello").await;
        let run = house.run("known").await;
        let settings = ApiSettings { request_timeout: Duration::from_secs(10), ..settings() };
        Door { routes: router(house.manager.clone(), settings), house, run }
    })
}

impl Door {
    /// Asks, checks the answer's shape, and gives its status and body.
    fn ask(&self, mut request: Request<Body>) -> Result<(u16, Value), TestCaseError> {
        request.headers_mut().entry("host").or_insert(HeaderValue::from_static("127.0.0.1:8000"));
        let shown = format!("{} {}", request.method(), request.uri());
        let (status, kind, bytes) = RUNTIME.block_on(async {
            let response = self.routes.clone().oneshot(request).await.unwrap();
            let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
            let is_stream = kind == "text/event-stream";
            let status = response.status().as_u16();
            let bytes = if is_stream { bytes::Bytes::new() } else { to_bytes(response.into_body(), 16 << 20).await.unwrap() };
            (status, kind, bytes)
        });
        // A wish that waits for no time may be told so.
        prop_assert!(status < 500 || status == 504, "{shown} is answered with {status}: {}", String::from_utf8_lossy(&bytes));
        if status < 400 {
            let body = if kind == "application/json" { serde_json::from_slice(&bytes).unwrap() } else { Value::Null };
            return Ok((status, body));
        }
        prop_assert_eq!(kind, "application/problem+json", "{}", shown);
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(&body["status"], &json!(status));
        is_one_sentence(body["detail"].as_str().unwrap_or_default())?;
        for error in body["errors"].as_array().into_iter().flatten() {
            is_one_sentence(error["message"].as_str().unwrap_or_default())?;
            prop_assert!(error["field"].is_string(), "{}", body);
        }
        Ok((status, body))
    }

    fn send(&self, method: Method, path: &str, body: &Value) -> Result<(u16, Value), TestCaseError> {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.ask(request.body(Body::from(body.to_string())).unwrap())
    }

    /// A refused body names the field, or says that it is no object.
    fn names_its_field(body: &Value, answer: &Value) -> Result<(), TestCaseError> {
        let errors = answer["errors"].as_array().cloned().unwrap_or_default();
        prop_assert!(!errors.is_empty(), "{} is refused without a field: {}", body, answer);
        let named = errors.iter().all(|error| error["field"].as_str().is_some_and(|field| !field.is_empty()));
        prop_assert!(named || !body.is_object(), "{} is refused without a field: {}", body, answer);
        Ok(())
    }

    fn close(self) {
        RUNTIME.block_on(self.house.close());
    }
}

#[test]
fn w_30_any_task_is_registered_as_it_is_shown_or_refused_and_not_kept() {
    let door = door();
    try_all(300, &changed(tasks()), |body| {
        let count = |door: &Door| door.send(Method::GET, "/background/tasks?limit=1", &Value::Null).map(|(_, list)| list["total"].clone());
        let before = count(&door)?;
        let (status, shown) = door.send(Method::POST, "/background/tasks", &body)?;
        if status != 200 {
            prop_assert!(matches!(status, 409 | 413 | 422), "{body} is answered with {status}");
            if status == 422 {
                Door::names_its_field(&body, &shown)?;
            }
            prop_assert_eq!(count(&door)?, before, "a refused task is kept: {}", body);
            return Ok(());
        }
        let path = format!("/background/tasks/{}", shown["task_id"].as_str().unwrap());
        let mut found = door.send(Method::GET, &path, &Value::Null)?.1;
        ["used", "budgets"].iter().for_each(|sums| drop(found.as_object_mut().unwrap().shift_remove(*sums)));
        prop_assert_eq!(&found, &shown);
        for more in ["/status", "/next?count=3", "/skips"] {
            prop_assert_eq!(door.send(Method::GET, &format!("{path}{more}"), &Value::Null)?.0, 200);
        }
        let mut patch = shown.clone();
        for fixed in ["task_id", "agent_id", "created_at", "updated_at", "source"] {
            patch.as_object_mut().unwrap().shift_remove(fixed);
        }
        let (status, mut patched) = door.send(Method::PATCH, &path, &patch)?;
        prop_assert_eq!(status, 200, "{} is not taken back: {}", patch, patched);
        patched["updated_at"] = shown["updated_at"].clone();
        prop_assert_eq!(patched, shown, "what is shown changes when it is given back");
        prop_assert_eq!(door.send(Method::DELETE, &format!("{path}?delete_runs=true"), &Value::Null)?.0, 200);
        Ok(())
    });
    door.close();
}

#[test]
fn any_patch_and_any_wish_is_taken_or_refused_with_its_field() {
    let door = door();
    for (at, body) in tasks().into_iter().enumerate() {
        let mut body = body;
        body["task_id"] = json!(format!("task{at}"));
        assert_eq!(door.send(Method::POST, "/background/tasks", &body).unwrap().0, 200);
    }
    let wishes = vec![json!({"query": "other", "metadata": {"a": 1}, "wait": true, "timeout_seconds": 2}), json!({}), Value::Null];
    let strategy = (0usize..7, changed(tasks()), changed(wishes), select(vec!["run", "pause", "resume", "run"]));
    try_all(200, &strategy, |(at, patch, wish, verb)| {
        let path = format!("/background/tasks/task{at}");
        let (status, answer) = door.send(Method::PATCH, &path, &patch)?;
        prop_assert!(matches!(status, 200 | 400 | 413 | 422), "{patch} is answered with {status}");
        if status == 422 {
            Door::names_its_field(&patch, &answer)?;
        }
        let (status, answer) = door.send(Method::POST, &format!("/background/tasks/known/{verb}"), &wish)?;
        prop_assert!(matches!(status, 200 | 400 | 413 | 422 | 504), "{verb} {wish} is answered with {status}: {answer}");
        if status == 422 {
            Door::names_its_field(&wish, &answer)?;
        }
        let register = door.send(Method::POST, "/background/agents", &wish)?.0;
        prop_assert!(matches!(register, 200 | 404 | 409 | 413 | 422), "{wish} is answered with {register}");
        Ok(())
    });
    door.close();
}

/// Any bytes, or JSON with a byte changed.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (changed(tasks()), any::<Index>(), any::<u8>()).prop_map(|(body, at, byte)| {
            let mut bytes = body.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        value().prop_map(|value| value.to_string().into_bytes()),
        (select(vec!["[", "{\"a\":", "\"", "1", "\\u", " "]), 1usize..30_000).prop_map(|(piece, times)| piece.repeat(times).into_bytes()),
    ]
}

fn path(run: &str) -> impl Strategy<Value = String> + use<> {
    let part = prop_oneof![
        6 => select(vec!["background", "tasks", "runs", "agents", "plugins", "status", "known", "events", "stream", "workspace", "files", "attempts", "result",
            "logs", "next", "skips", "cancel", "resume", "run", "pause", "health", "ready", "", "..", "%2e%2e", "%00", "%ff", "%2F", "notes", "output.md"])
            .prop_map(str::to_owned),
        1 => Just(run.to_owned()),
        1 => "[!-~]{0,12}",
    ];
    let any = proptest::collection::vec(part, 0..7).prop_map(|parts| format!("/{}", parts.join("/")));
    let routes = [
        "runs/{run}",
        "runs/{run}/events",
        "runs/{run}/events/stream",
        "runs/{run}/workspace",
        "runs/{run}/workspace/files/output.md",
        "runs/{run}/logs",
        "runs/{run}/result",
        "runs/{run}/attempts",
        "runs/{run}/cancel",
        "runs",
        "tasks",
        "tasks/known/next",
        "tasks/known/skips",
        "tasks/known/status",
        "status",
        "tasks/known",
        "agents/default",
        "plugins",
    ];
    let known: Vec<String> = routes.iter().map(|route| format!("/background/{}", route.replace("{run}", run))).collect();
    prop_oneof![3 => select(known), 1 => any]
}

fn query() -> impl Strategy<Value = String> {
    let name = select(vec![
        "limit",
        "cursor",
        "order",
        "after",
        "status",
        "task_id",
        "agent_id",
        "count",
        "delete_runs",
        "force",
        "attempt",
        "stream",
        "tail",
        "x",
        "",
    ]);
    let value = prop_oneof![
        2 => select(vec!["0", "1", "-1", "1000", "1001", "9223372036854775807", "18446744073709551616", "a0", "dffffffffffffffff", "asc", "desc", "true", "%ff", "%", "+", "completed"])
            .prop_map(str::to_owned),
        1 => "[!-~]{0,12}",
    ];
    let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    proptest::collection::vec(pair, 0..4).prop_map(|pairs| if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) })
}

fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = select(vec![
        "accept",
        "content-type",
        "content-length",
        "content-encoding",
        "last-event-id",
        "range",
        "if-range",
        "authorization",
        "idempotency-key",
        "host",
        "if-none-match",
        "expect",
        "transfer-encoding",
        "x-request-id",
    ]);
    let known = select(vec![
        "",
        "*/*",
        "text/event-stream",
        "application/json",
        "application/json; charset=utf-16",
        "gzip",
        "identity",
        "bytes=0-",
        "bytes=5-2,-1",
        "bytes=99999999999999999999-",
        "18446744073709551615",
        "-1",
        "Bearer x",
        "Bearer",
        "q=0",
        "text/event-stream;q=nan",
        "application/json;q=",
        "a;;;b=,,",
    ]);
    let any = prop_oneof![2 => known.prop_map(|value| value.as_bytes().to_vec()), 1 => proptest::collection::vec(any::<u8>(), 0..20)];
    (name, any).prop_filter_map("no header", |(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?)))
}

#[test]
fn any_request_is_answered_in_the_one_shape() {
    let door = door();
    let method =
        select(vec![Method::GET, Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::PUT, Method::HEAD, Method::OPTIONS]);
    let strategy = (method, path(&door.run), query(), proptest::collection::vec(header(), 0..3), bytes());
    try_all(700, &strategy, |(method, path, query, headers, body)| {
        let Ok(uri) = format!("{path}{query}").parse::<Uri>() else { return Ok(()) };
        // These two are what the other requests are about.
        if method == Method::DELETE && path.contains("known") {
            return Ok(());
        }
        let mut request = Request::builder().method(&method).uri(uri).body(Body::from(body)).unwrap();
        request.headers_mut().extend(headers);
        if method == Method::HEAD {
            let status = RUNTIME.block_on(async { door.routes.clone().oneshot(request).await.unwrap().status().as_u16() });
            prop_assert!(status < 500, "HEAD {path} is answered with {status}");
            return Ok(());
        }
        door.ask(request).map(drop)
    });
    let (status, _) = door.send(Method::GET, &format!("/background/runs/{}", door.run), &Value::Null).unwrap();
    assert_eq!(status, 200, "the daemon still answers");
    door.close();
}

#[test]
fn any_text_in_a_wish_reaches_the_guest_and_comes_back() {
    let door = door();
    try_all(40, &text(), |query| {
        let (status, run) = door.send(Method::POST, "/background/tasks/known/run", &json!({"query": query, "wait": true}))?;
        prop_assert_eq!((status, &run["status"]), (200, &json!("completed")), "{}", run);
        let asked = if query.trim().is_empty() { "say hello" } else { &query };
        let expected = format!("did: {asked}");
        prop_assert_eq!(&run["query_snapshot"], asked);
        let path = format!("/background/runs/{}/result", run["run_id"].as_str().unwrap());
        let request = Request::get(&path).header("accept", "application/json").body(Body::empty()).unwrap();
        prop_assert_eq!(&door.ask(request)?.1["result"], &json!(expected));
        for more in ["events", "attempts", "workspace"] {
            prop_assert_eq!(door.send(Method::GET, &path.replace("result", more), &Value::Null)?.0, 200);
        }
        Ok(())
    });
    door.close();
}
