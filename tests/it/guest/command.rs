//! Agents that are plain `wasi:cli` commands, and files that are no agents.

use super::{Fixture, agent_wat, component_from_wat, module};

/// Every component of this module.
pub const ALL: &[Fixture] = &[
    ("command_echo", command_echo),
    ("command_args", command_args),
    ("command_fail", command_fail),
    ("command_exit", || command_exit(75)),
    ("command_flood", command_flood),
    ("no_entry", no_entry),
    ("wrong_entry", wrong_entry),
    ("stranger", stranger),
];

/// A command whose `run` has the instructions `body`; it leaves 0 for ok and 1 for an error.
pub fn command(body: &str) -> Vec<u8> {
    let run = format!(r#"(func (export "wasi:cli/run@0.2.6#run") (result i32) (local $i i32) (local $fd i32) (local $end i32) {body})"#);
    component_from_wat(&module(&run), "command")
}

/// Copies stdin to stdout.
pub fn command_echo() -> Vec<u8> {
    command(
        "(local.set $i (call $get_stdin)) (local.set $fd (call $get_stdout))
        (block $end_of_input (loop $again
          (call $blocking_read (local.get $i) (i64.const 4096) (i32.const 512))
          (br_if $end_of_input (i32.load8_u (i32.const 512)))
          (drop (call $write_text (local.get $fd) (i32.load (i32.const 516)) (i32.load (i32.const 520))))
          (br $again)))
        (i32.const 0)",
    )
}

/// Writes its arguments to stdout, a line each.
pub fn command_args() -> Vec<u8> {
    command(
        "(local.set $fd (call $get_stdout))
        (call $get_arguments (i32.const 512))
        (local.set $i (i32.load (i32.const 512)))
        (local.set $end (i32.add (local.get $i) (i32.mul (i32.load (i32.const 516)) (i32.const 8))))
        (block $all (loop $again
          (br_if $all (i32.ge_u (local.get $i) (local.get $end)))
          (drop (call $write_text (local.get $fd) (i32.load (local.get $i)) (i32.load (i32.add (local.get $i) (i32.const 4)))))
          (drop (call $write_text (local.get $fd) @\"\n\"))
          (local.set $i (i32.add (local.get $i) (i32.const 8)))
          (br $again)))
        (i32.const 0)",
    )
}

/// Says why on stderr, and fails.
pub fn command_fail() -> Vec<u8> {
    command("(drop (call $write_text (call $get_stderr) @\"no such thing\n\")) (i32.const 1)")
}

/// Exits with this code.
pub fn command_exit(code: u8) -> Vec<u8> {
    command(&format!("(call $exit_with_code (i32.const {code})) (i32.const 0)"))
}

/// Writes to stdout for ever.
pub fn command_flood() -> Vec<u8> {
    command(
        "(local.set $fd (call $get_stdout)) (memory.fill (i32.const 65536) (i32.const 120) (i32.const 4096))
        (loop $again (call $blocking_write (local.get $fd) (i32.const 65536) (i32.const 4096) (i32.const 256)) (br $again)) unreachable",
    )
}

/// A component that exports nothing.
pub fn no_entry() -> Vec<u8> {
    wat::parse_str("(component)").unwrap()
}

/// A component whose entry has the right name and a wrong type.
pub fn wrong_entry() -> Vec<u8> {
    let text = r#"(component
      (core module $m (func (export "run") (result i32) (i32.const 1)))
      (core instance $i (instantiate $m))
      (func $run (result u32) (canon lift (core func $i "run")))
      (instance $entry (export "run" (func $run)))
      (export "sandclock:agent/entry@0.1.0" (instance $entry)))"#;
    wat::parse_str(text).unwrap()
}

/// An agent that imports what no daemon has.
pub fn stranger() -> Vec<u8> {
    component_from_wat(&agent_wat(r#"(call $missing) (call $ok @"never")"#, ""), "stranger")
}

/// A core module: wasm, but no component.
pub fn core_module() -> Vec<u8> {
    wat::parse_str("(module)").unwrap()
}

#[test]
fn a_core_module_is_no_component() {
    assert_eq!(core_module()[..8], *b"\0asm\x01\0\0\0");
}
