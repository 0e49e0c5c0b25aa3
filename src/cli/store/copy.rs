//! `sandclock store copy`: all of one store into another, empty one.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::Context;
use super::super::exit::{Exit, Fault};
use super::super::human::escaped;
use super::told;
use crate::daemon::moving::{copy, shown};

/// Copy every record into another, empty store, read it back and compare
///
/// STORE is a URL as `store.url` of the configuration, or a configuration file (`….toml`) whose [store] is meant, so that no password
/// has to be on the command line. No daemon may work on either store.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    /// The store to copy; the configured one when it is left out
    #[arg(long, value_name = "STORE")]
    from: Option<String>,
    /// The empty store to fill
    #[arg(long, value_name = "STORE")]
    to: String,
    /// Empty a target that a copy or a restore has left half filled, and begin anew
    #[arg(long)]
    anew: bool,
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
/// A store cannot be had or is in use, the target is not empty, or what was read back differs.
pub async fn execute(args: CopyArgs, context: &Context) -> Result<Exit, Fault> {
    let from = told::store("--from", args.from.as_deref(), args.config.as_deref(), context).await?;
    let to = told::store("--to", Some(&args.to), None, context).await?;
    let mut progress = told::progress(context, "copying");
    let copied = Box::pin(copy(&from.store, &to.store, args.anew, &told::clock(), &mut progress)).await.map_err(told::fault_of)?;
    let (from_shown, to_shown) = (shown(&from.store), shown(&to.store));
    if args.json {
        context.screen.json(&json!({"from": from_shown, "to": to_shown, "kinds": told::kinds(&copied.found)}).to_string())?;
        return Ok(Exit::Done);
    }
    let table = told::table(&copied.found, "READ BACK", "same", context);
    let (from_shown, to_shown) = (escaped(&from_shown), escaped(&to_shown));
    let beside = told::beside(from.workspace.as_ref());
    context.screen.text(&format!("{table}{from_shown} was copied into {to_shown}, and is as it was.\n{beside}"))?;
    Ok(Exit::Done)
}
