//! The client verbs: what they send, what they print, how they end.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::stage::{Reply, Stage, ended, file, ok, problem, sandclock};

fn run(id: &str, status: &str) -> Value {
    json!({"run_id": id, "task_id": "t", "status": status, "attempt": 1, "max_attempts": 3, "triggered_at": "2026-01-01T00:00:00Z",
        "started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01.5Z", "error": null, "result_preview": "did it"})
}

#[tokio::test]
async fn each_refusal_has_its_exit_and_its_sentence() {
    for (status, exit) in [(404, 3), (409, 4), (422, 2), (400, 2), (504, 5), (500, 1), (503, 1)] {
        let stage = Stage::new(vec![("GET runs/run_1", vec![problem(status, "A sentence of the daemon's.")])]).await;
        let ended = stage.run(&["runs", "show", "run_1"]).await;
        assert_eq!((ended.code, ended.err.as_str(), ended.out.as_str()), (exit, "sandclock: A sentence of the daemon's.\n", ""));
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_told_with_the_mend() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    for line in [vec!["status"], vec!["runs", "wait", "run_1"], vec!["tasks", "run", "t", "--wait"], vec!["runs", "logs", "run_1", "-f"]] {
        let mut line = line.clone();
        line.extend(["--server", &url]);
        let ended = ended(sandclock(folder.path(), &line)).await;
        assert_eq!((ended.code, ended.out.as_str()), (6, ""), "{line:?}");
        assert!(ended.err.contains(&url) && ended.err.contains("sandclock serve") && ended.err.lines().count() == 1, "{}", ended.err);
    }
}

#[tokio::test]
async fn what_is_no_daemon_is_told() {
    let stage = Stage::new(vec![("GET status", vec![Reply::Plain(200, "text/html", b"<html>".to_vec())])]).await;
    let ended = stage.run(&["status"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("is it a sandclock daemon"), "{}", ended.err);
    let stage = Stage::new(vec![("GET status", vec![Reply::Plain(502, "text/html", b"<html>".to_vec())])]).await;
    let ended = stage.run(&["status"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("502"), "{}", ended.err);
}

#[tokio::test]
async fn the_token_is_sent_and_never_shown() {
    let stage = Stage::new(vec![("GET status", vec![problem(401, "No token.")])]).await;
    let path = file(stage.folder.path(), "token", b"tiger-7421\n");
    for (name, value) in [("SANDCLOCK_TOKEN", "tiger-7421"), ("SANDCLOCK_TOKEN_FILE", path.to_str().unwrap())] {
        let mut command = stage.command(&["status"]);
        command.env(name, value);
        let ended = ended(command).await;
        assert_eq!(ended.code, 1);
        assert!(ended.err.contains("SANDCLOCK_TOKEN_FILE") && !ended.err.contains("tiger"), "{}", ended.err);
    }
    let ended = stage.run(&["status", "--token-file", "token"]).await;
    assert_eq!(ended.code, 1);
    let asked = stage.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|asked| asked.headers[0].as_deref() == Some("Bearer tiger-7421")), "{asked:?}");
}

#[tokio::test]
async fn a_list_is_a_table_that_says_how_it_goes_on() {
    let answer = json!({"runs": [run("run_b", "completed"), run("run_a", "failed")], "total": 7, "next_cursor": "d1f"});
    let stage = Stage::new(vec![("GET runs?limit=2&order=desc&task_id=t&status=failed", vec![ok(&answer)])]).await;
    let line = ["runs", "list", "--limit", "2", "--task", "t", "--status", "failed"];
    let ended = stage.run(&line).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = ended.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["RUN", "TASK", "STATUS"]);
    assert_eq!(lines[1][..4], ["run_b", "t", "completed", "1/3"]);
    assert!(lines[1].ends_with(&["1.5s", "did", "it"]), "{:?}", lines[1]);
    assert!(ended.out.ends_with("there are more of 7 in all: add --cursor d1f\n"), "{}", ended.out);
    let mut json_line = line.to_vec();
    json_line.push("--json");
    assert_eq!(stage.run(&json_line).await.out, format!("{answer}\n"));
}

