//! The one text that chooses the store.
//!
//! Invariant: no message repeats the text, which may hold a password; at most its scheme is named.

use std::path::PathBuf;

use super::fault::{shown, suggestion};

/// What a store's text asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreUrl {
    Memory,
    /// SQLite at its usual place in the data folder.
    Sqlite,
    /// SQLite at this path.
    SqliteAt(PathBuf),
}

const FORMS: &str = "use `memory`, `sqlite`, `sqlite:///relative/path.db` or `sqlite:////absolute/path.db`";

/// Reads a store's text.
pub(super) fn parse(text: &str) -> Result<StoreUrl, String> {
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) => (scheme, Some(rest)),
        None => (text, None),
    };
    // A driver after the plus, as in `sqlite+aiosqlite`, says nothing to us.
    let kind = scheme.split('+').next().unwrap_or(scheme).to_ascii_lowercase();
    match kind.as_str() {
        "memory" | "in_memory" if matches!(rest, None | Some("//")) => Ok(StoreUrl::Memory),
        "sqlite" => rest.map_or(Ok(StoreUrl::Sqlite), sqlite),
        "memory" | "in_memory" => Err(format!("takes nothing after `memory`; {FORMS}")),
        "redis" | "rediss" | "valkey" | "mongodb" | "postgres" | "postgresql" => {
            Err(format!("names a {kind} store, which comes with a later version; until then {FORMS}"))
        }
        _ if rest.is_some() => Err(format!("has the unknown scheme `{}`; {FORMS}", shown(scheme))),
        _ => Err(format!("names no store: {}", suggestion(&kind, ["memory", "sqlite", "sqlite:///path.db"]))),
    }
}

fn sqlite(rest: &str) -> Result<StoreUrl, String> {
    let Some(path) = rest.strip_prefix("///") else {
        return Err(if rest.is_empty() || rest == "//" || rest.contains(":memory:") {
            "names no file; use `memory` for a store in memory, or give a path as in `sqlite:///sandclock.db`".to_owned()
        } else {
            format!("needs three slashes before its path, four for an absolute one; {FORMS}")
        });
    };
    if path.is_empty() || path == ":memory:" {
        return Err("names no file; use `memory` for a store in memory, or give a path as in `sqlite:///sandclock.db`".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err("has options after its path, which are not supported; end it after the file's name".to_owned());
    }
    if path.ends_with('/') || path.contains('\0') {
        return Err("must name a file, not a folder".to_owned());
    }
    Ok(StoreUrl::SqliteAt(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_are_taken() {
        let at = |path: &str| Ok(StoreUrl::SqliteAt(PathBuf::from(path)));
        assert_eq!(parse("memory"), Ok(StoreUrl::Memory));
        assert_eq!(parse("in_memory"), Ok(StoreUrl::Memory));
        assert_eq!(parse("sqlite"), Ok(StoreUrl::Sqlite));
        assert_eq!(parse("sqlite:///x.db"), at("x.db"));
        assert_eq!(parse("sqlite:///a/b/x.db"), at("a/b/x.db"));
        assert_eq!(parse("sqlite:////var/x.db"), at("/var/x.db"));
        assert_eq!(parse("sqlite+aiosqlite:///x.db"), at("x.db"));
    }

    #[test]
    fn what_is_refused_says_the_mend_and_shows_no_password() {
        for (text, wanted) in [
            ("sqlite://", "`memory`"),
            ("sqlite:///", "`memory`"),
            ("sqlite:///:memory:", "`memory`"),
            ("sqlite://x.db", "three slashes"),
            ("sqlite:x.db", "three slashes"),
            ("sqlite:///x.db?mode=ro", "options"),
            ("sqlite:///data/", "not a folder"),
            ("redis://:tiger@host/0", "later version"),
            ("redis", "later version"),
            ("mongodb", "later version"),
            ("postgresql+asyncpg://u:tiger@h/d", "later version"),
            ("mysql://u:tiger@h/d", "unknown scheme `mysql`"),
            ("sqlit", "did you mean `sqlite`?"),
            ("", "names no store"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(wanted), "{text}: {message}");
            assert!(!message.contains("tiger"), "{message}");
        }
    }
}
