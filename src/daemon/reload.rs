//! The configuration of a running daemon: when it is read again, and what becomes of it.
//!
//! Invariant: a configuration with a fault changes nothing, and what a running daemon cannot take is named and left as it was at the
//! start. Attempts that run keep what they started with.
//!
//! How it fails: a fault is told once for each reading, and stands in the daemon's status until a reading has none; while the store
//! does not take the tasks all else is in force, tokens among it, and the tasks are applied later.

mod file;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::Signal;

use super::ManagerError;
use super::open::{OpenError, Opened};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, ConfigFault, ConfigFaults, Environment, Loaded, Origin, Server, Settings, changes};
use crate::domain::time::Timestamp;
use file::FileWatch;

/// When to try again what the store did not take.
const AGAIN: Duration = Duration::from_secs(5);
/// How many changed keys a log line names.
const NAMED: usize = 20;

/// How the configuration stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigurationReport {
    /// The file, if there is one.
    pub file: Option<String>,
    /// When it was last read whole and taken.
    pub read_at: Timestamp,
    /// All that is wrong with the file as it is now, if anything; the daemon then goes by what it read before.
    pub faults: Vec<String>,
    /// What takes effect at the next start: each key with what it was, what it is to be, and where both come from.
    pub next_start: Vec<String>,
}

impl ConfigurationReport {
    /// The configuration that a daemon starts with.
    pub fn at_start(loaded: &Loaded) -> Self {
        let file = loaded.file.as_ref().map(|file| file.to_string_lossy().into_owned());
        ConfigurationReport { file, read_at: SystemClock.now(), faults: Vec::new(), next_start: Vec::new() }
    }
}

/// Where the configuration comes from.
pub struct Source {
    /// The file that the command line names, if it does.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Environment,
}

/// Why a configuration was not taken.
enum NotTaken {
    /// It is wrong.
    Faulty(ConfigFaults),
    /// It is in force but for its tasks, which the store did not take.
    Later(ManagerError, ConfigurationReport),
}

/// Why the configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// It may have changed after the daemon read it at its start, before it was watched.
    Start,
    /// Its file has changed.
    Change,
    /// Somebody asks for it, or the store did not take its tasks.
    Signal,
}

/// Follows the configuration of a daemon.
pub struct Follower<'a> {
    opened: &'a Opened,
    source: Source,
    /// What the daemon started with, which decides what waits for the next start.
    started: &'a Loaded,
    now: Loaded,
}

impl<'a> Follower<'a> {
    /// Follows from what the daemon was started with.
    pub fn new(opened: &'a Opened, started: &'a Loaded, source: Source) -> Self {
        Follower { opened, source, started, now: started.clone() }
    }

