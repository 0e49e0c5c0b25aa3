//! A daemon with many tasks: resident memory and processor time while it idles with 100,000 scheduled tasks on SQLite, how long 10,000
//! tasks that are due in one second take to become runs, and how long a start takes with a warm compile cache.
//!
//! `cargo bench --bench scale [-- TASKS]`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use sandclock::clock::{Clock as _, SystemClock};
use sandclock::config::{self, Environment};
use sandclock::daemon::Manager;
use sandclock::daemon::open::Opened;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(dead_code, unused_imports, clippy::type_complexity)]
#[path = "../tests/it/guest/mod.rs"]
mod guest;

/// Tasks that are due at once.
const DUE_AT_ONCE: usize = 10_000;

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

async fn open(root: &Path, worker: &str) -> (Opened, Duration) {
    let plugins = root.join("plugins");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (data, plugins) = (text(&root.join("data")), text(&plugins));
    let env =
        [("SANDCLOCK_DATA_DIR", data.as_str()), ("SANDCLOCK_PLUGINS_DIR", &plugins), ("OMNICOREAGENT_BACKGROUND_START_WORKER", worker)];
    let started = Instant::now();
    let loaded = config::load(None, &Environment::of(env)).unwrap();
    let opened = Opened::open(&loaded).await.unwrap();
    (opened, started.elapsed())
}

async fn register(manager: &Manager, count: usize, name: &str, schedule: serde_json::Value) {
    let one = |at: usize| {
        let (schedule, name) = (schedule.clone(), format!("{name}-{at}"));
        async move {
            let body = json!({"task_id": name, "agent_id": "echo", "query": "go", "schedule": schedule});
            manager.register_task(body, false, None).await.unwrap();
        }
    };
    futures::stream::iter(0..count).map(one).buffer_unordered(512).collect::<Vec<()>>().await;
}

async fn stop(opened: Opened) {
    opened.stop(Duration::from_secs(10), CancellationToken::new()).await;
}

#[tokio::main]
async fn main() {
    let tasks = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(100_000);
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("plugins")).unwrap();
    std::fs::write(root.path().join("plugins/echo.wasm"), guest::plain::echo()).unwrap();
    stop(open(root.path(), "true").await.0).await;

    let (opened, start) = open(root.path(), "true").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("start with a warm cache: {:.1} ms; an idle daemon holds {:.1} MiB", start.as_secs_f64() * 1e3, resident_mib());
    let registering = Instant::now();
    register(opened.manager(), tasks, "yearly", json!({"type": "cron", "expression": "0 0 1 1 *"})).await;
    println!("{tasks} tasks registered in {:.1} s", registering.elapsed().as_secs_f64());
    stop(opened).await;

    let (opened, start) = open(root.path(), "true").await;
    let (used, wall) = (processor_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let busy = (processor_time() - used).as_secs_f64() / wall.elapsed().as_secs_f64();
    println!(
        "idle with {tasks} scheduled tasks: start {:.1} ms, {:.1} MiB resident, {:.3} % of one processor",
        start.as_secs_f64() * 1e3,
        resident_mib(),
        busy * 100.0
    );
    stop(opened).await;

    let (opened, _) = open(root.path(), "false").await;
    let manager = opened.manager();
    let due = SystemClock.now() + Duration::from_secs(30);
    register(manager, DUE_AT_ONCE, "due", json!({"type": "once", "run_at": due})).await;
    let ahead = due.since(SystemClock.now());
    assert!(!ahead.is_zero(), "the tasks were registered too slowly for the measurement");
    tokio::time::sleep(ahead).await;
    let used = processor_time();
    while manager.status().await.unwrap()["runs"].as_u64().unwrap() < DUE_AT_ONCE as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "{DUE_AT_ONCE} tasks due in one second: all runs committed {:.2} s after, {:.2} CPU-s",
        SystemClock.now().since(due).as_secs_f64(),
        (processor_time() - used).as_secs_f64()
    );
    stop(opened).await;
}
