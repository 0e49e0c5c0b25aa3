//! What guests do: each acts only while the store holds its lease, and no two of a run could act at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sandclock::domain::id::RunId;
use sandclock::domain::run::SlotPart;
use sandclock::sandbox::{AttemptSignals, Ended, Halt, Stop};

use super::{Model, Oracle, Present};
use crate::simulation::gate::Gate;

/// Names a guest that executes.
pub type GuestId = u64;

/// A guest that executes.
struct Guest {
    run: RunId,
    fence: u64,
    gate: Arc<Gate>,
    signals: Arc<AttemptSignals>,
}

impl Guest {
    fn is_able(&self) -> bool {
        self.gate.runs() && self.signals.may_act()
    }
}

#[derive(Default)]
pub struct Guests {
    last: GuestId,
    live: BTreeMap<GuestId, Guest>,
    /// Until when each attempt's worker knows itself to hold the lease, and since when it does.
    known: BTreeMap<(RunId, u64), (Duration, Duration)>,
    /// Runs that a worker has let go of under this fence, for it could not know any more that it held them.
    let_go: BTreeSet<(RunId, u64)>,
}

impl Guests {
    /// Whether a worker has let go of a run under this fence, to be taken up when the lease has passed.
    pub(super) fn has_let_go(&self, run: &RunId, fence: u64) -> bool {
        self.let_go.contains(&(run.clone(), fence))
    }
}

impl Model {
    /// The run of a guest that executes, and whether nobody has the run after it.
    pub(super) fn guest(&self, id: GuestId) -> Option<(RunId, bool)> {
        let guest = self.guests.live.get(&id)?;
        let life = self.runs.get(&guest.run)?;
        Some((guest.run.clone(), life.fence() == guest.fence && !life.deleted))
    }

    /// The fence of a guest that executes.
    pub(super) fn fence_of(&self, id: GuestId) -> u64 {
        self.guests.live.get(&id).map_or(0, |guest| guest.fence)
    }

    /// No guest of the run, nor of an ended one whose place it takes, is able to act.
    pub(super) fn judge_beside(&mut self, run: &RunId, slot: SlotPart) {
        let task = self.runs.get(run).map(|life| &life.run.task_id);
        let able = self.guests.live.values().filter(|guest| {
            let of = self.runs.get(&guest.run);
            let before = of.is_some_and(|of| Some(&of.run.task_id) == task && of.run.slot == SlotPart::Holds && !of.live());
            (guest.run == *run || (slot == SlotPart::Holds && before)) && guest.is_able()
        });
        let able: Vec<(RunId, u64)> = able.map(|guest| (guest.run.clone(), guest.fence)).collect();
        if !able.is_empty() {
            self.fault(format!("{run} is claimed while guests are able to act: {able:?}"));
        }
    }
}

impl Oracle {
    /// The guest of an attempt starts.
    pub fn starts(&self, run: &RunId, attempt: u32, gate: &Arc<Gate>, signals: &Arc<AttemptSignals>) -> GuestId {
        self.tell(|model| {
            let index = (attempt as usize).wrapping_sub(1);
            let fence = model.runs.get(run).and_then(|life| life.tries.get(index)).map_or(0, |seen| seen.fence);
            if fence == 0 {
                model.fault(format!("a guest of attempt {attempt} of {run} started without a claim"));
            }
            model.guests.last += 1;
            let id = model.guests.last;
            let guest = Guest { run: run.clone(), fence, gate: Arc::clone(gate), signals: Arc::clone(signals) };
            model.guests.live.insert(id, guest);
            id
        })
    }

    /// A guest does something that is seen outside.
    pub fn acts(&self, id: GuestId, at: Present) {
        self.tell(|model| {
            let Some(guest) = model.guests.live.get(&id) else { return };
            let (run, fence) = (guest.run.clone(), guest.fence);
            if !model.runs.get(&run).is_some_and(|life| life.holds(fence, at.steady)) {
                model.fault(format!("a guest of {run} acts under fence {fence}, whose lease is over"));
            }
        });
    }

    /// A guest changes something outside.
    pub fn has_effects(&self, id: GuestId, at: Present) {
        self.acts(id, at);
        self.tell(|model| {
            let Some(guest) = model.guests.live.get(&id) else { return };
            let run = guest.run.clone();
            let kept = model
                .runs
                .get(&run)
                .and_then(|life| life.tries.iter().find(|seen| seen.fence == guest.fence))
                .is_some_and(|seen| seen.effects);
            if !kept {
                model.fault(format!("a guest of {run} changes something outside and nobody could know of it"));
            }
        });
    }

    /// A guest has ended, or is gone with its process.
    pub fn ends(&self, id: GuestId, ended: Option<&Ended>) {
        self.trace.note(|| format!("guest {id} ends: {ended:?}"));
        self.tell(|model| {
            let Some(guest) = model.guests.live.remove(&id) else { return };
            let Some(life) = model.runs.get_mut(&guest.run) else { return };
            let seen = life.tries.iter_mut().find(|seen| seen.fence == guest.fence);
            if let (Some(seen), Some(Ended::Completed(answer))) = (seen, ended) {
                seen.answer = Some(answer.clone());
            }
        });
    }

    /// A worker was told that it holds a lease, which it will rely on until then.
    pub fn knows(&self, run: &RunId, fence: u64, until: Duration) {
        let now = self.trace.elapsed();
        self.tell(|model| {
            model.guests.known.insert((run.clone(), fence), (until, now));
        });
    }

    /// A guest was stopped. One whose lease is said to be lost has lost it, or could not know any more that it held it.
    pub fn halts(&self, id: GuestId, halt: Halt, at: Present) {
        let now = self.trace.elapsed();
        if halt != Halt::Stopped(Stop::LeaseLost) {
            return;
        }
        self.tell(|model| {
            let Some(guest) = model.guests.live.get(&id) else { return };
            let (run, fence) = (guest.run.clone(), guest.fence);
            model.guests.let_go.insert((run.clone(), fence));
            let held = model.runs.get(&run).is_some_and(|life| life.holds(fence, at.steady));
            let (until, since) = model.guests.known.get(&(run.clone(), fence)).copied().unwrap_or_default();
            // What its worker was told at this very moment may have come too late.
            if held && now < until && now > since {
                model.fault(format!("the guest of {run} under fence {fence} was stopped as if its lease were lost, without a cause"));
            }
        });
    }

    /// How many guests execute.
    pub fn guests(&self) -> usize {
        self.model().guests.live.len()
    }
}
