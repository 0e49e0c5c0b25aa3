//! What `claim`, `renew` and `due` promise: order, limits, tokens, fences, leases.

use std::time::Duration;

use sandclock::domain::event::EventName;
use sandclock::domain::id::WorkerId;
use sandclock::domain::lifecycle;
use sandclock::domain::run::{Run, Status};
use sandclock::domain::time::Timestamp;
use sandclock::store::{Change, CountScope, DueKind, Guard, Index, Kind, Outcome, PARKED_FOR, Put, RecordId, Renewal, When};

use super::{Place, on_every_store, plain, queued, request, run_id, schedule};

on_every_store!(
    a_claim_is_what_the_lifecycle_says,
    the_longest_due_run_comes_first,
    runs_that_are_not_due_or_wait_for_their_turn_stay,
    an_agents_limit_counts_over_all_workers,
    agents_share_the_limit_in_order_of_time,
    a_run_that_cannot_be_read_is_put_aside,
    the_same_token_returns_the_same_runs,
    fences_rise_for_ever,
    renewals_tell_each_lease,
    a_put_that_ends_the_attempt_ends_the_lease,
    expired_leases_are_due,
    older_incarnations_are_found,
    schedules_and_parked_runs_are_due,
    the_next_ready_run_is_told,
    a_step_of_the_wall_clock_moves_no_lease,
);

const AGENT: &[(&str, Option<u32>)] = &[("agent", None)];

fn at(place: &Place, seconds: u64) -> Timestamp {
    place.now() + Duration::from_secs(seconds)
}

fn ids(claimed: &[sandclock::store::Claimed]) -> Vec<&str> {
    claimed.iter().map(|claimed| claimed.run.run_id.as_str().trim_start_matches("run_").trim_start_matches('0')).collect()
}

/// A run that becomes due some seconds from now.
fn later(number: u32, place: &Place, seconds: u64) -> Run {
    Run { queued_at: at(place, seconds), ..queued(number, "task", "agent", place.now()) }
}

async fn a_claim_is_what_the_lifecycle_says(place: Place) {
    let run = queued(1, "task", "agent", place.now());
    place.put_runs(std::slice::from_ref(&run)).await;
    place.advance(3);
    let claimed = place.claim(7, AGENT, 10).await.remove(0);
    let worker = WorkerId::parse("daemon.one").unwrap();
    let mut expected = run;
    let patch = lifecycle::claim(&mut expected, "digest of agent", &worker, 1, place.now(), place.now()..at(&place, 30));
    assert_eq!(claimed.run, expected);
    assert_eq!((claimed.rev, claimed.events), (2, 2));
    assert_eq!(claimed.attempt, patch.attempt);
    let record = place.get(&RecordId::run(&run_id(1))).await.unwrap();
    assert_eq!((record.rev, record.change, record.due), (2, None, None));
    assert_eq!(record.decode_run().unwrap(), expected);
    assert_eq!(record.body, serde_json::to_vec(&expected).unwrap());
    let attempt = place.get(&RecordId::attempt(&run_id(1), 1)).await.unwrap();
    assert_eq!((attempt.rev, attempt.change), (1, None));
    assert_eq!(attempt.decode::<sandclock::domain::run::Attempt>().unwrap(), patch.attempt);
    let events: Vec<_> = place.events(&run_id(1)).await.into_iter().map(|event| event.event).collect();
    assert_eq!(events, patch.events);
    assert_eq!(place.claim(8, AGENT, 10).await, []);
}

async fn the_longest_due_run_comes_first(place: Place) {
    place.put_runs(&[later(1, &place, 5), later(2, &place, 3), later(3, &place, 3), later(4, &place, 9), later(5, &place, 1)]).await;
    place.advance(6);
    assert_eq!(ids(&place.claim(1, AGENT, 2).await), ["5", "2"]);
    assert_eq!(ids(&place.claim(2, AGENT, 0).await), [""; 0]);
    assert_eq!(ids(&place.claim(3, AGENT, 9).await), ["3", "1"]);
    place.advance(3);
    assert_eq!(ids(&place.claim(4, AGENT, 9).await), ["4"]);
}

