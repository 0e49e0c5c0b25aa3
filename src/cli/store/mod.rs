//! `sandclock store`: the store itself.

mod backup;
mod copy;
mod restore;
mod told;

use clap::{Args, Subcommand};

use super::Context;
use super::exit::{Exit, Fault};

/// Copy the store, back it up and restore it
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum StoreVerb {
    Copy(copy::CopyArgs),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
}

/// Carries the verb out.
///
/// # Errors
/// The configuration is wrong, or the store cannot be used.
pub async fn execute(args: StoreArgs, context: &Context) -> Result<Exit, Fault> {
    match args.verb {
        StoreVerb::Copy(args) => copy::execute(args, context).await,
        StoreVerb::Backup(args) => backup::execute(args, context).await,
        StoreVerb::Restore(args) => restore::execute(args, context).await,
    }
}
