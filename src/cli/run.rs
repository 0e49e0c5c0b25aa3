//! `sandclock run`: one attempt in the foreground, in the daemon's sandbox with its limits.
//!
//! The result goes to stdout and nothing else does; what the guest tells and writes meanwhile goes to stderr.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::exit::{Exit, Fault};
use super::guest_output::GuestOutput;
use super::screen::Colour;
use super::{Context, check, human, wait};
use crate::config;
use crate::daemon::foreground::{Foreground, ForegroundRun, GivenAnswers};
use crate::daemon::receipt::receipt_of;
use crate::domain::http::HttpCalls;
use crate::domain::id::{AgentId, RunId};
use crate::domain::park::Park;
use crate::domain::time::Seconds;
use crate::sandbox::{AttemptReport, AttemptSignals, Ended, GuestHost, Stop, Usage};
use crate::workspace::OUTPUT_MD;

/// Run one attempt of a plugin here, in the daemon's sandbox with its limits
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The component
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// What the agent is asked
    #[arg(long, value_name = "TEXT")]
    query: String,
    /// The attempt's workspace, made where there is none; ./run-<id> when none is given
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// How long the attempt may take; as configured when not given
    #[arg(long, value_name = "SECONDS", value_parser = wait::seconds)]
    timeout: Option<Seconds>,
    /// The configuration file, whose limits apply [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent whose settings apply; the plugin's own when none is given
    #[arg(long, value_name = "NAME", value_parser = AgentId::parse)]
    agent: Option<AgentId>,
    #[command(flatten)]
    answers: AnswerArgs,
    /// Print a report in JSON instead of the result
    #[arg(long)]
    json: bool,
}

/// The answers to what the agent asks.
#[derive(Args, Clone, Debug)]
pub(super) struct AnswerArgs {
    /// Say yes to what the agent asks under this key; may be given again
    #[arg(long, value_name = "KEY")]
    approve: Vec<String>,
    /// Say no to what the agent asks under this key; may be given again
    #[arg(long, value_name = "KEY")]
    deny: Vec<String>,
}

impl AnswerArgs {
    /// The answers.
    pub(super) fn given(&self) -> GivenAnswers {
        GivenAnswers::of(&self.approve, &self.deny)
    }
}

/// Carries the verb out.
///
/// # Errors
/// The configuration is wrong, the plugin is refused, or the workspace cannot be made.
pub async fn execute(args: RunArgs, context: &Context) -> Result<Exit, Fault> {
    let loaded = config::load(args.config.as_deref(), &context.env.without_token()).map_err(|faults| Fault::usage(faults.to_string()))?;
    if let Some(agent) = args.agent.as_ref().filter(|agent| !loaded.settings.agents.contains_key(*agent)) {
        return Err(Fault::usage(format!("the configuration has no agent `{agent}`; name one of [agents], or leave --agent out")));
    }
    context.screen.status("compiling");
    let compiled = tokio::select! {
        compiled = check::load(&args.plugin, &loaded.settings) => compiled?,
        () = context.signals.asked().cancelled_owned() => return Ok(Exit::Interrupted),
    };
    let foreground = compiled.map_err(|refusal| Fault::failed(human::one_line(&refusal)))?;
    let run_id = Foreground::new_run_id();
    let workspace = workspace(args.workspace.as_deref(), &run_id)?;
    let host = Arc::new(GuestOutput::new(Arc::clone(&context.screen), run_id.clone(), args.answers.given()));
    let signals = AttemptSignals::new();
    context.screen.status("running");
    let wish = ForegroundRun {
        agent: check::agent_of(args.agent, &args.plugin, &loaded.settings),
        query: args.query,
        workspace: &workspace,
        timeout: args.timeout.map(Seconds::duration),
        run_id: run_id.clone(),
    };
    let attempt = foreground.run(wish, Arc::<GuestOutput>::clone(&host) as Arc<dyn GuestHost>, Arc::clone(&signals));
    let grace = loaded.settings.worker.cancel_grace.duration();
    let report = tokio::select! {
        report = attempt => report,
        never = cancel(context, &signals, grace) => match never {},
    };
    host.finish();
    if host.has_kept() {
        context.screen.note("what the agent kept through wasi:keyvalue ends with this run; a daemon keeps it for the next");
    }
    if let Ended::Completed(result) = &report.ended {
        keep_result(&workspace, result)?;
    }
    tell(context, &report, &run_id, &workspace, args.json)?;
    let is_interrupted = context.signals.asked().is_cancelled() && !matches!(report.ended, Ended::Completed(_));
    Ok(match &report.ended {
        Ended::Completed(_) => Exit::Done,
        _ if is_interrupted => Exit::Interrupted,
        Ended::Parked(_) => Exit::WaitRanOut,
        _ => Exit::Failed,
    })
}

