//! The pipelines: each begins at the one document that is always there, so that the server's present comes along whatever else is found.
//!
//! Whatever is due is found along an index in order of its time, and what is not due yet falls away behind that, so that no plan hangs
//! on a time that only the server knows.

use ::mongodb::Collection;
use ::mongodb::bson::{Binary, Bson, Document, doc};

use super::super::{CountScope, PageRequest, Scope};
use super::{MongoStore, limit};
use crate::domain::id::RunId;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// The document of the last order that was given.
pub const ORDERS: &str = "orders";

/// In how many parts counts are kept.
pub const PARTS: u32 = 16;

/// Ready runs by agent, longest due first.
pub const READY: &str = "ready";
/// Ready runs of all agents, longest due first.
pub const READY_DUE: &str = "ready_due";
/// What waits for a time other than ready runs.
pub const WAIT: &str = "wait";
/// Records by kind.
pub const KIND: &str = "kind";
/// Records by task and kind.
pub const TASK: &str = "task";
/// Runs by task and status.
pub const TASK_STATUS: &str = "task_status";
/// Records by agent and kind.
pub const AGENT: &str = "agent";
/// Buckets of key-values by agent.
pub const AGENT_BUCKETS: &str = "agent_buckets";
/// Live runs by agent.
pub const AGENT_LIVE: &str = "agent_live";
/// Records by run and kind.
pub const RUN: &str = "run";
/// Runs by status.
pub const STATUS: &str = "status";

/// The present in microseconds: this one, or the server's.
pub fn present(given: Option<Timestamp>) -> Bson {
    // A bare number in a projection would name a field.
    let given = given.map(|given| doc! { "$literal": given.micros() });
    given.unwrap_or_else(|| doc! { "$multiply": [{ "$toLong": "$$NOW" }, 1000_i64] }).into()
}

/// The names of a scope's counts.
pub fn count_ids(scope: &CountScope) -> Vec<String> {
    (0..PARTS).map(|part| count_id(scope, part)).collect()
}

/// The name of a part of a scope's counts.
pub fn count_id(scope: &CountScope, part: u32) -> String {
    format!("{}#{part}", scope.text())
}

/// The name of what claimers of an agent with a limit meet at.
pub fn claims_id(agent: &str) -> String {
    format!("claims/{agent}")
}

/// Begins a pipeline with the server's present.
pub fn with_present() -> Vec<Document> {
    vec![doc! { "$match": { "_id": ORDERS } }, doc! { "$project": { "_id": 0, "now": present(None) } }]
}

/// Adds what a pipeline over that collection finds, each a document of its own. Not in a transaction.
fn union<T: Send + Sync>(from: &Collection<T>, mut stages: Vec<Document>, name: &str) -> Document {
    stages.push(doc! { "$project": { "_id": 0, name: "$$ROOT" } });
    doc! { "$unionWith": { "coll": from.name(), "pipeline": stages } }
}

/// Adds what a pipeline over that collection finds, as a list in the one document, which has at most 16 MiB: without bodies.
fn list<T: Send + Sync>(from: &Collection<T>, stages: Vec<Document>, name: &str) -> Document {
    doc! { "$lookup": { "from": from.name(), "pipeline": stages, "as": name } }
}

/// Finds documents by name.
pub fn named(ids: Vec<String>) -> Document {
    doc! { "$match": { "_id": { "$in": ids } } }
}

/// Runs with their bodies, and their attempts without.
pub fn with_attempts(ids: Vec<String>, runs: Vec<String>) -> Vec<Document> {
    let either = vec![doc! { "_id": { "$in": ids } }, doc! { "run": { "$in": runs }, "kind": "attempt" }];
    let body = doc! { "$cond": [{ "$eq": ["$kind", "run"] }, "$body", "$$REMOVE"] };
    vec![doc! { "$match": { "$or": either } }, doc! { "$set": { "body": body } }]
}

impl MongoStore {
    /// What a batch needs to know: the present, records by name and by run, and the leases.
    pub fn load_pipeline(&self, wanted: Vec<String>, hanging: Vec<String>) -> Vec<Document> {
        let bare = doc! { "$unset": "body" };
        let mut pipeline = with_present();
        let runs: Vec<String> = wanted.iter().filter(|id| id.starts_with("run/")).cloned().collect();
        pipeline.push(list(&self.tables.records, vec![named(wanted), bare.clone()], "records"));
        if !runs.is_empty() {
            pipeline.push(list(&self.tables.leases, vec![named(runs)], "leases"));
        }
        if !hanging.is_empty() {
            let by_run = doc! { "$match": { "run": { "$in": hanging } } };
            pipeline.push(list(&self.tables.records, vec![by_run, bare], "hanging"));
        }
        pipeline
    }

    /// The leases that a wish was given, as far as they are still that worker's.
    pub fn given_list(&self, token: Binary, owner: &str) -> Document {
        list(&self.tables.leases, vec![doc! { "$match": { "token": token, "owner": owner } }], "leases")
    }

    /// The counts of these names.
    pub fn counts_list(&self, ids: Vec<String>) -> Document {
        list(&self.tables.counts, vec![named(ids)], "counts")
    }

    /// Ready runs of these agents that are due, longest due first; the list has this number.
    pub fn ready_list(&self, agents: Vec<&str>, count: usize, number: usize) -> Document {
        let is_due = doc! { "$match": { "$expr": { "$lte": ["$due", present(self.clock.instead().map(|times| times.now))] } } };
        let stages = vec![
            doc! { "$match": { "ready": true, "agent": { "$in": agents } } },
            doc! { "$sort": { "due": 1, "ord": 1 } },
            doc! { "$limit": limit(count) },
            is_due,
            doc! { "$unset": "body" },
        ];
        list(&self.tables.records, stages, &format!("ready.of_{number}"))
    }

