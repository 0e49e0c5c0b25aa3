//! `sandclock tasks next`: the coming occurrences, across the next change of the clocks.

use clap::Args;
use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Table};
use crate::cli::{human, view};
use crate::domain::id::TaskId;
use crate::domain::time::Timestamp;

#[derive(Args, Clone, Debug)]
pub(super) struct NextArgs {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    task: TaskId,
    /// How many occurrences
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    count: u64,
}

pub(super) async fn execute(caller: &Caller<'_>, args: NextArgs) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["tasks", args.task.as_str(), "next"], &[("count", args.count.to_string())]).await?;
    caller.show(&answer, |next| text(caller, &args.task, next))
}

fn text(caller: &Caller<'_>, task: &TaskId, next: &Value) -> String {
    let shown = view::list(next, "occurrences");
    let beside = beside_the_change(next, shown);
    // The reader's own clock tells nothing new where it is the task's or UTC.
    let is_elsewhere = |occurrence: &Value| {
        let here = view::time(occurrence, "nominal").map(human::local).unwrap_or_default();
        !here.ends_with(&view::shown(occurrence, "offset")) && !here.ends_with("+00:00")
    };
    let has_here = shown.iter().any(is_elsewhere);
    let mut heads = vec!["IN THE TASK'S ZONE", "UTC"];
    heads.extend(has_here.then_some("HERE"));
    heads.extend(["DUE", "CLOCKS"]);
    let mut table = Table::new(&heads);
    for occurrence in shown.iter().chain(beside) {
        table.row(row(occurrence, has_here, caller.now()));
    }
    let empty = format!("task {task} has no coming occurrence; `sandclock tasks run {task}` runs it now");
    let mut text = caller.page(&table, next, &empty);
    if let Some(at) = view::time(next, "clock_change.at").filter(|_| !shown.is_empty()) {
        let (from, to) = (view::shown(next, "clock_change.from"), view::shown(next, "clock_change.to"));
        let zone = human::one_line(&view::shown(next, "timezone"));
        let change = human::one_line(&format!("from {from} to {to}"));
        text.push_str(&format!("the clocks of {zone} change {change} at {} UTC ({})\n", utc(at), human::age(at, caller.now())));
    }
    if view::flag(next, "paused") {
        text.push_str(&format!("it is paused and none of them runs; `sandclock tasks resume {task}` lets it go on\n"));
    } else if next.get("enabled").is_some() && !view::flag(next, "enabled") {
        text.push_str("it is disabled and none of them runs\n");
    }
    text
}

/// The occurrences on both sides of the next change of the clocks, those that are not among the shown ones.
fn beside_the_change<'a>(next: &'a Value, shown: &[Value]) -> Vec<&'a Value> {
    let Some(last) = shown.last().and_then(|last| view::time(last, "nominal")) else { return Vec::new() };
    let beside = ["clock_change.last_before", "clock_change.first_after"].map(|path| view::at(next, path));
    beside.into_iter().flatten().filter(|occurrence| view::time(occurrence, "nominal").is_some_and(|at| at > last)).collect()
}

fn row(occurrence: &Value, has_here: bool, now: Timestamp) -> Vec<Cell> {
    let nominal = view::time(occurrence, "nominal");
    let due = view::time(occurrence, "due").or(nominal);
    let mut row = vec![Cell::new(view::shown(occurrence, "local")), Cell::new(nominal.map(utc).unwrap_or_default())];
    if has_here {
        row.push(Cell::new(nominal.map(human::local).unwrap_or_default()));
    }
    row.push(Cell::new(due.map(|due| human::age(due, now)).unwrap_or_default()));
    row.push(Cell::new(clocks(occurrence)));
    row
}

fn utc(at: Timestamp) -> String {
    at.to_datetime().format("%Y-%m-%d %H:%M:%S").to_string()
}

/// How far the clocks have changed since the occurrence before this one: `1h ahead`, `30m back`.
fn clocks(occurrence: &Value) -> String {
    let seconds = view::at(occurrence, "offset_change_seconds").and_then(Value::as_i64).unwrap_or(0);
    let minutes = seconds.unsigned_abs() / 60;
    let span = match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes}m"),
        (hours, 0) => format!("{hours}h"),
        (hours, minutes) => format!("{hours}h{minutes:02}m"),
    };
    match seconds {
        0 => String::new(),
        1.. => format!("{span} ahead"),
        _ => format!("{span} back"),
    }
}
