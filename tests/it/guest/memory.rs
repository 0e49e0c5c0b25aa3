//! Guests of `wasi:config`, `wasi:keyvalue` and `wasi:logging`, one shape for each of their drafts.
//!
//! Each takes what its world imports, under names of its own: `$open_bucket`, `$get` and so on. What a call gives it puts at 256.

use std::fmt::Write as _;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{agent_items, module_with};

const CONFIG_RC1: &str = include_str!("../../../src/sandbox/wit/config-rc1/config.wit");
const CONFIG_DRAFT: &str = include_str!("../../../src/sandbox/wit/config-draft/config.wit");
const CONFIG_2024: &str = include_str!("../../../src/sandbox/wit/config-draft-2024-09-27/config.wit");
const KEYVALUE_DRAFT: &str = include_str!("../../../src/sandbox/wit/keyvalue-draft/keyvalue.wit");
const KEYVALUE_DRAFT2: &str = include_str!("../../../src/sandbox/wit/keyvalue-draft2/keyvalue.wit");
const LOGGING_DRAFT: &str = include_str!("../../../src/sandbox/wit/logging-draft/logging.wit");
const LOGGING: &str = include_str!("../../../src/sandbox/wit/logging/logging.wit");

/// The names of every `wasi:config` interface.
pub const CONFIGS: [&str; 4] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/runtime@0.2.0-draft",
    "wasi:config/store@0.2.0-draft-2024-09-27",
];

/// The names of every `wasi:logging` interface.
pub const LOGGINGS: [&str; 2] = ["wasi:logging/logging@0.1.0-draft", "wasi:logging/logging"];

/// The drafts of `wasi:keyvalue`; the second was changed under its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draft {
    One,
    TwoOfOld,
    Two,
}

pub const DRAFTS: [Draft; 3] = [Draft::One, Draft::TwoOfOld, Draft::Two];

impl Draft {
    fn wit(self) -> String {
        let pair = match self {
            Draft::One => return KEYVALUE_DRAFT.to_owned(),
            Draft::TwoOfOld => "option<tuple<string, list<u8>>>",
            Draft::Two => "tuple<string, option<list<u8>>>",
        };
        let get_many = format!("get-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<list<{pair}>, error>;\n    set-many");
        KEYVALUE_DRAFT2.replace("set-many", &get_many)
    }

    fn version(self) -> &'static str {
        if self == Draft::One { "0.2.0-draft" } else { "0.2.0-draft2" }
    }

    /// Where an entry of `get-many`'s answer says whether it has a value, and where the address of that is.
    fn entry(self) -> (u32, u32) {
        if self == Draft::Two { (8, 12) } else { (0, 12) }
    }
}

/// An agent that imports these functions of an interface: name, function, type.
fn component(wits: &[&str], interfaces: &[String], imports: &[(&str, &str, &str, &str)], body: &str, extra: &str) -> Vec<u8> {
    let mut text = String::new();
    let items = agent_items(body, extra);
    for (name, interface, function, shape) in imports {
        let _ = writeln!(text, "  (import \"{interface}\" \"{function}\" (func {name} {shape}))");
    }
    let mut module = wat::parse_str(module_with(&items, &text)).unwrap_or_else(|e| panic!("{e}\n{items}"));
    let mut resolve = Resolve::default();
    resolve.push_str("agent.wit", include_str!("../../../wit/agent.wit")).unwrap();
    for wit in wits {
        resolve.push_str("wasi.wit", wit).unwrap();
    }
    let imports: String = interfaces.iter().map(|interface| format!("import {interface};")).collect();
    let world = format!("package sandclock:keeper; world keeper {{ include sandclock:agent/agent@0.1.0; {imports} }}");
    let package = resolve.push_str("keeper.wit", &world).unwrap();
    let world = resolve.select_world(&[package], Some("keeper")).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap()
}

