//! What the verbs that move a store have in common: the stores that are named, what goes on, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Context;
use super::super::exit::{Exit, Fault};
use super::super::human;
use super::super::table::{Cell, Table};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, NamedStore, named_store, shows_password};
use crate::daemon::moving::MoveError;
use crate::daemon::open::OpenError;
use crate::store::transfer::{Digest, TransferError};

/// How much of a hash is shown.
const HASH_CHARS: usize = 16;

/// How many records pass between two words of what goes on.
const TOLD_EVERY: u64 = 1000;

/// The clock of stores without a server of their own.
pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// The store that an option names, or else the configured one.
///
/// # Errors
/// The option or the configuration is wrong.
pub async fn store(option: &str, named: Option<&str>, file: Option<&Path>, context: &Context) -> Result<NamedStore, Fault> {
    let (named, file, env) = (named.map(str::to_owned), file.map(Path::to_owned), context.env.clone());
    if named.as_deref().is_some_and(shows_password) {
        let note = format!("note: whoever lists processes sees the password in {option}; a configuration file can be named instead");
        context.screen.note(&note);
    }
    let option = option.to_owned();
    let read = move || match named {
        Some(named) => named_store(&named, &env).map_err(|message| format!("{option} {message}")),
        None => match config::load(file.as_deref(), &env) {
            Ok(loaded) => Ok(NamedStore { store: loaded.settings.store, workspace: Some(loaded.settings.paths.workspace) }),
            Err(faults) => Err(faults.to_string()),
        },
    };
    let read =
        tokio::task::spawn_blocking(read).await.map_err(|error| Fault::failed(format!("the configuration cannot be read: {error}")))?;
    read.map_err(Fault::usage)
}

/// What came in the way, with the code that scripts look at.
pub fn fault_of(error: MoveError) -> Fault {
    let exit = match &error {
        MoveError::Named(_) => Exit::Usage,
        MoveError::Transfer(TransferError::NotEmpty(_) | TransferError::HalfFilled(_) | TransferError::InUse(_)) => Exit::Conflict,
        MoveError::Open(error) if is_in_use(error) => Exit::Conflict,
        _ => Exit::Failed,
    };
    Fault::new(exit, error.to_string())
}

#[cfg(feature = "sqlite")]
fn is_in_use(error: &OpenError) -> bool {
    matches!(error, OpenError::Sqlite(crate::store::sql::sqlite::OpenError::InUse { .. }))
}

#[cfg(not(feature = "sqlite"))]
fn is_in_use(_: &OpenError) -> bool {
    false
}

/// Tells on a terminal how far it has come.
pub fn progress<'a>(context: &'a Context, what: &'static str) -> impl FnMut(&Digest) + Send + use<'a> {
    let mut next = 0;
    move |digest| {
        if digest.total() >= next {
            next = digest.total() + TOLD_EVERY;
            context.screen.status(&format!("{what}: {} records and events, {}", digest.total(), human::bytes(digest.bytes)));
        }
    }
}

/// What was moved as a table: how many of each kind, and what they hash to.
pub fn table(digest: &Digest, last: &'static str, word: &str, context: &Context) -> String {
    let mut table = Table::new(&["KIND", "COUNT", "HASH", last]);
    for (kind, tally) in digest.kinds() {
        let hash: String = tally.hash().chars().take(HASH_CHARS).collect();
        table.row(vec![Cell::new(kind), Cell::number(tally.count.to_string()), Cell::new(hash), Cell::new(word)]);
    }
    if table.is_empty() { "there was nothing in it\n".to_owned() } else { table.render(&context.screen) }
}

/// What was moved for programs, by kind.
pub fn kinds(digest: &Digest) -> Value {
    digest
        .kinds()
        .map(|(kind, tally)| (kind.to_owned(), json!({"count": tally.count, "blake3": tally.hash()})))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// What a store does not hold.
pub fn beside(workspace: Option<&PathBuf>) -> String {
    let place = workspace
        .map_or_else(|| "the folder `paths.workspace`".to_owned(), |path| format!("`{}`", human::escaped(&path.to_string_lossy())));
    format!("Workspaces, logs and plugins are files beside the store and stay where they are: keep or copy {place} and the plugins too.\n")
}
