//! What `apply` promises: guards, order within a batch, revs, events, cascades, counts.

use bytes::Bytes;
use sandclock::domain::event::EventName;
use sandclock::domain::run::{Attempt, Status};
use sandclock::domain::time::Timestamp;
use sandclock::store::{Change, CountScope, Guard, Index, Kind, MAX_BODY_BYTES, Outcome, Put, RecordId, StoreError, When};

use super::{Place, absent, agent_id, event, on_every_store, plain, queued, rev, run_id, schedule, task_id};

on_every_store!(
    a_put_record_is_read_back_as_it_was,
    revs_count_decisions_and_orders_stay,
    a_rev_guard_holds_only_for_that_rev,
    a_record_that_is_made_again_is_not_the_one_before,
    an_absent_guard_holds_only_once,
    a_held_guard_needs_fence_and_lease,
    changes_of_one_batch_see_those_before_them,
    a_refused_change_leaves_no_trace,
    events_are_numbered_across_changes_and_batches,
    events_do_not_raise_the_rev,
    a_run_takes_what_hangs_on_it_along,
    a_deleted_name_is_free_again,
    deletes_and_puts_of_one_batch_keep_their_order,
    an_empty_batch_is_nothing,
    bodies_have_a_limit,
    counts_follow_every_change,
    names_are_taken_as_they_are,
);

async fn a_put_record_is_read_back_as_it_was(place: Place) {
    let body = "{\"text\":\"\\u0000 \\\" ünïcode \u{1f980} \\\\\"}";
    let change = Change { puts: vec![plain(Kind::Agent, "echo", body)], ..place.change() };
    let id = change.id;
    assert_eq!(place.apply(change).await, Outcome::Applied);
    let record = place.get(&RecordId::new(Kind::Agent, "echo")).await.unwrap();
    assert_eq!(record.body, Bytes::from(body));
    assert_eq!((record.rev, record.change, record.due, record.lease), (id.first_rev(), Some(id), None, None));
    assert_eq!(place.get(&RecordId::new(Kind::Task, "echo")).await, None, "kinds have names of their own");
}

async fn revs_count_decisions_and_orders_stay(place: Place) {
    let (first, second) = (RecordId::new(Kind::Task, "first"), RecordId::new(Kind::Task, "second"));
    place.put(vec![plain(Kind::Task, "first", "1"), plain(Kind::Task, "second", "1")]).await;
    let before = place.get(&first).await.unwrap();
    place.put(vec![plain(Kind::Task, "first", "2")]).await;
    // The same record twice in one change counts twice.
    place.put(vec![plain(Kind::Task, "first", "3"), plain(Kind::Task, "first", "4")]).await;
    let after = place.get(&first).await.unwrap();
    assert_eq!((after.rev, after.body.as_ref(), after.order), (before.rev + 3, b"4".as_slice(), before.order));
    assert!(place.get(&second).await.unwrap().order > after.order);
}

async fn a_rev_guard_holds_only_for_that_rev(place: Place) {
    let id = RecordId::new(Kind::Slot, "task");
    let guarded = |rev_number| Change {
        guards: vec![rev(&id, rev_number)],
        puts: vec![plain(Kind::Slot, "task", &rev_number.to_string())],
        ..place.change()
    };
    assert_eq!(place.apply(guarded(1)).await, Outcome::Refused(rev(&id, 1)), "no record has no rev");
    place.put(vec![plain(Kind::Slot, "task", "first")]).await;
    let first = place.get(&id).await.unwrap().rev;
    for wrong in [0, first - 1, first + 1, i64::MAX as u64, u64::MAX] {
        assert_eq!(place.apply(guarded(wrong)).await, Outcome::Refused(rev(&id, wrong)));
    }
    assert_eq!(place.apply(guarded(first)).await, Outcome::Applied);
    assert_eq!(place.apply(guarded(first)).await, Outcome::Refused(rev(&id, first)));
}

