//! `sandclock runs list`.

use clap::Args;
use serde_json::Value;

use crate::cli::caller::{Caller, Order, PageArgs};
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Table};
use crate::cli::{human, view};
use crate::domain::id::TaskId;
use crate::domain::run::Status;

#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    /// Only those of this task
    #[arg(long, value_parser = TaskId::parse)]
    task: Option<TaskId>,
    /// Only those of this status
    #[arg(long, value_parser = Status::ALL.map(Status::as_str))]
    status: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

pub(super) async fn execute(caller: &Caller<'_>, args: ListArgs) -> Result<Exit, Fault> {
    let mut query = args.page.query(Order::Desc);
    query.extend(args.task.as_ref().map(|task| ("task_id", task.to_string())));
    query.extend(args.status.clone().map(|status| ("status", status)));
    let answer = caller.remote.get(&["runs"], &query).await?;
    caller.show(&answer, |runs| text(caller, runs, &empty(&args)))
}

fn empty(args: &ListArgs) -> String {
    match (&args.page.cursor, &args.task, &args.status) {
        (Some(_), _, _) => "no more runs".to_owned(),
        (None, Some(task), None) => format!("no runs of task {task} yet: start one with `sandclock tasks run {task}`"),
        (None, None, None) => "no runs yet: start one with `sandclock tasks run TASK`; `sandclock tasks list` has the tasks".to_owned(),
        (None, _, Some(status)) => format!("no such run is {status}; without --status all are listed"),
    }
}

fn text(caller: &Caller<'_>, runs: &Value, empty: &str) -> String {
    let now = caller.now();
    let mut table = Table::new(&["RUN", "TASK", "STATUS", "ATTEMPT", "ASKED FOR", "TOOK", "RESULT"]);
    for run in view::list(runs, "runs") {
        let took = view::took(run, "started_at", "finished_at", now).map(human::span);
        let outcome = view::text(run, "error").or_else(|| view::text(run, "result_preview")).unwrap_or_default();
        table.row(vec![
            Cell::new(view::shown(run, "run_id")),
            Cell::new(view::shown(run, "task_id")),
            view::status_cell(&view::shown(run, "status")),
            Cell::number(format!("{}/{}", view::shown(run, "attempt"), view::shown(run, "max_attempts"))),
            Cell::new(view::age(run, "triggered_at", now)),
            Cell::number(took.unwrap_or_default()),
            Cell::new(human::cut(&human::one_line(&outcome), 80)),
        ]);
    }
    caller.page(&table, runs, empty)
}
