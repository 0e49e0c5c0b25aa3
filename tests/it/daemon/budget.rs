//! Budgets: what is charged once and where, what parks a run and what lets it go on, over attempts, runs, daemons and days.

use std::sync::Arc;

use futures::future::join_all;
use sandclock::clock::Clock as _;
use sandclock::daemon::Answered;
use sandclock::daemon::manager::GrantWish;
use sandclock::domain::budget::Allowance;
use sandclock::domain::id::AgentId;
use sandclock::domain::idempotency::IdempotencyKey;
use sandclock::domain::park::Park;
use sandclock::domain::spend::{BudgetScope, Exhausted, Meter, Money, Spend};
use sandclock::egress::Account;
use sandclock::store::{CountScope, Kind, PageRequest};

use super::stage::Guest;
use super::*;
use crate::guest::{hostile, plain};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub fn account(guest: &Guest) -> Arc<dyn Account> {
    Arc::clone(guest.account.as_ref().expect("the run has a budget"))
}

/// Makes a call that is let out and uses so much.
pub async fn call(guest: &Guest, used: Spend) {
    let account = account(guest);
    account.begin_call().await.unwrap();
    account.charge(used).await;
    account.end_call();
}

/// Wants a call for which nothing is left, and is stopped in it.
async fn want_in_vain(guest: &Guest) {
    let account = account(guest);
    tokio::select! {
        let_out = account.begin_call() => panic!("the call was let out: {let_out:?}"),
        () = guest.stopped() => {}
    }
    assert_eq!(guest.signals.stopped(), Some(Stop::BudgetSpent));
}

/// Wants a call for which nothing is left, and ends as the sandbox would.
pub async fn call_in_vain(guest: Guest) {
    want_in_vain(&guest).await;
    guest.end_stopped().await;
}

pub fn tokens(tokens: u64) -> Spend {
    Spend { tokens, ..Spend::default() }
}

fn calls(calls: u64) -> Allowance {
    Allowance { calls: Some(calls), ..Allowance::default() }
}

fn by_ann(amount: Allowance) -> GrantWish {
    GrantWish { amount, by: Some("ann".to_owned()) }
}

fn key(text: &str, body: &Value) -> Option<IdempotencyKey> {
    Some(IdempotencyKey::parse("grant", text, "path", Some(body)).unwrap())
}

/// What the run waits for.
pub fn met(run: &Run) -> Exhausted {
    assert_eq!(run.status, Status::AwaitingBudget, "{run:?}");
    match run.parked.as_ref().unwrap().park {
        Park::Budget(exhausted) => exhausted,
        ref other => panic!("it waits for {other}"),
    }
}

pub async fn of_task(daemon: &TestDaemon, task: &TaskId) -> Value {
    daemon.task_budget(task).await.unwrap()["used"].clone()
}

async fn accounts(daemon: &TestDaemon) -> u64 {
    daemon.store.counts(CountScope::All(Kind::Account)).await.unwrap().total
}

