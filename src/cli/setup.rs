//! `sandclock init` and `sandclock config`: the verbs around their functions.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::{Exit, Fault};
use super::init::{InitError, init};
use super::{Context, config_check, config_show, token};
use crate::config;

/// Write a commented configuration, the folders and a token
#[derive(Args, Clone, Debug)]
pub struct InitArgs {
    /// The directory to make or to use
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries `init` out.
///
/// # Errors
/// Something is there already, or the file system refuses.
pub fn execute_init(args: &InitArgs, context: &Context) -> Result<Exit, Fault> {
    let report = init(&args.dir, &token::random()?).map_err(|error| {
        let exit = if matches!(error, InitError::Exists(_)) { Exit::Conflict } else { Exit::Failed };
        Fault::new(exit, error.to_string())
    })?;
    if args.json {
        context.screen.json(&report.json().to_string())?
    } else {
        context.screen.text(&report.text())?
    }
    Ok(Exit::Done)
}

/// Check or show the configuration
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The configuration file [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether a daemon would start with it, with all faults at once
    Check,
    /// Show every setting in force
    Show {
        /// Say where each value comes from: default, file or environment
        #[arg(long)]
        origin: bool,
    },
}

/// Carries `config` out.
///
/// # Errors
/// The configuration is wrong.
pub fn execute_config(args: &ConfigArgs, context: &Context) -> Result<Exit, Fault> {
    let screen = &context.screen;
    let file = args.config.as_deref();
    match args.verb {
        ConfigVerb::Check => {
            let checked = config_check::check(file, &context.env, context.now());
            if args.json {
                screen.json(&checked.json().to_string())?
            } else {
                screen.text(&checked.text())?
            }
            Ok(if checked.is_good() { Exit::Done } else { Exit::Usage })
        }
        ConfigVerb::Show { origin } => {
            let loaded = config::load(file, &context.env).map_err(|faults| Fault::usage(faults.to_string()))?;
            if args.json {
                screen.json(&config_show::json(&loaded).to_string())?;
            } else {
                screen.text(&config_show::text(&loaded, origin))?;
            }
            Ok(Exit::Done)
        }
    }
}
