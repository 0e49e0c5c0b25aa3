//! The verbs that need no daemon: run, check, init, config, and faulty command lines.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::stage::{Ended, ended, file, sandclock, signal};
use crate::guest::{command, hostile, plain};

async fn at(folder: &Path, line: &[&str]) -> Ended {
    ended(sandclock(folder, line)).await
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

#[tokio::test]
async fn a_faulty_command_line_is_a_usage_fault() {
    let folder = tempfile::tempdir().unwrap();
    for line in [vec!["frobnicate"], vec!["tasks", "show", "../x"], vec!["run", "x.wasm"], vec![]] {
        assert_eq!(at(folder.path(), &line).await.code, 2, "{line:?}");
    }
    for line in [["--help"], ["--version"]] {
        assert_eq!(at(folder.path(), &line).await.code, 0);
    }
}

#[tokio::test]
async fn an_attempt_in_the_foreground_prints_its_result_and_keeps_its_workspace() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "echo.wasm", &plain::echo());
    let ended = at(folder.path(), &["run", "echo.wasm", "--query", "hello"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (0, "hello\n"), "{}", ended.err);
    assert!(ended.err.contains("completed after ") && ended.err.contains("\nworkspace: "), "{}", ended.err);
    let made: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let workspace = made.iter().find(|name| name.starts_with("run-")).unwrap_or_else(|| panic!("{made:?}"));
    assert_eq!(std::fs::read_to_string(folder.path().join(workspace).join("output.md")).unwrap(), "hello");

    let ended = at(folder.path(), &["run", "echo.wasm", "--query", "q", "--workspace", "w/x", "--json"]).await;
    let report = json(&ended);
    assert_eq!((ended.code, &report["status"], &report["result"]), (0, &"completed".into(), &"q".into()));
    assert!(report["workspace"].as_str().unwrap().ends_with("/w/x") && report["usage"]["wall_seconds"].is_number(), "{report}");
    assert!(folder.path().join("w/x/output.md").is_file());
}

#[tokio::test]
async fn what_a_guest_tells_and_writes_goes_to_stderr() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "progress.wasm", &plain::progress());
    file(folder.path(), "logs.wasm", &plain::logs());
    let ended = at(folder.path(), &["run", "progress.wasm", "--query", "q"]).await;
    assert_eq!(ended.out, "reported\n");
    for piece in ["... |  50%  half\n", "evt | found \"x\"\n", "... | 100%  all\n"] {
        assert!(ended.err.contains(piece), "no {piece:?} in {}", ended.err);
    }
    let ended = at(folder.path(), &["run", "logs.wasm", "--query", "q"]).await;
    assert!(ended.err.contains("out | ") && ended.err.contains("err | "), "{}", ended.err);
}

#[tokio::test]
async fn a_failed_attempt_and_a_time_limit_are_failures() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "trap.wasm", &hostile::trap());
    file(folder.path(), "spin.wasm", &hostile::spin());
    let ended = at(folder.path(), &["run", "trap.wasm", "--query", "q", "--json"]).await;
    assert_eq!((ended.code, &json(&ended)["error_kind"]), (1, &"trap".into()));
    let ended = at(folder.path(), &["run", "spin.wasm", "--query", "q", "--timeout", "0.2", "--json"]).await;
    assert_eq!((ended.code, &json(&ended)["status"]), (1, &"timeout".into()));
}

#[tokio::test]
async fn a_signal_asks_the_guest_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "polls.wasm", &plain::polls_cancel());
    file(folder.path(), "ignores.wasm", &plain::ignores_cancel());
    for (plugin, signals) in [("polls.wasm", 1), ("ignores.wasm", 2)] {
        let mut child = sandclock(folder.path(), &["run", plugin, "--query", "q", "--json"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines.next_line().await.unwrap().unwrap();
        assert!(started.contains("| "), "the guest says that it runs: {started}");
        signal(&child, Signal::INT);
        let asked = lines.next_line().await.unwrap().unwrap();
        assert!(asked.contains("asked the agent to stop"), "{asked}");
        if signals > 1 {
            signal(&child, Signal::INT);
        }
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(130), "{plugin}");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["status"], "cancelled", "{plugin}");
    }
}

#[tokio::test]
async fn check_says_what_a_plugin_is_and_why_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "echo.wasm", &plain::echo());
    file(folder.path(), "cmd.wasm", &command::command_echo());
    file(folder.path(), "core.wasm", &command::core_module());
    file(folder.path(), "text.wasm", b"no wasm at all");
    let good = at(folder.path(), &["check", "echo.wasm"]).await;
    assert_eq!(good.code, 0, "{}", good.err);
    assert!(good.out.contains("sandclock:agent/entry@0.1.0") && good.out.ends_with("accepted\n"), "{}", good.out);
    let shape = |ended: &Ended| json(ended)["plugin"]["shape"].clone();
    assert_eq!(shape(&at(folder.path(), &["check", "cmd.wasm", "--json"]).await), "command");
    for name in ["core.wasm", "text.wasm"] {
        let ended = at(folder.path(), &["check", name, "--json"]).await;
        let report = json(&ended);
        assert_eq!((ended.code, &report["accepted"]), (1, &false.into()));
        assert!(report["refusal"].as_str().is_some_and(|refusal| refusal.len() > 10), "{report}");
    }
    assert_eq!(at(folder.path(), &["check", "nowhere.wasm"]).await.code, 3);
    assert_eq!(at(folder.path(), &["check", "."]).await.code, 2);
}

