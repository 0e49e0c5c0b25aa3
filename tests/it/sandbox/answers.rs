//! Guests that behave, in both shapes, and components that are no agents.

use super::*;
use crate::guest::{command, plain};
use sandclock::sandbox::{PrepareError, Shape};

#[tokio::test]
async fn an_answer_is_the_result_and_the_attempt_is_measured() {
    let attempt = Try::new(&plain::echo());
    let report = attempt.run().await;
    assert_eq!(answer(&report), "the query");
    assert!(report.usage.peak_memory_bytes >= 131_072, "{:?}", report.usage);
    assert!(report.usage.cpu.unwrap() > Duration::ZERO && report.usage.wall > Duration::ZERO);
}

#[tokio::test]
async fn the_context_is_the_attempt_s() {
    let mut attempt = Try::new(&plain::context());
    attempt.spec.context.attempt = 3;
    attempt.spec.context.due_at = Some("2026-11-22T05:00:00Z".to_owned());
    attempt.spec.context.metadata = r#"{"a":1}"#.to_owned();
    let report = attempt.run().await;
    let lines: Vec<&str> = answer(&report).lines().collect();
    let [run, task, agent, session, number, trigger, due, metadata, left] = lines[..] else { panic!("{lines:?}") };
    assert_eq!([run, task, agent, session], ["run_1", "task", "agent", "background:agent:task"]);
    assert_eq!([number, trigger, due, metadata], ["3", "manual", "2026-11-22T05:00:00Z", r#"{"a":1}"#]);
    assert!((1..=60_000).contains(&left.parse().unwrap()), "{left}");

    attempt.spec.time_limit = None;
    attempt.spec.context.due_at = None;
    let report = attempt.run().await;
    assert!(answer(&report).ends_with("none") && answer(&report).contains("manual\nnone\n"));
}

#[tokio::test]
async fn failures_keep_their_kind_message_and_delay() {
    let report = Try::new(&plain::retryable(Some(250))).run().await;
    let wanted =
        Ended::Failed { kind: ErrorKind::GuestRetryable, message: "try again later".to_owned(), after: Some(Duration::from_millis(250)) };
    assert_eq!(report.ended, wanted);
    let report = Try::new(&plain::permanent()).run().await;
    assert_eq!(failure(&report), (ErrorKind::GuestPermanent, "cannot be done"));
}

#[tokio::test]
async fn a_guest_that_was_not_asked_to_stop_is_not_cancelled() {
    let report = Try::new(&plain::cancelled()).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::GuestPermanent);
    assert!(message.contains("nobody asked") && message.contains("stopped as asked"), "{message}");
}

#[tokio::test]
async fn reports_events_and_logs_reach_the_host_in_order() {
    let attempt = Try::new(&plain::progress());
    attempt.run().await;
    let report = |text: &str, part| Shown::Report(text.to_owned(), Some(part));
    assert_eq!(attempt.host.shown(), [report("half", 0.5), Shown::Event("found".to_owned(), "\"x\"".to_owned()), report("all", 1.0)]);
    let attempt = Try::new(&plain::logs());
    assert_eq!(answer(&attempt.run().await), "logged");
    assert_eq!(attempt.host.text(LogStream::Stdout), "to stdout\n");
    assert_eq!(attempt.host.text(LogStream::Stderr), "to stderr\n");
}

#[tokio::test]
async fn interfaces_that_a_host_does_not_serve_end_the_attempt_with_a_sentence() {
    for (guest, what) in [(plain::checkpoints(1), "checkpoints"), (plain::approval(), "approvals")] {
        let report = Try::new(&guest).run().await;
        let sentence = format!("{what} are not served by this version of sandclock");
        assert_eq!(failure(&report), (ErrorKind::Unsupported, &*sentence));
    }
}

#[tokio::test]
async fn a_command_reads_its_query_and_its_output_is_the_result() {
    let attempt = Try::new(&command::command_echo());
    assert_eq!(attempt.guest.shape(), Shape::Command);
    assert_eq!(answer(&attempt.run().await), "the query");
    assert_eq!(attempt.host.text(LogStream::Stdout), "the query");
    assert_eq!(answer(&Try::new(&command::command_args()).run().await), "agent\nthe query\n");
}

#[tokio::test]
async fn a_command_fails_by_its_status() {
    let report = Try::new(&command::command_fail()).run().await;
    assert_eq!(failure(&report), (ErrorKind::GuestPermanent, "the command exited with status 1: no such thing"));
    let report = Try::new(&command::command_exit(75)).run().await;
    assert_eq!(failure(&report), (ErrorKind::GuestRetryable, "the command exited with status 75"));
    assert_eq!(answer(&Try::new(&command::command_exit(0)).run().await), "");
}

#[tokio::test]
async fn a_command_s_result_is_limited() {
    let report = Try::new(&command::command_flood()).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::Output);
    assert!(message.contains("output_bytes"), "{message}");
}

#[test]
fn what_is_no_agent_is_refused_with_a_sentence() {
    let refusal = |guest: &[u8]| SANDBOX.prepare(&Component::new(SANDBOX.engine(), guest).unwrap()).err().unwrap();
    assert_eq!(refusal(&command::no_entry()), PrepareError::NoEntry);
    assert!(matches!(refusal(&command::wrong_entry()), PrepareError::WrongEntry { export } if export == "sandclock:agent/entry@0.1.0"));
    let stranger = refusal(&command::stranger()).to_string();
    assert!(stranger.starts_with("the component cannot be linked") && stranger.contains("imports"), "{stranger}");
}

#[test]
fn a_prepared_component_tells_its_imports_and_exports() {
    let guest = prepare(&SANDBOX, &plain::progress());
    assert_eq!(guest.shape(), Shape::Agent);
    assert_eq!(guest.exports(), ["sandclock:agent/entry@0.1.0"]);
    assert!(guest.imports().contains(&"sandclock:agent/progress@0.1.0".to_owned()), "{:?}", guest.imports());
}

#[test]
fn what_toolchains_import_unasked_is_linked() {
    // Links, and is refused only after that, for the type of its entry.
    let guest = wat::parse_str(
        r#"(component
          (import "wasi:http/types@0.2.0" (instance (export "fields" (type (sub resource)))))
          (import "wasi:http/outgoing-handler@0.2.12" (instance))
          (import "wasi:sockets/tcp@0.2.6" (instance (export "tcp-socket" (type (sub resource)))))
          (import "wasi:cli/terminal-stdout@0.2.3" (instance))
          (import "wasi:filesystem/types@0.2.9" (instance (export "descriptor" (type (sub resource)))))
          (core module $m (func (export "run") (result i32) (i32.const 1)))
          (core instance $i (instantiate $m))
          (func $run (result u32) (canon lift (core func $i "run")))
          (instance $entry (export "run" (func $run)))
          (export "sandclock:agent/entry@0.1.0" (instance $entry)))"#,
    );
    let component = Component::new(SANDBOX.engine(), guest.unwrap()).unwrap();
    assert!(matches!(SANDBOX.prepare(&component).err(), Some(PrepareError::WrongEntry { .. })));
}
