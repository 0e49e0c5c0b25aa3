//! What test guests can call, in the core module's terms, and the helpers they share.

/// Where a guest gathers its answer: 64 KiB from here; the heap follows.
pub const OUT: usize = 65536;

/// A function of the host, under the name that fixtures call it by.
pub struct Import {
    pub name: &'static str,
    pub interface: &'static str,
    pub function: &'static str,
    pub shape: &'static str,
}

const CONTEXT: &str = "sandclock:agent/context@0.1.0";
const PROGRESS: &str = "sandclock:agent/progress@0.1.0";
const CHECKPOINT: &str = "sandclock:agent/checkpoint@0.1.0";
const APPROVAL: &str = "sandclock:agent/approval@0.1.0";
const FILES: &str = "wasi:filesystem/types@0.2.6";
const HTTP: &str = "wasi:http/types@0.2.6";
const STREAMS: &str = "wasi:io/streams@0.2.6";

const fn import(name: &'static str, interface: &'static str, function: &'static str, shape: &'static str) -> Import {
    Import { name, interface, function, shape }
}

/// Strings and lists are an address and a length; a function that gives more than one number takes the address to put them at, last.
pub const IMPORTS: &[Import] = &[
    import("$run_id", CONTEXT, "run-id", "(param i32)"),
    import("$task_id", CONTEXT, "task-id", "(param i32)"),
    import("$agent_id", CONTEXT, "agent-id", "(param i32)"),
    import("$session_id", CONTEXT, "session-id", "(param i32)"),
    import("$attempt", CONTEXT, "attempt", "(result i32)"),
    import("$trigger", CONTEXT, "trigger", "(param i32)"),
    import("$due_at", CONTEXT, "due-at", "(param i32)"),
    import("$metadata", CONTEXT, "metadata", "(param i32)"),
    import("$time_left_ms", CONTEXT, "time-left-ms", "(param i32)"),
    import("$report", PROGRESS, "report", "(param i32 i32 i32 f64)"),
    import("$emit", PROGRESS, "emit", "(param i32 i32 i32 i32)"),
    import("$cancelled", PROGRESS, "cancelled", "(result i32)"),
    import("$sleep", PROGRESS, "sleep", "(param i32) (result i32)"),
    import("$load", CHECKPOINT, "load", "(param i32 i32 i32)"),
    import("$save", CHECKPOINT, "save", "(param i32 i32 i32 i32 i32)"),
    import("$remove", CHECKPOINT, "remove", "(param i32 i32)"),
    import("$names", CHECKPOINT, "names", "(param i32)"),
    import("$ask", APPROVAL, "ask", "(param i32 i32 i32 i32 i32)"),
    import("$find", APPROVAL, "find", "(param i32 i32 i32)"),
    import("$get_stdin", "wasi:cli/stdin@0.2.6", "get-stdin", "(result i32)"),
    import("$get_stdout", "wasi:cli/stdout@0.2.6", "get-stdout", "(result i32)"),
    import("$get_stderr", "wasi:cli/stderr@0.2.6", "get-stderr", "(result i32)"),
    import("$get_arguments", "wasi:cli/environment@0.2.6", "get-arguments", "(param i32)"),
    import("$get_environment", "wasi:cli/environment@0.2.6", "get-environment", "(param i32)"),
    import("$exit_with_code", "wasi:cli/exit@0.2.12", "exit-with-code", "(param i32)"),
    import("$subscribe_duration", "wasi:clocks/monotonic-clock@0.2.6", "subscribe-duration", "(param i64) (result i32)"),
    import("$block", "wasi:io/poll@0.2.6", "[method]pollable.block", "(param i32)"),
    import("$get_random_bytes", "wasi:random/random@0.2.6", "get-random-bytes", "(param i64 i32)"),
    import("$get_directories", "wasi:filesystem/preopens@0.2.6", "get-directories", "(param i32)"),
    import("$read_stream", FILES, "[method]descriptor.read-via-stream", "(param i32 i64 i32)"),
    import("$write_stream", FILES, "[method]descriptor.write-via-stream", "(param i32 i64 i32)"),
    import("$append_stream", FILES, "[method]descriptor.append-via-stream", "(param i32 i32)"),
    import("$set_size", FILES, "[method]descriptor.set-size", "(param i32 i64 i32)"),
    import("$read", FILES, "[method]descriptor.read", "(param i32 i64 i64 i32)"),
    import("$write", FILES, "[method]descriptor.write", "(param i32 i32 i32 i64 i32)"),
    import("$create_directory_at", FILES, "[method]descriptor.create-directory-at", "(param i32 i32 i32 i32)"),
    import("$link_at", FILES, "[method]descriptor.link-at", "(param i32 i32 i32 i32 i32 i32 i32 i32)"),
    import("$open_at", FILES, "[method]descriptor.open-at", "(param i32 i32 i32 i32 i32 i32 i32)"),
    import("$rename_at", FILES, "[method]descriptor.rename-at", "(param i32 i32 i32 i32 i32 i32 i32)"),
    import("$symlink_at", FILES, "[method]descriptor.symlink-at", "(param i32 i32 i32 i32 i32 i32)"),
    import("$unlink_file_at", FILES, "[method]descriptor.unlink-file-at", "(param i32 i32 i32 i32)"),
    import("$drop_descriptor", FILES, "[resource-drop]descriptor", "(param i32)"),
    import("$drop_input", STREAMS, "[resource-drop]input-stream", "(param i32)"),
    import("$filesystem_error_code", FILES, "filesystem-error-code", "(param i32 i32)"),
    import("$new_fields", HTTP, "[constructor]fields", "(result i32)"),
    import("$append_field", HTTP, "[method]fields.append", "(param i32 i32 i32 i32 i32 i32)"),
    import("$new_request", HTTP, "[constructor]outgoing-request", "(param i32) (result i32)"),
    import("$set_method", HTTP, "[method]outgoing-request.set-method", "(param i32 i32 i32 i32) (result i32)"),
    import("$set_scheme", HTTP, "[method]outgoing-request.set-scheme", "(param i32 i32 i32 i32 i32) (result i32)"),
    import("$set_authority", HTTP, "[method]outgoing-request.set-authority", "(param i32 i32 i32 i32) (result i32)"),
    import("$set_path", HTTP, "[method]outgoing-request.set-path-with-query", "(param i32 i32 i32 i32) (result i32)"),
    import("$request_body", HTTP, "[method]outgoing-request.body", "(param i32 i32)"),
    import("$body_stream", HTTP, "[method]outgoing-body.write", "(param i32 i32)"),
    import("$drop_output", STREAMS, "[resource-drop]output-stream", "(param i32)"),
    import("$finish_body", HTTP, "[static]outgoing-body.finish", "(param i32 i32 i32 i32)"),
    import("$handle", "wasi:http/outgoing-handler@0.2.6", "handle", "(param i32 i32 i32 i32)"),
    import("$subscribe_response", HTTP, "[method]future-incoming-response.subscribe", "(param i32) (result i32)"),
    import("$get_response", HTTP, "[method]future-incoming-response.get", "(param i32 i32)"),
    import("$status", HTTP, "[method]incoming-response.status", "(param i32) (result i32)"),
    import("$consume", HTTP, "[method]incoming-response.consume", "(param i32 i32)"),
    import("$answer_stream", HTTP, "[method]incoming-body.stream", "(param i32 i32)"),
    import("$http_error_code", HTTP, "http-error-code", "(param i32 i32)"),
    import("$blocking_read", STREAMS, "[method]input-stream.blocking-read", "(param i32 i64 i32)"),
    import("$subscribe_output", STREAMS, "[method]output-stream.subscribe", "(param i32) (result i32)"),
    import("$blocking_write", STREAMS, "[method]output-stream.blocking-write-and-flush", "(param i32 i32 i32 i32)"),
    import("$blocking_zeroes", STREAMS, "[method]output-stream.blocking-write-zeroes-and-flush", "(param i32 i64 i32)"),
    import("$blocking_splice", STREAMS, "[method]output-stream.blocking-splice", "(param i32 i32 i64 i32)"),
    import("$missing", "sandclock:fixture/missing", "call", ""),
    import("$instance_network", "wasi:sockets/instance-network@0.2.6", "instance-network", "(result i32)"),
    import("$create_tcp_socket", "wasi:sockets/tcp-create-socket@0.2.6", "create-tcp-socket", "(param i32 i32)"),
    import(
        "$start_connect",
        "wasi:sockets/tcp@0.2.6",
        "[method]tcp-socket.start-connect",
        "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)",
    ),
    import("$resolve_addresses", "wasi:sockets/ip-name-lookup@0.2.6", "resolve-addresses", "(param i32 i32 i32 i32)"),
];

