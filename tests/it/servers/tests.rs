//! What other tests rely on in these helpers and in the script.

use std::process::{Output, Stdio};

use mongodb::bson::{Document, doc};
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use super::own::{OwnServer, ReplicaSet, Stop};
use super::{Server, told};
use crate::cli::stage::signal;

/// Numbers out of a query.
async fn numbers(url: &str, query: &str) -> Vec<i64> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut connection).await.unwrap()
}

async fn run(url: &str, statement: &str) {
    super::on_postgres(url, statement.to_owned()).await.unwrap();
}

async fn redis(url: &str, command: &[&str]) -> Option<String> {
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

async fn notes(url: &str, database: &str) -> mongodb::Collection<Document> {
    mongodb::Client::with_uri_str(url).await.unwrap().database(database).collection("notes")
}

#[test]
fn a_server_that_nobody_named_fails_a_test_with_what_to_do() {
    let said = |variables: &'static [(&str, &str)]| {
        let environment = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let told = std::panic::catch_unwind(|| told(Server::Redis, "SANDCLOCK_TEST_REDIS_URL", &environment));
        told.map_err(|panic| *panic.downcast::<String>().unwrap())
    };
    let unset = said(&[]).unwrap_err();
    assert!(unset.contains("SANDCLOCK_TEST_REDIS_URL is not set") && unset.contains("make test") && unset.contains("start DIR"), "{unset}");
    assert_eq!(said(&[("SANDCLOCK_TEST_REDIS_MISSING", "there is no Redis here")]).unwrap_err(), "there is no Redis here");
    assert!(said(&[("SANDCLOCK_TEST_SKIP", "postgres,mongodb")]).is_err());
    assert_eq!(said(&[("SANDCLOCK_TEST_SKIP", "postgres,redis")]), Ok(None));
    assert_eq!(said(&[("SANDCLOCK_TEST_REDIS_URL", "redis://there")]), Ok(Some("redis://there".to_owned())));
}

#[tokio::test]
async fn a_test_has_a_postgres_database_of_its_own_while_it_runs() {
    let (Some(one), Some(other)) = (super::postgres().await, super::postgres().await) else { return };
    run(&one.url, "CREATE TABLE notes (number bigint)").await;
    run(&other.url, "CREATE TABLE notes (number bigint)").await;
    run(&one.url, "INSERT INTO notes VALUES (7)").await;
    assert_eq!(numbers(&one.url, "SELECT number FROM notes").await, [7]);
    assert_eq!(numbers(&other.url, "SELECT number FROM notes").await, [0_i64; 0]);

    let left = format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", one.name);
    assert_eq!(numbers(&other.url, &left).await, [1]);
    let _still_connected = PgConnection::connect(&one.url).await.unwrap();
    drop(one);
    assert_eq!(numbers(&other.url, &left).await, [0]);
}

#[tokio::test]
async fn a_test_has_redis_keys_of_its_own_while_it_runs() {
    let (Some(one), Some(other)) = (super::redis(), super::redis()) else { return };
    let keys = [format!("{}note", one.name), format!("{}note", other.name)];
    for key in &keys {
        redis(&one.url, &["SET", key, "7"]).await;
    }
    drop(one);
    assert_eq!(redis(&other.url, &["GET", &keys[0]]).await, None);
    assert_eq!(redis(&other.url, &["GET", &keys[1]]).await.as_deref(), Some("7"));
}

