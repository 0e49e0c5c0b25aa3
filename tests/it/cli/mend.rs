//! Why a run is where it is, runs once more, and many at once: what is sent, what is shown, and who is asked first.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::stage::{Ended, Reply, Stage, ended, ok, problem};

fn bodies(stage: &Stage) -> Vec<Value> {
    stage.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect()
}

#[tokio::test]
async fn why_is_one_sentence_in_the_reader_s_time() {
    let due = "2026-11-22T05:00:12.000000Z";
    let answer = json!({"run_id": "run_1", "status": "queued", "code": "retry", "as_of": "2026-11-22T05:00:00Z", "due_at": due,
        "sentence": format!("It waits for retry 2 of 3 at {due}, because attempt 2 failed (trap): it broke")});
    let stage =
        Stage::new(vec![("GET runs/run_1/why", vec![ok(&answer)]), ("GET runs/run_2/why", vec![problem(404, "No such run.")])]).await;
    let mut command = stage.command(&["runs", "why", "run_1"]);
    command.env("TZ", "Asia/Kolkata");
    let told = ended(command).await;
    let sentence = "It waits for retry 2 of 3 at 2026-11-22 10:30:12 +05:30 (in 12s), because attempt 2 failed (trap): it broke";
    assert_eq!((told.code, told.out), (0, format!("run_1 queued: {sentence}\n")));
    assert_eq!(stage.run(&["runs", "why", "run_1", "--json"]).await.out, format!("{answer}\n"));
    assert_eq!(stage.run(&["runs", "why", "run_2"]).await.code, 3);
}

#[tokio::test]
async fn one_run_is_repeated_with_what_is_said() {
    let made = |status: &str| ok(&json!({"run_id": "run_9", "status": status}));
    let stage = Stage::new(vec![
        ("POST runs/run_1/rerun", vec![made("queued"), made("skipped")]),
        ("POST runs/run_2/rerun", vec![problem(409, "Run run_2 is running; only a run that has ended can be run again.")]),
    ])
    .await;
    let told = stage.run(&["runs", "rerun", "run_1", "--query", "q", "--metadata", "{\"a\":1}"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "run_9 repeats run_1 and is queued; `sandclock runs wait run_9` waits for it\n"));
    let told = stage.run(&["runs", "rerun", "run_1"]).await;
    assert_eq!(told.out, "run_9 repeats run_1 and was skipped: `sandclock runs why run_9`\n");
    assert_eq!(bodies(&stage), [json!({"query": "q", "metadata": {"a": 1}}), json!({})]);
    let told = stage.run(&["runs", "rerun", "run_2"]).await;
    assert_eq!(told.code, 4);
    assert!(told.err.contains("only a run that has ended"), "{}", told.err);
}

#[tokio::test]
async fn what_is_meant_must_be_said() {
    let stage = Stage::new(Vec::new()).await;
    for (line, part) in [
        (&["runs", "rerun"][..], "which runs? Name one"),
        (&["runs", "cancel"][..], "sandclock runs cancel --task TASK"),
        (&["runs", "cancel", "--yes"][..], "which runs?"),
        (&["runs", "cancel", "run_1", "--task", "t"][..], "leave one of them out"),
        (&["runs", "cancel", "run_1", "--dry-run"][..], "are for many runs"),
        (&["runs", "rerun", "--all", "--task", "t"][..], "--all means every run"),
        (&["runs", "rerun", "--task", "t"][..], "add --yes, or --dry-run to see them first"),
        (&["runs", "rerun", "--task", "t", "--wait"][..], "--wait"),
        (&["runs", "rerun", "--since", "yesterday"][..], "how long ago it was"),
        (&["runs", "rerun", "--status", "fail"][..], "failed"),
        (&["runs", "rerun", "--error-kind", "fire"][..], "guest_permanent"),
        (&["runs", "rerun", "--task", "t", "--dry-run", "--yes"][..], "--yes"),
    ] {
        let told = stage.run(line).await;
        assert_eq!(told.code, 2, "{line:?}: {told:?}");
        assert!(told.err.contains(part), "{line:?}: {}", told.err);
    }
    assert!(stage.asked().is_empty(), "nothing is asked of the daemon");
}

