//! The binary as a daemon in a folder of its own, and what a test asks of it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::cli::stage::{Ended, ended, file, sandclock, signal};

/// How long a test waits for what must come; only a daemon that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for what must come.
pub async fn patiently<T>(what: &str, coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("it never came: {what}"))
}

/// A folder with the configuration, the plugins and the data of a daemon.
pub struct Home(pub tempfile::TempDir);

impl Home {
    /// With these plugins, and this text as the configuration.
    pub fn new(config: &str, plugins: &[(&str, Vec<u8>)]) -> Home {
        let home = Home(tempfile::tempdir().unwrap());
        std::fs::create_dir(home.path("plugins")).unwrap();
        home.configure(config);
        for (name, bytes) in plugins {
            home.plugin(name, bytes);
        }
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn configure(&self, config: &str) {
        file(self.0.path(), "sandclock.toml", config.as_bytes());
    }

    /// Puts a plugin into the folder as a careful user does: whole.
    pub fn plugin(&self, stem: &str, bytes: &[u8]) {
        let aside = file(self.0.path(), "aside", bytes);
        std::fs::rename(aside, self.path(&format!("plugins/{stem}.wasm"))).unwrap();
    }

    /// A file in the workspace of a run, as a guest that waits for it sees it.
    pub fn put_into_workspace(&self, run: &Value, name: &str) {
        file(&self.workspace(run), name, b"");
    }

    pub fn workspace(&self, run: &Value) -> PathBuf {
        self.path(".sandclock/workspace").join(run["workspace_path"].as_str().unwrap())
    }

    /// `sandclock serve` with more arguments, on a free port.
    pub fn serve(&self, more: &[&str]) -> Command {
        let line: Vec<&str> = ["serve", "--config", "sandclock.toml"].iter().chain(more).copied().collect();
        let mut command = sandclock(self.0.path(), &line);
        command.env("SANDCLOCK_LISTEN", "127.0.0.1:0");
        command
    }

    /// Starts a daemon; it may not listen yet.
    pub fn spawn(&self, more: &[&str]) -> Starting {
        Starting::new(self.serve(more))
    }

    /// Starts a daemon and waits until it is ready.
    pub async fn start(&self, more: &[&str]) -> Daemon {
        self.spawn(more).ready().await
    }

    /// A daemon that does not start: how it ended. It must have told one sentence.
    pub async fn refused(&self, more: &[&str]) -> Ended {
        let ended = patiently("the end of a daemon that cannot start", ended(self.serve(more))).await;
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        ended
    }
}

/// A daemon's process.
pub struct Starting {
    child: Child,
    log: watch::Sender<Vec<String>>,
}

impl Starting {
    /// Starts what serves.
    pub fn new(mut serve: Command) -> Starting {
        let mut child = serve.spawn().unwrap();
        let log = watch::Sender::new(Vec::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let tell = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                tell.send_modify(|log| log.push(line));
            }
        });
        Starting { child, log }
    }

    /// Waits until it says where it listens and that it is ready.
    pub async fn ready(self) -> Daemon {
        let daemon = self.listening().await;
        assert_eq!(daemon.get("/ready").await["status"], "ready");
        daemon
    }

    /// Waits until it says where it listens.
    pub async fn listening(mut self) -> Daemon {
        let mut lines = BufReader::new(self.child.stdout.take().unwrap()).lines();
        let line = patiently("the line that says where it listens", lines.next_line()).await.unwrap();
        let line = line.unwrap_or_else(|| panic!("it ended: {:#?}", self.log.borrow()));
        let url = line.rsplit_once(" listens on ").unwrap_or_else(|| panic!("{line}")).1.to_owned();
        sandclock::tls::provide();
        Daemon { process: self, url, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    /// Waits for a line of its log that has this text.
    pub async fn told(&self, text: &str) -> String {
        let mut log = self.log.subscribe();
        let found = patiently(text, log.wait_for(|log| log.iter().any(|line| line.contains(text)))).await.unwrap();
        found.iter().find(|line| line.contains(text)).unwrap().clone()
    }

    /// Sends a signal.
    pub fn send(&self, sent: Signal) {
        signal(&self.child, sent);
    }

    /// Waits for its end.
    pub async fn end(mut self) -> ExitStatus {
        patiently("the daemon's end", self.child.wait()).await.unwrap()
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A daemon that listens.
pub struct Daemon {
    process: Starting,
    pub url: String,
    pub client: reqwest::Client,
}

impl Daemon {
    /// The answer to a request, which is good.
    pub async fn get(&self, path: &str) -> Value {
        good(self.client.get(format!("{}{path}", self.url))).await
    }

    /// The answer to a request, which is good.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        good(self.client.post(format!("{}{path}", self.url)).json(&body)).await
    }

    /// The status and the body of an answer, good or not.
    pub async fn ask(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = patiently("an answer", request.send()).await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }

    /// Asks until an answer is as wanted, for what has no stream that tells of it.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        patiently(path, asking).await
    }

    /// Registers a manual task with these fields.
    pub async fn task(&self, id: &str, agent: &str, mut fields: Value) {
        let given = json!({"task_id": id, "agent_id": agent, "query": "q", "schedule": {"type": "manual"}});
        for (name, value) in given.as_object().unwrap() {
            fields[name] = value.clone();
        }
        self.post("/background/tasks", fields).await;
    }

    /// Asks for a run of a task.
    pub async fn fire(&self, task: &str) -> Value {
        self.post(&format!("/background/tasks/{task}/run"), json!({})).await
    }

    /// A run as it is now.
    pub async fn run(&self, run: &Value) -> Value {
        self.get(&format!("/background/runs/{}", id(run))).await
    }

    pub async fn attempts(&self, run: &Value) -> Vec<Value> {
        self.get(&format!("/background/runs/{}/attempts", id(run))).await.as_array().unwrap().clone()
    }

    /// The whole history of a run.
    pub async fn events(&self, run: &Value) -> Vec<Value> {
        let told = self.get(&format!("/background/runs/{}/events?limit=1000", id(run))).await;
        assert_eq!(told["next_cursor"], Value::Null);
        told["events"].as_array().unwrap().clone()
    }

    /// Follows a run's events to the first of which `wanted` holds.
    pub async fn event(&self, run: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
        let url = format!("{}/background/runs/{}/events/stream", self.url, id(run));
        let following = async {
            let mut response = self.client.get(url).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let mut text = String::new();
            while let Some(chunk) = response.chunk().await.unwrap() {
                text.push_str(std::str::from_utf8(&chunk).unwrap());
                while let Some((frame, rest)) = text.split_once("\n\n") {
                    let data = frame.lines().find_map(|line| line.strip_prefix("data: "));
                    let event = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
                    text = rest.to_owned();
                    if let Some(event) = event.filter(&wanted) {
                        return event;
                    }
                }
            }
            panic!("the stream of {} ended without it: {:#?}", id(run), self.process.log.borrow())
        };
        patiently("an event", following).await
    }

    /// Waits until the guest of this attempt tells that it runs.
    pub async fn started(&self, run: &Value, attempt: u64) {
        self.event(run, |event| event["message"] == "started" && event["attempt"] == attempt).await;
    }

    /// Waits until a run has ended.
    pub async fn terminal(&self, run: &Value) -> Value {
        self.event(run, |event| TERMINAL.contains(&event["event"].as_str().unwrap())).await;
        self.run(run).await
    }

    /// Waits for a line of its log that has this text.
    pub async fn logged(&self, text: &str) -> String {
        self.process.told(text).await
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.process.log.borrow().clone()
    }

    /// Runs a client verb against it.
    pub async fn verb(&self, folder: &Path, line: &[&str]) -> Ended {
        let mut command = sandclock(folder, line);
        command.env("SANDCLOCK_URL", &self.url);
        ended(command).await
    }

    /// Sends a signal.
    pub fn send(&self, sent: Signal) {
        self.process.send(sent);
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.send(Signal::TERM);
    }

    /// Its process's number.
    pub fn pid(&self) -> u32 {
        self.process.child.id().unwrap()
    }

    /// Stops all of its threads where they are, as a suspended machine would; returns when they have stopped.
    pub async fn freeze(&self) {
        signal(&self.process.child, Signal::STOP);
        let tasks = format!("/proc/{}/task", self.process.child.id().unwrap());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        };
        let stopping = async {
            while !std::fs::read_dir(&tasks).unwrap().all(is_stopped) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        patiently("the stop of all threads", stopping).await;
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal(&self.process.child, Signal::CONT);
    }

    /// Waits for its end.
    pub async fn end(self) -> ExitStatus {
        self.process.end().await
    }

    /// Stops it in an orderly way, and wants that it does so.
    pub async fn stop(self) {
        self.terminate();
        let log = self.process.log.clone();
        let status = self.end().await;
        assert_eq!(status.code(), Some(0), "{:#?}", log.borrow());
        let panics: Vec<String> = log.borrow().iter().filter(|line| line.contains("panic")).cloned().collect();
        assert!(panics.is_empty(), "{panics:?}");
    }

    /// `kill -9`.
    pub async fn kill(self) {
        self.process.kill().await;
    }
}

/// The names of the events that end a run.
pub const TERMINAL: [&str; 5] =
    ["background_run_completed", "background_run_failed", "background_run_timeout", "background_run_cancelled", "background_run_skipped"];

/// A run's id.
pub fn id(run: &Value) -> &str {
    run["run_id"].as_str().unwrap_or_else(|| panic!("no run: {run}"))
}

async fn good(request: reqwest::RequestBuilder) -> Value {
    let response = patiently("an answer", request.send()).await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}
