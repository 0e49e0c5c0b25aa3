//! How a MongoDB replica set keeps what it acknowledges.

use std::sync::Arc;

use ::mongodb::bson::{Document, doc};

use super::super::report::{Fact, Report, Schema, offset_seconds};
use super::super::server::at_first;
use super::super::{Store as _, StoreError};
use super::connect::{SCHEMA, reach};
use super::{MongoOptions, MongoStore, ServerClock};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::time::Timestamp;

/// Looks at the server and the store, and makes nothing.
pub async fn look(url: &str, options: &MongoOptions) -> Result<Report, StoreError> {
    let store = reach(url, options, ServerClock::of_server(Arc::new(SystemClock))).await?;
    let looked = store.bounded(store.look_on()).await;
    store.close().await;
    looked.map_err(at_first)
}

impl MongoStore {
    async fn look_on(&self) -> Result<Report, StoreError> {
        // The first connection takes a while, which is none of the clocks'.
        self.check_server().await?;
        let asked = SystemClock.now();
        let hello = self.check_server().await?;
        let answered = SystemClock.now();
        let found = self.version().await?;
        let about = self.told(doc! { "buildInfo": 1 }).await?.unwrap_or_default();
        let status = self.told(doc! { "serverStatus": 1, "repl": 0, "metrics": 0, "wiredTiger": 0 }).await?;
        let set = self.told(doc! { "replSetGetStatus": 1 }).await?;
        let told = hello.get_datetime("localTime").ok().map(|time| Timestamp::from_micros(time.timestamp_millis().saturating_mul(1000)));
        let count = |version: i64| u64::try_from(version).unwrap_or(0);
        Ok(Report {
            kind: "mongodb",
            address: self.server.to_string(),
            version: format!("MongoDB {}", about.get_str("version").unwrap_or("of a version that is not told")),
            schema: Some(Schema { found: count(found), known: count(SCHEMA) }),
            clock_offset_seconds: told.map(|server| offset_seconds(asked, server, answered)),
            facts: facts(&hello, status.as_ref(), set.as_ref()),
            survives: match names(&hello, "hosts").len() {
                0 | 1 => {
                    "a run that was acknowledged is in the journal of the one member; it survives the member's end, and not its disk's"
                }
                _ => "a run that was acknowledged is in the journals of most members; it survives the end of all at once, and a failover",
            }
            .to_owned(),
        })
    }

    /// What the server answers; none where it does not let this user know.
    async fn told(&self, command: Document) -> Result<Option<Document>, StoreError> {
        match self.client.database("admin").run_command(command).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if super::errors::code(&error).is_some() => Ok(None),
            Err(error) => Err(self.server.failed(&error)),
        }
    }
}

fn names<'a>(hello: &'a Document, list: &str) -> Vec<&'a str> {
    hello.get_array(list).map(|names| names.iter().filter_map(|name| name.as_str()).collect()).unwrap_or_default()
}

fn facts(hello: &Document, status: Option<&Document>, set: Option<&Document>) -> Vec<Fact> {
    let concern = "majority, in the journal; asked for with every write, whatever the server's default is";
    vec![
        topology(hello),
        members(set),
        Fact::fine("primary", hello.get_str("primary").unwrap_or("none")),
        Fact::fine("write concern", concern),
        engine(status),
        connections(status),
    ]
}

fn topology(hello: &Document) -> Fact {
    let hosts = names(hello, "hosts");
    let arbiters = names(hello, "arbiters").len();
    let value = format!("{}: {}", hello.get_str("setName").unwrap_or_default(), hosts.join(", "));
    match (hosts.len(), arbiters) {
        (0 | 1, _) => Fact::note("replica set", value, "one member: nothing goes on while it is away, and its disk has the only copy"),
        (_, 0) => Fact::fine("replica set", value),
        (_, _) => {
            let says = "an arbiter keeps no data: while another member is away no write may find its majority, and nothing goes on";
            Fact::note("replica set", format!("{value}, and arbiters: {arbiters}"), says)
        }
    }
}

fn members(set: Option<&Document>) -> Fact {
    let Some(members) = set.and_then(|set| set.get_array("members").ok()) else {
        return Fact::unknown("members", "the server does not tell them without the role clusterMonitor; see rs.status()");
    };
    let is_well = |member: &Document| member.get_f64("health").is_ok_and(|health| health > 0.0);
    let well = members.iter().filter_map(|member| member.as_document()).filter(|member| is_well(member)).count();
    let value = format!("{well} of {} reachable", members.len());
    if well == members.len() {
        Fact::fine("members", value)
    } else {
        Fact::note("members", value, "without a majority of them nothing is written; see rs.status()")
    }
}

fn engine(status: Option<&Document>) -> Fact {
    let Some(engine) = status.and_then(|status| status.get_document("storageEngine").ok()) else {
        return Fact::unknown("storage engine", "the server does not tell it without the role clusterMonitor; see that it is not inMemory");
    };
    let name = engine.get_str("name").unwrap_or_default();
    match engine.get_bool("persistent") {
        Ok(false) => Fact::loses(
            "storage engine",
            name,
            "nothing is kept on a disk: every run is lost when most members end; use the engine wiredTiger",
        ),
        Ok(true) | Err(_) => Fact::fine("storage engine", name),
    }
}

fn connections(status: Option<&Document>) -> Fact {
    let Some(connections) = status.and_then(|status| status.get_document("connections").ok()) else {
        return Fact::unknown("connections", "the server does not tell them without the role clusterMonitor");
    };
    let number = |name: &str| connections.get_i32(name).unwrap_or(0);
    Fact::fine("connections", format!("{} of {}", number("current"), number("current").saturating_add(number("available"))))
}

#[cfg(test)]
mod tests {
    use super::super::super::report::Verdict;
    use super::*;

    fn fact<'a>(facts: &'a [Fact], name: &str) -> &'a Fact {
        facts.iter().find(|fact| fact.name == name).unwrap()
    }

    #[test]
    fn an_engine_without_a_disk_loses_everything() {
        let hello = doc! { "setName": "s", "hosts": ["a:1", "b:1", "c:1"], "primary": "a:1" };
        let status = |persistent: bool| doc! { "storageEngine": { "name": "x", "persistent": persistent } };
        let losing = |status: Document| matches!(fact(&facts(&hello, Some(&status), None), "storage engine").verdict, Verdict::Loses(_));
        assert!(losing(status(false)) && !losing(status(true)));
    }

    #[test]
    fn what_a_server_does_not_tell_is_no_loss() {
        let facts = facts(&doc! { "setName": "s", "hosts": ["a:1"] }, None, None);
        let unknown = facts.iter().filter(|fact| matches!(fact.verdict, Verdict::Unknown(_))).count();
        assert_eq!(unknown, 3, "{facts:?}");
        assert!(matches!(fact(&facts, "replica set").verdict, Verdict::Note(_)));
    }

    #[test]
    fn members_that_are_away_are_told() {
        let set = doc! { "members": [{ "health": 1.0 }, { "health": 0.0 }] };
        let members = members(Some(&set));
        assert_eq!(members.value, "1 of 2 reachable");
        assert!(matches!(members.verdict, Verdict::Note(_)));
    }
}
