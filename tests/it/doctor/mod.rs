//! `sandclock store check` and `sandclock store migrate`, and what a daemon says of its store at start: the real binary against real
//! servers.

mod losses;
mod migrate;
mod pooler;
mod secrets;
mod tls;
mod verdicts;

use std::path::Path;

use serde_json::Value;
use tokio::process::Command;

use crate::cli::stage::{Ended, ended, file, sandclock};
use crate::process::daemon::patiently;

/// The binary on the store of that URL.
fn on(folder: &Path, url: &str, line: &[&str]) -> Command {
    let mut command = sandclock(folder, line);
    command.env("SANDCLOCK_STORE", url);
    command
}

/// `sandclock store …` on the store of that URL, to its end.
async fn store(folder: &Path, url: &str, line: &[&str]) -> Ended {
    let line: Vec<&str> = ["store"].iter().chain(line).copied().collect();
    let ended = patiently("the end of a look at the store", ended(on(folder, url, &line))).await;
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
    ended
}

/// `sandclock store check --json`, its code and its answer.
async fn check(folder: &Path, url: &str) -> (i32, Value) {
    let ended = store(folder, url, &["check", "--json"]).await;
    let answer = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.code, answer)
}

/// What can be lost, by the names of the settings.
fn losing(answer: &Value) -> Vec<&str> {
    of_verdict(answer, "loses")
}

fn of_verdict<'a>(answer: &'a Value, verdict: &str) -> Vec<&'a str> {
    let facts = answer["store"]["facts"].as_array().unwrap();
    facts.iter().filter(|fact| fact["verdict"] == verdict).map(|fact| fact["name"].as_str().unwrap()).collect()
}

/// A configuration that names nothing, so that a daemon has the folder's own.
fn empty_configuration(folder: &Path) {
    file(folder, "sandclock.toml", b"");
}
