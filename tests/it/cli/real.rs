//! The whole binary: a daemon that `init` prepared, fed and watched by the client verbs.

use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;

use super::stage::{Ended, ended, file, sandclock, signal};
use crate::guest::memory::{self as guests, Draft};
use crate::guest::plain;

struct Daemon {
    folder: tempfile::TempDir,
    url: String,
    child: Child,
}

impl Daemon {
    /// Starts it on a free port, and returns when it listens.
    async fn start(plugins: &[(&str, Vec<u8>)]) -> Daemon {
        Self::start_with(plugins, "").await
    }

    /// The same with more settings.
    async fn start_with(plugins: &[(&str, Vec<u8>)], settings: &str) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ended(sandclock(folder.path(), &["init", "d"])).await.code, 0);
        for (name, bytes) in plugins {
            file(&folder.path().join("d/plugins"), name, bytes);
        }
        let config = folder.path().join("d/sandclock.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{text}\n{settings}")).unwrap();
        let mut command = sandclock(folder.path(), &["serve", "--config", "d/sandclock.toml"]);
        let mut child = command.env("SANDCLOCK_LISTEN", "127.0.0.1:0").env("SANDCLOCK_STORE", "memory").spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next_line().await.unwrap().expect("it says where it listens");
        let url = line.rsplit_once(" listens on ").unwrap_or_else(|| panic!("{line}")).1.to_owned();
        Daemon { folder, url, child }
    }

    async fn run(&self, line: &[&str]) -> Ended {
        let mut command = sandclock(self.folder.path(), line);
        command.env("SANDCLOCK_URL", &self.url).env("SANDCLOCK_TOKEN_FILE", self.folder.path().join("d/token"));
        ended(command).await
    }

    async fn good(&self, line: &[&str]) -> String {
        let ended = self.run(line).await;
        assert_eq!(ended.code, 0, "{line:?}: {ended:?}");
        ended.out
    }
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

async fn watch_a_run(daemon: &Daemon, run: &str) {
    assert!(daemon.good(&["runs", "list"]).await.contains(run));
    assert!(daemon.good(&["runs", "show", run]).await.contains("\nstatus     completed\n"));
    let events = daemon.good(&["runs", "events", run]).await;
    assert!(events.contains("background_run_queued") && events.contains("background_run_completed"), "{events}");
    let followed = daemon.good(&["runs", "events", run, "--follow", "--json"]).await;
    let listed = value(&daemon.good(&["runs", "events", run, "--json"]).await);
    assert_eq!(followed.lines().map(value).collect::<Vec<_>>(), *listed["events"].as_array().unwrap());
    assert!(daemon.good(&["runs", "attempts", run]).await.contains("initial"));
    assert!(daemon.good(&["runs", "workspace", run]).await.contains("output.md"));
    assert_eq!(daemon.good(&["runs", "workspace", run, "--get", "output.md"]).await, "another question");
    assert_eq!(daemon.good(&["runs", "result", run]).await, "another question");
    assert_eq!(value(&daemon.good(&["runs", "result", run, "--json"]).await)["result"], "another question");
    daemon.good(&["runs", "logs", run, "--follow"]).await;
    daemon.good(&["runs", "wait", run]).await;
    assert_eq!(daemon.run(&["runs", "cancel", run]).await.code, 4, "a finished run is not touched");
}

