//! Work for a daemon that is killed again and again: tasks of every kind, and clients that ask for runs as fast as they are answered.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::daemon::{Daemon, Home, id, patiently};
use super::guests::{marker, sentry};
use crate::guest::plain;

/// The tasks that clients ask for, each with what its runs end as.
pub const FED: [(&str, &str); 4] = [("parallel", "completed"), ("serial", "completed"), ("flaky", "completed"), ("hopeless", "failed")];

/// How long a lease of these daemons lasts.
pub const LEASE: Duration = Duration::from_secs(4);

const CONFIG: &str = r#"
[worker]
lease_seconds = 4
shutdown_grace_seconds = 0.1

[scheduler]
poll_seconds = 0.5

[[tasks]]
task_id = "parallel"
agent_id = "marker"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
max_recoveries = 1000

[[tasks]]
task_id = "serial"
agent_id = "marker"
query = "q"
schedule = { type = "manual" }
overlap_policy = "queue_next"
max_recoveries = 1000

[[tasks]]
task_id = "flaky"
agent_id = "flaky"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
max_parallel = 3
retry_policy = { max_retries = 2, initial_delay_seconds = 0.02 }
max_recoveries = 1000

[[tasks]]
task_id = "hopeless"
agent_id = "hopeless"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
max_recoveries = 1000

[[tasks]]
task_id = "doomed"
agent_id = "marker"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
max_recoveries = 1000

[[tasks]]
task_id = "sentry"
agent_id = "sentry"
query = "q"
schedule = { type = "manual" }
overlap_policy = "allow_parallel"
max_recoveries = 1000

[[tasks]]
task_id = "tick"
agent_id = "echo"
query = "q"
schedule = { type = "interval", seconds = 1 }
max_recoveries = 1000
"#;

/// A daemon's home with these tasks and their agents.
pub fn home() -> Home {
    home_with("")
}

/// The same, with more sections in its configuration.
pub fn home_with(more: &str) -> Home {
    let plugins = [
        ("marker", marker(15, 1)),
        ("flaky", marker(5, 3)),
        ("hopeless", plain::permanent()),
        ("echo", plain::echo()),
        ("sentry", sentry()),
    ];
    Home::new(&format!("{CONFIG}{more}"), &plugins)
}

/// Replaces a plugin by one that does the same and is another.
pub fn replace_plugin(home: &Home, version: u32) {
    home.plugin("marker", &marker(10 + version % 10, 1));
}

/// Clients that record what was acknowledged to them.
#[derive(Default)]
pub struct Clients {
    pub acknowledged: watch::Sender<Vec<String>>,
    pub cancelled: Arc<Mutex<Vec<String>>>,
    pub feeding: JoinSet<()>,
}

impl Clients {
    /// Feeds a daemon, one client a task, until it answers no more.
    pub fn feed(&mut self, daemon: &Daemon) {
        for (task, _) in FED {
            let request = daemon.client.post(format!("{}/background/tasks/{task}/run", daemon.url));
            let acknowledged = self.acknowledged.clone();
            self.feeding.spawn(async move {
                while let Some(run) = ask(request.try_clone().unwrap()).await {
                    acknowledged.send_modify(|runs| runs.push(run));
                }
            });
        }
    }

    /// Asks a daemon for runs of `doomed` and at once for their cancel, until it answers no more.
    pub fn doom(&mut self, daemon: &Daemon) {
        let (client, url) = (daemon.client.clone(), daemon.url.clone());
        let (acknowledged, cancelled) = (self.acknowledged.clone(), Arc::clone(&self.cancelled));
        self.feeding.spawn(async move {
            while let Some(run) = ask(client.post(format!("{url}/background/tasks/doomed/run"))).await {
                acknowledged.send_modify(|runs| runs.push(run.clone()));
                let Ok(response) = client.post(format!("{url}/background/runs/{run}/cancel")).send().await else { return };
                match response.status().as_u16() {
                    200 => cancelled.lock().unwrap().push(run),
                    // It was faster.
                    409 => {}
                    other => assert_eq!(other, 503),
                }
            }
        });
    }

    /// Keeps a run that was acknowledged to somebody else.
    pub fn note(&self, run: &Value) {
        self.acknowledged.send_modify(|runs| runs.push(id(run).to_owned()));
    }

    /// The runs that were acknowledged.
    pub fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.borrow().clone()
    }

    /// The runs whose cancel was acknowledged.
    pub fn cancelled(&self) -> Vec<String> {
        self.cancelled.lock().unwrap().clone()
    }

    /// Waits until so many more runs were acknowledged.
    pub async fn more(&self, count: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let enough = acknowledged.borrow().len() + count;
        patiently("acknowledged runs", acknowledged.wait_for(|runs| runs.len() >= enough)).await.unwrap();
    }

    /// Waits until the clients have noticed that the daemon is gone.
    pub async fn done(&mut self) {
        while let Some(client) = self.feeding.join_next().await {
            client.unwrap();
        }
    }

    /// Ends the clients. What they asked for last may happen, and nobody knows of it.
    pub async fn rest(&mut self) {
        self.feeding.shutdown().await;
    }
}

/// A run that was acknowledged; none when the daemon is gone before it has answered whole, or is about to go.
async fn ask(request: reqwest::RequestBuilder) -> Option<String> {
    let response = request.send().await.ok()?;
    let status = response.status();
    let text = response.text().await.ok()?;
    if status == 503 {
        return None;
    }
    assert_eq!(status, 200, "{text}");
    Some(id(&serde_json::from_str(&text).unwrap()).to_owned())
}

/// A number of the environment.
pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number")))
}

/// Pseudo-random numbers whose seed is printed, so that a failure can be met again.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Dice {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let seed = setting("SANDCLOCK_TEST_SEED").unwrap_or(u64::try_from(now).unwrap()).max(1);
        println!("SANDCLOCK_TEST_SEED={seed}");
        Dice(seed)
    }

    /// Other numbers, from the same seed.
    pub fn another(&mut self) -> Dice {
        Dice(self.roll(u64::MAX).max(1))
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
