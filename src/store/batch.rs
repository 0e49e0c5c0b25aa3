//! A batch of changes, decided in order against what a database holds: the same decisions for every store that keeps its records elsewhere.
//!
//! Invariant: a change is judged after those before it in the batch; what the database is to hold afterwards is written once per
//! record, whatever the number of changes that touched it. Whoever uses it sees to it that what was learned is still so in the commit.
//!
//! How it fails: a change whose guard does not hold leaves no trace.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::request::Times;
use super::{Change, ChangeId, CountScope, Guard, Index, Kind, Outcome, Put, RecordId, StoreError, When};
use crate::domain::event::Event;
use crate::domain::id::RunId;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// What is known of a record that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its place among all records.
    pub order: i64,
    /// How many decisions were made about it.
    pub rev: u64,
    /// What it is found by; the due time is left out.
    pub index: Index,
    /// The run's latest fence.
    pub fence: u64,
    /// When the run's lease was last taken or renewed.
    pub heartbeat_at: Option<Timestamp>,
    /// When the run's lease ends; none when it has none.
    pub until: Option<Timestamp>,
    /// The number of the run's last event.
    pub last_event: u64,
}

/// A record as the batch leaves it.
#[derive(Default)]
struct Entry {
    now: Option<Known>,
    /// What is to be written; none when the database holds it already.
    put: Option<Written>,
    /// Whether the database has it where it belongs: its task, agent and run have not changed.
    settled: bool,
}

/// A record's new contents.
struct Written {
    change: Option<ChangeId>,
    due: Option<Timestamp>,
    body: Bytes,
}

/// A record by its place and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its place among all records.
    pub order: i64,
    /// Its name.
    pub id: RecordId,
}

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Its run.
    pub run: Named,
    /// Its number.
    pub sequence: u64,
    /// JSON.
    pub body: Vec<u8>,
}

/// A record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub id: RecordId,
    /// What is known of it from now on.
    pub known: Known,
    /// The change that wrote it; none when that was a claim.
    pub change: Option<ChangeId>,
    /// When something is to be done about it.
    pub due: Option<Timestamp>,
    /// JSON.
    pub body: Bytes,
}

impl Row {
    /// Whether it is a run that is not terminal.
    pub fn live(&self) -> bool {
        self.id.kind == Kind::Run && self.known.index.status.is_some_and(|status| !status.is_terminal())
    }
}

/// Changes on their way into the tables.
pub struct Batch {
    entries: HashMap<RecordId, Entry, RandomState>,
    /// The names to be looked up, in order.
    wanted: Vec<RecordId>,
    /// The records that hang on a run.
    hanging: HashMap<String, Vec<RecordId>, RandomState>,
    /// Records that the database is to lose.
    deleted: Vec<Named>,
    /// The orders of all records that are gone, new ones too.
    gone: HashSet<i64>,
    unleased: Vec<Named>,
    leased: Vec<Named>,
    events: Vec<EventRow>,
    counts: HashMap<(CountScope, Option<Status>), i64, RandomState>,
    last_order: i64,
    fences_above: u64,
}

/// What counts change by: of a scope, and in it of a status where the records have one.
pub type Delta = (CountScope, Option<Status>, i64);

/// What a batch writes.
#[derive(Debug, Default)]
pub struct Writes {
    /// Records to delete.
    pub deleted: Vec<Named>,
    /// Runs that lose their lease.
    pub unleased: Vec<Named>,
    /// Records to write that are new or have moved to another task, agent or run.
    pub records: Vec<Row>,
    /// Records to write that are where they were.
    pub settled: Vec<Row>,
    /// Events to append.
    pub events: Vec<EventRow>,
    /// Runs that are leased now.
    pub leased: Vec<Named>,
    /// What counts change by.
    pub counts: Vec<Delta>,
    /// The last order that was given.
    pub last_order: i64,
}

impl Writes {
    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.deleted.is_empty() && self.unleased.is_empty() && self.records.is_empty() && self.settled.is_empty() && self.events.is_empty()
    }
}

impl Batch {
    /// An empty batch; orders above `last_order` are free.
    pub fn new(last_order: i64) -> Self {
        Batch {
            entries: HashMap::default(),
            wanted: Vec::new(),
            hanging: HashMap::default(),
            deleted: Vec::new(),
            gone: HashSet::new(),
            unleased: Vec::new(),
            leased: Vec::new(),
            events: Vec::new(),
            counts: HashMap::default(),
            last_order,
            fences_above: 0,
        }
    }

