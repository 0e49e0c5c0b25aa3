//! `sandclock agents`: what can be asked to run, and what serves it.

mod deploy;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::Context;
use super::budget;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::human;
use super::memory::{self, MemoryArgs};
use super::remote::ClientArgs;
use super::table::{Cell, Sheet, Table};
use super::view;
use crate::domain::id::AgentId;

/// The agents that can be asked to run
#[derive(Args, Clone, Debug)]
pub struct AgentsArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// List the agents
    List,
    /// Show one agent
    Show {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
    },
    /// What served an agent when, and who pushed it
    History {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
    },
    /// Put back what served an agent before
    Rollback {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
        /// A digest of its history, or `folder` for the plugins folder; what served before the present push when not given
        #[arg(long, value_name = "DIGEST|folder")]
        to: Option<String>,
        /// What is kept with it in the history
        #[arg(long)]
        note: Option<String>,
    },
    /// Have an agent's runs wait; those that execute go on
    Pause {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
        /// What whoever asks why is told
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a paused agent's runs start again
    Resume {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
    },
    /// Let an agent's digest go that is in quarantine
    Release {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
    },
    /// Show what an agent keeps from run to run, or clear it
    Memory(MemoryArgs),
    /// Take a registered or pushed agent out, with its pushes; its tasks stay, and what it keeps
    Delete {
        /// Its id
        #[arg(value_parser = AgentId::parse)]
        agent: AgentId,
        /// Even while runs of it are active
        #[arg(long)]
        force: bool,
    },
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or says no.
pub async fn execute(args: AgentsArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    match args.verb {
        Verb::List => {
            let answer = caller.remote.get(&["agents"], &[]).await?;
            caller.show(&answer, |agents| list(&caller, agents))
        }
        Verb::Show { agent } => {
            let answer = caller.remote.get(&["agents", agent.as_str()], &[]).await?;
            caller.show(&answer, |agent| sheet(&caller, agent))
        }
        Verb::History { agent } => deploy::history(&caller, &agent).await,
        Verb::Rollback { agent, to, note } => deploy::roll_back(&caller, &agent, to, note).await,
        Verb::Pause { agent, reason } => deploy::pause(&caller, &agent, reason).await,
        Verb::Resume { agent } => deploy::resume(&caller, &agent).await,
        Verb::Release { agent } => deploy::release(&caller, &agent).await,
        Verb::Memory(args) => memory::execute(&caller, args).await,
        Verb::Delete { agent, force } => {
            let query: &[_] = if force { &[("force", "true".to_owned())] } else { &[] };
            let answer = caller.remote.delete(&["agents", agent.as_str()], query).await?;
            caller.show(&answer, |_| format!("deleted agent {agent}; what it keeps stays, see `sandclock agents memory {agent}`\n"))
        }
    }
}

fn list(caller: &Caller<'_>, agents: &Value) -> String {
    let mut table = Table::new(&["AGENT", "PLUGIN", "STATE", "SERVES", "TIMEOUT", "MAX RUNNING", "CHANGED", "NAME"]);
    for agent in view::list(agents, "agents") {
        table.row(vec![
            Cell::new(view::shown(agent, "agent_id")),
            Cell::new(view::shown(agent, "plugin")),
            view::status_cell(&state(agent)),
            Cell::new(view::shown(agent, "digest").chars().take(12).collect::<String>()),
            Cell::number(view::text(agent, "timeout_seconds").map_or("default".to_owned(), |seconds| format!("{seconds}s"))),
            Cell::number(view::text(agent, "max_running").unwrap_or_else(|| "any".to_owned())),
            Cell::new(view::age(agent, "updated_at", caller.now())),
            Cell::new(view::shown(agent, "name")),
        ]);
    }
    let empty = "no agents yet: drop a component into the plugins folder, and see with `sandclock plugins` what becomes of it";
    caller.page(&table, agents, empty)
}

/// What an agent's plugin is in the state of, or what holds it back.
fn state(agent: &Value) -> String {
    let is = |name: &str| view::at(agent, name).is_some_and(Value::is_object);
    if is("paused") {
        "paused".to_owned()
    } else if is("quarantined") {
        "quarantine".to_owned()
    } else {
        view::shown(agent, "state")
    }
}

fn sheet(caller: &Caller<'_>, agent: &Value) -> String {
    let now = caller.now();
    let mut sheet = Sheet::new();
    sheet.entry("agent", view::shown(agent, "agent_id"));
    sheet.maybe("name", view::text(agent, "name"));
    sheet.maybe("plugin", view::text(agent, "plugin"));
    sheet.maybe("origin", view::text(agent, "origin"));
    sheet.maybe("state", view::text(agent, "state"));
    sheet.maybe("digest", view::text(agent, "digest"));
    sheet.maybe("settings", view::text(agent, "config_hash"));
    sheet.maybe("not starting", view::text(agent, "reason"));
    let pusher = view::text(agent, "pushed.by").map(|by| format!(" by {by}")).unwrap_or_default();
    sheet.maybe("pushed", view::moment(agent, "pushed.at", now).map(|at| format!("{at}{pusher}")));
    sheet.maybe("note", view::text(agent, "pushed.note"));
    sheet.maybe("plugin file", view::text(agent, "overridden"));
    sheet.maybe("timeout", view::text(agent, "timeout_seconds").map(|seconds| format!("{seconds} s")));
    sheet.maybe("max running", view::text(agent, "max_running"));
    for (name, field) in [("memory", "limits.memory_bytes"), ("disk", "limits.disk_bytes"), ("output", "limits.output_bytes")] {
        sheet.maybe(name, view::count(agent, field).map(|bytes| format!("at most {}", human::bytes(bytes))));
    }
    sheet.maybe("budget", view::at(agent, "budget").map(ToString::to_string));
    sheet.maybe("used", view::at(agent, "used").map(|_| budget::used(agent)));
    for (name, field) in [("config", "agent_config"), ("env", "env"), ("metadata", "metadata")] {
        let object = view::at(agent, field).filter(|object| object.as_object().is_some_and(|object| !object.is_empty()));
        sheet.maybe(name, object.map(ToString::to_string));
    }
    sheet.maybe("created", view::moment(agent, "created_at", now));
    sheet.maybe("changed", view::moment(agent, "updated_at", now));
    sheet.render(&caller.context.screen)
}
