//! Looks at the store for whoever runs it: how it stands, what it can lose, who uses it, and which version its schema has.
//!
//! Invariant: a check changes nothing that anybody else sees, and daemons may be at work meanwhile. How it fails: with what keeps the
//! store from being used at all; what only cannot be read or measured is told beside the rest.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::fleet;
use super::open::{OpenError, store};
use crate::clock::{Clock, Entropy as _, SystemClock, SystemEntropy};
use crate::config::StoreSettings;
use crate::store::report::{self, Commits, Fact, Report, Schema, Verdict};
#[cfg(feature = "sqlite")]
use crate::store::sql::sqlite::SqliteStore;
use crate::store::{ChangeId, Store, StoreError};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The store.
    pub store: Report,
    /// How long commits take; none where they could not be measured.
    pub commits: Option<Commits>,
    /// Why they could not.
    pub unmeasured: Option<String>,
    /// The daemons of the store as `GET /background/daemons` has them.
    pub daemons: Vec<Value>,
}

impl Checked {
    /// Whether an acknowledged run cannot be lost, and the store commits.
    pub fn is_good(&self) -> bool {
        self.store.losses().next().is_none() && self.unmeasured.is_none()
    }
}

/// Looks at the store, measures it and asks who uses it.
///
/// # Errors
/// It cannot be had now, or cannot be used.
pub async fn check(settings: &StoreSettings) -> Result<Checked, OpenError> {
    let found = store::look(settings).await?;
    let mut checked = Checked { store: found, commits: None, unmeasured: None, daemons: Vec::new() };
    let is_current = checked.store.schema.is_some_and(Schema::is_current);
    let mut random = [0; 16];
    SystemEntropy.fill(&mut random);
    let first = ChangeId(u128::from_ne_bytes(random));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    match settings {
        StoreSettings::Memory => {}
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite { path } => {
            checked.took(SqliteStore::measure_beside(path, Arc::clone(&clock), first).await);
            if is_current {
                let store = SqliteStore::open_to_read(path, clock).await?;
                checked.is_used_by(&store).await?;
            }
        }
        _ if is_current => {
            let store = store::open_once(settings, &clock).await?;
            checked.took(report::measure(&*store, first).await);
            checked.is_used_by(&*store).await?;
        }
        // Nothing can be written into what is not made yet.
        _ => {}
    }
    Ok(checked)
}

impl Checked {
    fn took<E: std::fmt::Display>(&mut self, measured: Result<Commits, E>) {
        match measured {
            Ok(commits) => self.commits = Some(commits),
            Err(error) => self.unmeasured = Some(error.to_string()),
        }
    }

    async fn is_used_by(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let daemons = fleet::all(store).await;
        store.close().await;
        self.daemons = daemons?;
        Ok(())
    }
}

/// The store as it is, for whoever wants to know its schema's version.
///
/// # Errors
/// It cannot be had now, or cannot be used.
pub async fn look(settings: &StoreSettings) -> Result<Report, OpenError> {
    store::look(settings).await
}

/// Makes the store, or brings its schema forward, as the start of a daemon does.
///
/// # Errors
/// It cannot be had now, or cannot be used; a SQLite store that a daemon has is refused.
pub async fn migrate(settings: &StoreSettings) -> Result<(), OpenError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    store::open_once(settings, &clock).await?.close().await;
    Ok(())
}

/// Tells in the log how the store keeps what is acknowledged: one line when nothing can be lost, a warning for each thing by which it can.
pub async fn tell(settings: StoreSettings) {
    let report = match store::look(&settings).await {
        Ok(report) => report,
        // Whoever works with the store tells of it when it is away.
        Err(error) => return tracing::info!(%error, "the store could not be asked what it can lose; `sandclock store check` does"),
    };
    let Report { address, version, survives, .. } = &report;
    let clock_offset_seconds = report.clock_offset_seconds;
    for Fact { name, value, verdict } in &report.facts {
        match verdict {
            Verdict::Loses(says) => tracing::warn!(store = address, "{name} is {value}: {says}"),
            Verdict::Note(says) | Verdict::Unknown(says) => tracing::debug!(store = address, "{name} is {value}: {says}"),
            Verdict::Fine => {}
        }
    }
    if report.losses().next().is_none() {
        tracing::info!(store = address, version, clock_offset_seconds, "{survives}");
    }
}
