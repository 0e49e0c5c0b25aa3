//! Guests that write and read their workspace, fill the disk by every road, and try to leave.
//!
//! The fillers answer "N CODE": how many rounds went well, and the WASI error code that ended them, or "none" when all did. Some codes:
//! 0 access, 6 quota, 20 no-entry, 23 insufficient-space, 31 not-permitted. A chunk is 64 KiB.

use super::{Fixture, agent};

/// Every guest of this module.
pub const ALL: &[Fixture] = &[
    ("write_file", || write_file("note.txt", 100_000)),
    ("write_text", || write_text("output.md", "# Done")),
    ("read_file", || read_file("note.txt")),
    ("read_parent", || read_file("../../etc/passwd")),
    ("read_absolute", || read_file("/etc/passwd")),
    ("symlink", || symlink("/etc/passwd", "passwd")),
    ("read_by_symlink", || read_by_symlink("../../etc/passwd")),
    ("link_from_outside", || link("../../etc/passwd", "stolen")),
    ("rename_out", || rename("inside", "../outside")),
    ("make_folder", || make_folder("../outside")),
    ("odd_names", odd_names),
    ("fill_by_write", || fill_by_write(4096)),
    ("fill_by_offset", || fill_by_offset(4096)),
    ("fill_by_stream", || fill_by_stream(4096)),
    ("fill_by_append", || fill_by_append(4096)),
    ("fill_by_zeroes", || fill_by_zeroes(4096)),
    ("fill_by_splice", || fill_by_splice(4096)),
    ("fill_by_set_size", || fill_by_set_size(4096)),
    ("fill_by_unlinked", || fill_by_unlinked(4096)),
    ("fill_by_files", || fill_by_files(1_000_000)),
    ("fill_by_folders", || fill_by_folders(1_000_000)),
    ("fill_by_depth", || fill_by_depth(10_000)),
    ("fill_by_links", || fill_by_links(1_000_000)),
    ("fill_by_symlinks", || fill_by_symlinks(1_000_000)),
    ("churn", || churn(4096)),
    ("churn_files", || churn_files(4096)),
];

/// Does `step`, which gives a code, so many times or until it gives an error's; `$fd` and `$i` come from `setup`.
fn until_refused(rounds: u32, setup: &str, step: &str) -> Vec<u8> {
    let body = format!(
        "(block $end
          {setup}
          (br_if $end (i32.lt_s (local.tee $code (local.get $fd)) (i32.const 0)))
          (loop $again
            (local.set $code (block $step (result i32) {step}))
            (br_if $end (i32.lt_s (local.get $code) (i32.const 0)))
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (br_if $again (i64.lt_u (local.get $n) (i64.const {rounds})))))
        (call $told (local.get $n) (local.get $code))"
    );
    agent(&body, "")
}

/// A `step` that ends early when `$fd` is an error's code.
const OPENED: &str = "(drop (br_if $step (local.get $fd) (i32.lt_s (local.get $fd) (i32.const 0))))";

/// One call that leaves a `result<_, error-code>` at 256, once: "1 none" or "0 CODE".
fn once(setup: &str, call: &str) -> Vec<u8> {
    until_refused(1, setup, &format!("{call} (call $result8)"))
}

/// Writes so many bytes of the letter x to a path of the workspace; answers "BYTES none", or how many went well and the code.
pub fn write_file(path: &str, bytes: u64) -> Vec<u8> {
    let body = format!(
        r#"(memory.fill (i32.const 131072) (i32.const 120) (i32.const 16384))
        (local.set $fd (call $create @"{path}"))
        (local.set $code (local.get $fd))
        (block $end (loop $again
          (br_if $end (i32.or (i32.lt_s (local.get $code) (i32.const 0)) (i64.ge_u (local.get $n) (i64.const {bytes}))))
          (local.set $i (i32.wrap_i64 (i64.sub (i64.const {bytes}) (local.get $n))))
          (if (i32.gt_u (local.get $i) (i32.const 16384)) (then (local.set $i (i32.const 16384))))
          (call $write (local.get $fd) (i32.const 131072) (local.get $i) (local.get $n) (i32.const 256))
          (local.set $code (call $result64))
          (if (i32.ge_s (local.get $code) (i32.const 0)) (then (local.set $n (i64.add (local.get $n) (i64.load (i32.const 264))))))
          (br $again)))
        (call $told (local.get $n) (local.get $code))"#
    );
    // The bytes lie behind the output buffer, so the heap must not grow over them.
    agent(
        &body,
        "(func $room (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable)) (global.set $heap (i32.const 147456))) (start $room)",
    )
}