#[tokio::test]
async fn a_budget_is_spent_over_attempts_and_a_grant_lets_the_run_go_on_once() {
    let world = World::new().await;
    world.stage.budget(json!({"run": {"calls": 3}}));
    let daemon = world.start().await;
    let task = daemon.task(json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 0}})).await;
    let run = daemon.fire(&task).await.run_id;
    let first = world.stage.guest().await;
    call(&first, tokens(5)).await;
    call(&first, Spend::default()).await;
    first.fail(ErrorKind::GuestRetryable);
    let second = world.stage.guest().await;
    call(&second, tokens(7)).await;
    call_in_vain(second).await;
    let parked = daemon.settled(&run).await;
    assert_eq!(met(&parked), Exhausted { scope: BudgetScope::Run, meter: Meter::Calls, limit: 3, spent: 3 });
    let told = daemon.payloads(&run).await.pop().unwrap();
    assert_eq!(told["event"], "background_run_awaiting_budget");
    assert!(told["reason"].as_str().unwrap().contains("3 of 3 are spent") && told["budget"]["meter"] == "calls", "{told}");
    let why = daemon.why(&run).await.unwrap();
    assert!(
        why.sentence.contains("budget of the run has no calls left") && why.sentence.contains("budget grant --run"),
        "{}",
        why.sentence
    );
    // Without a grant it starts, and waits again at its first call.
    daemon.resume_run(&run, None).await.unwrap();
    call_in_vain(world.stage.guest().await).await;
    met(&daemon.settled(&run).await);
    // The same grant twice is one.
    let body = json!({"calls": 1});
    let Answered { answer, replayed } = daemon.grant_run(&run, by_ann(calls(1)), key("k", &body)).await.unwrap();
    assert_eq!((&answer["resumed"], replayed), (&json!(1), false), "{answer}");
    let Answered { answer: again, replayed } = daemon.grant_run(&run, by_ann(calls(1)), key("k", &body)).await.unwrap();
    assert_eq!((&again, replayed), (&answer, true));
    let last = world.stage.guest().await;
    call(&last, Spend::default()).await;
    last.complete("done");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
    let stands = daemon.run_budget(&run).await.unwrap();
    let of = &stands["budgets"][0]["meters"]["calls"];
    assert_eq!(*of, json!({"limit": 3, "granted": 1, "spent": 4, "left": 0}), "{stands}");
    assert_eq!((&stands["used"]["tokens"], &stands["used"]["calls"]), (&json!(12), &json!(4)));
    assert_eq!((&stands["budgets"][0]["grants"][0]["by"], &stands["budgets"][0]["grants"][1]), (&json!("ann"), &Value::Null));
    let queued: Vec<Value> = daemon.payloads(&run).await.into_iter().filter(|told| told["reason"] == "budget granted").collect();
    assert_eq!((queued.len(), &queued[0]["by"]), (1, &json!("ann")));
    // What has ended takes no grant.
    assert!(matches!(daemon.grant_run(&run, by_ann(calls(1)), None).await, Err(ManagerError::Conflict(_))));
}

#[tokio::test]
async fn a_task_s_budget_is_spent_over_runs_and_the_next_one_waits_without_a_guest() {
    let world = World::new().await;
    world.stage.budget(json!({"task": {"tokens": 1_000_000}}));
    let daemon = world.start().await;
    let task = daemon.task(json!({"budget": {"task": {"tokens": 100}}, "overlap_policy": "allow_parallel"})).await;
    let first = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    assert!(account(&guest).counts_tokens() && !account(&guest).counts_money());
    call(&guest, tokens(250)).await;
    guest.complete("more than it may, for no call is cut");
    assert_eq!(daemon.settled(&first).await.status, Status::Completed);
    let waiting = [daemon.fire(&task).await.run_id, daemon.fire(&task).await.run_id];
    for run in &waiting {
        let parked = daemon.settled(run).await;
        assert_eq!(met(&parked), Exhausted { scope: BudgetScope::Task, meter: Meter::Tokens, limit: 100, spent: 250 });
        assert_eq!(daemon.tries(run).await, [(AttemptReason::Initial, AttemptStatus::Completed)]);
    }
    assert!(world.stage.guest_now().is_none(), "nothing was started for it");
    let more = |tokens| Allowance { tokens: Some(tokens), ..Allowance::default() };
    let answer = daemon.grant_task(&task, by_ann(more(150)), None).await.unwrap().answer;
    assert_eq!(answer["resumed"], 0);
    assert!(answer["still_spent"].as_str().unwrap().contains("250 of 250"), "{answer}");
    for bad in [calls(1), Allowance::default()] {
        assert!(matches!(daemon.grant_task(&task, by_ann(bad), None).await, Err(ManagerError::Invalid(_))));
    }
    let answer = daemon.grant_task(&task, by_ann(more(50)), None).await.unwrap().answer;
    assert_eq!((&answer["resumed"], &answer["budget"]["meters"]["tokens"]["left"]), (&json!(2), &json!(50)), "{answer}");
    for _ in &waiting {
        world.stage.guest().await.complete("done");
    }
    for run in &waiting {
        assert_eq!(daemon.settled(run).await.status, Status::Completed);
    }
    let used = of_task(&daemon, &task).await;
    assert_eq!((&used["runs"], &used["attempts"], &used["calls"], &used["tokens"]), (&json!(3), &json!(5), &json!(1), &json!(250)));
    // What is known of it goes with the task, and one of its name begins anew.
    daemon.delete_task(&task, true).await.unwrap();
    let task = daemon.task(json!({"budget": {"task": {"tokens": 100}}})).await;
    assert_eq!(of_task(&daemon, &task).await["tokens"], 0);
    let left = daemon.task_budget(&task).await.unwrap();
    assert_eq!(left["budgets"][0]["meters"]["tokens"], json!({"limit": 100, "granted": 0, "spent": 0, "left": 100}), "{left}");
}