/// Why runs are where they are, and runs once more, one and many.
async fn mend(daemon: &Daemon) {
    daemon.good(&["tasks", "create", "--id", "b", "--agent", "bad", "--query", "q"]).await;
    let stuck = value(&daemon.good(&["tasks", "run", "b", "--json"]).await)["run_id"].as_str().unwrap().to_owned();
    let why = value(&daemon.good(&["runs", "why", &stuck, "--json"]).await);
    assert_eq!(why["code"], "agent_not_serving", "{why}");
    let told = daemon.good(&["runs", "why", &stuck]).await;
    assert!(told.contains("agent bad cannot start here: its plugin `bad` was rejected:") && !told.contains('T'), "{told}");

    let preview = daemon.good(&["runs", "rerun", "--task", "f", "--status", "failed", "--since", "2h", "--dry-run"]).await;
    assert!(preview.starts_with("1 run to rerun:"), "{preview}");
    let again = daemon.good(&["runs", "rerun", "--task", "f", "--status", "failed", "--since", "2h", "--yes"]).await;
    assert_eq!(again, "repeated 1 run, now 1 queued\n");
    let runs = value(&daemon.good(&["runs", "list", "--task", "f", "--json"]).await);
    let (again, first) = (runs["runs"][0]["run_id"].as_str().unwrap(), runs["runs"][1]["run_id"].as_str().unwrap());
    assert_eq!(runs["runs"][0]["trigger_metadata"]["rerun_of"], first);
    assert_eq!(daemon.run(&["runs", "wait", again]).await.code, 1);
    assert!(daemon.good(&["runs", "why", again]).await.contains("guest_permanent"));
    assert_eq!(daemon.run(&["runs", "rerun", again, "--wait"]).await.code, 1);
    assert!(daemon.good(&["runs", "mirror", again]).await.contains(&format!("/{again}\n")));

    assert_eq!(daemon.run(&["runs", "rerun", &stuck]).await.code, 4);
    assert_eq!(daemon.good(&["runs", "cancel", "--agent", "bad", "-y"]).await, "asked for the cancel of 1 run, now 1 cancelled\n");
    assert!(daemon.good(&["runs", "why", &stuck]).await.contains("by api"));
    assert_eq!(daemon.run(&["runs", "why", "run_0"]).await.code, 3);
}

async fn keep_a_task(daemon: &Daemon) {
    let made =
        daemon.good(&["tasks", "create", "--id", "t", "--agent", "echo", "--query", "first question", "--schedule", "every 1h"]).await;
    assert!(made.contains("every 3600s"), "{made}");
    let again = ["tasks", "create", "--id", "t", "--agent", "echo", "--query", "q"];
    assert_eq!(daemon.run(&again).await.code, 4);
    let ended = daemon.run(&["tasks", "run", "t", "--wait"]).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.ends_with("\nfirst question\n"), "{}", ended.out);
    assert_eq!(daemon.good(&["tasks", "next", "t", "--count", "3"]).await.lines().count(), 4);
    daemon.good(&["tasks", "pause", "t"]).await;
    assert!(daemon.good(&["tasks", "status", "t"]).await.contains("paused"));
    daemon.good(&["tasks", "resume", "t"]).await;
    daemon.good(&["tasks", "skips", "t"]).await;
    assert!(daemon.good(&["tasks", "list"]).await.contains("first question"));
    assert!(daemon.good(&["tasks", "show", "t"]).await.contains("first question"));
}

#[tokio::test]
async fn a_daemon_is_fed_and_watched_from_the_command_line() {
    let daemon = Daemon::start(&[("echo.wasm", plain::echo()), ("trouble.wasm", plain::permanent()), ("bad.wasm", b"no".to_vec())]).await;
    assert!(daemon.good(&["status"]).await.contains("worker"));
    assert!(daemon.good(&["agents", "list"]).await.contains("echo"));
    daemon.good(&["agents", "show", "echo"]).await;
    let plugins = daemon.good(&["plugins"]).await;
    assert!(plugins.contains("accepted") && plugins.contains("rejected"), "{plugins}");
    keep_a_task(&daemon).await;
    let ended = daemon.run(&["tasks", "run", "t", "--wait", "--json", "--query", "another question"]).await;
    let run = value(&ended.out)["run_id"].as_str().unwrap().to_owned();
    watch_a_run(&daemon, &run).await;

    daemon.good(&["tasks", "create", "--id", "f", "--agent", "trouble", "--query", "q"]).await;
    assert_eq!(daemon.run(&["tasks", "run", "f", "--wait"]).await.code, 1);
    mend(&daemon).await;
    assert_eq!(daemon.run(&["tasks", "create", "--id", "c", "--query", "q", "--schedule", "cron 61 * * * *"]).await.code, 2);
    for line in [["tasks", "show", "nowhere"], ["runs", "show", "run_0"], ["runs", "events", "run_0"], ["agents", "show", "nowhere"]] {
        assert_eq!(daemon.run(&line).await.code, 3, "{line:?}");
    }
    let stranger = ended_without_token(daemon.folder.path(), &daemon.url).await;
    assert_eq!(stranger.code, 1);
    assert!(stranger.err.contains("SANDCLOCK_TOKEN"), "{}", stranger.err);

    daemon.good(&["tasks", "delete", "t", "--runs"]).await;
    assert_eq!(daemon.run(&["tasks", "show", "t"]).await.code, 3);
    stop(daemon).await;
}

