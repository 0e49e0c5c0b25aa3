//! `sandclock config check`: whether a daemon would start with this file and environment, with all faults at once.

use std::path::Path;

use serde_json::{Value, json};

use crate::config::{self, ConfigFault, Environment, Loaded};
use crate::domain::time::Timestamp;

use super::config_show::origin_json;
use super::human::escaped;

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// What was loaded, when nothing is wrong with the settings.
    pub loaded: Option<Loaded>,
    /// All that is wrong.
    pub faults: Vec<ConfigFault>,
}

/// Loads the settings and judges every task of the file, as a daemon would at `now`. Blocks on the file system.
pub fn check(file: Option<&Path>, env: &Environment, now: Timestamp) -> Checked {
    match config::load(file, env) {
        Ok(loaded) => {
            let agent = &loaded.settings.default_agent;
            let faults = loaded.settings.tasks.iter().filter_map(|task| task.task(agent, now).err()).flat_map(|faults| faults.0).collect();
            Checked { loaded: Some(loaded), faults }
        }
        Err(faults) => Checked { loaded: None, faults: faults.0 },
    }
}

impl Checked {
    /// Whether a daemon would take this configuration.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// For people: the faults a line each, or what is set.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.faults.iter().map(|fault| escaped(&fault.to_string())).collect();
        if let Some(loaded) = &self.loaded {
            lines.extend(loaded.warnings.iter().map(|warning| format!("warning: {warning}")));
            if self.faults.is_empty() {
                let what = loaded.file.as_ref().map_or("no file".to_owned(), |file| escaped(&file.to_string_lossy()));
                let (agents, tasks) = (loaded.settings.agents.len(), loaded.settings.tasks.len());
                lines.push(format!("{what}: good ({}, {})", counted(agents, "agent"), counted(tasks, "task")));
            }
        }
        if !self.faults.is_empty() {
            lines.push(format!("{} to mend", counted(self.faults.len(), "fault")));
        }
        lines.join("\n") + "\n"
    }

    /// For programs: `{good, faults: [{message, key, origin}], warnings, agents, tasks}`.
    pub fn json(&self) -> Value {
        let faults: Vec<Value> = self
            .faults
            .iter()
            .map(|fault| json!({"message": fault.to_string(), "key": fault.key, "origin": origin_json(&fault.origin)}))
            .collect();
        let loaded = self.loaded.as_ref();
        json!({
            "good": self.is_good(),
            "faults": faults,
            "warnings": loaded.map(|loaded| loaded.warnings.clone()).unwrap_or_default(),
            "agents": loaded.map(|loaded| loaded.settings.agents.len()),
            "tasks": loaded.map(|loaded| loaded.settings.tasks.len()),
        })
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Checked {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        std::fs::write(&file, text).unwrap();
        check(Some(&file), &Environment::default(), Timestamp::default())
    }

    #[test]
    fn a_good_file_is_counted() {
        let checked = checked("[agents.a]\n[[tasks]]\ntask_id = \"t\"\nquery = \"q\"\nschedule = { type = \"manual\" }\n");
        assert!(checked.is_good(), "{}", checked.text());
        assert!(checked.text().ends_with("x.toml: good (2 agents, 1 task)\n"), "{}", checked.text());
        assert_eq!(checked.json()["agents"], 2);
    }

    #[test]
    fn a_task_s_faults_have_the_lines_of_their_fields() {
        let text = "[[tasks]]\ntask_id = \"t\"\ntimeout_seconds = -1\nschedule = { type = \"cron\", expression = \"61 * * * *\" }\n\n[tasks.retry_policy]\nmax_retries = 1\nbackof = \"fixed\"\n";
        let checked = checked(text);
        assert!(!checked.is_good());
        let told = checked.text();
        for piece in [
            "x.toml:1: `tasks.t.query` is required",
            "x.toml:3: `tasks.t.timeout_seconds` ",
            "x.toml:4: `tasks.t.schedule.expression` ",
            "x.toml:8: `tasks.t.retry_policy.backof` ",
        ] {
            assert!(told.contains(piece), "no `{piece}` in: {told}");
        }
        assert!(told.ends_with(" faults to mend\n"), "{told}");
        assert!(checked.json()["faults"].as_array().unwrap().iter().any(|fault| fault["origin"]["line"] == 8));
    }

    #[test]
    fn faulty_settings_are_all_told() {
        let checked = checked("[worker]\nmax_running = -1\nlease_seconds = \"x\"");
        assert_eq!((checked.is_good(), checked.faults.len(), checked.json()["good"].as_bool()), (false, 2, Some(false)));
    }
}
