//! What a daemon takes of the machine, looked at again and again: none of it may grow with what it has done.

use super::daemon::Daemon;

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Vitals {
    rss_kib: u64,
    files: u64,
    threads: u64,
}

impl Vitals {
    /// Looks at a daemon that lives.
    pub async fn of(daemon: &Daemon) -> Vitals {
        let process = format!("/proc/{}", daemon.pid());
        let status = tokio::fs::read_to_string(format!("{process}/status")).await.unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let files = std::fs::read_dir(format!("{process}/fd")).unwrap().count() as u64;
        Vitals { rss_kib: field("VmRSS:"), files, threads: field("Threads:") }
    }
}

/// The middle of the second quarter and of the last: the first has only begun to fill what is bounded.
fn early_and_late<T: Copy>(seen: &[T], value: fn(&T) -> u64) -> (u64, u64) {
    let quarter = seen.len() / 4;
    assert!(quarter > 0, "there is too little to compare: {} looks", seen.len());
    let middle = |part: &[T]| {
        let mut values: Vec<u64> = part.iter().map(value).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    (middle(&seen[quarter..2 * quarter]), middle(&seen[seen.len() - quarter..]))
}

/// Wants that the last of these are not above the early ones, but for some slack. Returns what was seen, for people.
pub fn flat(what: &str, seen: &[Vitals]) -> String {
    let memory = early_and_late(seen, |vitals| vitals.rss_kib / 1024);
    let files = early_and_late(seen, |vitals| vitals.files);
    let threads = early_and_late(seen, |vitals| vitals.threads);
    assert!(memory.1 <= memory.0 * 5 / 4 + 16, "the memory of {what} grows: {memory:?} MiB");
    assert!(files.1 <= files.0 + 32, "{what} leaves files open: {files:?}");
    assert!(threads.1 <= threads.0 + 16, "{what} leaves threads: {threads:?}");
    format!("{what}, early and late: {memory:?} MiB, {files:?} open files, {threads:?} threads")
}

/// Wants that the store takes no more for each run than it did early.
pub fn flat_store(bytes_per_run: &[u64]) -> String {
    let bytes = early_and_late(bytes_per_run, |bytes| *bytes);
    assert!(bytes.1 <= bytes.0 * 5 / 4, "the store grows: {bytes:?} bytes a run");
    format!("the store, early and late: {bytes:?} bytes a run")
}
