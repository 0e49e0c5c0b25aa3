//! Agents, and the plugins behind them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::{JsonBody, OptionalBody};
use super::error::Problem;
use super::params::{NoParams, Params, PathId};
use super::tasks::with_sums;
use super::{Answer, Api};
use crate::config::spec::{self, SPEC};
use crate::daemon::manager::refuse_secrets;
use crate::domain::id::AgentId;
use crate::domain::input::{Faults, Fields, shown_name};

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
    let mut agent = api.manager.agent(&id)?;
    with_sums(&mut agent, api.manager.agent_budget(&id).await?);
    Ok(Json(agent))
}

/// `DELETE /background/agents/{id}?force=`.
pub(super) async fn delete(State(api): State<Api>, PathId(id): PathId<AgentId>, mut params: Params) -> Answer {
    let force = params.flag("force");
    params.finish()?;
    api.manager.delete_agent(&id, force).await?;
    Ok(Json(json!({"status": "deleted"})))
}

/// `POST /background/agents`: registers an agent with the keys of `[agents.NAME]`, or with the seed's `spec`. Without any of them it means the default agent, which
/// is answered as if it had been registered when the daemon started.
pub(super) async fn register(State(api): State<Api>, caller: Caller, _: NoParams, OptionalBody(body): OptionalBody) -> Answer {
    let body = body.unwrap_or_else(|| json!({}));
    // Before anything else looks at it: other refusals repeat what was given.
    refuse_secrets(&body)?;
    let default_agent = &api.settings.default_agent;
    let Value::Object(mut settings) = body else {
        return Err(Faults::one("", "must be an object with the keys of `[agents.NAME]` and `agent_id`").into());
    };
    let mut faults = Faults::new();
    let head = ["agent_id", "replace"].into_iter().filter_map(|name| Some((name.to_owned(), settings.shift_remove(name)?)));
    let mut fields = Fields::open("", Value::Object(head.collect()), &mut faults);
    let given: Option<AgentId> = fields.optional("agent_id");
    let replace = fields.or("replace", false);
    let of_spec = settings.get(SPEC).map(spec::id_of);
    let named = settings.get(SPEC).and_then(|spec| spec.get("agent_id")).and_then(Value::as_str);
    if let (Some(given), Some(named)) = (&given, named.filter(|named| given.as_ref().is_some_and(|given| given.as_str() != *named))) {
        fields.fault("agent_id", format!("is `{given}`, and the spec's is `{}`; make them the same, or leave one out", shown_name(named)));
    }
    let agent = given.or_else(|| of_spec.clone().flatten());
    if settings.is_empty() && agent.as_ref().is_some_and(|agent| agent != default_agent) {
        fields.fault(
            "agent_id",
            format!("must be `{default_agent}` where nothing else is given; `plugin` names the component of another one"),
        );
    } else if !settings.is_empty() && agent.is_none() {
        let mend = if of_spec.is_some() { "; give it here or in the spec, of letters, digits, `_`, `.` and `-`" } else { "" };
        fields.fault("agent_id", format!("is required{mend}"));
    }
    faults.into_result(())?;
    match agent {
        Some(agent) if !settings.is_empty() => {
            Ok(Json(api.manager.register_agent(&agent, settings, replace, caller.name().map(str::to_owned)).await?))
        }
        _ => {
            let agent = api.manager.agent(default_agent)?;
            if !replace {
                return Err(Problem::new(StatusCode::CONFLICT, format!("Agent already registered: {default_agent}")));
            }
            Ok(Json(agent))
        }
    }
}

/// `PATCH /background/agents/{id}`: changes the given keys of a registered agent; a null takes one away.
pub(super) async fn update(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<AgentId>,
    _: NoParams,
    JsonBody(body): JsonBody,
) -> Answer {
    refuse_secrets(&body)?;
    let Value::Object(patch) = body else {
        return Err(Faults::one("", "must be an object with keys of `[agents.NAME]`").into());
    };
    Ok(Json(api.manager.update_agent(&id, patch, caller.name().map(str::to_owned)).await?))
}
