//! `sandclock agents memory`: what an agent keeps from run to run.

use clap::Args;
use serde_json::Value;

use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::table::{Cell, Table};
use super::{human, view};
use crate::domain::id::AgentId;

#[derive(Args, Clone, Debug)]
pub(super) struct MemoryArgs {
    /// The agent's id; it need not be there any more
    #[arg(value_parser = AgentId::parse)]
    agent: AgentId,
    /// The bucket of this session only
    #[arg(long, value_name = "ID", conflicts_with = "own")]
    session: Option<String>,
    /// The agent's own bucket only
    #[arg(long)]
    own: bool,
    /// Show the value of this key; say of which bucket
    #[arg(long, value_name = "KEY", conflicts_with = "clear")]
    key: Option<String>,
    /// Clear it, or all that the agent keeps where no bucket is named
    #[arg(long)]
    clear: bool,
    /// Where the page before this one says that it goes on
    #[arg(long, value_name = "CURSOR", conflicts_with = "clear")]
    cursor: Option<String>,
}

pub(super) async fn execute(caller: &Caller<'_>, args: MemoryArgs) -> Result<Exit, Fault> {
    let mut query = Vec::new();
    query.extend(args.session.clone().map(|session| ("session", session)));
    if args.own {
        query.push(("bucket", "agent".to_owned()));
    }
    let is_one = !query.is_empty();
    let path = ["agents", args.agent.as_str(), "memory"];
    if args.clear {
        let answer = caller.remote.delete(&path, &query).await?;
        return caller.show(&answer, cleared);
    }
    query.extend(args.cursor.map(|cursor| ("cursor", cursor)));
    let has_key = args.key.is_some();
    query.extend(args.key.map(|key| ("key", key)));
    let answer = caller.remote.get(&path, &query).await?;
    caller.show(&answer, |answer| match (is_one, has_key) {
        (_, true) => view::content(answer),
        (true, false) => keys(caller, answer),
        (false, false) => buckets(caller, &args.agent, answer),
    })
}

fn cleared(answer: &Value) -> String {
    let [keys, bytes, buckets] = ["keys", "bytes", "buckets"].map(|name| view::count(answer, name).unwrap_or(0));
    let counted = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!("cleared {} of {} in {}\n", counted(keys, "key"), human::bytes(bytes), counted(buckets, "bucket"))
}

fn keys(caller: &Caller<'_>, answer: &Value) -> String {
    let mut table = Table::new(&["SIZE", "KEY"]);
    for entry in view::list(answer, "entries") {
        let size = view::count(entry, "bytes").map(human::bytes).unwrap_or_default();
        table.row(vec![Cell::number(size), Cell::new(human::escaped(&view::shown(entry, "key")))]);
    }
    caller.page(&table, answer, "the bucket has no keys")
}

fn buckets(caller: &Caller<'_>, agent: &AgentId, answer: &Value) -> String {
    let mut table = Table::new(&["BUCKET", "KEYS", "SIZE", "WRITTEN", "SESSION"]);
    for bucket in view::list(answer, "buckets") {
        table.row(vec![
            Cell::new(view::shown(bucket, "bucket")),
            Cell::number(view::shown(bucket, "keys")),
            Cell::number(view::count(bucket, "bytes").map(human::bytes).unwrap_or_default()),
            Cell::new(view::age(bucket, "written_at", caller.now())),
            Cell::new(human::escaped(&view::shown(bucket, "session_id"))),
        ]);
    }
    caller.page(&table, answer, &format!("agent {agent} keeps nothing"))
}
