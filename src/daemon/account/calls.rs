//! The calls of one attempt that are under way, and how long its guest goes on with them when a budget has nothing left.
//!
//! Invariant: a guest is stopped between its calls, never in one, unless it computes beside them for longer than it may.

use std::time::Duration;

use tokio::sync::watch;

use crate::sandbox::AttemptSignals;

/// How long a guest whose budget has nothing left may take to keep what the last call has given it; also, how much processor time it may take
/// while its calls are under way.
const TO_KEEP: Duration = Duration::from_secs(5);

/// The calls that are under way.
pub(super) struct Calls(watch::Sender<u64>);

impl Calls {
    /// None as yet.
    pub(super) fn none() -> Self {
        Calls(watch::Sender::new(0))
    }

    /// A call that may begin; it is over again unless it does.
    pub(super) fn one(&self) -> UnderWay<'_> {
        self.0.send_modify(|calls| *calls += 1);
        UnderWay { calls: self, begins: false }
    }

    /// One of those that began has ended.
    pub(super) fn end_one(&self) {
        self.0.send_modify(|calls| *calls = calls.saturating_sub(1));
    }

    /// Returns when none is under way and the guest had time to keep what the last one gave it. A guest that computes beside its calls has
    /// only so much of that.
    pub(super) async fn kept(&self, signals: &AttemptSignals) {
        let mut calls = self.0.subscribe();
        if *calls.borrow_and_update() == 0 {
            return;
        }
        let ended = async {
            let _ = calls.wait_for(|calls| *calls == 0).await;
            tokio::time::sleep(TO_KEEP).await;
        };
        tokio::select! {
            biased;
            () = ended => {}
            () = signals.cpu_taken(signals.cpu() + TO_KEEP) => {}
        }
    }
}

/// A call that may begin.
pub(super) struct UnderWay<'a> {
    calls: &'a Calls,
    begins: bool,
}

impl UnderWay<'_> {
    /// It begins: whoever carries it tells of its end.
    pub(super) fn begins(mut self) {
        self.begins = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.begins {
            self.calls.end_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::{Instant, timeout};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn who_has_no_call_under_way_has_nothing_to_keep() {
        let (calls, signals, began) = (Calls::none(), AttemptSignals::new(), Instant::now());
        drop(calls.one());
        timeout(HOUR, calls.kept(&signals)).await.expect("a call that did not begin is none");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_has_five_seconds_to_keep_what_its_last_call_gave_it() {
        let (calls, signals) = (Calls::none(), AttemptSignals::new());
        calls.one().begins();
        calls.one().begins();
        let mut kept = pin!(calls.kept(&signals));
        assert!(timeout(HOUR, &mut kept).await.is_err(), "a call was cut");
        calls.end_one();
        assert!(timeout(HOUR, &mut kept).await.is_err(), "the other call was cut");
        calls.end_one();
        let ended = Instant::now();
        timeout(HOUR, kept).await.expect("it is never stopped");
        assert_eq!(ended.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_computes_beside_its_calls_has_five_seconds_of_processor_time() {
        let (calls, signals) = (Calls::none(), AttemptSignals::new());
        signals.note_cpu(Duration::from_secs(60));
        calls.one().begins();
        let mut kept = pin!(calls.kept(&signals));
        for spent in [60_000, 64_999] {
            signals.note_cpu(Duration::from_millis(spent));
            assert!(timeout(HOUR, &mut kept).await.is_err(), "it was stopped after {spent} ms");
        }
        signals.note_cpu(Duration::from_secs(65));
        let spent = Instant::now();
        timeout(HOUR, kept).await.expect("it is never stopped");
        assert_eq!(spent.elapsed(), Duration::ZERO);
    }
}