async fn runs_that_are_not_due_or_wait_for_their_turn_stay(place: Place) {
    let now = place.now();
    let waits = Run { slot: sandclock::domain::run::SlotPart::Waits, ..queued(1, "task", "agent", now) };
    let parked = Run { status: Status::AwaitingBudget, ..queued(2, "task", "agent", now) };
    let done = Run { status: Status::Completed, ..queued(3, "task", "agent", now) };
    let other = queued(4, "task", "other", now);
    place.put_runs(&[waits, parked, done, other, later(5, &place, 1)]).await;
    // Nobody can make a leased status claimable.
    let running = Run { status: Status::Running, ..queued(6, "task", "agent", now) };
    let mut odd = Put::run(&running, now).unwrap();
    odd.index = Index { ready: true, due: Some(When::At(now)), ..odd.index };
    place.put(vec![odd]).await;
    assert_eq!(place.claim(1, AGENT, 9).await, []);
    assert_eq!(place.claim(2, &[], 9).await, []);
    place.advance(1);
    assert_eq!(ids(&place.claim(3, AGENT, 9).await), ["5"]);
}

async fn an_agents_limit_counts_over_all_workers(place: Place) {
    let now = place.now();
    place.put_runs(&(1..=6).map(|number| queued(number, "task", "agent", now)).collect::<Vec<_>>()).await;
    let limited = |token, worker, most| request(token, worker, &[("agent", Some(most))], 9);
    assert_eq!(ids(&place.store.claim(limited(1, "daemon.one", 2)).await.unwrap()), ["1", "2"]);
    assert_eq!(place.store.claim(limited(2, "other.one", 2)).await.unwrap(), []);
    assert_eq!(ids(&place.store.claim(limited(3, "other.one", 3)).await.unwrap()), ["3"]);
    assert_eq!(place.store.claim(limited(4, "other.one", 0)).await.unwrap(), []);
    let done = Run { status: Status::Completed, ..place.run(&run_id(1)).await };
    place.put_runs(&[done]).await;
    assert_eq!(ids(&place.store.claim(limited(5, "other.one", 3)).await.unwrap()), ["4"]);
    assert_eq!(ids(&place.store.claim(limited(6, "other.one", u32::MAX)).await.unwrap()), ["5", "6"]);
}

async fn agents_share_the_limit_in_order_of_time(place: Place) {
    let now = place.now();
    for number in 1..=12 {
        let agent = ["a", "b", "c"][number as usize % 3];
        place.put_runs(&[queued(number, "task", agent, now)]).await;
    }
    // a: 3, 6, 9, 12; b: 1, 4, 7, 10; c: 2, 5, 8, 11.
    let agents: &[(&str, Option<u32>)] = &[("c", Some(1)), ("a", None), ("none", None), ("b", Some(2))];
    let claimed = place.claim(1, agents, 6).await;
    assert_eq!(ids(&claimed), ["1", "2", "3", "4", "6", "9"]);
    assert_eq!(claimed[1].attempt.digest.as_deref(), Some("digest of c"));
    // Whoever names an agent twice gets its runs once.
    assert_eq!(ids(&place.claim(2, &[agents, &[("a", None)]].concat(), 6).await), ["c"]);
}

async fn a_run_that_cannot_be_read_is_put_aside(place: Place) {
    let now = place.now();
    place.put_runs(&(1..=3).map(|number| queued(number, "task", "agent", now)).collect::<Vec<_>>()).await;
    for number in [1, 3] {
        let index = Index::of_run(&queued(number, "task", "agent", now), now);
        place.put(vec![Put { id: RecordId::run(&run_id(number)), index, body: "{\"run_id\": 7}".into() }]).await;
    }
    assert_eq!(ids(&place.claim(1, AGENT, 1).await), [""; 0], "the first one is all that this wish may have");
    assert_eq!(ids(&place.claim(2, AGENT, 2).await), ["2"], "it holds up no others");
    assert_eq!(ids(&place.claim(3, AGENT, 2).await), [""; 0]);
    let aside = place.get(&RecordId::run(&run_id(1))).await.unwrap();
    assert_eq!((&aside.body[..], aside.due, aside.rev), (&b"{\"run_id\": 7}"[..], None, 3), "nothing of it is lost");
    assert_eq!(place.count(CountScope::All(Kind::Run)).await, [(Status::Queued, 2), (Status::Running, 1)]);
}