/// Somebody who decided by a record that was deleted meanwhile, and made again, must not write over the new one.
async fn a_record_that_is_made_again_is_not_the_one_before(place: Place) {
    let id = RecordId::new(Kind::Schedule, "task");
    let make = |body: &str| Change { guards: vec![absent(&id)], puts: vec![plain(Kind::Schedule, "task", body)], ..place.change() };
    let remove = || Change { deletes: vec![id.clone()], ..place.change() };
    let mut known = Vec::new();
    for _ in 0..3 {
        assert_eq!(place.apply(make("as it was")).await, Outcome::Applied);
        known.push(place.get(&id).await.unwrap().rev);
        place.put(vec![plain(Kind::Schedule, "task", "changed")]).await;
        known.push(place.get(&id).await.unwrap().rev);
        assert_eq!(place.store.apply(vec![remove(), make("again"), remove()]).await.unwrap(), [const { Outcome::Applied }; 3]);
    }
    assert_eq!(place.apply(make("as it is")).await, Outcome::Applied);
    for old in known {
        let late = Change { guards: vec![rev(&id, old)], puts: vec![plain(Kind::Schedule, "task", "late")], ..place.change() };
        assert_eq!(place.apply(late).await, Outcome::Refused(rev(&id, old)));
    }
}

async fn an_absent_guard_holds_only_once(place: Place) {
    let id = RecordId::new(Kind::Run, run_id(1).as_str());
    let run = queued(1, "task", "agent", place.now());
    let insert = || Change { guards: vec![absent(&id)], puts: vec![Put::run(&run, place.now()).unwrap()], ..place.change() };
    let batch = vec![insert(), insert()];
    let first = batch[0].id;
    let outcomes = place.store.apply(batch).await.unwrap();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Refused(absent(&id))]);
    assert_eq!(place.apply(insert()).await, Outcome::Refused(absent(&id)));
    assert_eq!(place.get(&id).await.unwrap().change, Some(first));
}

async fn a_held_guard_needs_fence_and_lease(place: Place) {
    let held = |fence| Guard::Held(run_id(1), fence);
    let try_it = |fence| Change { guards: vec![held(fence)], ..place.change() };
    assert_eq!(place.apply(try_it(0)).await, Outcome::Refused(held(0)), "no run");
    place.put_runs(&[queued(1, "task", "agent", place.now())]).await;
    assert_eq!(place.apply(try_it(0)).await, Outcome::Refused(held(0)), "not leased");
    let claimed = place.claim(1, &[("agent", None)], 1).await.remove(0);
    assert_eq!(claimed.run.lease_generation, 1);
    assert_eq!(place.apply(try_it(0)).await, Outcome::Refused(held(0)));
    assert_eq!(place.apply(try_it(2)).await, Outcome::Refused(held(2)));
    assert_eq!(place.apply(try_it(1)).await, Outcome::Applied);
    place.advance(29);
    assert_eq!(place.apply(try_it(1)).await, Outcome::Applied);
    place.advance(1);
    assert_eq!(place.apply(try_it(1)).await, Outcome::Refused(held(1)), "passed");
    // A change that ends the lease ends it for those behind it.
    let second = place.claim(2, &[("agent", None)], 1).await;
    assert_eq!(second, [], "a run with a passed lease is not ready");
    let mut back = claimed.run;
    back.status = Status::Queued;
    place.put_runs(&[back.clone()]).await;
    let again = place.claim(3, &[("agent", None)], 1).await.remove(0);
    assert_eq!(again.run.lease_generation, 2);
    let end = Change { guards: vec![held(2)], puts: vec![Put::run(&back, place.now()).unwrap()], ..place.change() };
    let outcomes = place.store.apply(vec![end.clone(), end]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Refused(held(2))]);
}

async fn changes_of_one_batch_see_those_before_them(place: Place) {
    let id = RecordId::new(Kind::Slot, "task");
    let next = |guard, body| Change { guards: vec![guard], puts: vec![plain(Kind::Slot, "task", body)], ..place.change() };
    let made = next(absent(&id), "a");
    let first = made.id.first_rev();
    let behind = |revs, body| next(rev(&id, first + revs), body);
    let batch = vec![made, behind(0, "b"), behind(0, "lost"), behind(1, "c"), next(absent(&id), "lost")];
    let last = batch[3].id;
    let outcomes = place.store.apply(batch).await.unwrap();
    let applied = |n: usize| outcomes[n] == Outcome::Applied;
    assert_eq!([applied(0), applied(1), applied(2), applied(3), applied(4)], [true, true, false, true, false]);
    let record = place.get(&id).await.unwrap();
    assert_eq!((record.rev, record.body.as_ref(), record.change), (first + 2, b"c".as_slice(), Some(last)));
}

