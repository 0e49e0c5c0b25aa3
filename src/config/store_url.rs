//! The one text that chooses the store.
//!
//! Invariant: no message repeats the text, which may hold a password; at most its scheme, and what is shown of a [`ServerUrl`].

use std::fmt;
use std::path::PathBuf;

use super::fault::{shown, suggestion};
use crate::domain::secret::Secret;

/// Where a store's server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    url: Secret,
    shown: String,
}

impl ServerUrl {
    /// The whole URL, for the driver that connects.
    pub fn expose(&self) -> &str {
        self.url.expose()
    }
}

/// Shows scheme, servers and path; never a user, a password or an option.
impl fmt::Display for ServerUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.shown)
    }
}

/// What a store's text asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoreUrl {
    Memory,
    /// SQLite at its usual place in the data folder.
    Sqlite,
    /// SQLite at this path.
    SqliteAt(PathBuf),
    Postgres(ServerUrl),
    Redis(ServerUrl),
    Mongodb(ServerUrl),
}

impl StoreUrl {
    /// The text without what must not be seen.
    pub(super) fn shown(&self, text: &str) -> String {
        match self {
            StoreUrl::Postgres(url) | StoreUrl::Redis(url) | StoreUrl::Mongodb(url) => url.to_string(),
            StoreUrl::Memory | StoreUrl::Sqlite | StoreUrl::SqliteAt(_) => text.to_owned(),
        }
    }
}

const FORMS: &str =
    "use `memory`, `sqlite`, `sqlite:///relative/path.db`, `sqlite:////absolute/path.db`, `postgres://…`, `redis://…` or `mongodb://…`";

/// Reads a store's text.
pub(super) fn parse(text: &str) -> Result<StoreUrl, String> {
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) => (scheme, Some(rest)),
        None => (text, None),
    };
    let scheme_given = scheme.to_ascii_lowercase();
    // A driver after the plus, as in `sqlite+aiosqlite`, says nothing to us; `mongodb+srv` is a scheme of its own.
    let kind = scheme_given.split('+').next().unwrap_or_default();
    match kind {
        "memory" | "in_memory" if matches!(rest, None | Some("//")) => Ok(StoreUrl::Memory),
        "sqlite" => rest.map_or(Ok(StoreUrl::Sqlite), sqlite),
        "memory" | "in_memory" => Err(format!("takes nothing after `memory`; {FORMS}")),
        "postgres" | "postgresql" => server("postgres", rest.unwrap_or("//localhost/sandclock"), true).map(StoreUrl::Postgres),
        "redis" | "valkey" => server("redis", rest.unwrap_or("//localhost:6379"), false).map(StoreUrl::Redis),
        "rediss" | "valkeys" => server("rediss", rest.unwrap_or("//localhost:6379"), false).map(StoreUrl::Redis),
        "mongodb" if scheme_given == "mongodb+srv" => server("mongodb+srv", rest.unwrap_or_default(), false).map(StoreUrl::Mongodb),
        "mongodb" => server("mongodb", rest.unwrap_or("//localhost:27017"), false).map(StoreUrl::Mongodb),
        _ if rest.is_some() => Err(format!("has the unknown scheme `{}`; {FORMS}", shown(scheme))),
        _ => {
            let kinds = ["memory", "sqlite", "postgres", "redis", "mongodb"];
            Err(format!("names no store: {}", suggestion(kind, kinds)))
        }
    }
}

/// The parts of a URL that say where a server is, whoever connects to it: `[user[:password]@]hosts[/path][?options]`.
fn server(scheme: &str, rest: &str, may_be_local: bool) -> Result<ServerUrl, String> {
    let Some(rest) = rest.strip_prefix("//") else {
        return Err(format!("needs `//` behind its scheme, as in `{scheme}://host/`"));
    };
    if rest.chars().any(|sign| sign.is_whitespace() || sign.is_control()) {
        return Err("has a space or a control character in it; write those of a password as %20 and the like".to_owned());
    }
    let until = |text: &str| text.find(['/', '?', '#']).unwrap_or(text.len());
    let (authority, behind) = rest.split_at(until(rest));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    // A slash or a question mark that belongs to a password ends the authority too early, and leaves its rest in sight.
    if behind.contains('@') {
        return Err("has an `@` behind its host; write a `/`, `?`, `#` or `@` of a password as %2F, %3F, %23 or %40".to_owned());
    }
    if hosts.is_empty() && !may_be_local {
        return Err(format!("names no host; write it as in `{scheme}://host/`"));
    }
    let path = behind.split(['?', '#']).next().unwrap_or_default();
    Ok(ServerUrl { url: Secret::new(format!("{scheme}://{rest}")), shown: shown(&format!("{scheme}://{hosts}{path}")) })
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
    fn a_server_is_taken_whole_and_shown_without_its_user_and_options() {
        for (text, whole, shown) in [
            ("postgres", "postgres://localhost/sandclock", "postgres://localhost/sandclock"),
            ("postgresql+asyncpg://u:tiger@h:5/d?sslmode=require", "postgres://u:tiger@h:5/d?sslmode=require", "postgres://h:5/d"),
            ("postgres:///d?host=/run/postgresql", "postgres:///d?host=/run/postgresql", "postgres:///d"),
            ("redis", "redis://localhost:6379", "redis://localhost:6379"),
            ("valkey://:tiger@h/2", "redis://:tiger@h/2", "redis://h/2"),
            ("REDISS://u:ti%2Fger@[::1]:7", "rediss://u:ti%2Fger@[::1]:7", "rediss://[::1]:7"),
            ("mongodb://u:tiger@a:1,b:2/d?replicaSet=r", "mongodb://u:tiger@a:1,b:2/d?replicaSet=r", "mongodb://a:1,b:2/d"),
            (
                "mongodb+srv://u:tiger@cluster.example/?tls=true",
                "mongodb+srv://u:tiger@cluster.example/?tls=true",
                "mongodb+srv://cluster.example/",
            ),
            ("redis://u:ti@ger@h", "redis://u:ti@ger@h", "redis://h"),
        ] {
            let (StoreUrl::Postgres(url) | StoreUrl::Redis(url) | StoreUrl::Mongodb(url)) = parse(text).unwrap() else { panic!("{text}") };
            assert_eq!((url.expose(), url.to_string().as_str()), (whole, shown));
            assert!(!format!("{url:?}").contains("tiger"));
        }
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
            ("redis:h", "`//` behind its scheme"),
            ("redis://", "names no host"),
            ("redis://u:tiger@/0", "names no host"),
            ("mongodb+srv", "`//` behind its scheme"),
            ("mongodb://u:tig/er@h", "%2F"),
            ("mongodb://u:tig?er@h", "%2F"),
            ("mongodb://u:a@tig#er@h", "%2F"),
            ("postgres://u:ti ger@h/d", "%20"),
            ("mysql://u:tiger@h/d", "unknown scheme `mysql`"),
            ("sqlit", "did you mean `sqlite`?"),
            ("", "names no store"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(wanted), "{text}: {message}");
            assert!(!message.contains("tig"), "{message}");
        }
    }
}
