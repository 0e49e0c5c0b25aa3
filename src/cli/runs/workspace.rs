//! `sandclock runs workspace`: a run's files.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::download;
use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::human;
use crate::cli::table::{Cell, Table};
use crate::cli::view;
use crate::domain::id::RunId;

#[derive(Args, Clone, Debug)]
pub(super) struct WorkspaceArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
    /// Get this file instead of listing all
    #[arg(long, value_name = "PATH", conflicts_with_all = ["json", "limit", "cursor"])]
    get: Option<String>,
    /// Where to write the file; stdout when none is given
    #[arg(long, short, value_name = "FILE", requires = "get")]
    output: Option<PathBuf>,
    /// How many entries at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Where the page before this one says that it goes on
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

pub(super) async fn execute(caller: &Caller<'_>, args: WorkspaceArgs) -> Result<Exit, Fault> {
    if let Some(path) = &args.get {
        let path = path.trim_start_matches("./").trim_start_matches('/');
        let mut segments = vec!["runs", args.run.as_str(), "workspace", "files"];
        segments.extend(path.split('/'));
        return download::to(caller, &segments, args.output.as_deref()).await;
    }
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.cursor.clone().map(|cursor| ("cursor", cursor)));
    let answer = caller.remote.get(&["runs", args.run.as_str(), "workspace"], &query).await?;
    caller.show(&answer, |workspace| text(caller, &args.run, workspace))
}

fn text(caller: &Caller<'_>, run: &RunId, workspace: &Value) -> String {
    let mut table = Table::new(&["SIZE", "CHANGED", "PATH"]);
    for file in view::list(workspace, "files") {
        let kind = view::text(file, "kind").unwrap_or_default();
        let size = match kind.as_str() {
            "" | "file" => view::count(file, "size").map(human::bytes).unwrap_or_default(),
            other => other.to_owned(),
        };
        let path = view::text(file, "relative_path").unwrap_or_else(|| view::shown(file, "path"));
        let path = if view::flag(file, "is_dir") { format!("{path}/") } else { path };
        table.row(vec![Cell::number(size), Cell::new(view::age(file, "modified_at", caller.now())), Cell::new(path)]);
    }
    let mut text = caller.page(&table, workspace, &format!("the workspace of {run} is empty"));
    for note in [view::text(workspace, "note"), place(workspace)].into_iter().flatten() {
        text.push_str(&format!("{}\n", human::one_line(&note)));
    }
    text
}

/// Where the workspace is on the daemon's machine.
fn place(workspace: &Value) -> Option<String> {
    let path = view::text(workspace, "workspace_path")?;
    Some(view::text(workspace, "workspace_root").map_or_else(|| format!("in {path}"), |root| format!("in {root}/{path}")))
}
