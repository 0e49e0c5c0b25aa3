//! What a store may hold: records that something else wrote are refused or read, and whatever is read can be decided about.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use sandclock::domain::event::Event;
use sandclock::domain::id::{AgentId, RunId, WorkerId};
use sandclock::domain::lifecycle::{self, Decision, Draft, Outcome};
use sandclock::domain::policy::ErrorKind;
use sandclock::domain::run::{Attempt, Run, Slot, Trigger, Usage};
use sandclock::domain::schedule::{ScheduleState, SkipRange};
use sandclock::domain::task::Task;
use sandclock::domain::time::{Seconds, Timestamp};
use sandclock::store::{Kind, Lease, Put, Record, RecordId};
use serde_json::{Map, Value, json};

use super::json::changed;
use super::{cases, is_one_sentence};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn sample() -> (Run, Attempt) {
    let body =
        json!({"task_id": "t", "query": "q", "schedule": {"type": "manual"}, "retry_policy": {"max_retries": 2, "backoff": "exponential"}});
    let task = Task::parse(body, &AgentId::parse("agent").unwrap(), None, NOW).unwrap();
    let draft = Draft {
        by: None,
        run_id: RunId::parse("run_00000000000000000000000000000001").unwrap(),
        trigger: Trigger::Cron,
        due_at: Some(NOW),
        occurrence_id: Some("o".to_owned()),
        query: None,
        trigger_metadata: Map::from_iter([("by".to_owned(), json!("me"))]),
        default_timeout: Seconds::whole(60),
        default_cancel_grace: Seconds::whole(5),
        default_max_recoveries: 3,
    };
    let mut run = lifecycle::admit(&task, &Slot::default(), draft, NOW).decision.run;
    let attempt = lifecycle::claim(&mut run, "digest", &WorkerId::of("w", "1").unwrap(), 7, NOW, NOW..NOW).attempt;
    (run, attempt)
}

fn record(kind: Kind, body: &[u8]) -> Record {
    let lease = (kind == Kind::Run).then_some(Lease { fence: 7, owner: None, until: Some(NOW), heartbeat_at: None });
    Record { id: RecordId::new(kind, "k"), rev: 1, change: None, order: 1, due: None, body: body.to_vec().into(), lease }
}

fn is_refused_as_damaged<T>(kind: Kind, body: &[u8]) -> Result<Option<T>, TestCaseError>
where
    T: serde::de::DeserializeOwned,
{
    match record(kind, body).decode::<T>() {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            is_one_sentence(&error.to_string())?;
            Ok(None)
        }
    }
}

/// The fields of a run, hostile where they can be.
fn strange_run() -> impl Strategy<Value = Value> {
    let number = prop_oneof![Just(0), Just(1), Just(u32::MAX - 1), Just(u32::MAX), any::<u32>()];
    let time = prop_oneof![Just(Timestamp::MIN), Just(Timestamp::MAX), Just(NOW), any::<i64>().prop_map(Timestamp::from_micros)];
    let status = proptest::sample::select(vec!["queued", "claimed", "running", "retrying", "completed", "awaiting_approval", "skipped"]);
    let slot = proptest::sample::select(vec!["free", "holds", "waits"]);
    let span = prop_oneof![Just(0.0), Just(3_162_240_000.0), 0.0..1e9];
    (status, slot, number.clone(), number.clone(), number, time.clone(), time, span, any::<bool>()).prop_map(
        |(status, slot, attempt, failures, recoveries, queued, heartbeat, span, cancelled)| {
            let mut run = serde_json::to_value(sample().0).unwrap();
            run["status"] = json!(status);
            run["slot"] = json!(slot);
            (run["attempt"], run["failures"], run["recoveries"], run["max_attempts"]) =
                (json!(attempt), json!(failures), json!(recoveries), json!(failures));
            (run["queued_at"], run["heartbeat_at"]) = (json!(queued), json!(heartbeat));
            run["policy"]["retry"]["max_retries"] = json!(u32::MAX);
            run["policy"]["retry"]["initial_delay_seconds"] = json!(span);
            run["policy"]["retry"]["max_delay_seconds"] = json!(span);
            if cancelled {
                run["cancel_requested_at"] = json!(heartbeat);
            }
            run
        },
    )
}

