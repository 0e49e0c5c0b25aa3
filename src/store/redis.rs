//! The Redis store (Redis 7 and later, Valkey): scripts that verify and write, over records that carry what indexes them.
//!
//! Invariants: every key of a store has its prefix as its hash tag, so that it lies on one server of a cluster; a script writes nothing
//! before it has found that all it was decided by is still so; the indexes are kept by the scripts, from what the record itself says of
//! them; the server's clock, read in the script, judges leases and due times. Renewals have a connection of their own.
//!
//! Durability is the server's: with `appendfsync always` what was acknowledged survives its crash, with `everysec` the last second may
//! be lost. Fences rise all the same: the first connection to a server that has started anew lifts those to come above all before.
//!
//! How it fails: a server at `maxmemory` is [`StoreError::Full`]; one that cannot be reached, loads, is a replica or is too slow is
//! [`StoreError::Unavailable`]. What was asked for when a connection broke may have happened.

mod answer;
mod client;
mod link;
mod report;
mod scripts;
mod wholes;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{Cmd, Value};
use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::Semaphore;

use super::record::unreadable;
use super::report::Report;
use super::server::{ServerClock, at_first};
use super::{
    Change, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Hint, Kind, NumberedEvent, Outcome, Page, PageRequest, Record,
    RecordId, Renewal, Scope, Store, StoreError,
};
use crate::domain::id::{RunId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;
use answer::Fields;
use link::Link;
use scripts::{SCRIPTS, list};

/// Records or leases that one script is asked for.
const MOST: usize = 1000;

/// The largest number of records of one answer.
const MOST_DUE: usize = 10_000;

/// How long the server's present is reckoned from what it told last.
const RECKONED: Duration = Duration::from_secs(10);

/// A store on a Redis server.
pub struct RedisStore {
    clock: ServerClock,
    work: Link,
    reads: Link,
    renewals: Link,
    /// The turns of batches, and of claims.
    applies: Semaphore,
    claims: Semaphore,
    /// What every fence that is given lies above.
    fences_above: AtomicU64,
}

/// A time as scripts take it; nothing for none.
fn instead(time: Option<Timestamp>) -> String {
    time.map(|time| time.micros().to_string()).unwrap_or_default()
}

/// The key that all others of the store of that prefix begin with.
fn key_of(prefix: &str) -> Result<String, StoreError> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':');
    if prefix.is_empty() || prefix.len() > 128 || !prefix.bytes().all(is_fit) {
        return Err(StoreError::Invalid(
            "the prefix of keys in Redis must be 1 to 128 letters, digits, `_`, `.`, `-` and `:`; choose another one".to_owned(),
        ));
    }
    Ok(format!("{{{prefix}}}"))
}

impl RedisStore {
    /// Connects to the store of that prefix, which is made if there is none. Several prefixes on one server are several stores.
    ///
    /// # Errors
    /// The server cannot be reached now; or what no waiting mends: the URL or the prefix is not one, the password is wrong, the server
    /// is older than Redis 7, or a later release has written the store.
    pub async fn connect(url: &str, prefix: &str, clock: ServerClock) -> Result<Self, StoreError> {
        let key = key_of(prefix)?;
        let link = || Link::new(url, &key);
        let store = RedisStore {
            clock,
            work: link()?,
            reads: link()?,
            renewals: link()?,
            applies: Semaphore::new(1),
            claims: Semaphore::new(1),
            fences_above: AtomicU64::new(0),
        };
        store.work.connect().await.map_err(at_first)?;
        Ok(store)
    }

    /// Looks at the server and at the store of that prefix, which is not made where there is none.
    ///
    /// # Errors
    /// As [`RedisStore::connect`].
    pub async fn look(url: &str, prefix: &str) -> Result<Report, StoreError> {
        report::look(&Link::new(url, &key_of(prefix)?)?).await
    }

    /// Reads records by name over that link.
    async fn records(&self, link: &Link, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let mut records = Vec::with_capacity(ids.len());
        for some in ids.chunks(MOST) {
            let mut call = SCRIPTS.get.call(link.key());
            list(&mut call, some.iter().map(RecordId::text));
            let values = answer::list(link.ask(&call).await?)?;
            let before = records.len();
            for value in values {
                records.push(answer::record(value)?);
            }
            records.resize(before + some.len(), None);
        }
        Ok(records)
    }

