//! Tasks: registering, changing, running and asking about them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::auth::Caller;
use super::body::{JsonBody, NoBody, OptionalBody};
use super::error::Problem;
use super::idempotency::{KeyHeader, told};
use super::params::{NoParams, Params, PathId};
use super::serve::Stopping;
use super::{Answer, Api, pages};
use crate::daemon::{Answered, ManagerError, RunWish};
use crate::domain::id::{AgentId, TaskId};
use crate::domain::input::{Faults, Fields};
use crate::domain::run::Run;
use crate::domain::time::Seconds;

/// How many coming occurrences are told unless the caller wants another number.
const NEXT_OCCURRENCES: u64 = 5;
/// How many coming occurrences are told at most.
const MOST_OCCURRENCES: u64 = 1000;

/// `GET /background/tasks?agent_id=&limit=&cursor=&order=`.
pub(super) async fn list(State(api): State<Api>, mut params: Params) -> Answer {
    let agent = params.id::<AgentId>("agent_id");
    let page = pages::page(&mut params);
    params.finish()?;
    let listing = api.manager.tasks(agent, page).await?;
    Ok(Json(pages::shown("tasks", &listing, page.newest_first)))
}

/// `POST /background/tasks`: a task's fields, and `replace`; once under an `Idempotency-Key`.
pub(super) async fn register(
    State(api): State<Api>,
    _: NoParams,
    key: KeyHeader,
    JsonBody(mut body): JsonBody,
) -> Result<Response, Problem> {
    let key = key.of("task", "tasks", Some(&body))?;
    let replace = match body.as_object_mut().and_then(|object| object.shift_remove("replace")) {
        None | Some(Value::Null) => false,
        Some(Value::Bool(replace)) => replace,
        Some(_) => return Err(Faults::one("replace", "must be true or false").into()),
    };
    let Some(key) = key else {
        return Ok(Json(api.manager.register_task(body, replace, None).await?).into_response());
    };
    let Answered { answer, replayed } = api.manager.register_task_once(body, replace, key).await?;
    Ok(told(Json(answer), replayed))
}

/// `GET /background/tasks/{id}`.
pub(super) async fn show(State(api): State<Api>, PathId(id): PathId<TaskId>, _: NoParams) -> Answer {
    let Json(mut task) = value(&api.manager.task(&id).await?)?;
    with_sums(&mut task, api.manager.task_budget(&id).await?);
    Ok(Json(task))
}

/// `PATCH /background/tasks/{id}`.
pub(super) async fn update(State(api): State<Api>, PathId(id): PathId<TaskId>, _: NoParams, JsonBody(patch): JsonBody) -> Answer {
    value(&api.manager.update_task(&id, patch).await?)
}

/// `DELETE /background/tasks/{id}?delete_runs=`.
pub(super) async fn delete(State(api): State<Api>, PathId(id): PathId<TaskId>, mut params: Params) -> Answer {
    let delete_runs = params.flag("delete_runs");
    params.finish()?;
    api.manager.delete_task(&id, delete_runs).await?;
    Ok(Json(json!({"status": "deleted"})))
}

/// `GET /background/tasks/{id}/status`.
pub(super) async fn status(State(api): State<Api>, PathId(id): PathId<TaskId>, _: NoParams) -> Answer {
    Ok(Json(api.manager.task_status(&id).await?))
}

/// `GET /background/tasks/{id}/next?count=`: the coming occurrences.
pub(super) async fn next(State(api): State<Api>, PathId(id): PathId<TaskId>, mut params: Params) -> Answer {
    let count = params.number("count", 1..=MOST_OCCURRENCES).unwrap_or(NEXT_OCCURRENCES);
    params.finish()?;
    Ok(Json(api.manager.next_occurrences(&id, usize::try_from(count).unwrap_or(usize::MAX)).await?))
}

/// `GET /background/tasks/{id}/skips`: the ranges of occurrences that did not become runs.
pub(super) async fn skips(State(api): State<Api>, PathId(id): PathId<TaskId>, mut params: Params) -> Answer {
    let page = pages::page(&mut params);
    params.finish()?;
    let listing = api.manager.skip_ranges(&id, page).await?;
    Ok(Json(pages::shown("skips", &listing, page.newest_first)))
}

/// `POST /background/tasks/{id}/pause`.
pub(super) async fn pause(State(api): State<Api>, PathId(id): PathId<TaskId>, _: NoParams, _: NoBody) -> Answer {
    api.manager.pause_task(&id).await?;
    Ok(Json(json!({"status": "paused"})))
}

/// `POST /background/tasks/{id}/resume`.
pub(super) async fn resume(State(api): State<Api>, PathId(id): PathId<TaskId>, _: NoParams, _: NoBody) -> Answer {
    api.manager.resume_task(&id).await?;
    Ok(Json(json!({"status": "resumed"})))
}

/// `POST /background/tasks/{id}/run`: `{query?, metadata?, wait?, timeout_seconds?}` or nothing; once under an `Idempotency-Key`.
/// With `wait` the answer comes when the run has ended or is parked.
pub(super) async fn run(
    State(api): State<Api>,
    PathId(id): PathId<TaskId>,
    _: NoParams,
    key: KeyHeader,
    stopping: Stopping,
    caller: Caller,
    OptionalBody(body): OptionalBody,
) -> Result<Response, Problem> {
    let key = key.of("run", &format!("tasks/{id}/run"), body.as_ref())?;
    let asked = Asked::read(body, &caller)?;
    let Answered { answer: run, replayed } = match key {
        Some(key) => api.manager.run_once(&id, asked.wish, key).await?,
        None => Answered { answer: api.manager.run_now(&id, asked.wish).await?, replayed: false },
    };
    Ok(told(waited(&api, run, asked.wait, stopping).await, replayed))
}

