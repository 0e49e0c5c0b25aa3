//! `sandclock tasks create`: a task from flags or from a JSON file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::run::{key, object};
use super::show;
use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::human;
use crate::cli::wait::seconds;
use crate::cli::when;
use crate::domain::id::{AgentId, TaskId};
use crate::domain::time::Seconds;

/// The largest file that is sent, in bytes.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(Args, Clone, Debug)]
pub(super) struct CreateArgs {
    /// A JSON file with the task as the API takes it; `-` reads it from stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "agent", "query", "schedule", "timezone", "start_at", "end_at",
        "timeout", "overlap", "max_retries", "metadata", "budget", "disabled"])]
    file: Option<PathBuf>,
    /// The task's id
    #[arg(long, value_parser = TaskId::parse, required_unless_present = "file")]
    id: Option<TaskId>,
    /// The agent that executes it; the daemon's default agent when none is given
    #[arg(long, value_parser = AgentId::parse)]
    agent: Option<AgentId>,
    /// What the agent is asked
    #[arg(long, value_name = "TEXT", required_unless_present = "file")]
    query: Option<String>,
    /// When it runs: manual, 'every 90s', 'cron "*/5 * * * *"', 'once 2026-12-24T18:00:00'
    #[arg(long, value_name = "WHEN", value_parser = when::schedule)]
    schedule: Option<Value>,
    /// The IANA zone of cron labels and of times without an offset
    #[arg(long, value_name = "ZONE", requires = "schedule")]
    timezone: Option<String>,
    /// The time before which nothing runs
    #[arg(long, value_name = "TIME", requires = "schedule")]
    start_at: Option<String>,
    /// The time after which nothing runs
    #[arg(long, value_name = "TIME", requires = "schedule")]
    end_at: Option<String>,
    /// How long one attempt may take
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Seconds>,
    /// What happens while a run of it is live
    #[arg(long, value_name = "POLICY", value_parser = ["skip_if_running", "queue_next", "cancel_previous", "allow_parallel"])]
    overlap: Option<String>,
    /// How many attempts may follow a failed first one
    #[arg(long, value_name = "N")]
    max_retries: Option<u32>,
    /// A JSON object that goes with each run
    #[arg(long, value_name = "JSON", value_parser = object)]
    metadata: Option<Map<String, Value>>,
    /// What it and its runs may spend, such as '{"run": {"tokens": 20000}, "task": {"money": 5}}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    budget: Option<Map<String, Value>>,
    /// Make it without letting it run yet
    #[arg(long)]
    disabled: bool,
    /// Replace the task of that id if there is one
    #[arg(long)]
    replace: bool,
    /// A name of your own for this request: given again with the same request, it changes nothing
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

pub(super) async fn execute(caller: &Caller<'_>, args: CreateArgs) -> Result<Exit, Fault> {
    let (replace, key) = (args.replace, args.idempotency_key.clone());
    let mut task = match &args.file {
        Some(file) => {
            let file = file.clone();
            let read = tokio::task::spawn_blocking(move || from_file(&file)).await;
            read.map_err(|error| Fault::failed(format!("the file could not be read ({error}); try again")))??
        }
        None => from_flags(args),
    };
    if replace {
        task.insert("replace".to_owned(), Value::Bool(true));
    }
    let answer = caller.remote.post_once(&["tasks"], &Value::Object(task), key.as_deref()).await?;
    caller.show(&answer, |task| show::sheet(caller, task))
}

fn from_flags(args: CreateArgs) -> Map<String, Value> {
    let mut schedule = args.schedule.unwrap_or_else(|| json!({"type": "manual"}));
    if let Value::Object(fields) = &mut schedule {
        for (name, value) in [("timezone", args.timezone), ("start_at", args.start_at), ("end_at", args.end_at)] {
            fields.extend(value.map(|value| (name.to_owned(), Value::String(value))));
        }
    }
    let fields = [
        ("task_id", args.id.map(|id| json!(id))),
        ("agent_id", args.agent.map(|agent| json!(agent))),
        ("query", args.query.map(Value::String)),
        ("schedule", Some(schedule)),
        ("timeout_seconds", args.timeout.map(|timeout| json!(timeout))),
        ("overlap_policy", args.overlap.map(Value::String)),
        ("retry_policy", args.max_retries.map(|most| json!({"max_retries": most}))),
        ("metadata", args.metadata.map(Value::Object)),
        ("budget", args.budget.map(Value::Object)),
        ("enabled", args.disabled.then_some(Value::Bool(false))),
    ];
    fields.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value))).collect()
}

fn from_file(file: &Path) -> Result<Map<String, Value>, Fault> {
    let name = if file == Path::new("-") { "stdin".to_owned() } else { format!("`{}`", human::one_line(&file.to_string_lossy())) };
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(LARGEST + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text))
    };
    let count = read.map_err(|error| Fault::usage(format!("{name} cannot be read ({error}); name a JSON file that can")))?;
    if count as u64 > LARGEST {
        return Err(Fault::usage(format!("{name} is larger than {}; a task is not", human::bytes(LARGEST))));
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(task)) => Ok(task),
        Ok(_) => Err(Fault::usage(format!("{name} does not hold a JSON object; write the task as {{\"task_id\": …}}"))),
        Err(error) => Err(Fault::usage(format!("{name} is not valid JSON ({error}); write the task as {{\"task_id\": …}}"))),
    }
}
