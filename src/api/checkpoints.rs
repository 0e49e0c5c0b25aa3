//! What a run's attempts have left to those that follow.

use axum::Json;
use axum::extract::State;

use super::params::{Params, PathId};
use super::{Answer, Api};
use crate::domain::id::RunId;

/// `GET /background/runs/{id}/checkpoints`: the names and lengths, with `name=` the value of one.
pub(super) async fn show(State(api): State<Api>, PathId(id): PathId<RunId>, mut params: Params) -> Answer {
    let name = params.text("name");
    params.finish()?;
    Ok(Json(match name {
        None => api.manager.checkpoints(&id).await?,
        Some(name) => api.manager.checkpoint(&id, &name).await?,
    }))
}