/// Answers with a run that was just made; when the caller waits, as it is when it has ended or is parked.
pub(super) async fn waited(api: &Api, run: Run, wait: Option<Option<Seconds>>, stopping: Stopping) -> Answer {
    let longest = longest_wait(api.settings.request_timeout);
    let Some(limit) = wait.map(|wish| wish.map_or(longest, |wish| wish.duration().min(longest))) else {
        return value(&run);
    };
    let run = tokio::select! {
        run = api.manager.wait_for_run(&run.run_id, limit) => run?,
        () = stopping.wait() => return Err(unfinished(
            StatusCode::SERVICE_UNAVAILABLE,
            "The daemon is stopping and does not wait for the run any longer; the run goes on when it is back",
            &run,
        )),
    };
    if run.status.is_settled() {
        return value(&run);
    }
    let (limit, request_timeout) = (Seconds::from_duration(limit), Seconds::from_duration(api.settings.request_timeout));
    let sentence = format!("Background run did not finish within {} seconds", limit.duration().as_secs_f64());
    Err(unfinished(StatusCode::GATEWAY_TIMEOUT, &sentence, &run)
        .with("wait_timeout_seconds", json!(limit))
        .with("request_timeout_seconds", json!(request_timeout)))
}

/// A wait that did not see the run's end. `status` is the answer's in this shape, so the run's is `run_status`.
fn unfinished(status: StatusCode, sentence: &str, run: &Run) -> Problem {
    Problem::new(status, sentence)
        .with("run_id", run.run_id.as_str())
        .with("task_id", run.task_id.as_str())
        .with("run_status", run.status.as_str())
}

/// The longest wait that still leaves time to answer within the request's limit.
fn longest_wait(request_timeout: Duration) -> Duration {
    let margin = (request_timeout / 4).clamp(Duration::from_millis(500), Duration::from_secs(2));
    request_timeout.saturating_sub(margin)
}

/// What the body of a run request says.
pub(super) struct Asked {
    pub(super) wish: RunWish,
    /// Whether to wait, and how long at most where the caller says so.
    pub(super) wait: Option<Option<Seconds>>,
}

impl Asked {
    /// Reads a caller's body strictly.
    pub(super) fn read(body: Option<Value>, caller: &Caller) -> Result<Self, Problem> {
        let mut faults = Faults::new();
        let mut fields = Fields::open("", body.unwrap_or_else(|| json!({})), &mut faults);
        // An empty query means the task's own, as it always did.
        let query = fields.optional::<String>("query").filter(|query| !query.is_empty());
        let metadata: Map<String, Value> = fields.or_default("metadata");
        let wait = fields.or("wait", false);
        let limit: Option<Seconds> = fields.optional("timeout_seconds");
        if limit.is_some() && !wait {
            fields.fault("timeout_seconds", "only has a meaning with wait = true: it bounds the wait, not the run");
        }
        fields.refuse_rest(&["query", "metadata", "wait", "timeout_seconds"]);
        let by = caller.name().map(str::to_owned);
        Ok(faults.into_result(Asked { wish: RunWish { query, metadata, by }, wait: wait.then_some(limit) })?)
    }
}

/// Adds what was used, and what budgets leave, to what is shown of a task or an agent.
pub(super) fn with_sums(shown: &mut Value, mut budget: Value) {
    if let (Value::Object(fields), Some(sums)) = (shown, budget.as_object_mut()) {
        fields.extend(["used", "budgets"].into_iter().filter_map(|name| Some((name.to_owned(), sums.shift_remove(name)?))));
    }
}

/// A record as the API shows it.
pub(super) fn value<T: Serialize>(record: &T) -> Answer {
    let value = serde_json::to_value(record).map_err(|error| ManagerError::Host(format!("a record cannot be shown: {error}")))?;
    Ok(Json(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_leaves_time_to_answer() {
        for (request_ms, wait_ms) in [(300_000, 298_000), (3_000, 2_250), (1_000, 500), (400, 0)] {
            assert_eq!(longest_wait(Duration::from_millis(request_ms)), Duration::from_millis(wait_ms));
        }
    }

    #[test]
    fn a_run_request_is_read_strictly() {
        let read = |body: Value| Asked::read(Some(body), &Caller::nameless());
        let empty = Asked::read(None, &Caller::nameless()).unwrap();
        assert!(empty.wait.is_none() && empty.wish.query.is_none() && empty.wish.metadata.is_empty());
        assert!(read(json!({"query": "", "wait": true})).unwrap().wish.query.is_none());
        assert_eq!(read(json!({"wait": true, "timeout_seconds": 2.5})).unwrap().wait, Some(Seconds::from_f64(2.5)));
        for bad in [
            json!([]),
            json!("x"),
            json!({"wait": "true"}),
            json!({"wait": 1}),
            json!({"query": 7}),
            json!({"metadata": []}),
            json!({"timeout_seconds": 5}),
            json!({"wait": true, "timeout_seconds": -1}),
            json!({"wiat": true}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }
}
