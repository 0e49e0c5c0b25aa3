//! The configuration of a running daemon: read again when its file changes and on SIGHUP.

use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::Executor as _;

use super::daemon::{Daemon, Home, patiently};
use super::stops::hold;
use crate::cli::stage::file;
use crate::guest::plain;

fn task(query: &str) -> String {
    format!("[[tasks]]\ntask_id = \"t\"\nagent_id = \"echo\"\nquery = \"{query}\"\nschedule = {{ type = \"manual\" }}\n")
}

/// Waits until the daemon tells that its configuration stands so.
async fn until(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) -> Value {
    daemon.until("/background/status", |status| wanted(&status["configuration"])).await["configuration"].clone()
}

async fn query_of(daemon: &Daemon) -> Value {
    daemon.get("/background/tasks/t").await["query"].clone()
}

/// Waits until the task asks this.
async fn asks(daemon: &Daemon, query: &str) {
    daemon.until("/background/tasks/t", |task| task["query"] == query).await;
}

#[tokio::test]
async fn what_the_file_says_is_in_force_soon_after_it_changed() {
    let home = Home::new(&task("one"), &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    let first = until(&daemon, |told| told["file"].is_string()).await;
    let before = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&before).await["result_preview"], "one");

    // In place, with settings of every kind that a running daemon takes.
    let more = "[agents.echo]\nmax_running = 3\nname = \"The echo\"\n[agents.other]\nplugin = \"echo\"\nenv = { A = \"b\" }\n[queue]\nmax_queued_runs = 7\n[logging]\nlevel = \"debug\"\n";
    home.configure(&format!("{more}{}", task("two")));
    asks(&daemon, "two").await;
    let agent = daemon.get("/background/agents/echo").await;
    assert_eq!((&agent["name"], &agent["max_running"]), (&json!("The echo"), &json!(3)));
    assert_eq!(daemon.get("/background/agents/other").await["plugin"], "echo");
    daemon.logged("DEBUG").await;
    let told = until(&daemon, |told| told["read_at"] != first["read_at"]).await;
    assert_eq!((&told["faults"], &told["next_start"]), (&json!([]), &json!([])));
    let line = daemon.logged("is in force").await;
    assert!(line.contains("agents.echo.max_running") && line.contains("queue.max_queued_runs"), "{line}");
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["result_preview"], "two");
    daemon.task("elsewhere", "other", json!({})).await;
    let run = daemon.fire("elsewhere").await;
    assert_eq!(daemon.terminal(&run).await["status"], "completed");

    // By a rename over it, beside an editor's files.
    file(home.0.path(), ".sandclock.toml.swp", b"[nothing");
    let aside = file(home.0.path(), "aside.toml", task("three").as_bytes());
    std::fs::rename(aside, home.path("sandclock.toml")).unwrap();
    asks(&daemon, "three").await;
    assert!(daemon.get("/background/agents").await["agents"].as_array().unwrap().iter().all(|agent| agent["agent_id"] != "other"));
    daemon.stop().await;
}