    /// The same, with the fences that it gives above this one.
    pub fn with_fences_above(mut self, fence: u64) -> Self {
        self.fences_above = fence;
        self
    }

    /// What every fence that it gives lies above.
    pub fn fences_above(&self) -> u64 {
        self.fences_above
    }

    /// Says that orders above this one are free, before anything is put.
    #[cfg(any(feature = "mongodb", feature = "postgres"))]
    pub fn begin_above(&mut self, last_order: i64) {
        self.last_order = last_order;
    }

    /// Notes that a record's state is needed.
    pub fn want(&mut self, id: &RecordId) {
        if !self.entries.contains_key(id) {
            self.entries.insert(id.clone(), Entry::default());
            self.wanted.push(id.clone());
        }
    }

    /// Notes what a change needs.
    pub fn want_change(&mut self, change: &Change) {
        for guard in &change.guards {
            match guard {
                Guard::Rev(id, _) | Guard::Absent(id) => self.want(id),
                Guard::Held(run, _) => self.want(&RecordId::run(run)),
            }
        }
        change.puts.iter().for_each(|put| self.want(&put.id));
        change.events.iter().for_each(|(run, _)| self.want(&RecordId::run(run)));
        for id in &change.deletes {
            self.want(id);
            if id.kind == Kind::Run {
                self.hanging.entry(id.key.to_string()).or_default();
            }
        }
    }

    /// The names to be looked up.
    pub fn wanted(&self) -> &[RecordId] {
        &self.wanted
    }

    /// The keys of runs whose hanging records are to be looked up.
    pub fn wanted_hanging(&self) -> impl Iterator<Item = &str> {
        self.hanging.keys().map(String::as_str)
    }

    /// Takes in what the database holds.
    pub fn learn(&mut self, id: RecordId, known: Known) {
        if let Some(run) = &known.index.run {
            let of_run = self.hanging.entry(run.as_str().to_owned()).or_default();
            if !of_run.contains(&id) {
                of_run.push(id.clone());
            }
        }
        let entry = self.entries.entry(id).or_default();
        entry.now = Some(known);
        entry.settled = true;
    }

    /// Whether anything is to be put.
    pub fn has_puts(&self) -> bool {
        self.entries.values().any(|entry| entry.put.is_some())
    }

    /// What is known of a record now.
    pub fn known(&self, id: &RecordId) -> Option<&Known> {
        self.entries.get(id)?.now.as_ref()
    }

    fn holds(&self, guard: &Guard, steady: Timestamp) -> bool {
        match guard {
            Guard::Rev(id, rev) => self.known(id).is_some_and(|known| known.rev == *rev),
            Guard::Absent(id) => self.known(id).is_none(),
            Guard::Held(run, fence) => self
                .known(&RecordId::run(run))
                .is_some_and(|known| known.fence == *fence && known.until.is_some_and(|until| until > steady)),
        }
    }

    /// Judges a change and takes it in if its guards hold.
    ///
    /// # Errors
    /// An event cannot be written as JSON.
    pub(super) fn decide(&mut self, change: Change, Times { now, steady }: Times) -> Result<Outcome, StoreError> {
        if let Some(guard) = change.guards.iter().find(|guard| !self.holds(guard, steady)) {
            return Ok(Outcome::Refused(guard.clone()));
        }
        for put in change.puts {
            self.put(put, Some(change.id), now);
        }
        for (run, event) in &change.events {
            self.append(run, event)?;
        }
        for id in &change.deletes {
            self.delete(id);
        }
        Ok(Outcome::Applied)
    }

    /// Writes a record whole.
    pub fn put(&mut self, put: Put, change: Option<ChangeId>, now: Timestamp) {
        let Put { id, mut index, body } = put;
        let due = index.due.take().map(|when| match when {
            When::At(at) => at,
            When::In(span) => now + span,
        });
        let leased = index.status.is_some_and(Status::is_leased);
        index.ready &= id.kind == Kind::Run && !leased;
        let entry = self.entries.entry(id.clone()).or_default();
        let old = entry.now.take();
        let belongs = |index: &Index| (index.task.clone(), index.agent.clone(), index.run.clone());
        entry.settled &= old.as_ref().is_some_and(|old| belongs(&old.index) == belongs(&index));
        let mut known = Known { index, ..old.clone().unwrap_or_else(|| Known::new(&mut self.last_order)) };
        known.rev = if old.is_some() { known.rev + 1 } else { change.map_or(1, ChangeId::first_rev) };
        if !leased && known.until.take().is_some() {
            self.unleased.push(Named { order: known.order, id: id.clone() });
        }
        if let Some(run) = known.index.run.as_ref().filter(|_| old.is_none()) {
            self.hanging.entry(run.as_str().to_owned()).or_default().push(id.clone());
        }
        entry.put = Some(Written { change, due, body });
        entry.now = Some(known.clone());
        if let Some(old) = old {
            self.count(&id, &old.index, -1);
        }
        self.count(&id, &known.index, 1);
    }

