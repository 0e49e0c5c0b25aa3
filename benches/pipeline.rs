//! Whole no-op runs through a whole daemon, as `sandclock serve` opens it: queued, claimed, executed in a fresh sandbox with a workspace,
//! mirrored, completed. Prints runs a second, processor time a run, and how long an idle daemon takes from an acknowledged enqueue to
//! the guest's first instruction.
//!
//! `scripts/servers.sh run -- cargo bench --bench pipeline [-- RUNS [STORE]]`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::{Duration, Instant};

use databases::Place;
use futures::StreamExt as _;
use sandclock::clock::{Clock as _, SystemClock};
use sandclock::config::{self, Environment};
use sandclock::daemon::open::Opened;
use sandclock::daemon::{Manager, RunWish};
use sandclock::domain::id::TaskId;
use sandclock::domain::run::Status;
use sandclock::domain::time::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(dead_code)]
mod databases;
#[allow(dead_code, unused_imports, clippy::type_complexity)]
#[path = "../tests/it/guest/mod.rs"]
mod guest;

/// Idle enqueues whose pickup is timed.
const PICKUPS: usize = 300;

async fn open(root: &Path, place: &Place) -> Opened {
    let plugins = root.join("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    std::fs::write(plugins.join("echo.wasm"), guest::plain::echo()).unwrap();
    std::fs::write(plugins.join("teller.wasm"), guest::plain::progress()).unwrap();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (data, plugins) = (text(&root.join(&place.name)), text(&plugins));
    let mut env = vec![
        ("SANDCLOCK_DATA_DIR", data.as_str()),
        ("SANDCLOCK_PLUGINS_DIR", &plugins),
        ("SANDCLOCK_STORE", &place.url),
        ("SANDCLOCK_MAX_RUNNING", "32"),
    ];
    match place.kind {
        "redis" => env.push(("SANDCLOCK_STORE_PREFIX", &place.name)),
        "mongodb" => env.push(("SANDCLOCK_STORE_DATABASE", &place.name)),
        _ => {}
    }
    let loaded = config::load(None, &Environment::of(env)).unwrap();
    Opened::open(&loaded).await.unwrap()
}

async fn register(manager: &Manager, task: &str, agent: &str) -> TaskId {
    let body = json!({
        "task_id": task, "agent_id": agent, "query": "go", "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel",
    });
    manager.register_task(body, false, None).await.unwrap();
    TaskId::parse(task).unwrap()
}

async fn throughput(manager: &Manager, place: &Place, runs: u64) {
    let meter = place.meter();
    let task = register(manager, "noop", "echo").await;
    let (wall, before) = (Instant::now(), meter.read());
    let enqueue = futures::stream::iter(0..runs).map(|_| manager.run_now(&task, RunWish::default())).buffer_unordered(512);
    enqueue.for_each(|run| async { drop(run.unwrap()) }).await;
    let enqueued = wall.elapsed();
    while manager.status().await.unwrap()["status_counts"]["completed"].as_u64().unwrap() < runs {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (wall, [own, server]) = (wall.elapsed(), meter.read().since(before).for_each(runs));
    println!(
        "{:8} {runs} whole runs in {:.2} s ({:.2} s of it enqueuing): {:.0} runs/s; CPU-ms a run {own:.3}, of the server {server:.3}",
        place.kind,
        wall.as_secs_f64(),
        enqueued.as_secs_f64(),
        runs as f64 / wall.as_secs_f64(),
    );
}

async fn pickup(manager: &Manager, place: &Place) {
    let task = register(manager, "told", "teller").await;
    let mut waits = Vec::new();
    for _ in 0..PICKUPS {
        let run = manager.run_now(&task, RunWish::default()).await.unwrap();
        let acknowledged = SystemClock.now();
        let ended = manager.wait_for_run(&run.run_id, Duration::from_secs(10)).await.unwrap();
        assert_eq!(ended.status, Status::Completed, "{:?}", ended.error);
        let events = manager.events(&run.run_id, 0, 100).await.unwrap();
        let told = events.iter().find(|event| event["event"] == "background_run_progress").expect("the guest reports first");
        waits.push(Timestamp::parse(told["timestamp"].as_str().unwrap()).unwrap().since(acknowledged));
    }
    waits.sort();
    let at = |part: usize| waits[waits.len() * part / 100].as_secs_f64() * 1e3;
    println!("{:8} pickup by an idle daemon: p50 {:.2} ms, p99 {:.2} ms", place.kind, at(50), at(99));
}

#[tokio::main]
async fn main() {
    let (runs, kinds) = databases::wanted(10_000);
    let root = tempfile::tempdir().unwrap();
    for kind in kinds {
        let Some(place) = Place::new(kind).await else { continue };
        let opened = open(root.path(), &place).await;
        let manager = opened.manager().clone();
        pickup(&manager, &place).await;
        throughput(&manager, &place, runs).await;
        opened.stop(Duration::from_secs(10), CancellationToken::new()).await;
    }
}
