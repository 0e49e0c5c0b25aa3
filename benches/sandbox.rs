//! What the sandbox adds to an attempt: processor time of `Sandbox::execute` against wasmtime alone on the same component, engine
//! configuration and machine, in one run. `cargo bench --bench sandbox`.
//!
//! Bare is what any embedding pays: a store, a WASI context with a preopened directory, an instance, the call. Both sides take turns,
//! so that a busy machine weighs on both; the median of the turns is told.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use rustix::time::{ClockId, clock_gettime};
use sandclock::domain::agent::Limits;
use sandclock::sandbox::{
    AttemptContext, AttemptSignals, AttemptSpec, DiskUse, EffectsRefused, Ended, GuestHost, LogEntry, LogStream, Prepared, Sandbox,
    SandboxSettings,
};
use wasmtime::Store;
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Attempts in one turn, and turns of each side.
const ATTEMPTS: u32 = 2_000;
const TURNS: usize = 15;

/// The guests of the tests; `echo` imports nothing, so that nothing hides what the host costs.
#[allow(dead_code, unused_imports, clippy::type_complexity)]
#[path = "../tests/it/guest/mod.rs"]
mod guest;

fn main() {
    let sandbox = Sandbox::new(&SandboxSettings::default()).unwrap();
    let component = Component::new(sandbox.engine(), guest::plain::echo()).unwrap();
    let prepared = sandbox.prepare(&component).unwrap();
    let bare = bare_linker(&sandbox).instantiate_pre(&component).unwrap();
    let workspace = std::env::temp_dir().join(format!("sandclock-bench-{}", std::process::id()));
    std::fs::create_dir_all(&workspace).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();

    let turn_bare = || measure(|| runtime.block_on(alone(&bare, &workspace)));
    println!("processor time of an attempt, median of {TURNS} turns of {ATTEMPTS}:");
    for at_once in [1, 8] {
        let turn_ours = || measure(|| runtime.block_on(ours(&sandbox, &prepared, &workspace, at_once)));
        // The first turns warm the caches and the pool.
        turn_ours();
        turn_bare();
        let (mut us, mut them) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            us.push(turn_ours());
            them.push(turn_bare());
        }
        let (ours, bare) = (median(us), median(them));
        println!(
            "  {at_once} at once: the sandbox {:5.1} µs, bare wasmtime {:5.1} µs, ratio {:.2}, added {:.1} µs (wall {:.1} and {:.1} µs)",
            ours.0,
            bare.0,
            ours.0 / bare.0,
            ours.0 - bare.0,
            ours.1,
            bare.1
        );
    }
    std::fs::remove_dir_all(&workspace).unwrap();
}

/// Microseconds of processor time, of all threads, and of wall time, for one attempt.
fn measure(turn: impl FnOnce()) -> (f64, f64) {
    let (cpu, wall) = (processor_time(), Instant::now());
    turn();
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / f64::from(ATTEMPTS);
    (each(processor_time() - cpu), each(wall.elapsed()))
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

fn median(mut turns: Vec<(f64, f64)>) -> (f64, f64) {
    turns.sort_by(|a, b| a.0.total_cmp(&b.0));
    turns[turns.len() / 2]
}

/// A host that wants to know nothing.
struct Deaf;

#[async_trait]
impl GuestHost for Deaf {
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        Ok(())
    }

    fn report(&self, _message: String, _fraction: Option<f64>) {}
    fn emit(&self, _name: String, _payload: String) {}
    fn log(&self, _stream: LogStream, _bytes: &[u8]) {}
    fn log_entry(&self, _entry: LogEntry) {}
}

async fn ours(sandbox: &Sandbox, prepared: &Prepared, workspace: &Path, at_once: u32) {
    let host: Arc<dyn GuestHost> = Arc::new(Deaf);
    let attempts = futures::stream::iter(0..ATTEMPTS).map(|_| {
        let spec = AttemptSpec {
            egress: None,
            context: AttemptContext::default(),
            query: "the query".to_owned(),
            workspace: workspace.to_owned(),
            folder: None,
            found: Some(DiskUse::default()),
            limits: Limits::default(),
            env: Vec::new(),
            config: Arc::default(),
            time_limit: Some(Duration::from_secs(3_600)),
        };
        sandbox.execute(prepared, spec, Arc::clone(&host), AttemptSignals::new())
    });
    let mut reports = attempts.buffer_unordered(at_once as usize);
    while let Some(report) = reports.next().await {
        assert_eq!(report.ended, Ended::Completed("the query".to_owned()));
    }
}

struct Bare {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Bare {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

fn bare_linker(sandbox: &Sandbox) -> Linker<Bare> {
    let mut linker = Linker::new(sandbox.engine());
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    linker
}

#[derive(wasmtime::component::ComponentType, wasmtime::component::Lift)]
#[component(record)]
#[allow(dead_code)]
struct Retry {
    message: String,
    #[component(name = "after-ms")]
    after_ms: Option<u32>,
}

#[derive(wasmtime::component::ComponentType, wasmtime::component::Lift)]
#[component(variant)]
#[allow(dead_code)]
enum Failure {
    #[component(name = "retryable")]
    Retryable(Retry),
    #[component(name = "permanent")]
    Permanent(String),
    #[component(name = "cancelled")]
    Cancelled(String),
}

async fn alone(guest: &InstancePre<Bare>, workspace: &Path) {
    let entry = guest.component().get_export_index(None, "sandclock:agent/entry@0.1.0").unwrap();
    let run = guest.component().get_export_index(Some(&entry), "run").unwrap();
    for _ in 0..ATTEMPTS {
        let wasi = WasiCtx::builder().preopened_dir(workspace, "/", FsPerms::ReadWrite).unwrap().build();
        let mut store = Store::new(guest.engine(), Bare { wasi, table: ResourceTable::new() });
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = guest.instantiate_async(&mut store).await.unwrap();
        let run = instance.get_typed_func::<(&str,), (Result<String, Failure>,)>(&mut store, run).unwrap();
        let (answer,) = run.call_async(&mut store, ("the query",)).await.unwrap();
        assert!(matches!(answer, Ok(text) if text == "the query"));
    }
}
