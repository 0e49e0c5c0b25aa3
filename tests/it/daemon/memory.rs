//! What guests keep from run to run: whose it is, how much, and that what daemons change at once is changed once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use sandclock::daemon::{Bounds, Retention};
use sandclock::domain::id::AgentId;
use sandclock::domain::memory::{BucketName, LARGEST_VALUE, LONGEST_KEY, Quota};
use sandclock::sandbox::memory::{Changed, KeyValues, MemoryChange, MemoryRefused};
use sandclock::store::{Change, ChangeId, CountScope, Index, Kind, Outcome, PageRequest, Put, Record, Scope};

use super::faulty::Fault;
use super::stage::Guest;
use super::*;

use BucketName::{Agent, Session};

const LEASE: Duration = Duration::from_secs(30);
const QUOTA: Quota = Quota { keys: 10_000, bytes: 16 * 1024 * 1024 };
const SIGNED: std::ops::RangeInclusive<i128> = i64::MIN as i128..=i64::MAX as i128;

fn kept(guest: &Guest) -> &dyn KeyValues {
    guest.host.key_values().unwrap()
}

async fn write(guest: &Guest, bucket: BucketName, key: &str, value: Option<&[u8]>, quota: Quota) -> Result<Changed, MemoryRefused> {
    let change = MemoryChange::Write(vec![(key.to_owned(), value.map(<[u8]>::to_vec))]);
    kept(guest).change(bucket, change, quota).await
}

async fn set(guest: &Guest, bucket: BucketName, key: &str, value: &str) {
    assert_eq!(write(guest, bucket, key, Some(value.as_bytes()), QUOTA).await, Ok(Changed::Done));
}

async fn get(guest: &Guest, bucket: BucketName, key: &str) -> Option<String> {
    let found = kept(guest).get(bucket, &[key.to_owned()]).await.unwrap().pop().unwrap();
    assert_eq!(found.is_some(), kept(guest).has(bucket, key).await.unwrap());
    found.map(|kept| String::from_utf8(kept.value).unwrap())
}

async fn add(guest: &Guest, bucket: BucketName, key: &str, delta: i128) -> Result<Changed, MemoryRefused> {
    kept(guest).change(bucket, MemoryChange::Increment { key: key.to_owned(), delta, range: SIGNED }, QUOTA).await
}

async fn all_keys(guest: &Guest, bucket: BucketName) -> BTreeSet<String> {
    let (mut keys, mut page, mut pages) = (Vec::new(), 0, 0);
    loop {
        let read = kept(guest).keys(bucket, page).await.unwrap();
        keys.extend(read.keys);
        pages += 1;
        assert!(pages <= 100, "the pages do not end");
        match read.next {
            Some(next) => page = next,
            None => break,
        }
    }
    let distinct: BTreeSet<String> = keys.iter().cloned().collect();
    assert_eq!(distinct.len(), keys.len(), "a key was listed twice");
    distinct
}

