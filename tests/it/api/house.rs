//! A daemon behind its API, with scripted guests.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sandclock::api::{Access, ApiSettings, router, serve};
use sandclock::clock::{SystemClock, SystemEntropy};
use sandclock::config::Secret;
use sandclock::daemon::executor::{Executor, Offer, Offered, Start};
use sandclock::daemon::{Bounds, Daemon, DaemonParts, DaemonSettings, Manager};
use sandclock::domain::id::{AgentId, WorkerId};
use sandclock::domain::park::Park;
use sandclock::domain::time::Seconds;
use sandclock::egress::Account;
use sandclock::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, Ended, GuestHost, LogStream, Usage};
use sandclock::store::ClaimAgent;
use sandclock::store::memory::MemoryStore;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::workspace::Workspaces;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What a guest that holds is told to do.
pub enum Order {
    Report(String),
    Answer(String),
}

/// Its query says what a guest does: `hold` waits for orders, `ask` asks whether it may, everything else is answered at once.
struct Guest(Arc<Mutex<mpsc::UnboundedReceiver<Order>>>);

#[async_trait]
impl Start for Guest {
    async fn execute(
        &self,
        spec: AttemptSpec,
        host: Arc<dyn GuestHost>,
        _: Option<Arc<dyn Account>>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport {
        let ended = match &*spec.query {
            "hold" => self.hold(&*host, &signals).await,
            "ask" => ask(&*host).await,
            _ => answer(&spec, &*host),
        };
        AttemptReport { ended, usage: Usage::default() }
    }
}

impl Guest {
    async fn hold(&self, host: &dyn GuestHost, signals: &AttemptSignals) -> Ended {
        let mut orders = self.0.lock().await;
        loop {
            // A real guest polls `progress.cancelled` just so.
            match tokio::time::timeout(Duration::from_millis(5), orders.recv()).await {
                Ok(Some(Order::Report(message))) => host.report(message, None),
                Ok(Some(Order::Answer(text))) => return Ended::Completed(text),
                Ok(None) => return Ended::Completed(String::new()),
                Err(_) if signals.cancel_asked() => return Ended::Cancelled { message: "as you wish".into() },
                Err(_) if !signals.may_act() => return Ended::Stopped(sandclock::sandbox::Stop::ShuttingDown),
                Err(_) => {}
            }
        }
    }
}

async fn ask(host: &dyn GuestHost) -> Ended {
    match host.approvals().unwrap().verdict("may/I?", 100).await.unwrap() {
        Some(verdict) => Ended::Completed(format!("{} by {}: {}", verdict.approved, verdict.by, verdict.note)),
        None => Ended::Parked(Park::Approval { key: "may/I?".to_owned(), question: "May I?".to_owned() }),
    }
}

fn answer(spec: &AttemptSpec, host: &dyn GuestHost) -> Ended {
    std::fs::create_dir_all(spec.workspace.join("notes")).unwrap();
    std::fs::write(spec.workspace.join("notes/day 1 \"é\".html"), b"<script>alert(1)</script>").unwrap();
    host.log(LogStream::Stdout, b"working\n");
    Ended::Completed(format!("did: {}", spec.query))
}

struct Guests(Offer);

impl Executor for Guests {
    fn offer(&self) -> Offer {
        Arc::clone(&self.0)
    }
}

/// A daemon, its API on a loopback port, and a client.
pub struct House {
    pub base: String,
    pub manager: Manager,
    pub client: reqwest::Client,
    pub orders: mpsc::UnboundedSender<Order>,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<()>,
    daemon: Daemon,
    _directory: TempDir,
}

pub fn settings() -> ApiSettings {
    ApiSettings {
        api_prefix: String::new(),
        access: Arc::default(),
        request_timeout: Duration::from_secs(60),
        max_body_bytes: 64 * 1024,
        default_agent: AgentId::parse("default").unwrap(),
    }
}

pub async fn house() -> House {
    house_with(settings(), Duration::from_secs(30)).await
}

pub async fn house_with_token(token: &str) -> House {
    house_with(ApiSettings { access: Arc::new(Access::new(Some(Secret::new(token)), Vec::new())), ..settings() }, Duration::from_secs(30))
        .await
}

/// `grace` is what requests have to finish at the end.
pub async fn house_with(settings: ApiSettings, grace: Duration) -> House {
    let directory = tempfile::tempdir().unwrap();
    build(settings, grace, parts(&directory), directory).await
}

/// A house on the memory store, or on SQLite, with these bounds.
pub async fn house_within(bounds: Bounds, on_sqlite: bool) -> House {
    let directory = tempfile::tempdir().unwrap();
    let mut parts = parts(&directory);
    parts.settings.bounds = bounds;
    if on_sqlite {
        parts.store = Arc::new(SqliteStore::open(&directory.path().join("store.db"), Arc::new(SystemClock)).await.unwrap());
    }
    build(settings(), Duration::from_secs(30), parts, directory).await
}

async fn build(settings: ApiSettings, grace: Duration, mut parts: DaemonParts, directory: TempDir) -> House {
    let (orders, received) = mpsc::unbounded_channel();
    parts.executor = Arc::new(Guests(offer(received)));
    let daemon = Daemon::start(parts).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(vec![listener], None, router(daemon.manager().clone(), settings), shutdown.clone(), grace));
    sandclock::tls::provide();
    let client = reqwest::Client::new();
    House { base, manager: daemon.manager().clone(), client, orders, shutdown, serving, daemon, _directory: directory }
}

