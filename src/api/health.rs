//! Whether the daemon lives, is ready, and how it fares.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::error::Problem;
use super::params::NoParams;
use super::{Answer, Api};

/// `GET /health`: the process answers.
pub(super) async fn health() -> Answer {
    Ok(Json(json!({"status": "ok"})))
}

/// `GET /ready`: the daemon can take work; 503 and the reason while it cannot.
pub(super) async fn ready(State(api): State<Api>) -> Answer {
    match api.manager.ready() {
        Ok(()) => Ok(Json(json!({"status": "ready"}))),
        Err(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason).retry_after(Duration::from_secs(1))),
    }
}

/// `GET /background/daemons`.
pub(super) async fn daemons(State(api): State<Api>, _: NoParams) -> Answer {
    let daemons = api.manager.daemons().await?;
    Ok(Json(json!({"daemons": daemons, "total": daemons.len()})))
}

/// `GET /background/status`.
pub(super) async fn status(State(api): State<Api>, _: NoParams) -> Answer {
    Ok(Json(api.manager.status().await?))
}
