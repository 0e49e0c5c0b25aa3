//! The variables of the environment that concern the daemon.
//!
//! Invariant: an empty variable is as good as none, as in the system that people come from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::secret::Secret;

use super::fault::{ConfigFault, Origin};

/// What the daemon's own variables start with.
pub(super) const OWN: &str = "SANDCLOCK_";
/// What the variables of the system that people come from start with.
pub(super) const SEED: &str = "OMNICOREAGENT_";
/// The variable that names the configuration file where no argument does.
pub(super) const CONFIG_FILE: &str = "SANDCLOCK_CONFIG";
/// The configuration file of the current folder, which is meant where nothing names one.
pub(super) const FOLDER_FILE: &str = "sandclock.toml";

/// What the variables that say which store is meant start with.
const STORE: [&str; 3] = ["SANDCLOCK_STORE", "OMNICOREAGENT_BACKGROUND_TASK_STORE", "DATABASE_URL"];

/// A copy of the environment, taken once, so that what is loaded does not depend on when.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
    unreadable: BTreeSet<String>,
    /// All others: only a credential that names one of them gets it.
    others: Arc<BTreeMap<String, Secret>>,
    /// Whether the current folder has a configuration file.
    has_folder_file: bool,
}

impl Environment {
    /// The variables of this process that sandclock may read, and whether its folder has a configuration. Blocks on the file system.
    pub fn of_process() -> Self {
        let (mut all, mut others) = (Environment::default(), BTreeMap::new());
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            let is_named = || matches!(name, "DATABASE_URL" | "NO_COLOR") || super::bucket::CREDENTIALS.contains(&name);
            if !(name.starts_with(OWN) || name.starts_with(SEED) || is_named()) {
                if let Ok(value) = value.into_string() {
                    others.insert(name.to_owned(), Secret::new(value));
                }
                continue;
            }
            match value.into_string() {
                Ok(value) => all.values.insert(name.to_owned(), value).is_some(),
                Err(_) => all.unreadable.insert(name.to_owned()),
            };
        }
        all.others = Arc::new(others);
        // One that cannot be followed is there too, and told when it is read.
        all.has_folder_file = Path::new(FOLDER_FILE).symlink_metadata().is_ok();
        all
    }

    /// The given variables and no others.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let values = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Environment { values, ..Environment::default() }
    }

    /// The same with one variable changed: how an argument of the command line beats the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.unreadable.remove(name);
        self.values.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same without what says which store is meant.
    #[must_use]
    pub(super) fn without_store(&self) -> Self {
        let is_of_store = |name: &str| STORE.iter().any(|start| name.starts_with(start));
        let mut others = self.clone();
        others.values.retain(|name, _| !is_of_store(name));
        others.unreadable.retain(|name| !is_of_store(name));
        others
    }

    /// The same without the daemon's token, for what runs without a daemon.
    #[must_use]
    pub fn without_token(&self) -> Self {
        let mut others = self.clone();
        for name in ["SANDCLOCK_TOKEN", "SANDCLOCK_TOKEN_FILE"] {
            others.values.remove(name);
            others.unreadable.remove(name);
        }
        others
    }

    /// The value of a variable that a credential names, unless it is missing or empty.
    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        let own = || self.values.get(name).map(Secret::new);
        self.others.get(name).cloned().or_else(own).filter(|value| !value.expose().is_empty())
    }

    /// A variable's value, unless it is missing or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The configuration file that `SANDCLOCK_CONFIG` names, or else the one that the current folder has had since the process began.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.get(CONFIG_FILE).or(self.has_folder_file.then_some(FOLDER_FILE)).map(PathBuf::from)
    }

    /// The names of the variables that have a value.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.as_str())
    }

    pub(super) fn faults(&self) -> impl Iterator<Item = ConfigFault> {
        self.unreadable.iter().map(|name| ConfigFault {
            origin: Origin::of_variable(name),
            key: None,
            message: "its value is not UTF-8; write it in UTF-8 or unset it".to_owned(),
        })
    }
}

/// Reads a yes or no as variables spell it.
pub(super) fn flag_of(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("must be true, 1, yes or on, or false, 0, no or off, not `{}`", super::fault::shown(text))),
    }
}
