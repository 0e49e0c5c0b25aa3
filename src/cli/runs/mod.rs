//! `sandclock runs`: what happened, and what happens.

mod checkpoints;
mod download;
mod events;
mod list;
mod logs;
mod many;
mod mend;
mod show;
mod why;
mod workspace;

pub(super) use why::sentence;

use clap::{Args, Subcommand};

use super::Context;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::remote::ClientArgs;
use super::{human, view, wait};
use crate::domain::id::RunId;
use crate::domain::time::Seconds;

/// The runs: what happened, and what happens
#[derive(Args, Clone, Debug)]
pub struct RunsArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// What a verb on one run takes.
#[derive(Args, Clone, Debug)]
struct One {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// List the runs, the newest first
    List(list::ListArgs),
    /// Show one run
    Show(One),
    /// Say why a run is where it is
    Why(One),
    /// Ask for a run's cancel, or for that of many
    Cancel(mend::CancelArgs),
    /// Run an ended run's task again with the same query, or those of many
    Rerun(Box<mend::RerunArgs>),
    /// Let a parked run go on
    Resume(One),
    /// Write an ended run's run.json, events.jsonl and output.md again from the store
    Mirror(One),
    /// Show what happened to a run, or watch it happen
    Events(events::EventsArgs),
    /// Show a run's attempts
    Attempts(One),
    /// List what a run's attempts have left to those that follow, or print one of its values
    Checkpoints(checkpoints::CheckpointsArgs),
    /// List a run's files, or get one of them
    Workspace(workspace::WorkspaceArgs),
    /// Print a run's result
    Result(download::ResultArgs),
    /// Print what a run's agent wrote to stdout and stderr
    Logs(logs::LogsArgs),
    /// Wait until a run has ended, and end as it did
    Wait {
        #[command(flatten)]
        one: One,
        /// How long to wait at most; the run goes on
        #[arg(long, value_name = "SECONDS", value_parser = wait::seconds)]
        timeout: Option<Seconds>,
    },
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or says no, or what the user gave is wrong.
pub async fn execute(args: RunsArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    match args.verb {
        Verb::List(list) => list::execute(&caller, list).await,
        Verb::Show(One { run }) => show::run(&caller, &run).await,
        Verb::Why(One { run }) => why::execute(&caller, &run).await,
        Verb::Cancel(cancel) => mend::cancel(&caller, cancel).await,
        Verb::Rerun(rerun) => mend::rerun(&caller, *rerun).await,
        Verb::Mirror(One { run }) => {
            let answer = caller.remote.post(&["runs", run.as_str(), "mirror"], None).await?;
            caller.show(&answer, |answer| {
                format!("wrote the mirrors of {run} into {}\n", human::one_line(&view::shown(answer, "workspace_path")))
            })
        }
        Verb::Resume(One { run }) => {
            let answer = caller.remote.post(&["runs", run.as_str(), "resume"], None).await?;
            caller.show(&answer, |_| format!("{run} is queued again\n"))
        }
        Verb::Events(events) => events::execute(&caller, events).await,
        Verb::Attempts(One { run }) => show::attempts(&caller, &run).await,
        Verb::Checkpoints(checkpoints) => checkpoints::execute(&caller, checkpoints).await,
        Verb::Workspace(workspace) => workspace::execute(&caller, workspace).await,
        Verb::Result(result) => download::result(&caller, result).await,
        Verb::Logs(logs) => logs::execute(&caller, logs).await,
        Verb::Wait { one: One { run }, timeout } => wait::for_run(&caller, run.as_str(), timeout).await,
    }
}
