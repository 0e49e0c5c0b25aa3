//! Questions to people: asked by a real guest, answered once, by whoever, whenever.

use std::sync::atomic::Ordering;

use sandclock::daemon::manager::{Decided, Word};
use sandclock::domain::park::Park;
use sandclock::store::{PARKED_FOR, PageRequest};

use super::harness::conflict;
use super::*;
use crate::guest::plain;

fn word(approved: bool, by: &str, note: &str) -> Word {
    Word { approved, by: by.to_owned(), note: note.to_owned(), token: None, attempt: None }
}

/// A run of a guest that asks whether it may deploy, parked.
async fn asked(world: &World) -> (TestDaemon, TaskId, RunId) {
    world.stage.add_component("asks", &plain::approval());
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "asks"})).await;
    let run = daemon.fire(&task).await.run_id;
    assert_eq!(daemon.settled(&run).await.status, Status::AwaitingApproval);
    (daemon, task, run)
}

async fn answer(daemon: &TestDaemon, run: &RunId, key: &str, given: Word) -> Result<Decided, ManagerError> {
    daemon.answer(run, key, given).await
}

#[tokio::test]
async fn a_question_parks_its_run_and_the_answer_reaches_the_guest() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    let parked = daemon.run(&run).await.unwrap();
    assert_eq!((parked.attempt, parked.failures, parked.max_attempts), (1, 0, 2), "no attempt is burned");
    assert_eq!((parked.lease_owner.clone(), parked.error.clone()), (None, None));
    let wait = parked.parked.unwrap();
    let question = Park::Approval { key: "deploy".to_owned(), question: "May I deploy?".to_owned() };
    assert_eq!((wait.park, wait.until.since(wait.since)), (question, PARKED_FOR));
    let waiting = daemon.waiting(None, PageRequest::first(10)).await.unwrap();
    assert_eq!((waiting.total, waiting.items[0].key.as_deref(), &*waiting.items[0].question), (1, Some("deploy"), "May I deploy?"));
    let decided = answer(&daemon, &run, "deploy", word(true, "ana", "go")).await.unwrap();
    assert_eq!((decided.status, decided.answer.approved), (Status::Queued, true));
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.result_preview.as_deref(), ended.attempt), (Status::Completed, Some("ana"), 2));
    assert_eq!(ended.parked, None);
    let tries = daemon.tries(&run).await;
    assert_eq!(tries, [(AttemptReason::Initial, AttemptStatus::Completed), (AttemptReason::Recovery, AttemptStatus::Completed)]);
    let names = daemon.names(&run).await;
    let all = ["queued", "claimed", "started", "awaiting_approval", "approval_decided", "queued", "claimed", "started", "completed"];
    assert_eq!(names, all);
    let told = daemon.payloads(&run).await;
    assert_eq!((&told[3]["key"], &told[3]["question"]), (&json!("deploy"), &json!("May I deploy?")));
    assert_eq!((&told[4]["by"], &told[4]["approved"], &told[4]["note"]), (&json!("ana"), &json!(true), &json!("go")));
    assert_eq!((&told[5]["by"], &told[5]["reason"]), (&json!("ana"), &json!("`deploy` was approved")));
    assert_eq!(daemon.waiting(None, PageRequest::first(10)).await.unwrap().total, 0);
}

#[tokio::test]
async fn a_no_reaches_the_guest_with_its_note() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    answer(&daemon, &run, "deploy", word(false, "bob", "not on a Friday")).await.unwrap();
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.error.as_deref()), (Status::Failed, Some("not on a Friday")));
}

#[tokio::test]
async fn an_answer_is_taken_once() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    let missing = answer(&daemon, &run, "delete", word(true, "ana", "")).await.unwrap_err().to_string();
    assert!(missing.contains("delete") && missing.contains("it has asked under `deploy`"), "{missing}");
    let both = [word(true, "ana", ""), word(false, "bob", "")].map(|given| answer(&daemon, &run, "deploy", given));
    let [yes, no] = both;
    let (yes, no) = tokio::join!(yes, no);
    assert_eq!([yes.is_ok(), no.is_ok()].iter().filter(|taken| **taken).count(), 1, "{yes:?} {no:?}");
    let ended = daemon.settled(&run).await;
    assert_eq!(ended.status, if yes.is_ok() { Status::Completed } else { Status::Failed });
    let (given, other) = if yes.is_ok() { (("ana", true), ("bob", false)) } else { (("bob", false), ("ana", true)) };
    let again = answer(&daemon, &run, "deploy", word(given.1, given.0, "")).await.unwrap();
    assert_eq!((&*again.answer.by, again.status), (given.0, ended.status), "the same answer again is no other one");
    let refused = conflict(answer(&daemon, &run, "deploy", word(other.1, other.0, "")).await);
    assert!(refused.contains(&format!("by {}", given.0)), "{refused}");
    assert_eq!(daemon.run(&run).await.unwrap().attempt, 2, "and no answer made another attempt");
}

