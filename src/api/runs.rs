//! Runs: what became of them, and what can still be done about them.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::auth::Caller;
use super::body::NoBody;
use super::error::Problem;
use super::params::{Accepts, NoParams, Params, PathId};
use super::tasks::value;
use super::{Answer, Api, pages};
use crate::domain::id::{RunId, TaskId};
use crate::domain::role::Role;
use crate::domain::run::Status;

/// `GET /background/runs?task_id=&status=&limit=&cursor=&order=`.
pub(super) async fn list(State(api): State<Api>, mut params: Params) -> Answer {
    let task = params.id::<TaskId>("task_id");
    let status = params.of("status", &one_of_the_statuses(), Status::parse);
    let page = pages::page(&mut params);
    params.finish()?;
    let listing = api.manager.runs(task, status, page).await?;
    Ok(Json(pages::shown("runs", &listing, page.newest_first)))
}

fn one_of_the_statuses() -> String {
    format!("one of {}", Status::ALL.map(Status::as_str).join(", "))
}

/// `GET /background/runs/{id}`.
pub(super) async fn show(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams) -> Answer {
    value(&api.manager.run(&id).await?)
}

/// `POST /background/runs/{id}/cancel`.
pub(super) async fn cancel(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams, caller: Caller, _: NoBody) -> Answer {
    api.manager.cancel_run(&id, caller.told()).await?;
    Ok(Json(json!({"status": "cancel_requested"})))
}

/// `POST /background/runs/{id}/resume`.
pub(super) async fn resume(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams, caller: Caller, _: NoBody) -> Answer {
    let run = api.manager.run(&id).await?;
    // What waits for a person's word is let go by whoever may give it.
    if run.status == Status::AwaitingApproval {
        caller.must(Role::Approve)?;
    }
    // Scripts answer and then resume; here the answer has done that.
    if api.manager.was_answered(&run).await? {
        let status = if run.status.is_terminal() { run.status } else { Status::Queued };
        return Ok(Json(json!({"status": status})));
    }
    api.manager.resume_run_from(&id, run.status, caller.name()).await?;
    Ok(Json(json!({"status": "queued"})))
}

/// `GET /background/runs/{id}/why`: why it is where it is, in a sentence and in members.
pub(super) async fn why(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams) -> Answer {
    value(&api.manager.why(&id).await?)
}

/// `GET /background/runs/{id}/why-denied`: which rules stopped its calls, and the lines that would allow them.
pub(super) async fn why_denied(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams) -> Answer {
    value(&api.manager.why_denied(&id).await?)
}

/// `POST /background/runs/{id}/mirror`: an ended run's mirrors once more.
pub(super) async fn mirror(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams, _: NoBody) -> Answer {
    let (run, files) = api.manager.mirror_run(&id).await?;
    Ok(Json(json!({"run_id": id, "workspace_path": run.workspace_path, "files": files})))
}

/// `GET /background/runs/{id}/attempts`: a bare list, as it always was.
pub(super) async fn attempts(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams) -> Answer {
    value(&api.manager.attempts(&id).await?)
}

/// `GET /background/runs/{id}/result`: the whole result as text, or as `{run_id, status, result}` for who accepts JSON.
pub(super) async fn result(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams, accepts: Accepts) -> Result<Response, Problem> {
    let run = api.manager.run(&id).await?;
    let Some(result) = api.manager.result(&id).await? else {
        let why = if run.status.is_terminal() { "and left no result" } else { "and has no result yet" };
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("Run {id} is {} {why}", run.status.as_str()))
            .with("run_id", id.as_str())
            .with("run_status", run.status.as_str()));
    };
    if accepts.names("application/json") {
        return Ok(Json(json!({"run_id": id, "status": run.status, "result": result})).into_response());
    }
    let mut response = result.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// `GET /background/runs/{id}/logs?attempt=&after=&limit=`: what the guest wrote to stdout and stderr; the latest attempt's unless
/// the caller says which.
pub(super) async fn logs(State(api): State<Api>, PathId(id): PathId<RunId>, mut params: Params) -> Answer {
    let attempt = params.number("attempt", 1..=u64::from(u32::MAX)).and_then(|attempt| u32::try_from(attempt).ok());
    let after = params.number("after", 0..=i64::MAX.cast_unsigned()).unwrap_or(0);
    let limit = pages::limit(&mut params);
    params.finish()?;
    Ok(Json(api.manager.logs(&id, attempt, after, limit).await?))
}
