//! One attempt, from its store to its report.
//!
//! Invariant: each attempt has a store of its own, which is dropped at its end whatever the guest did. A guest that computes is
//! ended by its epoch callback, one that waits in a host call by dropping its future.

use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{ComponentType, Instance, Lift, ResourceTable};
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;

use super::checkpoints::CheckpointQuota;
use super::egress::Egress;
use super::engine::Ticker;
use super::fault::{self, Fault, Phase};
use super::host::disk::{Disk, open_workspace, reopen};
use super::host::http::{self, OutgoingHttp};
use super::host::logs::{GuestLog, Kept};
use super::host::walk;
use super::limits::Limiter;
use super::memory::Quota;
use super::meter::Meter;
use super::prepare::{Prepared, Shape};
use super::signals::{AttemptSignals, Stop};
use super::spec::{AttemptReport, AttemptSpec, DiskUse, Ended, GuestHost, LogStream, MESSAGE_BYTES, Usage, bounded};
use super::state::{Attempt, State};
use crate::domain::agent::Limits;
use crate::domain::policy::ErrorKind;

/// What an agent's `run` takes.
pub(crate) type AgentParams<'a> = (&'a str,);
/// What an agent's `run` answers. It is copied whole, up to [`fault::host_call_bytes`]: the guest frees it before we could look.
pub(crate) type AgentResult = (Result<String, Failure>,);
/// What a command's `run` takes.
pub(crate) type CommandParams = ();
/// What a command's `run` answers.
pub(crate) type CommandResult = (Result<(), ()>,);

/// The contract's `failure`.
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(crate) enum Failure {
    #[component(name = "retryable")]
    Retryable(Retry),
    #[component(name = "permanent")]
    Permanent(String),
    #[component(name = "cancelled")]
    Cancelled(String),
}

/// The contract's `retry`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Retry {
    message: String,
    #[component(name = "after-ms")]
    after_ms: Option<u32>,
}

/// The most random bytes that a guest gets with one call.
const RANDOM_BYTES: u64 = 64 * 1024;
/// What is kept of a command's standard error, for its failure's message.
const STDERR_KEPT_BYTES: u64 = 1024;
/// The exit status by which a command says that another attempt may help: EX_TEMPFAIL.
const EXIT_RETRYABLE: i32 = 75;

/// What an attempt needs of the sandbox.
pub(crate) struct Room {
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) instances: Arc<Semaphore>,
    pub(crate) capacity_wait: Duration,
}

/// Executes an attempt on the runtime that polls it.
pub(crate) async fn execute(
    room: Room,
    prepared: Prepared,
    spec: AttemptSpec,
    host: Arc<dyn GuestHost>,
    signals: Arc<AttemptSignals>,
) -> AttemptReport {
    let Some(_instance) = free_instance(&room).await else {
        return AttemptReport { ended: Ended::Stopped(Stop::NoCapacity), usage: Usage::default() };
    };
    let _running = room.ticker.running();
    let started = Instant::now();
    let deadline = spec.time_limit.map_or(0, |limit| signals.now().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)));
    let meter = Arc::new(Meter::new(&spec.limits));
    let mut cpu = Duration::ZERO;
    let egress = spec.egress.clone();
    let (ended, workspace) = match open_disk(&spec, &meter, &signals).await {
        Err(ended) => (ended, spec.found.unwrap_or_default()),
        Ok(disk) => {
            let guest = Box::pin(run_guest(&prepared, spec, Arc::clone(&disk), host, Arc::clone(&signals), Arc::clone(&meter), deadline));
            let ended = tokio::select! {
                biased;
                ended = Metered { inner: guest, spent: &mut cpu, signals: &signals } => ended,
                ended = over_budget(&meter, egress.as_deref()) => ended,
                halt = signals.halted(deadline) => halt.into(),
            };
            let ended = fault::after_budget(ended, egress.as_deref());
            disk.idle().await;
            (ended, disk.used())
        }
    };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let usage = Usage {
        wall: started.elapsed(),
        cpu: Some(cpu),
        peak_memory_bytes: meter.peak_memory(),
        disk_bytes_written: count(&meter.written),
        host_calls: meter.host_calls(),
        calls: meter.calls_by_kind(),
        events_dropped: count(&meter.events_dropped),
        log_bytes_dropped: count(&meter.log_bytes_dropped),
        requests_denied: count(&meter.requests_denied),
        workspace,
        http: egress.as_ref().map(|egress| egress.record()).unwrap_or_default(),
        outgoing: egress.as_ref().map(|egress| egress.outgoing()).unwrap_or_default(),
        models: egress.as_ref().map(|egress| egress.models()).unwrap_or_default(),
    };
    AttemptReport { ended, usage }
}

