//! The sandbox with real guests, most of them hostile: each limit has one that trips it.

mod answers;
mod examples;
mod files;
mod hostile;
mod memory;
mod signals;

use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sandclock::daemon::foreground::RunMemory;
use sandclock::domain::agent::Limits;
use sandclock::domain::policy::ErrorKind;
use sandclock::sandbox::memory::KeyValues;
use sandclock::sandbox::{
    AttemptContext, AttemptReport, AttemptSignals, AttemptSpec, DiskUse, EffectsRefused, Ended, GuestHost, LogEntry, LogStream, Prepared,
    Sandbox, SandboxSettings,
};
use tokio::sync::Notify;
use wasmtime::component::Component;

/// One sandbox for all tests, as a daemon has one.
static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::new(&SandboxSettings { max_instances: 64, ..SandboxSettings::default() }).unwrap());

fn prepare(sandbox: &Sandbox, guest: &[u8]) -> Prepared {
    sandbox.prepare(&Component::new(sandbox.engine(), guest).unwrap()).unwrap()
}

/// What a guest showed to its host.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Report(String, Option<f64>),
    Event(String, String),
}

/// Keeps what the guest shows.
#[derive(Default)]
struct Recorder {
    shown: Mutex<Vec<Shown>>,
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
    entries: Mutex<Vec<LogEntry>>,
    memory: RunMemory,
    reported: Notify,
}

impl Recorder {
    fn shown(&self) -> Vec<Shown> {
        self.shown.lock().unwrap().clone()
    }

    fn text(&self, stream: LogStream) -> String {
        let log = if stream == LogStream::Stdout { &self.stdout } else { &self.stderr };
        String::from_utf8(log.lock().unwrap().clone()).unwrap()
    }
}

#[async_trait]
impl GuestHost for Recorder {
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        Ok(())
    }

    fn report(&self, message: String, fraction: Option<f64>) {
        self.shown.lock().unwrap().push(Shown::Report(message, fraction));
        self.reported.notify_one();
    }

    fn emit(&self, name: String, payload: String) {
        self.shown.lock().unwrap().push(Shown::Event(name, payload));
    }

    fn log_entry(&self, entry: LogEntry) {
        self.entries.lock().unwrap().push(entry);
    }

    fn key_values(&self) -> Option<&dyn KeyValues> {
        Some(&self.memory)
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let log = if stream == LogStream::Stdout { &self.stdout } else { &self.stderr };
        log.lock().unwrap().extend(bytes);
    }
}

/// One attempt to be made, and what is seen of it.
struct Try {
    guest: Prepared,
    spec: AttemptSpec,
    host: Arc<Recorder>,
    signals: Arc<AttemptSignals>,
    workspace: tempfile::TempDir,
}

impl Try {
    fn new(guest: &[u8]) -> Self {
        Self::with(&SANDBOX, guest)
    }

    fn with(sandbox: &Sandbox, guest: &[u8]) -> Self {
        // A folder inside, so that `..` leads to a place that the test can look at.
        let workspace = tempfile::tempdir().unwrap();
        std::fs::create_dir(workspace.path().join("run")).unwrap();
        let spec = AttemptSpec {
            egress: None,
            context: AttemptContext {
                run_id: "run_1".to_owned(),
                task_id: "task".to_owned(),
                agent_id: "agent".to_owned(),
                session_id: "background:agent:task".to_owned(),
                attempt: 1,
                trigger: "manual".to_owned(),
                due_at: None,
                metadata: "{}".to_owned(),
            },
            query: "the query".to_owned(),
            workspace: workspace.path().join("run"),
            folder: None,
            found: Some(DiskUse::default()),
            limits: Limits::default(),
            env: Vec::new(),
            config: Arc::default(),
            time_limit: Some(Duration::from_secs(60)),
        };
        Try { guest: prepare(sandbox, guest), spec, host: Arc::default(), signals: AttemptSignals::new(), workspace }
    }

    fn limited(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.spec.limits);
        self
    }

    fn within(mut self, time_limit: Duration) -> Self {
        self.spec.time_limit = Some(time_limit);
        self
    }

    fn folder(&self) -> &Path {
        &self.spec.workspace
    }

    async fn run(&self) -> AttemptReport {
        self.run_in(&SANDBOX).await
    }

    async fn run_in(&self, sandbox: &Sandbox) -> AttemptReport {
        let host: Arc<Recorder> = Arc::clone(&self.host);
        sandbox.execute(&self.guest, self.spec.clone(), host, Arc::clone(&self.signals)).await
    }

    /// Does `act` when the guest has reported that it runs.
    async fn run_and(&self, act: impl FnOnce(&AttemptSignals)) -> AttemptReport {
        let run = self.run();
        tokio::pin!(run);
        tokio::select! {
            report = &mut run => panic!("ended too soon: {report:?}"),
            () = self.host.reported.notified() => act(&self.signals),
        }
        run.await
    }
}

/// The answer of a guest that completed.
fn answer(report: &AttemptReport) -> &str {
    match &report.ended {
        Ended::Completed(text) => text,
        other => panic!("did not complete: {other:?}"),
    }
}

/// The kind and message of a failure.
fn failure(report: &AttemptReport) -> (ErrorKind, &str) {
    match &report.ended {
        Ended::Failed { kind, message, .. } => (*kind, message),
        other => panic!("did not fail: {other:?}"),
    }
}
