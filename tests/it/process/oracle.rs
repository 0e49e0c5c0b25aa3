//! What must hold of every run that has ended, whatever was done to the daemon meanwhile.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

use super::daemon::{Daemon, TERMINAL, id};

/// All runs, or those of a task, oldest first, while no others are made.
pub async fn all_runs(daemon: &Daemon, task: Option<&str>) -> Vec<Value> {
    let (runs, total) = runs_so_far(daemon, task).await;
    assert_eq!(total, runs.len(), "the total is not what the pages hold");
    runs
}

/// All runs, or those of a task, oldest first, page by page; and how many there were when the last page was read.
pub async fn runs_so_far(daemon: &Daemon, task: Option<&str>) -> (Vec<Value>, Value) {
    let of_task = task.map(|task| format!("&task_id={task}")).unwrap_or_default();
    let (mut runs, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("/background/runs?limit=100&order=asc{of_task}{cursor}")).await;
        runs.extend(page["runs"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (runs, page["total"].clone()),
        }
    }
}

/// Checks a run that has ended: its history, its fences and its attempts tell one story. Returns its attempts.
pub async fn check(daemon: &Daemon, run: &Value) -> Vec<Value> {
    let (events, attempts) = (daemon.events(run).await, daemon.attempts(run).await);
    let story = format!("{run:#}\n{events:#?}\n{attempts:#?}");
    let sequences: Vec<u64> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.iter().copied().eq(1..=events.len() as u64), "gaps: {story}");
    let ends: Vec<usize> = (0..events.len()).filter(|at| TERMINAL.contains(&name(&events[*at]))).collect();
    assert_eq!(ends, [events.len() - 1], "not one terminal event, at the end: {story}");
    assert_eq!(events.last().unwrap()["status"], run["status"], "{story}");
    assert_eq!((&run["lease_owner"], &run["lease_expires_at"]), (&Value::Null, &Value::Null), "{story}");
    assert!(run["finished_at"].is_string(), "{story}");

    let claims: Vec<u64> = events.iter().filter(|event| name(event) == "background_run_claimed").map(fence).collect();
    assert!(claims.is_sorted_by(|earlier, later| earlier < later), "fences do not rise: {story}");
    assert_eq!(claims, attempts.iter().map(fence).collect::<Vec<_>>(), "claims and attempts differ: {story}");
    assert_eq!(claims.last().copied().unwrap_or(0), fence(run), "{story}");
    assert!(events.iter().map(fence).is_sorted(), "an older fence wrote: {story}");
    let numbers = attempts.iter().map(|attempt| attempt["attempt_number"].as_u64().unwrap());
    assert!(numbers.eq(1..=attempts.len() as u64), "{story}");
    assert_eq!(run["attempt"], attempts.len(), "{story}");
    let is_park = |event: &&Value| event["status"].as_str().is_some_and(|status| status.starts_with("awaiting_"));
    let parks: Vec<&Value> = events.iter().filter(is_park).map(|event| &event["attempt"]).collect();
    check_attempts(run, &attempts, &parks, &story);
    attempts
}

/// Each attempt ended, and the next one tells what it ended with. `parks` are the attempts that parked the run.
fn check_attempts(run: &Value, attempts: &[Value], parks: &[&Value], story: &str) {
    for pair in attempts.windows(2) {
        let reason = match pair[0]["status"].as_str().unwrap() {
            "failed" | "timeout" => ["retry"].as_slice(),
            "interrupted" => &["lease_expired", "recovery"],
            "completed" if parks.contains(&&pair[0]["attempt_number"]) => &["recovery"],
            other => panic!("another attempt follows one that is {other}: {story}"),
        };
        assert!(reason.contains(&pair[1]["reason"].as_str().unwrap()), "{story}");
        assert!(pair[0]["finished_at"].as_str() <= pair[1]["started_at"].as_str(), "two attempts overlap: {story}");
    }
    if let Some(first) = attempts.first() {
        assert_eq!(first["reason"], "initial", "{story}");
    }
    if let Some(last) = attempts.last() {
        // A cancel that was asked for needs no other attempt when the one that ran is lost, and one loss too many allows none.
        let is_lost = last["status"] == "interrupted" && (run["status"] == "cancelled" || run["error_kind"] == "lost");
        let is_parked = parks.contains(&&last["attempt_number"]) && (run["status"] == "cancelled" || run["error_kind"] == "timeout");
        assert!(is_lost || is_parked || last["status"] == run["status"], "{story}");
    }
    let failures = attempts.iter().filter(|attempt| ["failed", "timeout"].contains(&attempt["status"].as_str().unwrap())).count();
    assert_eq!(run["failures"], failures, "{story}");
    assert!(failures as u64 <= run["policy"]["retry"]["max_retries"].as_u64().unwrap() + 1, "too many retries: {story}");
}

/// What a marking guest left so far in its workspace: letters and attempts.
pub fn marks(workspace: &Path) -> Vec<(char, u64)> {
    let text = std::fs::read_to_string(workspace.join("marks")).unwrap_or_default();
    text.lines().map(|line| (line.chars().next().unwrap(), line[1..].parse().unwrap())).collect()
}