    /// What waits together, longest due first, and one more than is asked for.
    pub fn wait_pipeline(&self, waits: &[String], count: usize) -> Vec<Document> {
        let stages = vec![
            doc! { "$match": { "wait": { "$in": waits.to_vec() } } },
            doc! { "$sort": { "due": 1, "ord": 1 } },
            doc! { "$limit": limit(count.saturating_add(1)) },
        ];
        let mut pipeline = with_present();
        pipeline.push(union(&self.tables.records, stages, "record"));
        pipeline
    }

    /// Leases in the order in which they pass, and one more than is asked for.
    pub fn expired_pipeline(&self, count: usize) -> Vec<Document> {
        let stages = vec![doc! { "$sort": { "until": 1, "ord": 1 } }, doc! { "$limit": limit(count.saturating_add(1)) }];
        let mut pipeline = with_present();
        pipeline.push(union(&self.tables.leases, stages, "lease"));
        pipeline
    }

    /// These leases of that worker, each with whether a cancel of its run was asked for.
    pub fn renewed_pipeline(&self, runs: Vec<String>, owner: &str) -> Vec<Document> {
        let cancel = doc! {
            "from": self.tables.records.name(), "localField": "_id", "foreignField": "_id",
            "pipeline": [{ "$project": { "_id": 0, "cancel": { "$ifNull": ["$cancel", false] } } }], "as": "run",
        };
        vec![
            doc! { "$match": { "_id": { "$in": runs }, "owner": owner } },
            doc! { "$lookup": cancel },
            doc! { "$project": { "fence": 1, "until": 1, "now": present(self.clock.instead().map(|times| times.steady)), "cancel": "$run.cancel" } },
        ]
    }
}

/// What a list looks for, and the index that it runs along.
pub struct PageQuery {
    /// The filter.
    pub filter: Document,
    /// The index.
    pub index: &'static str,
    /// The order of the page.
    pub sort: Document,
}

impl PageQuery {
    /// The query that reads this page.
    pub fn new(scope: &Scope, page: PageRequest) -> PageQuery {
        let (mut filter, index) = filter_of(scope);
        let (compare, direction) = if page.newest_first { ("$lt", -1) } else { ("$gt", 1) };
        if let Some(after) = page.after {
            filter.insert("ord", doc! { compare: after });
        }
        PageQuery { filter, index, sort: doc! { "ord": direction } }
    }
}

fn filter_of(scope: &Scope) -> (Document, &'static str) {
    match scope {
        Scope::All(kind) => (doc! { "kind": kind.as_str() }, KIND),
        Scope::TasksOfAgent(agent) => (doc! { "agent": agent.as_str(), "kind": "task" }, AGENT),
        Scope::Runs { task: None, status: None } => (doc! { "kind": "run" }, KIND),
        Scope::Runs { task: None, status: Some(status) } => (doc! { "status": status.as_str() }, STATUS),
        Scope::Runs { task: Some(task), status: None } => (doc! { "task": task.as_str(), "kind": "run" }, TASK),
        Scope::Runs { task: Some(task), status: Some(status) } => (doc! { "task": task.as_str(), "status": status.as_str() }, TASK_STATUS),
        Scope::LiveRunsOfAgent(agent) => (doc! { "agent": agent.as_str(), "live": true }, AGENT_LIVE),
        Scope::LiveRunsOfTask(task) => {
            let live: Vec<&str> = Status::ALL.iter().filter(|status| !status.is_terminal()).map(|status| status.as_str()).collect();
            (doc! { "task": task.as_str(), "status": { "$in": live } }, TASK_STATUS)
        }
        Scope::Attempts(run) => (doc! { "run": run.as_str(), "kind": "attempt" }, RUN),
        Scope::BucketsOfAgent(agent) => (doc! { "agent": agent.as_str(), "kind": "key_value" }, AGENT_BUCKETS),
        Scope::SkipRanges(task) => (doc! { "task": task.as_str(), "kind": "skip_range" }, TASK),
    }
}

/// The events of a run with numbers above `after`.
pub fn events_filter(run: &RunId, after: i64) -> Document {
    let (from, to) = (doc! { "run": run.as_str(), "seq": after }, doc! { "run": run.as_str(), "seq": i64::MAX });
    doc! { "_id": { "$gt": from, "$lte": to } }
}

/// All events of these runs.
pub fn events_of(runs: &[String]) -> Document {
    let each = |run: &String| doc! { "_id": { "$gte": { "run": run, "seq": 0_i64 }, "$lte": { "run": run, "seq": i64::MAX } } };
    doc! { "$or": runs.iter().map(each).collect::<Vec<_>>() }
}

/// What a lease is held as: the run and the fence.
pub fn hold(run: &str, fence: i64) -> String {
    format!("{run}#{fence}")
}

/// The leases that are held as these by that worker and have not passed.
pub fn held_filter(runs: Vec<String>, holds: Vec<String>, owner: &str, at: Option<Timestamp>) -> Document {
    doc! { "_id": { "$in": runs }, "hold": { "$in": holds }, "owner": owner, "$expr": { "$gt": ["$until", present(at)] } }
}

/// How a lease is renewed.
pub fn renewal(at: Option<Timestamp>, micros: i64) -> Vec<Document> {
    vec![doc! { "$set": { "heartbeat_at": present(at), "until": { "$add": [present(at), micros] } } }]
}
