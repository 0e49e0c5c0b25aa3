//! Applying changes, and renewing leases.
//!
//! A batch of changes reads once, writes once per collection, and commits: three to eight round trips whatever its size. Orders for
//! records that are new are taken while it reads.
//!
//! A renewal is an update and a read, whatever the number of leases.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ::mongodb::bson::{Bson, Document, doc};
use futures::TryStreamExt;

use super::super::batch::{Batch, EventRow, Writes};
use super::super::request::Times;
use super::super::{Change, ChangeId, Guard, Kind, Outcome, RecordId, Renewal, StoreError};
use super::documents::{EventDoc, EventId, LeaseDoc, RecordDoc, RenewedDoc, number};
use super::errors::Trouble;
use super::pipelines::{self, PARTS, hold};
use super::transaction::{Becomes, Transaction, Tries, Update};
use super::{AT_ONCE, MongoStore, STATEMENT, bytes};
use crate::domain::id::{RunId, WorkerId};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// Whose leases a batch takes.
pub struct Holder<'a> {
    /// The worker.
    pub worker: &'a WorkerId,
    /// The wish that it is given to.
    pub token: ChangeId,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// What a batch writes beside what was put.
#[derive(Default)]
pub struct Beside<'a> {
    /// Records that were relied on: whoever else changes them must not commit beside this.
    pub guarded: HashSet<RecordId>,
    /// Names that were relied on to be free.
    pub free: HashSet<RecordId>,
    /// Agents with a limit whose runs are claimed.
    pub limited: Vec<String>,
    /// Whose the leases are.
    pub holder: Option<Holder<'a>>,
}

impl MongoStore {
    /// Applies changes.
    pub async fn apply_all(&self, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let _turn = self.applying.acquire().await.map_err(|_| self.server.unavailable("it has been closed"))?;
        let mut tries = Tries::default();
        let mut orders = Orders::default();
        loop {
            let mut transaction = self.begin().await?;
            let done = self.apply_in(&mut transaction, changes, &mut orders).await;
            match transaction.end(done).await {
                Ok(outcomes) => return Ok(outcomes),
                Err(trouble) => tries.pause(self, trouble).await?,
            }
        }
    }