#[tokio::test]
async fn the_calls_of_many_attempts_on_two_daemons_are_exactly_as_many_as_may_be() {
    const MAY: usize = 23;
    let world = World::new().await;
    let daemons = [world.start().await, world.start_as("b", |_| {}).await];
    let budget = json!({"budget": {"task": {"calls": MAY}}, "overlap_policy": "allow_parallel"});
    let task = daemons[0].task(budget).await;
    let runs: Vec<Run> = join_all((0..8).map(|number| daemons[number % 2].fire(&task))).await;
    let mut guests = Vec::new();
    for _ in &runs {
        guests.push(world.stage.guest().await);
    }
    let made = join_all(guests.into_iter().map(|guest| async move {
        let account = account(&guest);
        let mut made = 0;
        loop {
            tokio::select! {
                let_out = account.begin_call() => let_out.unwrap(),
                () = guest.stopped() => break,
            }
            made += 1;
            account.charge(Spend { bytes: 10, ..Spend::default() }).await;
            account.end_call();
        }
        guest.end_stopped().await;
        made
    }));
    assert_eq!(made.await.into_iter().sum::<usize>(), MAY);
    for run in &runs {
        let parked = daemons[0].becomes(&run.run_id, Status::AwaitingBudget).await;
        assert_eq!(met(&parked).spent, MAY as u64);
    }
    let used = of_task(&daemons[1], &task).await;
    assert_eq!((&used["calls"], &used["bytes"]), (&json!(MAY), &json!(MAY * 10)));
}

#[tokio::test]
async fn what_was_charged_stays_when_the_daemon_is_killed_in_a_call() {
    let world = World::new().await;
    world.stage.budget(json!({"run": {"calls": 2}, "day": {"money": 1000}}));
    let daemon = world.start().await;
    let task = daemon.task(json!({})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    assert!(account(&guest).counts_tokens() && account(&guest).counts_money());
    account(&guest).begin_call().await.unwrap();
    let part = Spend { tokens: 40, money: Money::from_units(0.25).unwrap(), ..Spend::default() };
    account(&guest).charge(part).await;
    daemon.crash().await;
    let daemon = world.start().await;
    let guest = world.stage.guest().await;
    assert_eq!(guest.spec.context.attempt, 2);
    call(&guest, Spend::default()).await;
    call_in_vain(guest).await;
    met(&daemon.settled(&run).await);
    let stands = daemon.run_budget(&run).await.unwrap();
    assert_eq!((&stands["used"]["calls"], &stands["used"]["tokens"], &stands["used"]["money"]), (&json!(2), &json!(40), &json!(0.25)));
    let agent = daemon.agent_budget(&AgentId::parse("guest").unwrap()).await.unwrap();
    assert_eq!(agent["budgets"][0]["meters"]["money"]["spent"], json!(0.25), "{agent}");
    assert_eq!(agent["used"]["calls"], 2);
}

#[tokio::test]
async fn runs_without_a_budget_leave_sums_and_nothing_else() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"agent_id": "echo", "overlap_policy": "allow_parallel"})).await;
    for run in daemon.fire_at_once(&task, 40).await {
        daemon.settled(&run.run_id).await;
    }
    assert_eq!(accounts(&daemon).await, 2, "a part of the task's and one of the agent's");
    let agent = AgentId::parse("echo").unwrap();
    for used in [of_task(&daemon, &task).await, daemon.agent_budget(&agent).await.unwrap()["used"].clone()] {
        assert_eq!((&used["runs"], &used["attempts"]), (&json!(40), &json!(40)));
    }
}