/// Makes the workspace; one that is given may hold what the attempt is to find.
fn workspace(given: Option<&Path>, run: &RunId) -> Result<PathBuf, Fault> {
    let path = given.map_or_else(|| PathBuf::from(format!("run-{}", run.as_str().trim_start_matches("run_"))), Path::to_owned);
    let made = std::fs::create_dir_all(&path).and_then(|()| std::fs::canonicalize(&path));
    made.map_err(|error| {
        let shown = human::one_line(&path.to_string_lossy());
        Fault::failed(format!("the workspace `{shown}` cannot be made ({error}); name another with --workspace"))
    })
}

/// Asks the guest to stop at the first signal, and stops it after its grace or at the second one.
async fn cancel(context: &Context, signals: &AttemptSignals, grace: Duration) -> std::convert::Infallible {
    context.signals.asked().cancelled().await;
    context.screen.note("asked the agent to stop; once more stops it at once");
    signals.ask_cancel();
    tokio::select! {
        () = tokio::time::sleep(grace) => {}
        () = context.signals.hurry().cancelled_owned() => {}
    }
    signals.trap_now(Stop::CancelGraceOver);
    std::future::pending().await
}

/// Keeps the result where a daemon does: as `output.md`, unless the agent wrote that.
///
/// # Errors
/// The workspace takes no file.
pub(super) fn keep_result(workspace: &Path, result: &str) -> Result<(), Fault> {
    // A file that is made anew is never one that a link of the guest's leads to.
    match std::fs::File::create_new(workspace.join(OUTPUT_MD)).and_then(|mut file| file.write_all(result.as_bytes())) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Fault::failed(format!("{OUTPUT_MD} cannot be written into the workspace ({error}); make room for it")))
        }
        _ => Ok(()),
    }
}

/// Shows how an attempt ended: its result on stdout, the rest on stderr.
///
/// # Errors
/// The output cannot be written.
pub(super) fn tell(context: &Context, report: &AttemptReport, run: &RunId, workspace: &Path, is_json: bool) -> Result<(), Fault> {
    let screen = &context.screen;
    let (status, result, error) = outcome(&report.ended);
    if is_json {
        return screen.json(&as_json(report, run, workspace).to_string());
    }
    if let Some(result) = result {
        screen.content(result.as_bytes())?;
        if !result.is_empty() && !result.ends_with('\n') {
            screen.text("\n")?;
        }
    }
    let colour = super::view::colour_of(status).unwrap_or(Colour::Dim);
    let why = error.map(|error| format!(": {}", human::one_line(&error))).unwrap_or_default();
    let usage = &report.usage;
    screen.note(&format!(
        "{} after {}, at most {} of memory, {} written{why}",
        screen.paint_note(colour, status),
        human::span(usage.wall),
        human::bytes(usage.peak_memory_bytes),
        human::bytes(usage.disk_bytes_written),
    ));
    if let Some(used) = outgoing(usage) {
        screen.note(&used);
    }
    if let Ended::Parked(Park::Approval { key, .. }) = &report.ended {
        let key = human::one_line(key);
        screen.note(&format!("answer it with --approve '{key}' or --deny '{key}'; on a daemon the run waits for an answer"));
    }
    tell_refused(context, &usage.http);
    if usage.log_bytes_dropped + usage.events_dropped > 0 {
        let (bytes, events) = (human::bytes(usage.log_bytes_dropped), usage.events_dropped);
        screen.note(&format!("over the limits and dropped: {bytes} of output, {events} reports and events"));
    }
    screen.note(&format!("workspace: {}", human::one_line(&workspace.to_string_lossy())));
    Ok(())
}

