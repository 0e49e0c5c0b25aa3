//! Deployment: push a component, roll back, history, pause, resume, release.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::{NoBody, OptionalBody};
use super::error::Problem;
use super::params::{NoParams, Params, PathId};
use super::{Answer, Api};
use crate::daemon::manager::{Back, Deployed, Upload, Wish};
use crate::domain::id::AgentId;
use crate::domain::input::{Faults, Fields};
use crate::plugins::Digest;

/// How long a caller may send nothing in the middle of a component.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// How many bytes too many are still read, so that whoever sends them sees the answer and not a connection that breaks.
const TOO_MANY: u64 = 256 << 20;

fn who(caller: &Caller) -> Option<String> {
    caller.name().map(str::to_owned)
}

fn shown(deployed: Deployed) -> Json<Value> {
    Json(json!({"changed": deployed.changed, "digest": deployed.digest, "agent": deployed.agent}))
}

/// `PUT /background/agents/{id}/plugin?digest=&note=`, the component's bytes as the body.
pub(super) async fn push(
    State(api): State<Api>,
    caller: Caller,
    PathId(agent): PathId<AgentId>,
    mut params: Params,
    request: Request,
) -> Answer {
    let expected = params.of("digest", "64 hexadecimal digits, with or without `sha256:` before them", |text| Digest::parse(text).ok());
    let note = params.text("note");
    params.finish()?;
    let (parts, body) = request.into_parts();
    check_type(&parts.headers)?;
    let mut upload = api.manager.begin_upload(&agent).await?;
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > upload.most()) {
        drain(body).await;
        return Err(too_large(&upload));
    }
    take(&mut upload, body).await?;
    let who = who(&caller);
    Ok(shown(api.manager.push(&agent, upload, expected, Wish { who, note }).await?))
}

/// Web pages of other sites can send forms and plain text unasked, and neither is a component.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refused = |what: &str| {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("{what}: send the component's bytes with Content-Type: application/wasm."))
    };
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(refused("The body is compressed, which is not taken"));
    }
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/wasm" | "application/octet-stream" => Ok(()),
        _ => Err(refused("The body is not declared as a component")),
    }
}

fn too_large(upload: &Upload) -> Problem {
    let most = upload.most();
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The component is larger than {most} bytes, which is the most that a plugin may have."),
    )
    .with("max_plugin_bytes", most)
}

async fn take(upload: &mut Upload, mut body: Body) -> Result<(), Problem> {
    let broken = || Problem::new(StatusCode::BAD_REQUEST, "The body ended before it was whole, and nothing was changed; push it again.");
    loop {
        let frame = tokio::time::timeout(SILENT_FOR, body.frame()).await.map_err(|_| {
            let seconds = SILENT_FOR.as_secs();
            Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("Nothing came for {seconds} seconds, and nothing was changed; push it again."),
            )
        })?;
        let Some(frame) = frame else { return Ok(()) };
        let frame = frame.map_err(|_| broken())?;
        if let Ok(bytes) = frame.into_data()
            && !upload.write(&bytes).await?
        {
            drain(body).await;
            return Err(too_large(upload));
        }
    }
}

/// Reads what is left of a body and forgets it.
async fn drain(mut body: Body) {
    let mut left = TOO_MANY;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENT_FOR, body.frame()).await {
        let bytes = frame.into_data().map_or(0, |bytes| bytes.len());
        match left.checked_sub(u64::try_from(bytes).unwrap_or(u64::MAX)) {
            Some(fewer) => left = fewer,
            None => return,
        }
    }
}

/// `POST /background/agents/{id}/rollback`, `{"to": DIGEST or "folder", "note"}`.
pub(super) async fn roll_back(
    State(api): State<Api>,
    caller: Caller,
    PathId(agent): PathId<AgentId>,
    _: NoParams,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let mut faults = Faults::new();
    let mut fields = Fields::open("", body.unwrap_or_else(|| json!({})), &mut faults);
    let back = match fields.optional::<String>("to").as_deref() {
        None => Back::Before,
        Some("folder") => Back::Folder,
        Some(text) => match Digest::parse(text) {
            Ok(digest) => Back::To(digest),
            Err(_) => {
                fields.fault("to", "must be `folder` or a digest of the agent's history: 64 hexadecimal digits");
                Back::Before
            }
        },
    };
    let note: Option<String> = fields.optional("note");
    fields.refuse_rest(&["note", "to"]);
    faults.into_result(())?;
    Ok(shown(api.manager.roll_back(&agent, back, Wish { who: who(&caller), note }).await?))
}

/// `GET /background/agents/{id}/history`.
pub(super) async fn history(State(api): State<Api>, PathId(agent): PathId<AgentId>, _: NoParams) -> Answer {
    Ok(Json(api.manager.agent_history(&agent).await?))
}

/// `POST /background/agents/{id}/pause`, `{"reason"}`.
pub(super) async fn pause(
    State(api): State<Api>,
    caller: Caller,
    PathId(agent): PathId<AgentId>,
    _: NoParams,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let mut faults = Faults::new();
    let mut fields = Fields::open("", body.unwrap_or_else(|| json!({})), &mut faults);
    let reason: Option<String> = fields.optional("reason");
    fields.refuse_rest(&["reason"]);
    faults.into_result(())?;
    Ok(Json(api.manager.pause_agent(&agent, who(&caller), reason).await?))
}

/// `POST /background/agents/{id}/resume`.
pub(super) async fn resume(State(api): State<Api>, caller: Caller, PathId(agent): PathId<AgentId>, _: NoParams, _: NoBody) -> Answer {
    Ok(Json(api.manager.resume_agent(&agent, who(&caller)).await?))
}

/// `POST /background/agents/{id}/release`.
pub(super) async fn release(State(api): State<Api>, caller: Caller, PathId(agent): PathId<AgentId>, _: NoParams, _: NoBody) -> Answer {
    Ok(Json(api.manager.release_agent(&agent, who(&caller)).await?))
}
