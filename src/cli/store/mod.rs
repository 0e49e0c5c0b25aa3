//! `sandclock store`: the store that the configuration names.

mod check;
mod migrate;

use clap::{Args, Subcommand};

use super::Context;
use super::exit::{Exit, Fault};

/// Look at the store, and bring it forward
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum StoreVerb {
    Check(check::CheckArgs),
    Migrate(migrate::MigrateArgs),
}

/// Carries the verb out.
///
/// # Errors
/// The configuration is wrong, or the store cannot be used.
pub async fn execute(args: StoreArgs, context: &Context) -> Result<Exit, Fault> {
    match args.verb {
        StoreVerb::Check(args) => check::execute(args, context).await,
        StoreVerb::Migrate(args) => migrate::execute(args, context).await,
    }
}