#[tokio::test]
async fn a_guest_that_computes_for_ever_ends_with_its_processor_time_and_one_that_sleeps_with_its_wall_time() {
    let world = World::new().await;
    world.stage.add_component("spin", &hostile::spin());
    world.stage.add_component("sleeper", &plain::sleeper(3_600_000));
    let daemon = world.start().await;
    for (agent, meter, field) in [("spin", Meter::CpuSeconds, "cpu_seconds"), ("sleeper", Meter::WallSeconds, "wall_seconds")] {
        let task = daemon.task(json!({"task_id": agent, "agent_id": agent, "budget": {"run": {field: 0.05}}})).await;
        let run = daemon.fire(&task).await.run_id;
        let exhausted = met(&daemon.settled(&run).await);
        assert_eq!((exhausted.scope, exhausted.meter, exhausted.limit), (BudgetScope::Run, meter, 50_000));
        // Nothing is left for another attempt: none of its guest is started.
        daemon.resume_run(&run, None).await.unwrap();
        let again = met(&daemon.settled(&run).await);
        assert!(again.spent >= 50_000 && again.meter == meter, "{again:?}");
        let attempts = daemon.attempts(&run).await.unwrap();
        assert_eq!(attempts.len(), 2);
        assert!(attempts[1].usage.as_ref().unwrap().wall_seconds.is_zero());
    }
}

#[tokio::test]
async fn an_attempt_whose_time_is_over_is_stopped_between_its_calls() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"budget": {"run": {"wall_seconds": 1}}})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    let (one, other) = (account(&guest), account(&guest));
    one.begin_call().await.unwrap();
    // The second call finds that the time is over, or waits until it is, and the first one goes on.
    let second = async {
        loop {
            other.begin_call().await.unwrap();
            other.end_call();
        }
    };
    tokio::select! {
        () = second => {}
        () = tokio::time::sleep(Duration::from_millis(1300)) => {}
    }
    assert!(guest.signals.may_act(), "it was stopped in a call");
    one.charge(tokens(1)).await;
    one.end_call();
    guest.end_stopped().await;
    assert_eq!(met(&daemon.settled(&run).await).meter, Meter::WallSeconds);
}

#[tokio::test]
async fn who_times_out_or_fails_in_the_moment_in_which_nothing_is_left_waits_and_who_answers_has_answered() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"budget": {"run": {"calls": 1}}, "retry_policy": {"max_retries": 0}})).await;
    let failed = || Ended::Failed { kind: ErrorKind::Trap, message: "the silence was too much".to_owned(), after: None };
    let asks = || Ended::Parked(Park::Approval { key: "k".to_owned(), question: "May I?".to_owned() });
    for (ended, comes) in [
        (Ended::TimedOut, Status::AwaitingBudget),
        (failed(), Status::AwaitingBudget),
        (asks(), Status::AwaitingApproval),
        (Ended::Completed("done".to_owned()), Status::Completed),
    ] {
        let run = daemon.fire(&task).await.run_id;
        let guest = world.stage.guest().await;
        call(&guest, Spend::default()).await;
        want_in_vain(&guest).await;
        guest.end(ended.clone());
        let after = daemon.settled(&run).await;
        assert_eq!((after.status, after.failures), (comes, 0), "{ended:?}");
        if comes == Status::AwaitingBudget {
            assert_eq!((met(&after).meter, after.max_attempts), (Meter::Calls, 2), "{ended:?}");
        }
        // The task's only slot is wanted by the next one.
        if comes != Status::Completed {
            daemon.cancel_run(&run, "ann").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_wait_for_a_grant_ends_after_a_day_and_takes_no_grant_then() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"budget": {"run": {"calls": 1}}})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    call(&guest, Spend::default()).await;
    call_in_vain(guest).await;
    met(&daemon.settled(&run).await);
    world.clock.advance(DAY + Duration::from_secs(1));
    let failed = daemon.becomes(&run, Status::Failed).await;
    assert!(failed.error.unwrap().contains("awaiting_budget"));
    let refused = daemon.grant_run(&run, by_ann(calls(1)), None).await.unwrap_err();
    assert!(matches!(&refused, ManagerError::Conflict(why) if why.contains("failed")), "{refused}");
}