/// Answers with the value of `greeting`, or `-`, and how many values there are: "hello 3".
pub fn config(interface: &str) -> Vec<u8> {
    let imports = [("$get", interface, "get", "(param i32 i32 i32)"), ("$get_all", interface, "get-all", "(param i32)")];
    component(
        &[CONFIG_RC1, CONFIG_DRAFT, CONFIG_2024],
        &[interface.to_owned()],
        &imports,
        r#"(call $get @"greeting" (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then unreachable))
        (if (i32.load8_u (i32.const 260))
          (then (call $put (i32.load (i32.const 264)) (i32.load (i32.const 268))))
          (else (call $put @"-")))
        (call $get_all (i32.const 256))
        (if (i32.load8_u (i32.const 256)) (then unreachable))
        (call $put @" ") (call $put_number (i64.extend_i32_u (i32.load (i32.const 264))))
        (call $ok (i32.const 65536) (i32.sub (global.get $out) (i32.const 65536)))"#,
        "",
    )
}

/// Logs a line of each level, so many times.
pub fn logs(interface: &str, times: u32) -> Vec<u8> {
    let escape = '\u{1b}';
    let imports = [("$log", interface, "log", "(param i32 i32 i32 i32 i32)")];
    component(
        &[LOGGING_DRAFT, LOGGING],
        &[interface.to_owned()],
        &imports,
        &format!(
            r#"(loop $again
              (call $log (i32.const 0) @"" @"very{escape} fine")
              (call $log (i32.const 3) @"db/pool" @"two
lines")
              (call $log (i32.const 5) @"main" @"the end")
              (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {times}))))
            (call $ok @"logged")"#
        ),
        "",
    )
}

/// An agent of a draft of `wasi:keyvalue`. `$bucket` is opened by this name, and `$done` answers with what was put.
pub fn keeper(draft: Draft, bucket: &str, body: &str) -> Vec<u8> {
    let (store, atomics, batch) = ["store", "atomics", "batch"].map(|name| format!("wasi:keyvalue/{name}@{}", draft.version())).into();
    let (store, atomics, batch): (&str, &str, &str) = (&store, &atomics, &batch);
    let cursor = if draft == Draft::One { "(param i32 i32 i64 i32)" } else { "(param i32 i32 i32 i32 i32)" };
    let mut imports = vec![
        ("$open_bucket", store, "open", "(param i32 i32 i32)"),
        ("$get", store, "[method]bucket.get", "(param i32 i32 i32 i32)"),
        ("$set", store, "[method]bucket.set", "(param i32 i32 i32 i32 i32 i32)"),
        ("$delete", store, "[method]bucket.delete", "(param i32 i32 i32 i32)"),
        ("$exists", store, "[method]bucket.exists", "(param i32 i32 i32 i32)"),
        ("$list_keys", store, "[method]bucket.list-keys", cursor),
        ("$increment", atomics, "increment", "(param i32 i32 i32 i64 i32)"),
        ("$get_many", batch, "get-many", "(param i32 i32 i32 i32)"),
        ("$set_many", batch, "set-many", "(param i32 i32 i32 i32)"),
        ("$delete_many", batch, "delete-many", "(param i32 i32 i32 i32)"),
    ];
    if draft != Draft::One {
        imports.push(("$cas", atomics, "[static]cas.new", "(param i32 i32 i32 i32)"));
        imports.push(("$current", atomics, "[method]cas.current", "(param i32 i32)"));
        imports.push(("$swap", atomics, "swap", "(param i32 i32 i32 i32)"));
    }
    let opened = format!(
        r#"(call $open_bucket @"{bucket}" (i32.const 256))
        (global.set $bucket (i32.load (i32.const 260)))
        (block $refused (br_if $refused (call $no)) {body})
        (call $ok (i32.const 65536) (i32.sub (global.get $out) (i32.const 65536)))"#
    );
    component(&[&draft.wit()], &[store.to_owned(), atomics.to_owned(), batch.to_owned()], &imports, &opened, HELPERS)
}

