//! `sandclock runs checkpoints`: what a run's attempts have left to those that follow.

use clap::Args;
use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Table};
use crate::cli::{human, view};
use crate::domain::id::RunId;

#[derive(Args, Clone, Debug)]
pub(super) struct CheckpointsArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
    /// Print the value of this one
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn execute(caller: &Caller<'_>, args: CheckpointsArgs) -> Result<Exit, Fault> {
    let has_name = args.name.is_some();
    let query: Vec<_> = args.name.map(|name| ("name", name)).into_iter().collect();
    let answer = caller.remote.get(&["runs", args.run.as_str(), "checkpoints"], &query).await?;
    caller.show(&answer, |answer| if has_name { view::content(answer) } else { names(caller, answer) })
}

fn names(caller: &Caller<'_>, answer: &Value) -> String {
    let mut table = Table::new(&["SIZE", "NAME"]);
    for checkpoint in view::list(answer, "checkpoints") {
        let size = view::count(checkpoint, "bytes").map(human::bytes).unwrap_or_default();
        table.row(vec![Cell::number(size), Cell::new(human::escaped(&view::shown(checkpoint, "name")))]);
    }
    caller.page(&table, answer, "the run has no checkpoints")
}
