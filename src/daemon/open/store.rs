//! Opens the store that the settings name.
//!
//! How it fails: a store that cannot be had now is waited for, and told of; one that no waiting mends refuses the start.

use std::sync::Arc;
use std::time::Duration;

use super::OpenError;
use crate::clock::Clock;
use crate::config::StoreSettings;
#[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
use crate::store::ServerClock;
use crate::store::Store;
#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")))]
use crate::store::StoreError;
use crate::store::memory::MemoryStore;
#[cfg(feature = "mongodb")]
use crate::store::mongodb::{MongoOptions, MongoStore};
#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
use crate::store::report::Report;
#[cfg(feature = "postgres")]
use crate::store::sql::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::store::sql::sqlite::SqliteStore;

/// How long a store that cannot be had is let be before it is asked again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// After how many failures in a row it is told again.
const TOLD_EVERY: u32 = 12;

/// Opens the store; one that cannot be had now is waited for.
///
/// # Errors
/// No waiting mends it.
pub async fn open(settings: &StoreSettings, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Store>, OpenError> {
    let mut wait = AGAIN.0;
    let mut failures = 0_u32;
    loop {
        match open_once(settings, clock).await {
            Err(OpenError::Store(error)) if error.is_transient() => {
                if failures.is_multiple_of(TOLD_EVERY) {
                    tracing::warn!(%error, "the store cannot be had yet; the daemon waits for it, and starts when it is there");
                }
                failures = failures.saturating_add(1);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN.1);
            }
            opened => {
                if failures > 0 && opened.is_ok() {
                    tracing::info!("the store is there");
                }
                return opened;
            }
        }
    }
}

/// Opens the store if it can be had now.
///
/// # Errors
/// It cannot.
pub async fn open_once(settings: &StoreSettings, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Store>, OpenError> {
    #[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
    let of_server = || ServerClock::of_server(Arc::clone(clock));
    match settings {
        StoreSettings::Memory => Ok(Arc::new(MemoryStore::new(Arc::clone(clock)))),
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path, Arc::clone(clock)).await?)),
        #[cfg(feature = "postgres")]
        StoreSettings::Postgres { url } => Ok(Arc::new(PostgresStore::connect(url.expose(), of_server()).await?)),
        #[cfg(feature = "redis")]
        StoreSettings::Redis { url, prefix } => Ok(Arc::new(RedisStore::connect(url.expose(), prefix, of_server()).await?)),
        #[cfg(feature = "mongodb")]
        StoreSettings::Mongodb { url, database, prefix } => {
            Ok(Arc::new(MongoStore::connect(url.expose(), &mongo(database.as_ref(), prefix), of_server()).await?))
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")))]
        _ => Err(left_out().into()),
    }
}

/// Looks at the store as it is; none is made where there is none.
///
/// # Errors
/// It cannot be had now, or cannot be used.
pub async fn look(settings: &StoreSettings) -> Result<Report, OpenError> {
    match settings {
        StoreSettings::Memory => Ok(Report::of_memory()),
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite { path } => Ok(SqliteStore::look(path).await?),
        #[cfg(feature = "postgres")]
        StoreSettings::Postgres { url } => Ok(PostgresStore::look(url.expose()).await?),
        #[cfg(feature = "redis")]
        StoreSettings::Redis { url, prefix } => Ok(RedisStore::look(url.expose(), prefix).await?),
        #[cfg(feature = "mongodb")]
        StoreSettings::Mongodb { url, database, prefix } => Ok(MongoStore::look(url.expose(), &mongo(database.as_ref(), prefix)).await?),
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")))]
        _ => Err(left_out().into()),
    }
}

#[cfg(feature = "mongodb")]
fn mongo(database: Option<&String>, prefix: &str) -> MongoOptions {
    MongoOptions { database: database.cloned(), prefix: prefix.to_owned(), ..MongoOptions::default() }
}

#[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")))]
fn left_out() -> StoreError {
    let what = "this sandclock was built without the store that `store.url` names; build it with that store's feature, or choose another";
    StoreError::Invalid(what.to_owned())
}
