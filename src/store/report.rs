//! How a store stands, for whoever runs it: what it is, how it is set, and what a run that was acknowledged can lose by that.
//!
//! Invariant: looking at a store changes nothing in it, makes none where there is none, and needs no right that the store itself does not
//! need: what a server does not tell is a fact that says so, and no failure. No text has a user, a password or an option of a URL in it.
//!
//! How it fails: with what keeps the store from being used at all.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::{Change, ChangeId, Guard, Index, Kind, Outcome, Put, RecordId, Store, StoreError, When};
use crate::domain::time::Timestamp;

/// How many commits are measured, and for how long at most.
const COMMITS: (usize, Duration) = (9, Duration::from_secs(3));

/// What a setting means for what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "says", rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is to be said of it.
    Fine,
    /// Nothing is lost by it, and it should be known.
    Note(String),
    /// What an acknowledged run can lose by it, and the mend.
    Loses(String),
    /// The server does not tell it; where to look instead.
    Unknown(String),
}

/// One thing about a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is called where it is set.
    pub name: &'static str,
    /// What it is.
    pub value: String,
    /// What that means.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// A schema's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Schema {
    /// What the store has; 0 where there is no store yet.
    pub found: u64,
    /// What this sandclock knows, and brings it to.
    pub known: u64,
}

/// A store as it was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Which of the stores it is.
    pub kind: &'static str,
    /// Where it is, without user and password.
    pub address: String,
    /// What the server, or the library, calls its version.
    pub version: String,
    /// The schema's version; none for a store that has none.
    pub schema: Option<Schema>,
    /// How far the server's clock is ahead of this machine's, in seconds, negative when it is behind; none without a server.
    pub clock_offset_seconds: Option<f64>,
    /// How it is set, in the order in which it is shown.
    pub facts: Vec<Fact>,
    /// What an acknowledged run survives where no fact says otherwise.
    pub survives: String,
}

/// How long commits took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Commits {
    /// How many were measured.
    pub count: usize,
    /// The median, in milliseconds.
    pub median_ms: f64,
    /// The slowest, in milliseconds.
    pub slowest_ms: f64,
}

impl Fact {
    /// A fact of which nothing is to be said.
    pub fn fine(name: &'static str, value: impl Into<String>) -> Fact {
        Fact { name, value: value.into(), verdict: Verdict::Fine }
    }

    /// A fact that should be known.
    pub fn note(name: &'static str, value: impl Into<String>, says: impl Into<String>) -> Fact {
        Fact { name, value: value.into(), verdict: Verdict::Note(says.into()) }
    }

    /// A fact by which something acknowledged can be lost.
    pub fn loses(name: &'static str, value: impl Into<String>, says: impl Into<String>) -> Fact {
        Fact { name, value: value.into(), verdict: Verdict::Loses(says.into()) }
    }

    /// A fact that the server does not tell.
    pub fn unknown(name: &'static str, says: impl Into<String>) -> Fact {
        Fact { name, value: "not told".to_owned(), verdict: Verdict::Unknown(says.into()) }
    }

    /// What is to be said of it.
    pub fn says(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Fine => None,
            Verdict::Note(says) | Verdict::Loses(says) | Verdict::Unknown(says) => Some(says),
        }
    }
}

impl Report {
    /// What an acknowledged run can lose, a sentence each.
    pub fn losses(&self) -> impl Iterator<Item = &str> {
        self.facts.iter().filter_map(|fact| match &fact.verdict {
            Verdict::Loses(says) => Some(says.as_str()),
            _ => None,
        })
    }

    /// The store that keeps nothing.
    pub fn of_memory() -> Report {
        let says = "every run, task and result is lost at each end of the daemon, however it came; use `sqlite` to keep them";
        Report {
            kind: "memory",
            address: "this process".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: None,
            clock_offset_seconds: None,
            facts: vec![Fact::loses("kept", "in this process", says)],
            survives: "nothing".to_owned(),
        }
    }
}

