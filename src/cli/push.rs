//! `sandclock push`: sends a component to the daemon, which has it serve on every daemon of its store.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::Context;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::human;
use super::remote::ClientArgs;
use super::view;
use crate::domain::id::AgentId;
use crate::plugins::Digest;

/// Push a component to an agent: it serves on every daemon of the store
#[derive(Args, Clone, Debug)]
pub struct PushArgs {
    #[command(flatten)]
    client: ClientArgs,
    /// The component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The agent; the file's name without `.wasm` when not given
    #[arg(long, value_parser = AgentId::parse)]
    agent: Option<AgentId>,
    /// The digest that the file must have, as `sha256sum` prints it
    #[arg(long, value_parser = Digest::parse)]
    digest: Option<Digest>,
    /// What is kept with it in the agent's history
    #[arg(long)]
    note: Option<String>,
}

/// Carries the verb out.
///
/// # Errors
/// The file cannot be read, the daemon is unreachable or says no.
pub async fn execute(args: PushArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    let name = human::one_line(&args.file.to_string_lossy());
    let agent = match args.agent {
        Some(agent) => agent,
        None => {
            let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            AgentId::parse(&stem).map_err(|error| Fault::usage(format!("`{name}` names no agent: {error}; name one with --agent")))?
        }
    };
    let bytes = tokio::fs::read(&args.file).await.map_err(|error| Fault::usage(format!("`{name}` cannot be read: {error}")))?;
    // What is sent is what was read: a file that is written meanwhile is not half of each.
    let digest = args.digest.unwrap_or_else(|| Digest::of(&bytes));
    let mut query = vec![("digest", digest.to_string())];
    query.extend(args.note.map(|note| ("note", note)));
    let answer = caller.remote.put(&["agents", agent.as_str(), "plugin"], &query, bytes).await?;
    caller.show(&answer, |told| pushed(&agent, told))
}

fn pushed(agent: &AgentId, told: &Value) -> String {
    let digest = view::shown(told, "digest");
    if view::at(told, "changed").and_then(Value::as_bool) == Some(false) {
        return format!("{digest} serves agent {agent} already; nothing was changed\n");
    }
    let held = view::text(told, "agent.reason").map(|reason| format!("it starts no runs for now: {}\n", human::one_line(&reason)));
    format!("{digest} serves agent {agent}; `sandclock agents rollback {agent}` puts back what served before\n{}", held.unwrap_or_default())
}
