//! What is lost with a Redis that syncs its file each second, when the machine below it loses its power.
//!
//! A kill alone loses nothing, for what the process has written the kernel has. So the file's end, what came after a moment shortly before
//! the kill, is cut off before the server starts again.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::super::daemon::{Daemon, id, patiently};
use super::super::guests::sentry;
use super::super::oracle;
use super::servers::Servers;
use super::*;

/// A task whose agent comes later.
const LATE: &str = r#"
[[tasks]]
task_id = "late"
agent_id = "late"
query = "q"
schedule = { type = "manual" }
"#;

/// By run, the fence that was seen last, and when the attempt under it had begun.
type Seen = HashMap<String, (u64, Value)>;

/// What the attempts of all runs tell at the moment.
async fn fences(daemon: &Daemon) -> Seen {
    let mut seen = Seen::new();
    for run in oracle::runs_so_far(daemon, None).await.0 {
        for attempt in daemon.attempts(&run).await {
            seen.insert(id(&run).to_owned(), (attempt["lease_generation"].as_u64().unwrap(), attempt["started_at"].clone()));
        }
    }
    seen
}

/// The run's guest has marked the start of so many attempts.
async fn begun(fleet: &Fleet, run: &Value, attempts: usize) {
    patiently("a mark", async {
        while oracle::marks(&fleet.workspace(run)).len() < attempts {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_second_of_a_redis_takes_with_it_and_fences_rise_all_the_same() {
    let Some(server) = OwnServer::redis(&["--appendfsync", "everysec"]).await else { return };
    let mut fleet = Fleet::with(Servers::one(server), LATE).await;
    let run = fleet.daemon(1).fire("late").await;
    fleet.roaming.clients.more(20).await;

    // From here on the disk gets nothing.
    let safe: HashSet<String> = fleet.roaming.clients.acknowledged().into_iter().collect();
    let file = fleet.servers.only().append_only_file();
    let on_disk = file.metadata().unwrap().len();
    // The agent comes now: that its run is taken, and under which fence, is lost.
    for home in &fleet.homes {
        home.plugin("late", &sentry());
    }
    begun(&fleet, &run, 1).await;
    fleet.roaming.clients.more(10).await;
    let seen = fences(fleet.daemon(2)).await;
    assert_eq!(seen[id(&run)].0, 1, "the first fence of a run");
    fleet.servers.only().kill().await;
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(on_disk).unwrap();
    fleet.servers.only().start().await;

    fleet.works().await;
    begun(&fleet, &run, 2).await;
    fleet.sentries.push(run.clone());
    let runs = fleet.settle().await;
    let kept: HashSet<&str> = runs.iter().map(id).collect();
    let acknowledged = fleet.roaming.clients.acknowledged();
    let lost: Vec<&String> = acknowledged.iter().filter(|run| !kept.contains(run.as_str())).collect();
    assert!(lost.iter().all(|run| !safe.contains(*run)), "a run is lost that was on the disk");
    let mut again = 0;
    for (at, run) in runs.iter().enumerate() {
        let attempts = oracle::check(fleet.daemon(at % DAEMONS), run).await;
        let Some((fence, began)) = seen.get(id(run)) else { continue };
        match attempts.iter().find(|attempt| attempt["lease_generation"].as_u64() == Some(*fence)) {
            Some(same) => assert_eq!(same["started_at"], *began, "a fence was given twice: {run:#}"),
            None => {
                again += 1;
                // Earlier attempts were on the disk and are there still.
                let last = attempts.last().expect("the attempt that took it anew");
                assert!(last["lease_generation"].as_u64() > Some(*fence), "{attempts:#?}");
            }
        }
    }
    assert!(again > 0, "no claim was lost");
    let ended = runs.iter().find(|ended| id(ended) == id(&run)).expect("the run was on the disk");
    assert!(ended["lease_generation"].as_u64() > Some(1), "{ended:#}");
    for daemon in fleet.daemons.iter().flatten() {
        oracle::check_counts(daemon, &runs).await;
        oracle::check_occurrences(daemon, "tick").await;
    }
    println!("runs {}, acknowledged and lost {}, taken anew above a fence that was lost {again}", runs.len(), lost.len());
    fleet.stop().await;
}
