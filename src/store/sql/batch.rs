//! A batch of changes, decided in order against what the tables hold.
//!
//! Invariant: a change is judged after those before it in the batch; what the tables are to hold afterwards is written once per
//! record, whatever the number of changes that touched it.
//!
//! How it fails: a change whose guard does not hold leaves no trace.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;
use foldhash::fast::RandomState;
use serde::Serialize;

use super::super::request::Times;
use super::super::{Change, ChangeId, CountScope, Guard, Index, Kind, Outcome, Put, RecordId, StoreError, When};
use super::{id_text, scope_text};
use crate::domain::event::Event;
use crate::domain::id::RunId;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// What is known of a record that exists.
#[derive(Clone, Debug)]
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
struct Entry {
    text: String,
    now: Option<Known>,
    /// What is to be written; none when the tables hold it already.
    put: Option<Written>,
    /// Whether the tables have it where it belongs: its task, agent and run have not changed.
    settled: bool,
}

/// A record's new contents.
struct Written {
    change: Option<ChangeId>,
    due: Option<Timestamp>,
    body: Bytes,
}

/// An event to append.
#[derive(Debug)]
pub struct EventRow {
    /// The order of its run.
    pub run: i64,
    /// Its number.
    pub sequence: u64,
    /// JSON.
    pub body: Vec<u8>,
}

/// A record to write.
#[derive(Debug)]
pub struct Row {
    /// What it is of.
    pub kind: Kind,
    /// Its name as the table spells it.
    pub text: String,
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
        self.kind == Kind::Run && self.known.index.status.is_some_and(|status| !status.is_terminal())
    }
}

impl Entry {
    fn new(id: &RecordId) -> Entry {
        Entry { text: id_text(id), now: None, put: None, settled: false }
    }
}

/// Changes on their way into the tables.
pub struct Batch {
    entries: HashMap<RecordId, Entry, RandomState>,
    /// The names to be looked up, in order.
    wanted: Vec<RecordId>,
    /// The records that hang on a run.
    hanging: HashMap<String, Vec<RecordId>, RandomState>,
    /// The orders of records that the tables are to lose.
    deleted: Vec<i64>,
    /// The orders of all records that are gone, new ones too.
    gone: HashSet<i64>,
    unleased: Vec<i64>,
    leased: Vec<i64>,
    events: Vec<EventRow>,
    counts: HashMap<(CountScope, Option<Status>), i64, RandomState>,
    last_order: i64,
}

/// The JSON array of a statement that has nothing to write.
pub const NOTHING: &str = "[]";