/// Runs a task whose guest the test holds.
async fn guest_of(world: &World, daemon: &TestDaemon, task: &str, fields: Value) -> Guest {
    let mut body =
        json!({"task_id": task, "agent_id": "guest", "query": "x", "schedule": {"type": "manual"}, "overlap_policy": "allow_parallel"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let task = daemon.register_task(body, true, None).await.unwrap();
    let run = daemon.fire(&task.task_id).await.run_id;
    let guest = world.stage.guest().await;
    assert_eq!(guest.run_id(), run);
    guest
}

async fn records(daemon: &TestDaemon) -> u64 {
    daemon.store.counts(CountScope::All(Kind::KeyValue)).await.unwrap().total
}

async fn totals(daemon: &TestDaemon, agent: &str) -> Vec<(String, u64, u64)> {
    let listed = daemon.memory(&AgentId::parse(agent).unwrap(), PageRequest::first(100)).await.unwrap();
    let of = |bucket: &Value| {
        let session = bucket["session_id"].as_str().unwrap_or("-").to_owned();
        (session, bucket["keys"].as_u64().unwrap(), bucket["bytes"].as_u64().unwrap())
    };
    listed.items.iter().map(of).collect()
}

#[tokio::test]
async fn what_one_run_keeps_the_next_one_finds() {
    let world = World::new().await;
    let daemon = world.start().await;
    let first = guest_of(&world, &daemon, "t", json!({})).await;
    assert_eq!((get(&first, Agent, "k").await, get(&first, Session, "k").await), (None, None));
    assert!(all_keys(&first, Agent).await.is_empty());
    assert_eq!(records(&daemon).await, 0, "who only reads leaves nothing");
    set(&first, Agent, "k", "of the agent").await;
    set(&first, Session, "k", "of the session").await;
    assert_eq!(get(&first, Agent, "k").await.as_deref(), Some("of the agent"), "an attempt reads what it wrote");
    let run = first.run_id();
    first.complete("done");
    daemon.settled(&run).await;
    let same = guest_of(&world, &daemon, "t", json!({})).await;
    assert_eq!(
        get(&same, Session, "k").await.as_deref(),
        Some("of the session"),
        "the task is the session unless its policy says otherwise"
    );
    let other = guest_of(&world, &daemon, "u", json!({})).await;
    assert_eq!(get(&other, Agent, "k").await.as_deref(), Some("of the agent"));
    assert_eq!(get(&other, Session, "k").await, None, "another task is another session");
    let fixed = json!({"session_policy": {"mode": "fixed", "session_id": "background:guest:t"}});
    let fixed = guest_of(&world, &daemon, "v", fixed).await;
    assert_eq!(get(&fixed, Session, "k").await.as_deref(), Some("of the session"), "a session may be named");
    let alone = guest_of(&world, &daemon, "w", json!({"session_policy": {"mode": "run"}})).await;
    set(&alone, Session, "k", "of the run").await;
    assert_eq!(get(&same, Session, "k").await.as_deref(), Some("of the session"));
}

#[tokio::test]
async fn no_key_and_no_session_leads_into_another_bucket() {
    let world = World::new().await;
    world.stage.steer("other");
    let daemon = world.start().await;
    let hostile = ["a/guest", "s/guest/x", "../other", "/", "\0", "a\0b", "n/x/00", "v/x", "r/run", "é/\u{202e}", " ", ".", "k"];
    let session = |id: &str| json!({"session_policy": {"mode": "fixed", "session_id": id}});
    let mut guests = vec![guest_of(&world, &daemon, "t0", session("x")).await];
    for (number, id) in ["x/", "../x", "x\u{1}", "X", "a/guest", "é"].iter().enumerate() {
        guests.push(guest_of(&world, &daemon, &format!("t{}", number + 1), session(id)).await);
    }
    // The agent of the last one has the same session as the first.
    guests
        .push(guest_of(&world, &daemon, "of_other", json!({"agent_id": "other", "session_policy": session("x")["session_policy"]})).await);
    for (number, guest) in guests.iter().enumerate() {
        for key in hostile {
            assert_eq!(get(guest, Session, key).await, None, "{number} {key:?}");
            set(guest, Session, key, &format!("{number} {key}")).await;
        }
    }
    let wanted: BTreeSet<String> = hostile.iter().map(|key| (*key).to_owned()).collect();
    for (number, guest) in guests.iter().enumerate() {
        assert_eq!(all_keys(guest, Session).await, wanted);
        assert!(all_keys(guest, Agent).await.is_empty());
        for key in hostile {
            assert_eq!(get(guest, Session, key).await, Some(format!("{number} {key}")));
        }
    }
    assert_eq!((totals(&daemon, "guest").await.len(), totals(&daemon, "other").await.len()), (7, 1));
    // What one deletes is still there for all others.
    assert_eq!(write(&guests[0], Session, "k", None, QUOTA).await, Ok(Changed::Done));
    assert_eq!(get(&guests[0], Session, "k").await, None);
    assert_eq!(get(guests.last().unwrap(), Session, "k").await.as_deref(), Some("7 k"));
}

#[tokio::test]
async fn values_have_any_bytes_and_keys_are_listed_in_pages() {
    let world = World::new().await;
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    let bytes: Vec<u8> = (0..LARGEST_VALUE).map(|at| at as u8).collect();
    let longest = "\u{1}".repeat(LONGEST_KEY);
    for (key, value) in [("empty", &[][..]), ("largest", &bytes), (&longest, b"\xff\0")] {
        assert_eq!(write(&guest, Agent, key, Some(value), QUOTA).await, Ok(Changed::Done));
        assert_eq!(kept(&guest).get(Agent, &[key.to_owned()]).await.unwrap()[0].as_ref().unwrap().value, value);
    }
    let many: Vec<(String, Option<Vec<u8>>)> = (0..600).map(|n| (format!("key {n}"), Some(vec![b'x'; 3]))).collect();
    kept(&guest).change(Session, MemoryChange::Write(many.clone()), QUOTA).await.unwrap();
    assert_eq!(all_keys(&guest, Session).await, many.iter().map(|(key, _)| key.clone()).collect());
    let first = kept(&guest).keys(Session, 0).await.unwrap();
    assert!(first.next.is_some() && first.keys.len() < 400, "{}", first.keys.len());
    assert_eq!(kept(&guest).keys(Session, 32).await.unwrap().keys, Vec::<String>::new());
    assert_eq!(kept(&guest).keys(Session, u64::MAX).await.unwrap().next, None);
    let bytes: u64 = many.iter().map(|(key, _)| key.len() as u64 + 3).sum();
    let listed = daemon.memory(&AgentId::parse("guest").unwrap(), PageRequest::first(1)).await.unwrap();
    assert_eq!((listed.total, listed.items.len(), listed.next.is_some()), (2, 1, true));
    let listed = totals(&daemon, "guest").await;
    assert!(listed.contains(&("background:guest:t".to_owned(), 600, bytes)), "{listed:?}");
    // Everything goes again, and takes with it all that it needed.
    let gone = many.iter().map(|(key, _)| (key.clone(), None)).collect();
    kept(&guest).change(Session, MemoryChange::Write(gone), QUOTA).await.unwrap();
    assert!(all_keys(&guest, Session).await.is_empty());
    assert!(totals(&daemon, "guest").await.contains(&("background:guest:t".to_owned(), 0, 0)));
}

/// Two daemons on one store, each with an attempt of its own.
async fn two(world: &World) -> (TestDaemon, TestDaemon, Guest, Guest) {
    let quick = |settings: &mut sandclock::daemon::DaemonSettings| {
        settings.poll = Duration::from_millis(5);
        settings.max_running = 1;
    };
    let (a, b) = (world.start_as("a", quick).await, world.start_as("b", quick).await);
    for task in ["t", "u"] {
        let task = a.task(json!({"task_id": task})).await;
        a.fire(&task).await;
    }
    let (one, other) = (world.stage.guest().await, world.stage.guest().await);
    let on = async |guest: &Guest| a.run(&guest.run_id()).await.unwrap().lease_owner.unwrap();
    assert_ne!(on(&one).await.daemon(), on(&other).await.daemon(), "one on each");
    (a, b, one, other)
}

#[tokio::test]
async fn two_daemons_cannot_pass_a_quota_together() {
    let world = World::new().await;
    let (a, _b, one, other) = two(&world).await;
    let quota = Quota { keys: 21, bytes: 205 };
    for round in 0..3 {
        // Ten bytes each: twenty go in by their bytes.
        let writes = (0..40).map(|n| {
            let guest = if n % 2 == 0 { &one } else { &other };
            let key = format!("key {n:02}");
            async move { write(guest, Agent, &key, Some(b"1234"), quota).await }
        });
        let answers = join_all(writes).await;
        let refused: Vec<&MemoryRefused> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(refused.len(), 20, "{round}: {refused:?}");
        assert!(refused.iter().all(|why| why.to_string().contains("`keyvalue_bytes` is 205")), "{refused:?}");
        assert_eq!(totals(&a, "guest").await, [("-".to_owned(), 20, 200)]);
        let keys = all_keys(&one, Agent).await;
        assert_eq!(keys.len(), 20);
        // What is deleted is free again.
        let gone = keys.into_iter().map(|key| (key, None)).collect();
        kept(&other).change(Agent, MemoryChange::Write(gone), quota).await.unwrap();
        assert_eq!(totals(&a, "guest").await, [("-".to_owned(), 0, 0)]);
    }
    let few = Quota { keys: 1, bytes: 1000 };
    let answers = tokio::join!(write(&one, Agent, "a", Some(b""), few), write(&other, Agent, "b", Some(b""), few));
    assert!(answers.0.is_ok() != answers.1.is_ok(), "{answers:?}");
    let why = answers.0.and(answers.1).unwrap_err();
    assert!(why.to_string().contains("`keyvalue_keys` is 1"), "{why}");
}

#[tokio::test]
async fn a_change_that_does_not_fit_is_not_made_in_part() {
    let world = World::new().await;
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    let quota = Quota { keys: 2, bytes: 100 };
    let three = ["a", "b", "c"].map(|key| (key.to_owned(), Some(b"1".to_vec()))).to_vec();
    assert!(kept(&guest).change(Agent, MemoryChange::Write(three), quota).await.is_err());
    assert!(all_keys(&guest, Agent).await.is_empty());
    assert_eq!(records(&daemon).await, 0);
    // The same key twice in one change counts once, and the last stays.
    let twice = [b"12", b"34"].map(|value| ("a".to_owned(), Some(value.to_vec()))).to_vec();
    kept(&guest).change(Agent, MemoryChange::Write(twice), quota).await.unwrap();
    assert_eq!((get(&guest, Agent, "a").await.as_deref(), totals(&daemon, "guest").await), (Some("34"), vec![("-".to_owned(), 1, 3)]));
}

#[tokio::test]
async fn two_daemons_count_and_swap_as_one() {
    let world = World::new().await;
    let (_a, _b, one, other) = two(&world).await;
    let (one, other) = (Arc::new(one), Arc::new(other));
    let adds = (0..60).map(|n| {
        let guest = Arc::clone(if n % 2 == 0 { &one } else { &other });
        tokio::spawn(async move { add(&guest, Agent, "n", 1).await.unwrap() })
    });
    let sums: BTreeSet<i128> = join_all(adds)
        .await
        .into_iter()
        .map(|sum| match sum.unwrap() {
            Changed::Sum(sum) => sum,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sums, (1..=60).collect(), "each sum was answered once");
    assert_eq!(get(&one, Agent, "n").await.as_deref(), Some("60"));
    let swaps = (0..20).map(|n| {
        let guest = Arc::clone(if n % 2 == 0 { &one } else { &other });
        tokio::spawn(async move {
            let swap = MemoryChange::Swap { key: "lock".to_owned(), expected: None, value: format!("{n}").into_bytes() };
            kept(&guest).change(Agent, swap, QUOTA).await.unwrap()
        })
    });
    let done: Vec<Changed> = join_all(swaps).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(done.iter().filter(|changed| **changed == Changed::Done).count(), 1, "{done:?}");
    // A version is of one writing: the same value written anew is another.
    let before = kept(&one).get(Agent, &["lock".to_owned()]).await.unwrap().pop().flatten().unwrap();
    assert_eq!(write(&other, Agent, "lock", Some(&before.value), QUOTA).await, Ok(Changed::Done));
    let swap = MemoryChange::Swap { key: "lock".to_owned(), expected: Some(before.version), value: b"x".to_vec() };
    assert_eq!(kept(&one).change(Agent, swap, QUOTA).await, Ok(Changed::Stale));
    set(&one, Agent, "text", "seven").await;
    assert!(matches!(add(&one, Agent, "text", 1).await, Err(MemoryRefused::No(why)) if why.contains("no whole number")));
}

#[tokio::test]
async fn a_lost_answer_counts_once() {
    for fault in [Fault::Before, Fault::After] {
        let world = World::new().await;
        let daemon = world.start().await;
        let guest = guest_of(&world, &daemon, "t", json!({})).await;
        add(&guest, Agent, "n", 1).await.unwrap();
        let mut faults = vec![fault];
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| if call == "apply" { faults.pop() } else { None });
        assert_eq!(add(&guest, Agent, "n", 1).await, Ok(Changed::Sum(2)));
        assert_eq!(get(&guest, Agent, "n").await.as_deref(), Some("2"));
    }
}

#[tokio::test]
async fn a_lost_answer_counts_once_though_others_have_written_since() {
    let world = World::new().await;
    if world.is_shared() {
        return;
    }
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    add(&guest, Agent, "n", 9).await.unwrap();
    // The change is made and its answer lost; nothing can be read until somebody else has written all that it wrote.
    let (mut heard, away) = world.faulty.lose_an_answer();
    let others = async {
        heard.recv().await.unwrap();
        let store = world.faulty.behind();
        let kept = store.list(Scope::All(Kind::KeyValue), PageRequest::first(100)).await.unwrap().records;
        // Its receipt is the run's own, and nobody else writes it.
        let of_others = kept.into_iter().filter(|record| !record.id.key.starts_with("r/"));
        let again = |record: Record| Put {
            index: Index { agent: record.id.key.starts_with("a/").then(|| AgentId::parse("guest").unwrap()), ..Index::default() },
            id: record.id,
            body: record.body,
        };
        let change = Change { id: ChangeId(7), guards: vec![], puts: of_others.map(again).collect(), deletes: vec![], events: vec![] };
        assert_eq!(change.puts.len(), 3);
        assert_eq!(store.apply(vec![change]).await.unwrap(), [Outcome::Applied]);
        away.store(false, Ordering::SeqCst);
    };
    assert_eq!(tokio::join!(add(&guest, Agent, "n", 1), others).0, Ok(Changed::Sum(10)));
    assert_eq!(get(&guest, Agent, "n").await.as_deref(), Some("10"));
}

#[tokio::test]
async fn an_attempt_whose_lease_was_taken_writes_nothing() {
    let world = World::new().await;
    let first = world.start_as("a", |settings| settings.lease = LEASE).await;
    let task = first.task(json!({})).await;
    first.fire(&task).await;
    let before = world.stage.guest().await;
    set(&before, Agent, "k", "in time").await;
    let second = world.start_as("b", |settings| settings.poll = Duration::from_millis(5)).await;
    world.clock.advance(LEASE + Duration::from_secs(1));
    let after = world.stage.guest().await;
    // By its own clock the first daemon still has the lease.
    assert!(before.signals.may_act());
    let kept_before = records(&second).await;
    for bucket in [Agent, Session] {
        assert_eq!(write(&before, bucket, "k", Some(b"too late"), QUOTA).await, Err(MemoryRefused::LeaseLost));
        assert_eq!(write(&before, bucket, "k", None, QUOTA).await, Err(MemoryRefused::LeaseLost));
        assert_eq!(add(&before, bucket, "n", 1).await, Err(MemoryRefused::LeaseLost));
    }
    assert_eq!(get(&after, Agent, "k").await.as_deref(), Some("in time"));
    assert_eq!(records(&second).await, kept_before);
    set(&after, Agent, "k", "by the second").await;
    assert_eq!(get(&after, Agent, "k").await.as_deref(), Some("by the second"));
    after.signals.trap_now(Stop::LeaseLost);
    assert_eq!(write(&after, Agent, "k", None, QUOTA).await, Err(MemoryRefused::LeaseLost));
}

#[tokio::test]
async fn a_store_that_is_away_is_waited_for() {
    let world = World::new().await;
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    set(&guest, Agent, "k", "1").await;
    for fails in ["get", "apply"] {
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| {
            (call == fails).then(|| {
                let _ = told.send(());
                // The committer gives a full store up soon, and one that is away after seconds.
                if fails == "apply" { Fault::Full } else { Fault::Before }
            })
        });
        let call = async {
            if fails == "get" {
                assert!(get(&guest, Agent, "k").await.is_some());
            } else {
                set(&guest, Agent, "k", "2").await;
            }
        };
        let back = async {
            for _ in 0..8 {
                heard.recv().await.unwrap();
            }
            *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
        };
        tokio::join!(call, back);
    }
    assert_eq!(get(&guest, Agent, "k").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_run_that_is_deleted_leaves_what_was_kept_and_nothing_else() {
    let world = World::new().await;
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    set(&guest, Agent, "k", "v").await;
    let (run, task) = (guest.run_id(), TaskId::parse("t").unwrap());
    assert_eq!(records(&daemon).await, 4, "the bucket, its keys, the value and the run's receipt");
    guest.complete("done");
    daemon.settled(&run).await;
    daemon.delete_task(&task, true).await.unwrap();
    until("the end of the run", async || records(&daemon).await == 3).await;
    let again = guest_of(&world, &daemon, "u", json!({})).await;
    assert_eq!(get(&again, Agent, "k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn what_is_cleared_is_gone_at_once_and_may_be_begun_anew() {
    let world = World::new().await;
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    let agent = AgentId::parse("guest").unwrap();
    let session = "background:guest:t";
    let large = vec![b'x'; 300 * 1024];
    for n in 0..9 {
        assert_eq!(write(&guest, Session, &format!("large {n}"), Some(&large), QUOTA).await, Ok(Changed::Done));
    }
    set(&guest, Agent, "k", "mine").await;
    let keys = daemon.memory_keys(&agent, Some(session), 0).await.unwrap();
    assert_eq!((&keys["total"], keys["entries"].as_array().unwrap().len(), &keys["next_cursor"]), (&json!(9), 9, &json!(null)));
    assert_eq!(daemon.memory_value(&agent, None, "k").await.unwrap(), json!({"key": "k", "bytes": 4, "value": "mine"}));
    assert!(matches!(daemon.memory_value(&agent, None, "j").await, Err(ManagerError::NotFound { .. })));
    let cleared = daemon.clear_bucket(&agent, Some(session)).await.unwrap();
    assert_eq!((&cleared["buckets"], &cleared["keys"]), (&json!(1), &json!(9)));
    assert!(all_keys(&guest, Session).await.is_empty(), "the attempt that goes on finds it empty");
    assert_eq!(get(&guest, Session, "large 0").await, None);
    assert_eq!(daemon.store.counts(CountScope::All(Kind::Removal)).await.unwrap().total, 0);
    assert_eq!(records(&daemon).await, 4, "the agent's own bucket and the receipt are left");
    set(&guest, Session, "large 0", "small").await;
    assert_eq!(get(&guest, Session, "large 0").await.as_deref(), Some("small"));
    assert!(matches!(daemon.clear_bucket(&agent, Some("nobody's")).await, Err(ManagerError::NotFound { .. })));
    let cleared = daemon.clear_memory(&agent).await.unwrap();
    assert_eq!((&cleared["buckets"], &cleared["keys"]), (&json!(2), &json!(2)));
    assert_eq!((totals(&daemon, "guest").await.len(), records(&daemon).await), (0, 1));
}

#[tokio::test]
async fn what_a_crash_left_of_a_cleared_bucket_is_removed_later() {
    let world = World::new().await;
    let daemon = world.start().await;
    let guest = guest_of(&world, &daemon, "t", json!({})).await;
    for n in 0..9 {
        set(&guest, Agent, &format!("k{n}"), "v").await;
    }
    let before = records(&daemon).await;
    // The first change takes the bucket out; what follows fails.
    let mut applied = 0;
    *world.faulty.plan.lock().unwrap() = Box::new(move |call| {
        applied += u32::from(call == "apply");
        (call == "apply" && applied > 1).then_some(Fault::Before)
    });
    assert!(daemon.clear_memory(&AgentId::parse("guest").unwrap()).await.is_err());
    assert!(totals(&daemon, "guest").await.is_empty());
    assert_eq!(records(&daemon).await, before - 1, "all but the bucket itself is there still");
    daemon.crash().await;
    *world.faulty.plan.lock().unwrap() = Box::new(|_| None);
    let retention = Retention { pass: Duration::from_millis(5), ..Retention::default() };
    let bounds = Bounds { retention, ..Bounds::default() };
    let daemon = world.start_as("a", |settings| settings.bounds = bounds).await;
    until("the end of the entries", async || records(&daemon).await == 1).await;
    until("the end of the note", async || daemon.store.counts(CountScope::All(Kind::Removal)).await.unwrap().total == 0).await;
}

#[tokio::test]
async fn sessions_that_nobody_writes_to_go_and_the_agent_s_own_bucket_stays() {
    const DAY: Duration = Duration::from_secs(86_400);
    let world = World::new().await;
    let retention = Retention { sessions: Some(10 * DAY), pass: Duration::from_millis(5), ..Retention::default() };
    let bounds = Bounds { retention, ..Bounds::default() };
    let daemon = world
        .start_as("a", |settings| {
            settings.bounds = bounds;
            settings.lease = 1000 * DAY;
        })
        .await;
    let oldest = guest_of(&world, &daemon, "oldest", json!({})).await;
    let old = guest_of(&world, &daemon, "old", json!({})).await;
    let used = guest_of(&world, &daemon, "used", json!({})).await;
    set(&oldest, Session, "k", "1").await;
    world.clock.advance(Duration::from_secs(600));
    for guest in [&old, &used] {
        set(guest, Session, "k", "1").await;
    }
    set(&old, Agent, "k", "mine").await;
    world.clock.advance(6 * DAY);
    // A value of the same length moves the session's time as well.
    set(&used, Session, "k", "2").await;
    // When one was written to is known to within ten minutes, and none may go before its time.
    world.clock.advance(4 * DAY);
    until("the end of the oldest session", async || totals(&daemon, "guest").await.len() == 3).await;
    assert_eq!(get(&old, Session, "k").await.as_deref(), Some("1"));
    world.clock.advance(DAY);
    until("the end of the old session", async || totals(&daemon, "guest").await.len() == 2).await;
    assert_eq!((get(&old, Session, "k").await, get(&old, Agent, "k").await.as_deref()), (None, Some("mine")));
    assert_eq!(get(&used, Session, "k").await.as_deref(), Some("2"));
    until("the end of what it held", async || daemon.store.counts(CountScope::All(Kind::Removal)).await.unwrap().total == 0).await;
    world.clock.advance(100 * DAY);
    until("the end of the other session", async || totals(&daemon, "guest").await.len() == 1).await;
    set(&old, Session, "k", "anew").await;
    assert_eq!(get(&old, Session, "k").await.as_deref(), Some("anew"));
}
