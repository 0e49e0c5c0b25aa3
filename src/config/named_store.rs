//! A store that a command line names beside the configured one.
//!
//! Invariant: no message repeats what was given, which may hold a password.

use std::path::{Path, PathBuf};

use super::store_url::{self, StoreUrl};
use super::{Environment, StoreSettings, load};

/// What the name of a configuration file ends with.
const FILE: &str = "toml";

/// A store that was named.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedStore {
    /// The store.
    pub store: StoreSettings,
    /// Its daemons' root of workspaces, where a configuration file was named.
    pub workspace: Option<PathBuf>,
}

/// The store that a text names: a URL as `store.url` takes it, or a configuration file (`….toml`) whose `[store]` is meant, whatever the
/// environment says of stores. Blocks on the file system.
///
/// # Errors
/// It names none, or the file is wrong: one sentence.
pub fn named_store(text: &str, env: &Environment) -> Result<NamedStore, String> {
    if Path::new(text).extension().is_some_and(|ending| ending == FILE) {
        let loaded = load(Some(Path::new(text)), &env.without_store()).map_err(|faults| faults.to_string())?;
        return Ok(NamedStore { store: loaded.settings.store, workspace: Some(loaded.settings.paths.workspace) });
    }
    let url = store_url::parse(text).map_err(|message| format!("{message}; or name a configuration file that ends with .{FILE}"))?;
    if url == StoreUrl::Sqlite {
        return Err("names no file; write it as in `sqlite:///.sandclock/sandclock.db`, or name a configuration file".to_owned());
    }
    let url = super::settings_of(url, Path::new(""), None, None);
    Ok(NamedStore { store: url, workspace: None })
}

/// Whether a text has a password in sight, as `user:password@` before its host.
pub fn shows_password(text: &str) -> bool {
    let authority = text.split_once("://").filter(|(scheme, _)| !scheme.starts_with("sqlite")).map(|(_, rest)| rest);
    let user = authority.and_then(|rest| rest.rsplit_once('@')).map(|(user, _)| user);
    user.is_some_and(|user| user.split_once(':').is_some_and(|(_, password)| !password.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_store_is_meant_whatever_the_environment_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.toml");
        std::fs::write(&file, "[store]\nurl = \"redis://u:tiger@h\"\nprefix = \"mine\"\n").unwrap();
        let env =
            Environment::of([("SANDCLOCK_STORE", "memory"), ("SANDCLOCK_STORE_PREFIX", "theirs"), ("DATABASE_URL", "postgres://h/d")]);
        let named = named_store(file.to_str().unwrap(), &env).unwrap();
        assert!(matches!(&named.store, StoreSettings::Redis { url, prefix } if url.to_string() == "redis://h" && prefix == "mine"));
        assert!(named.workspace.is_some());
        let missing = named_store("/nowhere/at/all.toml", &env).unwrap_err();
        assert!(missing.contains("all.toml") && missing.contains("cannot be read"), "{missing}");
    }

    #[test]
    fn a_url_is_taken_as_the_configuration_takes_it_and_a_wrong_one_is_not_repeated() {
        let env = Environment::default();
        let sqlite = named_store("sqlite:////a/b.db", &env).unwrap();
        assert_eq!(sqlite.store, StoreSettings::Sqlite { path: PathBuf::from("/a/b.db") });
        for wrong in ["sqlite", "mysql://u:tiger@h/d", "redis://u:ti ger@h", "postgres://u:tig/er@h"] {
            let message = named_store(wrong, &env).unwrap_err();
            assert!(!message.contains("tig") && message.contains("configuration file"), "{message}");
        }
    }

    #[test]
    fn a_password_in_sight_is_seen() {
        for (text, is_shown) in [
            ("postgres://u:p@h/d", true),
            ("redis://:p@h", true),
            ("postgres://u@h/d", false),
            ("redis://h:6379", false),
            ("sqlite:///a:b@c.db", false),
            ("new.toml", false),
        ] {
            assert_eq!(shows_password(text), is_shown, "{text}");
        }
    }
}
