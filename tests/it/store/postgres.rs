//! What the PostgreSQL store promises beyond the contract: several daemons on one database, the server's clock, errors that tell what to
//! do and no secret, and connections that come back.

use std::sync::Arc;

use sandclock::store::ServerClock;
use sandclock::store::Store;
use sandclock::store::sql::postgres::PostgresStore;

use super::trace::{trace, traces};
use super::{ManualClock, Place};
use crate::servers::{self, TestDatabase};

/// A new store on the shared server, which reads the place's clock.
pub async fn place() -> Option<Place> {
    let database = servers::postgres().await?;
    let clock = ManualClock::new();
    let store = Arc::new(open(&database, &clock).await);
    Some(Place::of(store, clock, database))
}

async fn open(database: &TestDatabase, clock: &Arc<ManualClock>) -> PostgresStore {
    PostgresStore::connect(&database.url, ServerClock::given(clock.clone())).await.unwrap()
}

#[test]
fn postgres_answers_as_memory_does() {
    traces(6, async |seed| {
        let Some(database) = servers::postgres().await else { return };
        let clock = ManualClock::new();
        let open = async || Arc::new(open(&database, &clock).await) as Arc<dyn Store>;
        trace(seed, clock.clone(), open).await;
    });
}
