//! What a decision sees and writes: a view of the store's records as they will be in the commit that the decision becomes part of.
//!
//! Invariant: whatever a decision reads guards its change, so that it is applied only if all of it is still so.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::event::Event;
use crate::domain::id::RunId;
use crate::domain::run::{Attempt, Run, Slot};
use crate::domain::task::Task;
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, Put, Record, RecordId, StoreError};

/// A type that is kept as the records of one kind.
pub trait Entity: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind.
    const KIND: Kind;

    /// Reads it from its record.
    ///
    /// # Errors
    /// The record holds something else.
    fn from_record(record: &Record) -> Result<Self, StoreError> {
        record.decode()
    }

    /// What it is found by.
    fn index(&self, now: Timestamp) -> Index;
}

impl Entity for Run {
    const KIND: Kind = Kind::Run;

    fn from_record(record: &Record) -> Result<Self, StoreError> {
        record.decode_run()
    }

    fn index(&self, now: Timestamp) -> Index {
        Index::of_run(self, now)
    }
}

impl Entity for Attempt {
    const KIND: Kind = Kind::Attempt;

    fn index(&self, _now: Timestamp) -> Index {
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

impl Entity for Task {
    const KIND: Kind = Kind::Task;

    fn index(&self, _now: Timestamp) -> Index {
        Index { agent: Some(self.agent_id.clone()), ..Index::default() }
    }
}

impl Entity for Slot {
    const KIND: Kind = Kind::Slot;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// A record that the one who decides knows already; if it has changed since, the commit is refused and decided again.
#[derive(Clone)]
pub struct Known {
    pub(super) id: RecordId,
    pub(super) rev: u64,
    pub(super) value: Option<Arc<dyn Any + Send + Sync>>,
}

impl Known {
    /// The record has this value at this rev.
    pub fn at<T: Entity>(id: RecordId, rev: u64, value: Arc<T>) -> Known {
        Known { id, rev, value: Some(value) }
    }

    /// There is no such record.
    pub fn absent(id: RecordId) -> Known {
        Known { id, rev: 0, value: None }
    }
}

/// Why a decision did not come about.
#[derive(Debug)]
pub enum Stop<E> {
    /// It reads records that are not loaded yet; it is asked again when they are.
    Need,
    /// It was decided that nothing is to be done, and why.
    Refused(E),
    /// A record cannot be read or written.
    Store(StoreError),
}

impl<E> From<StoreError> for Stop<E> {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

/// A record as the batch has it.
pub(super) struct Cell {
    /// The rev in the store; 0 where there is no such record.
    pub(super) rev: u64,
    value: Value,
    /// What the batch writes; none while it only reads.
    pub(super) write: Option<Write>,
}

enum Value {
    Absent,
    Raw(Record),
    Known(Arc<dyn Any + Send + Sync>),
}

/// The last thing that a batch does to a record.
#[derive(Clone)]
pub(super) enum Write {
    Put(Put),
    Delete,
}

/// The records of a batch as they are after the decisions so far.
#[derive(Default)]
pub(super) struct Cells(HashMap<RecordId, Cell, RandomState>);

impl Cells {
    pub(super) fn contains(&self, id: &RecordId) -> bool {
        self.0.contains_key(id)
    }

    pub(super) fn get(&self, id: &RecordId) -> Option<&Cell> {
        self.0.get(id)
    }

    /// Takes what the store answered.
    pub(super) fn load(&mut self, id: RecordId, record: Option<Record>) {
        let (rev, value) = record.map_or((0, Value::Absent), |record| (record.rev, Value::Raw(record)));
        self.0.entry(id).or_insert(Cell { rev, value, write: None });
    }

    pub(super) fn know(&mut self, known: &Known) {
        let value = known.value.clone().map_or(Value::Absent, Value::Known);
        self.0.entry(known.id.clone()).or_insert(Cell { rev: known.rev, value, write: None });
    }

    fn read<T: Entity>(&mut self, id: &RecordId) -> Result<Option<Option<Arc<T>>>, StoreError> {
        let Some(cell) = self.0.get_mut(id) else { return Ok(None) };
        match &cell.value {
            Value::Absent => Ok(Some(None)),
            Value::Known(value) => match value.clone().downcast::<T>() {
                Ok(value) => Ok(Some(Some(value))),
                Err(_) => Err(StoreError::Invalid(format!("{id} was read as something that it is not"))),
            },
            Value::Raw(record) => {
                let value = Arc::new(T::from_record(record)?);
                cell.value = Value::Known(Arc::<T>::clone(&value));
                Ok(Some(Some(value)))
            }
        }
    }

    fn write(&mut self, id: RecordId, staged: Staged) {
        let (value, write) = match staged {
            Staged::Put(value, put) => (Value::Known(value), Write::Put(put)),
            Staged::Delete => (Value::Absent, Write::Delete),
        };
        let cell = self.0.entry(id).or_insert(Cell { rev: 0, value: Value::Absent, write: None });
        cell.value = value;
        cell.write = Some(write);
    }
}

enum Staged {
    Put(Arc<dyn Any + Send + Sync>, Put),
    Delete,
}

/// What one decision did, once it stands.
#[derive(Default)]
pub(super) struct Footprint {
    /// Every record that it read or wrote.
    pub(super) touched: Vec<RecordId>,
    pub(super) held: Vec<(RunId, u64)>,
    pub(super) events: Vec<(RunId, Event)>,
    pub(super) notices: Notices,
    /// Bytes that it writes.
    pub(super) bytes: usize,
}

/// What a commit means to the rest of the daemon.
#[derive(Default)]
pub(super) struct Notices {
    pub(super) ready: bool,
    pub(super) schedules: bool,
    pub(super) agents: bool,
    pub(super) cancels: Vec<RunId>,
    pub(super) runs: Vec<RunId>,
}

/// One decision's view of its batch. Dropped without effect unless the decision stands.
pub struct Txn<'a> {
    cells: &'a mut Cells,
    needs: Vec<RecordId>,
    staged: BTreeMap<RecordId, Staged>,
    footprint: Footprint,
    now: Timestamp,
}

impl<'a> Txn<'a> {
    pub(super) fn new(cells: &'a mut Cells, now: Timestamp) -> Self {
        Txn { cells, needs: Vec::new(), staged: BTreeMap::new(), footprint: Footprint::default(), now }
    }

    /// The time of the decision.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Reads a record; none when there is no such one.
    ///
    /// # Errors
    /// [`Stop::Need`] when it is not loaded yet; pass it on.
    pub fn get<T: Entity, E>(&mut self, id: &RecordId) -> Result<Option<Arc<T>>, Stop<E>> {
        match self.staged.get(id) {
            Some(Staged::Delete) => return Ok(None),
            Some(Staged::Put(value, _)) => {
                return match value.clone().downcast::<T>() {
                    Ok(value) => Ok(Some(value)),
                    Err(_) => Err(Stop::Store(StoreError::Invalid(format!("{id} was read as something that it is not")))),
                };
            }
            None => {}
        }
        match self.cells.read(id)? {
            Some(value) => {
                self.footprint.touched.push(id.clone());
                Ok(value)
            }
            None => {
                self.needs.push(id.clone());
                Err(Stop::Need)
            }
        }
    }

    /// Names records that will be read, so that they are loaded together.
    ///
    /// # Errors
    /// [`Stop::Need`] when any of them is not loaded yet; pass it on.
    pub fn need<E>(&mut self, ids: &[RecordId]) -> Result<(), Stop<E>> {
        let missing = ids.iter().filter(|id| !self.staged.contains_key(id) && !self.cells.contains(id)).cloned();
        self.needs.extend(missing);
        if self.needs.is_empty() { Ok(()) } else { Err(Stop::Need) }
    }

    /// Writes a record. One that was not read before must not exist.
    ///
    /// # Errors
    /// The value is too large.
    pub fn put<T: Entity, E>(&mut self, id: RecordId, value: Arc<T>) -> Result<(), Stop<E>> {
        let put = Put::of(id.clone(), value.index(self.now), &*value)?;
        self.footprint.touched.push(id.clone());
        self.footprint.bytes += put.body.len();
        match T::KIND {
            Kind::Schedule => self.footprint.notices.schedules = true,
            Kind::Deployment | Kind::Agent => self.footprint.notices.agents = true,
            Kind::Run => {
                self.footprint.notices.ready |= put.index.ready;
            }
            _ => {}
        }
        self.staged.insert(id, Staged::Put(value, put));
        Ok(())
    }

    /// Writes a record whose body is no [`Entity`] of its own, such as a result.
    ///
    /// # Errors
    /// The value is too large.
    pub fn put_raw<T: Serialize + Send + Sync + 'static, E>(&mut self, id: RecordId, index: Index, value: T) -> Result<(), Stop<E>> {
        let put = Put::of(id.clone(), index, &value)?;
        self.footprint.touched.push(id.clone());
        self.footprint.bytes += put.body.len();
        self.staged.insert(id, Staged::Put(Arc::new(value), put));
        Ok(())
    }

    /// Deletes a record, with what hangs on it.
    pub fn delete(&mut self, id: RecordId) {
        self.footprint.notices.agents |= matches!(id.kind, Kind::Deployment | Kind::Agent);
        self.footprint.touched.push(id.clone());
        self.staged.insert(id, Staged::Delete);
    }

    /// Makes the change stand or fall with a lease.
    pub fn held(&mut self, run: &RunId, fence: u64) {
        self.footprint.held.push((run.clone(), fence));
    }

    /// Appends an event to a run's history.
    pub fn event(&mut self, run: &RunId, event: Event) {
        if self.footprint.notices.runs.last() != Some(run) {
            self.footprint.notices.runs.push(run.clone());
        }
        self.footprint.events.push((run.clone(), event));
    }

    /// Tells the worker of this daemon that has the run, if one has, that its cancel was asked for.
    pub fn tell_cancel(&mut self, run: &RunId) {
        self.footprint.notices.cancels.push(run.clone());
    }

    pub(super) fn into_needs(self) -> Vec<RecordId> {
        self.needs
    }

    /// Writes nothing; what was read still ties the decision to those who write it.
    pub(super) fn fall(self) -> Footprint {
        Footprint { touched: self.footprint.touched, ..Footprint::default() }
    }

    /// Makes the decision part of the batch.
    pub(super) fn stand(mut self) -> Footprint {
        for (id, staged) in std::mem::take(&mut self.staged) {
            self.cells.write(id, staged);
        }
        self.footprint
    }
}
