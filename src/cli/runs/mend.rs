//! `sandclock runs rerun` and `sandclock runs cancel`: one run by its id, or many by a filter.
//!
//! Invariant: nothing is done to many runs before somebody who has seen the preview agrees, or has said `--yes`.

use std::io::{BufRead as _, Read as _};

use clap::Args;
use serde_json::{Map, Value, json};

use super::many::{ManyArgs, Verb};
use crate::cli::caller::Caller;
use crate::cli::exit::{Exit, Fault};
use crate::cli::remote::Answer;
use crate::cli::table::{Cell, Table};
use crate::cli::tasks::{key, object};
use crate::cli::{human, view, wait};
use crate::domain::id::RunId;
use crate::domain::time::Seconds;

/// The most runs that the daemon takes in one request.
const PART: u64 = 1000;
/// How many refusals are told.
const REFUSALS: usize = 10;

#[derive(Args, Clone, Debug)]
pub(super) struct RerunArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: Option<RunId>,
    /// What the agent is asked, instead of what the run was asked
    #[arg(long, value_name = "TEXT", requires = "run")]
    query: Option<String>,
    /// A JSON object that goes with the run, instead of what went with the one before
    #[arg(long, value_name = "JSON", requires = "run", value_parser = object)]
    metadata: Option<Map<String, Value>>,
    /// A name of your own for this request: given again with the same request, it makes no second run
    #[arg(long, value_name = "KEY", requires = "run", value_parser = key)]
    idempotency_key: Option<String>,
    /// Wait until the new run has ended, and end as it did
    #[arg(long, requires = "run")]
    wait: bool,
    /// How long to wait at most; the run goes on
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = wait::seconds)]
    timeout: Option<Seconds>,
    #[command(flatten)]
    many: ManyArgs,
}

#[derive(Args, Clone, Debug)]
pub(super) struct CancelArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: Option<RunId>,
    #[command(flatten)]
    many: ManyArgs,
}

pub(super) async fn rerun(caller: &Caller<'_>, args: RerunArgs) -> Result<Exit, Fault> {
    let Some(of) = args.many.one(args.run, Verb::Rerun)? else { return many(caller, &args.many, Verb::Rerun).await };
    let mut body = Map::new();
    body.extend(args.query.map(|query| ("query".to_owned(), Value::String(query))));
    body.extend(args.metadata.map(|metadata| ("metadata".to_owned(), Value::Object(metadata))));
    let (path, body) = (["runs", of.as_str(), "rerun"], Value::Object(body));
    let answer = caller.remote.post_once(&path, &body, args.idempotency_key.as_deref()).await?;
    if !args.wait {
        return caller.show(&answer, |run| made(&of, run));
    }
    let run = view::text(&answer.value, "run_id").and_then(|run| RunId::parse(&run).ok());
    let run = run.ok_or_else(|| Fault::failed("the daemon's answer names no run; is it a sandclock daemon's address?"))?;
    wait::for_run(caller, run.as_str(), args.timeout).await
}

fn made(of: &RunId, run: &Value) -> String {
    let (id, status) = (human::one_line(&view::shown(run, "run_id")), human::one_line(&view::shown(run, "status")));
    match status.as_str() {
        "skipped" => format!("{id} repeats {of} and was skipped: `sandclock runs why {id}`\n"),
        _ => format!("{id} repeats {of} and is {status}; `sandclock runs wait {id}` waits for it\n"),
    }
}

pub(super) async fn cancel(caller: &Caller<'_>, args: CancelArgs) -> Result<Exit, Fault> {
    let Some(run) = args.many.one(args.run, Verb::Cancel)? else { return many(caller, &args.many, Verb::Cancel).await };
    let answer = caller.remote.post(&["runs", run.as_str(), "cancel"], None).await?;
    caller.show(&answer, |_| format!("asked for the cancel of {run}; `sandclock runs wait {run}` waits for its end\n"))
}

async fn many(caller: &Caller<'_>, args: &ManyArgs, verb: Verb) -> Result<Exit, Fault> {
    let wish = args.wish(caller.now());
    if args.dry_run {
        let answer = ask(caller, verb, &wish, json!({"dry_run": true})).await?;
        return caller.show(&answer, |preview| shown(caller, verb, preview));
    }
    if !args.yes {
        if !caller.context.screen.terminals.input {
            let sentence =
                format!("nobody can be asked here whether to {} many runs; add --yes, or --dry-run to see them first", verb.word());
            return Err(Fault::usage(sentence));
        }
        let preview = ask(caller, verb, &wish, json!({"dry_run": true})).await?.value;
        caller.context.screen.note(shown(caller, verb, &preview).trim_end());
        if view::count(&preview, "matched") == Some(0) && view::flag(&preview, "complete") {
            return Ok(Exit::Done);
        }
        let most = args.limit;
        if !agreed(caller, &format!("{} them, at most {most}? [y/N] ", verb.ask())).await? {
            return Err(Fault::failed("nothing was done, for nobody agreed"));
        }
    }
    carry_out(caller, args, verb, &wish).await
}

/// Sends the wish with what one request adds to it.
async fn ask(caller: &Caller<'_>, verb: Verb, wish: &Map<String, Value>, more: Value) -> Result<Answer, Fault> {
    let mut body = wish.clone();
    body.extend(more.as_object().cloned().unwrap_or_default());
    caller.remote.post(&["runs", verb.word()], Some(&Value::Object(body))).await
}