#[tokio::test]
async fn an_empty_list_says_what_to_do() {
    let page = "limit=50&order";
    let nothing = |name: &str| vec![ok(&json!({name: [], "total": 0, "next_cursor": null}))];
    let script: Vec<(&'static str, Vec<Reply>)> = vec![
        ("GET agents", nothing("agents")),
        ("GET agents/a/memory", nothing("buckets")),
        ("GET agents/a/memory?bucket=agent", nothing("entries")),
        ("GET plugins", nothing("plugins")),
        ("GET tasks?limit=50&order=asc", nothing("tasks")),
        ("GET runs?limit=50&order=desc", nothing("runs")),
        ("GET runs/run_1/attempts", vec![ok(&json!([]))]),
    ];
    let stage = Stage::new(script).await;
    for (line, hint) in [
        (vec!["agents", "list"], "plugins folder"),
        (vec!["agents", "memory", "a"], "keeps nothing"),
        (vec!["agents", "memory", "a", "--own"], "no keys"),
        (vec!["plugins"], "plugins folder"),
        (vec!["tasks", "list"], "sandclock tasks create"),
        (vec!["runs", "list"], "sandclock tasks run"),
        (vec!["runs", "attempts", "run_1"], "no attempt"),
    ] {
        let ended = stage.run(&line).await;
        assert_eq!(ended.code, 0, "{line:?} {page} {}", ended.err);
        assert!(ended.out.contains(hint), "{line:?}: {}", ended.out);
    }
}

#[tokio::test]
async fn a_request_carries_the_key_that_the_user_gives_it() {
    let script = vec![
        ("POST tasks", vec![ok(&json!({"task_id": "t"}))]),
        ("POST tasks/t/run", vec![ok(&run("run_1", "queued")), problem(429, "7 runs wait already.")]),
    ];
    let stage = Stage::new(script).await;
    assert_eq!(stage.run(&["tasks", "create", "--id", "t", "--query", "q", "--idempotency-key", "k-1"]).await.code, 0);
    assert_eq!(stage.run(&["tasks", "run", "t", "--idempotency-key", "k-2"]).await.code, 0);
    let full = stage.run(&["tasks", "run", "t"]).await;
    assert_eq!((full.code, full.err.as_str()), (1, "sandclock: 7 runs wait already.\n"));
    let keys: Vec<_> = stage.asked().into_iter().map(|asked| asked.headers[3].clone()).collect();
    assert_eq!(keys, [Some("k-1".to_owned()), Some("k-2".to_owned()), None]);
    let bad = stage.run(&["tasks", "run", "t", "--idempotency-key", "two words"]).await;
    assert_eq!((bad.code, stage.asked().len()), (2, 3));
    assert!(bad.err.contains("visible ASCII"), "{}", bad.err);
}

