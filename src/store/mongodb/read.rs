//! What is read without changing anything.

use std::collections::HashMap;

use ::mongodb::bson::{Document, doc};
use ::mongodb::{Collection, options::Hint};
use futures::TryStreamExt;
use serde::de::DeserializeOwned;

use super::super::record::unreadable;
use super::super::{CountScope, Counts, Due, DueKind, Kind, NumberedEvent, Page, PageRequest, Record, RecordId, Scope, StoreError};
use super::documents::{EventDoc, Found, LeaseDoc, RecordDoc, number, wait_of};
use super::pipelines::{self, PageQuery};
use super::{AT_ONCE, MongoStore, STATEMENT, limit};
use crate::domain::id::RunId;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

impl MongoStore {
    /// What a filter finds, in order, at most so many; all where that is 0.
    pub async fn find<T>(
        &self,
        table: &Collection<T>,
        filter: Document,
        sort: Document,
        most: i64,
        hint: Option<&str>,
    ) -> Result<Vec<T>, StoreError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        let mut find = table.find(filter).sort(sort).limit(most).max_time(STATEMENT).batch_size(AT_ONCE);
        if let Some(index) = hint {
            find = find.hint(Hint::Name(index.to_owned()));
        }
        let cursor = find.await.map_err(|error| self.server.failed(&error))?;
        cursor.try_collect().await.map_err(|error| self.server.failed(&error))
    }

    /// The names of some documents.
    pub async fn find_ids(&self, table: &Collection<Document>, which: Document, most: i64) -> Result<Vec<Document>, StoreError> {
        let find = table.find(which).projection(doc! { "_id": 1 }).limit(most).max_time(STATEMENT).batch_size(AT_ONCE);
        let cursor = find.await.map_err(|error| self.server.failed(&error))?;
        cursor.try_collect().await.map_err(|error| self.server.failed(&error))
    }

    async fn aggregate(&self, meta: &Collection<Document>, pipeline: Vec<Document>) -> Result<Vec<Found>, StoreError> {
        let read = meta.aggregate(pipeline).with_type::<Found>().max_time(STATEMENT).batch_size(AT_ONCE);
        let cursor = read.await.map_err(|error| self.server.failed(&error))?;
        cursor.try_collect().await.map_err(|error| self.server.failed(&error))
    }

    /// The documents of these names, in any order.
    pub async fn by_name<T>(&self, table: &Collection<T>, ids: Vec<String>) -> Result<Vec<T>, StoreError>
    where
        T: DeserializeOwned + Send + Sync + Unpin,
    {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.find(table, doc! { "_id": { "$in": ids } }, doc! {}, 0, None).await
    }

    /// Reads records by name.
    pub async fn read_records(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let names: Vec<String> = ids.iter().map(RecordId::text).collect();
        let runs = ids.iter().filter(|id| id.kind == Kind::Run).map(RecordId::text).collect();
        let (records, leases) = tokio::join!(self.by_name(&self.tables.records, names.clone()), self.by_name(&self.tables.leases, runs));
        let leases: HashMap<String, LeaseDoc> = leases?.into_iter().map(|lease| (lease.id.clone(), lease)).collect();
        let mut found = HashMap::new();
        for record in records? {
            let lease = leases.get(&record.id);
            found.insert(record.id.clone(), record.record(lease)?);
        }
        Ok(names.iter().map(|name| found.get(name).cloned()).collect())
    }

    /// Gives records their leases.
    async fn with_leases(&self, records: Vec<RecordDoc>) -> Result<Vec<Record>, StoreError> {
        let leased = records.iter().filter(|record| record.is_leased()).map(|record| record.id.clone()).collect();
        let leases: HashMap<String, LeaseDoc> =
            self.by_name(&self.tables.leases, leased).await?.into_iter().map(|lease| (lease.id.clone(), lease)).collect();
        let with = |record: RecordDoc| {
            let lease = leases.get(&record.id);
            record.record(lease)
        };
        records.into_iter().map(with).collect()
    }

    /// The runs of leases, in their order; those that have lost theirs meanwhile are left out.
    async fn runs_of(&self, leases: Vec<LeaseDoc>) -> Result<Vec<Record>, StoreError> {
        let records = self.by_name(&self.tables.records, leases.iter().map(|lease| lease.id.clone()).collect()).await?;
        let mut records: HashMap<String, RecordDoc> = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        let mut runs = Vec::with_capacity(leases.len());
        for lease in &leases {
            if let Some(record) = records.remove(&lease.id) {
                runs.push(record.record(Some(lease))?);
            }
        }
        runs.retain(|run| run.lease.as_ref().is_some_and(|lease| lease.until.is_some()));
        Ok(runs)
    }

    /// Reads a page.
    pub async fn read_page(&self, scope: &Scope, page: PageRequest) -> Result<Page, StoreError> {
        if page.limit == 0 {
            return Ok(Page::default());
        }
        let PageQuery { filter, index, sort } = PageQuery::new(scope, page);
        let mut records = self.find(&self.tables.records, filter, sort, limit(page.limit.saturating_add(1)), Some(index)).await?;
        let more = records.len() > page.limit;
        records.truncate(page.limit);
        let next = records.last().filter(|_| more).map(|record| record.ord);
        Ok(Page { records: self.with_leases(records).await?, next })
    }

    /// Reads counts.
    pub async fn read_counts(&self, scope: &CountScope) -> Result<Counts, StoreError> {
        let mut by_status: HashMap<String, i64> = HashMap::new();
        for count in self.by_name(&self.tables.counts, pipelines::count_ids(scope)).await? {
            count.n.into_iter().for_each(|(status, n)| *by_status.entry(status).or_default() += n);
        }
        let mut counts = Counts::default();
        for (status, n) in by_status {
            let n = u64::try_from(n).unwrap_or(0);
            counts.total += n;
            if let Some(status) = Status::parse(&status).filter(|_| n > 0) {
                counts.by_status.insert(status, n);
            }
        }
        Ok(counts)
    }

    /// Reads a run's events.
    pub async fn read_events(&self, run: &RunId, after: u64, most: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let filter = pipelines::events_filter(run, number(after));
        let read = self.find(&self.tables.events, filter, doc! { "_id": 1 }, limit(most), None).await?;
        read.into_iter().map(|event| numbered(&event)).collect()
    }

    /// Asks the server for its present.
    pub async fn read_now(&self) -> Result<Timestamp, StoreError> {
        let found = self.aggregate(&self.tables.meta_now, pipelines::with_present()).await?;
        Ok(self.tell(found.iter().find_map(|found| found.now))?.now)
    }

    /// Reads what is due.
    pub async fn read_due(&self, what: &DueKind, most: usize) -> Result<Due, StoreError> {
        match what {
            DueKind::Ready => self.next_ready().await,
            DueKind::ExpiredLeases => self.expired(most).await,
            DueKind::OlderIncarnations { daemon, current } => {
                let now = self.read_now().await?;
                let filter = doc! { "daemon": daemon, "owner": { "$ne": current.as_str() } };
                let leases = self.find(&self.tables.leases, filter, doc! { "until": 1, "ord": 1 }, limit(most), None).await?;
                let mut records = self.runs_of(leases).await?;
                records.truncate(most);
                Ok(Due { records, next: None, now })
            }
            DueKind::Schedules => self.waiting(what, &[wait_of(Kind::Schedule, None)], most).await,
            DueKind::Expiries => {
                let parked = [Status::AwaitingApproval, Status::AwaitingBudget].map(|status| wait_of(Kind::Run, Some(status)));
                self.waiting(what, &parked, most).await
            }
            DueKind::Ended { status, .. } => self.waiting(what, &[wait_of(Kind::Run, Some(*status))], most).await,
            DueKind::Aged { kind, .. } => self.waiting(what, &[wait_of(*kind, None)], most).await,
        }
    }

    /// When the next ready run is due.
    async fn next_ready(&self) -> Result<Due, StoreError> {
        let now = self.read_now().await?;
        let filter = doc! { "ready": true, "due": { "$gt": now.micros() } };
        let next = self.find(&self.tables.records, filter, doc! { "due": 1 }, 1, Some(pipelines::READY_DUE)).await?;
        Ok(Due { records: Vec::new(), next: next.first().and_then(due_of), now })
    }

    /// The leases that have passed, as the primary has them: a renewal that is on its way counts.
    async fn expired(&self, most: usize) -> Result<Due, StoreError> {
        let found = self.aggregate(&self.tables.meta_now, self.expired_pipeline(most)).await?;
        let now = self.tell(found.iter().find_map(|found| found.now))?.of(&DueKind::ExpiredLeases);
        let mut leases: Vec<LeaseDoc> = found.into_iter().filter_map(|found| found.lease).collect();
        let next = match leases.iter().map(|lease| lease.until).find(|until| *until > now.micros()) {
            None if leases.len() > most => {
                let filter = doc! { "until": { "$gt": now.micros() } };
                self.find(&self.tables.leases, filter, doc! { "until": 1 }, 1, None).await?.first().map(|lease| lease.until)
            }
            next => next,
        };
        leases.retain(|lease| lease.until <= now.micros());
        leases.truncate(most);
        Ok(Due { records: self.runs_of(leases).await?, next: next.map(Timestamp::from_micros), now })
    }

    /// What has waited for long enough.
    async fn waiting(&self, what: &DueKind, waits: &[String], most: usize) -> Result<Due, StoreError> {
        let found = self.aggregate(&self.tables.meta, self.wait_pipeline(waits, most)).await?;
        let now = self.tell(found.iter().find_map(|found| found.now))?.of(what);
        let until = now - what.for_at_least();
        let mut records: Vec<RecordDoc> = found.into_iter().filter_map(|found| found.record).collect();
        let next = match records.iter().filter_map(due_of).find(|due| *due > until) {
            None if records.len() > most => {
                let filter = doc! { "wait": { "$in": waits.to_vec() }, "due": { "$gt": until.micros() } };
                self.find(&self.tables.records, filter, doc! { "due": 1, "ord": 1 }, 1, Some(pipelines::WAIT))
                    .await?
                    .first()
                    .and_then(due_of)
            }
            next => next,
        };
        records.retain(|record| due_of(record).is_some_and(|due| due <= until));
        records.truncate(most);
        let next = next.map(|next| next + what.for_at_least());
        Ok(Due { records: self.with_leases(records).await?, next, now })
    }
}

fn due_of(record: &RecordDoc) -> Option<Timestamp> {
    record.due.map(Timestamp::from_micros)
}

fn numbered(event: &EventDoc) -> Result<NumberedEvent, StoreError> {
    let sequence = u64::try_from(event.id.seq).unwrap_or(0);
    let read = serde_json::from_slice(&event.body.bytes).map_err(|error| unreadable(&format!("event {sequence} of a run"), &error))?;
    Ok(NumberedEvent { sequence, event: read })
}
