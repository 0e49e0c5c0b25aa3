//! `sandclock store`: the store itself.

mod backup;
mod check;
mod copy;
mod migrate;
mod restore;
mod told;

use clap::{Args, Subcommand};

use super::Context;
use super::exit::{Exit, Fault};

/// Look at the store, bring it forward, copy it, back it up and restore it
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum StoreVerb {
    Check(check::CheckArgs),
    Migrate(migrate::MigrateArgs),
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
        StoreVerb::Check(args) => check::execute(args, context).await,
        StoreVerb::Migrate(args) => migrate::execute(args, context).await,
        StoreVerb::Copy(args) => copy::execute(args, context).await,
        StoreVerb::Backup(args) => backup::execute(args, context).await,
        StoreVerb::Restore(args) => restore::execute(args, context).await,
    }
}
