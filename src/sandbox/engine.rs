//! The one engine, and the thread that moves its epoch.
//!
//! Invariant: there is one function that builds the configuration, so that what the plugins room compiles is what runs here.
//! The epoch moves only while guests run, and is never bumped to end one guest: each decides from its own flags.

use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails, WasmFeatures};

use super::{SandboxError, SandboxSettings};

const MIB: usize = 1024 * 1024;

/// Everything about the engine but where instances live.
fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // Shared memories would pass the resource limiter by, and 64-bit ones would make bulk operations unbounded.
        .wasm_features(WasmFeatures::THREADS | WasmFeatures::MEMORY64 | WasmFeatures::CM_ASYNC, false)
        .memory_init_cow(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(16));
    config
}

/// Where instances live when the machine gives the address space for it.
fn pool(settings: &SandboxSettings) -> PoolingAllocationConfig {
    let instances = settings.max_instances.max(1);
    let mut pool = PoolingAllocationConfig::new();
    // A component is several core instances: its modules, their adapters, the shims between them.
    pool.total_component_instances(instances)
        .total_stacks(instances)
        .total_core_instances(instances.saturating_mul(32))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(8))
        .total_gc_heaps(instances)
        .max_memories_per_module(4)
        .max_tables_per_module(8)
        .max_memory_size(usize::try_from(settings.max_memory_bytes).unwrap_or(usize::MAX).min(4096 * MIB))
        .table_elements(usize::try_from(settings.max_table_elements).unwrap_or(usize::MAX))
        .max_core_instance_size(16 * MIB)
        .max_component_instance_size(16 * MIB)
        // Clearing the pages that a small guest touches costs less than mapping them anew.
        .linear_memory_keep_resident(128 * 1024)
        .table_keep_resident(16 * 1024);
    pool
}

/// The engine: pooled where that can be had, otherwise with instances on demand.
///
/// # Errors
/// wasmtime does not support this machine.
pub(crate) fn build(settings: &SandboxSettings) -> Result<Engine, SandboxError> {
    let mut pooled = config();
    pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings)));
    match Engine::new(&pooled) {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::info!("instances are made on demand, for the machine has no room for a pool: {error:#}");
            Engine::new(&config()).map_err(|error| SandboxError::Engine(format!("{error:#}")))
        }
    }
}

#[derive(Default)]
struct Ticking {
    running: usize,
    stopped: bool,
    /// The thread waits to be woken. Otherwise it wakes by itself soon, and waking it would cost more than a short attempt.
    parked: bool,
}

/// How many ticks without a guest go by before the thread parks.
const IDLE_TICKS: u32 = 100;

#[derive(Default)]
struct Shared {
    ticking: Mutex<Ticking>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ticking> {
        self.ticking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the engine's epoch from a thread of its own, so that a busy runtime cannot hold it up.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(engine: &Engine, tick: Duration) -> Result<Self, SandboxError> {
        let shared = Arc::new(Shared::default());
        let (seen, engine) = (Arc::clone(&shared), engine.weak());
        let ticking = move || {
            let (mut state, mut idle) = (seen.lock(), 0);
            while !state.stopped {
                idle = if state.running == 0 { idle + 1 } else { 0 };
                if idle > IDLE_TICKS {
                    state.parked = true;
                    state = seen.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    (state.parked, idle) = (false, 0);
                    continue;
                }
                state = seen.changed.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner).0;
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("epoch".to_owned()).spawn(ticking);
        let thread = thread.map_err(|error| SandboxError::Thread(error.to_string()))?;
        Ok(Ticker { shared, thread: Some(thread) })
    }

    /// Keeps the epoch moving while the answer is alive.
    pub(crate) fn running(&self) -> Running {
        let mut state = self.shared.lock();
        state.running += 1;
        if state.parked {
            self.shared.changed.notify_one();
        }
        Running { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // Its only panic would be one that was reported already.
            let _ = thread.join();
        }
    }
}

/// A guest is running.
pub(crate) struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_finds_no_room_for_a_pool_is_built_without_one() {
        // More address space than any machine has.
        let settings = SandboxSettings { max_instances: 40_000, max_memory_bytes: u64::MAX, ..SandboxSettings::default() };
        let engine = build(&settings).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_epoch_deadline(1);
        let module = wasmtime::Module::new(&engine, wat::parse_str("(module (memory 1))").unwrap()).unwrap();
        wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
    }

    #[test]
    fn the_ticker_ends_with_its_owner() {
        let engine = Engine::new(&config()).unwrap();
        let ticker = Ticker::start(&engine, Duration::from_millis(1)).unwrap();
        let running = ticker.running();
        drop(ticker);
        drop(running);
    }
}
