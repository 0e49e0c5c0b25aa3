//! What the binary does, one file per verb.
//!
//! Invariant: a verb says how it ended by an [`exit::Exit`], tells its answer on stdout and all else on stderr, and shows nothing of a
//! guest's that could steer a terminal. It fails with an [`exit::Fault`]: one sentence, and the code that scripts look at.

mod agents;
mod approvals;
mod budget;
mod caller;
mod check;
pub mod config_check;
pub mod config_show;
mod daemons;
mod dev;
pub mod exit;
mod guest_output;
mod human;
pub mod init;
mod memory;
mod new;
mod plugins;
mod push;
mod remote;
mod run;
mod runs;
mod screen;
mod serve;
mod setup;
mod signals;
mod sse;
mod status;
mod store;
mod table;
mod tasks;
mod token;
mod view;
mod wait;
mod when;
mod why_denied;

use std::sync::Arc;

use clap::{Parser, Subcommand};

use exit::{Exit, Fault};
use screen::{Colour, Screen};
use signals::Signals;

use crate::clock::{Clock as _, SystemClock};
use crate::config::Environment;
use crate::domain::time::Timestamp;

/// Durable background agents: WebAssembly components as sandboxed, scheduled, watched runs
#[derive(Clone, Debug, Parser)]
#[command(name = "sandclock", version, after_help = exit::help(), arg_required_else_help = true, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    Serve(serve::ServeArgs),
    Run(Box<run::RunArgs>),
    New(new::NewArgs),
    Dev(Box<dev::DevArgs>),
    Check(check::CheckArgs),
    Init(setup::InitArgs),
    Config(setup::ConfigArgs),
    Status(status::StatusArgs),
    Store(Box<store::StoreArgs>),
    Daemons(daemons::DaemonsArgs),
    Agents(agents::AgentsArgs),
    Plugins(plugins::PluginsArgs),
    Push(push::PushArgs),
    Tasks(Box<tasks::TasksArgs>),
    Runs(Box<runs::RunsArgs>),
    Approvals(approvals::ApprovalsArgs),
    Budget(Box<budget::BudgetArgs>),
    Token(token::TokenArgs),
    WhyDenied(why_denied::WhyDeniedArgs),
}

/// What every verb works in.
struct Context {
    env: Environment,
    screen: Arc<Screen>,
    signals: Signals,
}

impl Context {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

/// Carries a command out on the current runtime, and tells of its fault on stderr.
pub async fn execute(cli: Cli) -> Exit {
    let env = Environment::of_process();
    let screen = Arc::new(Screen::of_process(&env));
    let is_patient = matches!(cli.verb, Verb::Serve(_) | Verb::Run(_) | Verb::Dev(_));
    let done = match Signals::listen(is_patient) {
        Ok(signals) => dispatch(cli.verb, &Context { env, screen: Arc::clone(&screen), signals }).await,
        Err(fault) => Err(fault),
    };
    screen.clear_status();
    match done {
        Ok(exit) => exit,
        Err(fault) => {
            if let Fault::Told { sentence, .. } = &fault {
                let mark = screen.paint_note(Colour::Bad, "sandclock:");
                screen.note(&format!("{mark} {}", human::printable(sentence)));
            }
            fault.exit()
        }
    }
}

async fn dispatch(verb: Verb, context: &Context) -> Result<Exit, Fault> {
    match verb {
        // These end their work in an order of their own.
        Verb::Serve(args) => Box::pin(serve::execute(args, context)).await,
        Verb::Run(args) => Box::pin(run::execute(*args, context)).await,
        Verb::Dev(args) => Box::pin(dev::execute(*args, context)).await,
        verb => tokio::select! {
            biased;
            done = Box::pin(at_once(verb, context)) => done,
            () = context.signals.asked().cancelled_owned() => Ok(Exit::Interrupted),
        },
    }
}

/// The verbs that may end at any point.
async fn at_once(verb: Verb, context: &Context) -> Result<Exit, Fault> {
    match verb {
        Verb::Serve(args) => serve::execute(args, context).await,
        Verb::Run(args) => run::execute(*args, context).await,
        Verb::Dev(args) => dev::execute(*args, context).await,
        Verb::Check(args) => check::execute(args, context).await,
        Verb::New(args) => new::execute(&args, context),
        Verb::Init(args) => setup::execute_init(&args, context),
        Verb::Config(args) => setup::execute_config(&args, context),
        Verb::Status(args) => status::execute(args, context).await,
        Verb::Store(args) => store::execute(*args, context).await,
        Verb::Daemons(args) => daemons::execute(args, context).await,
        Verb::Agents(args) => agents::execute(args, context).await,
        Verb::Plugins(args) => plugins::execute(args, context).await,
        Verb::Push(args) => push::execute(args, context).await,
        Verb::Tasks(args) => tasks::execute(*args, context).await,
        Verb::Runs(args) => runs::execute(*args, context).await,
        Verb::Approvals(args) => approvals::execute(args, context).await,
        Verb::Budget(args) => budget::execute(*args, context).await,
        Verb::Token(args) => token::execute(args, context),
        Verb::WhyDenied(args) => why_denied::execute(args, context).await,
    }
}

#[cfg(test)]
mod tests;
