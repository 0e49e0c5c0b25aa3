//! Guests that behave.

use super::{Fixture, agent};

/// Every guest of this module.
pub const ALL: &[Fixture] = &[
    ("ok", ok),
    ("echo", echo),
    ("context", context),
    ("retryable", || retryable(Some(250))),
    ("permanent", permanent),
    ("cancelled", cancelled),
    ("flaky", || flaky(3)),
    ("sleeper", || sleeper(1000)),
    ("polls_cancel", polls_cancel),
    ("ignores_cancel", ignores_cancel),
    ("progress", progress),
    ("logs", logs),
    ("checkpoints", || checkpoints(3)),
    ("approval", approval),
];

/// Tells that it runs: tests wait for this report before they act on the run.
pub const STARTED: &str = r#"(call $report @"started" (i32.const 0) (f64.const 0))"#;

/// Answers "hello from wat".
pub fn ok() -> Vec<u8> {
    agent(r#"(call $ok @"hello from wat")"#, "")
}

/// Answers its query.
pub fn echo() -> Vec<u8> {
    agent("(call $ok (local.get $query) (local.get $query_len))", "")
}

/// Answers its context, a line each: run, task, agent, session, attempt, trigger, due time or "none", metadata, milliseconds left or "none".
pub fn context() -> Vec<u8> {
    let text = |function: &str| {
        format!("(call ${function} (i32.const 256)) (call $put (i32.load (i32.const 256)) (i32.load (i32.const 260))) (call $put @\"\n\")")
    };
    let body = format!(
        r#"{} {} {} {}
        (call $put_number (i64.extend_i32_u (call $attempt))) (call $put @"{nl}")
        {}
        (call $due_at (i32.const 256))
        (if (i32.load8_u (i32.const 256))
          (then (call $put (i32.load (i32.const 260)) (i32.load (i32.const 264))))
          (else (call $put @"none")))
        (call $put @"{nl}")
        {}
        (call $time_left_ms (i32.const 256))
        (if (i32.load8_u (i32.const 256))
          (then (call $put_number (i64.load32_u (i32.const 260))))
          (else (call $put @"none")))
        (call $ok_out)"#,
        text("run_id"),
        text("task_id"),
        text("agent_id"),
        text("session_id"),
        text("trigger"),
        text("metadata"),
        nl = "\n",
    );
    agent(&body, "")
}

/// Fails, to be retried, after this delay at the least.
pub fn retryable(after_ms: Option<u32>) -> Vec<u8> {
    agent(&format!(r#"(call $retry @"try again later" (i32.const {}))"#, after_ms.map_or(-1, i64::from)), "")
}

/// Fails for good.
pub fn permanent() -> Vec<u8> {
    agent(r#"(call $err (i32.const 1) @"cannot be done")"#, "")
}

/// Says that it was cancelled, though nobody asked for it.
pub fn cancelled() -> Vec<u8> {
    agent(r#"(call $err (i32.const 2) @"stopped as asked")"#, "")
}

/// Fails, to be retried, until this attempt, which succeeds.
pub fn flaky(succeeds_at: u32) -> Vec<u8> {
    let body = format!(
        r#"(if (result i32) (i32.lt_u (call $attempt) (i32.const {succeeds_at}))
          (then (call $retry @"not yet" (i32.const -1)))
          (else (call $ok @"at last")))"#
    );
    agent(&body, "")
}

/// Reports "started" and sleeps; says so when a cancel ends the sleep.
pub fn sleeper(ms: u32) -> Vec<u8> {
    let body = format!(
        r#"{STARTED}
        (if (result i32) (call $sleep (i32.const {ms}))
          (then (call $err (i32.const 2) @"woken by a cancel"))
          (else (call $ok @"slept")))"#
    );
    agent(&body, "")
}

/// Reports "started" and asks without pause whether a cancel was asked for, until one is.
pub fn polls_cancel() -> Vec<u8> {
    agent(&format!(r#"{STARTED} (loop $again (br_if $again (i32.eqz (call $cancelled)))) (call $err (i32.const 2) @"saw the cancel")"#), "")
}

/// Reports "started" and sleeps again and again, whatever `sleep` says.
pub fn ignores_cancel() -> Vec<u8> {
    agent(&format!("{STARTED} (loop $again (drop (call $sleep (i32.const 1000))) (br $again)) unreachable"), "")
}

/// Reports twice, emits the event `found` with JSON, and answers.
pub fn progress() -> Vec<u8> {
    let body = r#"
        (call $report @"half" (i32.const 1) (f64.const 0.5))
        (i32.store8 (i32.const 512) (i32.const 34)) (i32.store8 (i32.const 514) (i32.const 34)) (i32.store8 (i32.const 513) (i32.const 120))
        (call $emit @"found" (i32.const 512) (i32.const 3))
        (call $report @"all" (i32.const 1) (f64.const 1))
        (call $ok @"reported")"#;
    agent(body, "")
}

/// Writes a line to stdout and one to stderr.
pub fn logs() -> Vec<u8> {
    let body = "
        (drop (call $write_text (call $get_stdout) @\"to stdout\n\"))
        (drop (call $write_text (call $get_stderr) @\"to stderr\n\"))
        (call $ok @\"logged\")";
    agent(body, "")
}

/// Adds a byte to the checkpoint `count` in each attempt and fails, to be retried, until there are so many.
pub fn checkpoints(succeeds_at: u32) -> Vec<u8> {
    let body = format!(
        r#"
        (call $load @"count" (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then (local.set $i (i32.load (i32.const 264)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (call $save @"count" (i32.const 65536) (local.get $i) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then (return (call $err (i32.const 1) (i32.load (i32.const 260)) (i32.load (i32.const 264))))))
        (if (result i32) (i32.lt_u (local.get $i) (i32.const {succeeds_at}))
          (then (call $retry @"counted" (i32.const -1)))
          (else (call $put_number (i64.extend_i32_u (local.get $i))) (call $ok_out)))"#
    );
    agent(&body, "")
}

/// Asks whether it may deploy: answers who allowed it, or fails for good with the note of who did not.
pub fn approval() -> Vec<u8> {
    let body = r#"
        (call $ask @"deploy" @"May I deploy?" (i32.const 256))
        (if (result i32) (i32.load8_u (i32.const 256))
          (then (call $ok (i32.load (i32.const 260)) (i32.load (i32.const 264))))
          (else (call $err (i32.const 1) (i32.load (i32.const 268)) (i32.load (i32.const 272)))))"#;
    agent(body, "")
}
