//! Looks at the sandbox that the run got and writes a short health report to `output.md`.

mod report;

use report::{Health, Probe};
use sandclock_agent::{Agent, Failure, context, progress};
use std::io;
use std::time::{Instant, SystemTime};

const PROBE_FILE: &str = ".health-probe";
const PROBE_BYTES: usize = 256 * 1024;

struct HealthReport;

impl Agent for HealthReport {
    fn run(query: String) -> Result<String, Failure> {
        progress::report("looking around", Some(0.1));
        let files = list_files().map_err(|e| Failure::retryable(format!("cannot list the workspace: {e}")))?;
        progress::report("trying the workspace", Some(0.4));
        let health = Health {
            now: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            query,
            run_id: context::run_id(),
            task_id: context::task_id(),
            agent_id: context::agent_id(),
            session_id: context::session_id(),
            attempt: context::attempt(),
            trigger: context::trigger(),
            due_at: context::due_at(),
            metadata: context::metadata(),
            probe: probe_workspace().map_err(|e| e.to_string()),
            files,
            time_left_ms: context::time_left_ms(),
        };
        progress::report("writing the report", Some(0.8));
        std::fs::write("output.md", health.report()).map_err(|e| Failure::retryable(format!("cannot write output.md: {e}")))?;
        progress::emit("health", &health.event());
        progress::report("done", Some(1.0));
        Ok(health.sentence())
    }
}

/// Writes a file, reads it back, compares, and takes the time of both. Leaves nothing behind: a probe that filled the disk would take
/// the place of the report.
fn probe_workspace() -> io::Result<Probe> {
    let bytes: Vec<u8> = (0..PROBE_BYTES).map(|i| (i % 251) as u8).collect();
    let start = Instant::now();
    let written = std::fs::write(PROBE_FILE, &bytes);
    let write_micros = start.elapsed().as_micros();
    let start = Instant::now();
    let back = written.and_then(|()| std::fs::read(PROBE_FILE));
    let read_micros = start.elapsed().as_micros();
    let removed = std::fs::remove_file(PROBE_FILE);
    if back? != bytes {
        return Err(io::Error::other("what was read back is not what was written"));
    }
    removed?;
    Ok(Probe { bytes: PROBE_BYTES, write_micros, read_micros })
}

/// The names at the top of the workspace in order, each with its size in bytes; directories have none.
fn list_files() -> io::Result<Vec<(String, Option<u64>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(".")? {
        let entry = entry?;
        let meta = entry.metadata()?;
        files.push((entry.file_name().to_string_lossy().into_owned(), meta.is_file().then_some(meta.len())));
    }
    files.sort();
    Ok(files)
}

sandclock_agent::export!(HealthReport);