async fn a_refused_change_leaves_no_trace(place: Place) {
    let run = queued(1, "task", "agent", place.now());
    place.put_runs(std::slice::from_ref(&run)).await;
    let before = place.get(&RecordId::run(&run.run_id)).await.unwrap();
    let other = RecordId::new(Kind::Task, "other");
    let good = |key: &str| Change { puts: vec![plain(Kind::Task, key, "{}")], ..place.change() };
    let refused = Change {
        guards: vec![rev(&RecordId::run(&run.run_id), before.rev), absent(&RecordId::run(&run.run_id)), rev(&other, 7)],
        puts: vec![plain(Kind::Task, "other", "{}")],
        deletes: vec![RecordId::run(&run.run_id)],
        events: vec![event(&run, EventName::Queued, place.now())],
        ..place.change()
    };
    let outcomes = place.store.apply(vec![good("before"), refused, good("after")]).await.unwrap();
    let first_that_fails = Outcome::Refused(absent(&RecordId::run(&run.run_id)));
    assert_eq!(outcomes, [Outcome::Applied, first_that_fails, Outcome::Applied]);
    assert_eq!(place.get(&other).await, None);
    assert_eq!(place.get(&RecordId::run(&run.run_id)).await.unwrap(), before);
    assert_eq!(place.events(&run.run_id).await, []);
    assert_eq!(place.store.counts(CountScope::All(Kind::Task)).await.unwrap().total, 2);
}

async fn events_are_numbered_across_changes_and_batches(place: Place) {
    let (one, two) = (queued(1, "task", "agent", place.now()), queued(2, "task", "agent", place.now()));
    place.put_runs(&[one.clone(), two.clone()]).await;
    let now = place.now();
    let say = |runs: &[(&sandclock::domain::run::Run, EventName)]| Change {
        events: runs.iter().map(|(run, name)| event(run, *name, now)).collect(),
        ..place.change()
    };
    let first = say(&[(&one, EventName::TaskScheduled), (&two, EventName::Queued), (&one, EventName::Queued)]);
    let second = say(&[(&one, EventName::Claimed)]);
    place.store.apply(vec![first, second]).await.unwrap();
    place.store.apply(vec![say(&[(&two, EventName::Claimed), (&one, EventName::Started)])]).await.unwrap();
    let names = |events: Vec<sandclock::store::NumberedEvent>| -> Vec<(u64, EventName)> {
        events.into_iter().map(|event| (event.sequence, event.event.event)).collect()
    };
    let all = [(1, EventName::TaskScheduled), (2, EventName::Queued), (3, EventName::Claimed), (4, EventName::Started)];
    assert_eq!(names(place.events(&one.run_id).await), all);
    assert_eq!(names(place.store.events(&one.run_id, 1, 2).await.unwrap()), all[1..3]);
    assert_eq!(names(place.store.events(&one.run_id, 4, 9).await.unwrap()), []);
    assert_eq!(names(place.store.events(&one.run_id, u64::MAX, 9).await.unwrap()), []);
    assert_eq!(names(place.events(&two.run_id).await), [(1, EventName::Queued), (2, EventName::Claimed)]);
    assert_eq!(place.events(&one.run_id).await[0].event, event(&one, EventName::TaskScheduled, now).1);
    assert_eq!(place.events(&run_id(9)).await, []);
}

async fn events_do_not_raise_the_rev(place: Place) {
    let run = queued(1, "task", "agent", place.now());
    place.put_runs(std::slice::from_ref(&run)).await;
    let before = place.get(&RecordId::run(&run.run_id)).await;
    place.apply(Change { events: vec![event(&run, EventName::Progress, place.now())], ..place.change() }).await;
    assert_eq!(place.get(&RecordId::run(&run.run_id)).await, before);
}

