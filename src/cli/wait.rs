//! Waits for a run by its event stream, showing what it tells of itself, and says how it ended.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::Value;

use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::human;
use super::remote::Answer;
use super::screen::Colour;
use super::{runs, sse, view};
use crate::domain::run::Status;
use crate::domain::time::Seconds;

/// How long a run may wait in the queue before whoever waits for it is told why.
const UNEXPLAINED: Duration = Duration::from_secs(3);

/// Reads a number of seconds, fractions allowed.
///
/// # Errors
/// A sentence that says what would be right.
pub fn seconds(text: &str) -> Result<Seconds, String> {
    let seconds = text.parse().ok().and_then(Seconds::from_f64).filter(|seconds| !seconds.is_zero());
    seconds.ok_or_else(|| "write a number of seconds above 0, such as `30` or `0.5`".to_owned())
}

/// Waits until a run has ended or is parked, prints how, and gives the exit of that. It asks nothing twice: the daemon tells.
///
/// # Errors
/// The time is over, a signal comes, the daemon is unreachable or says no.
pub async fn for_run(caller: &Caller<'_>, run: &str, most: Option<Seconds>) -> Result<Exit, Fault> {
    let again = format!("it goes on; `sandclock runs wait {run}` waits again");
    let settled = settled(caller, run);
    let waited = tokio::select! {
        biased;
        settled = settled => settled,
        () = caller.context.signals.asked().cancelled_owned() => {
            Err(Fault::new(Exit::Interrupted, format!("the wait for {run} was interrupted, {again}")))
        }
        () = over(most) => Err(Fault::new(Exit::WaitRanOut, format!("{run} did not end in time, {again}"))),
    };
    caller.context.screen.clear_status();
    let answer = waited?;
    tell(caller, run, &answer).await?;
    Ok(exit_of(&answer.value))
}

async fn over(most: Option<Seconds>) {
    match most {
        Some(most) => tokio::time::sleep(most.duration()).await,
        None => std::future::pending().await,
    }
}

/// Follows the run to its end, or to where it is parked, and reads it.
async fn settled(caller: &Caller<'_>, run: &str) -> Result<Answer, Fault> {
    let started = tokio::time::Instant::now();
    let latest = RefCell::new("waiting".to_owned());
    let show = || caller.context.screen.status(&format!("{run}  {}  {}", human::span(started.elapsed()), latest.borrow()));
    let follow = sse::follow(&caller.remote, run, 0, async |event: &Value, _: &str| {
        *latest.borrow_mut() = news(event);
        show();
        let is_parked = Status::parse(&view::shown(event, "status")).is_some_and(Status::is_waiting);
        if !is_parked {
            return Ok(ControlFlow::Continue(()));
        }
        // An event of the past may tell of a run that goes on since.
        let answer = caller.remote.get(&["runs", run], &[]).await?;
        let is_still = Status::parse(&view::shown(&answer.value, "status")).is_some_and(Status::is_waiting);
        Ok(if is_still { ControlFlow::Break(answer) } else { ControlFlow::Continue(()) })
    });
    let tick = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            show();
        }
    };
    let parked = tokio::select! {
        parked = follow => parked?,
        () = tick => None,
        () = explain(caller, run) => None,
    };
    match parked {
        Some(answer) => Ok(answer),
        None => caller.remote.get(&["runs", run], &[]).await,
    }
}

/// Says once why a run does not begin, when it has not begun for a while; never returns.
async fn explain(caller: &Caller<'_>, run: &str) {
    tokio::time::sleep(UNEXPLAINED).await;
    let answer = caller.remote.get(&["runs", run, "why"], &[]).await;
    // Who waits goes on waiting, whatever comes of it.
    if let Some(why) = answer.ok().map(|answer| answer.value).filter(|why| view::shown(why, "status") == "queued" && !caller.json) {
        let screen = &caller.context.screen;
        screen.clear_status();
        screen.note(&screen.paint_note(Colour::Dim, &format!("{run} queued: {}", runs::sentence(&why, caller.now()))));
    }
    std::future::pending().await
}

