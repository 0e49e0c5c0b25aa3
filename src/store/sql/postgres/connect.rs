//! Connecting: the server is one that we know how to use, and its schema is this version's.
//!
//! Invariant: several daemons may start on a new database at once; each finds the schema whole.
//!
//! How it fails: what no waiting mends is [`StoreError::Invalid`], one sentence with the mend; a server that cannot be reached now is
//! [`StoreError::Unavailable`].

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

use super::super::super::StoreError;
use super::super::super::server::at_first;
use super::SCHEMA;
use super::errors::{Address, Failure};
use super::pool::{Lent, Pool, Server};

/// The schema's versions, oldest first; each brings the one before it forward.
pub const MIGRATIONS: [&str; 2] =
    [include_str!("../migrations/postgres/0001_records.sql"), include_str!("../migrations/postgres/0002_buckets.sql")];

/// The oldest server that has what we use.
const OLDEST: i32 = 140_000;

/// What every connection begins with. What a transaction holds must not outlive a daemon that stands still in it, so others wait longer
/// for a lock than the server waits for a transaction. Every statement is made for nested loops along an index, so its plan must not
/// turn to another with what the server has counted.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; SET idle_in_transaction_session_timeout = '5s'; \
     SET lock_timeout = '6s'; SET statement_timeout = '10s'; SET plan_cache_mode = force_generic_plan; SET jit = off; \
     SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET enable_material = off; SET search_path = ";

/// How long connecting may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What stands before what a URL says.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What the URL says, with our settings.
pub fn server(url: &str) -> Result<Server, StoreError> {
    let wrong = |why: &str| {
        StoreError::Invalid(format!(
            "the store's URL is not one of PostgreSQL: {why}; it has the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE, \
             and what is not a letter or a digit in the password is percent-encoded"
        ))
    };
    if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(wrong("it begins otherwise"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(why) => wrong(&why.to_string()),
        _ => wrong("it cannot be read"),
    })?;
    // A slash in a password ends the host, so that what follows is taken for the database.
    if options.get_database().is_some_and(|name| name.contains('@')) {
        return Err(wrong("there is an @ in the name of its database"));
    }
    let options = match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("sandclock"),
    };
    // Poolers refuse what they do not know, and no number of ours has digits that it is about.
    let options = options.extra_float_digits(None);
    let place = options.get_socket().map_or_else(|| options.get_host().to_owned(), |path| path.display().to_string());
    let database = options.get_database().unwrap_or_default();
    let address = Address(format!("the PostgreSQL database {place}:{}/{database}", options.get_port()));
    Ok(Server { options: options.disable_statement_logging(), address, settings: format!("{SETTINGS}{SCHEMA}") })
}

/// Sees to it that the schema is there and is this version's.
pub async fn prepare(server: &Server) -> Result<(), StoreError> {
    let pool = Pool::new(server.clone(), 2, PATIENCE);
    let prepared = pool.bounded(async {
        let mut lent = alone(&pool, server).await?;
        supported(&mut lent, server).await?;
        if version(&mut lent, server).await? != MIGRATIONS.len() {
            migrate(&mut lent, server).await?;
        }
        Ok(())
    });
    let prepared = prepared.await;
    pool.close().await;
    prepared.map_err(at_first)
}

/// A connection that has a session of the server for itself. Behind a pooler that lends sessions by the transaction, two that are open
/// at once share one, and nothing that we set, lock, prepare or listen to stays ours.
pub async fn alone<'a>(pool: &'a Pool, Server { address, .. }: &Server) -> Result<Lent<'a>, Failure> {
    let mut lent = pool.begin("").await?;
    let session = lent.session().await?;
    let mut other = pool.begin("").await?;
    if session == other.session().await? || session != lent.session().await? {
        return Err(StoreError::Invalid(format!(
            "{} is behind a pooler that lends sessions by the transaction; sandclock needs sessions of its own: set its pool_mode to \
             session (PgBouncer), or name the server itself in the store's URL",
            address.0
        ))
        .into());
    }
    Ok(lent)
}

/// Refuses a server that is too old.
pub async fn supported(lent: &mut Lent<'_>, Server { address, .. }: &Server) -> Result<(), Failure> {
    for row in lent.fetch(sqlx::query("SELECT current_setting('server_version_num')::int, current_setting('server_version')")).await? {
        if row.try_get::<i32, _>(0)? < OLDEST {
            let found: String = row.try_get(1)?;
            return Err(StoreError::Invalid(format!("{} is version {found}; sandclock needs PostgreSQL 14 or later", address.0)).into());
        }
    }
    Ok(())
}

/// The schema's version; 0 where there is none.
pub async fn version(lent: &mut Lent<'_>, Server { address, .. }: &Server) -> Result<usize, Failure> {
    let table = format!("{SCHEMA}.schema_version");
    let found = lent.fetch(sqlx::query("SELECT to_regclass($1) IS NOT NULL").bind(table)).await?;
    if !found.iter().map(|row| row.try_get(0)).collect::<Result<Vec<bool>, _>>()?.contains(&true) {
        return Ok(0);
    }
    let rows = lent.fetch(sqlx::query("SELECT max(version) FROM schema_version")).await?;
    let found = rows.first().map(|row| row.try_get::<Option<i64>, _>(0)).transpose()?.flatten().unwrap_or(0);
    match usize::try_from(found) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(StoreError::Invalid(format!(
            "the store in {} has schema version {found} and this sandclock knows {}; run the newer sandclock",
            address.0,
            MIGRATIONS.len()
        ))
        .into()),
    }
}

/// Brings the schema forward, one daemon at a time. The lock is older than the transaction, so that this one sees what the one before did.
async fn migrate(lent: &mut Lent<'_>, server: &Server) -> Result<(), Failure> {
    lent.run(&format!("SELECT pg_advisory_lock({})", super::lock_key("schema"))).await?;
    lent.run("BEGIN").await?;
    let done = version(lent, server).await?;
    if done == 0 {
        // Who may not create schemas may have been given one.
        let found = lent.fetch(sqlx::query("SELECT FROM pg_namespace WHERE nspname = $1").bind(SCHEMA)).await?;
        if found.is_empty() {
            lent.run(&format!("CREATE SCHEMA {SCHEMA}")).await?;
        }
        lent.run("CREATE TABLE schema_version (version bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())").await?;
    }
    for (number, sql) in (1..).zip(MIGRATIONS).skip(done) {
        lent.run(&format!("{sql}; INSERT INTO schema_version (version) VALUES ({number})")).await?;
    }
    lent.run("COMMIT").await
}
