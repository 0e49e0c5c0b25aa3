//! Whatever a guest or a stranger puts into a record, it does not steer the reader's terminal.

use serde_json::{Value, json};

use super::stage::{Reply, Stage, frames, ok};

/// Escape codes, a C1 code, a direction mark, a bell, a line that would begin anew.
const HOSTILE: &str = "x\u{1b}[2J\u{9b}31m\u{202e}y\u{7}\rz\u{7f}";

fn assert_harmless(text: &str, about: &str) {
    let harmful = |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(harmful), "{about}: {text:?}");
}

fn record() -> Value {
    let mut record = json!({"lines": [{"at": "2026-01-01T00:00:00Z", "stream": "stdout", "text": HOSTILE}], "at_end": true});
    for name in [
        "run_id",
        "task_id",
        "agent_id",
        "status",
        "error",
        "result_preview",
        "query",
        "query_snapshot",
        "name",
        "plugin",
        "file",
        "state",
        "reason",
        "session_id",
        "workspace_path",
        "workspace_root",
        "worker_id",
        "event",
        "relative_path",
        "path",
        "note",
        "source",
        "next_cursor",
        "message",
        "local",
        "version",
        "attempt",
        "sequence",
        "paused_reason",
        "sentence",
        "code",
        "timezone",
        "offset",
    ] {
        record[name] = json!(HOSTILE);
    }
    record["metadata"] = json!({HOSTILE: HOSTILE});
    record["schedule"] = json!({"type": "cron", "expression": HOSTILE, "timezone": HOSTILE});
    record["status_counts"] = json!({HOSTILE: 3});
    record["matched"] = json!(3);
    record["clock_change"] = json!({"at": "2026-01-01T00:00:00Z", "from": HOSTILE, "to": HOSTILE});
    record
}

#[tokio::test]
async fn every_view_escapes_what_it_shows() {
    let mut list = record();
    for name in ["runs", "tasks", "agents", "plugins", "events", "files", "occurrences", "skips", "sample", "buckets", "entries"] {
        list[name] = json!([record()]);
    }
    let answer = || vec![ok(&list)];
    let views: Vec<(&'static str, Vec<&str>)> = vec![
        ("GET status", vec!["status"]),
        ("GET plugins", vec!["plugins"]),
        ("GET agents", vec!["agents", "list"]),
        ("GET agents/a", vec!["agents", "show", "a"]),
        ("GET agents/a/memory", vec!["agents", "memory", "a"]),
        ("GET agents/a/memory?session=s", vec!["agents", "memory", "a", "--session", "s"]),
        ("GET agents/a/memory?session=s&key=k", vec!["agents", "memory", "a", "--session", "s", "--key", "k"]),
        ("DELETE agents/a/memory", vec!["agents", "memory", "a", "--clear"]),
        ("GET tasks?limit=50&order=asc", vec!["tasks", "list"]),
        ("GET tasks/t", vec!["tasks", "show", "t"]),
        ("GET tasks/t/status", vec!["tasks", "status", "t"]),
        ("GET tasks/t/next?count=10", vec!["tasks", "next", "t"]),
        ("GET tasks/t/skips?limit=50&order=desc", vec!["tasks", "skips", "t"]),
        ("POST tasks/t/run", vec!["tasks", "run", "t"]),
        ("GET runs?limit=50&order=desc", vec!["runs", "list"]),
        ("GET runs/r", vec!["runs", "show", "r"]),
        ("GET runs/r/why", vec!["runs", "why", "r"]),
        ("POST runs/r/rerun", vec!["runs", "rerun", "r"]),
        ("POST runs/r/mirror", vec!["runs", "mirror", "r"]),
        ("POST runs/rerun", vec!["runs", "rerun", "--task", "t", "--dry-run"]),
        ("GET runs/r/events", vec!["runs", "events", "r"]),
        ("GET runs/r/workspace?limit=1000", vec!["runs", "workspace", "r"]),
        ("GET runs/r/logs?after=0&limit=1000", vec!["runs", "logs", "r"]),
    ];
    let stage = Stage::new(views.iter().map(|(asked, _)| (*asked, answer())).collect()).await;
    for (_, line) in &views {
        for json in [false, true] {
            let mut line = line.clone();
            line.extend(json.then_some("--json"));
            let ended = stage.run(&line).await;
            assert_eq!(ended.code, 0, "{line:?}: {}", ended.err);
            assert_harmless(&ended.out, &format!("{line:?}"));
            assert_harmless(&ended.err, &format!("{line:?}"));
            if json {
                assert_eq!(serde_json::from_str::<Value>(&ended.out).unwrap(), list, "{line:?} keeps the value");
            }
        }
    }
}

#[tokio::test]
async fn results_events_and_errors_are_escaped_too() {
    let last = json!({"event": "background_run_completed", "sequence": 9, "status": "completed", "message": HOSTILE});
    let frame = format!("id: 9\ndata: {last}\n\n");
    let mut all = frames(&[(1, "background_run_queued", "queued")]);
    all.push(frame);
    let done = json!({"run_id": "r", "status": "completed", "error": HOSTILE});
    let refused = json!({"done": 1, "refused": 1, "by_status": {HOSTILE: 1}, "refusals": [{"run_id": HOSTILE, "reason": HOSTILE}]});
    let stage = Stage::new(vec![
        ("GET runs/r/events", vec![Reply::Stream(all, true)]),
        ("GET runs/r", vec![ok(&done)]),
        ("GET runs/r/result", vec![Reply::Plain(200, "text/plain", format!("a\n{HOSTILE}").into_bytes())]),
        ("GET runs/bad", vec![super::stage::problem(404, HOSTILE)]),
        ("POST runs/rerun", vec![ok(&refused)]),
    ])
    .await;
    for line in [
        vec!["runs", "wait", "r"],
        vec!["runs", "events", "r", "--follow"],
        vec!["runs", "show", "bad"],
        vec!["runs", "rerun", "--all", "-y"],
    ] {
        let ended = stage.run(&line).await;
        assert_harmless(&ended.out, &format!("{line:?}"));
        assert_harmless(&ended.err, &format!("{line:?}"));
        assert!(format!("{}{}", ended.out, ended.err).contains("\\u{1b}[2J"), "{line:?} shows it: {ended:?}");
    }
    let exact = stage.run(&["runs", "result", "r"]).await;
    assert_eq!(exact.out, format!("a\n{HOSTILE}"), "a pipe gets the bytes as they are");
}

#[tokio::test]
async fn an_event_stream_of_a_stranger_is_refused() {
    for frame in ["data: nonsense\n\n", "data: {\"event\":\"x\"}\n\n"] {
        let stage = Stage::new(vec![("GET runs/r/events", vec![Reply::Stream(vec![frame.to_owned()], true)])]).await;
        let ended = stage.run(&["runs", "wait", "r"]).await;
        assert_eq!(ended.code, 1, "{frame}");
        assert!(ended.err.contains("is it a sandclock daemon"), "{}", ended.err);
    }
}
