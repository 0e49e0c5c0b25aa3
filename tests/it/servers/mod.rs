//! The PostgreSQL, Redis, mongod and S3 server that tests run against: the shared ones that `scripts/servers.sh` starts, where each test has a
//! database or a prefix of its own, and in `own` servers of one test, which it kills and starts again.
//!
//! A test asks for what it needs and returns when it gets none: `let Some(database) = servers::postgres().await else { return };`.
//! None is given only for a server that SANDCLOCK_TEST_SKIP names; one that cannot be had fails the test with a sentence.

pub mod bucket;
pub mod certificates;
pub mod own;
pub mod proxy;
mod tests;

use std::env;
use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

/// How long a database may take to be deleted before the test goes on without.
const TIDY: Duration = Duration::from_secs(3);

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Postgres,
    Redis,
    Mongodb,
    S3,
}

impl Server {
    /// As SANDCLOCK_TEST_SKIP and the scripts call it.
    pub fn name(self) -> &'static str {
        match self {
            Server::Postgres => "postgres",
            Server::Redis => "redis",
            Server::Mongodb => "mongodb",
            Server::S3 => "s3",
        }
    }

    /// The variable of this server with that ending.
    fn variable(self, ending: &str) -> String {
        format!("SANDCLOCK_TEST_{}_{ending}", self.name().to_uppercase())
    }
}

/// The shared server's URL; none when its tests are left out.
pub fn url(server: Server) -> Option<String> {
    told(server, &server.variable("URL"), &|name| env::var(name).ok())
}

/// What a variable of `scripts/servers.sh` says; none when the tests of that server are left out.
fn told(server: Server, variable: &str, environment: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let skipped = environment("SANDCLOCK_TEST_SKIP").unwrap_or_default();
    if skipped.split(',').any(|name| name == server.name()) {
        println!("skipped: SANDCLOCK_TEST_SKIP names {}", server.name());
        return None;
    }
    let told = environment(variable);
    if told.is_none()
        && let Some(sentence) = environment(&server.variable("MISSING"))
    {
        panic!("{sentence}");
    }
    Some(told.unwrap_or_else(|| {
        panic!("{variable} is not set: run the tests with `make test`, or first `eval \"$(scripts/servers.sh start DIR)\"`")
    }))
}

/// A test's own part of a shared server, deleted with it.
pub struct TestDatabase {
    server: Server,
    /// Where to connect to: with PostgreSQL the database itself.
    pub url: String,
    /// The name of the database; with Redis what the test's keys begin with.
    pub name: String,
}

impl TestDatabase {
    fn new(server: Server) -> Option<TestDatabase> {
        Some(TestDatabase { server, url: url(server)?, name: format!("t{}", Uuid::now_v7().simple()) })
    }
}

/// A new, empty database on the shared PostgreSQL, whose user may do everything there.
pub async fn postgres() -> Option<TestDatabase> {
    let mut database = TestDatabase::new(Server::Postgres)?;
    on_postgres(&database.url, format!("CREATE DATABASE {}", database.name)).await.expect("a database of the test's own");
    database.url = beside(&database.url, &database.name);
    Some(database)
}

/// A prefix of keys that nobody else uses on the shared Redis, or a part of one: as a hash tag it stands in braces. It ends with a colon.
pub fn redis() -> Option<TestDatabase> {
    let mut database = TestDatabase::new(Server::Redis)?;
    database.name.push(':');
    Some(database)
}

/// The name of a new database on the shared mongod, a replica set of one.
pub fn mongodb() -> Option<TestDatabase> {
    TestDatabase::new(Server::Mongodb)
}

/// A prefix in the shared bucket that nobody else uses.
pub fn s3() -> Option<TestDatabase> {
    TestDatabase::new(Server::S3)
}

/// The URL of another database of the same PostgreSQL.
fn beside(url: &str, name: &str) -> String {
    format!("{}/{name}", url.rsplit_once('/').expect("a URL with a database").0)
}

/// One statement on a connection of its own.
async fn on_postgres(url: &str, statement: String) -> Result<(), sqlx::Error> {
    let options = url.parse::<sqlx::postgres::PgConnectOptions>()?.disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await
}

async fn delete_keys(url: &str, prefix: &str) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("*{prefix}*")).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut connection).await?;
        if !keys.is_empty() {
            redis::cmd("UNLINK").arg(keys).query_async::<()>(&mut connection).await?;
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

async fn delete_database(url: &str, name: &str) -> mongodb::error::Result<()> {
    let client = mongodb::Client::with_uri_str(url).await?;
    client.database(name).drop().await?;
    client.shutdown().await;
    Ok(())
}

impl Drop for TestDatabase {
    /// Best effort: a server that a test left in disorder goes with its directory anyway. On a thread of its own, for a test's runtime
    /// cannot be waited for from here.
    fn drop(&mut self) {
        let (server, url, name) = (self.server, self.url.clone(), self.name.clone());
        let deleted = async move {
            match server {
                Server::Postgres => {
                    drop(on_postgres(&beside(&url, "postgres"), format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await);
                }
                Server::Redis => drop(delete_keys(&url, &name).await),
                Server::Mongodb => drop(delete_database(&url, &name).await),
                // The shared bucket goes with its server.
                Server::S3 => {}
            }
        };
        let tidy = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _late = runtime.block_on(async { tokio::time::timeout(TIDY, deleted).await });
        });
        let _panicked = tidy.join();
    }
}
