//! How a PostgreSQL server keeps what it acknowledges.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::super::super::StoreError;
use super::super::super::report::{Fact, Report, Schema, offset_seconds};
use super::super::super::server::at_first;
use super::connect::{MIGRATIONS, PATIENCE, alone, supported, version};
use super::errors::Failure;
use super::pool::{Lent, Pool, Server};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::time::Timestamp;

/// What every server tells everybody; the settings as they are for the user of the URL.
const SETTINGS: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, current_setting('server_version'), \
     coalesce(current_setting('synchronous_commit', true), ''), coalesce(current_setting('fsync', true), ''), \
     coalesce(current_setting('full_page_writes', true), ''), coalesce(current_setting('synchronous_standby_names', true), ''), \
     pg_is_in_recovery()";

/// How many standbys follow.
const STANDBYS: &str = "SELECT count(*) FROM pg_stat_replication";

/// How many connections there are, and may be.
const CONNECTIONS: &str = "SELECT sum(numbackends)::bigint, current_setting('max_connections')::bigint FROM pg_stat_database";

/// With fewer connections left than some daemons use, it is told.
const FEW: i64 = 20;

/// The settings that matter.
struct Settings {
    commit: String,
    fsync: String,
    full_pages: String,
    standby_names: String,
    is_standby: bool,
    /// None where the server does not tell.
    standbys: Option<i64>,
    connections: Option<(i64, i64)>,
}

/// Looks at the server and the store, and makes nothing.
pub async fn look(server: &Server) -> Result<Report, StoreError> {
    let pool = Pool::new(server.clone(), 2, PATIENCE);
    let looked = pool
        .bounded(async {
            let mut lent = alone(&pool, server).await?;
            supported(&mut lent, server).await?;
            look_on(&mut lent, server).await
        })
        .await;
    pool.close().await;
    looked.map_err(at_first)
}