    /// Reads records of a list, at most [`MOST`] of them.
    async fn some_of(&self, scope: &Scope, page: PageRequest) -> Result<Vec<Record>, StoreError> {
        let (sets, prefix) = sets(scope);
        let mut call = SCRIPTS.page.call(self.reads.key());
        call.arg(page.limit).arg(page.after.map(|after| after.to_string()).unwrap_or_default());
        call.arg(i32::from(page.newest_first)).arg(prefix);
        list(&mut call, sets.iter());
        answer::records(answer::list(self.reads.ask(&call).await?)?)
    }

    async fn renew_some(
        &self,
        worker: &WorkerId,
        leases: &[(RunId, u64)],
        lease: Duration,
        renewed: &mut Vec<Renewal>,
    ) -> Result<(), StoreError> {
        let mut call = SCRIPTS.renew.call(self.renewals.key());
        call.arg(instead(self.clock.instead().map(|at| at.steady))).arg(worker.as_str());
        call.arg(u64::try_from(lease.as_micros()).unwrap_or(u64::MAX));
        list(&mut call, leases.iter().map(|(run, fence)| (RecordId::run(run).text(), *fence)));
        let mut fields = Fields::of(self.renewals.ask(&call).await?)?;
        let until = fields.some_time(0)?;
        self.clock.tell(fields.some_time(2)?);
        renewed.extend(fields.list(1)?.into_iter().map(|value| match value {
            Value::Int(1) => Renewal::Held(until),
            Value::Int(2) => Renewal::CancelRequested(until),
            _ => Renewal::Lost,
        }));
        Ok(())
    }

    fn due_call(&self, what: &DueKind, limit: usize) -> Cmd {
        let mut call = SCRIPTS.due.call(self.reads.key());
        call.arg(instead(self.clock.instead().map(|at| at.of(what))));
        let limit = limit.min(MOST_DUE);
        let set = |kind: Kind, status: &str| format!("d:{}/{status}", kind.as_str());
        let sets = match what {
            DueKind::Ready => {
                call.arg("ready");
                return call;
            }
            DueKind::OlderIncarnations { daemon, current } => {
                call.arg("older").arg(limit).arg(daemon).arg(current.as_str());
                return call;
            }
            DueKind::ExpiredLeases => vec!["leases".to_owned()],
            DueKind::Schedules => vec![set(Kind::Schedule, "")],
            DueKind::Expiries => [Status::AwaitingApproval, Status::AwaitingBudget].map(|status| set(Kind::Run, status.as_str())).to_vec(),
            DueKind::Ended { status, .. } => vec![set(Kind::Run, status.as_str())],
            DueKind::Aged { kind, .. } => vec![set(*kind, "")],
        };
        call.arg("timed").arg(limit).arg(u64::try_from(what.for_at_least().as_micros()).unwrap_or(u64::MAX));
        list(&mut call, sets.iter());
        call
    }
}

/// The sets by order that a list walks as one, and what the names in them must begin with.
fn sets(scope: &Scope) -> (Vec<String>, &'static str) {
    let of_task = |task: &dyn std::fmt::Display, statuses: &mut dyn Iterator<Item = &str>| {
        statuses.map(|status| format!("t:{task}/{status}")).collect::<Vec<_>>()
    };
    let sets = match scope {
        Scope::All(kind) => vec![format!("o:{}", kind.as_str())],
        Scope::TasksOfAgent(agent) => vec![format!("a:{agent}")],
        Scope::Runs { task: None, status: None } => vec![format!("o:{}", Kind::Run.as_str())],
        Scope::Runs { task: None, status: Some(status) } => vec![format!("s:{}", status.as_str())],
        Scope::Runs { task: Some(task), status: Some(status) } => of_task(task, &mut [status.as_str()].into_iter()),
        Scope::Runs { task: Some(task), status: None } => of_task(task, &mut Status::ALL.iter().map(|status| status.as_str()).chain([""])),
        Scope::LiveRunsOfAgent(agent) => vec![format!("l:{agent}")],
        Scope::LiveRunsOfTask(task) => {
            of_task(task, &mut Status::ALL.iter().filter(|status| !status.is_terminal()).map(|status| status.as_str()))
        }
        Scope::Attempts(run) => return (vec![format!("h:{run}")], "attempt/"),
        Scope::BucketsOfAgent(agent) => vec![format!("b:{agent}")],
        Scope::SkipRanges(task) => vec![format!("k:{task}")],
    };
    (sets, "")
}

