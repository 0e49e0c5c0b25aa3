//! Outgoing HTTP of real guests: what they reach, and everything that they try beyond it.

mod account;
mod configuration;
mod credentials;
mod escapes;
mod leak;
mod limits;
mod models;
mod receipts;
pub mod server;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sandclock::clock::SystemClock;
use sandclock::config::{self, Environment};
use sandclock::daemon::foreground::{Foreground, ForegroundRun};
use sandclock::domain::http::{HttpCall, HttpCalls, Rule};
use sandclock::domain::policy::ErrorKind;
use sandclock::egress::{Account, Gateway, Lookup};
use sandclock::sandbox::{AttemptReport, AttemptSignals, EffectsRefused, Ended, GuestHost, LogEntry, LogStream};

use crate::guest::http::fetch;
use server::Server;

/// A resolver that gives what the test says, each answer once and the last one for ever.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl Names {
    /// The answers for a name, in turn.
    pub fn answers(&self, name: &str, turns: &[&[&str]]) {
        let turns = turns.iter().map(|turn| turn.iter().map(|text| text.parse().unwrap()).collect()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), turns);
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let turns = names.get_mut(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))?;
        Ok(if turns.len() > 1 { turns.remove(0) } else { turns[0].clone() })
    }
}

/// Keeps what a guest shows.
#[derive(Default)]
pub struct Recorder {
    logs: Mutex<Vec<u8>>,
    effects: Mutex<u32>,
    asking: tokio::sync::Notify,
    /// Refuses effects.
    is_lost: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl GuestHost for Recorder {
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        *self.effects.lock().unwrap() += 1;
        if self.is_lost.load(std::sync::atomic::Ordering::SeqCst) { Err(EffectsRefused::LeaseLost) } else { Ok(()) }
    }

    fn report(&self, _: String, _: Option<f64>) {
        self.asking.notify_one();
    }

    fn emit(&self, _: String, _: String) {}

    fn log(&self, _: LogStream, bytes: &[u8]) {
        self.logs.lock().unwrap().extend(bytes);
    }

    fn log_entry(&self, entry: LogEntry) {
        self.logs.lock().unwrap().extend(entry.message.bytes());
    }
}

/// An agent `fetch` with its configuration, ready for attempts.
pub struct Stage {
    foreground: Foreground,
    pub names: Arc<Names>,
    pub host: Arc<Recorder>,
    pub signals: Arc<AttemptSignals>,
    folder: tempfile::TempDir,
}

impl Stage {
    /// With this text in `[agents.fetch.http]`, and what follows it.
    pub async fn new(http: &str) -> Stage {
        Self::with(http, &[]).await
    }

    /// The same with variables of the environment.
    pub async fn with(http: &str, variables: &[(&str, &str)]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("fetch.wasm");
        std::fs::write(&plugin, fetch()).unwrap();
        let paths = format!("[paths]\ndata = {:?}\n", folder.path().join("data"));
        let text = format!("{paths}[agents.fetch.http]\n{http}\n");
        let environment = Environment::of(variables.iter().copied());
        let loaded = config::parse(&text, Path::new("sandclock.toml"), &environment).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        let names = Arc::<Names>::default();
        let gateway = Gateway::with_lookup(tokio::runtime::Handle::current(), Arc::new(SystemClock), Arc::<Names>::clone(&names));
        let foreground = Foreground::load(&plugin, &loaded.settings).await.unwrap().with_gateway(gateway);
        Stage { foreground, names, host: Arc::default(), signals: AttemptSignals::new(), folder }
    }

    /// The same with calls that are charged.
    pub fn charged(self, account: Arc<dyn Account>) -> Stage {
        Stage { foreground: self.foreground.with_account(account), ..self }
    }

    /// Executes an attempt with a query of [`fetch`].
    pub async fn run(&self, query: &str) -> Came {
        let workspace = self.folder.path().join("workspace");
        std::fs::create_dir_all(&workspace).unwrap();
        let run = ForegroundRun {
            agent: None,
            query: query.to_owned(),
            workspace: &workspace,
            timeout: Some(std::time::Duration::from_secs(30)),
            run_id: Foreground::new_run_id(),
        };
        let report = self.foreground.run(run, Arc::<Recorder>::clone(&self.host), Arc::clone(&self.signals)).await;
        Came(report)
    }

    /// What the guest wrote to its output.
    pub fn logs(&self) -> String {
        String::from_utf8(self.host.logs.lock().unwrap().clone()).unwrap()
    }

    /// How often the beginning of an effect was asked to be kept.
    pub fn effects(&self) -> u32 {
        *self.host.effects.lock().unwrap()
    }
}

/// What came of an attempt.
pub struct Came(AttemptReport);

impl Came {
    /// The guest's lines.
    pub fn lines(&self) -> Vec<&str> {
        match &self.0.ended {
            Ended::Completed(text) => text.lines().collect(),
            other => panic!("did not complete: {other:?}"),
        }
    }

    pub fn failure(&self) -> (ErrorKind, &str) {
        match &self.0.ended {
            Ended::Failed { kind, message, .. } => (*kind, message),
            other => panic!("did not fail: {other:?}"),
        }
    }

    pub fn record(&self) -> &HttpCalls {
        &self.0.usage.http
    }

    pub fn calls(&self) -> &[HttpCall] {
        &self.record().calls
    }

    /// What refused each call, if anything did.
    pub fn rules(&self) -> Vec<Option<Rule>> {
        self.calls().iter().map(|call| call.refused.as_ref().map(|refusal| refusal.rule)).collect()
    }
}

/// One request that is shown whole.
pub fn get(authority: &str, path: &str) -> String {
    format!("G h {authority} {path} - - 0 r\n")
}

/// The answer of a guest whose request was refused.
pub const DENIED: &str = "E15";
