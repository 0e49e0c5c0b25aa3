//! Waiting for runs, following events and logs.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::stage::{Reply, Stage, frames, ok, signal};

const EVENTS: &str = "GET runs/run_1/events";
const RUN: &str = "GET runs/run_1";

fn run(status: &str) -> Reply {
    ok(&json!({"run_id": "run_1", "task_id": "t", "status": status, "attempt": 2, "triggered_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:02Z", "error": if status == "failed" { json!("it broke") } else { Value::Null }}))
}

fn ending(name: &str, status: &str) -> Reply {
    Reply::Stream(frames(&[(1, "background_run_queued", "queued"), (2, name, status)]), true)
}

fn result() -> (&'static str, Vec<Reply>) {
    ("GET runs/run_1/result", vec![Reply::Plain(200, "text/plain", b"the result".to_vec())])
}

#[tokio::test]
async fn a_run_that_is_waited_for_gives_its_end_as_the_exit() {
    for (status, exit) in [("completed", 0), ("failed", 1), ("timeout", 1), ("cancelled", 1), ("skipped", 4)] {
        let event: &'static str = Box::leak(format!("background_run_{status}").into_boxed_str());
        let stage = Stage::new(vec![
            ("POST tasks/t/run", vec![run("queued")]),
            (EVENTS, vec![ending(event, status)]),
            (RUN, vec![run(status)]),
            result(),
        ])
        .await;
        let waited = stage.run(&["runs", "wait", "run_1"]).await;
        assert_eq!(waited.code, exit, "{status}: {}", waited.err);
        assert!(waited.out.starts_with(&format!("run_1 {status} after 2.0s in 2 attempts")), "{}", waited.out);
        assert_eq!(waited.out.contains("\nthe result\n"), status == "completed", "{}", waited.out);
        assert_eq!(waited.out.contains(": it broke\n"), status == "failed", "{}", waited.out);
        let started = stage.run(&["tasks", "run", "t", "--wait", "--json", "--query", "q", "--metadata", "{\"a\":1}"]).await;
        assert_eq!(started.code, exit, "{status}: {}", started.err);
        assert_eq!(serde_json::from_str::<Value>(&started.out).unwrap()["status"], status);
        let body: Vec<String> = stage.asked().into_iter().filter(|asked| asked.line.starts_with("POST")).map(|asked| asked.body).collect();
        assert_eq!(body, ["{\"query\":\"q\",\"metadata\":{\"a\":1}}"]);
    }
}

#[tokio::test]
async fn without_wait_a_run_is_only_started() {
    let stage = Stage::new(vec![("POST tasks/t/run", vec![run("queued")])]).await;
    let ended = stage.run(&["tasks", "run", "t"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "run_1 queued; `sandclock runs wait run_1` waits for it\n"));
    assert_eq!(stage.asked().len(), 1);
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let broken = Reply::Stream(frames(&[(1, "background_run_queued", "queued"), (2, "background_run_started", "running")]), false);
    let all = frames(&[(2, "background_run_started", "running"), (3, "background_run_completed", "completed")]);
    let stage = Stage::new(vec![(EVENTS, vec![broken, Reply::Stream(all, true)]), (RUN, vec![run("completed")]), result()]).await;
    let ended = stage.run(&["runs", "events", "run_1", "--follow", "--json"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let sequences: Vec<u64> =
        ended.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3], "each once and in order");
    let last: Vec<_> = stage.asked().into_iter().map(|asked| asked.headers[2].clone()).collect();
    assert_eq!(last, [None, Some("2".to_owned())]);
}

#[tokio::test]
async fn a_stream_that_has_nothing_left_is_the_end() {
    let stage = Stage::new(vec![(EVENTS, vec![Reply::Plain(204, "text/plain", Vec::new())])]).await;
    let ended = stage.run(&["runs", "events", "run_1", "--follow", "--after", "4"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""));
    assert_eq!(stage.asked()[0].headers[2].as_deref(), Some("4"));
}

#[tokio::test]
async fn a_wait_that_runs_out_says_that_the_run_goes_on() {
    let stage = Stage::new(vec![(EVENTS, vec![Reply::Stream(frames(&[(1, "background_run_queued", "queued")]), true)])]).await;
    let ended = stage.run(&["runs", "wait", "run_1", "--timeout", "0.2"]).await;
    assert_eq!(ended.code, 5);
    assert!(ended.err.contains("it goes on; `sandclock runs wait run_1`"), "{}", ended.err);
}

