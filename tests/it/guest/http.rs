//! A guest that asks others over HTTP what its query says.

use super::{Fixture, agent};

/// Every guest of this module.
pub const ALL: &[Fixture] = &[("fetch", fetch)];

/// Makes the requests of its query one after the other; answers with a line for each. The query's first character says how it ends: `O`
/// answers, `P` fails for good and `T` traps where a request got no answer. Then come the requests, a line each, of eight words:
///
/// ```text
/// METHOD SCHEME AUTHORITY PATH HEADER VALUE CHUNKS MODE
/// ```
///
/// METHOD is a letter of `GHPUDC` for GET, HEAD, POST, PUT, DELETE and CONNECT; SCHEME `h` or `s`. HEADER is `-` for none, CHUNKS so many
/// times 4 KiB of zeros as the body, 0 for none. MODE is what becomes of the answer: `r` shows it, `d` reads and counts it, `k` keeps it
/// unread, `n` waits for none. A line is the status, or `E` and the code of the error; then the body, the number of its bytes, or `!` and a
/// code where it broke. A header that is refused adds `H` and a code. Before each request it reports "asking", and after it prints and
/// emits what the answer was.
pub fn fetch() -> Vec<u8> {
    agent(BODY, EXTRA)
}

const BODY: &str = r#"
    (global.set $at (local.get $query))
    (global.set $end (i32.add (local.get $query) (local.get $query_len)))
    (local.set $code (i32.load8_u (global.get $at)))
    (call $token)
    (call $get_stdout)
    (local.set $fd)
    (block $done (loop $more
      (br_if $done (i32.ge_u (global.get $at) (global.get $end)))
      (call $report @"asking" (i32.const 0) (f64.const 0))
      (local.set $i (global.get $out))
      (call $one)
      (call $put @"
")
      (drop (call $write_text (local.get $fd) (local.get $i) (i32.sub (global.get $out) (local.get $i))))
      (call $emit @"answer" (local.get $i) (i32.sub (global.get $out) (local.get $i)))
      (br $more)))
    (if (i32.and (global.get $failed) (i32.eq (local.get $code) (i32.const 84))) (then unreachable))
    (if (i32.and (global.get $failed) (i32.eq (local.get $code) (i32.const 80)))
      (then (return (call $err (i32.const 1) (i32.const 65536) (i32.sub (global.get $out) (i32.const 65536))))))
    (call $ok_out)"#;

const EXTRA: &str = r#"
  (global $at (mut i32) (i32.const 0))
  (global $end (mut i32) (i32.const 0))
  (global $word (mut i32) (i32.const 0))
  (global $len (mut i32) (i32.const 0))
  (global $failed (mut i32) (i32.const 0))
  (func $token
    (local $c i32)
    (global.set $word (global.get $at))
    (block $done (loop $more
      (br_if $done (i32.ge_u (global.get $at) (global.get $end)))
      (local.set $c (i32.load8_u (global.get $at)))
      (br_if $done (i32.or (i32.eq (local.get $c) (i32.const 32)) (i32.eq (local.get $c) (i32.const 10))))
      (global.set $at (i32.add (global.get $at) (i32.const 1)))
      (br $more)))
    (global.set $len (i32.sub (global.get $at) (global.get $word)))
    (global.set $at (i32.add (global.get $at) (i32.const 1))))
  (func $letter (result i32)
    (call $token)
    (i32.load8_u (global.get $word)))
  (func $number (result i32)
    (local $n i32) (local $i i32)
    (call $token)
    (block $done (loop $more
      (br_if $done (i32.ge_u (local.get $i) (global.get $len)))
      (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 10))
        (i32.sub (i32.load8_u (i32.add (global.get $word) (local.get $i))) (i32.const 48))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $more)))
    (local.get $n))
  (func $error (param $mark i32) (param $code i32)
    (global.set $failed (i32.const 1))
    (i32.store8 (global.get $out) (local.get $mark))
    (global.set $out (i32.add (global.get $out) (i32.const 1)))
    (call $put_number (i64.extend_i32_u (local.get $code))))
  (func $method (param $c i32) (result i32)
    (if (i32.eq (local.get $c) (i32.const 71)) (then (return (i32.const 0))))
    (if (i32.eq (local.get $c) (i32.const 72)) (then (return (i32.const 1))))
    (if (i32.eq (local.get $c) (i32.const 80)) (then (return (i32.const 2))))
    (if (i32.eq (local.get $c) (i32.const 85)) (then (return (i32.const 3))))
    (if (i32.eq (local.get $c) (i32.const 68)) (then (return (i32.const 4))))
    (i32.const 5))
  (func $one
    (local $method i32) (local $scheme i32) (local $authority i32) (local $authority_len i32) (local $path i32) (local $path_len i32)
    (local $fields i32) (local $request i32) (local $chunks i32) (local $mode i32) (local $body i32) (local $stream i32)
    (local $future i32) (local $name i32) (local $name_len i32)
    (local.set $method (call $method (call $letter)))
    (local.set $scheme (i32.eq (call $letter) (i32.const 115)))
    (call $token)
    (local.set $authority (global.get $word)) (local.set $authority_len (global.get $len))
    (call $token)
    (local.set $path (global.get $word)) (local.set $path_len (global.get $len))
    (local.set $fields (call $new_fields))
    (call $token)
    (local.set $name (global.get $word)) (local.set $name_len (global.get $len))
    (call $token)
    (if (i32.ne (i32.load8_u (local.get $name)) (i32.const 45)) (then
      (call $append_field (local.get $fields) (local.get $name) (local.get $name_len) (global.get $word) (global.get $len) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then (call $put @"H") (call $put_number (i64.load8_u (i32.const 257))) (call $put @" ")))))
    (local.set $chunks (call $number))
    (local.set $mode (call $letter))
    (local.set $request (call $new_request (local.get $fields)))
    (if (call $set_method (local.get $request) (local.get $method) (i32.const 0) (i32.const 0)) (then (call $error (i32.const 69) (i32.const 900)) (return)))
    (drop (call $set_scheme (local.get $request) (i32.const 1) (local.get $scheme) (i32.const 0) (i32.const 0)))
    (if (call $set_authority (local.get $request) (i32.const 1) (local.get $authority) (local.get $authority_len)) (then (call $error (i32.const 69) (i32.const 901)) (return)))
    (if (call $set_path (local.get $request) (i32.const 1) (local.get $path) (local.get $path_len)) (then (call $error (i32.const 69) (i32.const 902)) (return)))
    (if (local.get $chunks) (then
      (call $request_body (local.get $request) (i32.const 256))
      (local.set $body (i32.load (i32.const 260)))
      (call $body_stream (local.get $body) (i32.const 256))
      (local.set $stream (i32.load (i32.const 260)))))
    (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 256))
    (if (i32.load8_u (i32.const 256)) (then (call $error (i32.const 69) (i32.load8_u (i32.const 264))) (return)))
    (local.set $future (i32.load (i32.const 264)))
    (if (local.get $chunks) (then
      (block $gone (loop $chunk
        (call $blocking_zeroes (local.get $stream) (i64.const 4096) (i32.const 256))
        (br_if $gone (i32.load8_u (i32.const 256)))
        (local.set $chunks (i32.sub (local.get $chunks) (i32.const 1)))
        (br_if $chunk (local.get $chunks))))
      (call $drop_output (local.get $stream))
      (call $finish_body (local.get $body) (i32.const 0) (i32.const 0) (i32.const 256))))
    (if (i32.eq (local.get $mode) (i32.const 110)) (then (call $put @"sent") (return)))
    (call $block (call $subscribe_response (local.get $future)))
    (call $get_response (local.get $future) (i32.const 256))
    (if (i32.load8_u (i32.const 272)) (then (call $error (i32.const 69) (i32.load8_u (i32.const 280))) (return)))
    (call $answer (i32.load (i32.const 280)) (local.get $mode)))
  (func $answer (param $response i32) (param $mode i32)
    (local $stream i32) (local $bytes i64) (local $heap i32) (local $size i32)
    (call $put_number (i64.extend_i32_u (call $status (local.get $response))))
    (if (i32.eq (local.get $mode) (i32.const 107)) (then (return)))
    (call $put @" ")
    (call $consume (local.get $response) (i32.const 256))
    (call $answer_stream (i32.load (i32.const 260)) (i32.const 256))
    (local.set $stream (i32.load (i32.const 260)))
    (local.set $heap (global.get $heap))
    (block $end (loop $more
      (global.set $heap (local.get $heap))
      (call $blocking_read (local.get $stream) (i64.const 16384) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then
        (if (i32.eqz (i32.load8_u (i32.const 260))) (then
          (call $http_error_code (i32.load (i32.const 264)) (i32.const 512))
          (call $error (i32.const 33) (select (i32.load8_u (i32.const 520)) (i32.const 999) (i32.load8_u (i32.const 512))))))
        (br $end)))
      (local.set $size (i32.load (i32.const 264)))
      (local.set $bytes (i64.add (local.get $bytes) (i64.extend_i32_u (local.get $size))))
      (if (i32.and (i32.eq (local.get $mode) (i32.const 114))
                   (i32.lt_u (i32.add (global.get $out) (local.get $size)) (i32.const 130000)))
        (then (call $put (i32.load (i32.const 260)) (local.get $size))))
      (br $more)))
    (if (i32.eq (local.get $mode) (i32.const 100)) (then (call $put_number (local.get $bytes)))))"#;
