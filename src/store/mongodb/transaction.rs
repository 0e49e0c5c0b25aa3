//! A transaction: what a batch reads, decides and writes between its begin and its commit, and when it is begun anew.
//!
//! Invariant: a transaction that read something is committed even if it writes nothing, which waits until the majority has what it read.

use std::sync::PoisonError;
use std::time::Duration;

use ::mongodb::bson::{Document, doc, serialize_to_raw_document_buf};
use ::mongodb::error::{Error, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use ::mongodb::options::{ReadConcern, ReadPreference, ReturnDocument, SelectionCriteria, TransactionOptions};
use ::mongodb::{ClientSession, Collection};
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::documents::{LeaseDoc, Lists, RecordDoc};
use super::errors::{Trouble, is_met};
use super::pipelines::ORDERS;
use super::{AT_ONCE, MongoStore, STATEMENT, durable};
use crate::clock::{Entropy as _, SystemEntropy};

/// How often a transaction is begun.
const MOST_TRIES: u32 = 60;
/// How often a commit is asked for.
const MOST_COMMITS: u32 = 4;
/// The first pause before a transaction is begun anew, on average half of it.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// How often something meets another before it is looked whether that was left open.
const MET_BEFORE_LOOKING: u32 = 8;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(120);
/// A command takes at most as many statements,
const MOST_STATEMENTS: usize = 2000;
/// of so many bytes; a command of sixteen mebibytes is refused.
const MOST_BYTES: usize = 8 * 1024 * 1024;
/// What a statement has beside a body, at most.
const STATEMENT_BYTES: usize = 4096;

/// What becomes of a document.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Becomes {
    /// This record.
    Record(Box<RecordDoc>),
    /// This lease.
    Lease(Box<LeaseDoc>),
    /// Changed in these fields.
    Changed(Document),
}

/// One of many updates in a command.
#[derive(Serialize)]
pub struct Update {
    /// Which document.
    pub q: Document,
    /// What becomes of it.
    pub u: Becomes,
    /// Whether it is made if there is none.
    pub upsert: bool,
}

impl Update {
    /// An update of the document of that name.
    pub fn of(id: &str, u: Becomes, upsert: bool) -> Update {
        Update { q: doc! { "_id": id }, u, upsert }
    }

    fn bytes(&self) -> usize {
        let body = match &self.u {
            Becomes::Record(record) => record.body.as_ref().map_or(0, |body| body.bytes.len()),
            Becomes::Lease(_) | Becomes::Changed(_) => 0,
        };
        body + STATEMENT_BYTES
    }
}

#[derive(Serialize)]
struct UpdateCommand<'a> {
    update: &'a str,
    updates: Vec<Update>,
    #[serde(rename = "maxTimeMS")]
    max_time_ms: i64,
}

/// What the server answers to writes.
#[derive(Deserialize)]
struct Answer {
    #[serde(default, rename = "writeErrors")]
    write_errors: Vec<WriteError>,
}

#[derive(Deserialize)]
struct WriteError {
    code: i32,
    #[serde(default)]
    errmsg: String,
}

/// How often something was tried.
#[derive(Default)]
pub struct Tries(u32);

impl Tries {
    /// How often it was begun anew.
    pub fn anew(&self) -> u32 {
        self.0
    }

    /// Waits before it is begun anew, and sees to it that it does not meet what nobody will end.
    ///
    /// # Errors
    /// It was tried often enough, and this is why it did not do, or it is no use.
    pub async fn pause(&mut self, store: &MongoStore, trouble: Trouble) -> Result<(), StoreError> {
        let error = match trouble {
            Trouble::Met(error) => error,
            Trouble::Failed(error) => return Err(error),
        };
        self.0 += 1;
        if self.0 >= MOST_TRIES {
            return Err(error);
        }
        if self.0.is_multiple_of(MET_BEFORE_LOOKING) {
            store.end_abandoned().await;
        }
        let most = FIRST_PAUSE.saturating_mul(1 << self.0.min(16)).min(LONGEST_PAUSE);
        tokio::time::sleep(most.mul_f64(SystemEntropy.fraction())).await;
        Ok(())
    }
}

/// A transaction that has begun. One that is dropped is aborted.
pub struct Transaction<'a> {
    store: &'a MongoStore,
    session: ClientSession,
}

/// Notes a session with a commit whose answer never came, however the wait for it ended.
struct Doubt<'a> {
    store: &'a MongoStore,
    session: Option<Document>,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.store.doubtful.lock().unwrap_or_else(PoisonError::into_inner).extend(self.session.take());
    }
}

impl MongoStore {
    /// Begins a transaction. Nothing is sent before its first statement.
    pub async fn begin(&self) -> Result<Transaction<'_>, StoreError> {
        let failed = |error: Error| self.server.failed(&error);
        let mut session = self.client.start_session().await.map_err(failed)?;
        let options = TransactionOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .write_concern(durable())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .max_commit_time(STATEMENT)
            .build();
        session.start_transaction().with_options(options).await.map_err(failed)?;
        Ok(Transaction { store: self, session })
    }

    /// Takes as many orders, outside of any transaction, and answers the last that was taken before.
    pub async fn take_orders(&self, count: i64) -> Result<i64, StoreError> {
        if count == 0 {
            return Ok(0);
        }
        let add = doc! { "$inc": { "n": count } };
        let taken = self.tables.meta.find_one_and_update(doc! { "_id": ORDERS }, add).return_document(ReturnDocument::Before);
        let before = taken.max_time(STATEMENT).await.map_err(|error| self.server.failed(&error))?;
        before.and_then(|before| before.get_i64("n").ok()).ok_or_else(|| self.server.gone())
    }
}

