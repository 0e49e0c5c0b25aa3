//! `sandclock status`: the daemon at a glance.

use clap::Args;
use serde_json::Value;

use super::Context;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::human;
use super::remote::ClientArgs;
use super::table::Sheet;
use super::view;

/// The daemon at a glance
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or says no.
pub async fn execute(args: StatusArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    let answer = caller.remote.get(&["status"], &[]).await?;
    caller.show(&answer, |status| text(&caller, status))
}

fn text(caller: &Caller<'_>, status: &Value) -> String {
    let mut sheet = Sheet::new();
    let works = if view::flag(status, "running") { "running" } else { "not running" };
    sheet.entry("worker", format!("{works} as {}", view::shown(status, "worker_id")));
    sheet.entry("agents", view::shown(status, "agents"));
    sheet.entry("tasks", view::shown(status, "tasks"));
    sheet.entry("runs", format!("{}, {} of them active", view::shown(status, "runs"), view::shown(status, "active_runs")));
    sheet.entry("by status", view::counts(status, "status_counts"));
    sheet.maybe("lease", view::text(status, "lease_seconds").map(|seconds| format!("{seconds} s")));
    configuration(&mut sheet, status);
    let known = ["running", "initialized", "worker_id", "agents", "tasks", "runs", "active_runs", "status_counts", "lease_seconds"];
    let more: Vec<String> = status
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !known.contains(&name.as_str()) && !value.is_object() && !value.is_array() && !value.is_null())
        .map(|(name, _)| format!("{name} {}", view::shown(status, name)))
        .collect();
    sheet.maybe("more", (!more.is_empty()).then(|| more.join(", ")));
    sheet.render(&caller.context.screen)
}

/// When the configuration was read, what is wrong with it, and what of it waits for the next start.
fn configuration(sheet: &mut Sheet, status: &Value) {
    let Some(told) = status.get("configuration").filter(|told| told.is_object()) else { return };
    let of = view::text(told, "file").map(|file| format!(" from {}", human::one_line(&file))).unwrap_or_default();
    sheet.maybe("configuration", view::text(told, "read_at").map(|at| format!("read at {at}{of}")));
    for (title, field) in [("faults", "faults"), ("at next start", "next_start")] {
        let lines: Vec<String> =
            told.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(human::one_line).collect();
        // A value of several lines is set below its name.
        sheet.maybe(title, (!lines.is_empty()).then(|| lines.join("\n")));
    }
}