/// Writes a text to a path of the workspace, and answers it.
pub fn write_text(path: &str, text: &str) -> Vec<u8> {
    let body = format!(
        r#"(local.set $fd (call $create @"{path}"))
        (if (i32.lt_s (local.get $fd) (i32.const 0)) (then (return (call $told (i64.const 0) (local.get $fd)))))
        (call $write (local.get $fd) @"{text}" (i64.const 0) (i32.const 256))
        (if (result i32) (i32.load8_u (i32.const 256))
          (then (call $told (i64.const 0) (call $result64)))
          (else (call $ok @"{text}")))"#
    );
    agent(&body, "")
}

/// What is put into the answer for a path: "read " and up to 4 KiB of it, or "refused CODE".
fn tell_content(path: &str) -> String {
    format!(
        r#"(local.set $fd (call $open @"{path}"))
        (if (i32.ge_s (local.get $fd) (i32.const 0)) (then
          (call $read (local.get $fd) (i64.const 4096) (i64.const 0) (i32.const 256))
          (if (i32.load8_u (i32.const 256))
            (then (local.set $fd (i32.sub (i32.const -1) (i32.load8_u (i32.const 260)))))
            (else (call $put @"read ") (call $put (i32.load (i32.const 260)) (i32.load (i32.const 264)))))))
        (if (i32.lt_s (local.get $fd) (i32.const 0)) (then (call $put @"refused ") (call $put_code (local.get $fd))))"#
    )
}

/// Reads a path: answers "read TEXT" or "refused CODE".
pub fn read_file(path: &str) -> Vec<u8> {
    agent(&format!("{} (call $ok_out)", tell_content(path)), "")
}

