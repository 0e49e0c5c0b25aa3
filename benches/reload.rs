//! Hot reload: from the moment a plugin's file is written to the moment its new digest serves, for the example agents and for a large
//! component, compiled and from the compile cache; and what the compile of the large one costs the runs of another agent beside it.
//!
//! `make plugins && cargo bench --bench reload [-- large]`, where `large` leaves the example agents out.
//! SANDCLOCK_BENCH_COMPONENT names the large component, such as one that componentize-py made; without it one of 20 MB is generated.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandclock::config::{self, Environment};
use sandclock::daemon::agents::SandboxPreparer;
use sandclock::daemon::open::Opened;
use sandclock::daemon::{Manager, RunWish};
use sandclock::domain::id::TaskId;
use sandclock::domain::run::Status;
use sandclock::plugins::{Catalogue, Digest, PluginSettings};
use sandclock::sandbox::{Sandbox, SandboxSettings};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[allow(dead_code, unused_imports, clippy::type_complexity)]
#[path = "../tests/it/guest/mod.rs"]
mod guest;

/// Replacements of each kind, of a small and of a large component.
const TURNS: u8 = 15;
const LARGE_TURNS: u8 = 3;
/// How often a run is asked for beside a compile, whatever became of those before.
const PACE: Duration = Duration::from_millis(10);
/// How long the runs are watched without a compile, in each round.
const ALONE: Duration = Duration::from_secs(10);
const ROUNDS: u8 = 3;

/// The component with a custom section more, so that its digest is another and its code the same.
fn variant(component: &[u8], turn: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.extend([0, 4, 1, b'x', b'y', turn]);
    bytes
}

fn leb(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

fn section(id: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(id);
    leb(content.len(), out);
    out.extend(content);
}

/// An agent with a module beside it of many functions, each with arithmetic, branches and memory in it as compilers make them.
fn large() -> Vec<u8> {
    const FUNCTIONS: usize = 12_000;
    const BLOCKS: usize = 110;
    let mut functions = Vec::new();
    let mut codes = Vec::new();
    leb(FUNCTIONS, &mut functions);
    leb(FUNCTIONS, &mut codes);
    for number in 0..FUNCTIONS {
        functions.push(0);
        let mut body = vec![1, 2, 0x7f];
        for block in 0..BLOCKS {
            // local 1 = (local 0 + constant) * local 1; if it is odd, local 0 = load(local 1) xor local 0.
            body.extend([0x20, 0, 0x41]);
            body.push(u8::try_from((number * 7 + block) % 64).unwrap());
            body.extend([0x6a, 0x20, 1, 0x6c, 0x22, 1, 0x41, 1, 0x71, 0x04, 0x40]);
            body.extend([0x20, 1, 0x28, 2, 0, 0x20, 0, 0x73, 0x21, 0, 0x0b]);
        }
        body.extend([0x20, 1, 0x0b]);
        leb(body.len(), &mut codes);
        codes.extend(body);
    }
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f], &mut module);
    section(3, &functions, &mut module);
    section(5, &[1, 0, 1], &mut module);
    section(10, &codes, &mut module);
    let mut component = guest::plain::echo();
    section(1, &module, &mut component);
    component
}

async fn replaced(catalogue: &Catalogue<SandboxPreparer>, folder: &Path, bytes: &[u8]) -> Duration {
    let digest = Digest::of(bytes);
    let mut changes = catalogue.changes();
    // From before the write: whoever is told of the close may run before the writer goes on.
    let begun = Instant::now();
    std::fs::write(folder.join("agent.wasm"), bytes).unwrap();
    while catalogue.serving("agent").is_none_or(|loaded| loaded.digest != digest) {
        changes.changed().await.unwrap();
    }
    begun.elapsed()
}

fn ms(wait: Duration) -> f64 {
    wait.as_secs_f64() * 1e3
}

fn told(mut waits: Vec<Duration>) -> String {
    waits.sort();
    format!("median {:.1} ms, worst {:.1} ms", ms(waits[waits.len() / 2]), ms(waits[waits.len() - 1]))
}

async fn reloads(name: &str, component: &[u8], turns: u8) {
    let sandbox = Arc::new(Sandbox::new(&SandboxSettings::default()).unwrap());
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let settings = PluginSettings::new(&folder, root.path().join("cache"));
    let catalogue = Catalogue::open(settings, sandbox.engine().clone(), SandboxPreparer(Arc::clone(&sandbox))).unwrap();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    replaced(&catalogue, &folder, component).await;
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        cold.push(replaced(&catalogue, &folder, &variant(component, turn)).await);
    }
    for turn in (0..turns).cycle().take(usize::from(TURNS)) {
        cached.push(replaced(&catalogue, &folder, &variant(component, turn)).await);
    }
    println!("{name:18} {:5} kB: compiled {}; from the cache {}", component.len() / 1000, told(cold), told(cached));
    cancel.cancel();
    watching.await.unwrap();
}

