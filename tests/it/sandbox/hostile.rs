//! One guest for each limit and each abuse: it harms only its own attempt, which says what it ran into.

use super::*;
use crate::guest::{command, hostile};

const PAGE: u64 = 65_536;

#[tokio::test]
async fn traps_end_the_attempt_and_name_their_cause_and_place() {
    let cases = [
        (hostile::trap(), "unreachable"),
        (hostile::div0(), "integer divide by zero"),
        (hostile::oob(), "out of bounds memory access"),
        (hostile::stack(), "call stack exhausted"),
    ];
    for (guest, cause) in cases {
        let report = Try::new(&guest).run().await;
        let (kind, message) = failure(&report);
        assert_eq!(kind, ErrorKind::Trap);
        assert!(message.starts_with("the guest trapped: ") && message.contains(cause), "{message}");
        assert!(message.contains(" in ") && message.len() < 2_000, "{message}");
    }
    let report = Try::new(&hostile::stack()).run().await;
    assert!(failure(&report).1.contains("deeper < "), "{report:?}");
}

#[tokio::test]
async fn memory_is_limited_over_all_memories_together() {
    for guest in [hostile::membomb(), hostile::memsum(4)] {
        let report = Try::new(&guest).limited(|limits| limits.memory_bytes = 64 * PAGE).run().await;
        let (kind, message) = failure(&report);
        assert_eq!(kind, ErrorKind::Memory);
        assert!(message.contains("`memory_bytes` of 4194304"), "{message}");
        assert!(report.usage.peak_memory_bytes <= 64 * PAGE);
        assert!(report.usage.peak_memory_bytes > 48 * PAGE);
    }
}

#[tokio::test]
async fn memory_that_a_guest_declares_counts_too() {
    let report = Try::new(&hostile::trap()).limited(|limits| limits.memory_bytes = PAGE).run().await;
    assert_eq!(failure(&report).0, ErrorKind::Memory);
}

#[tokio::test]
async fn table_elements_are_limited() {
    let report = Try::new(&hostile::tablebomb()).limited(|limits| limits.table_elements = 10_000).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::Memory);
    assert!(message.contains("`table_elements` of 10000"), "{message}");
}

#[tokio::test]
async fn an_answer_is_limited_before_and_after_it_is_copied() {
    let report = Try::new(&hostile::huge(64)).run().await;
    assert_eq!(failure(&report).0, ErrorKind::Output);
    assert!(failure(&report).1.contains("output_bytes"), "{report:?}");
    let report = Try::new(&hostile::huge(2)).run().await;
    assert_eq!(failure(&report).0, ErrorKind::Output);
    let report = Try::new(&hostile::huge(2)).limited(|limits| limits.output_bytes = 2 << 20).run().await;
    assert_eq!(answer(&report).len(), 2 << 20);
}

#[tokio::test]
async fn an_answer_that_is_none_is_malformed() {
    for guest in [hostile::badutf8(), hostile::badptr(), hostile::badcase(), hostile::badrealloc()] {
        let report = Try::new(&guest).run().await;
        let (kind, message) = failure(&report);
        assert_eq!(kind, ErrorKind::Output, "{message}");
        assert!(message.contains("malformed"), "{message}");
    }
    let report = Try::new(&hostile::badreport()).run().await;
    assert_eq!(failure(&report).0, ErrorKind::Trap, "{report:?}");
}

#[tokio::test]
async fn logs_beyond_their_limit_are_dropped_and_counted() {
    let attempt = Try::new(&hostile::logflood(Some(10))).limited(|limits| limits.log_bytes = 10_000);
    let report = attempt.run().await;
    assert_eq!(answer(&report), "10 none");
    assert_eq!(attempt.host.text(LogStream::Stdout).len(), 10_000);
    assert_eq!(report.usage.log_bytes_dropped, 10 * 4096 - 10_000);
    let attempt = Try::new(&command::command_flood()).limited(|limits| limits.log_bytes = 100);
    attempt.run().await;
    assert_eq!(attempt.host.text(LogStream::Stdout).len(), 100);
}

#[tokio::test]
async fn events_beyond_their_number_or_size_are_dropped_and_counted() {
    let attempt = Try::new(&hostile::progressflood(Some(500))).limited(|limits| limits.events = 7);
    let report = attempt.run().await;
    assert_eq!((answer(&report), attempt.host.shown().len(), report.usage.events_dropped), ("500 none", 7, 493));
    let attempt = Try::new(&hostile::emitflood(Some(50))).limited(|limits| limits.event_bytes = 1023);
    let report = attempt.run().await;
    assert_eq!((answer(&report), attempt.host.shown().len(), report.usage.events_dropped), ("50 none", 0, 50));
}

#[tokio::test]
async fn a_fraction_is_a_number_from_0_to_1_or_none() {
    let attempt = Try::new(&hostile::nanprogress());
    attempt.run().await;
    let fractions: Vec<Option<f64>> = attempt
        .host
        .shown()
        .into_iter()
        .map(|shown| match shown {
            Shown::Report(_, fraction) => fraction,
            Shown::Event(..) => panic!("{shown:?}"),
        })
        .collect();
    assert_eq!(fractions, [None, None, None, Some(0.0), Some(1.0)]);
}

#[tokio::test]
async fn host_calls_are_limited() {
    let report = Try::new(&hostile::progressflood(None)).limited(|limits| limits.host_calls = 1_000).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::HostCalls);
    assert!(message.contains("`host_calls`") && message.contains("1000"), "{message}");
    assert_eq!(report.usage.host_calls, 1_001);
}

#[tokio::test]
async fn handles_are_limited() {
    let report = Try::new(&hostile::handleflood()).limited(|limits| limits.handles = 100).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::HostCalls, "{message}");
    assert!(message.contains("`handles` of 100"), "{message}");
}

#[tokio::test]
async fn randomness_is_given_in_small_pieces() {
    let report = Try::new(&hostile::randomflood()).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::Trap);
    assert!(message.contains("exceeds limit"), "{message}");
}

#[tokio::test]
async fn one_host_call_carries_only_so_much() {
    // 64 MiB of text in one report.
    let guest = crate::guest::agent(
        r#"(if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1)) (then unreachable))
        (memory.fill (i32.const 131072) (i32.const 97) (i32.const 67108864))
        (call $report (i32.const 131072) (i32.const 67108864) (i32.const 0) (f64.const 0)) (call $ok @"done")"#,
        "",
    );
    let report = Try::new(&guest).run().await;
    assert_eq!(failure(&report).0, ErrorKind::HostCalls, "{report:?}");
}

#[tokio::test]
async fn there_is_no_network() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let report = Try::new(&hostile::network(server.local_addr().unwrap().port())).run().await;
    let told = answer(&report);
    assert!(!told.contains("connect none") && !told.contains("resolve none"), "{told}");
    assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_hostile_guest_leaves_its_neighbours_alone() {
    let hostile: Vec<Try> = hostile::ALL
        .iter()
        .map(|(_, guest)| Try::new(&guest()).within(Duration::from_millis(200)).limited(|limits| limits.memory_bytes = 32 << 20))
        .collect();
    let good: Vec<Try> = (0..10).map(|_| Try::new(&crate::guest::plain::sleeper(100))).collect();
    let hostile = futures::future::join_all(hostile.iter().map(Try::run));
    let good = futures::future::join_all(good.iter().map(Try::run));
    let (_, reports) = tokio::join!(hostile, good);
    assert!(reports.iter().all(|report| answer(report) == "slept"));
}