impl Transaction<'_> {
    /// What a transaction begins with.
    pub async fn begin_with(&mut self, pipeline: Vec<Document>) -> Result<Lists, Trouble> {
        let store = self.store;
        let lists: Vec<Lists> = self.find(&store.tables.meta, pipeline).await?;
        lists.into_iter().next().ok_or_else(|| Trouble::Failed(store.server.gone()))
    }

    /// What a pipeline finds in a collection.
    pub async fn find<C, T>(&mut self, table: &Collection<C>, pipeline: Vec<Document>) -> Result<Vec<T>, Trouble>
    where
        C: Send + Sync,
        T: DeserializeOwned + Send + Sync,
    {
        let server = &self.store.server;
        let find = table.aggregate(pipeline).with_type::<T>().max_time(STATEMENT).batch_size(AT_ONCE);
        let mut cursor = find.session(&mut self.session).await.map_err(|error| server.trouble(&error))?;
        cursor.stream(&mut self.session).try_collect().await.map_err(|error| server.trouble(&error))
    }

    /// Updates documents of a collection, with as few commands as they fit in.
    pub async fn update<T: Send + Sync>(&mut self, table: &Collection<T>, updates: Vec<Update>) -> Result<(), Trouble> {
        let mut updates = updates.into_iter().peekable();
        while updates.peek().is_some() {
            let mut room = MOST_BYTES;
            let mut command = UpdateCommand { update: table.name(), updates: Vec::new(), max_time_ms: 8000 };
            while let Some(update) = updates.next_if(|update| command.updates.is_empty() || update.bytes() <= room) {
                room = room.saturating_sub(update.bytes());
                command.updates.push(update);
                if command.updates.len() >= MOST_STATEMENTS {
                    break;
                }
            }
            self.run(&command).await?;
        }
        Ok(())
    }

    async fn run(&mut self, command: &UpdateCommand<'_>) -> Result<(), Trouble> {
        let server = &self.store.server;
        let unwritable =
            |error: ::mongodb::bson::error::Error| StoreError::Invalid(format!("{server}: a document cannot be written: {error}"));
        let command = serialize_to_raw_document_buf(command).map_err(unwritable)?;
        let database = self.store.client.database(&self.store.tables.meta.namespace().db);
        let answer = database.run_raw_command(command).session(&mut self.session).await.map_err(|error| server.trouble(&error))?;
        let answer: Answer = ::mongodb::bson::deserialize_from_document(answer)
            .map_err(|error| StoreError::corrupt(format!("{server} answers what cannot be read: {error}")))?;
        match answer.write_errors.first() {
            None => Ok(()),
            Some(error) if is_met(error.code) => Err(Trouble::Met(server.told(error.code, &error.errmsg))),
            Some(error) => Err(Trouble::Failed(server.told(error.code, &error.errmsg))),
        }
    }

    /// Adds documents to a collection.
    pub async fn insert<T: Serialize + Send + Sync>(&mut self, table: &Collection<T>, documents: Vec<T>) -> Result<(), Trouble> {
        if documents.is_empty() {
            return Ok(());
        }
        let insert = table.insert_many(documents).session(&mut self.session);
        insert.await.map(drop).map_err(|error| self.store.server.trouble(&error))
    }

    /// Deletes documents of a collection.
    pub async fn delete<T: Send + Sync>(&mut self, table: &Collection<T>, filter: Document) -> Result<(), Trouble> {
        let delete = table.delete_many(filter).session(&mut self.session);
        delete.await.map(drop).map_err(|error| self.store.server.trouble(&error))
    }

    /// Ends the transaction: commits what did. What did not is aborted beside what follows, as is whatever is dropped.
    pub async fn end<T>(mut self, done: Result<T, Trouble>) -> Result<T, Trouble> {
        let done = done?;
        self.commit().await?;
        Ok(done)
    }

    /// Gives the transaction up. One whose abort does not arrive is aborted by the server in time.
    pub async fn abort(mut self) {
        if let Err(error) = self.session.abort_transaction().await {
            tracing::debug!(%error, "a transaction could not be aborted");
        }
    }

    async fn commit(&mut self) -> Result<(), Trouble> {
        let store = self.store;
        let mut doubt = Doubt { store, session: Some(self.session.id().clone()) };
        let mut commits = 1;
        loop {
            let error = match self.session.commit_transaction().await {
                Ok(()) => {
                    doubt.session = None;
                    return Ok(());
                }
                Err(error) => error,
            };
            if !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                doubt.session = None;
                return Err(store.server.trouble(&error));
            }
            if commits >= MOST_COMMITS {
                return Err(Trouble::Failed(
                    store.server.unavailable(&format!("it is not known whether a commit was made: {}", error.kind)),
                ));
            }
            commits += 1;
        }
    }
}