#[tokio::test]
async fn after_its_expiry_nobody_is_asked_any_more() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    daemon.crash().await;
    let daemon = world.start_polling().await;
    world.clock.advance(PARKED_FOR);
    // Whether the expiry or the answer comes first, the answer is late.
    let late = conflict(answer(&daemon, &run, "deploy", word(true, "ana", "")).await);
    assert!(late.contains("waited for the answer to `deploy` until"), "{late}");
    let ended = daemon.becomes(&run, Status::Failed).await;
    assert!(ended.error.unwrap().contains("awaiting_approval until its time was over"));
    conflict(answer(&daemon, &run, "deploy", word(true, "ana", "")).await);
    assert_eq!(daemon.run(&run).await.unwrap().attempt, 1);
}

#[tokio::test]
async fn the_end_of_a_wait_does_not_end_another_that_began_while_it_was_decided() {
    let world = World::new().await;
    let beside = world.beside();
    beside.stage.steer("there");
    let there = beside.start_as("b", |_| {}).await;
    let task = there.task(json!({"agent_id": "there", "overlap_policy": "allow_parallel"})).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let run = there.fire(&task).await.run_id;
        beside.stage.guest().await.end(park());
        there.settled(&run).await;
        runs.push(run);
    }
    let [run, later] = runs.try_into().unwrap();
    let _here = world.start_polling().await;
    // This daemon finds that both waits are over and decides that the first run fails with that; meanwhile that one goes on and asks anew.
    let gate = world.faulty.gate.write().await;
    let before = world.faulty.at_gate.load(Ordering::SeqCst);
    world.clock.advance(PARKED_FOR + Duration::from_secs(1));
    until("the wait is found", async || world.faulty.at_gate.load(Ordering::SeqCst) > before).await;
    there.resume_run(&run, None).await.unwrap();
    beside.stage.guest().await.end(park());
    until("it asks anew", async || there.run(&run).await.unwrap().parked.is_some()).await;
    drop(gate);
    // It takes them in turn.
    there.becomes(&later, Status::Failed).await;
    let after = there.run(&run).await.unwrap();
    assert_eq!((after.status, after.attempt), (Status::AwaitingApproval, 2), "{:?}", after.error);
}

#[tokio::test]
async fn a_run_that_is_resumed_without_an_answer_asks_again() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    for attempt in 2..5 {
        daemon.resume_run(&run, Some("ana")).await.unwrap();
        until("it asks again", async || {
            let now = daemon.run(&run).await.unwrap();
            now.status == Status::AwaitingApproval && now.attempt == attempt
        })
        .await;
    }
    let questions = daemon.questions(&run).await.unwrap().questions;
    assert_eq!((questions.len(), questions["deploy"].attempt), (1, 4));
    answer(&daemon, &run, "deploy", word(true, "ana", "")).await.unwrap();
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn a_guest_that_asks_in_a_loop_meets_its_limit() {
    let world = World::new().await;
    let body = r#"(loop $again
        (local.set $i (i32.const 0))
        (loop $next
          (i32.store8 (i32.const 300) (i32.add (i32.const 48) (i32.div_u (local.get $i) (i32.const 10))))
          (i32.store8 (i32.const 301) (i32.add (i32.const 48) (i32.rem_u (local.get $i) (i32.const 10))))
          (call $ask (i32.const 300) (i32.const 2) @"More?" (i32.const 256))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next)))
        (unreachable)"#;
    world.stage.add_component("loops", &crate::guest::agent(body, ""));
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "loops"})).await;
    let run = daemon.fire(&task).await.run_id;
    let mut asked = 0;
    let ended = loop {
        let now = daemon.settled(&run).await;
        let Some(wait) = &now.parked else { break now };
        let Park::Approval { key, .. } = &wait.park else { panic!("{wait:?}") };
        answer(&daemon, &run, key, word(true, "ana", "")).await.unwrap();
        asked += 1;
        assert!(asked <= 100, "it asks for ever");
    };
    assert_eq!((ended.status, ended.error_kind, asked), (Status::Failed, Some(ErrorKind::HostCalls), 100), "{:?}", ended.error);
    assert!(ended.error.unwrap().contains("limit `approvals` of 100"));
}

