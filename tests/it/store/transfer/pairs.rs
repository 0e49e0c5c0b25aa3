//! Every pair of stores: what a random trace has left in the one is in the other as it was, and the trace goes on there.

use sandclock::store::transfer::{EventRow, Whole};

use super::{ALL, Of, as_store, copy, pages};
use crate::store::ManualClock;
use crate::store::trace::moved;

async fn pair(from: Of, to: Of, seed: u64) {
    let clock = ManualClock::new();
    let (Some(source), Some(target)) = (from.spot(&clock).await, to.spot(&clock).await) else { return };
    let move_it = async || {
        let digest = copy(&source.store, &target.store, &clock).await;
        assert!(digest.total() > 20, "a trace that leaves something");
        let all = async |store| {
            let pages = pages(store).await;
            let records: Vec<Whole> = pages.iter().flat_map(|page| page.records.clone()).collect();
            let events: Vec<EventRow> = pages.into_iter().flat_map(|page| page.events).collect();
            (records, events)
        };
        let ((records, events), (copied, copied_events)) = (all(&source.store).await, all(&target.store).await);
        for (record, copied) in records.iter().zip(&copied) {
            assert_eq!(copied, record, "{from:?} to {to:?}");
        }
        assert_eq!((records.len(), copied_events), (copied.len(), events));
        as_store(&target.store)
    };
    moved(seed, clock.clone(), as_store(&source.store), move_it).await;
}

async fn into_all(from: Of) {
    for (to, seed) in ALL.into_iter().zip(1..) {
        for seed in [seed, seed + 100, seed + 200] {
            println!("{from:?} to {to:?}, seed {seed}");
            Box::pin(pair(from, to, seed)).await;
        }
    }
}

#[tokio::test]
async fn sqlite_is_copied_into_every_store() {
    into_all(Of::Sqlite).await;
}

#[tokio::test]
async fn postgres_is_copied_into_every_store() {
    into_all(Of::Postgres).await;
}

#[tokio::test]
async fn redis_is_copied_into_every_store() {
    into_all(Of::Redis).await;
}

#[tokio::test]
async fn mongodb_is_copied_into_every_store() {
    into_all(Of::Mongodb).await;
}