/// Memory that is only ever taken: a guest lives for one attempt.
pub const ALLOCATOR: &str = r#"
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
                            (i32.sub (i32.const 0) (local.get $align))))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (block $enough (loop $more
      (br_if $enough (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
      (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
      (br $more)))
    (if (local.get $old_size) (then (memory.copy (local.get $at) (local.get $old) (local.get $old_size))))
    (local.get $at))"#;

/// Functions that fixtures share, each added where its name occurs.
///
/// The result of `run` lies at 16: ok or err @0; of ok the text @4; of err the case @4, and at 8 the text, of a retry followed by
/// the option of a delay @16. The file helpers give `-1 - code` for an error code of WASI's.
pub const HELPERS: &[(&str, &str)] = &[
    (
        "$ok",
        r#"
  (func $ok (param $text i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $text))
    (i32.store (i32.const 24) (local.get $len))
    (i32.const 16))"#,
    ),
    (
        "$err", // $case: 1 permanent, 2 cancelled
        r#"
  (func $err (param $case i32) (param $text i32) (param $len i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 1))
    (i32.store8 (i32.const 20) (local.get $case))
    (i32.store (i32.const 24) (local.get $text))
    (i32.store (i32.const 28) (local.get $len))
    (i32.const 16))"#,
    ),
    (
        "$retry", // $after_ms: negative for none
        r#"
  (func $retry (param $text i32) (param $len i32) (param $after_ms i32) (result i32)
    (i32.store8 (i32.const 32) (i32.ge_s (local.get $after_ms) (i32.const 0)))
    (i32.store (i32.const 36) (local.get $after_ms))
    (call $err (i32.const 0) (local.get $text) (local.get $len)))"#,
    ),
    (
        "$put", // adds a text to the output buffer
        r#"
  (global $out (mut i32) (i32.const 65536))
  (func $put (param $text i32) (param $len i32)
    (memory.copy (global.get $out) (local.get $text) (local.get $len))
    (global.set $out (i32.add (global.get $out) (local.get $len))))"#,
    ),
    (
        "$put_number", // adds a signed number in decimal
        r#"
  (func $put_number (param $n i64)
    (if (i64.lt_s (local.get $n) (i64.const 0))
      (then (call $put @"-") (local.set $n (i64.sub (i64.const 0) (local.get $n)))))
    (if (i64.ge_u (local.get $n) (i64.const 10)) (then (call $put_number (i64.div_u (local.get $n) (i64.const 10)))))
    (i32.store8 (global.get $out) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))"#,
    ),
    (
        "$ok_out", // the output buffer is the answer
        r#"
  (func $ok_out (result i32)
    (call $ok (i32.const 65536) (i32.sub (global.get $out) (i32.const 65536))))"#,
    ),
    (
        "$told", // the answer is "N CODE": how much was done, and the code of the error that ended it, or "none"
        r#"
  (func $told (param $n i64) (param $code i32) (result i32)
    (call $put_number (local.get $n))
    (call $put @" ")
    (call $put_code (local.get $code))
    (call $ok_out))"#,
    ),
    (
        "$put_code",
        r#"
  (func $put_code (param $code i32)
    (if (i32.ge_s (local.get $code) (i32.const 0))
      (then (call $put @"none"))
      (else (call $put_number (i64.extend_i32_s (i32.sub (i32.const -1) (local.get $code)))))))"#,
    ),
    (
        "$write_text", // writes a text to an output stream in pieces it accepts; -1 on an error
        r#"
  (func $write_text (param $stream i32) (param $text i32) (param $len i32) (result i32)
    (local $piece i32)
    (loop $more (if (local.get $len) (then
      (local.set $piece (select (local.get $len) (i32.const 4096) (i32.lt_u (local.get $len) (i32.const 4096))))
      (call $blocking_write (local.get $stream) (local.get $text) (local.get $piece) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then (return (i32.const -1))))
      (local.set $text (i32.add (local.get $text) (local.get $piece)))
      (local.set $len (i32.sub (local.get $len) (local.get $piece)))
      (br $more))))
    (i32.const 0))"#,
    ),
    (
        "$result8", // of a result<_, error-code> at 256
        r#"
  (func $result8 (result i32)
    (if (result i32) (i32.load8_u (i32.const 256)) (then (i32.sub (i32.const -1) (i32.load8_u (i32.const 257)))) (else (i32.const 0))))"#,
    ),
    (
        "$result32", // of a result<handle, error-code> at 256
        r#"
  (func $result32 (result i32)
    (if (result i32) (i32.load8_u (i32.const 256)) (then (i32.sub (i32.const -1) (i32.load8_u (i32.const 260)))) (else (i32.load (i32.const 260)))))"#,
    ),
    (
        "$result64", // of a result<_, error-code> at 256 whose other side is aligned to 8
        r#"
  (func $result64 (result i32)
    (if (result i32) (i32.load8_u (i32.const 256)) (then (i32.sub (i32.const -1) (i32.load8_u (i32.const 264)))) (else (i32.const 0))))"#,
    ),
    (
        "$stream_result", // of a result<_, stream-error> at 256, whose error comes from a file
        r#"
  (func $stream_result (param $payload i32) (result i32)
    (if (i32.eqz (i32.load8_u (i32.const 256))) (then (return (i32.const 0))))
    (if (i32.load8_u (local.get $payload)) (then (return (i32.const -1000))))
    (call $filesystem_error_code (i32.load (i32.add (local.get $payload) (i32.const 4))) (i32.const 320))
    (if (result i32) (i32.load8_u (i32.const 320)) (then (i32.sub (i32.const -1) (i32.load8_u (i32.const 321)))) (else (i32.const -1001))))"#,
    ),
    (
        "$root", // the workspace's descriptor, asked for once
        r#"
  (global $root_fd (mut i32) (i32.const -1))
  (func $root (result i32)
    (if (i32.eq (global.get $root_fd) (i32.const -1)) (then
      (call $get_directories (i32.const 256))
      (if (i32.eqz (i32.load (i32.const 260))) (then unreachable))
      (global.set $root_fd (i32.load (i32.load (i32.const 256))))))
    (global.get $root_fd))"#,
    ),
    (
        "$create", // opens a path of the workspace for reading and writing, made when it is not there
        r#"
  (func $create (param $path i32) (param $len i32) (result i32)
    (call $open_at (call $root) (i32.const 1) (local.get $path) (local.get $len) (i32.const 1) (i32.const 3) (i32.const 256))
    (call $result32))"#,
    ),
    (
        "$open", // opens a path of the workspace for reading
        r#"
  (func $open (param $path i32) (param $len i32) (result i32)
    (call $open_at (call $root) (i32.const 1) (local.get $path) (local.get $len) (i32.const 0) (i32.const 1) (i32.const 256))
    (call $result32))"#,
    ),
    (
        "$name", // puts a file name of a letter and a number at 512, and gives its length
        r#"
  (func $name (param $letter i32) (param $n i64) (result i32)
    (local $end i32) (local $rest i64)
    (i32.store8 (i32.const 512) (local.get $letter))
    (local.set $end (i32.const 513))
    (loop $digit
      (i32.store8 (local.get $end) (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
      (br_if $digit (i64.ne (local.get $n) (i64.const 0))))
    (i32.sub (local.get $end) (i32.const 512)))"#,
    ),
];