    /// Appends an event to a run that exists.
    ///
    /// # Errors
    /// The event cannot be written as JSON.
    pub fn append(&mut self, run: &RunId, event: &Event) -> Result<(), StoreError> {
        let id = RecordId::run(run);
        let Some(known) = self.entries.get_mut(&id).and_then(|entry| entry.now.as_mut()) else { return Ok(()) };
        known.last_event += 1;
        let body = serde_json::to_vec(event).map_err(|error| unwritable(&error))?;
        let run = Named { order: known.order, id };
        self.events.push(EventRow { run, sequence: known.last_event, body });
        Ok(())
    }

    /// Deletes a record with what hangs on it.
    fn delete(&mut self, id: &RecordId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(known) = entry.now.take() else { return };
        entry.put = None;
        entry.settled = false;
        self.deleted.push(Named { order: known.order, id: id.clone() });
        self.gone.insert(known.order);
        self.count(id, &known.index, -1);
        if id.kind == Kind::Run {
            for hanging in self.hanging.remove(&*id.key).unwrap_or_default() {
                let run = self.known(&hanging).and_then(|known| known.index.run.as_ref());
                if run.is_some_and(|run| run.as_str() == &*id.key) {
                    self.delete(&hanging);
                }
            }
        }
    }

    /// Leases a run under its next fence.
    pub fn lease(&mut self, run: &RecordId, lease: Range<Timestamp>) {
        if let Some(known) = self.entries.get_mut(run).and_then(|entry| entry.now.as_mut()) {
            known.fence += 1;
            known.until = Some(lease.end);
            known.heartbeat_at = Some(lease.start);
            self.leased.push(Named { order: known.order, id: run.clone() });
        }
    }

    fn count(&mut self, id: &RecordId, index: &Index, by: i64) {
        for scope in counted_in(id.kind, index) {
            *self.counts.entry((scope, index.status)).or_default() += by;
        }
    }

    /// What is to be written.
    pub fn writes(mut self) -> Writes {
        let (records, settled) = self.records();
        self.events.retain(|event| !self.gone.contains(&event.run.order));
        let counts = self.counts.into_iter().filter(|(_, by)| *by != 0).map(|((scope, status), by)| (scope, status, by)).collect();
        Writes {
            deleted: self.deleted,
            unleased: self.unleased,
            records,
            settled,
            events: self.events,
            leased: self.leased,
            counts,
            last_order: self.last_order,
        }
    }

    /// The records to write: new or moved, and settled.
    fn records(&mut self) -> (Vec<Row>, Vec<Row>) {
        let (mut records, mut settled) = (Vec::new(), Vec::new());
        for (id, entry) in self.entries.drain() {
            let Entry { now: Some(known), put: Some(put), settled: is_settled } = entry else { continue };
            let list = if is_settled { &mut settled } else { &mut records };
            list.push(Row { id, known, change: put.change, due: put.due, body: put.body });
        }
        // In table order, so that neighbours are written together.
        records.sort_unstable_by_key(|row| row.known.order);
        settled.sort_unstable_by_key(|row| row.known.order);
        (records, settled)
    }
}

impl Known {
    /// A record that did not exist before.
    fn new(last_order: &mut i64) -> Known {
        *last_order += 1;
        Known { order: *last_order, rev: 0, index: Index::default(), fence: 0, heartbeat_at: None, until: None, last_event: 0 }
    }
}

/// What a record is counted in.
pub fn counted_in(kind: Kind, index: &Index) -> impl Iterator<Item = CountScope> {
    let of_run = |scope: Option<CountScope>| scope.filter(|_| kind == Kind::Run);
    let task = of_run(index.task.clone().map(CountScope::RunsOfTask));
    let agent = of_run(index.agent.clone().map(CountScope::RunsOfAgent));
    std::iter::once(CountScope::All(kind)).chain(task).chain(agent)
}

fn unwritable(error: &serde_json::Error) -> StoreError {
    StoreError::Invalid(format!("a value cannot be written as JSON: {error}"))
}