#[tokio::test]
async fn a_day_s_budget_is_there_again_on_the_next_day_and_those_who_waited_for_it_go_on() {
    let world = World::new().await;
    world.stage.budget(json!({"day": {"calls": 1}}));
    let daemon = world.start_polling().await;
    let task = daemon.task(json!({"overlap_policy": "allow_parallel"})).await;
    // Not around midnight.
    let early = |world: &World| world.clock.now().micros().rem_euclid(86_400_000_000) < 86_000_000_000;
    if !early(&world) {
        world.clock.advance(Duration::from_secs(600));
    }
    let first = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    call(&guest, Spend::default()).await;
    guest.complete("done");
    daemon.settled(&first).await;
    let (second, third) = (daemon.fire(&task).await.run_id, daemon.fire(&task).await.run_id);
    for run in [&second, &third] {
        let parked = daemon.settled(run).await;
        assert_eq!(met(&parked).scope, BudgetScope::Day);
        assert_eq!(parked.parked.unwrap().until.micros().rem_euclid(86_400_000_000), 0);
    }
    let agent = AgentId::parse("guest").unwrap();
    let answer = daemon.grant_agent(&agent, by_ann(calls(1)), None).await.unwrap().answer;
    assert_eq!((&answer["resumed"], &answer["scope"]), (&json!(2), &json!("day")), "{answer}");
    let guests = [world.stage.guest().await, world.stage.guest().await];
    let [one, other] = guests;
    call(&one, Spend::default()).await;
    one.complete("done");
    call_in_vain(other).await;
    let mut ended = Vec::new();
    for run in [&second, &third] {
        ended.push(daemon.settled(run).await.status);
    }
    ended.sort();
    assert_eq!(ended, [Status::Completed, Status::AwaitingBudget]);
    world.clock.advance(DAY);
    let guest = world.stage.guest().await;
    let run = guest.run_id();
    assert!(daemon.payloads(&run).await.iter().any(|told| told["reason"] == "a new day"));
    call(&guest, Spend::default()).await;
    guest.complete("done");
    assert_eq!(daemon.settled(&run).await.status, Status::Completed);
    // What was granted was granted for the day before.
    let stands = daemon.agent_budget(&agent).await.unwrap();
    assert_eq!(stands["budgets"][0]["meters"]["calls"], json!({"limit": 1, "granted": 0, "spent": 1, "left": 0}), "{stands}");
}

#[tokio::test]
async fn a_scheduled_task_that_has_none_left_records_its_skips() {
    let world = World::new().await;
    let daemon = world.start_polling().await;
    let schedule = json!({"type": "interval", "seconds": 60, "misfire_policy": "queue_all"});
    let task = daemon.task(json!({"schedule": schedule, "budget": {"task": {"calls": 1}}, "overlap_policy": "allow_parallel"})).await;
    world.clock.advance(Duration::from_secs(60));
    let guest = world.stage.guest().await;
    let run = guest.run_id();
    call(&guest, Spend::default()).await;
    guest.complete("done");
    daemon.settled(&run).await;
    world.clock.advance(Duration::from_secs(180));
    let skipped = async || {
        let ranges = daemon.skip_ranges(&task, PageRequest::first(100)).await.unwrap().items;
        assert!(ranges.iter().all(|range| range["reason"] == "budget"), "{ranges:?}");
        ranges.iter().map(|range| range["count"].as_u64().unwrap()).sum::<u64>()
    };
    until("three skips", async || skipped().await == 3).await;
    let status = daemon.task_status(&task).await.unwrap();
    assert_eq!(status["schedule_state"]["totals"], json!({"occurrences": 4, "runs": 1, "skipped": 3}));
    // A run by hand is made all the same, and waits where everybody sees it.
    let by_hand = daemon.fire(&task).await.run_id;
    assert_eq!(met(&daemon.settled(&by_hand).await).scope, BudgetScope::Task);
    let answer = daemon.grant_task(&task, by_ann(calls(5)), None).await.unwrap().answer;
    assert_eq!(answer["resumed"], 1, "{answer}");
    world.stage.guest().await.complete("done");
    world.clock.advance(Duration::from_secs(60));
    world.stage.guest().await.complete("done");
}
