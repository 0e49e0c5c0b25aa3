//! Agents, and the plugins behind them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::body::OptionalBody;
use super::error::Problem;
use super::params::{NoParams, Params, PathId};
use super::{Answer, Api};
use crate::domain::id::AgentId;
use crate::domain::input::{Faults, Fields};

/// `GET /background/agents`.
pub(super) async fn list(State(api): State<Api>, _: NoParams) -> Answer {
    let agents = api.manager.agents();
    Ok(Json(json!({"agents": agents, "total": agents.len()})))
}

/// `GET /background/plugins`.
pub(super) async fn plugins(State(api): State<Api>, _: NoParams) -> Answer {
    let plugins = api.manager.plugins();
    Ok(Json(json!({"plugins": plugins, "total": plugins.len()})))
}

/// `GET /background/agents/{id}`.
pub(super) async fn show(State(api): State<Api>, PathId(id): PathId<AgentId>, _: NoParams) -> Answer {
    Ok(Json(api.manager.agent(&id)?))
}

/// `DELETE /background/agents/{id}?force=`.
pub(super) async fn delete(State(api): State<Api>, PathId(id): PathId<AgentId>, mut params: Params) -> Answer {
    let force = params.flag("force");
    params.finish()?;
    api.manager.delete_agent(&id, force).await?;
    Ok(Json(json!({"status": "deleted"})))
}

/// `POST /background/agents`. An agent comes from a plugin, so there is nothing to register; what a script expects of the default
/// agent is answered as if it had been registered when the daemon started.
pub(super) async fn register(State(api): State<Api>, _: NoParams, OptionalBody(body): OptionalBody) -> Answer {
    let default_agent = &api.settings.default_agent;
    let mut faults = Faults::new();
    let mut fields = Fields::open("", body.unwrap_or_else(|| json!({})), &mut faults);
    let spec: Option<Value> = fields.raw("spec");
    let agent: Option<AgentId> = fields.optional("agent_id");
    let replace = fields.or("replace", false);
    if spec.is_some() {
        fields.fault(
            "spec",
            "cannot be registered over HTTP: put a component into the plugins folder and it is an agent of its file's name, with its settings in the configuration",
        );
    } else if agent.as_ref().is_some_and(|agent| agent != default_agent) {
        fields.fault("agent_id", format!("must be `{default_agent}` where there is no spec"));
    }
    fields.refuse_rest(&["agent_id", "replace", "spec"]);
    faults.into_result(())?;
    let agent = api.manager.agent(default_agent)?;
    if !replace {
        return Err(Problem::new(StatusCode::CONFLICT, format!("Agent already registered: {default_agent}")));
    }
    Ok(Json(agent))
}
