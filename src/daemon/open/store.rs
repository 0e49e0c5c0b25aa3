//! Opens the store that the settings name.
//!
//! How it fails: a store that cannot be had now is waited for, and told of; one that no waiting mends refuses the start.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::OpenError;
use crate::clock::Clock;
use crate::config::StoreSettings;
#[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
use crate::store::ServerClock;
use crate::store::memory::MemoryStore;
#[cfg(feature = "mongodb")]
use crate::store::mongodb::{MongoOptions, MongoStore};
#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
#[cfg(feature = "postgres")]
use crate::store::sql::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::store::sql::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// How long a store that cannot be had is let be before it is asked again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// After how many failures in a row it is told again.
const TOLD_EVERY: u32 = 12;

/// Opens the store; one behind a network is waited for.
///
/// # Errors
/// No waiting mends it.
pub async fn open(settings: &StoreSettings, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Store>, OpenError> {
    match settings {
        StoreSettings::Memory => Ok(Arc::new(MemoryStore::new(Arc::clone(clock)))),
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path, Arc::clone(clock)).await?)),
        #[cfg(feature = "postgres")]
        StoreSettings::Postgres { url } => {
            let connect = async || PostgresStore::connect(url.expose(), ServerClock::of_server(Arc::clone(clock))).await;
            Ok(Arc::new(patiently(url, connect).await?))
        }
        #[cfg(feature = "redis")]
        StoreSettings::Redis { url, prefix } => {
            let connect = async || RedisStore::connect(url.expose(), prefix, ServerClock::of_server(Arc::clone(clock))).await;
            Ok(Arc::new(patiently(url, connect).await?))
        }
        #[cfg(feature = "mongodb")]
        StoreSettings::Mongodb { url, database, prefix } => {
            let options = MongoOptions { database: database.clone(), prefix: prefix.clone(), ..MongoOptions::default() };
            let connect = async || MongoStore::connect(url.expose(), &options, ServerClock::of_server(Arc::clone(clock))).await;
            Ok(Arc::new(patiently(url, connect).await?))
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")))]
        _ => {
            let what =
                "this sandclock was built without the store that `store.url` names; build it with that store's feature, or choose another";
            Err(StoreError::Invalid(what.to_owned()).into())
        }
    }
}

/// Connects, and waits for a server that is late.
#[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
async fn patiently<S>(url: &impl Display, connect: impl AsyncFn() -> Result<S, StoreError>) -> Result<S, StoreError> {
    let mut wait = AGAIN.0;
    for failures in 0_u32.. {
        match connect().await {
            Err(error) if error.is_transient() => {
                if failures % TOLD_EVERY == 0 {
                    tracing::warn!(store = %url, %error, "the store cannot be had yet; the daemon waits for it, and starts when it is there");
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN.1);
            }
            connected => {
                if failures > 0 {
                    tracing::info!(store = %url, "the store is there");
                }
                return connected;
            }
        }
    }
    Err(StoreError::Unavailable(format!("{url} was waited for too long; start the daemon again when it is there")))
}
