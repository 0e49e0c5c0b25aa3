//! A full disk, below the store or below the workspaces: it is told, nothing is lost, and all goes on when there is room.

use serde_json::{Value, json};

use super::daemon::{Daemon, Home, id};
use super::disk::SmallDisk;
use super::guests::{gate, second_time};
use super::oracle;
use crate::guest::{files, plain};

const MIB: u64 = 1024 * 1024;

/// A home whose store, or whose workspaces, are on a small disk.
async fn small(what: &str, plugins: &[(&str, Vec<u8>)]) -> Option<SmallDisk> {
    let home = Home::new("", plugins);
    let config = match what {
        "store" => format!("[store]\nurl = \"sqlite:///{}/store.db\"\n", home.path("small").display()),
        _ => format!("[paths]\nworkspace = \"{}\"\n", home.path("small").display()),
    };
    home.configure(&format!("{config}[worker]\nlease_seconds = 4\n[scheduler]\npoll_seconds = 0.5\n"));
    SmallDisk::mount(home, "small", 64 * MIB).await
}

/// Asks for a run; the problem when it is refused.
async fn fire(daemon: &Daemon, task: &str) -> Result<Value, Value> {
    let request = daemon.client.post(format!("{}/background/tasks/{task}/run", daemon.url)).json(&json!({}));
    let (status, body) = daemon.ask(request).await;
    match status {
        200 => Ok(body),
        503 => Err(body),
        other => panic!("{other}: {body}"),
    }
}

