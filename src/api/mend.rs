//! Mending: a run once more, and many runs at once by a filter, again or cancelled.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::{JsonBody, OptionalBody};
use super::error::Problem;
use super::idempotency::{KeyHeader, told};
use super::params::{NoParams, PathId};
use super::serve::Stopping;
use super::tasks::{Asked, waited};
use super::{Answer, Api};
use crate::daemon::Answered;
use crate::daemon::manager::{BulkCursor, BulkDone, BulkPreview, BulkVerb};
use crate::domain::filter::RunFilter;
use crate::domain::id::RunId;
use crate::domain::input::{Faults, Fields};
use crate::domain::run::Run;
use crate::domain::text;

/// The most runs that one request does something with, and unless the caller wants fewer.
const MOST: u64 = 1000;
/// The longest error that a preview shows, in bytes.
const ERROR_BYTES: usize = 200;

/// `POST /background/runs/{id}/rerun`: `{query?, metadata?, wait?, timeout_seconds?}` or nothing, and once under an
/// `Idempotency-Key`, as for a task's run.
pub(super) async fn rerun(
    State(api): State<Api>,
    PathId(id): PathId<RunId>,
    _: NoParams,
    key: KeyHeader,
    stopping: Stopping,
    caller: Caller,
    OptionalBody(body): OptionalBody,
) -> Result<Response, Problem> {
    let key = key.of("run", &format!("runs/{id}/rerun"), body.as_ref())?;
    let asked = Asked::read(body, &caller)?;
    let Answered { answer: run, replayed } = match key {
        Some(key) => api.manager.rerun_once(&id, asked.wish, key).await?,
        None => Answered { answer: api.manager.rerun(&id, asked.wish).await?, replayed: false },
    };
    Ok(told(waited(&api, run, asked.wait, stopping).await, replayed))
}

/// `POST /background/runs/rerun`.
pub(super) async fn rerun_many(State(api): State<Api>, _: NoParams, caller: Caller, JsonBody(body): JsonBody) -> Answer {
    many(&api, &BulkVerb::Rerun { by: caller.name().map(str::to_owned) }, body).await
}

/// `POST /background/runs/cancel`.
pub(super) async fn cancel_many(State(api): State<Api>, _: NoParams, caller: Caller, JsonBody(body): JsonBody) -> Answer {
    many(&api, &BulkVerb::Cancel { by: caller.told().to_owned() }, body).await
}

async fn many(api: &Api, verb: &BulkVerb, body: Value) -> Answer {
    let wish = Wish::read(body, verb)?;
    if wish.dry_run {
        return Ok(Json(previewed(&api.manager.preview(verb, &wish.filter).await?)));
    }
    Ok(Json(done(verb, api.manager.bulk(verb, &wish.filter, wish.limit, wish.cursor).await?)))
}

/// What the body of a request about many runs says.
#[derive(Debug)]
struct Wish {
    filter: RunFilter,
    dry_run: bool,
    limit: usize,
    cursor: Option<BulkCursor>,
}

impl Wish {
    fn read(body: Value, verb: &BulkVerb) -> Result<Wish, Faults> {
        let mut faults = Faults::new();
        let mut fields = Fields::open("", body, &mut faults);
        let filter = fields.nested("filter").map(|filter| RunFilter::read(filter, |status| verb.applies_to(status))).unwrap_or_default();
        let all = fields.or("all", false);
        if filter.is_empty() && !all {
            fields.fault(
                "filter",
                "says nothing, which means every run: name a task, a status or a time, or send all = true if that is meant",
            );
        } else if all && !filter.is_empty() {
            fields.fault("all", "does not go with a filter; leave one of them out");
        }
        let dry_run = fields.or("dry_run", false);
        let limit = fields.or("limit", MOST);
        if !(1..=MOST).contains(&limit) {
            fields.fault("limit", format!("must be from 1 to {MOST}; next_cursor goes on from there"));
        }
        let cursor = fields.optional::<String>("cursor");
        let place = cursor.as_deref().and_then(BulkCursor::parse);
        if cursor.is_some() && place.is_none() {
            fields.fault("cursor", "must be a next_cursor that the daemon gave");
        }
        fields.refuse_rest(&["filter", "all", "dry_run", "limit", "cursor"]);
        faults.into_result(Wish { filter, dry_run, limit: usize::try_from(limit).unwrap_or(usize::MAX), cursor: place })
    }
}

fn previewed(preview: &BulkPreview) -> Value {
    let sample: Vec<Value> = preview.sample.iter().map(summary).collect();
    json!({"dry_run": true, "matched": preview.matched, "complete": preview.is_complete, "sample": sample})
}

/// A run in a few fields.
fn summary(run: &Run) -> Value {
    json!({
        "run_id": run.run_id,
        "task_id": run.task_id,
        "agent_id": run.agent_id,
        "status": run.status,
        "triggered_at": run.triggered_at,
        "finished_at": run.finished_at,
        "error_kind": run.error_kind,
        "error": run.error.clone().map(|error| text::bounded(error, ERROR_BYTES, "…")),
    })
}

fn done(verb: &BulkVerb, outcome: BulkDone) -> Value {
    let mut by_status = serde_json::Map::new();
    let mut runs = Vec::new();
    for (of, run) in &outcome.done {
        let status = run.status.as_str();
        let count = by_status.get(status).and_then(Value::as_u64).unwrap_or(0);
        by_status.insert(status.to_owned(), json!(count + 1));
        runs.push(match verb {
            BulkVerb::Rerun { .. } => json!({"run_id": run.run_id, "rerun_of": of, "status": status}),
            BulkVerb::Cancel { .. } => json!({"run_id": run.run_id, "status": status}),
        });
    }
    let refusals: Vec<Value> =
        outcome.refused.into_iter().map(|(id, error)| json!({"run_id": id, "reason": Problem::from(error).detail()})).collect();
    json!({
        "dry_run": false,
        "done": runs.len(),
        "refused": refusals.len(),
        "by_status": by_status,
        "runs": runs,
        "refusals": refusals,
        "next_cursor": outcome.next.map(|next| next.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_strictly() {
        let read = |body: Value| Wish::read(body, &BulkVerb::Rerun { by: None });
        let wish = read(json!({"filter": {"task_id": "t"}})).unwrap();
        assert_eq!((wish.dry_run, wish.limit, wish.cursor), (false, 1000, None), "what is asked for is done unless it says otherwise");
        assert!(read(json!({"all": true, "dry_run": true, "limit": 1, "cursor": "7.0.3", "filter": {}})).is_ok());
        for (bad, field) in [
            (json!([]), ""),
            (json!({}), "filter"),
            (json!({"filter": {}}), "filter"),
            (json!({"filter": null, "all": false}), "filter"),
            (json!({"filter": {"task_id": "t"}, "all": true}), "all"),
            (json!({"filter": {"status": ["queued"]}}), "filter.status"),
            (json!({"filter": {"task_id": "t", "colour": 1}}), "filter.colour"),
            (json!({"all": true, "limit": 0}), "limit"),
            (json!({"all": true, "limit": 1001}), "limit"),
            (json!({"all": true, "limit": -1}), "limit"),
            (json!({"all": true, "dry_run": "yes"}), "dry_run"),
            (json!({"all": true, "cursor": "a"}), "cursor"),
            (json!({"all": true, "colour": 1}), "colour"),
        ] {
            let faults = read(bad.clone()).unwrap_err();
            assert!(faults.iter().any(|fault| fault.field == field), "{bad}: {faults}");
        }
    }
}
