//! `sandclock runs events`: a run's history, or the run as it goes on.

use std::ops::ControlFlow;

use clap::Args;
use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Table};
use crate::cli::{human, sse, view};
use crate::domain::id::RunId;

/// What every event has; the rest tells of its kind.
const COMMON: [&str; 16] = [
    "event",
    "timestamp",
    "agent_id",
    "task_id",
    "run_id",
    "session_id",
    "status",
    "attempt",
    "workspace_path",
    "worker_id",
    "lease_generation",
    "heartbeat_at",
    "lease_expires_at",
    "occurrence_id",
    "due_at",
    "sequence",
];

#[derive(Args, Clone, Debug)]
pub(super) struct EventsArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
    /// Go on until the run has ended
    #[arg(long, short)]
    follow: bool,
    /// Only what follows the event of this sequence number
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    after: u64,
}

pub(super) async fn execute(caller: &Caller<'_>, args: EventsArgs) -> Result<Exit, Fault> {
    let run = args.run.as_str();
    if args.follow {
        let each = async |event: &Value, raw: &str| {
            if caller.json {
                caller.context.screen.json(raw)?
            } else {
                caller.context.screen.line(&line(event))?
            }
            Ok(ControlFlow::<()>::Continue(()))
        };
        sse::follow(&caller.remote, run, args.after, each).await?;
        return Ok(Exit::Done);
    }
    let query: &[_] = if args.after > 0 { &[("after", args.after.to_string())] } else { &[] };
    let answer = caller.remote.get(&["runs", run, "events"], query).await?;
    caller.show(&answer, |events| {
        let mut table = Table::new(&["#", "TIME", "EVENT", "STATUS", "ATTEMPT", "DETAIL"]);
        for event in view::list(events, "events") {
            table.row(vec![
                Cell::number(view::shown(event, "sequence")),
                Cell::new(at(event)),
                Cell::new(view::shown(event, "event")),
                view::status_cell(&view::shown(event, "status")),
                Cell::number(view::shown(event, "attempt")),
                Cell::new(detail(event)),
            ]);
        }
        let mut text = caller.page(&table, &Value::Null, "no more events; --follow waits for them");
        if let Some(last) = view::text(events, "next_cursor") {
            text.push_str(&format!("there are more: add --after {}\n", human::one_line(&last)));
        }
        text
    })
}

fn at(event: &Value) -> String {
    view::time(event, "timestamp").map(human::local).unwrap_or_default()
}

/// One event in one line, for a stream.
fn line(event: &Value) -> String {
    let name = view::shown(event, "event");
    let text = format!("{:>3}  {}  {name}  {}", view::shown(event, "sequence"), at(event), detail(event));
    human::printable(text.replace(['\n', '\t'], " ").trim_end())
}

/// What only this kind of event tells.
fn detail(event: &Value) -> String {
    let fields = event.as_object().into_iter().flatten();
    let told = fields.filter(|(name, value)| !COMMON.contains(&name.as_str()) && !value.is_null()).map(|(name, value)| match value {
        Value::String(text) => format!("{name}={}", human::one_line(text)),
        other => format!("{name}={other}"),
    });
    told.collect::<Vec<_>>().join(" ")
}
