//! `sandclock tasks`: what runs, when, and what became of it.

mod create;
mod list;
mod next;
mod run;
mod show;

use clap::{Args, Subcommand};

use super::Context;
use super::caller::{Caller, PageArgs};
use super::exit::{Exit, Fault};
use super::remote::ClientArgs;
use crate::domain::id::{AgentId, TaskId};
pub(super) use run::{key, object};

/// The tasks: what runs, when, and what became of it
#[derive(Args, Clone, Debug)]
pub struct TasksArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// What a verb on one task takes.
#[derive(Args, Clone, Debug)]
struct One {
    /// The task's id
    #[arg(value_parser = TaskId::parse)]
    task: TaskId,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// List the tasks
    List {
        /// Only those of this agent
        #[arg(long, value_parser = AgentId::parse)]
        agent: Option<AgentId>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one task
    Show(One),
    /// Make a task, from flags or from a JSON file
    Create(Box<create::CreateArgs>),
    /// Run a task now
    Run(run::RunArgs),
    /// Let a task's schedule rest
    Pause(One),
    /// Let a paused task's schedule go on from now
    Resume(One),
    /// Delete a task; its queued runs end as cancelled
    Delete {
        #[command(flatten)]
        one: One,
        /// Delete its runs too
        #[arg(long)]
        runs: bool,
    },
    /// When a task runs next
    Next(next::NextArgs),
    /// A task's schedule and its runs, counted
    Status(One),
    /// The occurrences of a task that did not become runs, and why
    Skips {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        page: PageArgs,
    },
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or says no, or what the user gave is wrong.
pub async fn execute(args: TasksArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    match args.verb {
        Verb::List { agent, page } => list::execute(&caller, agent.as_ref(), &page).await,
        Verb::Show(One { task }) => show::task(&caller, &task).await,
        Verb::Create(create) => create::execute(&caller, *create).await,
        Verb::Run(run) => run::execute(&caller, run).await,
        Verb::Pause(One { task }) => {
            let answer = caller.remote.post(&["tasks", task.as_str(), "pause"], None).await?;
            caller.show(&answer, |_| format!("paused task {task}; `sandclock tasks resume {task}` lets it go on\n"))
        }
        Verb::Resume(One { task }) => {
            let answer = caller.remote.post(&["tasks", task.as_str(), "resume"], None).await?;
            caller.show(&answer, |_| format!("resumed task {task}\n"))
        }
        Verb::Delete { one: One { task }, runs } => {
            let query: &[_] = if runs { &[("delete_runs", "true".to_owned())] } else { &[] };
            let answer = caller.remote.delete(&["tasks", task.as_str()], query).await?;
            caller.show(&answer, |_| format!("deleted task {task}{}\n", if runs { " and its runs" } else { "" }))
        }
        Verb::Next(next) => next::execute(&caller, next).await,
        Verb::Status(One { task }) => show::status(&caller, &task).await,
        Verb::Skips { one: One { task }, page } => list::skips(&caller, &task, &page).await,
    }
}
