//! The HTTP API: the routes of the system that people come from, and what they lacked, over the one façade
//! [`Manager`].
//!
//! Invariants: nothing here decides about a run, a task or an agent; every refusal is an RFC 9457 problem; no input of any form
//! makes an answer of 500; no answer carries a secret; no list is unbounded. Everything but `/health` and `/ready` needs a token
//! with the role for it, or comes from this machine where there is none.
//!
//! How it fails: a handler that panics, hangs or is too slow costs its own request only; the connection loop goes on.

mod agents;
mod approvals;
mod auth;
mod body;
mod budget;
mod checkpoints;
mod deploy;
mod error;
mod health;
mod idempotency;
mod layers;
mod memory;
mod mend;
mod pages;
mod params;
mod runs;
mod serve;
mod stall;
mod stream;
mod tasks;
mod tls;
mod workspace;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use serde_json::Value;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::Access;
pub use serve::serve;
pub use tls::{ListenerTls, TlsFault};

use crate::daemon::Manager;
use crate::domain::id::AgentId;
use crate::domain::role::Role;
use error::Problem;

/// What the API is set to.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// What comes before every path: empty, or `/` and segments without a `/` at the end, as `config` checks it.
    pub api_prefix: String,
    /// Who may ask.
    pub access: Arc<Access>,
    /// How long one request may take until its answer begins.
    pub request_timeout: Duration,
    /// The largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// The agent that `POST /background/agents` without a spec means.
    pub default_agent: AgentId,
}

/// What every handler works with.
#[derive(Clone)]
struct Api {
    manager: Manager,
    settings: Arc<ApiSettings>,
}

/// What a handler answers with, as a rule.
type Answer = Result<Json<Value>, Problem>;

/// All routes of the API over a manager.
pub fn router(manager: Manager, settings: ApiSettings) -> Router {
    let base = format!("{}/background", settings.api_prefix);
    let api = Api { manager, settings: Arc::new(settings) };
    let open = Router::new().route("/health", get(health::health)).route("/ready", get(health::ready));
    Router::new()
        .nest(&base, background())
        .fallback(unknown_path)
        .layer(from_fn_with_state(api.clone(), auth::guard))
        .merge(open)
        .layer(from_fn_with_state(api.clone(), layers::time_limit))
        .layer(CatchPanicLayer::custom(error::after_panic))
        .layer(from_fn(error::in_one_shape))
        .layer(from_fn(layers::safe_headers))
        .layer(from_fn(layers::traced))
        .with_state(api)
}

/// The routes by what their callers must be able to do. Looking needs no more than a token.
fn background() -> Router<Api> {
    let needs = |role: Role| from_fn_with_state(role, auth::needs);
    reading()
        .merge(operating().route_layer(needs(Role::Operate)))
        .merge(deploying().route_layer(needs(Role::Deploy)))
        .merge(approving().route_layer(needs(Role::Approve)))
}

fn reading() -> Router<Api> {
    Router::new()
        .route("/status", get(health::status))
        .route("/daemons", get(health::daemons))
        .route("/plugins", get(agents::plugins))
        .route("/agents", get(agents::list))
        .route("/agents/{id}", get(agents::show))
        .route("/agents/{id}/history", get(deploy::history))
        .route("/agents/{id}/memory", get(memory::show))
        .route("/agents/{id}/budget", get(budget::of_agent))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::show))
        .route("/tasks/{id}/status", get(tasks::status))
        .route("/tasks/{id}/next", get(tasks::next))
        .route("/tasks/{id}/skips", get(tasks::skips))
        .route("/tasks/{id}/budget", get(budget::of_task))
        .route("/runs", get(runs::list))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/budget", get(budget::of_run))
        .route("/runs/{id}/why", get(runs::why))
        .route("/runs/{id}/why-denied", get(runs::why_denied))
        .route("/runs/{id}/attempts", get(runs::attempts))
        .route("/runs/{id}/approvals", get(approvals::of_run))
        .route("/runs/{id}/checkpoints", get(checkpoints::show))
        .route("/approvals", get(approvals::waiting))
        .route("/runs/{id}/result", get(runs::result))
        .route("/runs/{id}/logs", get(runs::logs))
        .route("/runs/{id}/events", get(stream::events))
        .route("/runs/{id}/events/stream", get(stream::stream))
        .route("/runs/{id}/workspace", get(workspace::list))
        .route("/runs/{id}/workspace/files/{*path}", get(workspace::download))
}

fn operating() -> Router<Api> {
    Router::new()
        .route("/agents/{id}/memory", delete(memory::clear))
        .route("/tasks", post(tasks::register))
        .route("/tasks/{id}", patch(tasks::update).delete(tasks::delete))
        .route("/tasks/{id}/run", post(tasks::run))
        .route("/tasks/{id}/pause", post(tasks::pause))
        .route("/tasks/{id}/resume", post(tasks::resume))
        .route("/agents/{id}/pause", post(deploy::pause))
        .route("/agents/{id}/resume", post(deploy::resume))
        .route("/runs/rerun", post(mend::rerun_many))
        .route("/runs/cancel", post(mend::cancel_many))
        .route("/runs/{id}/cancel", post(runs::cancel))
        .route("/runs/{id}/resume", post(runs::resume))
        .route("/runs/{id}/rerun", post(mend::rerun))
        .route("/runs/{id}/mirror", post(runs::mirror))
}

fn deploying() -> Router<Api> {
    Router::new()
        .route("/agents", post(agents::register))
        .route("/agents/{id}", patch(agents::update).delete(agents::delete))
        .route("/agents/{id}/plugin", put(deploy::push))
        .route("/agents/{id}/rollback", post(deploy::roll_back))
        .route("/agents/{id}/release", post(deploy::release))
}

fn approving() -> Router<Api> {
    Router::new()
        .route("/runs/{id}/approvals/{key}", post(approvals::answer))
        .route("/runs/{id}/budget", post(budget::grant_run))
        .route("/tasks/{id}/budget", post(budget::grant_task))
        .route("/agents/{id}/budget", post(budget::grant_agent))
}

async fn unknown_path(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("There is nothing at {path}; the API's paths begin with its prefix and /background/."))
}