/// Checks what a marking guest left in its workspace: once a later attempt has written, no earlier one does, and one that completed wrote
/// all it had to.
pub fn check_marks(workspace: &Path, run: &Value, attempts: &[Value]) {
    let marks = marks(workspace);
    assert!(marks.is_sorted_by_key(|mark| mark.1), "two attempts of {} ran at once: {marks:?}", id(run));
    let last = attempts.len() as u64;
    assert!(run["status"] != "completed" || marks.ends_with(&[('s', last), ('e', last)]), "{}: {marks:?}", id(run));
    for attempt in 1..=last {
        let of_attempt: String = marks.iter().filter(|mark| mark.1 == attempt).map(|mark| mark.0).collect();
        assert!("se".starts_with(&of_attempt), "an attempt of {} ran twice: {marks:?}", id(run));
    }
}

/// Checks that the runs of a task had their turns one after the other, in the order in which they were asked for.
pub async fn check_turns(daemon: &Daemon, runs: &[Value]) {
    let mut before = String::new();
    for run in runs {
        let attempts = daemon.attempts(run).await;
        let first = attempts[0]["started_at"].as_str().unwrap();
        assert_eq!(first.len(), "2026-11-22T05:00:38.770770Z".len());
        assert!(*before <= *first, "{} began before the one ahead of it had ended at {before}", id(run));
        run["finished_at"].as_str().unwrap().clone_into(&mut before);
    }
}

/// Checks that no more than so many of these attempts were under way at once. A time of the end is never later than the end itself.
pub fn check_limit(attempts: &[&Value], most: usize) {
    let at = |attempt: &Value, name: &str| attempt[name].as_str().unwrap().to_owned();
    let begins = attempts.iter().map(|attempt| (at(attempt, "started_at"), 1_isize));
    let mut steps: Vec<(String, isize)> = begins.chain(attempts.iter().map(|attempt| (at(attempt, "finished_at"), -1))).collect();
    steps.sort_unstable();
    let mut under_way = 0;
    for (time, step) in steps {
        under_way += step;
        assert!(under_way <= isize::try_from(most).unwrap(), "{under_way} attempts at once, at {time}: {attempts:#?}");
    }
}

/// Checks the counts that the daemon keeps against a recount.
pub async fn check_counts(daemon: &Daemon, runs: &[Value]) {
    let status = daemon.get("/background/status").await;
    assert_eq!((&status["runs"], &status["active_runs"], &status["executing_here"]), (&json!(runs.len()), &json!(0), &json!(0)));
    assert_eq!(status["status_counts"], recount(runs.iter()));
    let mut tasks: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    runs.iter().for_each(|run| tasks.entry(run["task_id"].as_str().unwrap()).or_default().push(run));
    for (task, runs) in tasks {
        let status = daemon.get(&format!("/background/tasks/{task}/status")).await;
        assert_eq!(status["status_counts"], recount(runs.into_iter()), "{task}");
    }
}

fn recount<'a>(runs: impl Iterator<Item = &'a Value>) -> Value {
    let statuses = sandclock::domain::run::Status::ALL.map(|status| status.as_str());
    let mut counts: serde_json::Map<String, Value> = statuses.iter().map(|status| ((*status).to_owned(), json!(0))).collect();
    for run in runs {
        let count = &mut counts[run["status"].as_str().unwrap()];
        *count = json!(count.as_u64().unwrap() + 1);
    }
    Value::Object(counts)
}

/// Checks that each occurrence of a schedule became a run or was counted as skipped.
pub async fn check_occurrences(daemon: &Daemon, task: &str) {
    let totals = &daemon.get(&format!("/background/tasks/{task}/status")).await["schedule_state"]["totals"];
    let runs = all_runs(daemon, Some(task)).await;
    let skips = daemon.get(&format!("/background/tasks/{task}/skips?limit=1000")).await;
    let skipped: u64 = skips["skips"].as_array().unwrap().iter().map(|range| range["count"].as_u64().unwrap()).sum();
    assert_eq!(totals["runs"], runs.len(), "{totals} {skips:#}");
    assert_eq!(totals["skipped"], skipped, "{totals} {skips:#}");
    assert_eq!(totals["occurrences"], runs.len() as u64 + skipped, "{totals} {skips:#}");
    let mut due: Vec<&str> = runs.iter().map(|run| run["due_at"].as_str().unwrap()).collect();
    due.sort_unstable();
    assert!(due.is_sorted_by(|earlier, later| earlier < later), "an occurrence became two runs: {due:?}");
}

/// Checks the file of a store whose daemon has ended, in a copy.
pub async fn check_file(store: &Path) {
    let copy = tempfile::tempdir().unwrap();
    let log = store.with_extension("db-wal");
    std::fs::copy(store, copy.path().join("store.db")).unwrap();
    if log.exists() {
        std::fs::copy(log, copy.path().join("store.db-wal")).unwrap();
    }
    let mut connection = SqliteConnectOptions::new().filename(copy.path().join("store.db")).connect().await.unwrap();
    let said: String = sqlx::query("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap().get(0);
    assert_eq!(said, "ok");
}

fn name(event: &Value) -> &str {
    event["event"].as_str().unwrap()
}

fn fence(record: &Value) -> u64 {
    record["lease_generation"].as_u64().unwrap()
}