async fn the_same_token_returns_the_same_runs(place: Place) {
    let now = place.now();
    place.put_runs(&(1..=4).map(|number| queued(number, "task", "agent", now)).collect::<Vec<_>>()).await;
    let first = place.claim(1, AGENT, 2).await;
    assert_eq!(place.claim(1, AGENT, 2).await, first);
    assert_eq!(place.claim(1, AGENT, 4).await, first, "a token is spent once");
    let other = place.store.claim(request(1, "daemon.two", AGENT, 1)).await.unwrap();
    assert_eq!(ids(&other), ["3"], "a token is its worker's");
    // A renewal between the two shows, and a run that has ended is not given again.
    place.advance(1);
    place.store.renew(&first[0].attempt.worker_id, &[(run_id(1), 1)], Duration::from_secs(60)).await.unwrap();
    place.put_runs(&[Run { status: Status::Completed, ..first[1].run.clone() }]).await;
    let again = place.claim(1, AGENT, 2).await;
    assert_eq!(ids(&again), ["1"]);
    assert_eq!(again[0].run.lease_expires_at, Some(at(&place, 60)));
    assert_eq!((again[0].rev, again[0].events), (2, 2));
}

async fn fences_rise_for_ever(place: Place) {
    place.put_runs(&[queued(1, "task", "agent", place.now())]).await;
    for fence in 1..=5_u64 {
        let claimed = place.claim(u128::from(fence), AGENT, 1).await.remove(0);
        assert_eq!(claimed.run.lease_generation, fence);
        assert_eq!(claimed.attempt.attempt_number, fence as u32);
        assert_eq!(claimed.events, fence * 2);
        let back = Run { status: Status::Queued, queued_at: place.now(), ..claimed.run };
        place.put_runs(&[back]).await;
        let lease = place.get(&RecordId::run(&run_id(1))).await.unwrap().lease.unwrap();
        assert_eq!((lease.fence, lease.owner, lease.until, lease.heartbeat_at), (fence, None, None, Some(place.now())));
        place.advance(1);
    }
}

async fn renewals_tell_each_lease(place: Place) {
    let now = place.now();
    place.put_runs(&(1..=5).map(|number| queued(number, "task", "agent", now)).collect::<Vec<_>>()).await;
    place.claim(1, AGENT, 4).await;
    let worker = WorkerId::parse("daemon.one").unwrap();
    let cancelled = Run { cancel_requested_at: Some(now), ..place.run(&run_id(2)).await };
    place.put_runs(&[cancelled]).await;
    let rev_before = place.get(&RecordId::run(&run_id(1))).await.unwrap().rev;
    place.advance(10);
    let lease = Duration::from_secs(45);
    let until = at(&place, 45);
    let wanted = [(run_id(1), 1), (run_id(2), 1), (run_id(3), 2), (run_id(5), 0), (run_id(99), 1), (run_id(1), 1)];
    let renewed = place.store.renew(&worker, &wanted, lease).await.unwrap();
    assert_eq!(
        renewed,
        [Renewal::Held(until), Renewal::CancelRequested(until), Renewal::Lost, Renewal::Lost, Renewal::Lost, Renewal::Held(until)]
    );
    let record = place.get(&RecordId::run(&run_id(1))).await.unwrap();
    assert_eq!(record.rev, rev_before, "a renewal is no decision");
    let shown = record.decode_run().unwrap();
    assert_eq!((shown.lease_expires_at, shown.heartbeat_at), (Some(until), Some(place.now())));
    let stranger = WorkerId::parse("daemon.two").unwrap();
    assert_eq!(place.store.renew(&stranger, &[(run_id(1), 1)], lease).await.unwrap(), [Renewal::Lost]);
    place.advance(20);
    let renewed = place.store.renew(&worker, &[(run_id(4), 1), (run_id(1), 1)], lease).await.unwrap();
    assert_eq!(renewed, [Renewal::Lost, Renewal::Held(at(&place, 45))], "a lease that has passed is not revived");
    assert_eq!(place.store.renew(&worker, &[], lease).await.unwrap(), []);
}

