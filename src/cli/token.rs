//! `sandclock token`: tokens of which a configuration keeps only the hash.

use std::fmt::Write as _;
use std::io::Read as _;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::Context;
use super::exit::{Exit, Fault};
use crate::clock::{Entropy as _, SystemEntropy};
use crate::config::{TokenHash, is_token_name};
use crate::domain::role::{Role, Roles};

/// The shortest token that is hashed: what people think up can be guessed from its hash.
const LEAST_CHARS: usize = 32;

/// Make a caller's token and the lines that let it in
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Make a token, shown once, and the lines for the configuration
    New {
        /// Whose it is; events tell it
        #[arg(value_parser = name_of)]
        name: String,
        /// What its bearer may ask for; give it again for more than one
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<RoleName>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the hash of a token that stdin gives, which a vault made for instance
    Hash {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// A role as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleName {
    /// Look at everything
    Read,
    /// Make, cancel and resume runs; change tasks
    Operate,
    /// Answer the questions of runs
    Approve,
    /// Change agents and plugins
    Deploy,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Read => Role::Read,
            RoleName::Operate => Role::Operate,
            RoleName::Approve => Role::Approve,
            RoleName::Deploy => Role::Deploy,
        }
    }
}

fn name_of(name: &str) -> Result<String, &'static str> {
    if is_token_name(name) { Ok(name.to_owned()) } else { Err("use 1 to 64 letters, digits, `_`, `.`, `-` and `@`") }
}

/// Carries the verb out.
///
/// # Errors
/// The machine gives no randomness; what stdin gives is no token.
pub fn execute(args: TokenArgs, context: &Context) -> Result<Exit, Fault> {
    match args.verb {
        Verb::New { name, roles, json } => make(&name, Roles::of(roles.into_iter().map(Role::from)), json, context),
        Verb::Hash { json } => hash(json, context),
    }
}

/// A token of chance: 64 hexadecimal digits.
///
/// # Errors
/// This machine gives no randomness.
pub fn random() -> Result<String, Fault> {
    let mut random = [0; 32];
    SystemEntropy.fill(&mut random);
    if random == [0; 32] {
        return Err(Fault::failed("this machine gives no randomness, so there is no token; try again when it does"));
    }
    Ok(random.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

fn make(name: &str, roles: Roles, json: bool, context: &Context) -> Result<Exit, Fault> {
    let token = random()?;
    let hash = TokenHash::of(token.as_bytes()).to_string();
    let roles: Vec<&str> = roles.iter().map(Role::as_str).collect();
    if json {
        context.screen.json(&json!({"name": name, "token": token, "hash": hash, "roles": roles}).to_string())?;
    } else {
        let list = roles.iter().map(|role| format!("\"{role}\"")).collect::<Vec<_>>().join(", ");
        context.screen.text(&format!(
            "{token}\n\nThat is the token of {name}; it is not shown again. The configuration of the daemon lets it in with\n\n\
             [tokens.\"{name}\"]\nhash = \"{hash}\"\nroles = [{list}]\n"
        ))?;
    }
    Ok(Exit::Done)
}

fn hash(json: bool, context: &Context) -> Result<Exit, Fault> {
    let mut text = String::new();
    let most = 4096;
    let unreadable = |error: std::io::Error| Fault::usage(format!("stdin gives no token ({error}); write one to it"));
    std::io::stdin().take(most).read_to_string(&mut text).map_err(unreadable)?;
    let token = text.trim();
    if token.len() < LEAST_CHARS || token.len() > 512 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Fault::usage(format!(
            "stdin must give one token of chance, of {LEAST_CHARS} to 512 letters, digits and signs; `sandclock token new` makes one"
        )));
    }
    let hash = TokenHash::of(token.as_bytes()).to_string();
    if json {
        context.screen.json(&json!({"hash": hash}).to_string())?
    } else {
        context.screen.line(&hash)?
    }
    Ok(Exit::Done)
}