impl Schema {
    /// Whether it is what this sandclock knows.
    pub const fn is_current(self) -> bool {
        self.found == self.known
    }
}

/// How far a server's clock is ahead, in seconds, when it told `server` between two looks at this machine's.
pub fn offset_seconds(asked: Timestamp, server: Timestamp, answered: Timestamp) -> f64 {
    let middle = asked.micros().midpoint(answered.micros());
    // Clocks differ by less than what a fraction holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let micros = server.micros().saturating_sub(middle) as f64;
    micros / 1e6
}

/// Measures guarded commits of a small record, which is deleted again. It is kept as a daemon's, of which one that nobody can read is
/// shown to nobody, and forgotten in time where it could not be deleted.
///
/// # Errors
/// The store does not commit.
pub async fn measure(store: &dyn Store, first: ChangeId) -> Result<Commits, StoreError> {
    let id = RecordId::new(Kind::Daemon, &format!("check-{:032x}", first.0));
    let index = Index { due: Some(When::In(Duration::ZERO)), ..Index::default() };
    let put = Put { id: id.clone(), index, body: Bytes::from_static(b"{\"check\":true}") };
    let begun = Instant::now();
    let (mut took, mut guard, mut rev) = (Vec::new(), Guard::Absent(id.clone()), first.first_rev());
    let mut name = first.0;
    while took.len() < COMMITS.0 && begun.elapsed() < COMMITS.1 {
        let asked = Instant::now();
        commit(store, Change { id: ChangeId(name), guards: vec![guard], puts: vec![put.clone()], deletes: vec![], events: vec![] }).await?;
        took.push(asked.elapsed());
        guard = Guard::Rev(id.clone(), rev);
        rev += 1;
        name = name.wrapping_add(1);
    }
    commit(store, Change { id: ChangeId(name), guards: vec![guard], puts: vec![], deletes: vec![id], events: vec![] }).await?;
    took.sort_unstable();
    let ms = |at: usize| took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1000.0);
    Ok(Commits { count: took.len(), median_ms: ms(took.len() / 2), slowest_ms: ms(took.len().saturating_sub(1)) })
}

async fn commit(store: &dyn Store, change: Change) -> Result<(), StoreError> {
    match store.apply(vec![change]).await?.first() {
        Some(Outcome::Applied) => Ok(()),
        Some(Outcome::Refused(guard)) => Err(StoreError::corrupt(format!("the check's own record is not as it was written ({guard:?})"))),
        None => Err(StoreError::corrupt("a commit was not answered")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::memory::MemoryStore;
    use super::super::{PageRequest, Scope};
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn what_is_measured_is_deleted_again() {
        let store = MemoryStore::new(Arc::new(SystemClock));
        let commits = measure(&store, ChangeId(u128::MAX - 2)).await.unwrap();
        assert_eq!(commits.count, COMMITS.0);
        assert!(commits.median_ms <= commits.slowest_ms);
        let left = store.list(Scope::All(Kind::Daemon), PageRequest::first(10)).await.unwrap();
        assert!(left.records.is_empty(), "{left:?}");
    }

    #[test]
    fn an_offset_is_from_the_middle_of_the_call() {
        let at = Timestamp::from_seconds;
        assert!((offset_seconds(at(100), at(401), at(102)) - 300.0).abs() < 1e-9);
        assert!((offset_seconds(at(100), at(100), at(102)) + 1.0).abs() < 1e-9);
    }

    #[test]
    fn only_what_loses_is_a_loss() {
        let mut report = Report::of_memory();
        report.facts = vec![Fact::fine("a", "1"), Fact::note("b", "2", "n"), Fact::unknown("c", "u"), Fact::loses("d", "3", "l")];
        assert_eq!(report.losses().collect::<Vec<_>>(), ["l"]);
    }
}
