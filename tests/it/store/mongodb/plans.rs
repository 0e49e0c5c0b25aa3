//! What the hot queries look at, by the server's own profile: no more with many finished runs than with few.

use std::time::Duration;

use ::mongodb::bson::{Document, doc};
use futures::TryStreamExt;
use sandclock::clock::Clock;
use sandclock::domain::run::{Run, Status};
use sandclock::store::ServerClock;

use super::super::{ManualClock, queued};
use super::{live, open, put_runs};
use crate::servers;

/// How many runs have ended long ago.
const KEPT: u32 = 3000;

/// What nothing that [`live`] asks for comes close to, though it has only a handful of records.
const FEW: i64 = 120;

#[tokio::test]
async fn no_query_looks_at_what_has_ended() {
    let Some(database) = servers::mongodb() else { return };
    let clock = ManualClock::new();
    let store = open(&database, ServerClock::given(clock.clone())).await;
    for batch in 0..KEPT / 500 {
        let ended = |number| Run { status: Status::Completed, ..queued(1_000_000 + batch * 500 + number, "task", "agent", clock.now()) };
        put_runs(&store, 1_000_000 + u128::from(batch), &(0..500).map(ended).collect::<Vec<_>>(), clock.now()).await;
    }
    clock.advance(Duration::from_secs(1));
    let client = ::mongodb::Client::with_uri_str(&database.url).await.unwrap();
    let profiled = client.database(&database.name);
    profiled.run_command(doc! { "profile": 2 }).await.unwrap();
    live(&store, &clock).await;
    profiled.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile: Vec<Document> = profiled.collection("system.profile").find(doc! {}).await.unwrap().try_collect().await.unwrap();
    let mut looked = 0;
    for entry in &profile {
        let (keys, documents) = (number(entry, "keysExamined"), number(entry, "docsExamined"));
        let plan = entry.get_str("planSummary").unwrap_or_default();
        assert!(!plan.contains("COLLSCAN"), "{entry}");
        assert!(!entry.contains_key("hasSortStage") || is_of_few(entry), "{entry}");
        assert!(keys <= FEW && documents <= FEW, "{keys} keys and {documents} documents: {entry}");
        looked += 1;
    }
    assert!(looked > 30, "the profile has {looked} entries");
}

fn number(entry: &Document, name: &str) -> i64 {
    entry.get_i64(name).or_else(|_| entry.get_i32(name).map(i64::from)).unwrap_or(0)
}

/// Sorting what was found by name, or in one list of a few, is no matter.
fn is_of_few(entry: &Document) -> bool {
    number(entry, "docsExamined") < 20
}
