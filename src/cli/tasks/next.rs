//! `sandclock tasks next`: the coming occurrences.

use clap::Args;
use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Table};
use crate::cli::{human, view};
use crate::domain::id::TaskId;

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
    let now = caller.now();
    let mut table = Table::new(&["IN THE TASK'S ZONE", "HERE", "DUE"]);
    for occurrence in view::list(next, "occurrences") {
        let due = view::time(occurrence, "due").or_else(|| view::time(occurrence, "nominal"));
        table.row(vec![
            Cell::new(view::shown(occurrence, "local")),
            Cell::new(view::time(occurrence, "nominal").map(human::local).unwrap_or_default()),
            Cell::new(due.map(|due| human::age(due, now)).unwrap_or_default()),
        ]);
    }
    let empty = format!("task {task} has no coming occurrence; `sandclock tasks run {task}` runs it now");
    let mut text = caller.page(&table, next, &empty);
    if view::flag(next, "paused") {
        text.push_str(&format!("it is paused and none of them runs; `sandclock tasks resume {task}` lets it go on\n"));
    } else if next.get("enabled").is_some() && !view::flag(next, "enabled") {
        text.push_str("it is disabled and none of them runs\n");
    }
    text
}
