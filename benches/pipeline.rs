//! Whole no-op runs through a whole daemon, as `sandclock serve` opens it: queued, claimed, executed in a fresh sandbox with a workspace,
//! mirrored, completed. Prints runs a second, processor time a run, and how long an idle daemon takes from an acknowledged enqueue to
//! the guest's first instruction.
//!
//! `cargo bench --bench pipeline [-- RUNS]`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::{Duration, Instant};

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

#[allow(dead_code, unused_imports, clippy::type_complexity)]
#[path = "../tests/it/guest/mod.rs"]
mod guest;

/// Idle enqueues whose pickup is timed.
const PICKUPS: usize = 300;

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

async fn open(root: &Path, store: &str) -> Opened {
    let plugins = root.join("plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    std::fs::write(plugins.join("echo.wasm"), guest::plain::echo()).unwrap();
    std::fs::write(plugins.join("teller.wasm"), guest::plain::progress()).unwrap();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (data, plugins) = (text(&root.join(store)), text(&plugins));
    let env = [
        ("SANDCLOCK_DATA_DIR", data.as_str()),
        ("SANDCLOCK_PLUGINS_DIR", &plugins),
        ("SANDCLOCK_STORE", store),
        ("SANDCLOCK_MAX_RUNNING", "32"),
    ];
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

async fn throughput(manager: &Manager, store: &str, runs: u64) {
    let task = register(manager, "noop", "echo").await;
    let (wall, used) = (Instant::now(), processor_time());
    let enqueue = futures::stream::iter(0..runs).map(|_| manager.run_now(&task, RunWish::default())).buffer_unordered(512);
    enqueue.for_each(|run| async { drop(run.unwrap()) }).await;
    let enqueued = wall.elapsed();
    while manager.status().await.unwrap()["status_counts"]["completed"].as_u64().unwrap() < runs {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (wall, used) = (wall.elapsed(), processor_time() - used);
    println!(
        "{store:6} {runs} whole runs in {:.2} s ({:.2} s of it enqueuing): {:.0} runs/s, {:.3} CPU-ms a run",
        wall.as_secs_f64(),
        enqueued.as_secs_f64(),
        runs as f64 / wall.as_secs_f64(),
        used.as_secs_f64() * 1e3 / runs as f64
    );
}

async fn pickup(manager: &Manager, store: &str) {
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
    println!("{store:6} pickup by an idle daemon: p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
}

#[tokio::main]
async fn main() {
    let runs = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(10_000);
    let root = tempfile::tempdir().unwrap();
    for store in ["memory", "sqlite"] {
        let opened = open(root.path(), store).await;
        let manager = opened.manager().clone();
        pickup(&manager, store).await;
        throughput(&manager, store, runs).await;
        opened.stop(Duration::from_secs(10), CancellationToken::new()).await;
    }
}
