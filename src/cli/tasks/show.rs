//! `sandclock tasks show` and `sandclock tasks status`.

use serde_json::Value;

use crate::cli::budget;
use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::Sheet;
use crate::cli::view;
use crate::domain::id::TaskId;

pub(super) async fn task(caller: &Caller<'_>, task: &TaskId) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["tasks", task.as_str()], &[]).await?;
    caller.show(&answer, |task| sheet(caller, task))
}

/// A task as a sheet.
pub(super) fn sheet(caller: &Caller<'_>, task: &Value) -> String {
    let now = caller.now();
    let mut sheet = Sheet::new();
    sheet.entry("task", view::shown(task, "task_id"));
    sheet.entry("agent", view::shown(task, "agent_id"));
    sheet.entry("schedule", view::schedule(task));
    sheet.maybe("starts", view::moment(task, "schedule.start_at", now));
    sheet.maybe("ends", view::moment(task, "schedule.end_at", now));
    sheet.maybe("jitter", view::text(task, "schedule.jitter_seconds").map(|seconds| format!("up to {seconds} s")));
    sheet.entry("missed", view::shown(task, "schedule.misfire_policy"));
    sheet.entry("enabled", if view::flag(task, "enabled") { "yes" } else { "no" });
    sheet.entry("overlap", view::shown(task, "overlap_policy"));
    sheet.maybe("timeout", view::text(task, "timeout_seconds").map(|seconds| format!("{seconds} s")));
    sheet.entry("retries", retries(task));
    sheet.entry("session", view::text(task, "session_policy.session_id").unwrap_or_else(|| view::shown(task, "session_policy.mode")));
    let metadata = view::at(task, "metadata").filter(|metadata| metadata.as_object().is_some_and(|object| !object.is_empty()));
    sheet.maybe("metadata", metadata.map(ToString::to_string));
    sheet.maybe("from", view::text(task, "source"));
    sheet.maybe("created", view::moment(task, "created_at", now));
    sheet.maybe("changed", view::moment(task, "updated_at", now));
    sheet.maybe("budget", view::at(task, "budget").map(ToString::to_string));
    sheet.maybe("used", view::at(task, "used").map(|_| budget::used(task)));
    sheet.entry("query", view::shown(task, "query"));
    sheet.render(&caller.context.screen)
}

fn retries(task: &Value) -> String {
    let of = |name: &str| view::shown(task, &format!("retry_policy.{name}"));
    match view::count(task, "retry_policy.max_retries") {
        None | Some(0) => "none".to_owned(),
        Some(most) => {
            format!("at most {most}, {} from {} s to {} s", of("backoff"), of("initial_delay_seconds"), of("max_delay_seconds"))
        }
    }
}

pub(super) async fn status(caller: &Caller<'_>, task: &TaskId) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["tasks", task.as_str(), "status"], &[]).await?;
    caller.show(&answer, |status| {
        let now = caller.now();
        let mut sheet = Sheet::new();
        sheet.entry("task", view::shown(status, "task_id"));
        sheet.entry("agent", view::shown(status, "agent_id"));
        sheet.entry("schedule", view::schedule(status));
        let is_paused = view::flag(status, "schedule_state.paused");
        let why = view::text(status, "schedule_state.paused_reason").map(|why| format!(": {why}")).unwrap_or_default();
        let state = match (view::flag(status, "enabled"), is_paused) {
            (false, _) => "disabled".to_owned(),
            (true, true) => format!("paused{why}"),
            (true, false) => "active".to_owned(),
        };
        sheet.entry("state", state);
        sheet.maybe("next", view::moment(status, "schedule_state.next_due_at", now));
        sheet.maybe("last", view::moment(status, "schedule_state.last_dispatched_at", now));
        sheet.entry("runs", format!("{}, {} of them active", view::shown(status, "runs"), view::shown(status, "active_runs")));
        sheet.entry("by status", view::counts(status, "status_counts"));
        sheet.maybe("occurrences", occurrences(task, status));
        if let Some(run) = view::at(status, "latest_run").filter(|run| run.is_object()) {
            let age = view::age(run, "triggered_at", now);
            sheet.entry("latest", format!("{} {} {age}", view::shown(run, "run_id"), view::shown(run, "status")));
        }
        sheet.render(&caller.context.screen)
    })
}

/// What has become of the schedule's occurrences; nothing while it has had none.
fn occurrences(task: &TaskId, status: &Value) -> Option<String> {
    let total = |name: &str| view::count(status, &format!("schedule_state.totals.{name}")).unwrap_or(0);
    let (all, runs, skipped) = (total("occurrences"), total("runs"), total("skipped"));
    let hint = if skipped > 0 { format!("; `sandclock tasks skips {task}` has those that were") } else { String::new() };
    (all > 0).then(|| format!("{all} = {runs} runs + {skipped} skipped{hint}"))
}