async fn ended_without_token(folder: &Path, url: &str) -> Ended {
    ended(sandclock(folder, &["status", "--server", url])).await
}

async fn stop(daemon: Daemon) {
    signal(&daemon.child, Signal::TERM);
    let output = daemon.child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_port_in_use_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = sandclock(folder.path(), &["serve"]);
    command.env("SANDCLOCK_LISTEN", taken.local_addr().unwrap().to_string()).env("SANDCLOCK_STORE", "memory");
    let ended = ended(command).await;
    assert_eq!(ended.code, 1);
    let told: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("sandclock:")).collect();
    assert!(told.len() == 1 && told[0].contains("cannot listen on") && told[0].contains("server.listen"), "{}", ended.err);
}

#[tokio::test]
async fn what_an_agent_keeps_and_logs_is_seen_and_cleared_from_the_command_line() {
    let plugins = [
        ("keeper.wasm", guests::all_of(Draft::Two, "session")),
        ("writer.wasm", guests::logs(guests::LOGGINGS[0], 1)),
        ("configured.wasm", guests::config(guests::CONFIGS[0])),
    ];
    let settings = "[agents.configured]\nconfig = { greeting = \"hello\", number = 0.5, list = [1, \"b\"] }\n";
    let daemon = Daemon::start_with(&plugins, settings).await;
    for agent in ["keeper", "writer", "configured"] {
        daemon.good(&["tasks", "create", "--id", agent, "--agent", agent, "--query", "q"]).await;
    }
    let kept = daemon.good(&["tasks", "run", "keeper", "--wait"]).await;
    assert!(kept.contains("|kept|1|0|5|42|42|one,-,two,|3+0|0|"), "{kept}");
    let again = daemon.good(&["tasks", "run", "keeper", "--wait"]).await;
    assert!(again.contains("|47|84|84|"), "the second run finds what the first left: {again}");
    let listed = daemon.good(&["agents", "memory", "keeper"]).await;
    assert!(listed.contains("session") && listed.contains("background:keeper:keeper"), "{listed}");
    let session = ["agents", "memory", "keeper", "--session", "background:keeper:keeper"];
    let keys = value(&daemon.good(&[&session[..], &["--json"]].concat()).await);
    assert_eq!((&keys["entries"], &keys["keys"], &keys["bytes"]), (&json!([{"key": "n", "bytes": 2}]), &json!(1), &json!(3)));
    assert_eq!(daemon.good(&[&session[..], &["--key", "n"]].concat()).await, "84\n");
    assert_eq!(daemon.run(&[&session[..], &["--key", "k"]].concat()).await.code, 3);
    assert_eq!(daemon.run(&["agents", "memory", "keeper", "--own"]).await.code, 3);
    assert_eq!(daemon.good(&[&session[..], &["--clear"]].concat()).await, "cleared 1 key of 3 B in 1 bucket\n");
    assert!(daemon.good(&["agents", "memory", "keeper"]).await.contains("keeps nothing"));
    assert!(daemon.good(&["agents", "memory", "nowhere", "--clear"]).await.contains("cleared 0 keys"));

    let ended = daemon.run(&["tasks", "run", "writer", "--wait", "--json"]).await;
    let run = value(&ended.out)["run_id"].as_str().unwrap().to_owned();
    let log = daemon.good(&["runs", "logs", &run]).await;
    assert_eq!(log, "TRACE very\\u{1b} fine\nWARN  db/pool: two\\nlines\nCRITICAL main: the end\n");
    let lines = value(&daemon.good(&["runs", "logs", &run, "--json"]).await);
    assert_eq!((&lines["lines"][1]["level"], &lines["lines"][1]["context"]), (&json!("warn"), &json!("db/pool")));
    assert_eq!(lines["lines"][1]["text"], "two\nlines");

    assert!(daemon.good(&["tasks", "run", "configured", "--wait"]).await.ends_with("\nhello 3\n"));
    signal(&daemon.child, Signal::TERM);
}
