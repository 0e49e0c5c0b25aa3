//! `sandclock tasks run`: a run of a task, now.

use clap::Args;
use serde_json::{Map, Value};

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::{human, view, wait};
use crate::domain::id::{RunId, TaskId};
use crate::domain::idempotency::IdempotencyKey;
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
    /// A name of your own for this request: given again with the same request, it makes no second run
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
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

/// Reads an idempotency key.
pub(in crate::cli) fn key(text: &str) -> Result<String, String> {
    let checked = IdempotencyKey::parse("", text, "", None);
    checked.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) async fn execute(caller: &Caller<'_>, args: RunArgs) -> Result<Exit, Fault> {
    let mut body = Map::new();
    if let Some(query) = args.query {
        body.insert("query".to_owned(), Value::String(query));
    }
    if let Some(metadata) = args.metadata {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }
    let (path, body) = (["tasks", args.task.as_str(), "run"], Value::Object(body));
    let answer = caller.remote.post_once(&path, &body, args.idempotency_key.as_deref()).await?;
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