    async fn apply_in(&self, transaction: &mut Transaction<'_>, changes: &[Change], orders: &mut Orders) -> Result<Vec<Outcome>, Trouble> {
        let mut batch = Batch::new(0);
        changes.iter().for_each(|change| batch.want_change(change));
        let (taken, read) = tokio::join!(orders.take(self, surely_new(changes)), self.load(transaction, &mut batch));
        let at = read?;
        taken?;
        orders.take(self, perhaps_new(&batch, changes)).await?;
        batch.begin_above(orders.last);
        let mut beside = Beside::default();
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            let outcome = batch.decide(change.clone(), at)?;
            if outcome == Outcome::Applied {
                change.guards.iter().for_each(|guard| beside.rely_on(guard));
            }
            outcomes.push(outcome);
        }
        self.write(transaction, batch.writes(), 0, beside).await?;
        Ok(outcomes)
    }

    /// Reads what a batch needs to know.
    pub(in crate::store) async fn load(&self, transaction: &mut Transaction<'_>, batch: &mut Batch) -> Result<Times, Trouble> {
        let wanted = batch.wanted().iter().map(RecordId::text).collect();
        let hanging = batch.wanted_hanging().map(str::to_owned).collect();
        let lists = transaction.begin_with(self.load_pipeline(wanted, hanging)).await?;
        let at = self.tell(Some(lists.now))?;
        let leases: HashMap<&str, &LeaseDoc> = lists.leases.iter().map(|lease| (lease.id.as_str(), lease)).collect();
        for record in lists.records.iter().chain(&lists.hanging) {
            batch.learn(record.record_id()?, record.known(leases.get(record.id.as_str()).copied())?);
        }
        Ok(at)
    }

    /// Writes a batch. Changes and claims of one daemon have parts of the counts of their own, told apart by `side`.
    pub async fn write(&self, transaction: &mut Transaction<'_>, writes: Writes, side: u32, beside: Beside<'_>) -> Result<(), Trouble> {
        let tables = &self.tables;
        let Writes { deleted, unleased, records, settled, events, leased, counts, .. } = writes;
        let gone: Vec<String> = deleted.iter().map(|named| named.id.text()).collect();
        let gone_runs: Vec<String> =
            deleted.iter().filter(|named| named.id.kind == Kind::Run).map(|named| named.id.key.to_string()).collect();
        let of_gone = deleted.iter().filter(|named| named.id.kind == Kind::Run);
        let taken: Vec<String> = of_gone.chain(&unleased).map(|named| named.id.text()).collect();
        if !gone.is_empty() {
            transaction.delete(&tables.records, doc! { "_id": { "$in": gone } }).await?;
        }
        let put: HashSet<RecordId> = records.iter().chain(&settled).map(|row| row.id.clone()).collect();
        let deleted: HashSet<RecordId> = deleted.into_iter().map(|named| named.id).collect();
        let free: Vec<String> = beside.free.iter().filter(|id| !put.contains(id)).map(RecordId::text).collect();
        let touched = touches(beside.guarded, &events, |id| put.contains(id) || deleted.contains(id));
        let rows: Vec<RecordDoc> = records.into_iter().chain(settled).map(RecordDoc::of).collect();
        let leases = leases_of(&rows, &leased.iter().map(|named| named.order).collect(), beside.holder);
        let held = free.iter().map(|id| Update::of(id, Becomes::Changed(doc! { "$set": { "touched": 1 } }), true));
        let mut updates: Vec<Update> = touched.into_iter().chain(held).collect();
        updates.extend(rows.into_iter().map(|row| Update { q: doc! { "_id": &row.id }, u: Becomes::Record(Box::new(row)), upsert: true }));
        transaction.update(&tables.records, updates).await?;
        if !free.is_empty() {
            transaction.delete(&tables.records, doc! { "_id": { "$in": free } }).await?;
        }
        if !taken.is_empty() {
            transaction.delete(&tables.leases, doc! { "_id": { "$in": taken } }).await?;
        }
        transaction.update(&tables.leases, leases).await?;
        if !gone_runs.is_empty() {
            transaction.delete(&tables.events, pipelines::events_of(&gone_runs)).await?;
        }
        transaction.insert(&tables.events, events.into_iter().map(event).collect()).await?;
        let part = (self.part + side) % PARTS;
        let mut updates = counted(&counts, part);
        updates.extend(beside.limited.iter().map(|agent| {
            let touch = Becomes::Changed(doc! { "$inc": { "touched": 1_i64 } });
            Update::of(&pipelines::claims_id(agent), touch, true)
        }));
        transaction.update(&tables.counts, updates).await
    }

    /// Renews leases.
    pub async fn renew_all(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let at = self.clock.instead().map(|times| times.steady);
        let micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let names: Vec<(String, i64)> = leases.iter().map(|(run, fence)| (RecordId::run(run).text(), number(*fence))).collect();
        let runs: Vec<String> = names.iter().map(|(run, _)| run.clone()).collect();
        let holds = names.iter().map(|(run, fence)| hold(run, *fence)).collect();
        let filter = pipelines::held_filter(runs.clone(), holds, worker.as_str(), at);
        let mut tries = Tries::default();
        let renewed = self.renewed()?;
        while let Err(error) = renewed.update_many(filter.clone(), pipelines::renewal(at, micros)).await {
            // To renew twice is to renew.
            tries.pause(self, self.server.trouble(&error)).await?;
        }
        let read = renewed.aggregate(self.renewed_pipeline(runs, worker.as_str())).with_type::<RenewedDoc>();
        let read = read.max_time(STATEMENT).batch_size(AT_ONCE).await.map_err(|error| self.server.failed(&error))?;
        let read: Vec<RenewedDoc> = read.try_collect().await.map_err(|error| self.server.failed(&error))?;
        let held: HashMap<(&str, i64), &RenewedDoc> =
            read.iter().filter(|lease| lease.until > lease.now).map(|lease| ((lease.id.as_str(), lease.fence), lease)).collect();
        let answer = |(run, fence): &(String, i64)| match held.get(&(run.as_str(), *fence)) {
            None => Renewal::Lost,
            Some(lease) if lease.cancel.contains(&true) => Renewal::CancelRequested(Timestamp::from_micros(lease.until)),
            Some(lease) => Renewal::Held(Timestamp::from_micros(lease.until)),
        };
        Ok(names.iter().map(answer).collect())
    }
}

