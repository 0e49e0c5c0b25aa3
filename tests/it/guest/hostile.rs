//! Guests that attack CPU, memory, the canonical ABI, the host's patience and the network.

use super::plain::STARTED;
use super::{Fixture, agent};

/// Every guest of this module.
pub const ALL: &[Fixture] = &[
    ("spin", spin),
    ("startspin", startspin),
    ("postspin", postspin),
    ("reallocspin", reallocspin),
    ("trap", trap),
    ("div0", div0),
    ("oob", oob),
    ("stack", stack),
    ("membomb", membomb),
    ("memsum", || memsum(4)),
    ("tablebomb", tablebomb),
    ("huge", || huge(64)),
    ("badutf8", badutf8),
    ("badptr", badptr),
    ("badcase", badcase),
    ("badrealloc", badrealloc),
    ("badreport", badreport),
    ("logflood", || logflood(None)),
    ("progressflood", || progressflood(None)),
    ("emitflood", || emitflood(Some(1000))),
    ("nanprogress", nanprogress),
    ("blocked", blocked),
    ("handleflood", handleflood),
    ("randomflood", randomflood),
    ("saveflood", || saveflood(100_000, 65536)),
    ("network", || network(80)),
];

/// Reports "started" and loops for ever.
pub fn spin() -> Vec<u8> {
    agent(&format!("{STARTED} (loop $again (br $again)) unreachable"), "")
}

/// Loops for ever while it is instantiated.
pub fn startspin() -> Vec<u8> {
    agent(r#"(call $ok @"never")"#, "(func $spin (loop $again (br $again))) (start $spin)")
}

/// Answers, and loops for ever when the host is done with the answer.
pub fn postspin() -> Vec<u8> {
    agent(r#"(call $ok @"answered")"#, "(func $post_return (loop $again (br $again)))")
}

/// Loops for ever when the host asks for memory to put the query in.
pub fn reallocspin() -> Vec<u8> {
    let realloc = r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (loop $again (br $again)) unreachable)"#;
    agent(r#"(call $ok @"never")"#, realloc)
}

/// Traps.
pub fn trap() -> Vec<u8> {
    agent("unreachable", "")
}

/// Divides by zero.
pub fn div0() -> Vec<u8> {
    agent("(drop (i32.div_u (i32.const 1) (local.get $i))) unreachable", "")
}

/// Reads beyond its memory.
pub fn oob() -> Vec<u8> {
    agent("(drop (i32.load (i32.const -4))) unreachable", "")
}

/// Recurses for ever.
pub fn stack() -> Vec<u8> {
    let deeper = "(func $deeper (param i32) (result i32)
      (i32.add (i32.const 1) (call $deeper (i32.add (local.get 0) (i32.const 1)))))";
    agent("(drop (call $deeper (i32.const 0))) unreachable", deeper)
}

/// Grows its memory and touches it until that is refused, then traps.
pub fn membomb() -> Vec<u8> {
    let body = "(loop $again
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
      (br $again)) unreachable";
    agent(body, "")
}

/// Does that with so many memories at once, a megabyte of each in turn.
pub fn memsum(memories: u32) -> Vec<u8> {
    let extra: String = (1..memories).map(|m| format!("(memory $m{m} 1)\n")).collect();
    let grow: String =
        (1..memories).map(|m| format!("(if (i32.eq (memory.grow $m{m} (i32.const 16)) (i32.const -1)) (then unreachable))\n")).collect();
    agent(&format!("(loop $again {grow} (br $again)) unreachable"), &extra)
}

/// Grows a table until that is refused, then traps.
pub fn tablebomb() -> Vec<u8> {
    let body = "(loop $again
      (if (i32.eq (table.grow $table (ref.null func) (i32.const 4096)) (i32.const -1)) (then unreachable))
      (br $again)) unreachable";
    agent(body, "(table $table 1 funcref)")
}

/// Answers so many MiB of the letter a.
pub fn huge(mib: u32) -> Vec<u8> {
    let (pages, bytes) = (mib * 16, mib * 1024 * 1024);
    let body = format!(
        "(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))
        (memory.fill (i32.const 131072) (i32.const 97) (i32.const {bytes}))
        (call $ok (i32.const 131072) (i32.const {bytes}))"
    );
    agent(&body, "")
}

/// Answers a byte that is no UTF-8.
pub fn badutf8() -> Vec<u8> {
    agent("(i32.store8 (i32.const 512) (i32.const 255)) (call $ok (i32.const 512) (i32.const 1))", "")
}

/// Answers a text that lies outside its memory.
pub fn badptr() -> Vec<u8> {
    agent("(call $ok (i32.const -16) (i32.const 64))", "")
}

