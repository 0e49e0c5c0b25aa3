//! Moving a store: every pair of them, what is half filled, and backups that were cut off or altered.

mod backup;
mod pairs;
mod refusals;

use std::any::Any;
use std::sync::Arc;

use sandclock::clock::Clock;
use sandclock::domain::time::Timestamp;
use sandclock::store::redis::RedisStore;
use sandclock::store::sql::postgres::PostgresStore;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::transfer::{Digest, Filling, Page, Pages, Transfer, Walk, Wish};
use sandclock::store::{ServerClock, Store};
use tempfile::TempDir;

use super::ManualClock;
use crate::servers;

/// The stores that can be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Sqlite,
    Postgres,
    Redis,
    Mongodb,
}

pub const ALL: [Of; 4] = [Of::Sqlite, Of::Postgres, Of::Redis, Of::Mongodb];

/// An empty store, with what goes with it.
pub struct Spot {
    pub store: Arc<dyn Transfer>,
    _kept: Box<dyn Any + Send + Sync>,
}

impl Of {
    /// An empty store of that kind by this clock; none when its tests are left out.
    pub async fn spot(self, clock: &Arc<ManualClock>) -> Option<Spot> {
        let given = || ServerClock::given(clock.clone());
        let (store, kept): (Arc<dyn Transfer>, Box<dyn Any + Send + Sync>) = match self {
            Of::Sqlite => {
                let directory = TempDir::new().unwrap();
                let store = SqliteStore::open(&directory.path().join("store.db"), clock.clone()).await.unwrap();
                (Arc::new(store), Box::new(directory))
            }
            Of::Postgres => {
                let database = servers::postgres().await?;
                (Arc::new(PostgresStore::connect(&database.url, given()).await.unwrap()), Box::new(database))
            }
            Of::Redis => {
                let database = servers::redis()?;
                (Arc::new(RedisStore::connect(&database.url, &database.name, given()).await.unwrap()), Box::new(database))
            }
            Of::Mongodb => {
                let database = servers::mongodb()?;
                (Arc::new(super::mongodb::open(&database, given()).await), Box::new(database))
            }
        };
        Some(Spot { store, _kept: kept })
    }
}

pub fn wish(now: Timestamp) -> Wish {
    let filling = Filling { what: "a copy".to_owned(), from: "a test".to_owned(), begun_at: now };
    Wish { filling, anew: false, fences_above: 0, id: 0x5eed << 64 }
}

/// Copies all of one store into another.
pub async fn copy(from: &Arc<dyn Transfer>, to: &Arc<dyn Transfer>, clock: &ManualClock) -> Digest {
    let (mut walk, fences_above) = Walk::of_whole(Arc::clone(from).picture().await.unwrap()).await.unwrap();
    let wish = Wish { fences_above, ..wish(clock.now()) };
    let filled = sandclock::store::transfer::fill(to, &mut walk, wish, |_| ()).await.unwrap();
    assert_eq!(filled.written.difference(&filled.found), None);
    filled.found
}

/// All pages of a store.
pub async fn pages(store: &Arc<dyn Transfer>) -> Vec<Page> {
    let mut walk = Walk::new(Arc::clone(store).picture().await.unwrap());
    let mut pages = Vec::new();
    while let Some(page) = walk.next().await.unwrap() {
        pages.push(page);
    }
    pages
}

pub fn as_store(store: &Arc<dyn Transfer>) -> Arc<dyn Store> {
    store.clone()
}
