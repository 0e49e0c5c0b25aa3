//! What was found, and how it is told: as a report, as a sentence and as an event. No I/O.

use std::fmt::Write;

/// Less time than this left is worth a warning.
const LITTLE_TIME_MS: u32 = 5_000;

/// Everything that the report tells.
pub struct Health {
    pub now: String,
    pub query: String,
    pub run_id: String,
    pub task_id: String,
    pub agent_id: String,
    pub session_id: String,
    pub attempt: u32,
    pub trigger: String,
    pub due_at: Option<String>,
    pub metadata: String,
    pub probe: Result<Probe, String>,
    pub files: Vec<(String, Option<u64>)>,
    pub time_left_ms: Option<u32>,
}

/// How writing and reading back went.
pub struct Probe {
    pub bytes: usize,
    pub write_micros: u128,
    pub read_micros: u128,
}

impl Health {
    /// What needs a person's attention, a sentence each.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Err(why) = &self.probe {
            warnings.push(format!("The workspace is not writable: {why}."));
        }
        if self.time_left_ms.is_some_and(|ms| ms < LITTLE_TIME_MS) {
            warnings.push("Less than five seconds of the time limit are left.".into());
        }
        if self.attempt > 1 {
            warnings.push(format!("Earlier attempts of this run did not succeed; this is attempt {}.", self.attempt));
        }
        warnings
    }

    /// The answer: one sentence.
    pub fn sentence(&self) -> String {
        match self.warnings().len() {
            0 => "The sandbox is healthy.".into(),
            1 => "The sandbox needs attention: 1 warning in output.md.".into(),
            n => format!("The sandbox needs attention: {n} warnings in output.md."),
        }
    }

    /// The payload of the event `health`, as JSON.
    pub fn event(&self) -> String {
        format!(r#"{{"warnings":{},"files":{},"writable":{}}}"#, self.warnings().len(), self.files.len(), self.probe.is_ok())
    }

    /// The content of `output.md`.
    pub fn report(&self) -> String {
        let mut out = format!("# Health report\n\n{}\n\n", self.sentence());
        for warning in self.warnings() {
            line(&mut out, "Warning", &warning);
        }
        line(&mut out, "Time", &self.now);
        line(&mut out, "Asked", &self.query.split_whitespace().collect::<Vec<_>>().join(" "));
        line(&mut out, "Run", &format!("{}, attempt {}", self.run_id, self.attempt));
        line(&mut out, "Task", &format!("{}, agent {}, session {}", self.task_id, self.agent_id, self.session_id));
        let due = self.due_at.as_ref().map(|due| format!(", due at {due}")).unwrap_or_default();
        line(&mut out, "Trigger", &format!("{}{due}", self.trigger));
        line(&mut out, "Metadata", &self.metadata);
        match &self.probe {
            Ok(p) => line(
                &mut out,
                "Workspace",
                &format!("writable; {} KiB written in {} µs, read back in {} µs", p.bytes / 1024, p.write_micros, p.read_micros),
            ),
            Err(why) => line(&mut out, "Workspace", &format!("not writable: {why}")),
        }
        let left = self.time_left_ms.map_or("no limit".into(), |ms| format!("{:.1} s", f64::from(ms) / 1000.0));
        line(&mut out, "Time left", &left);
        line(&mut out, "Files", &self.files.len().to_string());
        for (name, bytes) in &self.files {
            let size = bytes.map_or("directory".into(), |bytes| format!("{bytes} bytes"));
            line(&mut out, name, &size);
        }
        out
    }
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "- {name}: {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Health {
        Health {
            now: "2026-01-02T03:04:05Z".into(),
            query: "Check\nhealth".into(),
            run_id: "run_1".into(),
            task_id: "health_report".into(),
            agent_id: "health-report".into(),
            session_id: "s".into(),
            attempt: 1,
            trigger: "once".into(),
            due_at: Some("2026-01-02T03:04:00Z".into()),
            metadata: "{}".into(),
            probe: Ok(Probe { bytes: 262_144, write_micros: 10, read_micros: 5 }),
            files: vec![("data".into(), None), ("note.txt".into(), Some(7))],
            time_left_ms: Some(60_000),
        }
    }

    #[test]
    fn a_healthy_sandbox_has_no_warnings() {
        let report = healthy().report();
        assert_eq!(healthy().sentence(), "The sandbox is healthy.");
        assert!(!report.contains("Warning"), "{report}");
        for part in
            ["Asked: Check health", "run_1, attempt 1", "once, due at 2026-01-02T03:04:00Z", "256 KiB", "60.0 s", "note.txt: 7 bytes"]
        {
            assert!(report.contains(part), "{part} is missing in {report}");
        }
    }

    #[test]
    fn each_trouble_is_a_warning() {
        let troubled = Health { probe: Err("disk quota".into()), time_left_ms: Some(1), attempt: 2, ..healthy() };
        assert_eq!(troubled.sentence(), "The sandbox needs attention: 3 warnings in output.md.");
        assert_eq!(troubled.event(), r#"{"warnings":3,"files":2,"writable":false}"#);
        assert!(troubled.report().contains("Workspace: not writable: disk quota"));
    }
}
