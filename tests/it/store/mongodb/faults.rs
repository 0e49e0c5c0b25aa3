//! Servers that go and come back, refuse and fail, and what is told of it.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ::mongodb::bson::{Bson, Document, doc};
use sandclock::clock::Clock;
use sandclock::store::mongodb::{MongoOptions, MongoStore, OnCommand};
use sandclock::store::{Change, Kind, Outcome, Put, RecordId, ServerClock, Store, StoreError, When};

use super::super::{ManualClock, absent, plain, queued, request};
use super::{change, put_runs};
use crate::servers::own::{OwnServer, ReplicaSet};

async fn connect(url: &str) -> Result<MongoStore, StoreError> {
    MongoStore::connect(url, &MongoOptions::default(), ServerClock::given(ManualClock::new())).await
}

async fn refusal(url: &str, options: &MongoOptions) -> StoreError {
    match MongoStore::connect(url, options, ServerClock::given(ManualClock::new())).await {
        Ok(_) => panic!("{url} was connected to"),
        Err(error) => error,
    }
}

/// Makes the server fail so many of its next commands of these names; none ends that.
async fn fail(url: &str, times: i32, commands: &[&str], how: Document) {
    let client = ::mongodb::Client::with_uri_str(url).await.unwrap();
    let mut data = doc! { "failCommands": commands.to_vec() };
    data.extend(how);
    let mode = if times == 0 { Bson::from("off") } else { doc! { "times": times }.into() };
    let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
    client.database("admin").run_command(point).await.unwrap();
    client.shutdown().await;
}

fn make(name: &str, number: u128) -> Change {
    Change { guards: vec![absent(&RecordId::new(Kind::Slot, name))], puts: vec![plain(Kind::Slot, name, "{}")], ..change(number) }
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let Some(mut server) = OwnServer::mongod(&[]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    assert_eq!(store.apply(vec![make("before", 1)]).await.unwrap(), [Outcome::Applied]);
    server.kill().await;
    let before = [RecordId::new(Kind::Slot, "before")];
    let (applied, read) = tokio::join!(store.apply(vec![make("meanwhile", 2)]), store.get(&before));
    for error in [applied.unwrap_err(), read.unwrap_err()] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{}/sandclock", server.port())), "{error}");
    }
    assert!(matches!(connect(&server.url()).await, Err(StoreError::Unavailable(_))));
    server.start().await;
    assert_eq!(store.apply(vec![make("after", 3)]).await.unwrap(), [Outcome::Applied]);
    let kept = store.get(&["before", "after"].map(|name| RecordId::new(Kind::Slot, name))).await.unwrap();
    assert!(kept.iter().all(Option::is_some), "what was acknowledged is there after kill -9");
}

#[tokio::test]
async fn another_primary_is_found() {
    let Some(set) = ReplicaSet::new(3).await else { return };
    let store = connect(&set.url()).await.unwrap();
    assert_eq!(store.apply(vec![make("before", 1)]).await.unwrap(), [Outcome::Applied]);
    let client = ::mongodb::Client::with_uri_str(set.url()).await.unwrap();
    let _closed = client.database("admin").run_command(doc! { "replSetStepDown": 60, "secondaryCatchUpPeriodSecs": 30 }).await;
    let mut number = 2;
    // While there is no primary, the caller asks again.
    while let Err(error) = store.apply(vec![make("after", number)]).await {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        number += 1;
        assert!(number < 20, "{error}");
    }
    let kept = store.get(&["before", "after"].map(|name| RecordId::new(Kind::Slot, name))).await.unwrap();
    assert!(kept.iter().all(Option::is_some));
}

/// Changes a record in a transaction, and leaves it open.
async fn leaves_open(url: &str, name: &str) -> ::mongodb::ClientSession {
    let client = ::mongodb::Client::with_uri_str(url).await.unwrap();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let records = client.database("sandclock").collection::<Document>("records");
    let touched = records.update_one(doc! { "_id": format!("slot/{name}") }, doc! { "$set": { "touched": 7 } });
    assert_eq!(touched.session(&mut session).await.unwrap().matched_count, 1);
    session
}

