//! Hot reload: from the moment a plugin's file is written to the moment its new digest serves, for the example agents, compiled and from
//! the compile cache.
//!
//! `make plugins && cargo bench --bench reload`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandclock::daemon::agents::SandboxPreparer;
use sandclock::plugins::{Catalogue, Digest, PluginSettings};
use sandclock::sandbox::{Sandbox, SandboxSettings};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Replacements of each kind.
const TURNS: u8 = 15;

/// The component with a custom section more, so that its digest is another and its code the same.
fn variant(component: &[u8], turn: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.extend([0, 4, 1, b'x', b'y', turn]);
    bytes
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

fn told(mut waits: Vec<Duration>) -> String {
    waits.sort();
    let ms = |wait: Duration| wait.as_secs_f64() * 1e3;
    format!("median {:.1} ms, worst {:.1} ms", ms(waits[waits.len() / 2]), ms(waits[waits.len() - 1]))
}

#[tokio::main]
async fn main() {
    let sandbox = Arc::new(Sandbox::new(&SandboxSettings::default()).unwrap());
    for plugin in ["hello", "health-report", "support-operations"] {
        let component = std::fs::read(format!("plugins/{plugin}.wasm")).expect("run `make plugins` first");
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("plugins");
        std::fs::create_dir(&folder).unwrap();
        let settings = PluginSettings::new(&folder, root.path().join("cache"));
        let catalogue = Catalogue::open(settings, sandbox.engine().clone(), SandboxPreparer(Arc::clone(&sandbox))).unwrap();
        let cancel = CancellationToken::new();
        let watching = catalogue.watch(cancel.clone());
        replaced(&catalogue, &folder, &component).await;
        let (mut cold, mut cached) = (Vec::new(), Vec::new());
        for turn in 0..TURNS {
            cold.push(replaced(&catalogue, &folder, &variant(&component, turn)).await);
        }
        for turn in 0..TURNS {
            cached.push(replaced(&catalogue, &folder, &variant(&component, turn)).await);
        }
        println!("{plugin:18} {:3} kB: compiled {}; from the cache {}", component.len() / 1000, told(cold), told(cached));
        cancel.cancel();
        watching.await.unwrap();
    }
}
