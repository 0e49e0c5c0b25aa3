//! What runs ask people, and the answers.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::auth::Caller;
use super::body::JsonBody;
use super::error::Problem;
use super::params::{NoParams, Params, PathId, PathKey};
use super::tasks::value;
use super::{Answer, Api, pages};
use crate::daemon::manager::Word;
use crate::domain::approval::{LONGEST_APPROVER, LONGEST_TEXT};
use crate::domain::id::{RunId, TaskId};
use crate::domain::input::{Faults, Fields};

/// `GET /background/approvals?task_id=&limit=&cursor=&order=`: the runs that wait for a person.
pub(super) async fn waiting(State(api): State<Api>, mut params: Params) -> Answer {
    let task = params.id::<TaskId>("task_id");
    let page = pages::page(&mut params);
    params.finish()?;
    Ok(Json(pages::shown("approvals", &api.manager.waiting(task, page).await?, page.newest_first)))
}

/// `GET /background/runs/{id}/approvals`: what the run has asked so far, and the answers.
pub(super) async fn of_run(State(api): State<Api>, PathId(id): PathId<RunId>, _: NoParams) -> Answer {
    let questions = api.manager.questions(&id).await?.questions;
    let approvals: Vec<Value> = questions
        .iter()
        .map(|(key, asked)| {
            let mut shown = json!(asked);
            if let Value::Object(shown) = &mut shown {
                shown.insert("key".to_owned(), json!(key));
            }
            shown
        })
        .collect();
    Ok(Json(json!({"run_id": id, "approvals": approvals})))
}

/// `POST /background/runs/{id}/approvals/{key}`: `{decision: approve | deny, approver?, note?, attempt?}`. With the attempt whose question
/// was seen, another question under the same key is not answered.
pub(super) async fn answer(
    State(api): State<Api>,
    PathId(id): PathId<RunId>,
    PathKey(key): PathKey,
    _: NoParams,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Answer {
    let word = read(body, &caller)?;
    value(&api.manager.answer(&id, &key, word).await?)
}

fn read(body: Value, caller: &Caller) -> Result<Word, Problem> {
    let mut faults = Faults::new();
    let mut fields = Fields::open("", body, &mut faults);
    let decision = fields.required::<String>("decision");
    let approved = match decision.as_deref() {
        Some("approve") => true,
        Some("deny") | None => false,
        Some(_) => {
            fields.fault("decision", "must be approve or deny");
            false
        }
    };
    let by = text(&mut fields, "approver", LONGEST_APPROVER).filter(|by| !by.trim().is_empty());
    if by.as_ref().is_some_and(|by| by.contains('\n')) {
        fields.fault("approver", "must be one line");
    }
    let note = text(&mut fields, "note", LONGEST_TEXT).unwrap_or_default();
    let attempt = fields.optional::<u32>("attempt");
    fields.refuse_rest(&["decision", "approver", "note", "attempt"]);
    let by = by.unwrap_or_else(|| caller.told().to_owned());
    let token = caller.name().map(str::to_owned);
    faults.into_result(Word { approved, by, note, token, attempt }).map_err(Problem::from)
}

fn text(fields: &mut Fields<'_>, name: &str, most_bytes: usize) -> Option<String> {
    let text = fields.optional::<String>(name)?;
    if text.len() > most_bytes || text.chars().any(|given| given.is_control() && given != '\n') {
        fields.fault(name, format!("must have at most {most_bytes} bytes and no control characters"));
    }
    Some(text)
}
