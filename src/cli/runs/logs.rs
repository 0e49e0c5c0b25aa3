//! `sandclock runs logs`: what an agent wrote to stdout and stderr.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::remote::Answer;
use crate::cli::screen::Colour;
use crate::cli::{human, view};
use crate::domain::id::RunId;
use crate::domain::run::Status;

/// How long to leave a log alone that has nothing new: there is no stream of it, and people read slower.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Args, Clone, Debug)]
pub(super) struct LogsArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
    /// The attempt; the latest one when none is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Go on until the attempt, or without --attempt the run, has ended
    #[arg(long, short)]
    follow: bool,
    /// Show when each line came, and on which stream
    #[arg(long, short)]
    timestamps: bool,
}

/// Where the reading stands.
struct Place {
    /// The attempt, once it is known.
    attempt: Option<u32>,
    /// The offset after what was read.
    after: u64,
    /// Whether there was anything to print.
    has_lines: bool,
}

pub(super) async fn execute(caller: &Caller<'_>, args: LogsArgs) -> Result<Exit, Fault> {
    let mut place = Place { attempt: args.attempt, after: 0, has_lines: false };
    let mut is_finished;
    loop {
        let page = page(caller, &args, &mut place).await?;
        if !view::flag(&page.value, "at_end") {
            continue;
        }
        is_finished = view::flag(&page.value, "finished");
        if !args.follow || (is_finished && is_over(caller, &args, &mut place).await?) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if !place.has_lines && !caller.json {
        let hint = if is_finished { "" } else { " yet; --follow waits for it" };
        caller.context.screen.note(&format!("{} wrote nothing{hint}", args.run));
    }
    Ok(Exit::Done)
}

/// Reads and prints one page, and moves the place behind it.
async fn page(caller: &Caller<'_>, args: &LogsArgs, place: &mut Place) -> Result<Answer, Fault> {
    let mut query = vec![("after", place.after.to_string()), ("limit", "1000".to_owned())];
    query.extend(place.attempt.map(|attempt| ("attempt", attempt.to_string())));
    let answer = caller.remote.get(&["runs", args.run.as_str(), "logs"], &query).await?;
    let value = &answer.value;
    let lines = view::list(value, "lines");
    let next = view::count(value, "next_offset").unwrap_or(place.after);
    if lines.is_empty() && next <= place.after && !view::flag(value, "at_end") {
        // A page that does not move on would be asked for without end.
        return Err(Fault::failed(format!("the log of {} does not go on at byte {next}; look into the daemon's log", args.run)));
    }
    if caller.json {
        if !(args.follow && lines.is_empty()) {
            caller.context.screen.json(&answer.raw)?;
        }
    } else {
        for line in lines {
            caller.context.screen.line(&shown(caller, args, line))?;
        }
    }
    place.has_lines |= !lines.is_empty();
    place.after = next;
    if place.attempt.is_none() {
        place.attempt = view::count(value, "attempt").and_then(|attempt| u32::try_from(attempt).ok()).filter(|attempt| *attempt > 0);
    }
    Ok(answer)
}

/// Whether nothing follows a finished attempt; otherwise the place moves to the attempt after it when there is one.
async fn is_over(caller: &Caller<'_>, args: &LogsArgs, place: &mut Place) -> Result<bool, Fault> {
    if args.attempt.is_some() {
        return Ok(true);
    }
    let run = caller.remote.get(&["runs", args.run.as_str()], &[]).await?.value;
    let latest = view::count(&run, "attempt").and_then(|attempt| u32::try_from(attempt).ok()).unwrap_or(0);
    if let Some(shown) = place.attempt.filter(|shown| latest > *shown) {
        (place.attempt, place.after) = (Some(shown + 1), 0);
        return Ok(false);
    }
    Ok(Status::parse(&view::shown(&run, "status")).is_none_or(Status::is_settled))
}

fn shown(caller: &Caller<'_>, args: &LogsArgs, line: &Value) -> String {
    let screen = &caller.context.screen;
    if let Some(dropped) = view::count(line, "truncated") {
        return screen.paint(Colour::Dim, &format!("({} more were over the limit and are not kept)", human::bytes(dropped)));
    }
    if let Some(level) = view::text(line, "level") {
        return entry(caller, args, line, &level);
    }
    let text = human::printable(&view::shown(line, "text"));
    let stream = view::shown(line, "stream");
    let text = if stream == "stderr" { screen.paint(Colour::Busy, &text) } else { text };
    if args.timestamps {
        let at = view::time(line, "at").map(human::local).unwrap_or_default();
        return format!("{at} {:<6} {text}", human::one_line(&stream));
    }
    text
}

/// A line that the guest gave a level: `WARN  context: message`.
fn entry(caller: &Caller<'_>, args: &LogsArgs, line: &Value, level: &str) -> String {
    let screen = &caller.context.screen;
    let level = format!("{:<5}", human::one_line(level).to_uppercase());
    let level = match level.trim_end() {
        "WARN" => screen.paint(Colour::Busy, &level),
        "ERROR" | "CRITICAL" => screen.paint(Colour::Bad, &level),
        _ => screen.paint(Colour::Dim, &level),
    };
    let context = view::text(line, "context").filter(|context| !context.is_empty());
    let context = context.map(|context| format!("{}: ", human::one_line(&context))).unwrap_or_default();
    let text = format!("{level} {context}{}", human::escaped(&view::shown(line, "text")));
    if args.timestamps {
        let at = view::time(line, "at").map(human::local).unwrap_or_default();
        return format!("{at} {:<6} {text}", "log");
    }
    text
}
