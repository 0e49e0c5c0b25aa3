//! Connections to the server.
//!
//! Invariant: a connection is used again only when a call on it came to its end; one whose call failed or was given up is closed, and
//! with it ends whatever it held on the server.
//!
//! How it fails: a call that takes longer than its bound is [`StoreError::Unavailable`]. Connections that broke while nobody used them
//! are replaced without anybody seeing it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::super::StoreError;
use super::PgQuery;
use super::errors::{Address, Failure};

/// What a pool needs to know of the server.
#[derive(Clone)]
pub struct Server {
    /// How to connect.
    pub options: PgConnectOptions,
    /// What messages call it.
    pub address: Address,
    /// The statements that a new connection begins with.
    pub settings: String,
}

/// Some connections.
pub struct Pool {
    server: Server,
    permits: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
    bound: Duration,
}

/// A connection that a call uses. Dropped, it is closed.
pub struct Lent<'a> {
    connection: PgConnection,
    pool: &'a Pool,
    /// Whether it was made for this call, so that it cannot have broken before.
    is_new: bool,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    /// At most `connections`, made where and when they are needed; each call lasts at most `bound`.
    pub fn new(server: Server, connections: usize, bound: Duration) -> Self {
        Pool { server, permits: Semaphore::new(connections), idle: Mutex::default(), bound }
    }

    /// Waits for a call, but not longer than the bound.
    pub async fn bounded<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.bound, call).await {
            Ok(result) => result.map_err(|failure| self.server.address.failed(failure)),
            Err(_) => {
                self.forget();
                Err(self.server.address.silent(self.bound))
            }
        }
    }

    /// A connection on which these statements were run.
    pub async fn begin(&self, sql: &str) -> Result<Lent<'_>, Failure> {
        loop {
            let mut lent = self.lend().await?;
            match lent.run(sql).await {
                Ok(()) => return Ok(lent),
                Err(failure) if !lent.has_broken_before(&failure) => return Err(failure),
                Err(_) => self.forget(),
            }
        }
    }

    /// Reads what a query finds.
    pub async fn fetch(&self, query: impl Fn() -> PgQuery) -> Result<Vec<PgRow>, Failure> {
        loop {
            let mut lent = self.lend().await?;
            match lent.fetch(query()).await {
                Ok(rows) => {
                    lent.keep();
                    return Ok(rows);
                }
                Err(failure) if !lent.has_broken_before(&failure) => return Err(failure),
                Err(_) => self.forget(),
            }
        }
    }

    async fn lend(&self) -> Result<Lent<'_>, Failure> {
        let permit = self.permits.acquire().await.map_err(|_| Failure::Store(closed()))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let is_new = idle.is_none();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let mut connection = self.server.options.connect().await?;
                connection.execute(AssertSqlSafe(self.server.settings.clone())).await?;
                connection
            }
        };
        Ok(Lent { connection, pool: self, is_new, _permit: permit })
    }

    /// Listens to a channel, on a connection of its own.
    pub async fn listen(&self, channel: &str) -> Result<PgListener, Failure> {
        let one = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.server.options.clone());
        let mut listener = PgListener::connect_with(&one).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    }

    /// Closes the connections that nobody uses: where one has broken the others have too.
    fn forget(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
    }

    /// Closes all connections, and lends none any more.
    pub async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            // A server that does not hear the goodbye finds the connection closed.
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        }
    }
}

impl Lent<'_> {
    /// Runs statements that have no parameters.
    pub async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        self.connection.execute(AssertSqlSafe(sql.to_owned())).await?;
        Ok(())
    }

    /// Reads what a query finds.
    pub async fn fetch(&mut self, query: PgQuery) -> Result<Vec<PgRow>, Failure> {
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// The number of the server's session that answers; asked so that a pooler has nothing to prepare.
    pub async fn session(&mut self) -> Result<i32, Failure> {
        Ok(sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// Gives it back for other calls.
    pub fn keep(self) {
        if !self.pool.permits.is_closed() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.connection);
        }
    }

    fn has_broken_before(&self, failure: &Failure) -> bool {
        !self.is_new && failure.is_broken()
    }
}

/// The store was closed.
pub fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".to_owned())
}
