//! `sandclock daemons`: the daemons that share the store.

use clap::Args;
use serde_json::Value;

use super::Context;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::remote::ClientArgs;
use super::table::{Cell, Table};
use super::view;

/// How much of a digest is shown.
const DIGEST_CHARS: usize = 12;

/// The daemons that share the store: their agents, slots and last sign of life
#[derive(Args, Clone, Debug)]
pub struct DaemonsArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or says no.
pub async fn execute(args: DaemonsArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    let answer = caller.remote.get(&["daemons"], &[]).await?;
    caller.show(&answer, |daemons| list(&caller, daemons))
}

fn list(caller: &Caller<'_>, daemons: &Value) -> String {
    let mut table = Table::new(&["DAEMON", "STATE", "SEEN", "HOST", "VERSION", "RUNNING", "AGENTS"]);
    for daemon in view::list(daemons, "daemons") {
        let agents: Vec<String> = view::list(daemon, "agents")
            .iter()
            .map(|agent| {
                let digest: String = view::shown(agent, "digest").chars().take(DIGEST_CHARS).collect();
                format!("{} {digest}", view::shown(agent, "agent_id"))
            })
            .collect();
        let running = match view::flag(daemon, "executes") {
            true => format!("{} of {}", view::shown(daemon, "running"), view::shown(daemon, "max_running")),
            false => "executes nothing".to_owned(),
        };
        table.row(vec![
            Cell::new(view::shown(daemon, "daemon_id")),
            view::status_cell(&view::shown(daemon, "state")),
            Cell::new(view::age(daemon, "last_seen_at", caller.now())),
            Cell::new(view::shown(daemon, "host")),
            Cell::new(view::shown(daemon, "version")),
            Cell::new(running),
            Cell::new(agents.join(", ")),
        ]);
    }
    caller.page(&table, daemons, "no daemon has given a sign of life yet")
}