#[tokio::test]
async fn a_test_has_a_mongodb_database_of_its_own_while_it_runs() {
    let (Some(one), Some(other)) = (super::mongodb(), super::mongodb()) else { return };
    let (ones, others) = (notes(&one.url, &one.name).await, notes(&other.url, &other.name).await);
    ones.insert_one(doc! {"number": 7}).await.unwrap();
    others.insert_one(doc! {"number": 8}).await.unwrap();
    assert_eq!(ones.count_documents(doc! {}).await.unwrap(), 1);
    drop(one);
    assert_eq!(ones.count_documents(doc! {}).await.unwrap(), 0);
    assert_eq!(others.count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn an_own_postgres_comes_back_with_what_was_committed() {
    let Some(mut server) = OwnServer::postgres(&["-c", "max_connections=20"]).await else { return };
    let url = server.url();
    assert_eq!(numbers(&url, "SELECT current_setting('max_connections')::bigint").await, [20]);
    run(&url, "CREATE TABLE notes (number bigint)").await;
    let mut rows = Vec::new();
    for (number, how) in [(1, None), (2, Some(Stop::Fast)), (3, Some(Stop::Immediate))] {
        // What is connected does not keep it from ending.
        let _connected = PgConnection::connect(&url).await.unwrap();
        run(&url, &format!("INSERT INTO notes VALUES ({number})")).await;
        match how {
            Some(how) => server.stop(how).await,
            None => server.kill().await,
        }
        assert!(PgConnection::connect(&url).await.is_err());
        server.start().await;
        rows.push(number);
        assert_eq!(numbers(&server.url(), "SELECT number FROM notes ORDER BY number").await, rows);
    }
}

#[tokio::test]
async fn an_own_redis_comes_back_with_what_it_synced() {
    let Some(mut server) = OwnServer::redis(&["--appendfsync", "always"]).await else { return };
    let url = server.url();
    redis(&url, &["SET", "note", "7"]).await;
    server.kill().await;
    assert!(redis::Client::open(url.as_str()).unwrap().get_multiplexed_async_connection().await.is_err());
    server.start().await;
    assert_eq!(redis(&url, &["GET", "note"]).await.as_deref(), Some("7"));
    server.stop(Stop::Fast).await;
    server.start().await;
    assert_eq!(redis(&url, &["GET", "note"]).await.as_deref(), Some("7"));
}

#[tokio::test]
async fn an_own_mongod_comes_back_as_primary_with_what_was_acknowledged() {
    let Some(mut server) = OwnServer::mongod(&[]).await else { return };
    let notes = notes(&server.url(), "test").await;
    notes.insert_one(doc! {"number": 7}).await.unwrap();
    server.kill().await;
    server.start().await;
    assert_eq!(notes.count_documents(doc! {"number": 7}).await.unwrap(), 1);
    server.stop(Stop::Fast).await;
    server.start().await;
    notes.insert_one(doc! {"number": 8}).await.unwrap();
    assert_eq!(notes.count_documents(doc! {}).await.unwrap(), 2);
}

#[tokio::test]
async fn a_replica_set_that_loses_its_primary_has_another_one() {
    let Some(mut set) = ReplicaSet::new(3).await else { return };
    let client = mongodb::Client::with_uri_str(set.url()).await.unwrap();
    let collection = client.database("test").collection::<Document>("notes");
    collection.insert_one(doc! {"number": 7}).await.unwrap();

    let hello = client.database("admin").run_command(doc! {"hello": 1}).await.unwrap();
    let primary = hello.get_str("primary").unwrap().to_owned();
    let member = set.members.iter_mut().find(|member| primary.ends_with(&format!(":{}", member.port()))).unwrap();
    member.kill().await;
    collection.insert_one(doc! {"number": 8}).await.unwrap();
    member.start().await;
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 2);
}

/// The script beside a temporary directory of its own, with Redis alone.
fn servers(folder: &TempDir, line: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/servers.sh"));
    command.args(line).env("TMPDIR", folder.path()).env("SANDCLOCK_TEST_SKIP", "postgres,mongodb").kill_on_drop(true);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn the_script_ends_as_its_command_does_and_leaves_nothing() {
    if super::url(Server::Redis).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } =
        servers(&folder, &["run", "--", "sh", "-c", "echo $SANDCLOCK_TEST_REDIS_URL; ls $TMPDIR; exit 7"]).output().await.unwrap();
    assert_eq!(status.code(), Some(7), "{}", text(&stderr));
    let said = text(&stdout);
    let (url, directory) = said.split_once('\n').unwrap();
    assert!(directory.starts_with("sandclock-servers."), "{said}");
    assert!(redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.is_err(), "it still runs");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_signal_to_the_script_ends_its_command_and_then_the_servers() {
    if super::url(Server::Redis).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = servers(&folder, &["run", "--", "sh", "-c", "trap 'exit 9' TERM; echo up; read line"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _open = child.stdin.take();
    let mut up = [0; 3];
    tokio::io::AsyncReadExt::read_exact(child.stdout.as_mut().unwrap(), &mut up).await.unwrap();
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().await.unwrap().code(), Some(9));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn servers_that_were_started_for_a_developer_run_until_they_are_stopped() {
    if super::url(Server::Redis).is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("here");
    let directory = directory.to_str().unwrap();
    let started = servers(&folder, &["start", directory]).output().await.unwrap();
    let said = text(&started.stdout);
    let url = said.split("SANDCLOCK_TEST_REDIS_URL=\"").nth(1).and_then(|rest| rest.split('"').next());
    let url = url.unwrap_or_else(|| panic!("{said}{}", text(&started.stderr))).to_owned();
    assert_eq!(redis(&url, &["PING"]).await.as_deref(), Some("PONG"));
    let again = servers(&folder, &["start", directory]).output().await.unwrap();
    assert!(!again.status.success() && text(&again.stderr).contains("name a directory that is not there yet"), "{}", text(&again.stderr));
    assert!(servers(&folder, &["stop", directory]).status().await.unwrap().success());
    assert!(redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.is_err(), "it still runs");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