async fn a_run_takes_what_hangs_on_it_along(place: Place) {
    place.put_runs(&[queued(1, "task", "agent", place.now()), queued(2, "task", "agent", place.now())]).await;
    let claimed = place.claim(1, &[("agent", None)], 2).await;
    let result = |number: u32| Put {
        index: Index { run: Some(run_id(number)), ..Index::default() },
        ..plain(Kind::Result, run_id(number).as_str(), "\"long\"")
    };
    let workspace = |number: u32| Put { id: RecordId::new(Kind::Workspace, run_id(number).as_str()), ..result(number) };
    place.put(vec![result(1), result(2), workspace(1), workspace(2)]).await;
    let second_attempt = Attempt { attempt_number: 2, ..claimed[0].attempt.clone() };
    let delete = Change {
        // What the same change puts hangs on the run too.
        puts: vec![Put::attempt(&second_attempt).unwrap()],
        deletes: vec![RecordId::run(&run_id(1))],
        ..place.change()
    };
    assert_eq!(place.apply(delete).await, Outcome::Applied);
    let gone = [
        RecordId::run(&run_id(1)),
        RecordId::attempt(&run_id(1), 1),
        RecordId::attempt(&run_id(1), 2),
        RecordId::new(Kind::Result, run_id(1).as_str()),
        RecordId::new(Kind::Workspace, run_id(1).as_str()),
    ];
    assert_eq!(place.store.get(&gone).await.unwrap(), [None, None, None, None, None]);
    assert_eq!(place.events(&run_id(1)).await, []);
    assert_eq!(place.events(&run_id(2)).await.len(), 2);
    for (kind, left) in [(Kind::Run, 1), (Kind::Attempt, 1), (Kind::Result, 1), (Kind::Workspace, 1)] {
        assert_eq!(place.store.counts(CountScope::All(kind)).await.unwrap().total, left, "{kind:?}");
    }
    let wanted = [(run_id(1), 1), (run_id(2), 1)];
    let renewed = place.store.renew(&claimed[0].attempt.worker_id, &wanted, std::time::Duration::from_secs(9)).await.unwrap();
    assert!(matches!(renewed[..], [sandclock::store::Renewal::Lost, sandclock::store::Renewal::Held(_)]));
}

async fn a_deleted_name_is_free_again(place: Place) {
    let run = queued(1, "task", "agent", place.now());
    let id = RecordId::run(&run.run_id);
    let insert = |name| Change {
        guards: vec![absent(&id)],
        puts: vec![Put::run(&run, place.now()).unwrap()],
        events: vec![event(&run, name, place.now())],
        ..place.change()
    };
    place.apply(insert(EventName::TaskScheduled)).await;
    place.claim(1, &[("agent", None)], 1).await;
    let first = place.get(&id).await.unwrap();
    place.apply(Change { deletes: vec![id.clone(), RecordId::new(Kind::Task, "never was")], ..place.change() }).await;
    assert_eq!(place.apply(insert(EventName::Queued)).await, Outcome::Applied);
    let second = place.get(&id).await.unwrap();
    assert_eq!(second.rev, second.change.unwrap().first_rev());
    assert!(second.order > first.order);
    let events = place.events(&run.run_id).await;
    assert_eq!(events.iter().map(|event| (event.sequence, event.event.event)).collect::<Vec<_>>(), [(1, EventName::Queued)]);
}

async fn deletes_and_puts_of_one_batch_keep_their_order(place: Place) {
    let run = queued(1, "task", "agent", place.now());
    let id = RecordId::run(&run.run_id);
    place.put_runs(std::slice::from_ref(&run)).await;
    let put =
        |name| Change { puts: vec![Put::run(&run, place.now()).unwrap()], events: vec![event(&run, name, place.now())], ..place.change() };
    let delete = || Change { deletes: vec![id.clone()], ..place.change() };
    let batch = vec![put(EventName::Queued), delete(), put(EventName::Claimed), put(EventName::Started)];
    let again = batch[2].id.first_rev();
    place.store.apply(batch).await.unwrap();
    assert_eq!(place.get(&id).await.unwrap().rev, again + 1);
    let names: Vec<_> = place.events(&run.run_id).await.into_iter().map(|event| (event.sequence, event.event.event)).collect();
    assert_eq!(names, [(1, EventName::Claimed), (2, EventName::Started)]);
    place.store.apply(vec![put(EventName::Queued), delete()]).await.unwrap();
    assert_eq!(place.get(&id).await, None);
    assert_eq!(place.events(&run.run_id).await, []);
    assert_eq!(place.store.counts(CountScope::All(Kind::Run)).await.unwrap().total, 0);
}

