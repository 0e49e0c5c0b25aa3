//! Transactions that were left open: their daemon was killed, cut off or stopped within one.
//!
//! A server keeps such a transaction for a minute, and whoever writes what it has written meets it all that time. Who has met another one
//! again and again therefore has the server abort those that wait for their next statement for longer than a daemon that lives lets them.
//!
//! Invariant: only transactions of sandclock's connections are aborted, which are begun anew where their daemon still lives.
//!
//! How it fails: a user who may not see its own operations leaves them to the server's minute.

use std::time::Duration;

use ::mongodb::bson::{Document, doc};
use ::mongodb::options::{AggregateOptions, ReadConcern};
use futures::TryStreamExt;

use super::{MongoStore, STATEMENT};

/// What the names of all connections of sandclock begin with.
pub const APPLICATION: &str = "sandclock";

/// How long a transaction waits for its next statement before it counts as abandoned. A daemon's waits for a round trip.
const ABANDONED: Duration = Duration::from_secs(1);

impl MongoStore {
    /// Has the server abort what was abandoned.
    pub async fn end_abandoned(&self) {
        match self.find_and_end().await {
            Ok(0) => {}
            Ok(ended) => tracing::warn!(ended, "{}: transactions that another daemon had left open were aborted", self.server),
            Err(error) => tracing::debug!(%error, "transactions that were left open cannot be looked for"),
        }
    }

    async fn find_and_end(&self) -> Result<usize, ::mongodb::error::Error> {
        let admin = self.client.database("admin");
        let waits = i64::try_from(ABANDONED.as_micros()).unwrap_or(i64::MAX);
        let is_abandoned = doc! {
            "type": "idleSession",
            "appName": { "$regex": format!("^{APPLICATION}") },
            "transaction.timeInactiveMicros": { "$gt": waits },
        };
        let pipeline = vec![
            doc! { "$currentOp": { "allUsers": false, "idleSessions": true } },
            doc! { "$match": is_abandoned },
            doc! { "$project": { "id": "$lsid.id" } },
        ];
        let options = AggregateOptions::builder().read_concern(ReadConcern::local()).max_time(STATEMENT).build();
        let found: Vec<Document> = admin.aggregate(pipeline).with_options(options).await?.try_collect().await?;
        if !found.is_empty() {
            admin.run_command(doc! { "killSessions": found.clone() }).await?;
        }
        Ok(found.len())
    }
}