/// What the attempt used outside, in a line; none where it used nothing.
fn outgoing(usage: &Usage) -> Option<String> {
    let (out, models) = (usage.outgoing, &usage.models);
    let calls =
        (out.calls > 0).then(|| format!("{} calls, {} out and {} in", out.calls, human::bytes(out.bytes_out), human::bytes(out.bytes_in)));
    let all = &models.all;
    let tokens = (all.calls > 0).then(|| {
        let read = format!("{} tokens read, {} from a cache, {} written", all.tokens.input, all.tokens.cached, all.tokens.output);
        let estimated = if all.tokens.estimated > 0 { format!(", {} of them estimated", all.tokens.estimated) } else { String::new() };
        let unpriced = if all.unpriced_tokens > 0 { format!(", {} tokens without a price", all.unpriced_tokens) } else { String::new() };
        format!("{} calls of models: {read}{estimated}; {} {}{unpriced}", all.calls, all.money, models.currency)
    });
    let parts: Vec<String> = calls.into_iter().chain(tokens).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What the guest was refused, each with the lines that would allow it.
fn tell_refused(context: &Context, http: &HttpCalls) {
    let mut told = BTreeSet::new();
    for call in &http.calls {
        let Some(refusal) = &call.refused else { continue };
        let asked = format!("refused {} {}{}: {}", call.method, call.origin, call.path, refusal.sentence);
        if told.insert(asked.clone()) {
            context.screen.note(&human::one_line(&asked));
            refusal
                .toml
                .iter()
                .flat_map(|toml| toml.lines())
                .for_each(|line| context.screen.note(&format!("    {}", human::one_line(line))));
        }
    }
}

/// The status, the result and the error of an attempt.
fn outcome(ended: &Ended) -> (&'static str, Option<&str>, Option<String>) {
    match ended {
        Ended::Completed(result) => ("completed", Some(result), None),
        Ended::Failed { message, .. } => ("failed", None, Some(message.clone())),
        Ended::Cancelled { message } => ("cancelled", None, Some(message.clone()).filter(|message| !message.is_empty())),
        Ended::TimedOut => ("timeout", None, Some("the attempt's time limit passed".to_owned())),
        Ended::Stopped(Stop::CancelGraceOver) => ("cancelled", None, Some(Stop::CancelGraceOver.to_string())),
        Ended::Stopped(stop) => ("failed", None, Some(stop.to_string())),
        Ended::Parked(park) => (park.status().as_str(), None, Some(park.to_string())),
    }
}

fn as_json(report: &AttemptReport, run: &RunId, workspace: &Path) -> Value {
    let (status, result, error) = outcome(&report.ended);
    let error_kind = match &report.ended {
        Ended::Failed { kind, .. } => json!(kind),
        Ended::TimedOut => json!("timeout"),
        _ => Value::Null,
    };
    json!({
        "run_id": run,
        "status": status,
        "result": result,
        "error": error,
        "error_kind": error_kind,
        "workspace": workspace.to_string_lossy(),
        "usage": receipt_of(report.usage.clone(), None),
        "http": report.usage.http,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_kept_unless_the_agent_wrote_it_and_never_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        keep_result(folder.path(), "first").unwrap();
        keep_result(folder.path(), "second").unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("output.md")).unwrap(), "first");
        let other = tempfile::tempdir().unwrap();
        let target = other.path().join("target");
        std::os::unix::fs::symlink(&target, other.path().join("output.md")).unwrap();
        keep_result(other.path(), "x").unwrap();
        assert!(!target.exists());
    }

    #[test]
    fn every_end_has_a_status_of_the_design() {
        let of = |ended: Ended| outcome(&ended).0;
        assert_eq!(of(Ended::Completed(String::new())), "completed");
        assert_eq!(of(Ended::TimedOut), "timeout");
        assert_eq!(of(Ended::Cancelled { message: String::new() }), "cancelled");
        assert_eq!(of(Ended::Stopped(Stop::CancelGraceOver)), "cancelled");
        assert_eq!(of(Ended::Stopped(Stop::NoCapacity)), "failed");
    }
}
