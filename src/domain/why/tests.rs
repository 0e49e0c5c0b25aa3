use std::time::Duration;

use serde_json::json;

use super::*;
use crate::domain::id::{AgentId, WorkerId};
use crate::domain::lifecycle::{self, Draft, Outcome};
use crate::domain::run::{Trigger, Usage};
use crate::domain::time::Seconds;

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
const HERE: Here = Here {
    is_stopping: false,
    executes: true,
    outage: None,
    max_running: 4,
    executing: 0,
    agent: AgentHere::Serves { max_running: None, running: 0 },
    waits: None,
};

fn after(seconds: u64) -> Timestamp {
    START + Duration::from_secs(seconds)
}

fn task(more: Value) -> Task {
    let mut body = json!({"task_id": "t", "query": "q", "schedule": {"type": "manual"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Task::parse(body, &AgentId::parse("agent").unwrap(), None, START).unwrap()
}

fn admitted(task: &Task, slot: &Slot, number: u32) -> lifecycle::Admission {
    let draft = Draft {
        by: None,
        run_id: RunId::parse(&format!("run_{number}")).unwrap(),
        trigger: Trigger::Manual,
        due_at: None,
        occurrence_id: None,
        query: None,
        trigger_metadata: Map::new(),
        default_timeout: Seconds::whole(3600),
        default_cancel_grace: Seconds::whole(5),
        default_max_recoveries: 3,
    };
    lifecycle::admit(task, slot, draft, START)
}

/// A run of a task whose overlap policy is of no account.
fn queued(more: Value) -> Run {
    admitted(&task(more), &Slot::default(), 1).decision.run
}

fn claimed(mut run: Run) -> (Run, Attempt) {
    let worker = WorkerId::of("worker_a", "1").unwrap();
    let fence = run.lease_generation + 1;
    let patch = lifecycle::claim(&mut run, "d", &worker, fence, START, START..after(30));
    (run, patch.attempt)
}

fn failed(run: Run, kind: ErrorKind, message: &str) -> (Run, Attempt) {
    let (run, attempt) = claimed(run);
    let fence = run.lease_generation;
    let outcome = match kind {
        ErrorKind::Timeout => Outcome::TimedOut,
        kind => Outcome::Failed { kind, message: message.to_owned(), after: None },
    };
    let decision = lifecycle::finish(run, attempt, fence, outcome, Usage::default(), 0.0, after(10)).unwrap();
    (decision.run, decision.attempt.unwrap())
}

fn situation<'a>(run: &'a Run, attempt: Option<&'a Attempt>) -> Situation<'a> {
    Situation {
        run,
        due: None,
        attempt,
        task: None,
        slot: None,
        ahead: None,
        reason: None,
        here: &HERE,
        now: after(10),
        lease_now: after(10),
    }
}

/// The answer, when it holds what every answer must hold.
fn told(known: &Situation<'_>) -> Why {
    let answer = why(known);
    let shown = serde_json::to_value(&answer).unwrap();
    let members = shown.to_string();
    for word in answer.sentence.split_whitespace().map(|word| word.trim_end_matches([',', ';', ':'])) {
        if Timestamp::parse(word).is_ok() {
            assert!(members.matches(&format!("\"{word}\"")).count() > 0, "{word} is no member of {shown:#}");
        }
    }
    assert!(!answer.sentence.contains('\n') && answer.sentence.len() < 1000, "{}", answer.sentence);
    assert_eq!((&shown["status"], &shown["task_id"]), (&json!(known.run.status), &json!("t")));
    answer
}

#[test]
fn a_retry_is_told_with_its_number_its_time_and_the_failure() {
    let policy = json!({"retry_policy": {"max_retries": 3, "initial_delay_seconds": 12, "jitter": 0}});
    let (run, attempt) = failed(queued(policy.clone()), ErrorKind::Trap, "it broke");
    let answer = told(&situation(&run, Some(&attempt)));
    assert_eq!(answer.sentence, format!("It waits for retry 1 of 3 at {}, because attempt 1 failed (trap): it broke", after(22)));
    assert_eq!((answer.code, &answer.members["retry"]["of"], &answer.members["due_at"]), (Code::Retry, &json!(3), &json!(after(22))));
    let over = Situation { now: after(22), ..situation(&run, Some(&attempt)) };
    let answer = told(&over);
    assert_eq!((answer.code, &answer.members["retry"]["number"]), (Code::Ready, &json!(1)));
    let (run, attempt) = failed(queued(policy), ErrorKind::Timeout, "");
    let answer = told(&situation(&run, Some(&attempt)));
    assert!(answer.sentence.contains("because attempt 1 met its time limit"), "{}", answer.sentence);
}

#[test]
fn the_store_s_time_of_a_start_beats_the_record_s() {
    let run = queued(json!({}));
    let answer = told(&Situation { due: Some(after(60)), ..situation(&run, None) });
    assert_eq!((answer.code, answer.sentence), (Code::DueLater, format!("It is due at {}", after(60))));
    assert_eq!(told(&situation(&run, None)).code, Code::Ready);
}

#[test]
fn each_lost_worker_is_counted() {
    let (run, attempt) = claimed(queued(json!({})));
    let first = lifecycle::lose(run, attempt, after(31)).unwrap();
    let answer = told(&Situation { now: after(31), ..situation(&first.run, first.attempt.as_ref()) });
    assert_eq!((answer.code, &answer.members["recoveries"]), (Code::Ready, &json!(1)), "the first is taken up at once");
    let (run, attempt) = claimed(first.run);
    let second = lifecycle::lose(run, attempt, after(31)).unwrap();
    let answer = told(&Situation { now: after(31), ..situation(&second.run, second.attempt.as_ref()) });
    let sentence =
        format!("Its worker worker_a.1 was lost in attempt 2, the 2nd loss in a row of at most 3, and it backs off until {}", after(36));
    assert_eq!((answer.code, answer.sentence), (Code::BacksOff, sentence));
}

#[test]
fn what_a_worker_lacks_is_told_in_the_order_in_which_it_matters() {
    let run = queued(json!({}));
    let serves = |max_running, running| AgentHere::Serves { max_running, running };
    for (here, code, part) in [
        (Here { is_stopping: true, executes: false, ..HERE }, Code::Stopping, "is stopping"),
        (Here { executes: false, agent: AgentHere::Unknown, ..HERE }, Code::NoWorker, "executes no runs"),
        (Here { outage: Some("the store is full"), agent: AgentHere::Unknown, ..HERE }, Code::StoreOut, "but the store is full"),
        (Here { agent: AgentHere::Unknown, executing: 4, ..HERE }, Code::AgentUnknown, "has no agent agent: put agent.wasm"),
        (Here { agent: AgentHere::NotServing("it is\nbad".into()), ..HERE }, Code::AgentNotServing, "cannot start here: it is bad"),
        (Here { agent: serves(Some(2), 2), executing: 4, ..HERE }, Code::AgentAtLimit, "2 of at most 2"),
        (Here { agent: serves(Some(3), 2), executing: 4, ..HERE }, Code::NoPlace, "all 4 places"),
        (Here { agent: serves(Some(3), 2), executing: 3, ..HERE }, Code::Ready, "takes it up next"),
    ] {
        let answer = told(&Situation { here: &here, ..situation(&run, None) });
        assert_eq!(answer.code, code, "{here:?}");
        assert!(answer.sentence.contains(part) && answer.members["since"] == json!(START), "{}", answer.sentence);
    }
}

#[test]
fn a_turn_is_told_with_whom_it_waits_for_and_its_place() {
    let queue = task(json!({"overlap_policy": "queue_next"}));
    let first = admitted(&queue, &Slot::default(), 1);
    let second = admitted(&queue, first.slot.as_ref().unwrap(), 2);
    let third = admitted(&queue, second.slot.as_ref().unwrap(), 3);
    let slot = third.slot.unwrap();
    let (ahead, _) = claimed(first.decision.run);
    let known = Situation { slot: Some(&slot), ahead: Some(&ahead), task: Some(&queue), ..situation(&third.decision.run, None) };
    let answer = told(&known);
    assert_eq!(answer.sentence, "It is 2nd in line and waits for run run_1, which is running");
    assert_eq!((&answer.members["position"], &answer.members["waits_for"]), (&json!(2), &json!("run_1")));
    assert_eq!(answer.members["overlap_policy"], "queue_next");

    let asked = lifecycle::request_cancel(ahead.clone(), "overlap_policy", None, after(3)).unwrap().run;
    let answer = told(&Situation { ahead: Some(&asked), ..known });
    let sentence = "It is 2nd in line and waits until attempt 1 of run run_1 has ended, whose cancel was asked for at";
    assert_eq!((answer.code, answer.sentence), (Code::WaitsForCancel, format!("{sentence} {}", after(3))));

    let parked = Run { status: Status::AwaitingApproval, ..ahead.clone() };
    assert!(
        told(&Situation { ahead: Some(&parked), ..known }).sentence.ends_with("awaiting_approval until somebody resumes or cancels it")
    );
    let lost = told(&Situation { slot: None, ahead: None, task: None, ..known });
    assert_eq!((lost.code, lost.sentence.as_str()), (Code::WaitsForTurn, "It waits for its turn among its task's runs"));
}

#[test]
fn a_leased_run_tells_of_its_worker_its_cancel_and_its_silence() {
    let (run, attempt) = claimed(queued(json!({})));
    let answer = told(&situation(&run, Some(&attempt)));
    let runs = format!("Attempt 1 runs since {START} on worker worker_a.1 under a lease until {}", after(30));
    assert_eq!((answer.code, &answer.sentence), (Code::Running, &runs));
    assert_eq!(answer.members["times_out_at"], json!(after(3600)));
    let asked = lifecycle::request_cancel(run, "api", None, after(5)).unwrap().run;
    let answer = told(&Situation { reason: Some("enough"), ..situation(&asked, Some(&attempt)) });
    let sentence = format!("{runs}; its cancel was asked for by api at {} (enough), and its grace ends at {}", after(5), after(10));
    assert_eq!((answer.code, answer.sentence), (Code::CancelRequested, sentence));
    let answer = told(&Situation { lease_now: after(30), ..situation(&asked, Some(&attempt)) });
    assert_eq!((answer.code, &answer.members["cancel"]["by"]), (Code::LeaseOverdue, &json!("api")));
    assert!(answer.sentence.starts_with(&format!("Worker worker_a.1 is silent since {START} in attempt 1")), "{}", answer.sentence);
}

#[test]
fn a_parked_run_tells_until_when_and_what_releases_it() {
    let held = |on_unknown: &str| {
        let (run, attempt) = claimed(queued(json!({"on_unknown": on_unknown})));
        lifecycle::lose(run, Attempt { effects_began: true, ..attempt }, after(31)).unwrap()
    };
    let unknown = held("hold");
    let answer = told(&Situation { due: Some(after(90)), ..situation(&unknown.run, unknown.attempt.as_ref()) });
    assert_eq!((answer.code, &answer.members["until"]), (Code::OutcomeUnknown, &json!(after(90))));
    assert!(
        answer.sentence.contains("attempt 1 ended without an outcome after it had begun to change something outside"),
        "{}",
        answer.sentence
    );
    let failed = held("fail");
    let answer = told(&situation(&failed.run, failed.attempt.as_ref()));
    assert_eq!((answer.code, answer.status), (Code::OutcomeUnknown, Status::Failed));
    for (status, whom) in [(Status::AwaitingApproval, "a person's approval"), (Status::AwaitingBudget, "budget")] {
        let run = Run { status, ..queued(json!({})) };
        let answer = told(&Situation { due: Some(after(90)), reason: Some("sign here"), ..situation(&run, None) });
        let sentence = format!("It waits for {whom} until {}, when it fails, unless somebody resumes or cancels it: sign here", after(90));
        assert_eq!((answer.code, answer.sentence), (Code::Parked, sentence));
        let expired = lifecycle::expire_parked(run, after(90)).unwrap().run;
        assert_eq!(told(&situation(&expired, None)).code, Code::WaitExpired);
    }
}

#[test]
fn each_end_tells_its_reason() {
    for (policy, kind, part) in [
        (json!({}), ErrorKind::Trap, "in attempt 1 (trap), and its policy has no retries: it broke"),
        (json!({"retry_policy": {"max_retries": 2}}), ErrorKind::Memory, "(memory), and its policy does not retry memory: it broke"),
        (json!({"retry_policy": {"max_retries": 0}}), ErrorKind::Timeout, "Attempt 1 met its time limit at"),
    ] {
        let (run, attempt) = failed(queued(policy), kind, "it\n\tbroke");
        let answer = told(&situation(&run, Some(&attempt)));
        assert!(answer.sentence.contains(part), "{}", answer.sentence);
        assert_eq!(answer.members["error_kind"], json!(kind));
    }
    let once = json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 0}});
    let (run, attempt) = failed(failed(queued(once), ErrorKind::Trap, "").0, ErrorKind::Trap, "again");
    assert!(told(&situation(&run, Some(&attempt))).sentence.contains("and all 1 of its retries are spent: again"));

    let (run, attempt) = claimed(queued(json!({"max_recoveries": 0})));
    let lost = lifecycle::lose(run, attempt, after(31)).unwrap();
    let answer = told(&situation(&lost.run, lost.attempt.as_ref()));
    assert_eq!((answer.code, &answer.members["error_kind"]), (Code::WorkersLost, &json!("lost")));

    let cancelled = lifecycle::cancel(queued(json!({})), "delete_task", None, after(4)).run;
    let answer = told(&Situation { reason: Some("its task was deleted"), ..situation(&cancelled, None) });
    assert_eq!(answer.sentence, format!("It was cancelled at {} by delete_task: its task was deleted", after(4)));

    let (run, attempt) = claimed(queued(json!({})));
    let fence = run.lease_generation;
    let end = |outcome| lifecycle::finish(run.clone(), attempt.clone(), fence, outcome, Usage::default(), 0.0, after(9)).unwrap();
    let completed = end(Outcome::Completed("yes".into()));
    let sentence = format!("It completed at {} in attempt 1", after(9));
    assert_eq!(told(&situation(&completed.run, completed.attempt.as_ref())).sentence, sentence);
    let gave_up = end(Outcome::Cancelled("no need".into()));
    let answer = told(&situation(&gave_up.run, gave_up.attempt.as_ref()));
    assert!(answer.sentence.starts_with("Its agent gave up in attempt 1"), "{}", answer.sentence);
}

#[test]
fn a_skipped_run_names_the_run_that_was_live() {
    let skip = task(json!({}));
    let first = admitted(&skip, &Slot::default(), 1);
    let second = admitted(&skip, first.slot.as_ref().unwrap(), 2).decision;
    let reason = second.events[0].details["reason"].as_str().unwrap().to_owned();
    let answer = told(&Situation { reason: Some(&reason), ..situation(&second.run, None) });
    assert_eq!((answer.code, answer.sentence), (Code::Skipped, format!("It was skipped at {START}: run run_1 of the task is live")));
}

#[test]
fn what_a_guest_says_stays_one_bounded_line() {
    let long = format!("first\nsecond {}", "é".repeat(4000));
    let (run, attempt) = failed(queued(json!({})), ErrorKind::GuestPermanent, &long);
    let answer = told(&situation(&run, Some(&attempt)));
    assert!(answer.sentence.contains("first second é") && answer.sentence.ends_with('…'), "{}", answer.sentence);
}