/// Makes a symbolic link.
pub fn symlink(target: &str, path: &str) -> Vec<u8> {
    once("", &format!(r#"(call $symlink_at (call $root) @"{target}" @"{path}" (i32.const 256))"#))
}

/// Makes a symbolic link to a path and reads through it: answers "link CODE, read TEXT" or "link CODE, refused CODE".
pub fn read_by_symlink(target: &str) -> Vec<u8> {
    let body = format!(
        r#"(call $symlink_at (call $root) @"{target}" @"way-out" (i32.const 256))
        (call $put @"link ") (call $put_code (call $result8)) (call $put @", ")
        {} (call $ok_out)"#,
        tell_content("way-out")
    );
    agent(&body, "")
}

/// Makes a hard link.
pub fn link(from: &str, to: &str) -> Vec<u8> {
    once("", &format!(r#"(call $link_at (call $root) (i32.const 0) @"{from}" (call $root) @"{to}" (i32.const 256))"#))
}

/// Makes a file and renames it.
pub fn rename(from: &str, to: &str) -> Vec<u8> {
    once(
        &format!(r#"(local.set $fd (call $create @"{from}"))"#),
        &format!(r#"(call $rename_at (call $root) @"{from}" (call $root) @"{to}" (i32.const 256))"#),
    )
}

/// Makes a folder.
pub fn make_folder(path: &str) -> Vec<u8> {
    once("", &format!(r#"(call $create_directory_at (call $root) @"{path}" (i32.const 256))"#))
}

/// Makes files whose names have a line break, a terminal's escape code, markup and 255 letters.
pub fn odd_names() -> Vec<u8> {
    let make = |name: &str| format!("(if (i32.lt_s (call $create @\"{name}\") (i32.const 0)) (then unreachable))\n");
    let body = [make("two\nlines"), make("\u{1b}[31mred"), make("<script>alert(1)<"), make(&"n".repeat(255))].concat();
    agent(&format!("{body} (call $ok @\"made\")"), "")
}

const BIG: &str = r#"(local.set $fd (call $create @"big"))"#;

/// Writes chunk after chunk.
pub fn fill_by_write(rounds: u32) -> Vec<u8> {
    let step =
        "(call $write (local.get $fd) (i32.const 65536) (i32.const 65536) (i64.mul (local.get $n) (i64.const 65536)) (i32.const 256))
      (call $result64)";
    until_refused(rounds, BIG, step)
}

/// Writes one byte each gigabyte further on: a file full of holes.
pub fn fill_by_offset(rounds: u32) -> Vec<u8> {
    let step =
        "(call $write (local.get $fd) (i32.const 65536) (i32.const 1) (i64.mul (local.get $n) (i64.const 1073741824)) (i32.const 256))
      (call $result64)";
    until_refused(rounds, BIG, step)
}

/// Opens a stream of `big` by `call` into `$i`.
fn stream(call: &str) -> String {
    format!("{BIG} {call} (local.set $i (call $result32)) (br_if $end (i32.lt_s (local.tee $code (local.get $i)) (i32.const 0)))")
}

const WRITE_STREAM: &str = "(call $write_stream (local.get $fd) (i64.const 0) (i32.const 256))";
const APPEND_STREAM: &str = "(call $append_stream (local.get $fd) (i32.const 256))";
const WRITE_4K: &str =
    "(call $blocking_write (local.get $i) (i32.const 65536) (i32.const 4096) (i32.const 256)) (call $stream_result (i32.const 260))";

/// Writes 4 KiB a round to a stream.
pub fn fill_by_stream(rounds: u32) -> Vec<u8> {
    until_refused(rounds, &stream(WRITE_STREAM), WRITE_4K)
}

/// Writes 4 KiB a round to a stream that appends.
pub fn fill_by_append(rounds: u32) -> Vec<u8> {
    until_refused(rounds, &stream(APPEND_STREAM), WRITE_4K)
}

/// Has the host write 4 KiB of zeroes a round.
pub fn fill_by_zeroes(rounds: u32) -> Vec<u8> {
    let step = "(call $blocking_zeroes (local.get $i) (i64.const 4096) (i32.const 256)) (call $stream_result (i32.const 260))";
    until_refused(rounds, &stream(WRITE_STREAM), step)
}

/// Has the host copy 4 KiB a round from one file to another.
pub fn fill_by_splice(rounds: u32) -> Vec<u8> {
    let setup = format!(
        r#"(local.set $fd (call $create @"source"))
        (br_if $end (i32.lt_s (local.tee $code (local.get $fd)) (i32.const 0)))
        (call $write (local.get $fd) (i32.const 65536) (i32.const 4096) (i64.const 0) (i32.const 256))
        {}
        (local.set $fd (call $open @"source"))"#,
        stream(APPEND_STREAM)
    );
    let step = "(call $read_stream (local.get $fd) (i64.const 0) (i32.const 256))
      (i32.store (i32.const 512) (call $result32))
      (call $blocking_splice (local.get $i) (i32.load (i32.const 512)) (i64.const 4096) (i32.const 256))
      (call $drop_input (i32.load (i32.const 512)))
      (call $stream_result (i32.const 264))";
    until_refused(rounds, &setup, step)
}

/// Makes a file without content a megabyte longer each round.
pub fn fill_by_set_size(rounds: u32) -> Vec<u8> {
    let step = "(call $set_size (local.get $fd) (i64.mul (i64.add (local.get $n) (i64.const 1)) (i64.const 1048576)) (i32.const 256))
      (call $result8)";
    until_refused(rounds, BIG, step)
}

/// Makes a file of the round's name into `$fd`, and stops when that is refused.
fn new_file() -> String {
    format!(
        "(local.set $i (call $name (i32.const 102) (local.get $n))) (local.set $fd (call $create (i32.const 512) (local.get $i))) {OPENED}"
    )
}

const WRITE_CHUNK: &str = "(call $write (local.get $fd) (i32.const 65536) (i32.const 65536) (i64.const 0) (i32.const 256))";
const UNLINK: &str = "(call $unlink_file_at (call $root) (i32.const 512) (local.get $i) (i32.const 256))";

/// Writes a chunk to a file, unlinks it and keeps it open.
pub fn fill_by_unlinked(rounds: u32) -> Vec<u8> {
    let step = format!(
        "{} {WRITE_CHUNK} (drop (br_if $step (call $result64) (i32.lt_s (call $result64) (i32.const 0)))) {UNLINK} (call $result8)",
        new_file()
    );
    until_refused(rounds, "", &step)
}

/// Makes empty files.
pub fn fill_by_files(rounds: u32) -> Vec<u8> {
    until_refused(rounds, "", &format!("{} (call $drop_descriptor (local.get $fd)) (i32.const 0)", new_file()))
}

/// Makes folders.
pub fn fill_by_folders(rounds: u32) -> Vec<u8> {
    let step = "(call $create_directory_at (call $root) (i32.const 512) (call $name (i32.const 100) (local.get $n)) (i32.const 256))
      (call $result8)";
    until_refused(rounds, "", step)
}

/// Makes a folder in a folder in a folder.
pub fn fill_by_depth(rounds: u32) -> Vec<u8> {
    let step = format!(
        r#"(call $create_directory_at (local.get $fd) @"d" (i32.const 256))
        (drop (br_if $step (call $result8) (i32.lt_s (call $result8) (i32.const 0))))
        (local.set $i (local.get $fd))
        (call $open_at (local.get $fd) (i32.const 0) @"d" (i32.const 2) (i32.const 33) (i32.const 256))
        (local.set $fd (call $result32)) {OPENED}
        (if (i64.ne (local.get $n) (i64.const 0)) (then (call $drop_descriptor (local.get $i))))
        (i32.const 0)"#
    );
    until_refused(rounds, "(local.set $fd (call $root))", &step)
}

/// Makes hard links to one file of a chunk.
pub fn fill_by_links(rounds: u32) -> Vec<u8> {
    let step = r#"(call $link_at (call $root) (i32.const 0) @"big" (call $root) (i32.const 512) (call $name (i32.const 108) (local.get $n)) (i32.const 256))
      (call $result8)"#;
    until_refused(rounds, &format!("{BIG} {WRITE_CHUNK}"), step)
}

/// Makes symbolic links.
pub fn fill_by_symlinks(rounds: u32) -> Vec<u8> {
    let step = r#"(call $symlink_at (call $root) @"big" (i32.const 512) (call $name (i32.const 115) (local.get $n)) (i32.const 256))
      (call $result8)"#;
    until_refused(rounds, "", step)
}

/// Writes a chunk and cuts it off again: never more than a chunk at once, so a quota must let all rounds pass.
pub fn churn(rounds: u32) -> Vec<u8> {
    let step = format!(
        "{WRITE_CHUNK} (drop (br_if $step (call $result64) (i32.lt_s (call $result64) (i32.const 0))))
        (call $set_size (local.get $fd) (i64.const 0) (i32.const 256)) (call $result8)"
    );
    until_refused(rounds, BIG, &step)
}

/// Writes a chunk to a file, closes and unlinks it: never more than a file at once.
pub fn churn_files(rounds: u32) -> Vec<u8> {
    let step = format!(
        "{} {WRITE_CHUNK} (drop (br_if $step (call $result64) (i32.lt_s (call $result64) (i32.const 0))))
        (call $drop_descriptor (local.get $fd)) {UNLINK} (call $result8)",
        new_file()
    );
    until_refused(rounds, "(local.set $fd (i32.const 0))", &step)
}