#[tokio::test]
async fn a_question_outlives_the_daemon_and_holds_its_slot() {
    let world = World::new().await;
    let (daemon, task, run) = asked(&world).await;
    let skipped = daemon.fire(&task).await;
    assert_eq!(skipped.status, Status::Skipped, "a parked run holds its task's slot");
    daemon.crash().await;
    let daemon = world.start().await;
    assert_eq!(daemon.run(&run).await.unwrap().status, Status::AwaitingApproval);
    answer(&daemon, &run, "deploy", word(true, "ana", "")).await.unwrap();
    assert_eq!(daemon.settled(&run).await.result_preview.as_deref(), Some("ana"));
}

fn park() -> Ended {
    Ended::Parked(Park::Approval { key: "k".to_owned(), question: "May I?".to_owned() })
}

/// A run of a guest that the test holds, which asked and was resumed without an answer.
async fn resumed_unanswered(world: &World) -> (TestDaemon, RunId) {
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "guest"})).await;
    let run = daemon.fire(&task).await.run_id;
    world.stage.guest().await.end(park());
    daemon.settled(&run).await;
    daemon.resume_run(&run, None).await.unwrap();
    (daemon, run)
}

#[tokio::test]
async fn a_cancel_that_comes_while_the_guest_asks_wins() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "guest"})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    daemon.cancel_run(&run, "bob").await.unwrap();
    guest.end(park());
    let ended = daemon.settled(&run).await;
    assert_eq!((ended.status, ended.parked), (Status::Cancelled, None));
    assert!(daemon.questions(&run).await.unwrap().questions.is_empty(), "what nobody can answer is not kept as a question");
}

#[tokio::test]
async fn an_answer_that_comes_while_the_run_is_at_work_is_found_by_it() {
    let world = World::new().await;
    let (daemon, run) = resumed_unanswered(&world).await;
    let guest = world.stage.guest().await;
    let decided = answer(&daemon, &run, "k", word(true, "ana", "")).await.unwrap();
    assert_eq!(decided.status, Status::Running);
    let verdict = guest.host.approvals().unwrap().verdict("k", 100).await.unwrap().unwrap();
    assert_eq!((verdict.approved, &*verdict.by), (true, "ana"));
    assert!(daemon.was_answered(&daemon.run(&run).await.unwrap()).await.unwrap(), "who resumes after that need not");
    guest.complete("done");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn an_answer_that_comes_while_the_attempt_ends_lets_the_run_go_on() {
    let world = World::new().await;
    let (daemon, run) = resumed_unanswered(&world).await;
    // The guest has asked and found nothing; before that is kept, somebody answers.
    let guest = world.stage.guest().await;
    assert_eq!(guest.host.approvals().unwrap().verdict("k", 100).await.unwrap(), None);
    answer(&daemon, &run, "k", word(true, "ana", "")).await.unwrap();
    guest.end(park());
    let guest = world.stage.guest().await;
    assert_eq!(guest.spec.context.attempt, 3);
    assert!(guest.host.approvals().unwrap().verdict("k", 100).await.unwrap().is_some());
    guest.complete("done");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
    let last = daemon.names(&run).await;
    let all = ["claimed", "started", "approval_decided", "awaiting_approval", "queued", "claimed", "started", "completed"];
    assert!(last.ends_with(&all.map(str::to_owned)), "{last:?}");
}

#[tokio::test]
async fn an_answer_to_the_question_that_was_seen_is_none_to_another() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    daemon.resume_run(&run, None).await.unwrap();
    until("it asks again", async || {
        let now = daemon.run(&run).await.unwrap();
        now.status == Status::AwaitingApproval && now.attempt == 2
    })
    .await;
    let of = |attempt| Word { attempt: Some(attempt), ..word(true, "ana", "") };
    let refused = conflict(answer(&daemon, &run, "deploy", of(1)).await);
    assert!(refused.contains("asked anew in attempt 2"), "{refused}");
    answer(&daemon, &run, "deploy", of(2)).await.unwrap();
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
}

#[tokio::test]
async fn who_may_end_one_wait_does_not_end_another() {
    let world = World::new().await;
    let (daemon, _, run) = asked(&world).await;
    let refused = conflict(daemon.resume_run_from(&run, Status::Running, None).await);
    assert!(refused.contains("is awaiting_approval by now"), "{refused}");
    assert_eq!(daemon.run(&run).await.unwrap().attempt, 1);
    daemon.resume_run_from(&run, Status::AwaitingApproval, None).await.unwrap();
}