/// Asks for runs until the daemon has noticed that its store is full. Returns those that it took.
async fn fire_until_full(daemon: &Daemon, task: &str) -> Vec<Value> {
    let mut taken = Vec::new();
    loop {
        match fire(daemon, task).await {
            Ok(run) => taken.push(run),
            Err(problem) => {
                assert_eq!(problem["detail"], "The store is full; free some space for it, it goes on by itself.");
                assert_eq!(problem["retry_after"], 10);
                return taken;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// What a daemon says of itself.
async fn readiness(daemon: &Daemon) -> (u16, Value) {
    daemon.ask(daemon.client.get(format!("{}/ready", daemon.url))).await
}

/// Waits until it is ready.
async fn until_ready(daemon: &Daemon) {
    super::daemon::patiently("readiness", async {
        while readiness(daemon).await.0 != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Waits until a run's lease was renewed so many times.
async fn renewed(daemon: &Daemon, run: &Value, times: usize) {
    let mut last = Value::Null;
    for _ in 0..=times {
        let now = daemon.until(&format!("/background/runs/{}", id(run)), |run| run["lease_expires_at"] != last).await;
        assert_eq!((&now["status"], &now["attempt"]), (&json!("running"), &json!(1)), "{now:#}");
        last = now["lease_expires_at"].clone();
    }
}

/// Wants that all these runs completed, the first of which in so many attempts.
async fn completed(daemon: &Daemon, runs: &[Value], attempts: usize) {
    for (at, run) in runs.iter().enumerate() {
        let ended = daemon.terminal(run).await;
        assert_eq!(ended["status"], "completed", "{ended:#}");
        let made = oracle::check(daemon, &ended).await;
        assert_eq!(made.len(), if at == 0 { attempts } else { 1 }, "{made:#?}");
    }
}

/// How many lines of the log have this text.
fn told(daemon: &Daemon, text: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(text)).count()
}

#[tokio::test]
async fn a_store_whose_disk_others_have_filled_ends_what_runs_and_goes_on_when_there_is_room() {
    let Some(disk) = small("store", &[("gate", gate("through")), ("echo", plain::echo())]).await else { return };
    let daemon = disk.spawn().ready().await;
    daemon.task("held", "gate", json!({})).await;
    daemon.task("t", "echo", json!({"overlap_policy": "allow_parallel"})).await;
    let tick = json!({"task_id": "tick", "agent_id": "echo", "query": "q", "schedule": {"type": "interval", "seconds": 1}});
    daemon.post("/background/tasks", tick).await;
    let held = daemon.fire("held").await;
    daemon.started(&held, 1).await;
    disk.fill(0);
    let mut runs = vec![held.clone()];
    runs.extend(fire_until_full(&daemon, "t").await);
    let (status, problem) = readiness(&daemon).await;
    assert_eq!((status, &problem["detail"]), (503, &json!("the store is full; free some space for it, it goes on by itself")));
    // More renewals than a lease lasts: what runs keeps it.
    renewed(&daemon, &held, 1).await;
    let ticks = daemon.get("/background/tasks/tick/status").await["runs"].clone();
    renewed(&daemon, &held, 5).await;
    assert_eq!(daemon.get("/background/tasks/tick/status").await["runs"], ticks, "an occurrence was dispatched");
    disk.home.put_into_workspace(&held, "go");
    completed(&daemon, &runs[..1], 1).await;
    assert!(fire(&daemon, "t").await.is_err());
    assert_eq!(told(&daemon, "the store takes nothing new"), 1, "{:#?}", daemon.log());

    disk.make_room();
    until_ready(&daemon).await;
    runs.push(daemon.fire("t").await);
    completed(&daemon, &runs, 1).await;
    assert_eq!(told(&daemon, "the store takes everything again"), 1);
    // The disk is one of memory, and that is told at start.
    let at_start = told(&daemon, "file system is tmpfs");
    assert!(told(&daemon, "WARN") + told(&daemon, "ERROR") == 1 + at_start, "told once, not for each call: {:#?}", daemon.log());
    daemon.until("/background/tasks/tick/status", |status| status["runs"] != ticks).await;
    daemon.post("/background/tasks/tick/pause", json!({})).await;
    daemon.until("/background/status", |status| status["active_runs"] == 0).await;
    oracle::check_occurrences(&daemon, "tick").await;
    oracle::check_counts(&daemon, &oracle::all_runs(&daemon, None).await).await;
    daemon.stop().await;
    oracle::check_file(&disk.path("store.db")).await;
}

/// Fills the store to its last byte, as only tasks can, for nothing keeps them out.
async fn cram(daemon: &Daemon) {
    for size in [250_000, 1] {
        for at in 0.. {
            let query = "x".repeat(size);
            let task = json!({"task_id": format!("of_{size}_{at}"), "agent_id": "echo", "query": query, "schedule": {"type": "manual"}});
            let (status, body) = daemon.ask(daemon.client.post(format!("{}/background/tasks", daemon.url)).json(&task)).await;
            match status {
                200 => assert!(at < 1000, "the disk is larger than it can be"),
                503 => break,
                other => panic!("{other}: {body}"),
            }
        }
    }
}

#[tokio::test]
async fn a_store_without_a_byte_left_fences_what_runs_and_takes_it_up_when_there_is_room() {
    let Some(disk) = small("store", &[("twice", second_time()), ("echo", plain::echo())]).await else { return };
    let daemon = disk.spawn().ready().await;
    daemon.task("held", "twice", json!({})).await;
    daemon.task("t", "echo", json!({"overlap_policy": "allow_parallel"})).await;
    let held = daemon.fire("held").await;
    daemon.started(&held, 1).await;
    disk.fill(0);
    let mut runs = vec![held.clone()];
    runs.extend(fire_until_full(&daemon, "t").await);
    cram(&daemon).await;
    // No renewal fits: the guest is stopped before its lease ends, and nothing is written for it.
    daemon.logged("the lease of a run was lost").await;
    assert_eq!(told(&daemon, "the store takes nothing new"), 1, "{:#?}", daemon.log());
    assert_eq!(daemon.get("/health").await["status"], "ok");
    assert_eq!(daemon.run(&held).await["attempt"], 1, "what was committed can be read");

    disk.make_room();
    completed(&daemon, &runs, 2).await;
    until_ready(&daemon).await;
    runs.push(daemon.fire("t").await);
    completed(&daemon, &runs, 2).await;
    oracle::check_counts(&daemon, &oracle::all_runs(&daemon, None).await).await;
    daemon.stop().await;
    oracle::check_file(&disk.path("store.db")).await;
}

#[tokio::test]
async fn a_daemon_that_dies_on_a_full_store_starts_on_it_and_waits_for_room() {
    let Some(disk) = small("store", &[("twice", second_time()), ("echo", plain::echo())]).await else { return };
    // Only the daemon's own knowledge of what it left can free its run within this test.
    disk.home.configure(&std::fs::read_to_string(disk.home.path("sandclock.toml")).unwrap().replace("= 4", "= 3600"));
    let daemon = disk.spawn().ready().await;
    daemon.task("held", "twice", json!({})).await;
    daemon.task("t", "echo", json!({"overlap_policy": "allow_parallel"})).await;
    let mut runs = vec![daemon.fire("held").await];
    daemon.started(&runs[0], 1).await;
    disk.fill(0);
    runs.extend(fire_until_full(&daemon, "t").await);
    cram(&daemon).await;
    daemon.kill().await;
    disk.fill(0);
    let daemon = disk.spawn().listening().await;
    daemon.logged("the store takes nothing new").await;
    assert_eq!(readiness(&daemon).await.0, 503);
    assert_eq!(daemon.run(&runs[0]).await["attempt"], 1, "what was committed can be read");
    assert!(fire(&daemon, "t").await.is_err());
    daemon.kill().await;
    disk.fill(0);

    // What the configuration has changed cannot be kept, and must not be passed over.
    let config = std::fs::read_to_string(disk.home.path("sandclock.toml")).unwrap();
    disk.home.configure(&format!("{config}[[tasks]]\ntask_id = \"new\"\nquery = \"q\"\nschedule = {{ type = \"manual\" }}\n"));
    let starting = disk.spawn();
    starting.told("sandclock: a task of the configuration could not be kept: the store is full").await;
    assert_eq!(starting.end().await.code(), Some(1));
    disk.home.configure(&config);

    let daemon = disk.spawn().listening().await;
    disk.make_room();
    completed(&daemon, &runs, 2).await;
    until_ready(&daemon).await;
    daemon.stop().await;
    oracle::check_file(&disk.path("store.db")).await;
}

#[tokio::test]
async fn a_stop_on_a_full_store_loses_nothing() {
    let Some(disk) = small("store", &[("gate", gate("through")), ("echo", plain::echo())]).await else { return };
    disk.home
        .configure(&std::fs::read_to_string(disk.home.path("sandclock.toml")).unwrap().replace("= 4", "= 4\nshutdown_grace_seconds = 0"));
    let daemon = disk.spawn().ready().await;
    daemon.task("held", "gate", json!({})).await;
    daemon.task("t", "echo", json!({"overlap_policy": "allow_parallel"})).await;
    let held = daemon.fire("held").await;
    daemon.started(&held, 1).await;
    disk.fill(0);
    let taken = fire_until_full(&daemon, "t").await;
    daemon.stop().await;
    disk.make_room();
    let daemon = disk.spawn().ready().await;
    daemon.started(&held, 2).await;
    disk.home.put_into_workspace(&held, "go");
    completed(&daemon, std::slice::from_ref(&held), 2).await;
    assert_eq!(daemon.attempts(&held).await[1]["reason"], "recovery", "it was handed back, in what was set aside");
    for run in &taken {
        completed(&daemon, std::slice::from_ref(run), 1).await;
    }
    daemon.stop().await;
    oracle::check_file(&disk.path("store.db")).await;
}

#[tokio::test]
async fn what_was_deleted_makes_room_in_a_full_store() {
    let Some(disk) = small("store", &[("echo", plain::echo())]).await else { return };
    let daemon = disk.spawn().ready().await;
    daemon.task("t", "echo", json!({"overlap_policy": "allow_parallel"})).await;
    let large = |at: usize| format!("large_{at}");
    for at in 0..120 {
        daemon.task(&large(at), "echo", json!({"metadata": {"text": "x".repeat(60_000)}})).await;
    }
    // The log is in the database when nobody has written for a second.
    super::daemon::patiently("the log's move", async {
        while disk.path("store.db").metadata().unwrap().len() < 120 * 60_000 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    // Too little to begin anything, and enough to move the log again.
    disk.fill(4 * MIB);
    let mut runs = fire_until_full(&daemon, "t").await;
    for at in 0..120 {
        let request = daemon.client.delete(format!("{}/background/tasks/{}", daemon.url, large(at)));
        let (status, told) = daemon.ask(request).await;
        assert_eq!(status, 200, "who makes room is not kept from it: {told}");
    }
    until_ready(&daemon).await;
    runs.push(daemon.fire("t").await);
    completed(&daemon, &runs, 1).await;
    daemon.stop().await;
    oracle::check_file(&disk.path("store.db")).await;
}

#[tokio::test]
async fn a_new_store_is_not_begun_on_a_full_disk() {
    let Some(disk) = small("store", &[]).await else { return };
    disk.fill(0);
    let starting = disk.spawn();
    let told = starting.told("sandclock: ").await;
    assert!(told.contains("store.db cannot be opened") && told.contains("has room"), "{told}");
    assert_eq!(starting.end().await.code(), Some(1));
    disk.make_room();
    disk.spawn().ready().await.stop().await;
}

#[tokio::test]
async fn a_full_workspace_is_the_guest_s_to_handle_and_mirrors_come_when_there_is_room() {
    let plugins = [("filler", files::fill_by_write(4096)), ("echo", plain::echo()), ("logs", plain::logs())];
    let Some(disk) = small("workspace", &plugins).await else { return };
    let daemon = disk.spawn().ready().await;
    for agent in ["filler", "echo", "logs"] {
        daemon.task(agent, agent, json!({"overlap_policy": "allow_parallel"})).await;
    }
    let filler = daemon.terminal(&daemon.fire("filler").await).await;
    // 23 is insufficient-space; a chunk is 64 KiB.
    let (chunks, code) = filler["result_preview"].as_str().unwrap_or_else(|| panic!("{filler:#}")).split_once(' ').unwrap();
    assert!(code == "23" && (500..=1024).contains(&chunks.parse::<u32>().unwrap()), "{chunks} {code}");
    assert_eq!((&filler["status"], &filler["error_kind"]), (&json!("completed"), &Value::Null), "it is no limit of its own that it met");

    disk.fill(0);
    let mut runs = vec![filler];
    for agent in ["echo", "logs"] {
        let ended = daemon.terminal(&daemon.fire(agent).await).await;
        assert_eq!(ended["status"], "completed", "{ended:#}");
        runs.push(ended);
    }
    for run in &runs {
        let path = run["workspace_path"].as_str().unwrap();
        assert_eq!(told(&daemon, path), 1, "told once for each run: {:#?}", daemon.log());
        assert!(!disk.path(path).join("run.json").exists());
        oracle::check(&daemon, run).await;
    }
    assert_eq!(told(&daemon, "log cannot be written"), 1, "{:#?}", daemon.log());
    let result = daemon.client.get(format!("{}/background/runs/{}/result", daemon.url, id(&runs[1]))).send().await.unwrap();
    assert_eq!(result.text().await.unwrap(), "q");

    disk.make_room();
    std::fs::remove_file(disk.path(runs[0]["workspace_path"].as_str().unwrap()).join("big")).unwrap();
    for run in &runs {
        daemon.logged(&format!("the mirrors of a run were written after all run={}", id(run))).await;
        let folder = disk.path(run["workspace_path"].as_str().unwrap());
        let mirror: Value = serde_json::from_slice(&std::fs::read(folder.join("run.json")).unwrap()).unwrap();
        assert_eq!(mirror["status"], "completed");
        let lines = std::fs::read_to_string(folder.join("events.jsonl")).unwrap().lines().count();
        assert_eq!(lines, daemon.events(run).await.len());
        assert_eq!(std::fs::read_to_string(folder.join("output.md")).unwrap(), run["result_preview"].as_str().unwrap());
    }
    let ended = daemon.terminal(&daemon.fire("logs").await).await;
    assert_eq!(daemon.get(&format!("/background/runs/{}/logs", id(&ended))).await["lines"].as_array().unwrap().len(), 2);
    daemon.stop().await;
}
