//! Counts and hashes of all that was moved, kind by kind.
//!
//! Invariant: two stores that hold the same records in the same order have equal digests, whatever the stores are and however their
//! pages fall.

use std::collections::BTreeMap;

use super::{Page, line};
use crate::domain::run::Status;
use crate::store::Kind;

/// How events are called among the kinds.
const EVENTS: &str = "event";

/// How many there are of a kind, and what they come to.
#[derive(Clone, Debug)]
pub struct Tally {
    /// How many.
    pub count: u64,
    hasher: blake3::Hasher,
}

impl Tally {
    fn take(&mut self, line: &[u8]) {
        self.count += 1;
        self.hasher.update(line);
    }

    /// The hash of all of them in order.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// Counts and hashes by kind, events among them.
#[derive(Clone, Debug, Default)]
pub struct Digest {
    kinds: BTreeMap<&'static str, Tally>,
    runs: BTreeMap<Status, u64>,
    /// The latest fence of all.
    pub last_fence: u64,
    /// The bytes of all bodies.
    pub bytes: u64,
}

impl Digest {
    /// Takes a page in, and gives every line of it to `each`.
    pub fn take(&mut self, page: &Page, mut each: impl FnMut(&[u8])) {
        for whole in &page.records {
            let line = line::of_record(whole);
            self.tally(whole.row.id.kind.as_str()).take(&line);
            if let (Kind::Run, Some(status)) = (whole.row.id.kind, whole.row.known.index.status) {
                *self.runs.entry(status).or_default() += 1;
            }
            self.last_fence = self.last_fence.max(whole.row.known.fence);
            each(&line);
        }
        for event in &page.events {
            let line = line::of_event(event);
            self.tally(EVENTS).take(&line);
            each(&line);
        }
        self.bytes += page.bytes() as u64;
    }

    fn tally(&mut self, kind: &'static str) -> &mut Tally {
        self.kinds.entry(kind).or_insert_with(|| Tally { count: 0, hasher: blake3::Hasher::new() })
    }

    /// The kinds that there are any of, by name, events among them.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, &Tally)> {
        self.kinds.iter().map(|(kind, tally)| (*kind, tally))
    }

    /// How many there are of all kinds together.
    pub fn total(&self) -> u64 {
        self.kinds.values().map(|tally| tally.count).sum()
    }

    /// How many records there are of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.kinds.get(kind.as_str()).map_or(0, |tally| tally.count)
    }

    /// How many runs have which status.
    pub fn runs(&self) -> &BTreeMap<Status, u64> {
        &self.runs
    }

    /// The first kind of which the other has more, fewer or different ones.
    pub fn difference(&self, other: &Digest) -> Option<&'static str> {
        let differs = |kind: &&'static str| match (self.kinds.get(kind), other.kinds.get(kind)) {
            (Some(own), Some(others)) => own.count != others.count || own.hash() != others.hash(),
            _ => true,
        };
        self.kinds.keys().chain(other.kinds.keys()).copied().find(differs)
    }
}
