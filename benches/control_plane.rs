//! The control plane alone: runs are enqueued in batches, then drained by an executor that answers at once, without sandbox and
//! mirrors. Prints runs a second and, for each run, the processor time of this process and of the store's server.
//!
//! `scripts/servers.sh run -- cargo bench --bench control_plane [-- RUNS [STORE]]`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code)]
mod databases;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use databases::Place;
use futures::StreamExt as _;
use sandclock::clock::{SystemClock, SystemEntropy};
use sandclock::daemon::executor::{Executor, Offer, Offered, Start};
use sandclock::daemon::{Bounds, Daemon, DaemonParts, DaemonSettings, RunWish};
use sandclock::domain::id::{AgentId, TaskId, WorkerId};
use sandclock::domain::run::Status;
use sandclock::domain::time::Seconds;
use sandclock::egress::Account;
use sandclock::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, Ended, GuestHost, Usage};
use sandclock::store::{ClaimAgent, CountScope, Kind};
use sandclock::workspace::Workspaces;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Echo(Offer);

struct Answer;

#[async_trait]
impl Start for Answer {
    fn needs_workspace(&self) -> bool {
        false
    }

    async fn execute(&self, _: AttemptSpec, _: Arc<dyn GuestHost>, _: Option<Arc<dyn Account>>, _: Arc<AttemptSignals>) -> AttemptReport {
        AttemptReport { ended: Ended::Completed("done".to_owned()), usage: Usage::default() }
    }
}

impl Executor for Echo {
    fn offer(&self) -> Offer {
        Arc::clone(&self.0)
    }
}

async fn measure(place: &Place, runs: u64, root: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = place.open(root).await;
    let meter = place.meter();
    let agent = AgentId::parse("echo")?;
    let claim = ClaimAgent { agent: agent.clone(), digest: "0".repeat(64), max_running: None };
    let offer = Arc::new(vec![Offered { claim, start: Arc::new(Answer) }]);
    let (_changes, offers) = tokio::sync::watch::channel(0);
    let daemon = Daemon::start(DaemonParts {
        store: Arc::clone(&store),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(SystemEntropy),
        workspaces: Workspaces::open(&root.join("workspace"))?,
        agents: None,
        executor: Arc::new(Echo(offer)),
        offers,
        spawner: Arc::new(sandclock::daemon::spawn::OnRuntime),
        settings: DaemonSettings {
            worker: WorkerId::of("worker_bench", "1")?,
            executes: true,
            max_running: 256,
            lease: Duration::from_secs(30),
            cancel_grace: Seconds::whole(5),
            timeout: Seconds::whole(3600),
            max_recoveries: 3,
            dispatch_batch: 256,
            misfire_grace: Duration::from_secs(60),
            poll: Duration::from_secs(5),
            announce: None,
            hints: true,
            heartbeat_events: Duration::from_secs(60),
            default_agent: agent,
            bounds: Bounds::default(),
        },
    })
    .await?;
    let manager = daemon.manager().clone();
    let task = TaskId::parse("bench")?;
    let body = json!({
        "task_id": "bench", "query": "go", "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel",
        "workspace_policy": {"write_run_json": false, "write_events_jsonl": false},
    });
    manager.register_task(body, false, None).await?;
    let (wall, before) = (Instant::now(), meter.read());
    futures::stream::iter(0..runs)
        .map(|_| manager.run_now(&task, RunWish::default()))
        .buffer_unordered(512)
        .for_each(|run| async {
            if let Err(error) = run {
                eprintln!("a run was refused: {error}");
            }
        })
        .await;
    let enqueued = wall.elapsed();
    loop {
        let counts = store.counts(CountScope::All(Kind::Run)).await?;
        if counts.of(Status::Completed) >= runs {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (wall, [own, server]) = (wall.elapsed(), meter.read().since(before).for_each(runs));
    println!(
        "{:8} {runs} runs in {:.2} s ({:.2} s of it enqueuing): {:.0} runs/s; CPU-ms a run {own:.3}, of the server {server:.3}",
        place.kind,
        wall.as_secs_f64(),
        enqueued.as_secs_f64(),
        runs as f64 / wall.as_secs_f64(),
    );
    daemon.stop(Duration::from_secs(5), CancellationToken::new()).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (runs, kinds) = databases::wanted(20_000);
    let root = tempfile::tempdir()?;
    for kind in kinds {
        if let Some(place) = Place::new(kind).await {
            measure(&place, runs, root.path()).await?;
        }
    }
    Ok(())
}
