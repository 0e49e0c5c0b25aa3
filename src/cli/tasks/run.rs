//! `sandclock tasks run`: a run of a task, now.

use clap::Args;
use serde_json::{Map, Value};

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::{human, view, wait};
use crate::domain::id::{RunId, TaskId};
use crate::domain::time::Seconds;

#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    task: TaskId,
    /// What the agent is asked, instead of the task's own query
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    /// A JSON object that goes with the run
    #[arg(long, value_name = "JSON", value_parser = object)]
    metadata: Option<Map<String, Value>>,
    /// Wait until the run has ended, and end as it did
    #[arg(long)]
    wait: bool,
    /// How long to wait at most; the run goes on
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = wait::seconds)]
    timeout: Option<Seconds>,
}

/// Reads a JSON object.
pub(in crate::cli) fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("write a JSON object such as {{\"key\": \"value\"}} ({error})"))
}

pub(super) async fn execute(caller: &Caller<'_>, args: RunArgs) -> Result<Exit, Fault> {
    let mut body = Map::new();
    if let Some(query) = args.query {
        body.insert("query".to_owned(), Value::String(query));
    }
    if let Some(metadata) = args.metadata {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }
    let answer = caller.remote.post(&["tasks", args.task.as_str(), "run"], Some(&Value::Object(body))).await?;
    if !args.wait {
        return caller.show(&answer, text);
    }
    let run = view::text(&answer.value, "run_id").and_then(|run| RunId::parse(&run).ok());
    let run = run.ok_or_else(|| Fault::failed("the daemon's answer names no run; is it a sandclock daemon's address?"))?;
    wait::for_run(caller, run.as_str(), args.timeout).await
}

fn text(run: &Value) -> String {
    let (id, status) = (human::one_line(&view::shown(run, "run_id")), human::one_line(&view::shown(run, "status")));
    match status.as_str() {
        "skipped" => format!("{id} skipped: another run of the task is live\n"),
        _ => format!("{id} {status}; `sandclock runs wait {id}` waits for it\n"),
    }
}