#[tokio::test]
async fn what_a_daemon_left_open_when_it_died_holds_up_nobody() {
    let Some(server) = OwnServer::mongod(&[]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    let put = |name: &str, number| Change { puts: vec![plain(Kind::Slot, name, "{}")], ..change(number) };
    store.apply(vec![put("of a daemon", 1), put("of another", 2)]).await.unwrap();
    let mut of_another = leaves_open(&format!("{}&appName=another", server.url()), "of another").await;
    let mut of_daemon = leaves_open(&format!("{}&appName=sandclock", server.url()), "of a daemon").await;
    assert_eq!(store.apply(vec![put("of a daemon", 3)]).await.unwrap(), [Outcome::Applied]);
    assert!(of_daemon.commit_transaction().await.is_err(), "it was aborted");
    of_another.commit_transaction().await.unwrap();
}

#[tokio::test]
async fn failures_are_told_for_what_they_are() {
    let Some(server) = OwnServer::mongod(&["--setParameter", "enableTestCommands=1"]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    // A disk without room.
    fail(&server.url(), 1, &["update"], doc! { "errorCode": 14031 }).await;
    assert!(matches!(store.apply(vec![make("full", 1)]).await, Err(StoreError::Full(_))));
    assert_eq!(store.apply(vec![make("full", 1)]).await.unwrap(), [Outcome::Applied]);
    // Another transaction was faster, some times.
    let met = doc! { "errorCode": 112, "errorLabels": ["TransientTransactionError"] };
    fail(&server.url(), 5, &["update"], met.clone()).await;
    assert_eq!(store.apply(vec![make("met", 2)]).await.unwrap(), [Outcome::Applied]);
    // Again and again.
    fail(&server.url(), 10_000, &["update"], met).await;
    assert!(matches!(store.apply(vec![make("often", 3)]).await, Err(StoreError::Unavailable(_))));
    fail(&server.url(), 0, &[], doc! {}).await;
    // A connection that breaks within a transaction, and one that breaks in a commit.
    for broken in [&["update"], &["commitTransaction"], &["aggregate"]] {
        fail(&server.url(), 1, broken, doc! { "closeConnection": true }).await;
        assert_eq!(store.apply(vec![make(broken[0], 4)]).await.unwrap(), [Outcome::Applied], "{broken:?}");
    }
}

/// The caller does what the committer does: it reads back, and does again what was not done.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_settled_by_reading() {
    let Some(server) = OwnServer::mongod(&["--setParameter", "enableTestCommands=1"]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    let id = RecordId::new(Kind::Slot, "doubtful");
    fail(&server.url(), 100, &["commitTransaction"], doc! { "closeConnection": true }).await;
    assert!(matches!(store.apply(vec![make("doubtful", 1)]).await, Err(StoreError::Unavailable(_))));
    fail(&server.url(), 0, &[], doc! {}).await;
    // Its transaction is still open on the server and would keep the name for a minute.
    assert_eq!(store.get(std::slice::from_ref(&id)).await.unwrap(), [None]);
    assert_eq!(store.apply(vec![make("doubtful", 2)]).await.unwrap(), [Outcome::Applied]);
}

/// A claim whose answer was lost is asked for again under its token.
#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_given_again() {
    let Some(server) = OwnServer::mongod(&["--setParameter", "enableTestCommands=1"]).await else { return };
    let clock = ManualClock::new();
    let store = MongoStore::connect(&server.url(), &MongoOptions::default(), ServerClock::given(clock.clone())).await.unwrap();
    put_runs(&store, 1, &[queued(1, "task", "agent", clock.now()), queued(2, "task", "agent", clock.now())], clock.now()).await;
    // It commits, and says that it does not know.
    let unknown = doc! { "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } };
    fail(&server.url(), 100, &["commitTransaction"], unknown).await;
    assert!(matches!(store.claim(request(7, "daemon.one", &[("agent", None)], 1)).await, Err(StoreError::Unavailable(_))));
    fail(&server.url(), 0, &[], doc! {}).await;
    let again = store.claim(request(7, "daemon.one", &[("agent", None)], 1)).await.unwrap();
    assert_eq!((again.len(), again[0].run.lease_generation), (1, 1));
    let other = store.claim(request(8, "daemon.one", &[("agent", None)], 9)).await.unwrap();
    assert_eq!(other.len(), 1);
    assert_ne!(other[0].run.run_id, again[0].run.run_id);
}

/// A claim that is about to commit keeps others of that agent waiting, even if they want other runs.
#[tokio::test]
async fn an_agents_limit_holds_in_the_commit() {
    let Some(server) = OwnServer::mongod(&["--setParameter", "enableTestCommands=1"]).await else { return };
    let clock = ManualClock::new();
    let commits = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&commits);
    let on_command: OnCommand = Arc::new(move |name, _| {
        if name == "commitTransaction" {
            told.notify_one();
        }
    });
    let watched = MongoOptions { on_command: Some(on_command), ..MongoOptions::default() };
    let url = format!("{}&appName=slow", server.url());
    let slow = MongoStore::connect(&url, &watched, ServerClock::given(clock.clone())).await.unwrap();
    let fast = MongoStore::connect(&server.url(), &MongoOptions::default(), ServerClock::given(clock.clone())).await.unwrap();
    let first = clock.now();
    clock.advance(Duration::from_secs(1));
    put_runs(&fast, 1, &[queued(2, "task", "agent", clock.now())], clock.now()).await;
    fail(&server.url(), 1, &["commitTransaction"], doc! { "blockConnection": true, "blockTimeMS": 1000, "appName": "slow" }).await;
    let limited: &[(&str, Option<u32>)] = &[("agent", Some(1))];
    let meanwhile = async {
        commits.notified().await;
        let mut earlier = Put::run(&queued(1, "task", "agent", first), first).unwrap();
        earlier.index.due = Some(When::At(first));
        assert_eq!(fast.apply(vec![Change { puts: vec![earlier], ..change(2) }]).await.unwrap(), [Outcome::Applied]);
        fast.claim(request(2, "fast.one", limited, 9)).await.unwrap()
    };
    let (one, other) = tokio::join!(slow.claim(request(1, "slow.one", limited, 9)), meanwhile);
    let claimed = [one.unwrap(), other].concat();
    assert_eq!(claimed.len(), 1, "{claimed:?}");
}

/// A server that accepts and does not answer.
#[tokio::test]
async fn a_silent_server_ends_calls_in_time() {
    let Some(server) = OwnServer::mongod(&[]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    server.signal(rustix::process::Signal::STOP);
    let bounded = tokio::time::timeout(Duration::from_secs(60), store.apply(vec![make("lost", 1)])).await;
    assert!(matches!(bounded.expect("a bound in time"), Err(StoreError::Unavailable(_))));
    server.signal(rustix::process::Signal::CONT);
    assert_eq!(store.get(&[RecordId::new(Kind::Slot, "lost")]).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_server_without_a_replica_set_is_refused() {
    let Some(own) = OwnServer::mongod(&[]).await else { return };
    let home = tempfile::TempDir::with_prefix("sandclock-alone-").unwrap();
    let binary = std::env::var("SANDCLOCK_TEST_MONGOD_BIN").unwrap();
    let port = own.port() + 1000;
    let mut alone = tokio::process::Command::new(binary);
    alone.args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25", "--port"]).arg(port.to_string());
    let _alone = alone.arg("--dbpath").arg(home.path()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let url = format!("mongodb://127.0.0.1:{port}");
    let error = loop {
        match refusal(&url, &MongoOptions::default()).await {
            StoreError::Unavailable(_) => {}
            error => break error,
        }
    };
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("--replSet") && error.to_string().contains("rs.initiate()"), "{error}");
}

#[tokio::test]
async fn errors_name_the_server_and_no_secret() {
    let none = MongoOptions::default();
    // Nobody listens there.
    let error = refusal("mongodb://somebody:hunter2@127.0.0.1:1/?replicaSet=sandclock", &none).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("MongoDB at 127.0.0.1:1/sandclock"), "{error}");
    let mut told = vec![error];
    for url in
        ["postgres://somebody:hunter2@127.0.0.1", "mongodb://somebody:hunter2@:x/", "mongodb://some:body:hunter2@127.0.0.1", "hunter2"]
    {
        let error = refusal(url, &none).await;
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
        told.push(error);
    }
    for name in ["", "admin", "hunter2 $"] {
        let options = MongoOptions { database: Some(name.to_owned()), ..MongoOptions::default() };
        let error = refusal("mongodb://127.0.0.1:1", &options).await;
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
        told.push(error);
    }
    if let Some(server) = OwnServer::mongod(&[]).await {
        // There is no such user.
        let url = server.url().replace("mongodb://", "mongodb://somebody:hunter2@");
        let error = refusal(&url, &none).await;
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
        assert!(error.to_string().contains("password"), "{error}");
        told.push(error);
    }
    for error in told {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2") && !text.contains("somebody"), "{text}");
    }
}