/// Asks part by part until nothing is left or the limit is reached.
async fn carry_out(caller: &Caller<'_>, args: &ManyArgs, verb: Verb, wish: &Map<String, Value>) -> Result<Exit, Fault> {
    let mut told = Told::default();
    let mut cursor = args.cursor.clone();
    loop {
        let left = args.limit.saturating_sub(told.done + told.refused);
        if left == 0 {
            break;
        }
        let limit = left.min(PART);
        let more = cursor.as_ref().map_or_else(|| json!({"limit": limit}), |cursor| json!({"limit": limit, "cursor": cursor}));
        let answer = ask(caller, verb, wish, more).await?;
        if caller.json {
            caller.context.screen.json(&answer.raw)?;
        }
        told.add(&answer.value);
        let next = view::text(&answer.value, "next_cursor");
        if next.is_some() && next == cursor {
            return Err(Fault::failed("the daemon does not go on; look into its log"));
        }
        cursor = next;
        caller.context.screen.status(&format!("{} done", told.done));
        if cursor.is_none() {
            break;
        }
    }
    if !caller.json {
        caller.context.screen.text(&told.text(verb, cursor.as_deref()))?;
    }
    Ok(if told.refused > 0 { Exit::Conflict } else { Exit::Done })
}

/// What was told of all parts together.
#[derive(Default)]
struct Told {
    done: u64,
    refused: u64,
    by_status: Map<String, Value>,
    refusals: Vec<String>,
}

impl Told {
    fn add(&mut self, part: &Value) {
        self.done += view::count(part, "done").unwrap_or(0);
        self.refused += view::count(part, "refused").unwrap_or(0);
        for (status, count) in view::at(part, "by_status").and_then(Value::as_object).into_iter().flatten() {
            let sum = self.by_status.get(status).and_then(Value::as_u64).unwrap_or(0) + count.as_u64().unwrap_or(0);
            self.by_status.insert(status.clone(), json!(sum));
        }
        let room = REFUSALS.saturating_sub(self.refusals.len());
        let refusals = part.get("refusals").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let line = |refusal: &Value| human::one_line(&format!("{}: {}", view::shown(refusal, "run_id"), view::shown(refusal, "reason")));
        self.refusals.extend(refusals.iter().take(room).map(line));
    }

    fn text(&self, verb: Verb, cursor: Option<&str>) -> String {
        let by_status = json!({"by_status": self.by_status});
        let now = if self.done > 0 { format!(", now {}", human::one_line(&view::counts(&by_status, "by_status"))) } else { String::new() };
        let mut text = format!("{} {}{now}\n", verb.done(), runs(self.done));
        if verb == Verb::Rerun && self.by_status.contains_key("skipped") {
            text.push_str("those that are skipped met a live run of their task (overlap_policy)\n");
        }
        if self.refused > 0 {
            text.push_str(&format!("{} refused:\n", runs(self.refused)));
            self.refusals.iter().for_each(|refusal| text.push_str(&format!("  {refusal}\n")));
            let more = self.refused.saturating_sub(self.refusals.len() as u64);
            if more > 0 {
                text.push_str(&format!("  and {more} more; --json has all of them\n"));
            }
        }
        if let Some(cursor) = cursor {
            text.push_str(&format!("there may be more: add --cursor {}\n", human::one_line(cursor)));
        }
        text
    }
}

fn runs(count: u64) -> String {
    format!("{count} run{}", if count == 1 { "" } else { "s" })
}

/// A preview as text.
fn shown(caller: &Caller<'_>, verb: Verb, preview: &Value) -> String {
    let matched = view::count(preview, "matched").unwrap_or(0);
    let least = if view::flag(preview, "complete") { "" } else { "at least " };
    if matched == 0 && least.is_empty() {
        return "no run fits\n".to_owned();
    }
    let mut table = Table::new(&["RUN", "TASK", "STATUS", "ASKED FOR", "ENDED", "ERROR"]);
    let sample = preview.get("sample").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for run in sample {
        table.row(vec![
            Cell::new(view::shown(run, "run_id")),
            Cell::new(view::shown(run, "task_id")),
            view::status_cell(&view::shown(run, "status")),
            Cell::new(view::age(run, "triggered_at", caller.now())),
            Cell::new(view::age(run, "finished_at", caller.now())),
            Cell::new(human::cut(&human::one_line(&view::shown(run, "error")), 80)),
        ]);
    }
    let more = matched.saturating_sub(sample.len() as u64);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    format!("{least}{} to {}:\n{}{more}", runs(matched), verb.word(), table.render(&caller.context.screen))
}

/// Asks the person at the terminal.
async fn agreed(caller: &Caller<'_>, question: &str) -> Result<bool, Fault> {
    caller.context.screen.prompt(question);
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().take(100).read_line(&mut line).map(|_| line)
    });
    match read.await {
        Ok(Ok(line)) => Ok(is_yes(&line)),
        _ => Err(Fault::usage("the answer cannot be read; add --yes if you agree")),
    }
}

fn is_yes(line: &str) -> bool {
    matches!(line.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_one() {
        assert!(["y\n", "YES", " yes \r\n"].into_iter().all(is_yes));
        assert!(!["", "\n", "n", "yep", "y y", "ja"].into_iter().any(is_yes));
    }
}