#[tokio::test]
async fn who_waits_for_a_run_that_does_not_begin_is_told_why_once() {
    let why = ok(&json!({"status": "queued", "code": "agent_not_serving", "sentence": "there is no plugin file `x.wasm`"}));
    let queued = || Reply::Stream(frames(&[(1, "background_run_queued", "queued")]), true);
    let stage = Stage::new(vec![(EVENTS, vec![queued(), queued()]), ("GET runs/run_1/why", vec![why])]).await;
    let ended = stage.run(&["runs", "wait", "run_1", "--timeout", "5"]).await;
    assert_eq!((ended.code, ended.err.matches("run_1 queued: there is no plugin file").count()), (5, 1), "{}", ended.err);
}

#[tokio::test]
async fn a_parked_run_ends_the_wait_and_a_run_that_was_parked_does_not() {
    let parked = [(1, "background_run_queued", "queued"), (2, "background_run_awaiting_approval", "awaiting_approval")];
    let stage = Stage::new(vec![(EVENTS, vec![Reply::Stream(frames(&parked), true)]), (RUN, vec![run("awaiting_approval")])]).await;
    let ended = stage.run(&["runs", "wait", "run_1"]).await;
    assert_eq!(ended.code, 5, "{}", ended.err);
    assert!(ended.out.contains("sandclock runs resume run_1"), "{}", ended.out);

    let resumed = frames(&[parked[1], (3, "background_run_completed", "completed")]);
    let script = vec![(EVENTS, vec![Reply::Stream(resumed, true)]), (RUN, vec![run("running"), run("completed")]), result()];
    let ended = Stage::new(script).await.run(&["runs", "wait", "run_1"]).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[tokio::test]
async fn a_signal_interrupts_the_wait_and_not_the_run() {
    for kind in [Signal::INT, Signal::TERM] {
        let stage = Stage::new(vec![(EVENTS, vec![Reply::Stream(frames(&[(1, "background_run_queued", "queued")]), true)])]).await;
        let child = stage.command(&["runs", "wait", "run_1"]).spawn().unwrap();
        stage.heard.notified().await;
        signal(&child, kind);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert!(String::from_utf8(output.stderr).unwrap().contains("it goes on"));
        assert!(!stage.asked().iter().any(|asked| asked.line.contains("cancel")));
    }
}

fn log(attempt: u32, next: u64, lines: Value, at_end: bool, finished: bool) -> Reply {
    ok(&json!({"run_id": "run_1", "attempt": attempt, "lines": lines, "next_offset": next, "at_end": at_end, "finished": finished}))
}

fn line(stream: &str, text: &str) -> Value {
    json!({"at": "2026-11-22T05:00:00Z", "stream": stream, "text": text})
}

#[tokio::test]
async fn a_log_is_read_page_by_page() {
    let stage = Stage::new(vec![
        ("GET runs/run_1/logs?after=0&limit=1000", vec![log(2, 40, json!([line("stdout", "one")]), false, false)]),
        (
            "GET runs/run_1/logs?after=40&limit=1000&attempt=2",
            vec![log(2, 80, json!([line("stderr", "two"), {"truncated": 2048}]), true, true)],
        ),
    ])
    .await;
    let ended = stage.run(&["runs", "logs", "run_1"]).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(ended.out, "one\ntwo\n(2.0 KiB more were over the limit and are not kept)\n");
    let ended = stage.run(&["runs", "logs", "run_1", "--timestamps"]).await;
    assert!(ended.out.starts_with("2026-11-22 05:00:00 +00:00 stdout one\n"), "{}", ended.out);
}

#[tokio::test]
async fn a_followed_log_goes_on_with_the_next_attempt_until_the_run_has_ended() {
    let stage = Stage::new(vec![
        ("GET runs/run_1/logs?after=0&limit=1000", vec![log(1, 40, json!([line("stdout", "first")]), true, false)]),
        ("GET runs/run_1/logs?after=40&limit=1000&attempt=1", vec![log(1, 40, json!([]), true, true)]),
        ("GET runs/run_1/logs?after=0&limit=1000&attempt=2", vec![log(2, 40, json!([line("stdout", "second")]), true, true)]),
        (RUN, vec![run("running"), run("completed")]),
    ])
    .await;
    let ended = stage.run(&["runs", "logs", "run_1", "--follow"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "first\nsecond\n"), "{}", ended.err);
}
