//! A batch's decisions as changes: those that are tied by a record which one of them writes stand or fall together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::txn::{Cells, Footprint, Write};
use super::{CommitError, Decide};
use crate::store::{Change, ChangeId, Guard, RecordId, StoreError};

/// How often a decision is made anew before its caller is told that it cannot be had.
const TRIES: u32 = 12;

/// A decision that waits for its commit.
pub struct Waiting {
    /// The decision, and who waits for it.
    pub job: Box<dyn Decide>,
    /// How often it has been tried.
    pub tries: u32,
    /// What the store refused last time, read anew before the next try.
    pub again: Vec<RecordId>,
}

/// A change, and the decisions that it is made of.
pub struct Group {
    /// What the store is asked for.
    pub change: Change,
    /// Each decision with what it touched.
    pub members: Vec<(Waiting, Footprint)>,
}

impl Group {
    /// Whether the store has nothing to write for it.
    pub fn is_read_only(&self) -> bool {
        self.change.puts.is_empty() && self.change.deletes.is_empty() && self.change.events.is_empty()
    }

    /// Tells everybody that the store failed.
    pub fn failed(self, error: &StoreError) {
        self.members.into_iter().for_each(|(waiting, _)| waiting.job.failed(CommitError::Store(error.clone())));
    }

    /// Tells those whose lease is gone, and returns the others for another try.
    pub fn refused(self, guard: &Guard) -> Vec<Waiting> {
        let mut again = Vec::new();
        for (mut waiting, footprint) in self.members {
            waiting.tries += 1;
            match guard {
                Guard::Held(run, fence) if footprint.held.iter().any(|(held, under)| held == run && under == fence) => {
                    waiting.job.failed(CommitError::LeaseLost);
                    continue;
                }
                Guard::Held(..) => {}
                Guard::Rev(id, _) | Guard::Absent(id) => waiting.again = vec![id.clone()],
            }
            if waiting.tries >= TRIES {
                waiting.job.failed(CommitError::Contended);
            } else {
                again.push(waiting);
            }
        }
        again
    }
}

/// Makes one change of all decisions that are tied by a record that one of them writes.
pub fn group(cells: &Cells, standing: Vec<(Waiting, Footprint)>, changes: &mut u128) -> Vec<Group> {
    let written = |id: &RecordId| cells.get(id).is_some_and(|cell| cell.write.is_some());
    let mut parent: Vec<usize> = (0..standing.len()).collect();
    let mut last: HashMap<&RecordId, usize> = HashMap::new();
    for (at, (_, footprint)) in standing.iter().enumerate() {
        for id in footprint.touched.iter().filter(|id| written(id)) {
            if let Some(before) = last.insert(id, at) {
                let (a, b) = (root(&mut parent, before), root(&mut parent, at));
                if let Some(slot) = parent.get_mut(a.max(b)) {
                    *slot = a.min(b);
                }
            }
        }
    }
    let roots: Vec<usize> = (0..standing.len()).map(|at| root(&mut parent, at)).collect();
    let mut members: BTreeMap<usize, Vec<(Waiting, Footprint)>> = BTreeMap::new();
    for (of, member) in roots.into_iter().zip(standing) {
        members.entry(of).or_default().push(member);
    }
    members
        .into_values()
        .map(|mut members| {
            *changes += 1;
            Group { change: change_of(cells, &mut members, ChangeId(*changes)), members }
        })
        .collect()
}

fn root(parent: &mut [usize], of: usize) -> usize {
    let mut at = of;
    while let Some(up) = parent.get(at).copied().filter(|up| *up != at) {
        at = up;
    }
    if let Some(slot) = parent.get_mut(of) {
        *slot = at;
    }
    at
}

fn change_of(cells: &Cells, members: &mut [(Waiting, Footprint)], id: ChangeId) -> Change {
    let touched: BTreeSet<RecordId> = members.iter().flat_map(|(_, footprint)| footprint.touched.iter().cloned()).collect();
    let mut change = Change { id, guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() };
    for (run, fence) in members.iter().flat_map(|(_, footprint)| &footprint.held) {
        change.guards.push(Guard::Held(run.clone(), *fence));
    }
    for id in touched {
        let Some(cell) = cells.get(&id) else { continue };
        change.guards.push(if cell.rev == 0 { Guard::Absent(id.clone()) } else { Guard::Rev(id.clone(), cell.rev) });
        match &cell.write {
            Some(Write::Put(put)) => change.puts.push(put.clone()),
            Some(Write::Delete) if cell.rev > 0 => change.deletes.push(id),
            Some(Write::Delete) | None => {}
        }
    }
    for (_, footprint) in members {
        change.events.append(&mut footprint.events);
    }
    change
}
