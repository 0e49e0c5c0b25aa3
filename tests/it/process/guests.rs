//! Guests that leave a trace of their attempts, or wait for a file.

use crate::guest::agent;

/// Adds a line to `marks`: a letter and the attempt's number. It is one write, so that a kill leaves whole lines.
fn mark(letter: char) -> String {
    format!(
        "(global.set $out (i32.const 65536))
        (call $put @\"{letter}\") (call $put_number (i64.extend_i32_u (call $attempt))) (call $put @\"\n\")
        (call $append_stream (local.get $fd) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then unreachable))
        (if (call $write_text (i32.load (i32.const 260)) (i32.const 65536) (i32.sub (global.get $out) (i32.const 65536)))
          (then unreachable))"
    )
}

/// Marks the start of each attempt with `s` and its end with `e`, `ms` later; attempts before this one fail, to be retried.
pub fn marker(ms: u32, succeeds_at: u32) -> Vec<u8> {
    let body = format!(
        r#"(local.set $fd (call $create @"marks"))
        (if (i32.lt_s (local.get $fd) (i32.const 0)) (then unreachable))
        {}
        (drop (call $sleep (i32.const {ms})))
        {}
        (if (result i32) (i32.lt_u (call $attempt) (i32.const {succeeds_at}))
          (then (call $retry @"not yet" (i32.const -1)))
          (else (call $ok @"marked")))"#,
        mark('s'),
        mark('e')
    );
    agent(&body, "")
}

/// Marks the start of each attempt with `s` and waits until there is a file `go` in its workspace; then it marks its end with `e`.
pub fn sentry() -> Vec<u8> {
    let body = format!(
        r#"(local.set $fd (call $create @"marks"))
        (if (i32.lt_s (local.get $fd) (i32.const 0)) (then unreachable))
        {}
        (loop $again
          (if (i32.lt_s (call $open @"go") (i32.const 0)) (then
            (drop (call $sleep (i32.const 5)))
            (br $again))))
        {}
        (call $ok @"marked")"#,
        mark('s'),
        mark('e')
    );
    agent(&body, "")
}

/// Reports "started" and waits until there is a file `go` in its workspace; then it answers this text.
pub fn gate(answer: &str) -> Vec<u8> {
    let body = format!(
        r#"(call $report @"started" (i32.const 0) (f64.const 0))
        (loop $again
          (if (i32.lt_s (call $open @"go") (i32.const 0)) (then
            (drop (call $sleep (i32.const 10)))
            (br $again))))
        (call $ok @"{answer}")"#
    );
    agent(&body, "")
}

/// Reports "started" and sleeps for an hour in its first attempt; answers at once in any other.
pub fn second_time() -> Vec<u8> {
    let body = r#"(call $report @"started" (i32.const 0) (f64.const 0))
        (if (i32.eq (call $attempt) (i32.const 1)) (then (drop (call $sleep (i32.const 3600000)))))
        (call $ok @"second time")"#;
    agent(body, "")
}

/// Opens `lines` and a stream that appends to it once, and writes a line with the attempt's number every 50 milliseconds until there is a
/// file `go`; then it answers with its attempt's number.
pub fn appender() -> Vec<u8> {
    let body = format!(
        r#"(local.set $fd (call $create @"lines"))
        (if (i32.lt_s (local.get $fd) (i32.const 0)) (then unreachable))
        (call $append_stream (local.get $fd) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then unreachable))
        (local.set $i (i32.load (i32.const 260)))
        (loop $again
          (global.set $out (i32.const 65536))
          (call $put_number (i64.extend_i32_u (call $attempt))) (call $put @"{line}")
          (if (call $write_text (local.get $i) (i32.const 65536) (i32.sub (global.get $out) (i32.const 65536))) (then unreachable))
          (drop (call $sleep (i32.const 50)))
          (br_if $again (i32.lt_s (call $open @"go") (i32.const 0))))
        (global.set $out (i32.const 65536))
        (call $put_number (i64.extend_i32_u (call $attempt)))
        (call $ok_out)"#,
        line = "\n"
    );
    agent(&body, "")
}

/// Reports "started" and waits for its daemon's end in every attempt.
pub fn waits() -> Vec<u8> {
    let body = r#"(call $report @"started" (i32.const 0) (f64.const 0))
        (drop (call $sleep (i32.const 3600000)))
        (call $ok @"never")"#;
    agent(body, "")
}

/// Answers this text at once.
pub fn answers(text: &str) -> Vec<u8> {
    agent(&format!("(call $ok @\"{text}\")"), "")
}
