//! Counts attempts of a digest that crash in a row, and holds it back on this daemon from the moment that it is one too many.
//!
//! Invariant: what holds a digest back for good is in the store, written with the outcome of the attempt that tripped it; a mark here only
//! bridges the time until the follower has seen that.
//!
//! How it fails: the count is this daemon's own and ends with it, so several daemons, or one that is started again, may make more attempts.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::id::AgentId;
use crate::domain::policy::ErrorKind;
use crate::sandbox::Ended;

type Key = (AgentId, String);

/// What one attempt's end says of its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Crash,
    Well,
    /// Nothing, such as a cancel.
    None,
}

fn sign(ended: &Ended) -> Sign {
    match ended {
        Ended::Failed { kind: ErrorKind::Trap | ErrorKind::Memory | ErrorKind::AgentMissing, .. } => Sign::Crash,
        // The host's own fault.
        Ended::Failed { kind: ErrorKind::Host, .. } | Ended::Cancelled { .. } | Ended::Stopped(_) => Sign::None,
        Ended::Completed(_) | Ended::Failed { .. } | Ended::TimedOut | Ended::Parked(_) => Sign::Well,
    }
}

#[derive(Default)]
struct State {
    in_a_row: HashMap<Key, u32>,
    /// Held back until the follower's look of that number is done; none until the outcome is committed.
    marks: HashMap<Key, Option<u64>>,
}

/// The counts of one daemon.
#[derive(Default)]
pub(super) struct Crashes(Mutex<State>);

impl Crashes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an end; answers with the number in a row where it is one too many. `after` 0 is never.
    pub(super) fn note(&self, agent: &AgentId, digest: &str, ended: &Ended, after: u32) -> Option<u32> {
        let key = (agent.clone(), digest.to_owned());
        let mut state = self.state();
        match sign(ended) {
            Sign::None => return None,
            Sign::Well => {
                state.in_a_row.remove(&key);
                return None;
            }
            Sign::Crash => {}
        }
        let count = state.in_a_row.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        let count = *count;
        if after == 0 || count < after {
            return None;
        }
        state.in_a_row.remove(&key);
        state.marks.insert(key, None);
        Some(count)
    }

    /// Whether the digest is held back here already.
    pub(super) fn is_marked(&self, agent: &AgentId, digest: &str) -> bool {
        let state = self.state();
        !state.marks.is_empty() && state.marks.contains_key(&(agent.clone(), digest.to_owned()))
    }

    /// The outcome of the attempt that tripped it was committed, and the look of this number will see it; or it was not.
    pub(super) fn settle(&self, agent: &AgentId, digest: &str, seen_by: Option<u64>) {
        let key = (agent.clone(), digest.to_owned());
        let mut state = self.state();
        match seen_by {
            Some(look) => drop(state.marks.insert(key, Some(look))),
            None => drop(state.marks.remove(&key)),
        }
    }

    /// A look is done: the store's word stands from now on. Counts of what was let go since the last look begin anew.
    pub(super) fn looked(&self, look: u64, let_go: &HashSet<AgentId>) {
        let mut state = self.state();
        state.marks.retain(|_, seen_by| seen_by.is_none_or(|by| by > look));
        state.in_a_row.retain(|(agent, _), _| !let_go.contains(agent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind) -> Ended {
        Ended::Failed { kind, message: String::new(), after: None }
    }

    #[test]
    fn crashes_count_in_a_row_by_digest_and_trip_exactly_once() {
        let (crashes, agent) = (Crashes::default(), AgentId::parse("a").unwrap());
        let note = |digest: &str, ended: &Ended| crashes.note(&agent, digest, ended, 3);
        let trap = failed(ErrorKind::Trap);
        assert_eq!([note("one", &trap), note("one", &failed(ErrorKind::Memory)), note("two", &trap)], [None; 3]);
        assert_eq!(note("one", &failed(ErrorKind::GuestPermanent)), None, "what a guest declares is no crash and ends the row");
        assert_eq!([note("one", &trap), note("one", &trap)], [None; 2]);
        for nothing in [Ended::Cancelled { message: String::new() }, failed(ErrorKind::Host)] {
            assert_eq!(note("one", &nothing), None);
        }
        assert!(!crashes.is_marked(&agent, "one"));
        assert_eq!(note("one", &failed(ErrorKind::AgentMissing)), Some(3));
        assert!(crashes.is_marked(&agent, "one") && !crashes.is_marked(&agent, "two"));
        crashes.looked(8, &HashSet::new());
        assert!(crashes.is_marked(&agent, "one"), "it is not committed yet");
        crashes.settle(&agent, "one", Some(9));
        crashes.looked(8, &HashSet::new());
        assert!(crashes.is_marked(&agent, "one"));
        crashes.looked(9, &HashSet::new());
        assert!(!crashes.is_marked(&agent, "one"));
        assert_eq!(note("two", &trap), None);
        crashes.looked(10, &HashSet::from([agent.clone()]));
        assert_eq!([note("two", &trap), note("two", &trap)], [None; 2], "counted anew");
        assert_eq!((0..100).find_map(|_| crashes.note(&agent, "three", &trap, 0)), None);
    }
}
