//! `sandclock runs show` and `sandclock runs attempts`.

use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Sheet, Table};
use crate::cli::{human, view};
use crate::domain::id::RunId;

pub(super) async fn run(caller: &Caller<'_>, run: &RunId) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["runs", run.as_str()], &[]).await?;
    caller.show(&answer, |run| sheet(caller, run))
}

fn sheet(caller: &Caller<'_>, run: &Value) -> String {
    let now = caller.now();
    let mut sheet = Sheet::new();
    sheet.entry("run", view::shown(run, "run_id"));
    sheet.entry("task", view::shown(run, "task_id"));
    sheet.entry("agent", view::shown(run, "agent_id"));
    sheet.entry("status", view::shown(run, "status"));
    sheet.entry("attempt", format!("{} of {}", view::shown(run, "attempt"), view::shown(run, "max_attempts")));
    sheet.entry("trigger", view::shown(run, "trigger_type"));
    sheet.maybe("asked for", view::moment(run, "triggered_at", now));
    sheet.maybe("due", view::moment(run, "due_at", now));
    sheet.maybe("queued", view::moment(run, "queued_at", now));
    sheet.maybe("started", view::moment(run, "started_at", now));
    sheet.maybe("finished", view::moment(run, "finished_at", now));
    sheet.maybe("took", view::took(run, "started_at", "finished_at", now).map(human::span));
    sheet.maybe("cancel", view::moment(run, "cancel_requested_at", now));
    sheet.maybe("worker", view::text(run, "lease_owner"));
    sheet.maybe("lease ends", view::moment(run, "lease_expires_at", now));
    sheet.maybe("used", used(run));
    sheet.maybe("session", view::text(run, "session_id"));
    sheet.maybe("workspace", view::text(run, "workspace_path"));
    for name in ["metadata", "trigger_metadata"] {
        let object = view::at(run, name).filter(|object| object.as_object().is_some_and(|object| !object.is_empty()));
        sheet.maybe(if name == "metadata" { "metadata" } else { "sent along" }, object.map(ToString::to_string));
    }
    sheet.entry("query", view::shown(run, "query_snapshot"));
    sheet.maybe("asks", view::text(run, "parked.question"));
    sheet.maybe("under", view::text(run, "parked.key"));
    sheet.maybe("waits until", view::moment(run, "parked.until", now));
    sheet.maybe("error", view::text(run, "error"));
    sheet.maybe("result", view::text(run, "result_preview"));
    sheet.render(&caller.context.screen)
}

/// What the run's attempts used, in a line.
fn used(run: &Value) -> Option<String> {
    view::at(run, "usage")?;
    let seconds = |name: &str| view::seconds(run, name).unwrap_or_default();
    let mut parts = vec![
        format!("{} of time", human::span(seconds("usage.wall_seconds"))),
        format!("{} of CPU", human::span(seconds("usage.cpu_seconds"))),
    ];
    let count = |name: &str| view::count(run, name).unwrap_or_default();
    if count("usage.calls") > 0 {
        parts.push(format!("{} outgoing calls of {}", count("usage.calls"), human::bytes(count("usage.bytes"))));
    }
    if count("usage.tokens") > 0 {
        parts.push(format!("{} tokens for {}", count("usage.tokens"), view::shown(run, "usage.money")));
    }
    Some(parts.join(", "))
}

/// The tokens of an attempt; those that are estimated have a mark.
fn tokens(attempt: &Value) -> String {
    let count = |name: &str| view::count(attempt, name).unwrap_or_default();
    match count("usage.models.input_tokens") + count("usage.models.output_tokens") {
        0 => String::new(),
        tokens if count("usage.models.estimated_tokens") > 0 => format!("~{tokens}"),
        tokens => tokens.to_string(),
    }
}

pub(super) async fn attempts(caller: &Caller<'_>, run: &RunId) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["runs", run.as_str(), "attempts"], &[]).await?;
    caller.show(&answer, |attempts| {
        let now = caller.now();
        let mut table =
            Table::new(&["#", "STATUS", "REASON", "STARTED", "TOOK", "CPU", "MEMORY", "CALLS", "TOKENS", "MONEY", "WORKER", "ERROR"]);
        for attempt in view::list(attempts, "attempts") {
            let took = view::took(attempt, "started_at", "finished_at", now).map(human::span);
            table.row(vec![
                Cell::number(view::shown(attempt, "attempt_number")),
                view::status_cell(&view::shown(attempt, "status")),
                Cell::new(view::shown(attempt, "reason")),
                Cell::new(view::age(attempt, "started_at", now)),
                Cell::number(took.unwrap_or_default()),
                Cell::number(view::seconds(attempt, "usage.cpu_seconds").map(human::span).unwrap_or_default()),
                Cell::number(view::count(attempt, "usage.peak_memory_bytes").map(human::bytes).unwrap_or_default()),
                Cell::number(view::shown(attempt, "usage.outgoing.calls")),
                Cell::number(tokens(attempt)),
                Cell::number(view::shown(attempt, "usage.models.money")),
                Cell::new(view::shown(attempt, "worker_id")),
                Cell::new(view::shown(attempt, "error")),
            ]);
        }
        caller.page(&table, attempts, &format!("no attempt of {run} yet: it waits for its time, its turn or a worker"))
    })
}
