//! Records as they are: read at one moment, whoever goes on writing, and written by the one writer.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use super::super::super::transfer::{EventRow, Page, Picture, Span, Transfer, Whole};
use super::super::super::{Kind, StoreError};
use super::super::{json, wholes};
use super::statements::{CLEAR, IMPORT, PUT_LEASES, SPANS};
use super::writer::{Work, Writer};
use super::{OpenError, SqliteStore, failed, open};
use crate::store::sql::rows::{Fields as _, number};

/// What the file holds, as of the first that is read.
pub struct SqlitePicture {
    connection: SqliteConnection,
}

impl SqlitePicture {
    async fn begin(options: &SqliteConnectOptions) -> Result<Self, sqlx::Error> {
        let mut connection = options.connect().await?;
        connection.execute("PRAGMA query_only = 1; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -8192; BEGIN").await?;
        Ok(SqlitePicture { connection })
    }

    /// What the file holds now, whether or not a daemon has it open.
    ///
    /// # Errors
    /// It is not there, not a store of this version, or cannot be read.
    pub async fn of_file(path: &Path) -> Result<Self, OpenError> {
        let unusable = |what: String| OpenError::Unusable { path: path.to_owned(), what };
        let path = path.canonicalize().map_err(|error| unusable(error.to_string()))?;
        let inspected = path.clone();
        tokio::task::spawn_blocking(move || open::inspect(&inspected)).await.map_err(|error| unusable(error.to_string()))??;
        let mut picture = SqlitePicture::begin(&open::options(&path)).await.map_err(|error| open::told(&path, &error))?;
        open::check_version(&path, &mut picture.connection).await?;
        Ok(picture)
    }
}

#[async_trait]
impl Picture for SqlitePicture {
    async fn records(&mut self, kind: Kind, after: i64, limit: usize) -> Result<Vec<Whole>, StoreError> {
        let query = sqlx::query(AssertSqlSafe(wholes::records(kind))).bind(after).bind(number(limit));
        let rows = self.connection.fetch_all(query).await.map_err(|error| failed(&error))?;
        rows.iter().map(wholes::whole).collect()
    }

    async fn events(&mut self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError> {
        let wanted = json(spans.iter().map(|span| (span.run.order, span.after, span.after + span.count)))?;
        let rows = self.connection.fetch_all(sqlx::query(SPANS).bind(wanted)).await.map_err(|error| failed(&error))?;
        rows.iter().map(|row| wholes::event(row, spans)).collect()
    }
}

#[async_trait]
impl Transfer for SqliteStore {
    async fn picture(self: Arc<Self>) -> Result<Box<dyn Picture>, StoreError> {
        let picture = SqlitePicture::begin(&self.options).await.map_err(|error| failed(&error))?;
        Ok(Box::new(picture))
    }

    async fn import(&self, page: &Page) -> Result<(), StoreError> {
        let page = page.clone();
        self.ask(|answer| Work::Import(Some(page), answer)).await
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.ask(|answer| Work::Import(None, answer)).await
    }
}

impl Writer {
    /// Writes a page as it is; without one, takes everything out.
    pub async fn import(&mut self, page: Option<Page>) -> Result<(), StoreError> {
        for row in self.fetch(2, sqlx::query(IMPORT)).await? {
            self.check_owner(row.some_number(0)?)?;
        }
        let Some(page) = page else { return self.fetch(5, sqlx::query(CLEAR)).await.map(drop) };
        for (row, held) in page.leases() {
            let from = row.known.heartbeat_at.unwrap_or(held.until);
            let query = sqlx::query(PUT_LEASES)
                .bind(None::<String>)
                .bind(json([row.known.order])?)
                .bind(held.owner.as_str().to_owned())
                .bind(held.owner.daemon().to_owned())
                .bind(held.until.micros())
                .bind(from.micros())
                .bind(held.token.0.to_be_bytes().to_vec());
            self.fetch(1, query).await?;
        }
        self.write_as_it_is(page.writes()).await
    }
}