async fn a_put_that_ends_the_attempt_ends_the_lease(place: Place) {
    place.put_runs(&[queued(1, "task", "agent", place.now())]).await;
    let claimed = place.claim(1, AGENT, 1).await.remove(0);
    // A put that leaves the run leased keeps the lease, whatever the body says of it.
    let asked = Run { cancel_requested_at: Some(place.now()), lease_expires_at: None, lease_owner: None, ..claimed.run };
    place.put_runs(std::slice::from_ref(&asked)).await;
    let lease = place.get(&RecordId::run(&run_id(1))).await.unwrap().lease.unwrap();
    assert_eq!((lease.owner.as_ref(), lease.until), (Some(&claimed.attempt.worker_id), Some(at(&place, 30))));
    place.advance(5);
    place.store.renew(&claimed.attempt.worker_id, &[(run_id(1), 1)], Duration::from_secs(9)).await.unwrap();
    let renewed_at = place.now();
    place.advance(1);
    place.put_runs(&[Run { status: Status::Cancelled, ..asked }]).await;
    let lease = place.get(&RecordId::run(&run_id(1))).await.unwrap().lease.unwrap();
    assert_eq!((lease.fence, lease.owner, lease.until, lease.heartbeat_at), (1, None, None, Some(renewed_at)));
    let renewed = place.store.renew(&claimed.attempt.worker_id, &[(run_id(1), 1)], Duration::from_secs(9)).await.unwrap();
    assert_eq!(renewed, [Renewal::Lost]);
    assert!(place.store.due(DueKind::ExpiredLeases, 9).await.unwrap().next.is_none());
}

async fn due_ids(place: &Place, what: DueKind, limit: usize) -> (Vec<String>, Option<Timestamp>) {
    let due = place.store.due(what, limit).await.unwrap();
    assert_eq!(due.now, place.now());
    let short = |record: &sandclock::store::Record| record.id.key.trim_start_matches("run_").trim_start_matches('0').to_owned();
    (due.records.iter().map(short).collect(), due.next)
}

async fn expired_leases_are_due(place: Place) {
    let now = place.now();
    assert_eq!(due_ids(&place, DueKind::ExpiredLeases, 9).await, (Vec::new(), None));
    place.put_runs(&(1..=4).map(|number| queued(number, "task", "agent", now)).collect::<Vec<_>>()).await;
    place.claim(1, AGENT, 3).await;
    place.advance(10);
    place.claim(2, AGENT, 3).await;
    let worker = WorkerId::parse("daemon.one").unwrap();
    place.store.renew(&worker, &[(run_id(1), 1)], Duration::from_secs(21)).await.unwrap();
    assert_eq!(due_ids(&place, DueKind::ExpiredLeases, 9).await, (Vec::new(), Some(at(&place, 20))));
    place.advance(20);
    assert_eq!(due_ids(&place, DueKind::ExpiredLeases, 9).await, (vec!["2".into(), "3".into()], Some(at(&place, 1))));
    place.advance(60);
    let all = |texts: [&str; 4]| texts.map(str::to_owned).to_vec();
    assert_eq!(due_ids(&place, DueKind::ExpiredLeases, 9).await, (all(["2", "3", "1", "4"]), None));
    assert_eq!(due_ids(&place, DueKind::ExpiredLeases, 3).await.0, all(["2", "3", "1", "4"])[..3]);
    assert_eq!(place.store.due(DueKind::ExpiredLeases, 1).await.unwrap().records[0].decode_run().unwrap().lease_owner, Some(worker));
}

async fn older_incarnations_are_found(place: Place) {
    let now = place.now();
    place.put_runs(&(1..=4).map(|number| queued(number, "task", "agent", now)).collect::<Vec<_>>()).await;
    for (number, worker) in ["my.daemon.old", "my.daemon.new", "my.daemon.older", "your.daemon.old"].iter().enumerate() {
        place.store.claim(request(number as u128, worker, AGENT, 1)).await.unwrap();
    }
    let older = |daemon: &str| DueKind::OlderIncarnations { daemon: daemon.to_owned(), current: WorkerId::parse("my.daemon.new").unwrap() };
    assert_eq!(due_ids(&place, older("my.daemon"), 9).await, (vec!["1".into(), "3".into()], None));
    assert_eq!(due_ids(&place, older("my.daemon"), 1).await.0, ["1"]);
    assert_eq!(due_ids(&place, older("your.daemon"), 9).await.0, ["4"]);
    assert_eq!(due_ids(&place, older("my"), 9).await.0, [""; 0]);
}