/// Returns when a budget has refused a call and those that had left before have come to their ends: none is cut in the middle.
async fn over_budget(meter: &Meter, egress: Option<&dyn Egress>) -> Ended {
    meter.over_budget.notified().await;
    if let Some(egress) = egress {
        egress.settled().await;
    }
    fault::after_budget(Ended::TimedOut, egress)
}

async fn free_instance(room: &Room) -> Option<OwnedSemaphorePermit> {
    let instances = || Arc::clone(&room.instances);
    if let Ok(permit) = instances().try_acquire_owned() {
        return Some(permit);
    }
    tokio::time::timeout(room.capacity_wait, instances().acquire_owned()).await.ok()?.ok()
}

async fn open_disk(spec: &AttemptSpec, meter: &Arc<Meter>, signals: &Arc<AttemptSignals>) -> Result<Arc<Disk>, Ended> {
    let cannot = |error: std::io::Error| {
        Ended::failed(ErrorKind::Host, format!("the workspace {} cannot be opened: {error}", spec.workspace.display()))
    };
    let root = match &spec.folder {
        Some(folder) => reopen(folder).map_err(cannot)?,
        None => open_workspace(&spec.workspace).map_err(cannot)?,
    };
    let found = match spec.found {
        Some(found) => found,
        None => count(&root).await.map_err(cannot)?,
    };
    Ok(Arc::new(Disk::new(root, found, &spec.limits, Arc::clone(meter), Arc::clone(signals))))
}

async fn count(root: &File) -> std::io::Result<DiskUse> {
    let root = root.try_clone()?;
    tokio::task::spawn_blocking(move || walk::count(&root)).await.map_err(std::io::Error::other)?
}

async fn run_guest(
    prepared: &Prepared,
    spec: AttemptSpec,
    disk: Arc<Disk>,
    host: Arc<dyn GuestHost>,
    signals: Arc<AttemptSignals>,
    meter: Arc<Meter>,
    deadline: u64,
) -> Ended {
    let AttemptSpec { context, query, limits, env, config, egress, .. } = spec;
    let output = (prepared.shape() == Shape::Command)
        .then(|| Output { stdout: Kept::up_to(limits.output_bytes), stderr: Kept::up_to(STDERR_KEPT_BYTES) });
    let wasi = wasi_context(&context.agent_id, &query, &env, output.as_ref(), &host, &meter);
    let outgoing_http = OutgoingHttp {
        meter: Arc::clone(&meter),
        egress: egress.clone(),
        host: Arc::clone(&host),
        signals: Arc::clone(&signals),
        deadline,
    };
    let quota = Quota { keys: limits.keyvalue_keys, bytes: limits.keyvalue_bytes };
    let attempt = Attempt {
        context,
        host,
        signals: Arc::clone(&signals),
        meter: Arc::clone(&meter),
        deadline,
        config,
        quota,
        checkpoints: CheckpointQuota::of(&limits),
        approvals: limits.approvals,
    };
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.handles as usize);
    let state =
        State { attempt, limiter: Limiter::new(&limits, Arc::clone(&meter)), table, wasi, http: http::context(), outgoing_http, disk };
    let mut store = new_store(prepared, state, &limits, Arc::clone(&signals), deadline);
    // From here on the guest's own code runs: a component's start functions come first.
    let instance = match prepared.instance().instantiate_async(&mut store).await {
        Ok(instance) => instance,
        Err(error) => return fault::after_denial(fault::ended_by(&error, Phase::Instantiation, &limits, &meter), egress.as_deref()),
    };
    let called = match output {
        None => call_agent(&mut store, prepared, &instance, &query, &limits).await,
        Some(output) => call_command(&mut store, prepared, &instance, &output, &limits).await,
    };
    let ended = called.unwrap_or_else(|error| fault::ended_by(&error, Phase::Call, &limits, &meter));
    fault::after_denial(ended, egress.as_deref())
}

/// What a command wrote.
struct Output {
    stdout: Kept,
    stderr: Kept,
}

fn wasi_context(
    agent: &str,
    query: &str,
    env: &[(String, String)],
    output: Option<&Output>,
    host: &Arc<dyn GuestHost>,
    meter: &Arc<Meter>,
) -> WasiCtx {
    let log = |stream, kept: Option<&Kept>| GuestLog::new(stream, Arc::clone(host), Arc::clone(meter), kept.cloned());
    let mut wasi = WasiCtx::builder();
    wasi.stdout(log(LogStream::Stdout, output.map(|output| &output.stdout)))
        .stderr(log(LogStream::Stderr, output.map(|output| &output.stderr)))
        .envs(env)
        .max_random_size(RANDOM_BYTES);
    if output.is_some() {
        wasi.args(&[agent, query]).stdin(MemoryInputPipe::new(query.to_owned()));
    }
    wasi.build()
}

