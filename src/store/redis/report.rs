//! How a Redis server keeps what it acknowledges.

use std::collections::HashMap;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Cmd, ErrorKind, FromRedisValue, RedisError};

use super::super::StoreError;
use super::super::report::{Fact, Report, Schema, offset_seconds};
use super::super::server::at_first;
use super::link::{Info, Link, VERSION};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::time::Timestamp;

/// The settings that are asked for.
const ASKED: [&str; 4] = ["appendonly", "appendfsync", "save", "no-appendfsync-on-rewrite"];

/// Looks at the server and the store, and makes nothing.
pub async fn look(link: &Link) -> Result<Report, StoreError> {
    let (mut connection, info) = link.bare().await.map_err(at_first)?;
    let failed = |error: RedisError| link.failed(&error);
    let mut version = ::redis::cmd("HGET");
    version.arg(link.key()).arg("version");
    let found: Option<i64> = version.query_async(&mut connection).await.map_err(failed)?;
    link.known(found.unwrap_or(0))?;
    let asked = SystemClock.now();
    let (seconds, micros): (i64, i64) = ::redis::cmd("TIME").query_async(&mut connection).await.map_err(failed)?;
    let server = Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros));
    let clock_offset_seconds = Some(offset_seconds(asked, server, SystemClock.now()));
    let settings = settings(&mut connection).await.map_err(failed)?;
    let count = |version: i64| u64::try_from(version).unwrap_or(0);
    Ok(Report {
        kind: "redis",
        address: format!("Redis at {}, keys {}", link.address(), link.key()),
        version: version_of(&info),
        schema: Some(Schema { found: count(found.unwrap_or(0)), known: count(VERSION) }),
        clock_offset_seconds,
        facts: facts(&info, settings.as_ref()),
        survives: "a run that was acknowledged is in the server's append-only file, synced; it survives the server's and its machine's end"
            .to_owned(),
    })
}

fn version_of(info: &Info) -> String {
    match info.of("valkey_version") {
        "" => format!("Redis {}", info.of("redis_version")),
        valkey => format!("Valkey {valkey}"),
    }
}

/// What is set; none where the server does not tell, as those that somebody else runs often do.
async fn settings(connection: &mut MultiplexedConnection) -> Result<Option<HashMap<String, String>>, RedisError> {
    let mut call: Cmd = ::redis::cmd("CONFIG");
    call.arg("GET").arg(&ASKED);
    match call.query_async::<::redis::Value>(connection).await {
        Ok(value) => Ok(HashMap::from_redis_value(value).ok()),
        Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => Ok(None),
        Err(error) => Err(error),
    }
}

fn facts(info: &Info, settings: Option<&HashMap<String, String>>) -> Vec<Fact> {
    let set = |name: &str| settings.and_then(|settings| settings.get(name)).map(String::as_str);
    let mut facts = persistence(info, &set);
    facts.push(eviction(info));
    facts.push(memory(info));
    facts.push(replication(info));
    facts
}

fn persistence<'a>(info: &Info, set: &impl Fn(&str) -> Option<&'a str>) -> Vec<Fact> {
    let is_on = set("appendonly").map_or(info.of("aof_enabled") == "1", |set| set == "yes");
    if !is_on {
        return vec![without_file(set("save"))];
    }
    let mut facts = vec![Fact::fine("appendonly", "yes"), sync(set("appendfsync"))];
    if set("no-appendfsync-on-rewrite") == Some("yes") && set("appendfsync") != Some("no") {
        let says = "while the server rewrites its append-only file it syncs nothing: what it acknowledged meanwhile is lost when its \
                    machine ends; set `no-appendfsync-on-rewrite no`";
        facts.push(Fact::loses("no-appendfsync-on-rewrite", "yes", says));
    }
    if !matches!(info.of("aof_last_write_status"), "ok" | "") {
        let says = "the server could not write its append-only file, and takes nothing until it can; see its disk and its log";
        facts.push(Fact::note("aof_last_write_status", info.of("aof_last_write_status"), says));
    }
    facts
}

/// Without an append-only file.
fn without_file(save: Option<&str>) -> Fact {
    let kept = match save {
        Some("") => "nothing is kept on a disk: every run is lost when the server ends",
        _ => "at most snapshots are kept: what was acknowledged since the last one is lost when the server ends, however recent it is",
    };
    let value = match save {
        None => "no".to_owned(),
        Some("") => "no, and no snapshots".to_owned(),
        Some(save) => format!("no, and snapshots (save {save})"),
    };
    Fact::loses("appendonly", value, format!("{kept}; set `appendonly yes` and `appendfsync always`"))
}

