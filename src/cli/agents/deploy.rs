//! The verbs of deployment on one agent: history, rollback, pause, resume, release.

use serde_json::{Map, Value};

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::human;
use crate::cli::table::{Cell, Table};
use crate::cli::view;
use crate::domain::id::AgentId;

fn body(members: [(&str, Option<String>); 2]) -> Value {
    let given = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    Value::Object(given.collect::<Map<_, _>>())
}

/// What served when.
pub(super) async fn history(caller: &Caller<'_>, agent: &AgentId) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["agents", agent.as_str(), "history"], &[]).await?;
    caller.show(&answer, |history| listed(caller, agent, history))
}

fn listed(caller: &Caller<'_>, agent: &AgentId, history: &Value) -> String {
    let mut table = Table::new(&["DIGEST", "BY", "HOW", "SIZE", "WHEN", "STATE", "NOTE"]);
    let (serving, mut is_current) = (view::text(history, "serving"), true);
    for entry in view::list(history, "history") {
        let digest = view::text(entry, "digest");
        let serves = std::mem::take(&mut is_current) && digest == serving;
        let flag = |name: &str| view::at(entry, name).and_then(Value::as_bool).unwrap_or(false);
        let mut states = Vec::new();
        states.extend(serves.then_some("serves"));
        states.extend(flag("quarantined").then_some("quarantine"));
        states.extend((!flag("is_kept")).then_some("gone"));
        table.row(vec![
            Cell::new(digest.unwrap_or_else(|| "(plugins folder)".to_owned())),
            Cell::new(view::shown(entry, "by")),
            Cell::new(view::shown(entry, "how")),
            Cell::number(view::count(entry, "size_bytes").map(human::bytes).unwrap_or_default()),
            Cell::new(view::age(entry, "at", caller.now())),
            Cell::new(states.join(", ")),
            Cell::new(view::shown(entry, "note")),
        ]);
    }
    let empty = format!("nothing was pushed to agent {agent}: the plugins folder serves it");
    let mut text = caller.page(&table, history, &empty);
    if let Some(at) = view::text(history, "paused.at") {
        let why = view::text(history, "paused.reason").map(|reason| format!(": {}", human::one_line(&reason))).unwrap_or_default();
        text.push_str(&format!("paused since {at}{why}\n"));
    }
    text
}

/// Puts an earlier digest back.
pub(super) async fn roll_back(caller: &Caller<'_>, agent: &AgentId, to: Option<String>, note: Option<String>) -> Result<Exit, Fault> {
    let body = body([("to", to), ("note", note)]);
    let answer = caller.remote.post(&["agents", agent.as_str(), "rollback"], Some(&body)).await?;
    caller.show(&answer, |told| match view::text(told, "digest") {
        Some(digest) => format!("{} serves agent {agent} again\n", human::one_line(&digest)),
        None => format!("the plugins folder serves agent {agent} again\n"),
    })
}

/// Has an agent's runs wait.
pub(super) async fn pause(caller: &Caller<'_>, agent: &AgentId, reason: Option<String>) -> Result<Exit, Fault> {
    let body = body([("reason", reason), ("", None)]);
    let answer = caller.remote.post(&["agents", agent.as_str(), "pause"], Some(&body)).await?;
    caller.show(&answer, |_| format!("paused agent {agent}: its runs wait; `sandclock agents resume {agent}` lets them go on\n"))
}

/// Lets them go on.
pub(super) async fn resume(caller: &Caller<'_>, agent: &AgentId) -> Result<Exit, Fault> {
    let answer = caller.remote.post(&["agents", agent.as_str(), "resume"], None).await?;
    caller.show(&answer, |_| format!("resumed agent {agent}\n"))
}

/// Lets the digests go that are in quarantine.
pub(super) async fn release(caller: &Caller<'_>, agent: &AgentId) -> Result<Exit, Fault> {
    let answer = caller.remote.post(&["agents", agent.as_str(), "release"], None).await?;
    caller.show(&answer, |_| format!("released agent {agent}: its runs start again\n"))
}
