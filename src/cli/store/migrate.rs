//! `sandclock store migrate`: which version the store's schema has and would get, and brings it there.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::check::fault_of;
use crate::cli::Context;
use crate::cli::exit::{Exit, Fault};
use crate::cli::human;
use crate::config;
use crate::daemon::doctor;
use crate::store::report::Schema;

/// Show which version the store's schema has and would get, and bring it there, as the start of a daemon does
#[derive(Args, Clone, Debug)]
pub struct MigrateArgs {
    /// Only show, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The configuration file [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries the verb out.
///
/// # Errors
/// The configuration is wrong, the store cannot be used, or a daemon has its file.
pub async fn execute(args: MigrateArgs, context: &Context) -> Result<Exit, Fault> {
    let loaded = config::load(args.config.as_deref(), &context.env).map_err(|faults| Fault::usage(faults.to_string()))?;
    let settings = &loaded.settings.store;
    let report = doctor::look(settings).await.map_err(fault_of)?;
    let is_due = report.schema.is_some_and(|schema| !schema.is_current());
    let is_applied = is_due && !args.dry_run;
    if !args.json {
        context.screen.line(&format!("{}: {}", human::one_line(&report.address), found(report.schema)))?;
    }
    if is_applied {
        doctor::migrate(settings).await.map_err(fault_of)?;
    }
    if args.json {
        let answer = json!({"store": report.address, "schema": report.schema, "due": is_due, "applied": is_applied});
        context.screen.json(&answer.to_string())?;
    } else if let (true, Some(Schema { known, .. })) = (is_applied, report.schema) {
        context.screen.line(&format!("done: the schema is version {known}"))?;
    }
    Ok(Exit::Done)
}

fn found(schema: Option<Schema>) -> String {
    match schema {
        None => "has no schema, and nothing to bring forward".to_owned(),
        Some(schema) if schema.is_current() => format!("the schema is version {}, which is this sandclock's", schema.found),
        Some(Schema { found: 0, known }) => format!("no store yet; version {known} is to be made"),
        Some(Schema { found, known }) => format!("the schema is version {found}, and is to become {known}"),
    }
}
