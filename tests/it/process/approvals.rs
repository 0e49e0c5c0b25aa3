//! What a run leaves and what it asks, over the deaths of its daemon and from the command line.

use serde_json::{Value, json};

use super::daemon::{Daemon, Home, id};
use super::oracle;
use crate::cli::stage::{Ended, ended, sandclock};
use crate::guest::{agent, plain};

/// Keeps its query under `kept` in its first attempt, tells that it runs, and sleeps for an hour; any other answers with what was kept.
fn keeps() -> Vec<u8> {
    let body = r#"(if (i32.eq (call $attempt) (i32.const 1)) (then
          (call $save @"kept" (local.get $query) (local.get $query_len) (i32.const 256))
          (if (i32.load8_u (i32.const 256)) (then unreachable))
          (call $report @"started" (i32.const 0) (f64.const 0))
          (drop (call $sleep (i32.const 3600000)))))
        (call $load @"kept" (i32.const 256))
        (if (i32.eqz (i32.load8_u (i32.const 256))) (then unreachable))
        (call $ok (i32.load (i32.const 260)) (i32.load (i32.const 264)))"#;
    agent(body, "")
}

async fn client(home: &Home, daemon_url: &str, line: &[&str]) -> Ended {
    let mut command = sandclock(home.0.path(), line);
    command.env("SANDCLOCK_URL", daemon_url);
    ended(command).await
}

#[tokio::test]
async fn what_was_kept_outlives_a_kill() {
    let home = Home::new("", &[("keeps", keeps())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "keeps", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.started(&run, 1).await;
    daemon.kill().await;
    let daemon = home.start(&[]).await;
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"], &ended["recoveries"]), (&json!("completed"), &json!("q"), &json!(0)));
    assert_eq!(oracle::check(&daemon, &ended).await.len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn what_was_kept_can_be_looked_at() {
    let home = Home::new("", &[("keeps", keeps()), ("counts", plain::checkpoints(1)), ("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    for agent in ["keeps", "counts", "echo"] {
        daemon.task(agent, agent, json!({})).await;
    }
    let run = daemon.fire("keeps").await;
    daemon.started(&run, 1).await;
    let path = format!("/background/runs/{}/checkpoints", id(&run));
    let told = daemon.get(&path).await;
    assert_eq!((&told["checkpoints"], &told["total_bytes"]), (&json!([{"name": "kept", "bytes": 1}]), &json!(5)));
    assert_eq!(daemon.get(&format!("{path}?name=kept")).await["value"], "q");
    assert_eq!(daemon.ask(daemon.client.get(format!("{}{path}?name=no", daemon.url))).await.0, 404);
    let shown = daemon.verb(home.0.path(), &["runs", "checkpoints", id(&run)]).await;
    assert!(shown.code == 0 && shown.out.contains("1 B  kept"), "{shown:?}");
    let value = daemon.verb(home.0.path(), &["runs", "checkpoints", id(&run), "--name", "kept"]).await;
    assert!((value.code, value.out.as_str()) == (0, "q\n"), "{value:?}");
    let counted = daemon.fire("counts").await;
    daemon.terminal(&counted).await;
    let path = format!("/background/runs/{}/checkpoints?name=count", id(&counted));
    assert_eq!(daemon.get(&path).await["value"], "\0");
    let nothing = daemon.fire("echo").await;
    daemon.terminal(&nothing).await;
    let shown = daemon.verb(home.0.path(), &["runs", "checkpoints", id(&nothing)]).await;
    assert_eq!((shown.code, shown.out.as_str()), (0, "the run has no checkpoints\n"));
    daemon.stop().await;
}

async fn asked(home: &Home) -> (Daemon, Value) {
    let daemon = home.start(&[]).await;
    daemon.task("t", "asks", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.event(&run, |event| event["event"] == "background_run_awaiting_approval").await;
    (daemon, run)
}

#[tokio::test]
async fn a_question_is_answered_from_the_command_line_after_its_daemon_was_killed() {
    let home = Home::new("", &[("asks", plain::approval())]);
    let (daemon, run) = asked(&home).await;
    let (run_id, url) = (id(&run).to_owned(), daemon.url.clone());
    let told = client(&home, &url, &["runs", "wait", &run_id]).await;
    assert_eq!(told.code, 5);
    assert!(told.out.contains("May I deploy?\n") && told.out.contains(&format!("sandclock approvals approve {run_id}")), "{}", told.out);
    daemon.kill().await;
    let told = client(&home, &url, &["approvals", "approve", &run_id]).await;
    assert!(told.code == 6 && told.out.is_empty() && told.err.contains("no daemon answers"), "{told:?}");

    let daemon = home.start(&[]).await;
    let told = client(&home, &daemon.url, &["approvals", "list"]).await;
    assert!(told.out.contains(&run_id) && told.out.contains("May I deploy?") && told.out.contains("deploy"), "{}", told.out);
    let why = client(&home, &daemon.url, &["runs", "why", &run_id]).await;
    assert!(why.out.contains("for a person's answer to what attempt 1 asked under `deploy`: May I deploy?"), "{}", why.out);
    let told = client(&home, &daemon.url, &["approvals", "approve", &run_id, "--by", "ana", "--note", "go"]).await;
    assert_eq!((told.code, told.out), (0, format!("approved `deploy` (May I deploy?): {run_id} is queued\n")));
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("ana")));
    assert_eq!(oracle::check(&daemon, &ended).await.len(), 2);
    let told = client(&home, &daemon.url, &["approvals", "deny", &run_id]).await;
    assert_eq!(told.code, 4, "{told:?}");
    assert!(told.err.contains("waits for no answer"), "{}", told.err);
    let told = client(&home, &daemon.url, &["approvals", "deny", &run_id, "deploy"]).await;
    assert!(told.code == 4 && told.err.contains("it was approved by ana"), "{told:?}");
    let told = client(&home, &daemon.url, &["approvals", "show", &run_id]).await;
    assert!(told.out.contains("approved") && told.out.contains("ana"), "{}", told.out);
    let shown = client(&home, &daemon.url, &["approvals", "list"]).await;
    assert_eq!((shown.code, &*shown.out), (0, "no run waits for a person\n"));
    daemon.stop().await;
}

#[tokio::test]
async fn in_the_foreground_the_answer_comes_with_the_command() {
    let home = Home::new("", &[("asks", plain::approval())]);
    let run = async |more: &[&str]| {
        let line: Vec<&str> = ["run", "plugins/asks.wasm", "--query", "q"].iter().chain(more).copied().collect();
        ended(sandclock(home.0.path(), &line)).await
    };
    let told = run(&[]).await;
    assert_eq!(told.code, 5, "{told:?}");
    assert!(told.err.contains("May I deploy?") && told.err.contains("--approve 'deploy'"), "{}", told.err);
    let told = run(&["--approve", "deploy"]).await;
    assert_eq!((told.code, &*told.out), (0, "terminal\n"), "{told:?}");
    assert_eq!(run(&["--deny", "deploy"]).await.code, 1);
}