    /// Reads the configuration again on each SIGHUP, and when its file has changed. What was taken is handed to `took`, for what is set
    /// outside of the daemon.
    pub async fn follow(mut self, mut hangups: Signal, took: impl Fn(&Settings)) -> std::convert::Infallible {
        let file = self.started.file.as_deref().map(ToOwned::to_owned);
        let mut watch = match file {
            Some(file) => Some(FileWatch::new(file).await),
            None => None,
        };
        let mut is_owed = self.turn(Cause::Start, watch.as_mut(), &took).await;
        loop {
            let changed = async {
                match &mut watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let cause = tokio::select! {
                Some(()) = hangups.recv() => Cause::Signal,
                () = changed => Cause::Change,
                () = tokio::time::sleep(AGAIN), if is_owed => Cause::Signal,
            };
            is_owed = self.turn(cause, watch.as_mut(), &took).await;
        }
    }

    /// Reads the configuration once and takes it; answers whether that is to be tried again.
    async fn turn(&mut self, cause: Cause, watch: Option<&mut FileWatch>, took: &impl Fn(&Settings)) -> bool {
        let read = match &watch {
            Some(watch) if cause == Cause::Signal => watch.at_rest(|| self.read()).await,
            _ => self.read().await,
        };
        // What was read while the file changed is read again when it rests.
        if let Some(watch) = watch
            && cause != Cause::Signal
            && !watch.is_as_seen().await
        {
            return false;
        }
        let taken = match read {
            Ok(loaded) => self.take(loaded, cause, took).await,
            Err(faults) => Err(NotTaken::Faulty(faults)),
        };
        let is_owed = matches!(taken, Err(NotTaken::Later(..)));
        if let Err(refused) = taken {
            self.tell_refused(refused);
        }
        is_owed
    }

    async fn read(&self) -> Result<Loaded, ConfigFaults> {
        let (file, env) = (self.source.file.clone(), self.source.env.clone());
        let read = tokio::task::spawn_blocking(move || config::load(file.as_deref(), &env)).await;
        read.unwrap_or_else(|_| {
            let message = "the configuration could not be read, for its reading was given up; read it again with SIGHUP";
            Err(ConfigFaults(vec![fault(message.to_owned())]))
        })
    }

    /// Puts a configuration into force, as far as a running daemon can.
    async fn take(&mut self, mut loaded: Loaded, cause: Cause, took: &impl Fn(&Settings)) -> Result<(), NotTaken> {
        let mut next_start: Vec<String> = changes::waiting(self.started, &loaded).iter().map(ToString::to_string).collect();
        next_start.extend(self.keep_closed(&mut loaded.settings));
        // Tasks and whoever asks for a run must mean the same agent.
        loaded.settings.default_agent.clone_from(&self.started.settings.default_agent);
        // The command line may have switched the worker off.
        loaded.settings.worker.enabled = self.started.settings.worker.enabled;
        let changed: Vec<String> = changes::differences(&self.now, &loaded).into_iter().map(|difference| difference.key).collect();
        let is_same = self.now.settings == loaded.settings;
        let before = self.opened.manager().configuration();
        if is_same && cause != Cause::Signal && before.faults.is_empty() && before.next_start == next_start {
            if cause == Cause::Change {
                let report = ConfigurationReport { read_at: SystemClock.now(), ..(*before).clone() };
                self.opened.manager().note_configuration(report);
            }
            self.now = loaded;
            return Ok(());
        }
        let (tasks, beyond) = self.opened.configure(&loaded).map_err(|error| match error {
            OpenError::Tasks(faults) => NotTaken::Faulty(faults),
            error => NotTaken::Faulty(ConfigFaults(vec![fault(error.to_string())])),
        })?;
        // Whoever takes a token back must not have to wait for the store.
        took(&loaded.settings);
        next_start.extend(beyond);
        let report = ConfigurationReport { next_start, ..ConfigurationReport::at_start(&loaded) };
        if !is_same {
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            let named = changed.iter().filter(|key| changes::is_live(key)).take(NAMED).cloned().collect::<Vec<_>>().join(" ");
            tracing::info!(changed = named, "the configuration was read again and is in force");
        } else if cause == Cause::Signal || !before.faults.is_empty() {
            tracing::info!("the configuration was read again and is as it was");
        }
        if !report.next_start.is_empty() && report.next_start != before.next_start {
            let keys = report.next_start.join("; ");
            tracing::warn!(keys, "of the configuration this takes effect at the next start");
        }
        let applied = self.opened.apply_tasks(tasks, &loaded).await;
        self.now = loaded;
        applied.map_err(|error| NotTaken::Later(error, report.clone()))?;
        self.opened.manager().note_configuration(report);
        Ok(())
    }

    /// A daemon that listens on a public address keeps its tokens, whatever the file says of the addresses to come.
    fn keep_closed(&self, settings: &mut Settings) -> Option<String> {
        let is_public = self.started.settings.server.listen.iter().any(|address| !address.ip().to_canonical().is_loopback());
        let is_open = |server: &Server| server.token.is_none() && server.tokens.is_empty();
        if !is_public || !is_open(&settings.server) || is_open(&self.now.settings.server) {
            return None;
        }
        settings.server.token.clone_from(&self.now.settings.server.token);
        settings.server.tokens.clone_from(&self.now.settings.server.tokens);
        Some("the tokens are kept, for the daemon listens on a public address until then".to_owned())
    }

    fn tell_refused(&self, refused: NotTaken) {
        let manager = self.opened.manager();
        let before = manager.configuration();
        let report = match refused {
            NotTaken::Faulty(faults) => {
                let faults: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
                let told = faults.join("; ");
                tracing::warn!(faults = told, "the configuration is faulty and changes nothing; the daemon goes on as it was");
                ConfigurationReport { faults, ..(*before).clone() }
            }
            NotTaken::Later(error, report) => {
                let faults = vec![format!("the tasks could not be kept, which is tried again: {error}")];
                if faults != before.faults {
                    tracing::warn!(%error, "the configuration is in force but for its tasks, which could not be kept; that is tried again");
                }
                ConfigurationReport { faults, ..report }
            }
        };
        manager.note_configuration(report);
    }
}

fn fault(message: String) -> ConfigFault {
    ConfigFault { origin: Origin::Default, key: None, message }
}