fn still_reads(decision: &Decision) -> Result<(), TestCaseError> {
    let put = Put::run(&decision.run, NOW).unwrap();
    prop_assert_eq!(&record(Kind::Task, &put.body).decode::<Run>().unwrap(), &decision.run);
    for event in &decision.events {
        let written = serde_json::to_vec(event).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Event>(&written).unwrap(), event);
        prop_assert!(event.payload(&decision.run, 1).is_object());
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn damaged_records_are_refused(
        which in 0usize..6, run in changed(vec![serde_json::to_value(sample().0).unwrap()]), attempt in changed(vec![serde_json::to_value(sample().1).unwrap()]),
        cut in any::<Index>(), flip in any::<(Index, u8)>(),
    ) {
        let other = if which % 2 == 0 { &run } else { &attempt };
        let mut bytes = other.to_string().into_bytes();
        if which > 1 {
            let at = flip.0.index(bytes.len());
            bytes[at] = flip.1;
        }
        if which > 3 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(run) = is_refused_as_damaged::<Run>(Kind::Run, &bytes)? {
            let written = serde_json::to_vec(&run).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Run>(&written).unwrap(), run);
            prop_assert_eq!(record(Kind::Run, &bytes).decode_run().unwrap().lease_generation, 7);
        }
        is_refused_as_damaged::<Attempt>(Kind::Attempt, &bytes)?;
        is_refused_as_damaged::<Task>(Kind::Task, &bytes)?;
        is_refused_as_damaged::<ScheduleState>(Kind::Schedule, &bytes)?;
        is_refused_as_damaged::<SkipRange>(Kind::SkipRange, &bytes)?;
        is_refused_as_damaged::<Slot>(Kind::Slot, &bytes)?;
        is_refused_as_damaged::<Event>(Kind::Run, &bytes)?;
    }

    #[test]
    fn whatever_a_record_says_can_be_decided_about(
        body in strange_run(), now in any::<i64>(), fence in prop_oneof![Just(7u64), Just(u64::MAX)], after in any::<u64>(), chance in any::<f64>(),
    ) {
        let Ok(run) = record(Kind::Run, body.to_string().as_bytes()).decode_run() else { return Err(TestCaseError::fail(format!("{body}"))) };
        let (attempt, now) = (sample().1, Timestamp::from_micros(now));
        let failed = Outcome::Failed { kind: ErrorKind::Trap, message: "\u{0}é".repeat(5000), after: Some(Duration::from_secs(after)) };
        for outcome in [failed, Outcome::Completed("\u{0}é".repeat(600)), Outcome::TimedOut, Outcome::Cancelled("x".repeat(5000))] {
            if let Ok(decision) = lifecycle::finish(run.clone(), attempt.clone(), fence, outcome, Usage::default(), chance, now) {
                still_reads(&decision)?;
            }
        }
        let decided = [
            lifecycle::hand_back(run.clone(), attempt.clone(), fence, "why", None, now).ok(),
            lifecycle::lose(run.clone(), attempt.clone(), now),
            lifecycle::request_cancel(run.clone(), "api", None, now).ok(),
            lifecycle::resume(run.clone(), None, now).ok(),
            lifecycle::expire_parked(run.clone(), now),
            lifecycle::promote(&mut Slot::default(), run.clone(), now),
        ];
        decided.iter().flatten().try_for_each(still_reads)?;
        let mut claimed = run;
        let patch = lifecycle::claim(&mut claimed, "d", &WorkerId::of("w", "2").unwrap(), fence, now, now..now);
        prop_assert_eq!(patch.attempt.attempt_number, claimed.attempt);
        let _ = lifecycle::history_at_first_claim(&claimed, "d");
    }
}
