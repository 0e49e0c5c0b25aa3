//! What the MongoDB store promises beyond the contract.

use std::sync::Arc;

use sandclock::store::mongodb::{MongoOptions, MongoStore};
use sandclock::store::{ServerClock, Store};

use super::ManualClock;
use super::trace::{trace, traces};
use crate::servers::{self, TestDatabase};

/// A store in that database.
pub async fn open(database: &TestDatabase, clock: ServerClock) -> MongoStore {
    let options = MongoOptions { database: Some(database.name.clone()), ..MongoOptions::default() };
    MongoStore::connect(&database.url, &options, clock).await.unwrap()
}

#[test]
fn mongodb_answers_as_memory_does() {
    traces(12, async |seed| {
        let Some(database) = servers::mongodb() else { return };
        let clock = ManualClock::new();
        let open = async || Arc::new(open(&database, ServerClock::given(clock.clone())).await) as Arc<dyn Store>;
        trace(seed, clock.clone(), open).await;
    });
}
