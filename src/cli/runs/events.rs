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
    /// How many events at most; all that there are when none is given
    #[arg(long, value_name = "N", conflicts_with = "follow", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// The most events that the daemon gives at once.
const PAGE: u64 = 1000;

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
    pages(caller, &args).await
}

/// Shows page after page until nothing is left, or as many as are wanted are shown.
async fn pages(caller: &Caller<'_>, args: &EventsArgs) -> Result<Exit, Fault> {
    let (mut after, mut left) = (args.after, args.limit);
    loop {
        let mut query = Vec::new();
        query.extend((after > 0).then(|| ("after", after.to_string())));
        query.extend(left.map(|left| ("limit", left.min(PAGE).to_string())));
        let answer = caller.remote.get(&["runs", args.run.as_str(), "events"], &query).await?;
        let count = view::list(&answer.value, "events").len() as u64;
        left = left.map(|left| left.saturating_sub(count));
        let next = view::text(&answer.value, "next_cursor");
        // A cursor that is no further number would be asked for without end.
        let goes_on = next.as_ref().and_then(|next| next.parse().ok()).filter(|next| *next > after && left != Some(0));
        caller.show(&answer, |events| page(caller, events, next.as_deref().filter(|_| goes_on.is_none())))?;
        match goes_on {
            Some(next) => after = next,
            None => return Ok(Exit::Done),
        }
    }
}

fn page(caller: &Caller<'_>, events: &Value, next: Option<&str>) -> String {
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
    if let Some(next) = next {
        text.push_str(&format!("there are more: add --after {}\n", human::one_line(next)));
    }
    text
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