fn preview(matched: u64, complete: bool) -> Reply {
    let run = json!({"run_id": "run_1", "task_id": "t", "status": "failed", "triggered_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:01Z", "error_kind": "trap", "error": "it broke"});
    ok(&json!({"dry_run": true, "matched": matched, "complete": complete, "sample": [run]}))
}

fn part(done: u64, next: Option<&str>) -> Reply {
    let runs: Vec<Value> = (0..done).map(|at| json!({"run_id": format!("run_{at}"), "status": "queued"})).collect();
    ok(&json!({"dry_run": false, "done": done, "refused": 0, "by_status": {"queued": done - 1, "skipped": 1}, "runs": runs,
        "refusals": [], "next_cursor": next}))
}

#[tokio::test]
async fn a_dry_run_only_shows() {
    let stage = Stage::new(vec![("POST runs/rerun", vec![preview(12, true), preview(10_000, false), preview(12, true)])]).await;
    let line = ["runs", "rerun", "--task", "t", "--status", "failed,timeout", "--error-kind", "trap", "--dry-run"];
    let told = stage.run(&line).await;
    assert_eq!((told.code, told.err.as_str()), (0, ""));
    assert!(told.out.starts_with("12 runs to rerun:\nRUN ") && told.out.ends_with("it broke\nand 11 more\n"), "{}", told.out);
    assert!(stage.run(&line).await.out.starts_with("at least 10000 runs to rerun:"));
    let mut line = line.to_vec();
    line.push("--json");
    assert_eq!(serde_json::from_str::<Value>(&stage.run(&line).await.out).unwrap()["matched"], 12);
    let filter = json!({"task_id": "t", "status": ["failed", "timeout"], "error_kind": "trap"});
    assert!(bodies(&stage).into_iter().all(|body| body == json!({"filter": filter, "dry_run": true})));
}

#[tokio::test]
async fn many_are_done_part_by_part_up_to_the_limit() {
    let stage = Stage::new(vec![("POST runs/rerun", vec![part(1000, Some("9.1.4")), part(200, None)])]).await;
    let told = stage.run(&["runs", "rerun", "--agent", "a", "--since", "2026-01-01T00:00:00Z", "--limit", "1300", "-y"]).await;
    assert_eq!((told.code, told.err.as_str()), (0, ""));
    let expected = "repeated 1200 runs, now 1198 queued, 2 skipped\nthose that are skipped met a live run of their task (overlap_policy)\n";
    assert_eq!(told.out, expected);
    let filter = json!({"agent_id": "a", "since": "2026-01-01T00:00:00.000000Z"});
    let expected = [json!({"filter": filter, "limit": 1000}), json!({"filter": filter, "limit": 300, "cursor": "9.1.4"})];
    assert_eq!(bodies(&stage), expected);

    let stage = Stage::new(vec![("POST runs/cancel", vec![part(5, Some("9.1.4"))])]).await;
    let told = stage.run(&["runs", "cancel", "--all", "--limit", "5", "--yes", "--cursor", "9.0"]).await;
    assert_eq!(told.out, "asked for the cancel of 5 runs, now 4 queued, 1 skipped\nthere may be more: add --cursor 9.1.4\n");
    assert_eq!(bodies(&stage), [json!({"all": true, "limit": 5, "cursor": "9.0"})]);
}

#[tokio::test]
async fn refusals_are_told_and_are_no_success() {
    let refusals: Vec<Value> = (0..12).map(|at| json!({"run_id": format!("run_{at}"), "reason": "Task t is disabled"})).collect();
    let answer = json!({"done": 0, "refused": 12, "by_status": {}, "runs": [], "refusals": refusals, "next_cursor": null});
    let stage = Stage::new(vec![("POST runs/rerun", vec![ok(&answer)])]).await;
    let told = stage.run(&["runs", "rerun", "--task", "t", "--yes"]).await;
    assert_eq!(told.code, 4);
    assert!(told.out.starts_with("repeated 0 runs\n12 runs refused:\n  run_0: Task t is disabled\n"), "{}", told.out);
    assert!(told.out.ends_with("  and 2 more; --json has all of them\n"), "{}", told.out);
    let told = stage.run(&["runs", "rerun", "--task", "t", "--yes", "--json"]).await;
    assert_eq!((told.code, told.out), (4, format!("{answer}\n")));
}

