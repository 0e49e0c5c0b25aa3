//! What agents keep from run to run.

use axum::Json;
use axum::extract::State;

use super::params::{Params, PathId};
use super::{Answer, Api, pages};
use crate::domain::id::AgentId;
use crate::domain::memory::BucketName;

/// Which of an agent's buckets a query names: none for all of them, and in it the session's id, or none for the agent's own.
fn wanted(params: &mut Params) -> Option<Option<String>> {
    let session = params.text("session");
    let bucket = params.of("bucket", "agent or session", |text| match text {
        "agent" => Some(BucketName::Agent),
        "session" => Some(BucketName::Session),
        _ => None,
    });
    match (bucket, &session) {
        (Some(BucketName::Agent), Some(_)) => params.fault("session", "does not go with `bucket=agent`; leave one of them out"),
        (Some(BucketName::Session), None) => params.fault("session", "must say which session's bucket is meant"),
        _ => {}
    }
    (bucket.is_some() || session.is_some()).then_some(session)
}

/// `GET /background/agents/{id}/memory`: the agent's buckets, with `session=ID` or `bucket=agent` the keys of one, with `key=` as well its
/// value.
pub(super) async fn show(State(api): State<Api>, PathId(id): PathId<AgentId>, mut params: Params) -> Answer {
    let bucket = wanted(&mut params);
    let key = params.text("key");
    let Some(session) = bucket else {
        if key.is_some() {
            params.fault("key", "is of one bucket: say which with `session=ID` or `bucket=agent`");
        }
        let page = pages::page(&mut params);
        params.finish()?;
        return Ok(Json(pages::shown("buckets", &api.manager.memory(&id, page).await?, page.newest_first)));
    };
    if let Some(key) = key {
        params.finish()?;
        return Ok(Json(api.manager.memory_value(&id, session.as_deref(), &key).await?));
    }
    let cursor = params.of("cursor", "a next_cursor that the daemon gave", |text| text.parse().ok()).unwrap_or(0);
    params.finish()?;
    Ok(Json(api.manager.memory_keys(&id, session.as_deref(), cursor).await?))
}

/// `DELETE /background/agents/{id}/memory`: all that the agent has kept, with `session=ID` or `bucket=agent` one bucket.
pub(super) async fn clear(State(api): State<Api>, PathId(id): PathId<AgentId>, mut params: Params) -> Answer {
    let bucket = wanted(&mut params);
    params.finish()?;
    Ok(Json(match bucket {
        None => api.manager.clear_memory(&id).await?,
        Some(session) => api.manager.clear_bucket(&id, session.as_deref()).await?,
    }))
}