/// Answers a failure that does not exist.
pub fn badcase() -> Vec<u8> {
    agent(r#"(call $err (i32.const 7) @"what")"#, "")
}

/// Gives the host an address outside its memory to put the query at.
pub fn badrealloc() -> Vec<u8> {
    agent(r#"(call $ok @"never")"#, r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const -8))"#)
}

/// Reports a byte that is no UTF-8.
pub fn badreport() -> Vec<u8> {
    let body = r#"(i32.store8 (i32.const 512) (i32.const 255))
      (call $report (i32.const 512) (i32.const 1) (i32.const 0) (f64.const 0)) (call $ok @"reported")"#;
    agent(body, "")
}

/// Does `step` so many times, or for ever.
fn flood(times: Option<u32>, setup: &str, step: &str) -> Vec<u8> {
    let again = times.map_or("(br $again)".into(), |times| format!("(br_if $again (i64.lt_u (local.get $n) (i64.const {times})))"));
    let body = format!(
        r#"{setup}
        (loop $again
          {step}
          (local.set $n (i64.add (local.get $n) (i64.const 1)))
          {again})
        (call $told (local.get $n) (local.get $code))"#
    );
    agent(&body, "")
}

/// Writes lines of 4 KiB to stdout.
pub fn logflood(lines: Option<u32>) -> Vec<u8> {
    let setup = "(local.set $fd (call $get_stdout)) (memory.fill (i32.const 65536) (i32.const 120) (i32.const 4095))
      (i32.store8 (i32.const 69631) (i32.const 10))";
    flood(lines, setup, "(call $blocking_write (local.get $fd) (i32.const 65536) (i32.const 4096) (i32.const 256))")
}

/// Reports progress without pause.
pub fn progressflood(reports: Option<u32>) -> Vec<u8> {
    flood(reports, "", r#"(call $report @"again" (i32.const 1) (f64.const 0.5))"#)
}

/// Emits events with 1 KiB of JSON without pause.
pub fn emitflood(events: Option<u32>) -> Vec<u8> {
    let setup = "(memory.fill (i32.const 65536) (i32.const 49) (i32.const 1024))";
    flood(events, setup, r#"(call $emit @"again" (i32.const 65536) (i32.const 1024))"#)
}

/// Reports fractions that are none: not a number, infinite, below 0 and above 1.
pub fn nanprogress() -> Vec<u8> {
    let report = |fraction: &str| format!(r#"(call $report @"odd" (i32.const 1) (f64.const {fraction}))"#);
    let body: String = ["nan", "inf", "-inf", "-1", "2"].map(report).concat();
    agent(&format!(r#"{body} (call $ok @"reported")"#), "")
}

/// Reports "started" and waits in the host for an hour.
pub fn blocked() -> Vec<u8> {
    agent(&format!(r#"{STARTED} (call $block (call $subscribe_duration (i64.const 3600000000000))) (call $ok @"woken")"#), "")
}

/// Takes handles from the host without giving any back.
pub fn handleflood() -> Vec<u8> {
    flood(None, "(local.set $fd (call $get_stdout))", "(drop (call $subscribe_output (local.get $fd)))")
}

/// Asks for 64 MiB of random bytes at a time.
pub fn randomflood() -> Vec<u8> {
    flood(None, "", "(call $get_random_bytes (i64.const 67108864) (i32.const 256))")
}

/// Saves so many checkpoints of so many bytes; the answer is how many were taken and, if one was not, "1".
pub fn saveflood(checkpoints: u32, bytes: u32) -> Vec<u8> {
    let step = format!(
        "(call $save (i32.const 512) (call $name (i32.const 99) (local.get $n)) (i32.const 65536) (i32.const {bytes}) (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then (return (call $told (local.get $n) (i32.const -2)))))"
    );
    flood(Some(checkpoints), "", &step)
}

/// Tries to connect to this port of 127.0.0.1, then to resolve a name. Answers "create CODE connect CODE resolve CODE", of which the second
/// is left out when there is no socket.
pub fn network(port: u16) -> Vec<u8> {
    let zeros = "(i32.const 0) ".repeat(6);
    let body = format!(
        r#"
        (call $create_tcp_socket (i32.const 0) (i32.const 256))
        (local.set $fd (call $result32))
        (call $put @"create ") (call $put_code (local.get $fd))
        (if (i32.ge_s (local.get $fd) (i32.const 0)) (then
          (call $start_connect (local.get $fd) (call $instance_network)
            (i32.const 0) (i32.const {port}) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1) {zeros} (i32.const 256))
          (call $put @" connect ") (call $put_code (call $result8))))
        (call $resolve_addresses (call $instance_network) @"localhost" (i32.const 256))
        (call $put @" resolve ") (call $put_code (call $result32))
        (call $ok_out)"#
    );
    agent(&body, "")
}