/// `$no` puts why a call was refused, if it was; `$value` what an option of bytes is.
const HELPERS: &str = r#"
  (global $bucket (mut i32) (i32.const 0))
  (func $text (param $at i32) (param $from i32) (param $len i32)
    (i32.store (local.get $at) (local.get $from))
    (i32.store (i32.add (local.get $at) (i32.const 4)) (local.get $len)))
  (func $no (result i32) (call $no_at (i32.const 260)))
  (func $no_at (param $error i32) (result i32)
    (if (i32.eqz (i32.load8_u (i32.const 256))) (then (return (i32.const 0))))
    (if (i32.eq (i32.load8_u (local.get $error)) (i32.const 2))
      (then (call $put (i32.load (i32.add (local.get $error) (i32.const 4))) (i32.load (i32.add (local.get $error) (i32.const 8)))))
      (else (call $put @"error ") (call $put_number (i64.extend_i32_u (i32.load8_u (local.get $error))))))
    (call $put @"|")
    (i32.const 1))
  (func $value
    (if (call $no) (then (return)))
    (if (i32.load8_u (i32.const 260))
      (then (call $put (i32.load (i32.const 264)) (i32.load (i32.const 268))))
      (else (call $put @"-")))
    (call $put @"|"))
  (func $flag
    (if (call $no) (then (return)))
    (call $put_number (i64.extend_i32_u (i32.load8_u (i32.const 260)))) (call $put @"|"))
  (func $number
    (if (call $no_at (i32.const 264)) (then (return)))
    (call $put_number (i64.load (i32.const 264))) (call $put @"|"))
"#;

