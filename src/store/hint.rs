//! Hints: what one daemon tells the others of a store, so that they look before their poll would have them look.
//!
//! Invariant: a hint is a reason to look and nothing more; it may come late, twice or never.
//!
//! How it fails: one that cannot be read is passed over; another release of sandclock may have sent it.

use serde::{Deserialize, Serialize};

use crate::domain::id::{RunId, WorkerId};

/// The most runs of each kind that one hint names; the others' watchers look when their poll comes.
pub const MOST_RUNS: usize = 64;

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// Who tells.
    pub from: Option<WorkerId>,
    /// A run became ready, or room for one appeared.
    pub ready: bool,
    /// A schedule changed.
    pub schedules: bool,
    /// What the store says of agents changed: which digest serves one, a pause, a registration.
    pub agents: bool,
    /// Runs about which something was committed.
    pub runs: Vec<RunId>,
    /// Runs whose cancel was asked for.
    pub cancels: Vec<RunId>,
}

impl Hint {
    /// Adds another one to it.
    pub fn merge(&mut self, other: Hint) {
        self.ready |= other.ready;
        self.schedules |= other.schedules;
        self.agents |= other.agents;
        for (own, others) in [(&mut self.runs, other.runs), (&mut self.cancels, other.cancels)] {
            own.extend(others);
            own.truncate(MOST_RUNS);
        }
    }

    /// Whether it tells of nothing.
    pub fn is_empty(&self) -> bool {
        !self.ready && !self.schedules && !self.agents && self.runs.is_empty() && self.cancels.is_empty()
    }

    /// The hint as it is sent.
    #[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The hint that was sent so; none when it cannot be read.
    #[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
    pub(super) fn of_text(text: &str) -> Option<Hint> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_read_as_it_was_sent_and_stays_small() {
        let run = |number: usize| RunId::parse(&format!("run_{number:032x}")).unwrap();
        let mut hint = Hint { from: Some(WorkerId::parse("worker_a.1").unwrap()), ..Hint::default() };
        assert!(hint.is_empty());
        for number in 0..1000 {
            hint.merge(Hint { ready: true, runs: vec![run(number)], cancels: vec![run(number)], ..Hint::default() });
        }
        assert_eq!((hint.runs.len(), hint.cancels.len(), hint.ready, hint.schedules), (MOST_RUNS, MOST_RUNS, true, false));
        assert!(hint.to_text().len() < 8000, "what PostgreSQL lets a notification have");
        assert_eq!(Hint::of_text(&hint.to_text()), Some(hint));
        assert_eq!(Hint::of_text("{\"later\": 1, \"ready\": true}"), Some(Hint { ready: true, ..Hint::default() }));
        assert_eq!(Hint::of_text("nothing"), None);
    }
}