/// What a batch writes: rows, and for what has no more than a number or two a JSON array.
#[derive(Debug, Default)]
pub struct Writes {
    /// Orders of records to delete.
    pub deleted: String,
    /// Orders of runs that lose their lease.
    pub unleased: String,
    /// Records to write that are new or have moved to another task, agent or run.
    pub records: Vec<Row>,
    /// Records to write that are where they were.
    pub settled: Vec<Row>,
    /// Events to append.
    pub events: Vec<EventRow>,
    /// Orders of runs that are leased now.
    pub leased: String,
    /// What counts change by.
    pub counts: String,
    /// The last order that was given.
    pub last_order: i64,
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
        }
    }

    /// Notes that a record's state is needed.
    pub fn want(&mut self, id: &RecordId) {
        if !self.entries.contains_key(id) {
            self.entries.insert(id.clone(), Entry::new(id));
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

    /// The names to be looked up, as a JSON array.
    pub fn wanted(&self) -> Result<String, StoreError> {
        let texts: Vec<&str> = self.wanted.iter().filter_map(|id| self.entries.get(id)).map(|entry| entry.text.as_str()).collect();
        json(&texts)
    }

    /// The keys of runs whose hanging records are to be looked up, as a JSON array.
    pub fn wanted_hanging(&self) -> Result<String, StoreError> {
        let keys: Vec<&String> = self.hanging.keys().collect();
        json(&keys)
    }

    /// The name at that place of [`Batch::wanted`].
    pub fn wanted_at(&self, place: usize) -> Option<&RecordId> {
        self.wanted.get(place)
    }

    /// Takes in what the tables hold.
    pub fn learn(&mut self, id: RecordId, known: Known) {
        if let Some(run) = &known.index.run {
            let of_run = self.hanging.entry(run.as_str().to_owned()).or_default();
            if !of_run.contains(&id) {
                of_run.push(id.clone());
            }
        }
        let entry = self.entries.entry(id).or_insert_with_key(Entry::new);
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
        let entry = self.entries.entry(id.clone()).or_insert_with_key(Entry::new);
        let old = entry.now.take();
        let belongs = |index: &Index| (index.task.clone(), index.agent.clone(), index.run.clone());
        entry.settled &= old.as_ref().is_some_and(|old| belongs(&old.index) == belongs(&index));
        let mut known = Known { index, ..old.clone().unwrap_or_else(|| Known::new(&mut self.last_order)) };
        known.rev += 1;
        if !leased && known.until.take().is_some() {
            self.unleased.push(known.order);
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
        let Some(known) = self.entries.get_mut(&RecordId::run(run)).and_then(|entry| entry.now.as_mut()) else { return Ok(()) };
        known.last_event += 1;
        let body = serde_json::to_vec(event).map_err(|error| unwritable(&error))?;
        self.events.push(EventRow { run: known.order, sequence: known.last_event, body });
        Ok(())
    }

    /// Deletes a record with what hangs on it.
    fn delete(&mut self, id: &RecordId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(known) = entry.now.take() else { return };
        entry.put = None;
        entry.settled = false;
        self.deleted.push(known.order);
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
            self.leased.push(known.order);
        }
    }

    fn count(&mut self, id: &RecordId, index: &Index, by: i64) {
        let mut add = |scope: CountScope| *self.counts.entry((scope, index.status)).or_default() += by;
        add(CountScope::All(id.kind));
        if id.kind == Kind::Run {
            index.task.clone().map(CountScope::RunsOfTask).map(&mut add);
            index.agent.clone().map(CountScope::RunsOfAgent).map(&mut add);
        }
    }

    /// What is to be written.
    ///
    /// # Errors
    /// A value cannot be written as JSON.
    pub fn writes(mut self) -> Result<Writes, StoreError> {
        let (records, settled) = self.records();
        self.events.retain(|event| !self.gone.contains(&event.run));
        let counts: Vec<(String, &str, i64)> = self
            .counts
            .iter()
            .filter(|(_, by)| **by != 0)
            .map(|((scope, status), by)| (scope_text(scope), status.map_or("", Status::as_str), *by))
            .collect();
        Ok(Writes {
            deleted: json(&self.deleted)?,
            unleased: json(&self.unleased)?,
            records,
            settled,
            events: self.events,
            leased: json(&self.leased)?,
            counts: json(&counts)?,
            last_order: self.last_order,
        })
    }

    /// The records to write: new or moved, and settled.
    fn records(&mut self) -> (Vec<Row>, Vec<Row>) {
        let (mut records, mut settled) = (Vec::new(), Vec::new());
        for (id, entry) in self.entries.drain() {
            let Entry { text, now: Some(known), put: Some(put), settled: is_settled } = entry else { continue };
            let list = if is_settled { &mut settled } else { &mut records };
            list.push(Row { kind: id.kind, text, known, change: put.change, due: put.due, body: put.body });
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

/// A list as a JSON array.
fn json<T: Serialize>(values: &[T]) -> Result<String, StoreError> {
    serde_json::to_string(values).map_err(|error| unwritable(&error))
}

fn unwritable(error: &serde_json::Error) -> StoreError {
    StoreError::Invalid(format!("a value cannot be written as JSON: {error}"))
}
