//! `sandclock config show`: every setting in force, and where it comes from. Secrets are hidden.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::{Loaded, Origin};

use super::human::escaped;

/// A line for each setting; with `origins`, each says where its value comes from.
pub fn text(loaded: &Loaded, origins: bool) -> String {
    let rows: Vec<(String, String)> =
        loaded.entries.iter().map(|entry| (format!("{} = {}", escaped(&entry.key), entry.value), entry.origin.to_string())).collect();
    let width = rows.iter().map(|(setting, _)| setting.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut out = String::new();
    for (setting, origin) in rows {
        // Writing into a text cannot fail.
        let _ = if origins { writeln!(out, "{setting:<width$}  {}", escaped(&origin)) } else { writeln!(out, "{setting}") };
    }
    let _ = match loaded.settings.tasks.len() {
        0 => Ok(()),
        1 => writeln!(out, "and 1 task"),
        count => writeln!(out, "and {count} tasks"),
    };
    for warning in &loaded.warnings {
        let _ = writeln!(out, "warning: {warning}");
    }
    out
}

/// The same as JSON: `{settings: [{key, value, origin: {from, file?, line?, variable?}}], tasks, warnings}`.
pub fn json(loaded: &Loaded) -> Value {
    let settings: Vec<Value> =
        loaded.entries.iter().map(|entry| json!({"key": entry.key, "value": entry.value, "origin": origin_json(&entry.origin)})).collect();
    let tasks: Vec<&str> = loaded.settings.tasks.iter().map(|task| task.task_id()).collect();
    json!({"settings": settings, "tasks": tasks, "warnings": loaded.warnings})
}

pub(super) fn origin_json(origin: &Origin) -> Value {
    match origin {
        Origin::Default => json!({"from": "default"}),
        Origin::File { file, line } => json!({"from": "file", "file": file.to_string_lossy(), "line": line}),
        Origin::Environment { variable } => json!({"from": "environment", "variable": variable}),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    fn loaded() -> Loaded {
        let file = "[server]\ntoken = \"tiger-7421\"\n[worker]\nlease_seconds = 10\n[[tasks]]\ntask_id = \"a\"\n";
        parse(file, Path::new("x.toml"), &Environment::of([("SANDCLOCK_MAX_RUNNING", "7")])).unwrap()
    }

    #[test]
    fn each_setting_says_where_it_comes_from_and_the_token_stays_hidden() {
        let text = text(&loaded(), true);
        let line =
            |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line("worker.lease_seconds"), "worker.lease_seconds = 10 x.toml:4");
        assert_eq!(line("worker.max_running"), "worker.max_running = 7 SANDCLOCK_MAX_RUNNING");
        assert_eq!(line("worker.enabled"), "worker.enabled = true default");
        assert_eq!(line("server.token ="), "server.token = \"(hidden)\" x.toml:2");
        assert!(!text.contains("tiger") && !json(&loaded()).to_string().contains("tiger"));
        assert!(text.ends_with("and 1 task\n"), "{text}");
    }

    #[test]
    fn without_origins_it_is_only_the_values() {
        let text = text(&loaded(), false);
        assert!(text.contains("worker.max_running = 7\n") && !text.contains("SANDCLOCK_MAX_RUNNING"), "{text}");
    }

    #[test]
    fn json_names_file_line_and_variable() {
        let json = json(&loaded());
        let of = |key: &str| json["settings"].as_array().unwrap().iter().find(|one| one["key"] == key).unwrap()["origin"].clone();
        assert_eq!(of("worker.lease_seconds"), json!({"from": "file", "file": "x.toml", "line": 4}));
        assert_eq!(of("worker.max_running"), json!({"from": "environment", "variable": "SANDCLOCK_MAX_RUNNING"}));
        assert_eq!(json["tasks"], json!(["a"]));
    }
}