async fn schedules_and_parked_runs_are_due(place: Place) {
    let parked = Run { status: Status::AwaitingApproval, ..queued(1, "task", "agent", place.now()) };
    place.put_runs(&[parked.clone(), queued(2, "task", "agent", place.now())]).await;
    place
        .put(vec![
            schedule("third", Some(When::In(Duration::from_secs(5)))),
            schedule("first", Some(When::At(at(&place, 2)))),
            schedule("second", Some(When::At(at(&place, 2)))),
            schedule("never", None),
            plain(Kind::Task, "task", "{}"),
        ])
        .await;
    assert_eq!(due_ids(&place, DueKind::Schedules, 9).await, (Vec::new(), Some(at(&place, 2))));
    assert_eq!(due_ids(&place, DueKind::Expiries, 9).await, (Vec::new(), Some(place.now() + PARKED_FOR)), "a ready run does not expire");
    place.advance(2);
    assert_eq!(due_ids(&place, DueKind::Schedules, 9).await, (vec!["first".into(), "second".into()], Some(at(&place, 3))));
    assert_eq!(due_ids(&place, DueKind::Schedules, 1).await, (vec!["first".into()], Some(at(&place, 3))));
    place.put(vec![schedule("first", Some(When::In(Duration::from_secs(1)))), schedule("second", None)]).await;
    assert_eq!(due_ids(&place, DueKind::Schedules, 9).await, (Vec::new(), Some(at(&place, 1))));
    place.clock.advance(PARKED_FOR);
    assert_eq!(due_ids(&place, DueKind::Expiries, 9).await, (vec!["1".into()], None));
    place.put_runs(&[Run { status: Status::Failed, ..parked }]).await;
    assert_eq!(due_ids(&place, DueKind::Expiries, 9).await, (Vec::new(), None));
}

async fn the_next_ready_run_is_told(place: Place) {
    assert_eq!(due_ids(&place, DueKind::Ready, 9).await, (Vec::new(), None));
    let other = |number, seconds| Run { agent_id: super::agent_id("other"), ..later(number, &place, seconds) };
    place.put_runs(&[later(1, &place, 0), later(2, &place, 9), other(3, 0), other(4, 7)]).await;
    assert_eq!(due_ids(&place, DueKind::Ready, 9).await, (Vec::new(), Some(at(&place, 7))));
    place.advance(8);
    assert_eq!(due_ids(&place, DueKind::Ready, 9).await, (Vec::new(), Some(at(&place, 1))));
    place.advance(8);
    assert_eq!(due_ids(&place, DueKind::Ready, 9).await, (Vec::new(), None));
}

#[tokio::test]
async fn a_run_that_is_deleted_by_a_stranger_is_not_missed() {
    // Both stores answer a change about a run that is not there in the same way.
    for place in [Place::memory().await, Place::sqlite().await] {
        let run = queued(1, "task", "agent", place.now());
        let change = Change { events: vec![super::event(&run, EventName::Queued, place.now())], ..place.change() };
        assert_eq!(place.apply(change).await, sandclock::store::Outcome::Applied);
        assert_eq!(place.events(&run.run_id).await, []);
    }
}

async fn a_step_of_the_wall_clock_moves_no_lease(place: Place) {
    let (worker, lease) = (WorkerId::parse("daemon.one").unwrap(), Duration::from_secs(30));
    let (held, steady) = (vec![Guard::Held(run_id(1), 1)], place.now());
    place.put_runs(&[queued(1, "task", "agent", place.now())]).await;
    place.claim(1, AGENT, 1).await;
    for step in [600_000_000, -1_200_000_000] {
        place.clock.step_wall(step);
        assert_eq!(place.apply(Change { guards: held.clone(), ..place.change() }).await, Outcome::Applied);
        let due = place.store.due(DueKind::ExpiredLeases, 9).await.unwrap();
        assert_eq!((due.records.len(), due.next, due.now), (0, Some(steady + lease), steady), "it is judged by the steady clock");
        let renewed = place.store.renew(&worker, &[(run_id(1), 1)], lease).await.unwrap();
        assert_eq!(renewed, [Renewal::Held(steady + lease)]);
        let run = place.run(&run_id(1)).await;
        assert_eq!((run.heartbeat_at, run.claimed_at), (Some(steady), Some(steady)));
    }
    place.advance(30);
    assert!(matches!(place.apply(Change { guards: held, ..place.change() }).await, Outcome::Refused(Guard::Held(..))));
    assert_eq!(place.store.due(DueKind::ExpiredLeases, 9).await.unwrap().records.len(), 1);
    assert_eq!(place.store.renew(&worker, &[(run_id(1), 1)], lease).await.unwrap(), [Renewal::Lost]);
    // What waits for a time is due by the wall clock.
    place.put_runs(&[later(2, &place, 60)]).await;
    place.clock.step_wall(60_000_000);
    assert_eq!(place.claim(2, AGENT, 1).await.len(), 1);
}