async fn an_empty_batch_is_nothing(place: Place) {
    assert_eq!(place.store.apply(Vec::new()).await.unwrap(), []);
    assert_eq!(place.apply(place.change()).await, Outcome::Applied);
    assert_eq!(place.store.get(&[]).await.unwrap(), []);
}

async fn bodies_have_a_limit(place: Place) {
    let sized = |bytes: usize| plain(Kind::Result, "run", &format!("\"{}\"", "x".repeat(bytes - 2)));
    place.put(vec![sized(MAX_BODY_BYTES)]).await;
    assert_eq!(place.get(&RecordId::new(Kind::Result, "run")).await.unwrap().body.len(), MAX_BODY_BYTES);
    let fits = Change { puts: vec![plain(Kind::Task, "task", "{}")], ..place.change() };
    let too_long = Change { puts: vec![sized(MAX_BODY_BYTES + 1)], ..place.change() };
    let refused = place.store.apply(vec![fits, too_long]).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    assert_eq!(place.get(&RecordId::new(Kind::Task, "task")).await, None, "nothing of the batch is written");
}

async fn counts_follow_every_change(place: Place) {
    let now = place.now();
    let parked = sandclock::domain::run::Run { status: Status::AwaitingApproval, ..queued(3, "a", "x", now) };
    place.put_runs(&[queued(1, "a", "x", now), queued(2, "b", "x", now), parked]).await;
    place.put(vec![schedule("a", Some(When::At(now))), schedule("b", None)]).await;
    assert_eq!(place.count(CountScope::All(Kind::Run)).await, [(Status::Queued, 2), (Status::AwaitingApproval, 1)]);
    assert_eq!(place.count(CountScope::RunsOfTask(task_id("a"))).await, [(Status::Queued, 1), (Status::AwaitingApproval, 1)]);
    let schedules = place.store.counts(CountScope::All(Kind::Schedule)).await.unwrap();
    assert_eq!((schedules.total, schedules.by_status.len()), (2, 0));
    let mut claimed = place.claim(1, &[("x", None)], 1).await.remove(0).run;
    assert_eq!(
        place.count(CountScope::RunsOfAgent(agent_id("x"))).await,
        [(Status::Queued, 1), (Status::Running, 1), (Status::AwaitingApproval, 1)]
    );
    claimed.status = Status::Completed;
    place.put_runs(&[claimed]).await;
    let delete = Change { deletes: vec![RecordId::run(&run_id(2)), RecordId::new(Kind::Schedule, "a")], ..place.change() };
    place.apply(delete).await;
    let runs = place.store.counts(CountScope::RunsOfAgent(agent_id("x"))).await.unwrap();
    assert_eq!((runs.total, runs.active(), runs.of(Status::Completed)), (2, 1, 1));
    assert_eq!(place.store.counts(CountScope::RunsOfTask(task_id("b"))).await.unwrap().total, 0);
    assert_eq!(place.store.counts(CountScope::RunsOfTask(task_id("never"))).await.unwrap().total, 0);
    assert_eq!(place.store.counts(CountScope::All(Kind::Attempt)).await.unwrap().total, 1);
}

async fn names_are_taken_as_they_are(place: Place) {
    for key in ["", "/", "a/b/c", "it's", "\"", "[]", "\\", "ünïcode \u{1f980}", "%_", "\n"] {
        let id = RecordId::new(Kind::Daemon, key);
        let put = Change { guards: vec![absent(&id)], puts: vec![plain(Kind::Daemon, key, key)], ..place.change() };
        assert_eq!(place.apply(put).await, Outcome::Applied, "{key:?}");
        let record = place.get(&id).await.unwrap();
        assert_eq!((record.id, record.body), (id, Bytes::from(key)));
    }
    // Times at both ends of what a record can carry.
    for (task, due) in [("first", Timestamp::MIN), ("last", Timestamp::MAX)] {
        place.put(vec![schedule(task, Some(When::At(due)))]).await;
        assert_eq!(place.get(&RecordId::new(Kind::Schedule, task)).await.unwrap().due, Some(due));
    }
}
