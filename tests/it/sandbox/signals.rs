//! Cancels, leases, time limits and stops, for guests that wait and guests that compute.

use super::*;
use crate::guest::{files, hostile, plain};
use sandclock::sandbox::{Stop, boottime_nanos};

#[tokio::test]
async fn a_cancel_wakes_a_sleeper_and_is_seen_by_one_who_asks() {
    let report = Try::new(&plain::sleeper(3_600_000)).run_and(AttemptSignals::ask_cancel).await;
    assert_eq!(report.ended, Ended::Cancelled { message: "woken by a cancel".to_owned() });
    let report = Try::new(&plain::polls_cancel()).run_and(AttemptSignals::ask_cancel).await;
    assert_eq!(report.ended, Ended::Cancelled { message: "saw the cancel".to_owned() });
}

#[tokio::test]
async fn a_sleep_ends_by_itself() {
    assert_eq!(answer(&Try::new(&plain::sleeper(1)).run().await), "slept");
}

#[tokio::test]
async fn a_guest_that_ignores_a_cancel_is_stopped() {
    let report = Try::new(&plain::ignores_cancel())
        .run_and(|signals| {
            signals.ask_cancel();
            signals.trap_now(Stop::CancelGraceOver);
        })
        .await;
    assert_eq!(report.ended, Ended::Stopped(Stop::CancelGraceOver));
}

#[tokio::test]
async fn every_stop_ends_a_guest_that_computes_and_one_that_waits() {
    for guest in [hostile::spin(), hostile::blocked(), plain::sleeper(3_600_000)] {
        for stop in [Stop::LeaseLost, Stop::ShuttingDown] {
            let report = Try::new(&guest).run_and(|signals| signals.trap_now(stop)).await;
            assert_eq!(report.ended, Ended::Stopped(stop));
        }
        let report = Try::new(&guest).run_and(|signals| signals.set_lease_end(boottime_nanos() + 20_000_000)).await;
        assert_eq!(report.ended, Ended::Stopped(Stop::LeaseLost));
    }
}

#[tokio::test]
async fn a_renewed_lease_lets_the_guest_go_on() {
    let attempt = Try::new(&plain::sleeper(100));
    attempt.signals.set_lease_end(boottime_nanos() + 40_000_000);
    let report = attempt.run_and(|signals| signals.set_lease_end(boottime_nanos() + 60_000_000_000)).await;
    assert_eq!(answer(&report), "slept");
}

#[tokio::test]
async fn the_time_limit_covers_everything_that_a_guest_can_do() {
    let guests = [
        hostile::spin(),
        hostile::startspin(),
        hostile::postspin(),
        hostile::reallocspin(),
        hostile::blocked(),
        hostile::logflood(None),
        hostile::progressflood(None),
        plain::sleeper(3_600_000),
    ];
    for guest in guests {
        let report = Try::new(&guest).within(Duration::from_millis(60)).run().await;
        assert_eq!(report.ended, Ended::TimedOut);
    }
}

#[tokio::test]
async fn nothing_is_written_after_the_lease_is_lost() {
    let attempt = Try::new(&files::churn(u32::MAX));
    attempt.signals.trap_now(Stop::LeaseLost);
    let report = attempt.run().await;
    assert_eq!(report.ended, Ended::Stopped(Stop::LeaseLost));
    assert_eq!(std::fs::read_dir(attempt.folder()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_writer_is_stopped_between_two_writes() {
    let attempt = Try::new(&files::churn(u32::MAX));
    attempt.signals.set_lease_end(boottime_nanos() + 50_000_000);
    let report = attempt.run().await;
    assert_eq!(report.ended, Ended::Stopped(Stop::LeaseLost));
    let size = |_| std::fs::metadata(attempt.folder().join("big")).unwrap().len();
    // The report comes when no write is under way any more.
    assert_eq!(size(0), size(1));
    assert_eq!(report.usage.workspace.files, 1);
}

#[tokio::test]
async fn dropping_the_attempt_ends_the_guest_and_frees_its_instance() {
    let settings = SandboxSettings { max_instances: 1, ..SandboxSettings::default() };
    let sandbox = Sandbox::new(&settings).unwrap();
    let spinning = Try::with(&sandbox, &hostile::spin());
    {
        let run = spinning.run_in(&sandbox);
        tokio::pin!(run);
        tokio::select! {
            report = &mut run => panic!("ended: {report:?}"),
            () = spinning.host.reported.notified() => {}
        }
    }
    assert_eq!(answer(&Try::with(&sandbox, &plain::ok()).run_in(&sandbox).await), "hello from wat");
}

#[tokio::test]
async fn an_attempt_for_which_there_is_no_room_is_handed_back() {
    let settings = SandboxSettings { max_instances: 1, capacity_wait: Duration::from_millis(20), ..SandboxSettings::default() };
    let sandbox = Sandbox::new(&settings).unwrap();
    let first = Try::with(&sandbox, &plain::sleeper(3_600_000));
    let running = first.run_in(&sandbox);
    tokio::pin!(running);
    tokio::select! {
        report = &mut running => panic!("ended: {report:?}"),
        () = first.host.reported.notified() => {}
    }
    assert_eq!(Try::with(&sandbox, &plain::ok()).run_in(&sandbox).await.ended, Ended::Stopped(Stop::NoCapacity));
    first.signals.ask_cancel();
    running.await;
}

#[tokio::test]
async fn a_sandbox_that_is_dropped_takes_its_guests_with_it() {
    let sandbox = Sandbox::new(&SandboxSettings { guest_threads: 1, ..SandboxSettings::default() }).unwrap();
    let spinning = Try::with(&sandbox, &hostile::spin());
    let sandbox = Arc::new(sandbox);
    let inner = Arc::clone(&sandbox);
    let host = Arc::clone(&spinning.host);
    let run = tokio::spawn(async move { spinning.run_in(&inner).await });
    host.reported.notified().await;
    run.abort();
    let _ = run.await;
    drop(Arc::into_inner(sandbox).unwrap());
}

#[tokio::test]
async fn many_guests_that_compute_leave_room_for_one_that_answers() {
    let sandbox = Sandbox::new(&SandboxSettings { max_instances: 8, guest_threads: 1, ..SandboxSettings::default() }).unwrap();
    let spinning: Vec<Try> = (0..6).map(|_| Try::with(&sandbox, &hostile::spin())).collect();
    let spins = futures::future::join_all(spinning.iter().map(|attempt| attempt.run_in(&sandbox)));
    let answering = async {
        for attempt in &spinning {
            attempt.host.reported.notified().await;
        }
        let report = Try::with(&sandbox, &plain::ok()).run_in(&sandbox).await;
        spinning.iter().for_each(|attempt| attempt.signals.trap_now(Stop::ShuttingDown));
        report
    };
    let (ended, report) = tokio::join!(spins, answering);
    assert_eq!(answer(&report), "hello from wat");
    assert!(ended.iter().all(|report| report.ended == Ended::Stopped(Stop::ShuttingDown)));
}