fn offer(orders: mpsc::UnboundedReceiver<Order>) -> Offer {
    let start: Arc<dyn Start> = Arc::new(Guest(Arc::new(Mutex::new(orders))));
    let claim = ClaimAgent { agent: AgentId::parse("default").unwrap(), digest: "00".repeat(32), max_running: None };
    Arc::new(vec![Offered { claim, start }])
}

fn parts(directory: &TempDir) -> DaemonParts {
    let agent = AgentId::parse("default").unwrap();
    let clock = Arc::new(SystemClock);
    DaemonParts {
        store: Arc::new(MemoryStore::new(clock.clone())),
        clock,
        entropy: Arc::new(SystemEntropy),
        workspaces: Workspaces::open(&directory.path().join("workspaces")).unwrap(),
        agents: None,
        executor: Arc::new(Guests(Offer::default())),
        offers: watch::channel(0).1,
        spawner: Arc::new(sandclock::daemon::spawn::OnRuntime),
        settings: DaemonSettings {
            worker: WorkerId::of("daemon", "1").unwrap(),
            executes: true,
            max_running: 8,
            lease: Duration::from_secs(30),
            cancel_grace: Seconds::whole(5),
            timeout: Seconds::whole(3600),
            max_recoveries: 3,
            dispatch_batch: 100,
            misfire_grace: Duration::from_secs(60),
            poll: Duration::from_secs(5),
            announce: None,
            hints: true,
            heartbeat_events: Duration::from_secs(60),
            default_agent: agent,
            bounds: Bounds::default(),
        },
    }
}

impl House {
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.client.get(self.url(path))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.client.post(self.url(path)).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(self.client.patch(self.url(path)).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(self.client.delete(self.url(path))).await
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let (status, kind) = (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned());
        let body: Value = response.json().await.unwrap();
        if status >= 400 {
            assert_eq!(kind, "application/problem+json");
            assert_eq!((&body["type"], &body["status"]), (&json!("about:blank"), &json!(status)), "{body}");
            assert!(body["title"].is_string() && body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}");
        } else {
            assert_eq!(kind, "application/json");
        }
        (status, body)
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Registers a manual task.
    pub async fn task(&self, id: &str, query: &str) {
        let body = json!({"task_id": id, "query": query, "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel"});
        assert_eq!(self.post("/background/tasks", body).await.0, 200);
    }

    /// Runs a task to its end and returns the run's id.
    pub async fn run(&self, task: &str) -> String {
        let (status, run) = self.post(&format!("/background/tasks/{task}/run"), json!({"wait": true})).await;
        assert_eq!((status, &run["status"]), (200, &json!("completed")), "{run}");
        run["run_id"].as_str().unwrap().to_owned()
    }

    /// Starts a run of a task and returns its id.
    pub async fn start(&self, task: &str) -> String {
        let (status, run) = self.post(&format!("/background/tasks/{task}/run"), json!({})).await;
        assert_eq!(status, 200, "{run}");
        run["run_id"].as_str().unwrap().to_owned()
    }

    /// Stops the API, then the daemon.
    pub async fn close(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.daemon.stop(Duration::ZERO, CancellationToken::new()).await;
    }
}

/// The keys of an object, in order.
pub fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}