async fn look_on(lent: &mut Lent<'_>, server: &Server) -> Result<Report, Failure> {
    let found = version(lent, server).await?;
    let asked = SystemClock.now();
    let rows = lent.fetch(sqlx::query(SETTINGS)).await?;
    let answered = SystemClock.now();
    let row = rows.first().ok_or_else(|| StoreError::corrupt("the server did not tell its settings"))?;
    let settings = Settings {
        commit: row.try_get(2)?,
        fsync: row.try_get(3)?,
        full_pages: row.try_get(4)?,
        standby_names: row.try_get(5)?,
        is_standby: row.try_get(6)?,
        standbys: told(lent, STANDBYS, |row| row.try_get(0)).await?,
        connections: told(lent, CONNECTIONS, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?,
    };
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Ok(Report {
        kind: "postgres",
        address: server.address.0.clone(),
        version: format!("PostgreSQL {}", row.try_get::<String, _>(1)?),
        schema: Some(Schema { found: count(found), known: count(MIGRATIONS.len()) }),
        clock_offset_seconds: Some(offset_seconds(asked, Timestamp::from_micros(row.try_get(0)?), answered)),
        facts: settings.facts(),
        survives: "a run that was acknowledged is in the server's log, synced; it survives the server's and its machine's end".to_owned(),
    })
}

/// What a query tells; none where the server does not let this user know.
async fn told<T>(lent: &mut Lent<'_>, sql: &'static str, of: impl Fn(&PgRow) -> Result<T, sqlx::Error>) -> Result<Option<T>, Failure> {
    match lent.fetch(sqlx::query(sql)).await {
        Ok(rows) => Ok(rows.first().map(of).transpose().ok().flatten()),
        Err(failure @ Failure::Server(sqlx::Error::Database(_))) if !failure.is_broken() => Ok(None),
        Err(failure) => Err(failure),
    }
}

impl Settings {
    fn facts(&self) -> Vec<Fact> {
        vec![self.commit(), self.fsync(), self.full_pages(), self.role(), self.standbys(), self.connections()]
    }

    fn commit(&self) -> Fact {
        match self.commit.as_str() {
            "" => Fact::unknown("synchronous_commit", "the server does not tell it; unless it is `on`, the last second may be lost"),
            "off" => Fact::loses(
                "synchronous_commit",
                "off",
                "what was acknowledged in the last three `wal_writer_delay`, mostly 0.6 s, is lost when the server ends at once; set \
                 `synchronous_commit = on`, for this user alone with ALTER ROLE",
            ),
            on => Fact::fine("synchronous_commit", on),
        }
    }

    fn fsync(&self) -> Fact {
        match self.fsync.as_str() {
            "" => Fact::unknown("fsync", "the server does not tell it; unless it is `on`, its machine's end may take everything"),
            "off" => Fact::loses(
                "fsync",
                "off",
                "when the server's machine ends at once, any part of the database may be lost or damaged; set `fsync = on`",
            ),
            on => Fact::fine("fsync", on),
        }
    }

    fn full_pages(&self) -> Fact {
        match self.full_pages.as_str() {
            "" => Fact::unknown("full_page_writes", "the server does not tell it; unless it is `on`, see that its disk writes pages whole"),
            "off" => Fact::loses(
                "full_page_writes",
                "off",
                "when the server's machine ends at once, pages that were being written are damaged, unless its file system writes them \
                 whole; set `full_page_writes = on`",
            ),
            on => Fact::fine("full_page_writes", on),
        }
    }

    fn role(&self) -> Fact {
        match self.is_standby {
            true => Fact::note("role", "standby", "a standby takes no writes; name the primary in the store's URL"),
            false => Fact::fine("role", "primary"),
        }
    }

    fn standbys(&self) -> Fact {
        let waits = !self.standby_names.is_empty() && !matches!(self.commit.as_str(), "off" | "local");
        match self.standbys {
            _ if waits => Fact::fine("standbys", format!("commits wait for {}", self.standby_names)),
            None => Fact::unknown(
                "standbys",
                "the server does not tell its standbys; if there are any, what they had not received is lost when one of them takes over",
            ),
            Some(0) => Fact::fine("standbys", "none"),
            Some(standbys) => Fact::loses(
                "standbys",
                format!("{standbys}, and commits wait for none"),
                "what had not reached the standby that takes over is lost then; set `synchronous_standby_names`, unless none ever takes over",
            ),
        }
    }

    fn connections(&self) -> Fact {
        match self.connections {
            None => Fact::unknown("connections", "the server does not tell them; a daemon uses up to 8 of `max_connections`"),
            Some((used, most)) if most - used < FEW => Fact::note(
                "connections",
                format!("{used} of {most}"),
                "few are left: a daemon uses up to 8, and waits where it gets none; raise `max_connections`",
            ),
            Some((used, most)) => Fact::fine("connections", format!("{used} of {most}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::super::report::Verdict;
    use super::*;

    fn good() -> Settings {
        let on = || "on".to_owned();
        Settings {
            commit: on(),
            fsync: on(),
            full_pages: on(),
            standby_names: String::new(),
            is_standby: false,
            standbys: Some(0),
            connections: Some((7, 100)),
        }
    }

    fn losing(settings: &Settings) -> Vec<&'static str> {
        settings.facts().iter().filter(|fact| matches!(fact.verdict, Verdict::Loses(_))).map(|fact| fact.name).collect()
    }

    #[test]
    fn each_setting_that_loses_is_told() {
        let off = || "off".to_owned();
        assert_eq!(losing(&good()), [""; 0]);
        assert_eq!(losing(&Settings { commit: off(), ..good() }), ["synchronous_commit"]);
        assert_eq!(losing(&Settings { fsync: off(), ..good() }), ["fsync"]);
        assert_eq!(losing(&Settings { full_pages: off(), ..good() }), ["full_page_writes"]);
        assert_eq!(losing(&Settings { standbys: Some(1), ..good() }), ["standbys"]);
        let names = || "ANY 1 (a, b)".to_owned();
        assert_eq!(losing(&Settings { standbys: Some(1), standby_names: names(), ..good() }), [""; 0]);
        assert_eq!(losing(&Settings { standbys: Some(1), standby_names: names(), commit: "local".to_owned(), ..good() }), ["standbys"]);
    }

    #[test]
    fn what_a_server_does_not_tell_is_no_loss() {
        let nothing = || Settings {
            commit: String::new(),
            fsync: String::new(),
            full_pages: String::new(),
            standbys: None,
            connections: None,
            ..good()
        };
        let unknown = nothing().facts().iter().filter(|fact| matches!(fact.verdict, Verdict::Unknown(_))).count();
        assert_eq!((losing(&nothing()), unknown), (vec![], 5));
    }
}