#[tokio::test]
async fn what_needs_no_daemon_needs_no_token_and_finds_the_settings_of_a_library_s_agent() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "my_agent.wasm", &plain::echo());
    file(folder.path(), "sandclock.toml", b"[agents.my-agent.limits]\noutput_bytes = 3\n");
    let run = async |query: &str| {
        let mut command = sandclock(folder.path(), &["run", "my_agent.wasm", "--query", query]);
        command.env("SANDCLOCK_TOKEN_FILE", "nowhere");
        ended(command).await
    };
    let good = run("abc").await;
    assert_eq!((good.code, good.out.as_str()), (0, "abc\n"), "{}", good.err);
    assert_eq!(run("abcd").await.code, 1, "over the limit of the agent `my-agent`");
    let checked = at(folder.path(), &["check", "my_agent.wasm", "--json"]).await;
    assert_eq!(json(&checked)["plugin"]["agent"], "my-agent", "{checked:?}");
    // One of its own name comes first.
    file(folder.path(), "sandclock.toml", b"[agents.my-agent.limits]\noutput_bytes = 3\n[agents.my_agent]\n");
    assert_eq!(run("abcd").await.code, 0);
}

#[tokio::test]
async fn the_configuration_of_the_folder_holds_where_nothing_names_another() {
    let folder = tempfile::tempdir().unwrap();
    let level = async |line: &[&str], env: &[(&str, &str)]| {
        let mut command = sandclock(folder.path(), &[&["config", "show"], line].concat());
        command.envs(env.iter().copied());
        let shown = ended(command).await;
        assert_eq!(shown.code, 0, "{shown:?}");
        let line = shown.out.lines().find(|line| line.starts_with("logging.level")).unwrap();
        line.rsplit_once('"').and_then(|(line, _)| line.rsplit_once('"')).unwrap().1.to_owned()
    };
    assert_eq!(level(&[], &[]).await, "info");
    for (name, level) in [("sandclock.toml", "debug"), ("other.toml", "warn"), ("third.toml", "error")] {
        file(folder.path(), name, format!("[logging]\nlevel = \"{level}\"").as_bytes());
    }
    assert_eq!(level(&[], &[]).await, "debug");
    assert_eq!(level(&[], &[("SANDCLOCK_CONFIG", "")]).await, "debug");
    assert_eq!(level(&[], &[("SANDCLOCK_CONFIG", "other.toml")]).await, "warn");
    assert_eq!(level(&["--config", "third.toml"], &[("SANDCLOCK_CONFIG", "other.toml")]).await, "error");
    // One that is there and leads nowhere is no reason to go on with defaults.
    std::fs::remove_file(folder.path().join("sandclock.toml")).unwrap();
    std::os::unix::fs::symlink("gone", folder.path().join("sandclock.toml")).unwrap();
    let refused = at(folder.path(), &["serve"]).await;
    assert!(refused.code == 2 && refused.err.contains("`sandclock.toml` cannot be read"), "{refused:?}");
}

#[tokio::test]
async fn init_makes_a_configuration_that_check_and_show_take() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(at(folder.path(), &["init", "d"]).await.code, 0);
    assert_eq!(at(folder.path(), &["init", "d"]).await.code, 4);
    let good = at(folder.path(), &["config", "check", "--config", "d/sandclock.toml"]).await;
    assert_eq!(good.code, 0, "{}", good.out);
    let shown = at(folder.path(), &["config", "show", "--origin", "--config", "d/sandclock.toml"]).await;
    let line = shown.out.lines().find(|line| line.starts_with("paths.plugins")).unwrap();
    assert!(line.contains("d/sandclock.toml:"), "{line}");
    let token = std::fs::read_to_string(folder.path().join("d/token")).unwrap();
    assert!(!shown.out.contains(token.trim()));
    file(folder.path(), "bad.toml", b"[worker]\nmax_running = -1\nlease = 3\n");
    for line in [vec!["config", "check"], vec!["config", "show"], vec!["serve"], vec!["run", "x.wasm", "--query", "q"]] {
        let mut line = line.clone();
        line.extend(["--config", "bad.toml"]);
        let ended = at(folder.path(), &line).await;
        let told = format!("{}{}", ended.out, ended.err);
        assert_eq!(ended.code, 2, "{line:?} {told}");
        assert!(told.contains("bad.toml:2") && told.contains("bad.toml:3"), "all faults at once: {told}");
    }
}