/// Asks for runs at a steady pace until `over`, and answers with how long each took from the wish to its end.
async fn paced(manager: &Manager, task: &TaskId, over: impl Future<Output = ()>) -> Vec<Duration> {
    let mut over = std::pin::pin!(over);
    let mut ticks = tokio::time::interval(PACE);
    let (mut runs, mut waits) = (JoinSet::new(), Vec::new());
    loop {
        tokio::select! {
            () = &mut over => break,
            _ = ticks.tick() => {
                let (manager, task) = (manager.clone(), task.clone());
                runs.spawn(async move {
                    let begun = Instant::now();
                    let run = manager.run_now(&task, RunWish::default()).await.unwrap();
                    let ended = manager.wait_for_run(&run.run_id, Duration::from_secs(60)).await.unwrap();
                    assert_eq!(ended.status, Status::Completed, "{:?}", ended.error);
                    begun.elapsed()
                });
            }
            Some(wait) = runs.join_next() => waits.push(wait.unwrap()),
        }
    }
    while let Some(wait) = runs.join_next().await {
        waits.push(wait.unwrap());
    }
    waits.sort();
    waits
}

fn parts(waits: &[Duration]) -> String {
    let at = |part: usize| ms(waits[waits.len() * part / 1000]);
    format!(
        "{} runs, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, worst {:.1} ms",
        waits.len(),
        at(500),
        at(990),
        at(999),
        ms(waits[waits.len() - 1])
    )
}

/// What the compile of a large component costs the runs of another agent.
async fn beside(store: &str, component: &[u8]) {
    let root = tempfile::tempdir().unwrap();
    let plugins = root.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    std::fs::write(plugins.join("echo.wasm"), guest::plain::echo()).unwrap();
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (data, folder) = (text(&root.path().join("data")), text(&plugins));
    let env = [("SANDCLOCK_DATA_DIR", data.as_str()), ("SANDCLOCK_PLUGINS_DIR", &folder), ("SANDCLOCK_STORE", store)];
    let opened = Opened::open(&config::load(None, &Environment::of(env)).unwrap()).await.unwrap();
    let manager = opened.manager().clone();
    let body =
        json!({"task_id": "t", "agent_id": "echo", "query": "go", "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel"});
    manager.register_task(body, false, None).await.unwrap();
    let task = TaskId::parse("t").unwrap();
    paced(&manager, &task, tokio::time::sleep(Duration::from_secs(2))).await;
    for round in 0..ROUNDS {
        let alone = paced(&manager, &task, tokio::time::sleep(ALONE)).await;
        let bytes = variant(component, round);
        let mut took = Duration::ZERO;
        let compiling = async { took = replaced(opened.catalogue(), &plugins, &bytes).await };
        let meanwhile = paced(&manager, &task, compiling).await;
        println!("{store:8} alone: {}", parts(&alone));
        println!("{store:8} beside a compile of {} kB ({:.1} s): {}", bytes.len() / 1000, took.as_secs_f64(), parts(&meanwhile));
        let cached = [variant(component, 200), bytes.clone()];
        if round == 0 {
            // From the cache, while runs go on.
            replaced(opened.catalogue(), &plugins, &cached[0]).await;
            let mut waits = Vec::new();
            let turns = async {
                for turn in 0..10 {
                    waits.push(replaced(opened.catalogue(), &plugins, &cached[(turn + 1) % 2]).await);
                }
            };
            let meanwhile = paced(&manager, &task, turns).await;
            println!("{store:8} beside 10 reloads from the cache ({}): {}", told(waits), parts(&meanwhile));
        }
    }
    opened.stop(Duration::from_secs(10), CancellationToken::new()).await;
}

#[tokio::main]
async fn main() {
    let only_large = std::env::args().any(|word| word == "large");
    for plugin in ["hello", "health-report", "support-operations"].into_iter().filter(|_| !only_large) {
        let component = std::fs::read(format!("plugins/{plugin}.wasm")).expect("run `make plugins` first");
        reloads(plugin, &component, TURNS).await;
    }
    let component = match std::env::var_os("SANDCLOCK_BENCH_COMPONENT") {
        Some(path) => std::fs::read(path).expect("SANDCLOCK_BENCH_COMPONENT names a component"),
        None => large(),
    };
    reloads("large", &component, LARGE_TURNS).await;
    for store in ["memory", "sqlite"] {
        beside(store, &component).await;
    }
}
