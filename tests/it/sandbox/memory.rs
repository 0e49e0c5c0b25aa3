//! What guests read of their configuration, keep and log, by every draft that there is of it.

use super::*;
use crate::guest::memory::{self as guests, CONFIGS, DRAFTS, Draft, LOGGINGS};
use sandclock::sandbox::memory::{BucketName, Changed, KeptValue, KeyPage, MemoryChange, MemoryRefused, Quota};
use sandclock::sandbox::{LogLevel, Stop};

#[tokio::test]
async fn every_draft_reads_the_same_configuration() {
    for interface in CONFIGS {
        let mut attempt = Try::new(&guests::config(interface));
        assert_eq!(answer(&attempt.run().await), "- 0", "{interface}");
        let values = [("greeting", "hello\0 é"), ("greetings", "no"), ("", "x")];
        attempt.spec.config = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(answer(&attempt.run().await), "hello\0 é 3", "{interface}");
    }
}

#[tokio::test]
async fn every_draft_logs_with_a_level_and_a_context() {
    for interface in LOGGINGS {
        let attempt = Try::new(&guests::logs(interface, 1));
        assert_eq!(answer(&attempt.run().await), "logged");
        let entry = |level, context: &str, message: &str| LogEntry { level, context: context.to_owned(), message: message.to_owned() };
        let wanted = [
            entry(LogLevel::Trace, "", "very\u{1b} fine"),
            entry(LogLevel::Warn, "db/pool", "two\nlines"),
            entry(LogLevel::Critical, "main", "the end"),
        ];
        assert_eq!(*attempt.host.entries.lock().unwrap(), wanted, "{interface}");
    }
}

#[tokio::test]
async fn log_lines_past_the_limit_are_dropped_and_counted() {
    let attempt = Try::new(&guests::logs(LOGGINGS[0], 100)).limited(|limits| limits.log_bytes = 60);
    let report = attempt.run().await;
    assert_eq!(answer(&report), "logged");
    // 11, 17 and 12 bytes with their ends, then 11, then a line that does not fit and nothing after it.
    assert_eq!(attempt.host.entries.lock().unwrap().len(), 4);
    assert_eq!(report.usage.log_bytes_dropped, 100 * 40 - 51, "{:?}", report.usage);
}

#[tokio::test]
async fn every_draft_keeps_reads_counts_and_lists() {
    for draft in DRAFTS {
        let attempt = Try::new(&guests::all_of(draft, "agent"));
        let report = attempt.run().await;
        let refusal = "a key has 1 to 256 bytes, and this one has 0|";
        assert_eq!(answer(&report), format!("-|kept|1|0|5|42|42|one,-,two,|3+0|0|{refusal}"), "{draft:?}");
        assert!(report.usage.host_calls >= 15, "{:?}", report.usage);
        // The same host keeps what was not deleted for whoever comes next.
        let again = attempt.run().await;
        assert!(answer(&again).starts_with("-|kept|1|0|47|84|"), "{draft:?} {:?}", again.ended);
    }
}

#[tokio::test]
async fn only_the_two_buckets_can_be_opened() {
    for draft in DRAFTS {
        for bucket in ["", "default", "session", "agent"] {
            assert!(answer(&Try::new(&guests::all_of(draft, bucket)).run().await).starts_with("-|kept|"), "{bucket}");
        }
        for bucket in ["other", "../agent", "agent/other", "session/x", "a/agent", "Agent"] {
            assert_eq!(answer(&Try::new(&guests::keeper(draft, bucket, "")).run().await), "error 0|", "{bucket}: no such store");
        }
    }
}

#[tokio::test]
async fn a_swap_fails_when_somebody_else_was_faster_and_then_may_be_tried_again() {
    for draft in [Draft::TwoOfOld, Draft::Two] {
        assert_eq!(answer(&Try::new(&guests::swaps(draft)).run().await), "-|11|other|0|mine|", "{draft:?}");
    }
}

