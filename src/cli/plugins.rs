//! `sandclock plugins`: what lies in the plugins folder, and what became of it.

use clap::Args;
use serde_json::Value;

use super::Context;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::human;
use super::remote::ClientArgs;
use super::table::{Cell, Table};
use super::view;

/// What lies in the plugins folder: compiling, accepted, or rejected and why
#[derive(Args, Clone, Debug)]
pub struct PluginsArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable or says no.
pub async fn execute(args: PluginsArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    let answer = caller.remote.get(&["plugins"], &[]).await?;
    caller.show(&answer, |plugins| list(&caller, plugins))
}

fn list(caller: &Caller<'_>, plugins: &Value) -> String {
    let mut table = Table::new(&["PLUGIN", "STATE", "SIZE", "CHANGED", "SERVES", "REASON"]);
    for plugin in view::list(plugins, "plugins") {
        let serving = view::text(plugin, "digest").unwrap_or_else(|| "nothing".to_owned());
        table.row(vec![
            Cell::new(match view::text(plugin, "source").as_deref() {
                Some("push") => format!("{} (pushed)", view::shown(plugin, "plugin")),
                _ => view::shown(plugin, "file"),
            }),
            view::status_cell(&view::shown(plugin, "state")),
            Cell::number(view::count(plugin, "size").map(human::bytes).unwrap_or_default()),
            Cell::new(view::age(plugin, "modified_at", caller.now())),
            Cell::new(serving.chars().take(12).collect::<String>()),
            Cell::new(view::text(plugin, "reason").or_else(|| view::text(plugin, "overridden")).unwrap_or_default()),
        ]);
    }
    caller.page(&table, plugins, "no plugins yet: drop a component (*.wasm) into the daemon's plugins folder")
}
