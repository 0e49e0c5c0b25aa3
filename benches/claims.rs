//! What a claim costs in a store that keeps few finished runs and in one that keeps many: processor time of this process and of the
//! server, for each claimed run, measured in turns on both. Prints the two and their ratio.
//!
//! `scripts/servers.sh run -- cargo bench --bench claims [-- KEPT [STORE]]`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code)]
mod databases;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use databases::{Meter, Place, Used};
use futures::StreamExt as _;
use sandclock::clock::{Clock as _, SystemClock};
use sandclock::domain::event::Event;
use sandclock::domain::id::{AgentId, RunId, TaskId, WorkerId};
use sandclock::domain::policy::{OnUnknown, RetryPolicy};
use sandclock::domain::run::{Run, RunPolicy, SlotPart, Status, Trigger};
use sandclock::domain::time::Seconds;
use sandclock::store::{Change, ChangeId, ClaimAgent, ClaimRequest, Outcome, Put, RecordId, Store};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How many finished runs the smaller store keeps.
const FEW: u64 = 100;
/// How many runs a claim asks for.
const CLAIM: usize = 64;
/// Claims of a turn.
const CLAIMS: usize = 16;
/// Turns on each store.
const TURNS: usize = 40;

static NAMES: AtomicU64 = AtomicU64::new(1);

fn fresh() -> u128 {
    u128::from(NAMES.fetch_add(1, Ordering::Relaxed))
}

fn run(status: Status) -> Run {
    let now = SystemClock.now();
    Run {
        run_id: RunId::parse(&format!("run_{:032x}", fresh())).unwrap(),
        task_id: TaskId::parse("bench").unwrap(),
        agent_id: AgentId::parse("echo").unwrap(),
        status,
        attempt: 0,
        max_attempts: 3,
        query_snapshot: "go".to_owned(),
        trigger_type: Trigger::Manual,
        triggered_at: now,
        due_at: None,
        occurrence_id: None,
        trigger_metadata: serde_json::Map::new(),
        session_id: "session".to_owned(),
        workspace_path: "runs/bench".to_owned(),
        lease_owner: None,
        lease_token: (),
        lease_generation: 0,
        lease_expires_at: None,
        heartbeat_at: None,
        queued_at: now,
        claimed_at: None,
        started_at: None,
        finished_at: (status == Status::Completed).then_some(now),
        cancel_requested_at: None,
        error: None,
        result_preview: None,
        metadata: serde_json::Map::new(),
        error_kind: None,
        cancel_requested_by: None,
        failures: 0,
        recoveries: 0,
        slot: SlotPart::Free,
        waited_for: None,
        parked: None,
        usage: Default::default(),
        policy: RunPolicy {
            timeout_seconds: Seconds::whole(60),
            cancel_grace_seconds: Seconds::whole(5),
            retry: RetryPolicy::default(),
            max_recoveries: 3,
            on_unknown: OnUnknown::Retry,
            write_run_json: true,
            write_events_jsonl: true,
            budget: Default::default(),
        },
    }
}

fn change(puts: Vec<Put>, events: Vec<(RunId, Event)>) -> Change {
    Change { id: ChangeId(fresh()), guards: Vec::new(), puts, deletes: Vec::new(), events }
}

async fn put(store: &dyn Store, runs: &[Run]) {
    for runs in runs.chunks(256) {
        let changes = runs.iter().map(|run| change(vec![Put::run(run, run.queued_at).unwrap()], Vec::new())).collect();
        let outcomes = store.apply(changes).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Applied));
    }
}

/// A store, its meter, and what its claims have cost.
struct Side {
    store: Arc<dyn Store>,
    meter: Meter,
    spent: Vec<Used>,
}

impl Side {
    async fn new(kind: &'static str, kept: u64, root: &std::path::Path) -> Option<Side> {
        let place = Place::new(kind).await?;
        let store = place.open(root).await;
        let batches = futures::stream::iter((0..kept).step_by(256));
        batches
            .for_each_concurrent(4, |from| {
                let (store, count) = (Arc::clone(&store), 256.min(kept - from));
                async move { put(&*store, &(0..count).map(|_| run(Status::Completed)).collect::<Vec<_>>()).await }
            })
            .await;
        Some(Side { store, meter: place.meter(), spent: Vec::new() })
    }

    /// Claims runs that wait, and lets them end as finished ones that are not kept, so that each turn finds what the first one found.
    async fn turn(&mut self) {
        let waiting: Vec<Run> = (0..CLAIM * CLAIMS).map(|_| run(Status::Queued)).collect();
        put(&*self.store, &waiting).await;
        let before = self.meter.read();
        for _ in 0..CLAIMS {
            let wish = ClaimRequest {
                token: ChangeId(fresh()),
                worker: WorkerId::of("worker_bench", "1").unwrap(),
                agents: vec![ClaimAgent { agent: AgentId::parse("echo").unwrap(), digest: "0".repeat(64), max_running: None }],
                limit: CLAIM,
                lease: Duration::from_secs(30),
            };
            assert_eq!(self.store.claim(wish).await.unwrap().len(), CLAIM);
        }
        self.spent.push(self.meter.read().since(before));
        for runs in waiting.chunks(256) {
            let deletes = runs.iter().map(|run| RecordId::run(&run.run_id));
            let changes = deletes.map(|id| Change { deletes: vec![id], ..change(Vec::new(), Vec::new()) }).collect();
            self.store.apply(changes).await.unwrap();
        }
    }

    /// Microseconds of processor time for each claimed run, this process's and the server's together: the median of the turns.
    fn cost(&self) -> f64 {
        let mut costs: Vec<f64> = self.spent.iter().map(|used| used.for_each((CLAIM * CLAIMS) as u64).iter().sum::<f64>() * 1e3).collect();
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    }
}

#[tokio::main]
async fn main() {
    let (kept, kinds) = databases::wanted(300_000);
    let root = tempfile::tempdir().unwrap();
    for kind in kinds {
        let Some(mut few) = Side::new(kind, FEW, root.path()).await else { continue };
        let Some(mut many) = Side::new(kind, kept, root.path()).await else { continue };
        for turn in 0..TURNS {
            // Whoever goes first finds the caches colder.
            let mut sides = [&mut few, &mut many];
            sides.rotate_left(turn % 2);
            for side in sides {
                side.turn().await;
            }
        }
        println!(
            "{kind:8} CPU-µs a claimed run: {:.1} with {FEW} finished runs kept, {:.1} with {kept}; ratio {:.2}",
            few.cost(),
            many.cost(),
            many.cost() / few.cost()
        );
        few.store.close().await;
        many.store.close().await;
    }
}