#[tokio::test]
async fn a_bucket_s_quota_is_an_error_that_names_it() {
    let attempt = Try::new(&guests::fills(1000, 96)).limited(|limits| limits.keyvalue_keys = 7);
    assert_eq!(answer(&attempt.run().await), "the bucket would hold 8 keys, and its quota `keyvalue_keys` is 7; delete some|7");
    let attempt = Try::new(&guests::fills(1000, 96)).limited(|limits| limits.keyvalue_bytes = 1000);
    let told = "the bucket would hold 1100 bytes, and its quota `keyvalue_bytes` is 1000; delete something|10";
    assert_eq!(answer(&attempt.run().await), told);
    let attempt = Try::new(&guests::fills(1, 512 * 1024 + 1));
    assert!(answer(&attempt.run().await).starts_with("a value has at most 524288 bytes"));
    assert_eq!(answer(&Try::new(&guests::fills(3, 512 * 1024)).run().await), "3");
}

#[tokio::test]
async fn an_attempt_moves_no_more_bytes_than_its_limit() {
    let attempt = Try::new(&guests::fills(1000, 60_000)).limited(|limits| limits.keyvalue_traffic_bytes = 1_000_000);
    let report = attempt.run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::HostCalls);
    assert!(message.contains("`keyvalue_traffic_bytes`") && message.contains("1000000"), "{message}");
    // What is read counts as well.
    let attempt = Try::new(&guests::asks(100, 20_000)).limited(|limits| limits.keyvalue_traffic_bytes = 1_000_000);
    assert_eq!(failure(&attempt.run().await).0, ErrorKind::HostCalls);
}

#[tokio::test]
async fn one_call_gets_no_more_than_its_share() {
    assert_eq!(answer(&Try::new(&guests::asks(8, 500_000)).run().await), "");
    assert!(answer(&Try::new(&guests::asks(9, 500_000)).run().await).starts_with("the values have more than 4194304 bytes together"));
    assert!(answer(&Try::new(&guests::asks(1001, 1)).run().await).starts_with("one call is of at most 1000 keys"));
}

#[tokio::test]
async fn buckets_are_handles_and_calls_are_counted() {
    let report = Try::new(&guests::opens()).limited(|limits| limits.handles = 100).run().await;
    assert!(failure(&report).1.contains("`handles`"), "{:?}", report.ended);
    let attempt = Try::new(&guests::fills(1_000_000, 0)).limited(|limits| {
        limits.host_calls = 50;
        limits.keyvalue_keys = 1_000_000;
    });
    assert!(failure(&attempt.run().await).1.contains("`host_calls`"));
}

/// Keeps nothing, for the lease is lost.
#[derive(Default)]
struct Lost {
    shown: Recorder,
}

#[async_trait]
impl KeyValues for Lost {
    async fn get(&self, _: BucketName, keys: &[String]) -> Result<Vec<Option<KeptValue>>, MemoryRefused> {
        Ok(vec![None; keys.len()])
    }

    async fn has(&self, _: BucketName, _: &str) -> Result<bool, MemoryRefused> {
        Ok(false)
    }

    async fn keys(&self, _: BucketName, _: u64) -> Result<KeyPage, MemoryRefused> {
        Ok(KeyPage::default())
    }

    async fn change(&self, _: BucketName, _: MemoryChange, _: Quota) -> Result<Changed, MemoryRefused> {
        Err(MemoryRefused::LeaseLost)
    }
}

#[async_trait]
impl GuestHost for Lost {
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        Ok(())
    }

    fn report(&self, message: String, fraction: Option<f64>) {
        self.shown.report(message, fraction);
    }

    fn emit(&self, name: String, payload: String) {
        self.shown.emit(name, payload);
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        self.shown.log(stream, bytes);
    }

    fn log_entry(&self, entry: LogEntry) {
        self.shown.log_entry(entry);
    }

    fn key_values(&self) -> Option<&dyn KeyValues> {
        Some(self)
    }
}

#[tokio::test]
async fn a_lost_lease_ends_the_attempt_and_is_no_error_that_a_guest_could_pass_over() {
    for draft in DRAFTS {
        let attempt = Try::new(&guests::all_of(draft, "agent"));
        let host: Arc<Lost> = Arc::default();
        let report = SANDBOX.execute(&attempt.guest, attempt.spec.clone(), host, Arc::clone(&attempt.signals)).await;
        assert_eq!(report.ended, Ended::Stopped(Stop::LeaseLost), "{draft:?}");
    }
    let attempt = Try::new(&guests::swaps(Draft::Two));
    let host: Arc<Lost> = Arc::default();
    let report = SANDBOX.execute(&attempt.guest, attempt.spec.clone(), host, Arc::clone(&attempt.signals)).await;
    assert_eq!(report.ended, Ended::Stopped(Stop::LeaseLost));
}
