//! Plugins that come, change, break and go while the daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::daemon::{Daemon, Home, Starting};
use super::guests::gate;
use crate::cli::stage::{binary, file, program};
use crate::guest::agent;
use crate::guest::plain;

const TASK: &str = r#"
[[tasks]]
task_id = "t"
agent_id = "late"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
"#;

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until the agents are listed so.
async fn until(daemon: &Daemon, wanted: impl Fn(&Value) -> bool) {
    daemon.until("/background/agents", |told| wanted(&told["agents"])).await;
}

fn late(agents: &Value) -> &Value {
    agents.as_array().unwrap().iter().find(|agent| agent["agent_id"] == "late").unwrap_or(&Value::Null)
}

/// Lets a run's guest through, and wants its answer and the digest that it ran.
async fn goes_through(home: &Home, daemon: &Daemon, run: &Value, answer: &str, digest: &str) {
    daemon.started(run, 1).await;
    home.put_into_workspace(run, "go");
    let ended = daemon.terminal(run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!(answer)));
    let attempts = daemon.attempts(run).await;
    assert_eq!((attempts.len(), &attempts[0]["digest"]), (1, &json!(digest)));
}

#[tokio::test]
async fn a_plugin_is_added_replaced_broken_and_removed_under_a_running_daemon() {
    let (one, two) = (gate("one"), gate("two"));
    let home = Home::new(TASK, &[("other", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.logged("the agent of a task is not there").await;
    daemon.task("other", "other", json!({})).await;

    let first = daemon.fire("t").await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(daemon.run(&first).await["attempt"], 0, "nothing can execute it yet");
    home.plugin("late", &one);
    daemon.started(&first, 1).await;

    home.plugin("late", &two);
    until(&daemon, |agents| late(agents)["digest"] == digest(&two)).await;
    let second = daemon.fire("t").await;
    goes_through(&home, &daemon, &second, "two", &digest(&two)).await;
    assert_eq!(daemon.run(&first).await["status"], "running", "the swap disturbs no attempt");
    goes_through(&home, &daemon, &first, "one", &digest(&one)).await;

    for bad in [&b"this is no component"[..], &two[..two.len() / 2], b""] {
        home.plugin("late", bad);
        until(&daemon, |agents| late(agents)["state"] == "rejected").await;
        assert_eq!(daemon.get("/background/agents/late").await["digest"], digest(&two));
        let told = daemon.verb(home.0.path(), &["plugins"]).await;
        assert_eq!(told.code, 0);
        let line = told.out.lines().find(|line| line.starts_with("late")).unwrap_or_else(|| panic!("{}", told.out));
        assert!(line.contains("rejected") && line.contains(&digest(&two)[..12]), "{line}");
        let plugins = daemon.get("/background/plugins").await;
        let reason = plugins["plugins"].as_array().unwrap().iter().find(|plugin| plugin["plugin"] == "late").unwrap()["reason"].clone();
        assert!(line.contains(reason.as_str().unwrap()), "the reason `{reason}` is not in: {line}");
        let run = daemon.fire("t").await;
        goes_through(&home, &daemon, &run, "two", &digest(&two)).await;
        home.plugin("late", &two);
        until(&daemon, |agents| late(agents)["state"] == "accepted").await;
    }

    std::fs::remove_file(home.path("plugins/late.wasm")).unwrap();
    until(&daemon, |agents| late(agents).is_null()).await;
    let waits = daemon.fire("t").await;
    let other = daemon.fire("other").await;
    assert_eq!(daemon.terminal(&other).await["status"], "completed");
    assert_eq!(daemon.run(&waits).await, waits);
    let why = daemon.verb(home.0.path(), &["runs", "why", super::daemon::id(&waits)]).await;
    assert!(why.code == 0 && why.out.contains("has no agent late: put late.wasm into its plugins folder"), "{why:?}");
    home.plugin("late", &one);
    goes_through(&home, &daemon, &waits, "one", &digest(&one)).await;
    daemon.stop().await;
}

fn answers(name: &str) -> Vec<u8> {
    agent(&format!(r#"(call $ok @"{name}")"#), "")
}

async fn serves(daemon: &Daemon, bytes: &[u8]) {
    let digest = digest(bytes);
    until(daemon, |agents| late(agents)["digest"] == digest.as_str()).await;
}

/// Starts the daemon of a home through another program.
fn through(home: &Home, wrapper: &str, line: &[&str]) -> Starting {
    let mut command = program(home.0.path(), OsStr::new(wrapper));
    command.args(line).arg(binary()).args(["serve", "--config", "sandclock.toml"]);
    command.env("SANDCLOCK_LISTEN", "127.0.0.1:0").env("PATH", std::env::var_os("PATH").unwrap());
    Starting::new(command)
}

/// Whether a program can be had here that does this; otherwise it is said and the test ends.
fn can(program: &str, line: &[&str]) -> bool {
    let done = std::process::Command::new(program).args(line).output().is_ok_and(|done| done.status.success());
    if !done {
        eprintln!("left out: `{program} {}` cannot be had here", line.join(" "));
    }
    done
}

#[tokio::test]
async fn without_notifications_the_folder_is_looked_at_every_two_seconds() {
    const NONE: &str = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
    if !can("unshare", &["-U", "-r", "sh", "-c", NONE, "sh", "true"]) {
        return;
    }
    let home = Home::new(TASK, &[("late", answers("one"))]);
    let daemon = through(&home, "unshare", &["-U", "-r", "sh", "-c", NONE, "sh"]).ready().await;
    daemon.logged("the plugins folder gives no notifications; it is looked at every 2 s").await;
    daemon.logged("the configuration's folder gives no notifications").await;
    for name in ["two", "three"] {
        home.plugin("late", &answers(name));
        serves(&daemon, &answers(name)).await;
    }
    home.configure(&TASK.replace("\"q\"", "\"other\""));
    daemon.until("/background/tasks/t", |task| task["query"] == "other").await;
    assert_eq!(daemon.log().iter().filter(|line| line.contains("the plugins folder gives no notifications")).count(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn what_changed_while_events_were_lost_is_found() {
    let home = Home::new(TASK, &[("late", answers("one"))]);
    let daemon = home.start(&[]).await;
    daemon.freeze().await;
    let most: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for number in 0..=most / 2 {
        let path = home.path(&format!("plugins/{number}.part"));
        std::fs::write(&path, b"").unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    // None of this is in the queue, which is full.
    home.plugin("late", &answers("two"));
    home.plugin("early", &answers("three"));
    daemon.thaw();
    serves(&daemon, &answers("two")).await;
    until(&daemon, |agents| agents.as_array().unwrap().iter().any(|agent| agent["agent_id"] == "early")).await;
    daemon.stop().await;
}

#[tokio::test]
async fn permissions_that_are_taken_away_leave_what_serves_and_are_noticed_when_they_are_back() {
    const OTHER: u32 = 65_534;
    let home = Home::new(TASK, &[("late", answers("one"))]);
    // Root may read everything, so there it is another user's daemon.
    let is_root = rustix::process::geteuid().is_root();
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let daemon = if is_root {
        if !can("setpriv", &[user[0], user[1], user[2], "true"]) {
            return;
        }
        for place in ["", "plugins", "plugins/late.wasm", "sandclock.toml"] {
            chown(home.path(place), Some(OTHER), Some(OTHER)).unwrap();
        }
        through(&home, "setpriv", &user).ready().await
    } else {
        home.start(&[]).await
    };
    let allow = |place: &str, mode: u32| std::fs::set_permissions(home.path(place), std::fs::Permissions::from_mode(mode)).unwrap();
    serves(&daemon, &answers("one")).await;
    allow("plugins/late.wasm", 0o000);
    until(&daemon, |agents| late(agents)["state"] == "rejected" && late(agents)["reason"].to_string().contains("cannot be read")).await;
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["result_preview"], "one");
    allow("plugins/late.wasm", 0o644);
    until(&daemon, |agents| late(agents)["state"] == "accepted").await;
    allow("plugins", 0o000);
    daemon.logged("the plugins stay as they are").await;
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["result_preview"], "one");
    allow("plugins", 0o755);
    home.plugin("late", &answers("two"));
    serves(&daemon, &answers("two")).await;
    daemon.stop().await;
}

/// How many replacements the test under load makes; SANDCLOCK_TEST_REPLACEMENTS says otherwise.
fn replacements() -> usize {
    std::env::var("SANDCLOCK_TEST_REPLACEMENTS").ok().map_or(40, |number| number.parse().unwrap())
}

/// Replaces the plugin in one of the ways in which people do.
fn replace(home: &Home, turn: usize, bytes: &[u8]) {
    let path = home.path("plugins/late.wasm");
    match turn % 4 {
        0 => home.plugin("late", bytes),
        1 => {
            file(home.0.path(), &format!("target-{turn}"), bytes);
            let link = home.path("link");
            symlink(home.path(&format!("target-{turn}")), &link).unwrap();
            std::fs::rename(link, path).unwrap();
        }
        // Not through the link, which would write into the target.
        2 => {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        _ => {
            let mut open = std::fs::File::create(&path).unwrap();
            for part in bytes.chunks(bytes.len() / 3 + 1) {
                open.write_all(part).unwrap();
                std::thread::yield_now();
            }
        }
    }
}

/// What the runs of the load told: the digest that the one attempt ran, and the answer.
type Told = Arc<Mutex<Vec<(String, String)>>>;

async fn load(daemon: Arc<Daemon>, told: Told, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Acquire) {
        let run = daemon.post("/background/tasks/t/run", json!({"wait": true})).await;
        assert_eq!((&run["status"], &run["error"]), (&json!("completed"), &Value::Null), "{run}");
        let attempts = daemon.attempts(&run).await;
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        told.lock().unwrap().push((text(&attempts[0]["digest"]), text(&run["result_preview"])));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attempt_fails_or_mixes_two_components_while_the_plugin_is_replaced_under_load() {
    let version = |turn: usize| answers(&format!("version {turn}"));
    let home = Home::new(TASK, &[("late", version(0))]);
    let daemon = Arc::new(home.start(&[]).await);
    serves(&daemon, &version(0)).await;
    let (told, is_over) = (Told::default(), Arc::new(AtomicBool::new(false)));
    let loads: Vec<_> = (0..4).map(|_| tokio::spawn(load(Arc::clone(&daemon), Arc::clone(&told), Arc::clone(&is_over)))).collect();
    let mut names = BTreeMap::from([(digest(&version(0)), "version 0".to_owned())]);
    for turn in 1..=replacements() {
        let bytes = version(turn);
        names.insert(digest(&bytes), format!("version {turn}"));
        replace(&home, turn, &bytes);
        serves(&daemon, &bytes).await;
    }
    is_over.store(true, Ordering::Release);
    for load in loads {
        load.await.unwrap();
    }
    let told = told.lock().unwrap().clone();
    for (digest, answer) in told.iter() {
        assert_eq!(names.get(digest), Some(answer), "an attempt that ran {digest} answered as another component does");
    }
    let seen: BTreeSet<&String> = told.iter().map(|(digest, _)| digest).collect();
    println!("{} runs, {} of {} digests, none failed or mixed", told.len(), seen.len(), names.len());
    assert!(seen.len() > 1, "{} runs", told.len());
    Arc::into_inner(daemon).unwrap().stop().await;
}

#[test]
fn the_path_of_a_plugin_is_where_the_ways_to_replace_it_put_it() {
    let home = Home::new("", &[("late", answers("0"))]);
    for turn in 1..=8 {
        let bytes = answers(&turn.to_string());
        replace(&home, turn, &bytes);
        assert_eq!(std::fs::read(Path::new(&home.path("plugins/late.wasm"))).unwrap(), bytes, "{turn}");
    }
}