#[async_trait]
impl Store for RedisStore {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        changes.iter().try_for_each(Change::check)?;
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        self.apply_in_turn(&changes).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        self.claim_in_turn(&request).await
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let mut renewed = Vec::with_capacity(leases.len());
        for some in leases.chunks(MOST) {
            self.renew_some(worker, some, lease, &mut renewed).await?;
        }
        Ok(renewed)
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        let mut fields = Fields::of(self.reads.ask(&self.due_call(&what, limit)).await?)?;
        self.clock.tell(fields.some_time(1)?);
        let records = answer::records(fields.list(3)?)?;
        Ok(Due { records, next: fields.time(2)?, now: fields.some_time(0)? })
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        self.records(&self.reads, ids).await
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        let wanted = page.limit.saturating_add(1);
        let mut records: Vec<Record> = Vec::new();
        let mut after = page.after;
        while records.len() < wanted {
            let limit = (wanted - records.len()).min(MOST);
            let some = self.some_of(&scope, PageRequest { after, limit, ..page }).await?;
            let is_last = some.len() < limit;
            records.extend(some);
            after = records.last().map(|record| record.order);
            if is_last {
                break;
            }
        }
        let more = records.len() > page.limit;
        records.truncate(page.limit);
        let next = records.last().filter(|_| more).map(|record| record.order);
        Ok(Page { records, next })
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        let mut call = ::redis::cmd("HGETALL");
        call.arg(format!("{}:n:{}", self.reads.key(), scope.text()));
        let mut counts = Counts::default();
        let answer = self.reads.ask(&call).await?;
        let pairs: Vec<(String, u64)> = ::redis::FromRedisValue::from_redis_value(answer)
            .map_err(|error: ::redis::ParsingError| StoreError::corrupt(error.to_string()))?;
        for (status, n) in pairs {
            counts.total += n;
            if let Some(status) = Status::parse(&status) {
                counts.by_status.insert(status, n);
            }
        }
        Ok(counts)
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        let Some(last) = u64::try_from(limit).unwrap_or(u64::MAX).checked_sub(1) else { return Ok(Vec::new()) };
        let place = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut call = ::redis::cmd("LRANGE");
        call.arg(format!("{}:e:{}", self.reads.key(), RecordId::run(run).text()));
        call.arg(place(after)).arg(place(after.saturating_add(last)));
        let mut events = Vec::new();
        for (value, sequence) in answer::list(self.reads.ask(&call).await?)?.into_iter().zip(after.saturating_add(1)..) {
            let Value::BulkString(body) = value else { return Err(StoreError::corrupt(format!("event {sequence} of a run is no text"))) };
            let event = serde_json::from_slice(&body).map_err(|error| unreadable(&format!("event {sequence} of a run"), &error))?;
            events.push(NumberedEvent { sequence, event });
        }
        Ok(events)
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        if let Some(now) = self.clock.now_within(RECKONED) {
            return Ok(now);
        }
        let fields = Fields::of(self.reads.ask(&::redis::cmd("TIME")).await?)?;
        let micros = fields.some_number(0)?.saturating_mul(1_000_000).saturating_add(fields.some_number(1)?);
        Ok(self.clock.tell(Timestamp::from_micros(micros)).now)
    }

    async fn tell(&self, hint: &Hint) -> Result<(), StoreError> {
        let mut call = ::redis::cmd("PUBLISH");
        call.arg(self.work.channel()).arg(hint.to_text());
        self.reads.ask(&call).await.map(drop)
    }

    async fn hints(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        self.reads.listen().await
    }

    fn begin_fences_above(&self, fence: u64) {
        self.fences_above.store(fence, Ordering::Relaxed);
    }

    async fn close(&self) {
        [&self.work, &self.reads, &self.renewals].into_iter().for_each(Link::close);
    }
}
