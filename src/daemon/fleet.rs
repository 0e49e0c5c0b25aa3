//! The daemons of a store: each keeps a record of itself, so that whoever asks one of them sees them all.
//!
//! Invariant: the record's due time is the daemon's last sign of life, by the store's clock. How it fails: a daemon whose record cannot
//! be written works on, and looks silent to the others.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::error::ManagerError;
use super::inner::Inner;
use super::outage::tell_unless_out;
use super::transitions::Step;
use super::txn::{Entity, Txn};
use crate::domain::id::{AgentId, WorkerId};
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, PageRequest, Record, RecordId, Scope, Store, StoreError, When};

/// A daemon that gave no sign of life for so many of its own periods is silent.
const PERIODS: u32 = 3;
/// How long the record of a silent daemon is kept.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a stop waits for the record's removal.
const FAREWELL: Duration = Duration::from_secs(2);
/// The most daemons that are shown.
const SHOWN: usize = 1000;

/// An agent that a daemon executes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Offered {
    agent_id: AgentId,
    digest: String,
}

/// What a daemon says of itself. What a later release adds is not read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct DaemonRow {
    worker_id: WorkerId,
    version: String,
    host: Option<String>,
    started_at: Timestamp,
    executes: bool,
    max_running: usize,
    running: usize,
    period_seconds: f64,
    agents: Vec<Offered>,
}

impl Entity for DaemonRow {
    const KIND: Kind = Kind::Daemon;

    fn index(&self, _now: Timestamp) -> Index {
        Index { due: Some(When::In(Duration::ZERO)), ..Index::default() }
    }
}

fn id_of(worker: &WorkerId) -> RecordId {
    RecordId::new(Kind::Daemon, worker.daemon())
}

/// Gives signs of life until it is told to stop, and takes the record away then.
pub async fn announce(inner: Arc<Inner>, period: Duration, stop: CancellationToken) {
    let started_at = inner.store.now().await.unwrap_or_else(|_| inner.clock.now());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    loop {
        let row = row_of(&inner, period, started_at, host.as_deref());
        if let Err(error) = write(&inner, Some(row)).await {
            tell_unless_out!(error, warn, %error, "the daemon's sign of life could not be written; it is tried again");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(period) => {}
        }
    }
    let removed = tokio::time::timeout(FAREWELL, write(&inner, None)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::debug!("the daemon's record could not be removed; it shows as silent for a while");
    }
}

fn row_of(inner: &Inner, period: Duration, started_at: Timestamp, host: Option<&str>) -> DaemonRow {
    let offer = inner.executor.offer();
    let offered =
        |offered: &super::executor::Offered| Offered { agent_id: offered.claim.agent.clone(), digest: offered.claim.digest.clone() };
    DaemonRow {
        worker_id: inner.settings().worker.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host.map(str::to_owned),
        started_at,
        executes: inner.settings().executes,
        max_running: inner.settings().max_running,
        running: inner.live.len(),
        period_seconds: period.as_secs_f64(),
        agents: offer.iter().map(offered).collect(),
    }
}

/// Writes the record, or takes it away unless a later incarnation has written it.
async fn write(inner: &Inner, row: Option<DaemonRow>) -> Result<(), ManagerError> {
    let worker = inner.settings().worker.clone();
    let id = id_of(&worker);
    let decide = move |txn: &mut Txn<'_>| -> Step<()> {
        let before = txn.get::<DaemonRow, _>(&id)?;
        match &row {
            Some(row) => txn.put(id.clone(), Arc::new(row.clone()))?,
            None if before.is_some_and(|before| before.worker_id == worker) => txn.delete(id.clone()),
            None => {}
        }
        Ok(())
    };
    inner.committer.commit(Vec::new(), Vec::new(), decide).await.map_err(ManagerError::from)
}

/// Every daemon of the store as the API shows it, by their ids.
pub(super) async fn all(store: &dyn Store) -> Result<Vec<Value>, StoreError> {
    let listed = store.list(Scope::All(Kind::Daemon), PageRequest::first(SHOWN)).await?;
    let now = store.now().await?;
    let mut daemons: Vec<(String, Value)> =
        listed.records.iter().filter_map(|record| Some((record.id.key.to_string(), shown(record, now)?))).collect();
    daemons.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(daemons.into_iter().map(|(_, daemon)| daemon).collect())
}

fn shown(record: &Record, now: Timestamp) -> Option<Value> {
    let row: DaemonRow = record.decode().ok()?;
    let seen = record.due?;
    let silent_for = now.since(seen);
    let period = Duration::try_from_secs_f64(row.period_seconds).unwrap_or_default();
    let is_silent = silent_for > period * PERIODS;
    Some(json!({
        "daemon_id": &*record.id.key,
        "worker_id": row.worker_id,
        "state": if is_silent { "silent" } else { "alive" },
        "last_seen_at": seen,
        "version": row.version,
        "host": row.host,
        "started_at": row.started_at,
        "executes": row.executes,
        "max_running": row.max_running,
        "running": row.running,
        "agents": row.agents,
    }))
}

/// The daemons that have given a sign of life of late, each in words.
pub(super) async fn alive(store: &dyn Store) -> Result<Vec<String>, StoreError> {
    let listed = store.list(Scope::All(Kind::Daemon), PageRequest::first(SHOWN)).await?;
    let now = store.now().await?;
    let alive = |record: &Record| {
        let (row, seen) = (record.decode::<DaemonRow>().ok()?, record.due?);
        let silent_for = now.since(seen);
        let period = Duration::try_from_secs_f64(row.period_seconds).unwrap_or_default();
        let host = row.host.map(|host| format!(" on {host}")).unwrap_or_default();
        (silent_for <= period * PERIODS).then(|| format!("{}{host}, last seen {} s ago", record.id.key, silent_for.as_secs()))
    };
    Ok(listed.records.iter().filter_map(alive).collect())
}