impl Beside<'_> {
    fn rely_on(&mut self, guard: &Guard) {
        match guard {
            Guard::Rev(id, _) => self.guarded.insert(id.clone()),
            Guard::Held(run, _) => self.guarded.insert(RecordId::run(run)),
            Guard::Absent(id) => self.free.insert(id.clone()),
        };
    }
}

/// Orders that were taken for a batch. They serve it however often it is begun anew.
#[derive(Default)]
struct Orders {
    /// The last that somebody else has.
    last: i64,
    count: i64,
}

impl Orders {
    /// Sees to it that there are as many.
    async fn take(&mut self, store: &MongoStore, count: i64) -> Result<(), StoreError> {
        if count > self.count {
            self.last = store.take_orders(count).await?;
            self.count = count;
        }
        Ok(())
    }
}

/// How many records will be new if the changes are applied.
fn surely_new(changes: &[Change]) -> i64 {
    let of = |change: &Change| {
        let absent = |id: &RecordId| change.guards.iter().any(|guard| matches!(guard, Guard::Absent(free) if free == id));
        change.puts.iter().filter(|put| absent(&put.id)).count()
    };
    i64::try_from(changes.iter().map(of).sum::<usize>()).unwrap_or(i64::MAX)
}

/// How many records may be new at most.
fn perhaps_new(batch: &Batch, changes: &[Change]) -> i64 {
    let deletes = changes.iter().any(|change| !change.deletes.is_empty());
    let puts = changes.iter().flat_map(|change| &change.puts);
    i64::try_from(puts.filter(|put| deletes || batch.known(&put.id).is_none()).count()).unwrap_or(i64::MAX)
}

/// What keeps others from changing the records that were relied on, and notes the last events of runs that are not put.
fn touches(guarded: HashSet<RecordId>, events: &[EventRow], is_written: impl Fn(&RecordId) -> bool) -> Vec<Update> {
    let mut touched: HashMap<RecordId, Option<u64>> = guarded.into_iter().map(|id| (id, None)).collect();
    for event in events {
        let last = touched.entry(event.run.id.clone()).or_default();
        *last = (*last).max(Some(event.sequence));
    }
    touched.retain(|id, _| !is_written(id));
    let touch = |(id, last): (RecordId, Option<u64>)| {
        let mut change = doc! { "$inc": { "touched": 1_i64 } };
        if let Some(last) = last {
            change.insert("$set", doc! { "last_event": number(last) });
        }
        Update::of(&id.text(), Becomes::Changed(change), false)
    };
    touched.into_iter().map(touch).collect()
}

/// The leases of the runs with these orders.
fn leases_of(rows: &[RecordDoc], leased: &HashSet<i64>, holder: Option<Holder<'_>>) -> Vec<Update> {
    let Some(holder) = holder else { return Vec::new() };
    let lease = |row: &RecordDoc| LeaseDoc {
        id: row.id.clone(),
        ord: row.ord,
        fence: row.fence,
        hold: hold(&row.id, row.fence),
        owner: holder.worker.as_str().to_owned(),
        daemon: holder.worker.daemon().to_owned(),
        until: holder.until.micros(),
        heartbeat_at: holder.from.micros(),
        token: bytes(holder.token.0.to_be_bytes().to_vec()),
    };
    let leases = rows.iter().filter(|row| leased.contains(&row.ord)).map(lease);
    leases.map(|lease| Update { q: doc! { "_id": &lease.id }, u: Becomes::Lease(Box::new(lease)), upsert: true }).collect()
}

/// The document of an event.
pub fn event(row: EventRow) -> EventDoc {
    EventDoc { id: EventId { run: row.run.id.key.to_string(), seq: number(row.sequence) }, body: bytes(row.body) }
}

/// Changes counts, one document a scope.
pub fn counted(counts: &[super::super::batch::Delta], part: u32) -> Vec<Update> {
    let mut by_scope: HashMap<String, Document> = HashMap::new();
    for (scope, status, by) in counts {
        let field = format!("n.{}", status.map_or("none", Status::as_str));
        by_scope.entry(pipelines::count_id(scope, part)).or_default().insert(field, Bson::Int64(*by));
    }
    by_scope.into_iter().map(|(id, add)| Update::of(&id, Becomes::Changed(doc! { "$inc": add }), true)).collect()
}