#[tokio::test]
async fn a_link_that_is_switched_is_another_configuration() {
    let home = Home::new("", &[("echo", plain::echo())]);
    for version in ["one", "two"] {
        std::fs::create_dir(home.path(version)).unwrap();
        file(&home.path(version), "sandclock.toml", task(version).as_bytes());
    }
    std::fs::remove_file(home.path("sandclock.toml")).unwrap();
    symlink("one", home.path("..data")).unwrap();
    symlink("..data/sandclock.toml", home.path("sandclock.toml")).unwrap();
    let daemon = home.start(&[]).await;
    assert_eq!(query_of(&daemon).await, "one");
    symlink("two", home.path("..tmp")).unwrap();
    std::fs::rename(home.path("..tmp"), home.path("..data")).unwrap();
    asks(&daemon, "two").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_faulty_file_changes_nothing_and_says_all_that_is_wrong_once() {
    let home = Home::new(&task("one"), &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    let first = until(&daemon, |told| told["file"].is_string()).await;
    // A good task beside faults of the settings, and then faults of a task beside good settings.
    home.configure(&format!("{}[worker]\nmax_runing = 3\n[queue]\nmax_queued_runs = \"many\"\n", task("two")));
    let told = until(&daemon, |told| told["faults"] != json!([])).await;
    let faults: Vec<&str> = told["faults"].as_array().unwrap().iter().map(|fault| fault.as_str().unwrap()).collect();
    assert!(faults.len() == 2 && faults[0].contains("sandclock.toml:7") && faults[1].contains("queue.max_queued_runs"), "{faults:?}");
    assert_eq!((told["read_at"].clone(), query_of(&daemon).await), (first["read_at"].clone(), json!("one")));
    home.configure(&format!("[queue]\nmax_queued_runs = 1\n{}timeout_seconds = -1\n", task("two")));
    until(&daemon, |told| told["faults"].to_string().contains("tasks.t.timeout_seconds")).await;
    assert_eq!(query_of(&daemon).await, "one");
    let shown = daemon.verb(home.0.path(), &["status"]).await;
    assert!(shown.code == 0 && shown.out.contains("tasks.t.timeout_seconds"), "{}", shown.out);

    // Without the file everything goes on too, and a mended one is in force.
    std::fs::remove_file(home.path("sandclock.toml")).unwrap();
    until(&daemon, |told| told["faults"].to_string().contains("cannot be read")).await;
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["result_preview"], "one");
    home.configure(&task("three"));
    asks(&daemon, "three").await;
    let told = until(&daemon, |told| told["faults"] == json!([])).await;
    assert_ne!(told["read_at"], first["read_at"]);
    assert_eq!(daemon.log().iter().filter(|line| line.contains("max_runing")).count(), 1, "{:#?}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_running_daemon_cannot_take_is_named_and_waits_for_the_next_start() {
    let home = Home::new("[worker]\nmax_running = 2\n", &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    let wanted = "[worker]\nmax_running = 3\nlease_seconds = 40\n[limits]\nmemory_bytes = 1073741824\ndisk_files = 77\n";
    home.configure(wanted);
    let told = until(&daemon, |told| told["next_start"] != json!([])).await;
    let waiting: Vec<&str> = told["next_start"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(waiting[0], "worker.max_running 2 (sandclock.toml:2) -> 3 (sandclock.toml:2)");
    assert!(waiting[1].starts_with("worker.lease_seconds 30") && waiting[2].starts_with("limits.memory_bytes 1073741824"), "{waiting:?}");
    let line = daemon.logged("takes effect at the next start").await;
    assert!(waiting.iter().all(|key| line.contains(key)), "{line}");
    // What goes with it is in force, the rest is as it was.
    let limits = daemon.get("/background/agents/echo").await["limits"].clone();
    assert_eq!((&limits["disk_files"], &limits["memory_bytes"]), (&json!(77), &json!(268_435_456)));
    let status = daemon.get("/background/status").await;
    assert_eq!((&status["max_running"], &status["lease_seconds"]), (&json!(2), &json!(30.0)));
    // Taken back, nothing waits.
    home.configure("[worker]\nmax_running = 2\n");
    until(&daemon, |told| told["next_start"] == json!([])).await;
    home.configure(wanted);
    until(&daemon, |told| told["next_start"] != json!([])).await;
    daemon.stop().await;
    let daemon = home.start(&[]).await;
    assert_eq!(daemon.get("/background/status").await["max_running"], 3);
    until(&daemon, |told| told["next_start"] == json!([])).await;
    daemon.stop().await;
}

#[tokio::test]
async fn sighup_reads_the_configuration_again_with_the_files_that_it_names() {
    let home = Home::new(&task("one"), &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.send(Signal::HUP);
    daemon.logged("read again and is as it was").await;
    daemon.task("mine", "echo", json!({})).await;
    let run = daemon.fire("mine").await;
    assert_eq!(daemon.terminal(&run).await["status"], "completed", "a daemon that was sent SIGHUP goes on");
    daemon.stop().await;
}

#[tokio::test]
async fn a_token_is_exchanged_while_requests_are_served() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let token = |token: &str| home.configure(&format!("[server]\ntoken = \"{token}\"\n"));
    token("old-token");
    let daemon = home.start(&[]).await;
    let status = async |token: &str| {
        let request = daemon.client.get(format!("{}/background/status", daemon.url)).bearer_auth(token);
        daemon.ask(request).await.0
    };
    assert_eq!((status("old-token").await, status("new-token").await), (200, 401));
    token("new-token");
    daemon.logged("is in force").await;
    let exchanged = async {
        while status("new-token").await != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    patiently("the new token", exchanged).await;
    assert_eq!(status("old-token").await, 401);
    assert!(!daemon.log().iter().any(|line| line.contains("-token")), "{:#?}", daemon.log());
    daemon.stop().await;
}

#[tokio::test]
async fn a_token_is_exchanged_while_the_store_is_away_and_the_tasks_follow() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let configure = |token: &str, query: &str| home.configure(&format!("[server]\ntoken = \"{token}\"\n{}", task(query)));
    configure("old-token", "one");
    let daemon = home.start(&[]).await;
    let get = async |token: &str, path: &str| {
        let request = daemon.client.get(format!("{}/background/{path}", daemon.url)).bearer_auth(token);
        daemon.ask(request).await
    };
    assert_eq!(get("old-token", "tasks/t").await.1["query"], "one");
    let mut outsider = hold(&home).await;
    configure("new-token", "two");
    let exchanged = async {
        while get("new-token", "version").await.0 == 401 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    patiently("the new token", exchanged).await;
    assert_eq!(get("old-token", "version").await.0, 401);
    outsider.execute("ROLLBACK").await.unwrap();
    let applied = async {
        while get("new-token", "tasks/t").await.1["query"] != "two" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    patiently("the task", applied).await;
    daemon.stop().await;
}