#[tokio::test]
async fn a_task_is_made_of_flags() {
    let stage = Stage::new(vec![("POST tasks", vec![ok(&json!({"task_id": "t"}))])]).await;
    let line = [
        "tasks",
        "create",
        "--id",
        "t",
        "--query",
        "q",
        "--schedule",
        "cron \"*/5 * * * *\"",
        "--timezone",
        "Europe/Berlin",
        "--overlap",
        "queue_next",
        "--timeout",
        "2.5",
        "--max-retries",
        "2",
        "--metadata",
        "{\"a\":1}",
        "--replace",
    ];
    assert_eq!(stage.run(&line).await.code, 0);
    let body: Value = serde_json::from_str(&stage.asked()[0].body).unwrap();
    let expected = json!({"task_id": "t", "query": "q",
        "schedule": {"type": "cron", "expression": "*/5 * * * *", "timezone": "Europe/Berlin"},
        "timeout_seconds": 2.5, "overlap_policy": "queue_next", "retry_policy": {"max_retries": 2}, "metadata": {"a": 1}, "replace": true});
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_task_is_made_of_a_file_or_of_stdin() {
    let task = json!({"task_id": "t", "query": "q", "schedule": {"type": "manual"}});
    let stage = Stage::new(vec![("POST tasks", vec![ok(&task)])]).await;
    file(stage.folder.path(), "task.json", task.to_string().as_bytes());
    assert_eq!(stage.run(&["tasks", "create", "--file", "task.json"]).await.code, 0);
    let mut command = stage.command(&["tasks", "create", "--file", "-", "--replace", "--json"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{task}\n"));
    let bodies: Vec<Value> = stage.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
    assert_eq!(bodies[0], task);
    assert_eq!(bodies[1]["replace"], true);
    for (name, content) in [("list.json", "[]"), ("broken.json", "{")] {
        file(stage.folder.path(), name, content.as_bytes());
        let ended = stage.run(&["tasks", "create", "--file", name]).await;
        assert_eq!(ended.code, 2);
        assert!(ended.err.contains(name) && ended.err.lines().count() == 1, "{}", ended.err);
    }
    assert_eq!(stage.run(&["tasks", "create", "--file", "nowhere.json"]).await.code, 2);
    assert_eq!(stage.asked().len(), 2, "nothing faulty is sent");
}

#[tokio::test]
async fn verbs_without_a_body_ask_for_what_they_say() {
    let done = || vec![ok(&json!({"status": "done"}))];
    for (line, asked) in [
        (vec!["tasks", "pause", "t"], "POST tasks/t/pause"),
        (vec!["tasks", "resume", "t"], "POST tasks/t/resume"),
        (vec!["tasks", "delete", "t"], "DELETE tasks/t"),
        (vec!["tasks", "delete", "t", "--runs"], "DELETE tasks/t?delete_runs=true"),
        (vec!["agents", "delete", "a", "--force"], "DELETE agents/a?force=true"),
        (vec!["agents", "memory", "a"], "GET agents/a/memory"),
        (vec!["agents", "memory", "a", "--own"], "GET agents/a/memory?bucket=agent"),
        (vec!["agents", "memory", "a", "--session", "b/c"], "GET agents/a/memory?session=b%2Fc"),
        (vec!["agents", "memory", "a", "--own", "--key", "k", "--cursor", "3"], "GET agents/a/memory?bucket=agent&cursor=3&key=k"),
        (vec!["agents", "memory", "a", "--clear"], "DELETE agents/a/memory"),
        (vec!["agents", "memory", "a", "--session", "s", "--clear"], "DELETE agents/a/memory?session=s"),
        (vec!["agents", "resume", "a"], "POST agents/a/resume"),
        (vec!["agents", "release", "a"], "POST agents/a/release"),
        (vec!["agents", "history", "a"], "GET agents/a/history"),
        (vec!["runs", "cancel", "run_1"], "POST runs/run_1/cancel"),
        (vec!["runs", "resume", "run_1"], "POST runs/run_1/resume"),
        (vec!["runs", "mirror", "run_1"], "POST runs/run_1/mirror"),
        (vec!["runs", "why", "run_1"], "GET runs/run_1/why"),
        (vec!["runs", "show", "run_1"], "GET runs/run_1"),
        (vec!["tasks", "status", "t"], "GET tasks/t/status"),
        (vec!["tasks", "next", "t", "--count", "3"], "GET tasks/t/next?count=3"),
        (vec!["tasks", "skips", "t"], "GET tasks/t/skips?limit=50&order=desc"),
        (vec!["runs", "events", "run_1", "--after", "4"], "GET runs/run_1/events?after=4"),
        (vec!["runs", "workspace", "run_1"], "GET runs/run_1/workspace?limit=1000"),
    ] {
        let stage = Stage::new(vec![(asked, done())]).await;
        let ended = stage.run(&line).await;
        assert_eq!(ended.code, 0, "{line:?}: {}", ended.err);
        assert!(stage.was_asked(asked) && stage.asked().iter().all(|asked| asked.body.is_empty()), "{line:?}");
    }
}

#[tokio::test]
async fn a_file_arrives_whole_or_not_at_all() {
    let content: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let whole = Reply::Plain(200, "application/octet-stream", content.clone());
    let broken = Reply::Short(content[..1000].to_vec(), content.len());
    let stage = Stage::new(vec![("GET runs/run_1/workspace/files/a%20b/c.bin", vec![whole.clone(), broken, whole])]).await;
    let line = ["runs", "workspace", "run_1", "--get", "a b/c.bin", "-o", "got.bin"];
    let path = stage.folder.path().join("got.bin");
    let ended = stage.run(&line).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, "wrote 292.9 KiB to `got.bin`\n"));
    assert_eq!(std::fs::read(&path).unwrap(), content);
    std::fs::write(&path, "older").unwrap();
    assert_eq!(stage.run(&line).await.code, 6);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "older");
    assert_eq!(std::fs::read_dir(stage.folder.path()).unwrap().count(), 1, "no part is left");
    let output = stage.command(&line[..5]).output().await.unwrap();
    assert_eq!(output.stdout, content);
    for bad in ["../x", "a/../b", "a//b", "."] {
        assert_eq!(stage.run(&["runs", "workspace", "run_1", "--get", bad]).await.code, 2, "{bad}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it_quietly() {
    let runs: Vec<Value> = (0..1000).map(|at| run(&format!("run_{at}"), "completed")).collect();
    let stage = Stage::new(vec![("GET runs?limit=50&order=desc", vec![ok(&json!({"runs": runs, "total": 1000}))])]).await;
    for json in [false, true] {
        let mut command = stage.command(if json { &["runs", "list", "--json"] } else { &["runs", "list"] });
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    }
    let folder = stage.folder.path();
    let mut help = sandclock(folder, &["--help"]).spawn().unwrap();
    drop(help.stdout.take());
    assert_eq!(help.wait().await.unwrap().code(), Some(0));
}