/// What an event tells, in a few words.
fn news(event: &Value) -> String {
    let status = view::shown(event, "status");
    match (view::text(event, "message"), view::at(event, "fraction").and_then(Value::as_f64)) {
        (Some(message), Some(part)) => format!("{status}  {:.0}%  {message}", part.clamp(0.0, 1.0) * 100.0),
        (Some(message), None) => format!("{status}  {message}"),
        (None, _) => status,
    }
}

async fn tell(caller: &Caller<'_>, run: &str, answer: &Answer) -> Result<(), Fault> {
    let screen = &caller.context.screen;
    if caller.json {
        return screen.json(&answer.raw);
    }
    let value = &answer.value;
    let status = view::shown(value, "status");
    let shown = view::colour_of(&status).map_or_else(|| status.clone(), |colour| screen.paint(colour, &human::one_line(&status)));
    let took = view::took(value, "triggered_at", "finished_at", caller.now()).map(|took| format!(" after {}", human::span(took)));
    let attempts = view::count(value, "attempt").filter(|attempt| *attempt > 1).map(|attempt| format!(" in {attempt} attempts"));
    let error = view::text(value, "error").map(|error| format!(": {}", human::one_line(&error)));
    let line = [took, attempts, error].into_iter().flatten().collect::<String>();
    screen.line(&format!("{run} {shown}{line}"))?;
    match status.as_str() {
        "completed" => screen.text(&result(caller, run).await?),
        "awaiting_approval" if view::text(value, "parked.key").is_some() => {
            screen.line(&human::one_line(&view::shown(value, "parked.question")))?;
            screen.line(&format!("answer it with `sandclock approvals approve {run}` or `sandclock approvals deny {run}`"))
        }
        "awaiting_budget" if view::text(value, "parked.meter").is_some() => {
            screen.line(&format!("`sandclock runs why {run}` says what to grant so that it goes on"))
        }
        "awaiting_approval" | "awaiting_budget" => screen.line(&format!("let it go on with `sandclock runs resume {run}`")),
        "failed" | "timeout" => {
            screen.note(&screen.paint_note(Colour::Dim, &format!("what it wrote: `sandclock runs logs {run}`")));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The run's result, safe for a terminal and ending its lines; nothing when there is none.
async fn result(caller: &Caller<'_>, run: &str) -> Result<String, Fault> {
    let response = match caller.remote.open_stream(&["runs", run, "result"], "text/plain", None).await {
        Ok(response) => response,
        Err(fault) if fault.exit() == Exit::NotFound => return Ok(String::new()),
        Err(fault) => return Err(fault),
    };
    let text = response.text().await.map_err(|error| caller.remote.unreachable(&error))?;
    let text = human::printable(text.trim_end());
    Ok(if text.is_empty() { text } else { format!("{text}\n") })
}

/// The exit of a command that waited for this run.
pub fn exit_of(run: &Value) -> Exit {
    match Status::parse(&view::shown(run, "status")) {
        Some(Status::Completed) => Exit::Done,
        Some(Status::Skipped) => Exit::Conflict,
        Some(Status::Failed | Status::Cancelled | Status::Timeout) => Exit::Failed,
        Some(Status::Queued | Status::Claimed | Status::Running | Status::Retrying | Status::AwaitingApproval | Status::AwaitingBudget) => {
            Exit::WaitRanOut
        }
        None => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_status_has_its_exit() {
        for status in Status::ALL {
            let expected = match status.as_str() {
                "completed" => 0,
                "failed" | "cancelled" | "timeout" => 1,
                "skipped" => 4,
                _ => 5,
            };
            assert_eq!(exit_of(&json!({"status": status})).code(), expected, "{}", status.as_str());
        }
        assert_eq!(exit_of(&json!({"status": "of the future"})), Exit::Failed);
    }

    #[test]
    fn seconds_are_positive_numbers() {
        assert_eq!(seconds("0.5").unwrap().duration(), Duration::from_millis(500));
        for bad in ["0", "-1", "NaN", "inf", "1s", "", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn progress_reads_as_words() {
        assert_eq!(news(&json!({"status": "running", "message": "reads", "fraction": 0.4})), "running  40%  reads");
        assert_eq!(news(&json!({"status": "queued"})), "queued");
    }
}