/// Does with its bucket what every draft can, and tells of each step.
pub fn all_of(draft: Draft, bucket: &str) -> Vec<u8> {
    let (has, at) = draft.entry();
    let list = if draft == Draft::One {
        "(call $list_keys (global.get $bucket) (i32.const 0) (i64.const 0) (i32.const 256))
         (call $put_number (i64.extend_i32_u (i32.load (i32.const 268)))) (call $put @\"+\")
         (call $put_number (i64.extend_i32_u (i32.load8_u (i32.const 272)))) (call $put @\"|\")"
    } else {
        "(call $list_keys (global.get $bucket) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 256))
         (call $put_number (i64.extend_i32_u (i32.load (i32.const 264)))) (call $put @\"+\")
         (call $put_number (i64.extend_i32_u (i32.load8_u (i32.const 268)))) (call $put @\"|\")"
    };
    // Lists of the keys a, zz and b, and of the first and the last with their values.
    let lists = [("a", 0), ("zz", 8), ("b", 16)]
        .map(|(key, at)| format!("(call $text (i32.const {}) @\"{key}\")", 600 + at))
        .into_iter()
        .chain(
            [("a", 0), ("one", 8), ("b", 16), ("two", 24)].map(|(text, at)| format!("(call $text (i32.const {}) @\"{text}\")", 700 + at)),
        )
        .collect::<String>();
    let body = format!(
        r#"(call $get (global.get $bucket) @"k" (i32.const 256)) (call $value)
        (call $set (global.get $bucket) @"k" @"kept" (i32.const 256)) (drop (call $no))
        (call $get (global.get $bucket) @"k" (i32.const 256)) (call $value)
        (call $exists (global.get $bucket) @"k" (i32.const 256)) (call $flag)
        (call $delete (global.get $bucket) @"k" (i32.const 256)) (drop (call $no))
        (call $exists (global.get $bucket) @"k" (i32.const 256)) (call $flag)
        (call $increment (global.get $bucket) @"n" (i64.const 5) (i32.const 256)) (call $number)
        (call $increment (global.get $bucket) @"n" (i64.const 37) (i32.const 256)) (call $number)
        (call $get (global.get $bucket) @"n" (i32.const 256)) (call $value)
        {lists}
        (call $set_many (global.get $bucket) (i32.const 700) (i32.const 2) (i32.const 256)) (drop (call $no))
        (call $get_many (global.get $bucket) (i32.const 600) (i32.const 3) (i32.const 256)) (drop (call $no))
        (local.set $i (i32.load (i32.const 260)))
        (local.set $fd (i32.load (i32.const 264)))
        (loop $entries
          (if (i32.load8_u (i32.add (local.get $i) (i32.const {has})))
            (then (call $put (i32.load (i32.add (local.get $i) (i32.const {at}))) (i32.load (i32.add (local.get $i) (i32.const {at_length})))))
            (else (call $put @"-")))
          (call $put @",")
          (local.set $i (i32.add (local.get $i) (i32.const 20)))
          (br_if $entries (local.tee $fd (i32.sub (local.get $fd) (i32.const 1)))))
        (call $put @"|")
        {list}
        (call $delete_many (global.get $bucket) (i32.const 600) (i32.const 3) (i32.const 256)) (drop (call $no))
        (call $exists (global.get $bucket) @"b" (i32.const 256)) (call $flag)
        (call $get (global.get $bucket) @"" (i32.const 256)) (call $value)"#,
        at_length = at + 4,
    );
    keeper(draft, bucket, &body)
}

/// Swaps a value that somebody else has changed meanwhile, then as it is now.
pub fn swaps(draft: Draft) -> Vec<u8> {
    keeper(
        draft,
        "session",
        r#"(call $cas (global.get $bucket) @"k" (i32.const 256))
        (local.set $fd (i32.load (i32.const 260)))
        (call $current (local.get $fd) (i32.const 256)) (call $value)
        (call $set (global.get $bucket) @"k" @"other" (i32.const 256))
        (call $swap (local.get $fd) @"mine" (i32.const 256))
        (call $put_number (i64.extend_i32_u (i32.load8_u (i32.const 256))))
        (call $put_number (i64.extend_i32_u (i32.load8_u (i32.const 260)))) (call $put @"|")
        (local.set $fd (i32.load (i32.const 264)))
        (call $current (local.get $fd) (i32.const 256)) (call $value)
        (call $swap (local.get $fd) @"mine" (i32.const 256))
        (call $put_number (i64.extend_i32_u (i32.load8_u (i32.const 256)))) (call $put @"|")
        (call $get (global.get $bucket) @"k" (i32.const 256)) (call $value)"#,
    )
}

/// Sets so many keys of four bytes to a value of so many, or until one is refused; answers with what it was told.
pub fn fills(steps: u32, bytes: u32) -> Vec<u8> {
    keeper(
        Draft::Two,
        "agent",
        &format!(
            r#"(drop (memory.grow (i32.const 20)))
            (block $end (loop $again
              (i32.store (i32.const 900) (local.get $i))
              (i32.store8 (i32.const 903) (i32.const 7))
              (call $set (global.get $bucket) (i32.const 900) (i32.const 4) (i32.const 131072) (i32.const {bytes}) (i32.const 256))
              (br_if $end (call $no))
              (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {steps})))))
            (call $put_number (i64.extend_i32_u (local.get $i)))"#
        ),
    )
}

/// Opens its bucket for ever.
pub fn opens() -> Vec<u8> {
    keeper(Draft::Two, "agent", r#"(loop $again (call $open_bucket @"agent" (i32.const 256)) (br_if $again (i32.const 1)))"#)
}

/// Sets one key, and asks for it so many times with one call.
pub fn asks(keys: u32, bytes: u32) -> Vec<u8> {
    keeper(
        Draft::Two,
        "agent",
        &format!(
            r#"(drop (memory.grow (i32.const 20)))
            (call $set (global.get $bucket) @"k" (i32.const 131072) (i32.const {bytes}) (i32.const 256)) (drop (call $no))
            (loop $again
              (call $text (i32.add (i32.const 140000) (i32.mul (local.get $i) (i32.const 8))) @"k")
              (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {keys}))))
            (call $get_many (global.get $bucket) (i32.const 140000) (i32.const {keys}) (i32.const 256)) (drop (call $no))"#
        ),
    )
}
