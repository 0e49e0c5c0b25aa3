//! `sandclock store backup`: all of a store in one file.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::Context;
use super::super::exit::{Exit, Fault};
use super::super::human::escaped;
use super::told;
use crate::daemon::moving::{backup, shown};

/// Write every record into a new file
///
/// SQLite and PostgreSQL are backed up as of one moment while daemons work; stop the daemons of Redis and MongoDB first.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The file to write; there must be none of that name
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store, as a URL or a configuration file (`….toml`); the configured one when it is left out
    #[arg(long, value_name = "STORE")]
    from: Option<String>,
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
/// The store cannot be had or is in use, or the file cannot be written.
pub async fn execute(args: BackupArgs, context: &Context) -> Result<Exit, Fault> {
    let from = told::store("--from", args.from.as_deref(), args.config.as_deref(), context).await?;
    let mut progress = told::progress(context, "backing up");
    let written = Box::pin(backup(&from.store, &args.file, &told::clock(), &mut progress)).await.map_err(told::fault_of)?;
    let file = args.file.to_string_lossy();
    if args.json {
        context.screen.json(&json!({"from": shown(&from.store), "file": file, "kinds": told::kinds(&written)}).to_string())?;
        return Ok(Exit::Done);
    }
    let table = told::table(&written, "WRITTEN", "yes", context);
    let beside = told::beside(from.workspace.as_ref());
    context.screen.text(&format!("{table}{} is in {}.\n{beside}", escaped(&shown(&from.store)), escaped(&file)))?;
    Ok(Exit::Done)
}