fn new_store(prepared: &Prepared, state: State, limits: &Limits, signals: Arc<AttemptSignals>, deadline: u64) -> Store<State> {
    let mut store = Store::new(prepared.instance().engine(), state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(fault::host_call_bytes(limits));
    store.set_max_component_handles(limits.handles as usize);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| match signals.halt(deadline) {
        Some(halt) => Err(Fault::Halted(halt).into()),
        // wasmtime's own yield would be polled again before anything else that waits.
        None => Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now()))),
    });
    store
}

async fn call_agent(
    store: &mut Store<State>,
    prepared: &Prepared,
    instance: &Instance,
    query: &str,
    limits: &Limits,
) -> wasmtime::Result<Ended> {
    let run = instance.get_typed_func::<AgentParams<'_>, AgentResult>(&mut *store, prepared.run())?;
    let (answer,) = match run.call_async(&mut *store, (query,)).await {
        Err(error) if fault::exit_status(&error).is_some() => {
            return Ok(Ended::failed(ErrorKind::Trap, "the guest exited instead of answering"));
        }
        other => other?,
    };
    Ok(match answer {
        Ok(text) if text.len() as u64 > limits.output_bytes => fault::too_long(limits),
        Ok(text) => Ended::Completed(text),
        Err(Failure::Retryable(retry)) => Ended::Failed {
            kind: ErrorKind::GuestRetryable,
            message: bounded(retry.message, MESSAGE_BYTES),
            after: retry.after_ms.map(|ms| Duration::from_millis(u64::from(ms))),
        },
        Err(Failure::Permanent(text)) => permanent(text, store.data(), limits),
        Err(Failure::Cancelled(text)) => cancelled(text, store.data()),
    })
}

/// A failure that the guest calls permanent; when a limit refused it something before, that is its kind.
fn permanent(message: String, state: &State, limits: &Limits) -> Ended {
    match state.attempt.meter.tripped() {
        None => Ended::failed(ErrorKind::GuestPermanent, message),
        Some(trip) => {
            let (kind, limit) = fault::limit_of(trip, limits);
            Ended::failed(kind, format!("{limit}; it says: {message}"))
        }
    }
}

fn cancelled(message: String, state: &State) -> Ended {
    if state.attempt.signals.cancel_asked() {
        Ended::Cancelled { message: bounded(message, MESSAGE_BYTES) }
    } else {
        Ended::failed(ErrorKind::GuestPermanent, format!("the guest ended as cancelled, but nobody asked it to; it says: {message}"))
    }
}

async fn call_command(
    store: &mut Store<State>,
    prepared: &Prepared,
    instance: &Instance,
    output: &Output,
    limits: &Limits,
) -> wasmtime::Result<Ended> {
    let run = instance.get_typed_func::<CommandParams, CommandResult>(&mut *store, prepared.run())?;
    let status = match run.call_async(&mut *store, ()).await {
        Ok((Ok(()),)) => 0,
        Ok((Err(()),)) => 1,
        Err(error) => match fault::exit_status(&error) {
            Some(status) => status,
            None => return Err(error),
        },
    };
    if status == 0 {
        return Ok(match String::from_utf8(output.stdout.take()) {
            Ok(text) => Ended::Completed(text),
            Err(_) => Ended::failed(ErrorKind::Output, "the command's standard output is not UTF-8"),
        });
    }
    let said = String::from_utf8_lossy(&output.stderr.take()).trim().to_owned();
    let message = if said.is_empty() {
        format!("the command exited with status {status}")
    } else {
        format!("the command exited with status {status}: {said}")
    };
    Ok(if status == EXIT_RETRYABLE { Ended::failed(ErrorKind::GuestRetryable, message) } else { permanent(message, store.data(), limits) })
}

/// Adds up the processor time that a future takes on whichever thread polls it.
struct Metered<'a, F> {
    inner: Pin<Box<F>>,
    spent: &'a mut Duration,
    signals: &'a AttemptSignals,
}

fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if self.spent.is_zero() {
            // The first turn lasts a tick at most, and asking for the thread's time would cost a short attempt a tenth more.
            let started = Instant::now();
            let polled = self.inner.as_mut().poll(context);
            *self.spent = started.elapsed();
            self.signals.note_cpu(*self.spent);
            return polled;
        }
        let before = thread_time();
        let polled = self.inner.as_mut().poll(context);
        let spent = thread_time().saturating_sub(before);
        *self.spent = self.spent.saturating_add(spent);
        self.signals.note_cpu(*self.spent);
        polled
    }
}
