//! Records as they are: read in one snapshot, whoever goes on writing, and written in pages of one transaction each.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};

use super::super::super::transfer::{EventRow, Page, Picture, Span, Transfer, Whole};
use super::super::super::{Kind, StoreError};
use super::super::rows::number;
use super::super::wholes;
use super::errors::Failure;
use super::pool::Server;
use super::{PgQuery, PostgresStore, columns, statements};

/// How long a page may take.
const BOUND: Duration = Duration::from_secs(60);

/// Begins a snapshot, in which this side may take its time between two pages.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
     SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = '55s'";

/// What the database held when it was begun.
struct PostgresPicture {
    connection: PgConnection,
    server: Server,
}

impl PostgresPicture {
    async fn begin(server: &Server) -> Result<Self, Failure> {
        let mut connection = server.options.connect().await?;
        connection.execute(AssertSqlSafe(server.settings.clone())).await?;
        connection.execute(BEGIN).await?;
        Ok(PostgresPicture { connection, server: server.clone() })
    }

    async fn fetch(&mut self, query: PgQuery) -> Result<Vec<PgRow>, StoreError> {
        let address = &self.server.address;
        match tokio::time::timeout(BOUND, query.fetch_all(&mut self.connection)).await {
            Ok(rows) => rows.map_err(|error| address.failed(Failure::Server(error))),
            Err(_) => Err(address.silent(BOUND)),
        }
    }
}

#[async_trait]
impl Picture for PostgresPicture {
    async fn records(&mut self, kind: Kind, after: i64, limit: usize) -> Result<Vec<Whole>, StoreError> {
        let query = sqlx::query(AssertSqlSafe(wholes::records(kind))).bind(after).bind(number(limit));
        self.fetch(query).await?.iter().map(wholes::whole).collect()
    }

    async fn events(&mut self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError> {
        let query = sqlx::query(statements::SPANS)
            .bind(spans.iter().map(|span| span.run.order).collect::<Vec<_>>())
            .bind(spans.iter().map(|span| number(span.after)).collect::<Vec<_>>())
            .bind(spans.iter().map(|span| number(span.after + span.count)).collect::<Vec<_>>());
        self.fetch(query).await?.iter().map(|row| wholes::event(row, spans)).collect()
    }
}

#[async_trait]
impl Transfer for PostgresStore {
    async fn picture(self: Arc<Self>) -> Result<Box<dyn Picture>, StoreError> {
        let server = self.pool.server().clone();
        let picture = self.pool.bounded(PostgresPicture::begin(&server)).await?;
        Ok(Box::new(picture))
    }

    async fn import(&self, page: &Page) -> Result<(), StoreError> {
        self.pool.bounded(self.import_page(page)).await
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let emptied = async {
            let mut lent = self.pool.begin("BEGIN").await?;
            lent.run("TRUNCATE record, lease, event, count; COMMIT").await?;
            lent.keep();
            Ok(())
        };
        self.pool.bounded(emptied).await
    }
}

impl PostgresStore {
    async fn import_page(&self, page: &Page) -> Result<(), Failure> {
        let writes = page.writes();
        let mut lent = self.pool.begin("BEGIN").await?;
        if let Some(last) = writes.records.iter().map(|row| row.known.order).max() {
            lent.fetch(sqlx::query(statements::ORDERS_ABOVE).bind(last)).await?;
        }
        lent.fetch(columns::write_new(&writes)).await?;
        if page.leases().next().is_some() {
            lent.fetch(columns::leases(page)).await?;
        }
        lent.run("COMMIT").await?;
        lent.keep();
        Ok(())
    }
}
