//! What two readings of the configuration differ in, and what of it a running daemon can take.
//!
//! Invariant: every setting of the reference is sorted into one of the two kinds; one that is not is taken for the next start's, so that
//! no message promises what does not happen.

use std::fmt;

use serde_json::Value as Json;

use super::fault::Origin;
use super::section::Entry;
use super::{Loaded, Settings};

/// What a running daemon keeps as it was when it started: whole tables, and single settings.
const NEXT_START: [&str; 14] = [
    "default_agent",
    "server.listen",
    "server.api_prefix",
    "server.tls_cert_file",
    "server.tls_key_file",
    "server.request_timeout_seconds",
    "server.max_body_bytes",
    "store",
    "paths",
    "workspace",
    "worker.enabled",
    "worker.max_running",
    "worker.lease_seconds",
    "logging.format",
];

/// What a running daemon takes: whole tables, and single settings.
const LIVE: [&str; 19] = [
    "plugins",
    "credentials",
    "prices",
    "server.token",
    "server.token_file",
    "server.idempotency_seconds",
    "server.idempotency_keys",
    "tokens",
    "worker.shutdown_grace_seconds",
    "worker.cancel_grace_seconds",
    "worker.timeout_seconds",
    "worker.max_recoveries",
    "scheduler",
    "queue",
    "retention",
    "agents",
    "limits",
    "tasks",
    "logging.level",
];

/// One setting that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The dotted path.
    pub key: String,
    /// What it was, and where that came from.
    pub before: (Json, Origin),
    /// What it is to be, and where that comes from.
    pub after: (Json, Origin),
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((before, from), (after, to)) = (&self.before, &self.after);
        write!(out, "{} {before} ({from}) -> {after} ({to})", self.key)
    }
}

fn is_of(key: &str, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| key.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Whether a running daemon can take another value of this setting.
pub fn is_live(key: &str) -> bool {
    is_of(key, &LIVE) && !is_of(key, &NEXT_START)
}

/// What of `now` a daemon that started with `started` takes at its next start only, by the keys' names.
pub fn waiting(started: &Loaded, now: &Loaded) -> Vec<Difference> {
    let mut differences = differences(started, now);
    differences.retain(|difference| !is_live(&difference.key));
    // What is shown of a secret is the same whatever it is.
    for (key, differs) in hidden(&started.settings, &now.settings) {
        if differs && !differences.iter().any(|difference| is_of(&difference.key, &[section_of(key)])) {
            let shown = |loaded: &Loaded| value_of(loaded, key).unwrap_or_else(|| (Json::from("(hidden)"), Origin::Default));
            differences.push(Difference { key: key.to_owned(), before: shown(started), after: shown(now) });
        }
    }
    differences
}

/// The settings of which the entries do not show all, and whether they differ.
fn hidden(before: &Settings, after: &Settings) -> [(&'static str, bool); 2] {
    [("store.url", before.store != after.store), ("workspace.secret_key_file", before.bucket != after.bucket)]
}

fn section_of(key: &str) -> &str {
    key.split_once('.').map_or(key, |(section, _)| section)
}

fn value_of(loaded: &Loaded, key: &str) -> Option<(Json, Origin)> {
    let entry = loaded.entries.iter().find(|entry| entry.key == key)?;
    Some((entry.value.clone(), entry.origin.clone()))
}

/// The settings whose shown values differ, in the order of the reference, with those that are gone behind.
pub fn differences(before: &Loaded, after: &Loaded) -> Vec<Difference> {
    let missing = || (Json::Null, Origin::Default);
    let told = |entry: &Entry| (entry.value.clone(), entry.origin.clone());
    let changed = after.entries.iter().filter_map(|entry| {
        let was = value_of(before, &entry.key).unwrap_or_else(missing);
        (was.0 != entry.value).then(|| Difference { key: entry.key.clone(), before: was, after: told(entry) })
    });
    let gone = before.entries.iter().filter(|entry| value_of(after, &entry.key).is_none());
    let gone = gone.map(|entry| Difference { key: entry.key.clone(), before: told(entry), after: missing() });
    changed.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, REFERENCE, parse};
    use super::*;

    fn loaded(text: &str) -> Loaded {
        parse(text, Path::new("s.toml"), &Environment::default()).unwrap()
    }

    #[test]
    fn every_setting_of_the_reference_is_sorted_into_one_kind() {
        for entry in loaded(REFERENCE).entries {
            assert_ne!(is_of(&entry.key, &LIVE), is_of(&entry.key, &NEXT_START), "{}", entry.key);
        }
        assert!(!is_live("something.new"));
        assert!(is_live("agents.a.limits.memory_bytes") && !is_live("worker.max_running") && !is_live("storeroom"));
    }

    #[test]
    fn what_waits_for_the_next_start_is_named_with_both_values_and_origins() {
        let started = loaded("[worker]\nmax_running = 3\n");
        let now = loaded("[worker]\n\nmax_running = 4\ntimeout_seconds = 5\n[logging]\nformat = \"json\"\n");
        let told: Vec<String> = waiting(&started, &now).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["worker.max_running 3 (s.toml:2) -> 4 (s.toml:3)", "logging.format \"text\" (default) -> \"json\" (s.toml:6)"]);
        assert!(waiting(&started, &loaded("[worker]\nmax_running = 3\ntimeout_seconds = 5\n")).is_empty());
    }

    #[test]
    fn a_password_that_changes_is_named_and_never_shown() {
        let store = |password: &str| loaded(&format!("[store]\nurl = \"postgres://u:{password}@h/d\"\n"));
        let told: Vec<String> = waiting(&store("tiger-1"), &store("tiger-2")).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("store.url ") && !told[0].contains("tiger"), "{told:?}");
    }

    #[test]
    fn what_is_gone_differs_too() {
        let before = loaded("[agents.a]\nmax_running = 2\n");
        let keys: Vec<String> = differences(&before, &loaded("")).into_iter().map(|difference| difference.key).collect();
        assert!(keys.contains(&"agents.a.max_running".to_owned()), "{keys:?}");
    }
}
