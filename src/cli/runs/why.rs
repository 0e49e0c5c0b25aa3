//! `sandclock runs why`: why a run is where it is.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::screen::Colour;
use crate::cli::{human, view};
use crate::domain::id::RunId;
use crate::domain::time::Timestamp;

pub(super) async fn execute(caller: &Caller<'_>, run: &RunId) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["runs", run.as_str(), "why"], &[]).await?;
    let exit = caller.show(&answer, |why| {
        let status = human::one_line(&view::shown(why, "status"));
        let status = view::colour_of(&status).map_or_else(|| status.clone(), |colour| caller.context.screen.paint(colour, &status));
        format!("{run} {status}: {}\n", sentence(why, caller.now()))
    })?;
    if let Some(hint) = hint(run, &view::shown(&answer.value, "code"), &view::shown(&answer.value, "released_by")).filter(|_| !caller.json)
    {
        caller.context.screen.note(&caller.context.screen.paint_note(Colour::Dim, &hint));
    }
    Ok(exit)
}

/// The sentence with its times on the reader's clock, each with how far it is.
pub(in crate::cli) fn sentence(why: &Value, now: Timestamp) -> String {
    let mut sentence = view::shown(why, "sentence");
    // The daemon's clock may not be the reader's.
    let now = view::time(why, "as_of").unwrap_or(now);
    let mut times = BTreeSet::new();
    collect(why, &mut times);
    for text in times {
        if let Ok(at) = Timestamp::parse(text) {
            sentence = sentence.replace(text, &format!("{} ({})", human::local(at), human::age(at, now)));
        }
    }
    human::one_line(&sentence)
}

/// The members that are times.
fn collect<'a>(value: &'a Value, times: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(text) if Timestamp::parse(text).is_ok() => {
            times.insert(text);
        }
        Value::Object(members) => members.values().for_each(|member| collect(member, times)),
        Value::Array(members) => members.iter().for_each(|member| collect(member, times)),
        _ => {}
    }
}

/// What can be done about it from here.
fn hint(run: &RunId, code: &str, released_by: &str) -> Option<String> {
    Some(match code {
        // The sentence says what to grant.
        "parked" if released_by == "grant" => return None,
        "parked" if released_by == "answer" => format!(
            "answer it with `sandclock approvals approve {run}` or `sandclock approvals deny {run}`, or end it with `sandclock runs cancel {run}`"
        ),
        "parked" => format!("let it go on with `sandclock runs resume {run}`, or end it with `sandclock runs cancel {run}`"),
        "outcome_unknown" => {
            format!("what it wrote: `sandclock runs logs {run}`; `sandclock runs resume {run}` lets one that is held run again")
        }
        "failed" | "timeout" | "workers_lost" => {
            format!("what it wrote: `sandclock runs logs {run}`; `sandclock runs rerun {run}` runs it again")
        }
        "skipped" | "cancelled" | "wait_expired" => format!("`sandclock runs rerun {run}` runs it again"),
        "agent_unknown" | "agent_not_serving" => "`sandclock plugins` shows what became of each plugin file".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_told_from_the_daemon_s_present_on_the_reader_s_clock() {
        let due = "2026-11-22T05:00:12.000000Z";
        let why = json!({"sentence": format!("It waits for retry 2 of 3 at {due}, because attempt 1 failed: \u{1b}[2J"),
            "as_of": "2026-11-22T05:00:00.000000Z", "retry": {"due_at": due}});
        let told = sentence(&why, Timestamp::MIN);
        let local = human::local(Timestamp::parse(due).unwrap());
        assert_eq!(told, format!("It waits for retry 2 of 3 at {local} (in 12s), because attempt 1 failed: \\u{{1b}}[2J"));
        assert_eq!(sentence(&json!({"sentence": "as it is"}), Timestamp::MIN), "as it is");
        assert_eq!(sentence(&json!([]), Timestamp::MIN), "");
    }
}
