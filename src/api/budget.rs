//! Budgets: how they stand, and grants.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::auth::Caller;
use super::body::JsonBody;
use super::error::Problem;
use super::idempotency::{KeyHeader, told};
use super::params::{NoParams, PathId};
use super::{Answer, Api};
use crate::daemon::Answered;
use crate::daemon::manager::GrantWish;
use crate::domain::budget::{ALLOWANCE_FIELDS, read_allowance};
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::input::{Faults, Fields};

/// `GET /background/runs/{id}/budget`.
pub(super) async fn of_run(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams) -> Answer {
    Ok(Json(api.manager.run_budget(&id).await?))
}

/// `GET /background/tasks/{id}/budget`.
pub(super) async fn of_task(State(api): State<Api>, PathId(id): PathId<TaskId>, _: NoParams) -> Answer {
    Ok(Json(api.manager.task_budget(&id).await?))
}

/// `GET /background/agents/{id}/budget`.
pub(super) async fn of_agent(State(api): State<Api>, PathId(id): PathId<AgentId>, _: NoParams) -> Answer {
    let shown = api.manager.agent_budget(&id).await?;
    // What an agent has used outlives it.
    if shown.pointer("/used/attempts").and_then(Value::as_u64) == Some(0) {
        api.manager.agent(&id)?;
    }
    Ok(Json(shown))
}

/// What a body grants: meters, such as `{"tokens": 100000}`.
fn wish(body: Value, caller: &Caller) -> Result<GrantWish, Faults> {
    let mut faults = Faults::new();
    let mut fields = Fields::open("", body, &mut faults);
    let amount = read_allowance(&mut fields);
    fields.refuse_rest(&ALLOWANCE_FIELDS);
    faults.into_result(GrantWish { amount, by: caller.name().map(str::to_owned) })
}

fn answered(Answered { answer, replayed }: Answered<Value>) -> Response {
    told(Json(answer), replayed)
}

/// `POST /background/runs/{id}/budget`: more of what the run may spend; once under an `Idempotency-Key`.
pub(super) async fn grant_run(
    State(api): State<Api>,
    PathId(id): PathId<RunId>,
    _: NoParams,
    key: KeyHeader,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let key = key.of("grant", &format!("runs/{id}/budget"), Some(&body))?;
    Ok(answered(api.manager.grant_run(&id, wish(body, &caller)?, key).await?))
}

/// `POST /background/tasks/{id}/budget`: more of what the task may spend; once under an `Idempotency-Key`.
pub(super) async fn grant_task(
    State(api): State<Api>,
    PathId(id): PathId<TaskId>,
    _: NoParams,
    key: KeyHeader,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let key = key.of("grant", &format!("tasks/{id}/budget"), Some(&body))?;
    Ok(answered(api.manager.grant_task(&id, wish(body, &caller)?, key).await?))
}

/// `POST /background/agents/{id}/budget`: more of what the agent may spend on this day; once under an `Idempotency-Key`.
pub(super) async fn grant_agent(
    State(api): State<Api>,
    PathId(id): PathId<AgentId>,
    _: NoParams,
    key: KeyHeader,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let key = key.of("grant", &format!("agents/{id}/budget"), Some(&body))?;
    Ok(answered(api.manager.grant_agent(&id, wish(body, &caller)?, key).await?))
}
