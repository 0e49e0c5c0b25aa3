//! `sandclock store restore`: an empty store as a backup holds it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::Context;
use super::super::exit::{Exit, Fault};
use super::super::human::escaped;
use super::told;
use crate::daemon::moving::{restore, shown};

/// Fill an empty store of any kind with what a backup holds, and begin a new epoch of fences
///
/// Stop every daemon first. What still works on leases from before the restore loses them.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The empty store, as a URL or a configuration file (`….toml`); the configured one when it is left out
    #[arg(long, value_name = "STORE")]
    to: Option<String>,
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
/// The backup is not as it was written, the store cannot be had or is not empty, or what was read back differs.
pub async fn execute(args: RestoreArgs, context: &Context) -> Result<Exit, Fault> {
    let to = told::store("--to", args.to.as_deref(), args.config.as_deref(), context).await?;
    let mut progress = told::progress(context, "restoring");
    let restored = Box::pin(restore(&args.file, &to.store, args.anew, &told::clock(), &mut progress)).await.map_err(told::fault_of)?;
    let (file, epoch) = (args.file.to_string_lossy(), restored.fences_above >> 32);
    if args.json {
        let about = json!({
            "file": file, "to": shown(&to.store), "written_at": restored.header.at, "epoch": epoch,
            "fences_above": restored.fences_above, "kinds": told::kinds(&restored.filled.found),
        });
        context.screen.json(&about.to_string())?;
        return Ok(Exit::Done);
    }
    let table = told::table(&restored.filled.found, "READ BACK", "same", context);
    let (to_shown, at) = (escaped(&shown(&to.store)), restored.header.at);
    let beside = told::beside(to.workspace.as_ref());
    context
        .screen
        .text(&format!("{table}{to_shown} is as {} was at {at}; its fences go on in epoch {epoch}.\n{beside}", escaped(&file)))?;
    Ok(Exit::Done)
}
