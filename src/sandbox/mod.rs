//! The room in which guests run: one wasmtime engine, one instance an attempt.
//!
//! Invariant: a guest can exhaust only its own limits. It gets a workspace, clocks, randomness and the interfaces of
//! `wit/agent.wit`; everything else that it may import is linked and refused. Whatever it does, its attempt ends with a report.
//!
//! Guests run on a runtime of their own, so that a saturated executor cannot hold up what renews their leases.

mod attempt;
pub mod checkpoints;
mod egress;
mod engine;
mod fault;
mod host;
mod limits;
mod linker;
pub mod memory;
mod meter;
mod prepare;
mod signals;
mod spec;
mod state;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wasmtime::Engine;
use wasmtime::component::{Component, HasData, Linker};

pub use egress::{Egress, HttpBody, HttpTiming, Leave};
pub use prepare::{PrepareError, Prepared, Shape};
pub use signals::{AttemptSignals, Halt, Stop, boottime_nanos};
pub use spec::{
    AttemptContext, AttemptReport, AttemptSpec, DiskUse, EffectsRefused, Ended, GuestHost, LogEntry, LogLevel, LogStream, Usage,
};

use crate::domain::policy::ErrorKind;
use engine::Ticker;
use state::{Attempt, State};

/// How the sandbox is built; it holds for all agents.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// How many attempts may run at once.
    pub max_instances: u32,
    /// How often a computing guest is interrupted to look at its signals.
    pub epoch_tick: Duration,
    /// The largest `memory_bytes` of any agent.
    pub max_memory_bytes: u64,
    /// The largest `table_elements` of any agent.
    pub max_table_elements: u64,
    /// Threads that guests run on.
    pub guest_threads: usize,
    /// How long an attempt waits for an instance to become free before its worker gets it back.
    pub capacity_wait: Duration,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        let limits = crate::domain::agent::Limits::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        SandboxSettings {
            max_instances: u32::try_from(cores.saturating_mul(4)).unwrap_or(u32::MAX),
            epoch_tick: Duration::from_millis(10),
            max_memory_bytes: limits.memory_bytes,
            max_table_elements: limits.table_elements,
            guest_threads: cores,
            capacity_wait: Duration::from_secs(5),
        }
    }
}

/// Why there is no sandbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// wasmtime refuses this machine or our set-up of it.
    #[error("the WebAssembly engine cannot be started on this machine: {0}")]
    Engine(String),
    /// The system gives no thread.
    #[error("no thread can be started for the sandbox, raise the limit of processes: {0}")]
    Thread(String),
}

/// Names [`Attempt`] for the linker.
struct HasAttempt;

impl HasData for HasAttempt {
    type Data<'a> = &'a mut Attempt;
}

/// The engine, its one linker, its epoch and the threads that guests run on.
pub struct Sandbox {
    engine: Engine,
    linkers: [Linker<State>; 2],
    ticker: Arc<Ticker>,
    instances: Arc<Semaphore>,
    capacity_wait: Duration,
    /// None only while it is dropped.
    guests: Option<Runtime>,
}

impl Sandbox {
    /// Starts the engine and its threads.
    ///
    /// # Errors
    /// The machine has no support for it or gives no threads.
    pub fn new(settings: &SandboxSettings) -> Result<Self, SandboxError> {
        let engine = engine::build(settings)?;
        let linkers = linker::build(&engine)?;
        let ticker = Arc::new(Ticker::start(&engine, settings.epoch_tick)?);
        let guests = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.guest_threads.max(1))
            .thread_name("guest")
            .enable_time()
            .build()
            .map_err(|error| SandboxError::Thread(error.to_string()))?;
        let instances = Arc::new(Semaphore::new(settings.max_instances.max(1) as usize));
        Ok(Sandbox { engine, linkers, ticker, instances, capacity_wait: settings.capacity_wait, guests: Some(guests) })
    }

    /// The engine that components must be compiled with.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Links a component that was compiled with [`Sandbox::engine`]. It runs no code of the guest's.
    ///
    /// # Errors
    /// It is not an agent, or imports something that is not served.
    pub fn prepare(&self, component: &Component) -> Result<Prepared, PrepareError> {
        prepare::prepare(&self.linkers, component)
    }

    /// Executes one attempt. Dropping the future ends the guest.
    pub async fn execute(
        &self,
        prepared: &Prepared,
        attempt: AttemptSpec,
        host: Arc<dyn GuestHost>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport {
        let lost = |message: String| AttemptReport { ended: Ended::failed(ErrorKind::Host, message), usage: Usage::default() };
        let Some(guests) = &self.guests else {
            return lost("the sandbox is shut down".to_owned());
        };
        let room =
            attempt::Room { ticker: Arc::clone(&self.ticker), instances: Arc::clone(&self.instances), capacity_wait: self.capacity_wait };
        let task = guests.spawn(attempt::execute(room, prepared.clone(), attempt, host, signals));
        let mut task = AbortOnDrop(task);
        (&mut task.0).await.unwrap_or_else(|error| lost(format!("the sandbox failed in this attempt: {error}")))
    }
}

impl Drop for Sandbox {
    /// Ends all guests and waits for them, at most a second.
    fn drop(&mut self) {
        if let Some(guests) = self.guests.take() {
            // A runtime may not be shut down on a thread of another; the epoch moves on meanwhile, so that guests yield.
            let down = std::thread::spawn(move || guests.shutdown_timeout(Duration::from_secs(1)));
            // It does not panic, and if it did there would be nothing left to do.
            let _ = down.join();
        }
    }
}

struct AbortOnDrop(JoinHandle<AttemptReport>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
