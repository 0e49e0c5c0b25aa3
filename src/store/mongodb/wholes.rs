//! Records as they are. A page is read as the majority has it, and written in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use ::mongodb::bson::{Document, doc};
use async_trait::async_trait;

use super::super::transfer::{EventRow, Held, Page, Picture, Row, Span, StoreRow, Transfer, Whole};
use super::super::{ChangeId, Kind, StoreError};
use super::documents::{EventDoc, LeaseDoc, RecordDoc, number};
use super::errors::Trouble;
use super::pipelines::{KIND, ORDERS, hold};
use super::transaction::{Transaction, Tries};
use super::{MongoStore, bytes, limit, write};
use crate::domain::id::WorkerId;
use crate::domain::time::Timestamp;

/// What the database holds while nobody writes there.
struct MongoPicture(Arc<MongoStore>);

#[async_trait]
impl Picture for MongoPicture {
    async fn records(&mut self, kind: Kind, after: i64, most: usize) -> Result<Vec<Whole>, StoreError> {
        self.0.bounded(self.0.read_wholes(kind, after, most)).await
    }

    async fn events(&mut self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError> {
        self.0.bounded(self.0.read_spans(spans)).await
    }
}

#[async_trait]
impl Transfer for MongoStore {
    async fn picture(self: Arc<Self>) -> Result<Box<dyn Picture>, StoreError> {
        Ok(Box::new(MongoPicture(self)))
    }

    async fn import(&self, page: &Page) -> Result<(), StoreError> {
        self.bounded(self.import_page(page)).await
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let tables = &self.tables;
        self.empty(tables.events.clone_with_type(), doc! {}).await?;
        self.empty(tables.leases.clone_with_type(), doc! {}).await?;
        self.empty(tables.counts.clone_with_type(), doc! {}).await?;
        // What says that the store is half filled goes last.
        self.empty(tables.records.clone_with_type(), doc! { "_id": { "$ne": StoreRow::id().text() } }).await?;
        self.empty(tables.records.clone_with_type(), doc! {}).await
    }
}

impl MongoStore {
    async fn read_wholes(&self, kind: Kind, after: i64, most: usize) -> Result<Vec<Whole>, StoreError> {
        let filter = doc! { "kind": kind.as_str(), "ord": { "$gt": after } };
        let records = self.find(&self.tables.records, filter, doc! { "ord": 1 }, limit(most), Some(KIND)).await?;
        let leased = records.iter().filter(|record| record.is_leased()).map(|record| record.id.clone()).collect();
        let leases = self.by_name(&self.tables.leases, leased).await?;
        let leases: HashMap<&str, &LeaseDoc> = leases.iter().map(|lease| (lease.id.as_str(), lease)).collect();
        records.into_iter().map(|record| whole(record, &leases)).collect()
    }

    async fn read_spans(&self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError> {
        let range = |span: &Span| {
            let at = |sequence: u64| doc! { "run": &*span.run.id.key, "seq": number(sequence) };
            doc! { "_id": { "$gt": at(span.after), "$lte": at(span.after + span.count) } }
        };
        let any = doc! { "$or": spans.iter().map(range).collect::<Vec<Document>>() };
        let mut found: HashMap<String, Vec<EventDoc>> = HashMap::new();
        for event in self.find(&self.tables.events, any, doc! {}, 0, None).await? {
            found.entry(event.id.run.clone()).or_default().push(event);
        }
        let mut events = Vec::new();
        for span in spans {
            let mut of_run = found.remove(&*span.run.id.key).unwrap_or_default();
            of_run.sort_by_key(|event| event.id.seq);
            events.extend(of_run.into_iter().map(|event| EventRow {
                run: span.run.clone(),
                sequence: u64::try_from(event.id.seq).unwrap_or(0),
                body: event.body.bytes,
            }));
        }
        Ok(events)
    }

    async fn import_page(&self, page: &Page) -> Result<(), StoreError> {
        if let Some(last) = page.records.iter().map(|whole| whole.row.known.order).max() {
            let above = self.tables.meta.update_one(doc! { "_id": ORDERS }, doc! { "$max": { "n": last } });
            above.await.map_err(|error| self.server.failed(&error))?;
        }
        let mut tries = Tries::default();
        loop {
            let mut transaction = self.begin().await?;
            let done = self.import_in(&mut transaction, page).await;
            match transaction.end(done).await {
                Ok(()) => return Ok(()),
                Err(trouble) => tries.pause(self, trouble).await?,
            }
        }
    }

    async fn import_in(&self, transaction: &mut Transaction<'_>, page: &Page) -> Result<(), Trouble> {
        let writes = page.writes();
        let leases: Vec<LeaseDoc> = page.leases().map(|(row, held)| lease(row, held)).collect();
        transaction.insert(&self.tables.records, writes.records.into_iter().map(RecordDoc::of).collect()).await?;
        transaction.insert(&self.tables.leases, leases).await?;
        transaction.insert(&self.tables.events, writes.events.into_iter().map(write::event).collect()).await?;
        transaction.update(&self.tables.counts, write::counted(&writes.counts, self.part)).await
    }

    /// Deletes documents of a collection: some at a time, since a statement has a bound in time.
    async fn empty(&self, table: ::mongodb::Collection<Document>, which: Document) -> Result<(), StoreError> {
        const AT_ONCE: i64 = 10_000;
        loop {
            let ids: Vec<Document> = self.find_ids(&table, which.clone(), AT_ONCE).await?;
            if ids.is_empty() {
                return Ok(());
            }
            let ids: Vec<_> = ids.iter().filter_map(|document| document.get("_id").cloned()).collect();
            let deleted = table.delete_many(doc! { "_id": { "$in": ids } });
            self.bounded(async { deleted.await.map_err(|error| self.server.failed(&error)) }).await?;
        }
    }
}

fn whole(record: RecordDoc, leases: &HashMap<&str, &LeaseDoc>) -> Result<Whole, StoreError> {
    let lease = leases.get(record.id.as_str()).copied();
    let known = record.known(lease)?;
    let number_of = |binary: &::mongodb::bson::Binary| <[u8; 16]>::try_from(binary.bytes.as_slice()).ok().map(u128::from_be_bytes);
    let held = lease.filter(|_| known.until.is_some()).and_then(|lease| {
        let owner = WorkerId::parse(&lease.owner).ok()?;
        Some(Held { owner, until: Timestamp::from_micros(lease.until), token: ChangeId(number_of(&lease.token)?) })
    });
    let record = record.record(lease)?;
    let row = Row { id: record.id, known, change: record.change, due: record.due, body: record.body };
    Ok(Whole { row, lease: held })
}

fn lease(row: &Row, held: &Held) -> LeaseDoc {
    let (id, fence) = (row.id.text(), number(row.known.fence));
    LeaseDoc {
        ord: row.known.order,
        fence,
        hold: hold(&id, fence),
        owner: held.owner.as_str().to_owned(),
        daemon: held.owner.daemon().to_owned(),
        until: held.until.micros(),
        heartbeat_at: row.known.heartbeat_at.unwrap_or(held.until).micros(),
        token: bytes(held.token.0.to_be_bytes().to_vec()),
        id,
    }
}
