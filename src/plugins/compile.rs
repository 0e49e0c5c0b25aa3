//! Compiling, in a small pool of low-priority threads, one component at a time.
//!
//! Invariant: a compile never runs on the runtime's threads nor in the process-wide pool, and its panic is a refusal. It
//! cannot be stopped: one that outlasts its time is refused at once and keeps its turn until its thread is done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{Semaphore, oneshot};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::PluginError;

const NICENESS: i32 = 10;
const STACK_BYTES: usize = 8 << 20;

pub(super) struct Compiler {
    engine: Engine,
    pool: ThreadPool,
    turn: Arc<Semaphore>,
    compiles: AtomicU64,
}

impl Compiler {
    pub(super) fn open(engine: Engine, threads: usize) -> Result<Self, PluginError> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("compile-{index}"))
            .stack_size(STACK_BYTES)
            .start_handler(|_| {
                // A pool that keeps the usual priority still compiles, so a refusal of the system is not a fault.
                let _ = rustix::process::setpriority_process(None, NICENESS);
            })
            .build()
            .map_err(|error| PluginError::Threads(error.to_string()))?;
        Ok(Compiler { engine, pool, turn: Arc::new(Semaphore::new(1)), compiles: AtomicU64::new(0) })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How many components were compiled.
    pub(super) fn compiles(&self) -> u64 {
        self.compiles.load(Ordering::Relaxed)
    }

    /// Waits for the turn, then runs `work` in the pool. `begun` is called when the turn has come; where it says no, the
    /// work is not done and the answer's sender is dropped.
    pub(super) async fn in_turn<R, W>(&self, begun: impl FnOnce() -> bool, work: W) -> oneshot::Receiver<R>
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let turn = self.turn.clone().acquire_owned().await;
        if begun() {
            self.pool.spawn(move || {
                let answer = work();
                drop(turn);
                // Whoever asked may have given the wait up.
                let _ = sender.send(answer);
            });
        }
        receiver
    }

    /// Compiles a component. Called within [`Compiler::in_turn`], so that wasmtime's own parallelism stays in the pool.
    pub(super) fn compile(&self, name: &str, bytes: &[u8]) -> Result<Component, String> {
        self.compiles.fetch_add(1, Ordering::Relaxed);
        guarded(name, "compiling", || {
            Component::from_binary(&self.engine, bytes).map_err(|error| {
                let why = super::loader::one_line(&format!("{error:#}"));
                format!("`{name}` is not a component that can be compiled ({why}): rebuild it with --target wasm32-wasip2")
            })
        })
    }
}

/// Makes a panic of what is done with untrusted bytes a refusal.
pub(super) fn guarded<T>(name: &str, doing: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(format!("{doing} `{name}` failed inside the daemon: rebuild it, and report it if it fails again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_refusal() {
        let refusal = guarded::<()>("a.wasm", "compiling", || panic!("out of registers")).unwrap_err();
        assert!(refusal.starts_with("compiling `a.wasm` failed"), "{refusal}");
    }

    #[tokio::test]
    async fn work_runs_in_the_pool_at_a_low_priority_and_one_at_a_time() {
        let compiler = Compiler::open(Engine::default(), 2).unwrap();
        let look = || (rayon::current_thread_index().is_some(), rustix::process::getpriority_process(None).unwrap());
        let (in_pool, niceness) = compiler.in_turn(|| true, look).await.await.unwrap();
        assert!(in_pool);
        assert!(niceness >= NICENESS, "{niceness}");
        assert!(rustix::process::getpriority_process(None).unwrap() < niceness, "the others keep theirs");

        let (finish, held) = std::sync::mpsc::channel::<()>();
        let first = compiler.in_turn(|| true, move || held.recv().is_ok()).await;
        let mut second = Box::pin(compiler.in_turn(|| true, || ()));
        assert!(futures::poll!(&mut second).is_pending(), "the turn is taken");
        finish.send(()).unwrap();
        assert!(first.await.unwrap());
        second.await.await.unwrap();
    }
}