fn sync(set: Option<&str>) -> Fact {
    match set {
        Some("always") => Fact::fine("appendfsync", "always"),
        Some("everysec") => Fact::loses(
            "appendfsync",
            "everysec",
            "the last second of what was acknowledged, two where the disk is slow, is lost when the server's machine ends at once; set \
             `appendfsync always` where that is too much",
        ),
        Some(other) => Fact::loses(
            "appendfsync",
            other,
            "what was acknowledged since the system last wrote to the disk, half a minute or more, is lost when the server's machine ends at \
             once; set `appendfsync always`, or at least `everysec`",
        ),
        None => Fact::unknown(
            "appendfsync",
            "the server does not tell it (`CONFIG GET` is not allowed); unless whoever runs it says `always`, the last second may be lost",
        ),
    }
}

fn eviction(info: &Info) -> Fact {
    match info.of("maxmemory_policy") {
        "" => Fact::unknown("maxmemory-policy", "the server does not tell it; see that it is `noeviction`, for any other may delete runs"),
        "noeviction" => Fact::fine("maxmemory-policy", "noeviction"),
        // No key of a store has an expiry.
        policy if policy.starts_with("volatile-") => Fact::note(
            "maxmemory-policy",
            policy,
            "keys of the store have no expiry, so none is evicted; a server at maxmemory takes nothing new, as with `noeviction`",
        ),
        policy => Fact::loses(
            "maxmemory-policy",
            policy,
            "a server that reaches maxmemory deletes runs, tasks and what leads to them, acknowledged or not, and the store is damaged; set \
             `maxmemory-policy noeviction`",
        ),
    }
}

fn memory(info: &Info) -> Fact {
    let most = match info.of("maxmemory") {
        "0" | "" => "no maxmemory".to_owned(),
        _ => format!("maxmemory {}", info.of("maxmemory_human")),
    };
    Fact::fine("memory", format!("{} used, {most}", info.of("used_memory_human")))
}

fn replication(info: &Info) -> Fact {
    let replicas = info.of("connected_slaves");
    match (info.of("role"), replicas) {
        ("master", "0" | "") => Fact::fine("role", "primary without replicas"),
        ("master", _) => Fact::loses(
            "role",
            format!("primary, replicas: {replicas}"),
            "replicas follow a moment behind: what had not reached the one that a failover makes the primary is lost; where that is too much, \
             use PostgreSQL with a synchronous standby, or MongoDB",
        ),
        (role, _) => Fact::note("role", role, "a replica takes no writes; name the primary in the store's URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::report::Verdict;
    use super::*;

    fn facts_of(info: &str, settings: Option<&[(&str, &str)]>) -> Vec<Fact> {
        let settings = settings.map(|pairs| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        facts(&Info(info.replace(' ', "\r\n")), settings.as_ref())
    }

    fn losing(facts: &[Fact]) -> Vec<&str> {
        facts.iter().filter(|fact| matches!(fact.verdict, Verdict::Loses(_))).map(|fact| fact.name).collect()
    }

    const GOOD: &str = "aof_enabled:1 aof_last_write_status:ok maxmemory_policy:noeviction maxmemory:0 role:master connected_slaves:0";

    #[test]
    fn each_setting_that_loses_is_told() {
        let always: &[(&str, &str)] = &[("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")];
        assert_eq!(losing(&facts_of(GOOD, Some(always))), [""; 0]);
        for (name, value, lost) in [
            ("appendonly", "no", "appendonly"),
            ("appendfsync", "everysec", "appendfsync"),
            ("appendfsync", "no", "appendfsync"),
            ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite"),
        ] {
            let settings: Vec<(&str, &str)> = always.iter().map(|pair| if pair.0 == name { (name, value) } else { *pair }).collect();
            assert_eq!(losing(&facts_of(GOOD, Some(&settings))), [lost], "{name} {value}");
        }
        for (from, to, lost) in [
            ("maxmemory_policy:noeviction", "maxmemory_policy:allkeys-lru", Some("maxmemory-policy")),
            ("maxmemory_policy:noeviction", "maxmemory_policy:volatile-lru", None),
            ("connected_slaves:0", "connected_slaves:2", Some("role")),
        ] {
            assert_eq!(losing(&facts_of(&GOOD.replace(from, to), Some(always))), lost.into_iter().collect::<Vec<_>>(), "{to}");
        }
    }

    #[test]
    fn a_server_that_does_not_tell_is_judged_by_what_it_does() {
        let facts = facts_of(GOOD, None);
        assert_eq!(losing(&facts), [""; 0]);
        assert!(facts.iter().any(|fact| fact.name == "appendfsync" && matches!(fact.verdict, Verdict::Unknown(_))), "{facts:?}");
        assert_eq!(losing(&facts_of(&GOOD.replace("aof_enabled:1", "aof_enabled:0"), None)), ["appendonly"]);
    }
}