/// Runs the binary on a terminal of its own and types an answer.
async fn on_a_terminal(stage: &Stage, line: &str, typed: &str) -> Ended {
    let mut command = tokio::process::Command::new("script");
    let program = format!("stty -echo; {} {line}", env!("CARGO_BIN_EXE_sandclock"));
    command.args(["-qec", &program, "/dev/null"]).current_dir(stage.folder.path());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("SANDCLOCK_URL", &stage.url).env("SHELL", "/bin/sh");
    command.env("NO_COLOR", "1").env("TERM", "dumb").kill_on_drop(true);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("`script` of util-linux gives the test its terminal");
    let mut stdin = child.stdin.take().unwrap();
    // It asks the daemon for the preview before it asks the person.
    stage.heard.notified().await;
    stdin.write_all(typed.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    drop(stdin);
    output.into()
}

#[tokio::test]
async fn on_a_terminal_the_person_is_asked_after_the_preview() {
    for (typed, parts) in [("y\n", 2), ("n\n", 1), ("\n", 1)] {
        let stage = Stage::new(vec![("POST runs/cancel", vec![preview(12, true), part(12, None)])]).await;
        let told = on_a_terminal(&stage, "runs cancel --task t", typed).await;
        assert!(told.out.contains("12 runs to cancel:") && told.out.contains("Cancel them, at most 1000? [y/N]"), "{told:?}");
        assert_eq!(stage.asked().len(), parts, "{typed:?}: {told:?}");
        assert_eq!((told.code == 0, told.out.contains("asked for the cancel of 12 runs")), (parts == 2, parts == 2), "{told:?}");
    }
    let stage = Stage::new(vec![("POST runs/cancel", vec![ok(&json!({"matched": 0, "complete": true, "sample": []}))])]).await;
    let told = on_a_terminal(&stage, "runs cancel --task t", "").await;
    assert_eq!(told.code, 0);
    assert!(told.out.contains("no run fits") && !told.out.contains("[y/N]"), "{told:?}");
}

fn events(numbers: std::ops::RangeInclusive<u64>, next: Option<&str>) -> Reply {
    let events: Vec<Value> =
        numbers.map(|sequence| json!({"event": "e", "sequence": sequence, "status": "running", "attempt": 1})).collect();
    ok(&json!({"run_id": "run_1", "count": events.len(), "events": events, "next_cursor": next}))
}

#[tokio::test]
async fn a_long_history_is_paged_through() {
    let script = || {
        vec![
            ("GET runs/run_1/events", vec![events(1..=3, Some("3"))]),
            ("GET runs/run_1/events?after=3", vec![events(4..=6, Some("6"))]),
            ("GET runs/run_1/events?after=6", vec![events(7..=7, None)]),
            ("GET runs/run_1/events?after=2&limit=2", vec![events(3..=4, Some("4"))]),
            ("GET runs/run_1/events?limit=1000", vec![events(1..=1000, Some("1000"))]),
            ("GET runs/run_1/events?after=1000&limit=500", vec![events(1001..=1500, Some("1500"))]),
        ]
    };
    let stage = Stage::new(script()).await;
    let numbers = |out: &str| -> Vec<u64> { out.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect() };
    let told = stage.run(&["runs", "events", "run_1"]).await;
    assert_eq!((told.code, numbers(&told.out)), (0, (1..=7).collect()));
    assert!(!told.out.contains("there are more"), "{}", told.out);
    let told = stage.run(&["runs", "events", "run_1", "--after", "2", "--limit", "2"]).await;
    assert_eq!(numbers(&told.out), [3, 4]);
    assert!(told.out.ends_with("there are more: add --after 4\n"), "{}", told.out);
    let told = stage.run(&["runs", "events", "run_1", "--limit", "1500"]).await;
    assert_eq!(numbers(&told.out), (1..=1500).collect::<Vec<_>>());
    let told = stage.run(&["runs", "events", "run_1", "--json"]).await;
    let told: usize = told.out.lines().map(|page| serde_json::from_str::<Value>(page).unwrap()["events"].as_array().unwrap().len()).sum();
    assert_eq!(told, 7);
    // A daemon that gives the same page again and again does not hold the command.
    let stage = Stage::new(vec![("GET runs/run_1/events?after=3", vec![events(1..=3, Some("3"))])]).await;
    assert_eq!(stage.run(&["runs", "events", "run_1", "--after", "3"]).await.code, 0);
    assert_eq!(stage.asked().len(), 1);
}

#[tokio::test]
async fn coming_occurrences_are_shown_across_the_change_of_the_clocks() {
    let occurrence = |nominal: &str, local: &str, offset: &str, change: i64| json!({"nominal": nominal, "local": local, "offset": offset, "offset_change_seconds": change, "due": nominal});
    let first = occurrence("2026-10-20T07:00:00Z", "Tue 2026-10-20 09:00:00 CEST", "+02:00", 0);
    let before = occurrence("2026-10-24T07:00:00Z", "Sat 2026-10-24 09:00:00 CEST", "+02:00", 0);
    let after = occurrence("2026-10-25T08:00:00Z", "Sun 2026-10-25 09:00:00 CET", "+01:00", -3600);
    let change = json!({"at": "2026-10-25T01:00:00Z", "from": "+02:00", "to": "+01:00", "last_before": before, "first_after": after});
    let answer = |occurrences: Value| {
        ok(&json!({"timezone": "Europe/Berlin", "enabled": true, "paused": false, "occurrences": occurrences, "clock_change": change}))
    };
    let stage = Stage::new(vec![
        ("GET tasks/t/next?count=1", vec![answer(json!([first]))]),
        ("GET tasks/t/next?count=3", vec![answer(json!([first, before, after]))]),
    ])
    .await;
    for count in ["1", "3"] {
        let told = stage.run(&["tasks", "next", "t", "--count", count]).await;
        let lines: Vec<&str> = told.out.lines().collect();
        assert_eq!(lines.len(), 5, "{}", told.out);
        assert!(lines[0].starts_with("IN THE TASK'S ZONE") && lines[0].contains("UTC") && !lines[0].contains("HERE"), "{}", told.out);
        assert!(lines[1].starts_with("Tue 2026-10-20 09:00:00 CEST  2026-10-20 07:00:00"), "{}", told.out);
        assert!(lines[3].starts_with("Sun 2026-10-25 09:00:00 CET   2026-10-25 08:00:00") && lines[3].ends_with("1h back"), "{}", told.out);
        assert!(
            lines[4].starts_with("the clocks of Europe/Berlin change from +02:00 to +01:00 at 2026-10-25 01:00:00 UTC ("),
            "{}",
            told.out
        );
    }
    let mut command = stage.command(&["tasks", "next", "t", "--count", "1"]);
    command.env("TZ", "Asia/Tokyo");
    let told = ended(command).await;
    assert!(told.out.contains("HERE") && told.out.contains("2026-10-20 16:00:00 +09:00"), "{}", told.out);
}

#[tokio::test]
async fn a_task_s_status_tells_what_became_of_its_occurrences() {
    let status = |totals: Value| ok(&json!({"task_id": "t", "enabled": true, "runs": 7, "schedule_state": {"totals": totals}}));
    let some = status(json!({"occurrences": 19, "runs": 5, "skipped": 14}));
    let none = status(json!({"occurrences": 0, "runs": 0, "skipped": 0}));
    let stage = Stage::new(vec![("GET tasks/t/status", vec![some, none])]).await;
    let told = stage.run(&["tasks", "status", "t"]).await;
    assert!(told.out.contains("occurrences  19 = 5 runs + 14 skipped; `sandclock tasks skips t` has those that were\n"), "{}", told.out);
    assert!(!stage.run(&["tasks", "status", "t"]).await.out.contains("occurrences"));
}
