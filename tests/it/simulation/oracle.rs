//! Watches everything that reaches the store and everything that guests do, and knows what of it must not be.
//!
//! It keeps a model of its own, made of the changes as they were asked for: what a store does with them and what a daemon makes of the
//! answers are both judged by it. The rules are those of the design's section on invariants.

mod accounts;
mod end;
mod guests;
mod kept;
mod promises;
mod runs;
mod schedules;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sandclock::domain::event::Event;
use sandclock::domain::id::{RunId, TaskId, WorkerId};
use sandclock::domain::run::{Attempt, AttemptStatus, Run, Slot, SlotPart};
use sandclock::domain::schedule::{ScheduleState, SkipRange};
use sandclock::domain::task::Task;
use sandclock::domain::time::Timestamp;
use sandclock::store::{Change, ClaimRequest, Claimed, Guard, Kind, Put, RecordId, Renewal, When};
use tokio_util::sync::CancellationToken;

pub use guests::GuestId;
pub use kept::Left;

use super::trace::Trace;

/// What the store's clocks say.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    pub now: Timestamp,
    pub steady: Timestamp,
}

/// A try of a run as the oracle saw it.
pub struct Try {
    pub fence: u64,
    pub status: AttemptStatus,
    /// Whether it is kept that it may have changed something outside.
    pub effects: bool,
    /// What its guest answered, if it did.
    pub answer: Option<String>,
}

/// A run as the oracle saw it.
pub struct Life {
    pub run: Run,
    /// Which change made it, and its place among those that this change let wait.
    pub arrived: (u64, usize),
    pub owner: Option<WorkerId>,
    pub until: Option<Timestamp>,
    pub claimed: Timestamp,
    pub beat: Timestamp,
    pub due: Timestamp,
    pub events: u64,
    /// Whether its terminal event is there.
    pub ended: bool,
    pub tries: Vec<Try>,
    /// Workers lost in a row.
    pub losses: u32,
    pub deleted: bool,
}

impl Life {
    pub fn fence(&self) -> u64 {
        self.tries.last().map_or(0, |last| last.fence)
    }

    pub fn holds(&self, fence: u64, steady: Timestamp) -> bool {
        !self.deleted && self.fence() == fence && self.run.status.is_leased() && self.until.is_some_and(|until| until > steady)
    }

    pub fn live(&self) -> bool {
        !self.deleted && !self.run.status.is_terminal()
    }
}

#[derive(Default)]
pub struct Model {
    pub runs: BTreeMap<RunId, Life>,
    pub tasks: BTreeMap<TaskId, Task>,
    pub slots: BTreeMap<TaskId, Slot>,
    pub schedules: BTreeMap<TaskId, ScheduleState>,
    revs: HashMap<RecordId, u64>,
    /// How many runs the schedule of each incarnation of a task has made.
    dispatched: BTreeMap<String, u64>,
    guests: guests::Guests,
    promises: promises::Promises,
    kept: kept::Kept,
    accounts: accounts::Accounts,
    /// The latest that the store's wall clock has shown.
    latest: Timestamp,
    changes: u64,
    faults: Vec<String>,
}

/// What a change writes.
#[derive(Default)]
struct Written {
    runs: Vec<(Run, Option<When>)>,
    attempts: Vec<Attempt>,
    slots: Vec<(TaskId, Slot)>,
    schedules: Vec<ScheduleState>,
    tasks: Vec<Task>,
    ranges: Vec<SkipRange>,
}

impl Written {
    fn of(change: &Change) -> Written {
        fn read<T: serde::de::DeserializeOwned>(put: &Put) -> T {
            serde_json::from_slice(&put.body).expect("what is put is of its kind")
        }
        let mut written = Written::default();
        for put in &change.puts {
            match put.id.kind {
                Kind::Run => written.runs.push((read(put), put.index.due)),
                Kind::Attempt => written.attempts.push(read(put)),
                Kind::Slot => written.slots.push((TaskId::parse(&put.id.key).unwrap(), read(put))),
                Kind::Schedule => written.schedules.push(read(put)),
                Kind::Task => written.tasks.push(read(put)),
                Kind::SkipRange => written.ranges.push(read(put)),
                _ => {}
            }
        }
        written
    }
}

impl Model {
    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// A change was applied for this worker.
    fn applied(&mut self, by: &WorkerId, change: &Change, at: Present) {
        self.changes += 1;
        self.latest = self.latest.max(at.now);
        self.judge_guards(change, at);
        self.judge_checkpoints(change);
        self.judge_accounts(change);
        let written = Written::of(change);
        self.judge_schedules(&written);
        for attempt in &written.attempts {
            self.judge_attempt(attempt);
        }
        let mut tasks: Vec<TaskId> = written.slots.iter().map(|(task, _)| task.clone()).collect();
        tasks.extend(written.runs.iter().map(|(run, _)| run.task_id.clone()));
        tasks.sort();
        tasks.dedup();
        let before: Vec<(TaskId, usize, Option<Task>)> =
            tasks.iter().map(|task| (task.clone(), self.holders(task), self.tasks.get(task).cloned())).collect();
        for (task, slot) in &written.slots {
            self.slots.insert(task.clone(), slot.clone());
        }
        for task in &written.tasks {
            self.tasks.insert(task.task_id.clone(), task.clone());
        }
        let turned: Vec<RunId> = written.runs.iter().filter_map(|run| self.judge_run(by, change, run, &written, at)).collect();
        for (run, event) in &change.events {
            self.judge_event(change, run, event);
        }
        self.judge_ends(&written);
        for put in &change.puts {
            self.revs.entry(put.id.clone()).and_modify(|rev| *rev += 1).or_insert(change.id.first_rev());
        }
        for id in &change.deletes {
            self.forget(id);
        }
        for (task, holders, definition) in before {
            self.judge_slot(&task, holders, definition.as_ref());
        }
        for run in turned {
            self.judge_turn(&run);
        }
    }

    fn judge_guards(&mut self, change: &Change, at: Present) {
        let broken = change.guards.iter().find(|guard| match guard {
            Guard::Rev(id, rev) => self.revs.get(id) != Some(rev),
            Guard::Absent(id) => self.revs.contains_key(id),
            Guard::Held(run, fence) => !self.runs.get(run).is_some_and(|life| life.holds(*fence, at.steady)),
        });
        if let Some(guard) = broken {
            self.fault(format!("a change was applied although {guard:?} did not hold"));
        }
    }

    fn judge_attempt(&mut self, attempt: &Attempt) {
        let Some(life) = self.runs.get_mut(&attempt.run_id) else { return };
        let number = attempt.attempt_number as usize;
        let Some(seen) = number.checked_sub(1).and_then(|index| life.tries.get_mut(index)) else {
            let what = format!("attempt {number} of {} was written without a claim", attempt.run_id);
            return self.fault(what);
        };
        let (fence, status) = (seen.fence, seen.status);
        seen.status = attempt.status;
        let forgotten = seen.effects && !attempt.effects_began;
        seen.effects = attempt.effects_began;
        if forgotten {
            self.fault(format!("the effects of attempt {number} of {} were forgotten", attempt.run_id));
        } else if fence != attempt.lease_generation {
            self.fault(format!("attempt {number} of {} changed its fence from {fence}", attempt.run_id));
        } else if status != AttemptStatus::Running && status != attempt.status {
            self.fault(format!("attempt {number} of {} had ended as {status:?} and was changed", attempt.run_id));
        }
    }

    fn judge_event(&mut self, change: &Change, run: &RunId, event: &Event) {
        use sandclock::domain::event::EventName;
        let told_by_attempt = matches!(event.event, EventName::Progress | EventName::Agent | EventName::Heartbeat);
        let Some(life) = self.runs.get_mut(run).filter(|life| !life.deleted) else {
            return self.fault(format!("{} was told of {run}, which is not there", event.event.as_str()));
        };
        life.events += 1;
        let (was_over, attempt, fence) = (life.ended, life.run.attempt, life.fence());
        life.ended |= event.event.is_terminal();
        if was_over {
            self.fault(format!("{} of {run} comes after its terminal event", event.event.as_str()));
        }
        if told_by_attempt {
            let guarded = change.guards.contains(&Guard::Held(run.clone(), event.fence));
            if !guarded || event.attempt != attempt || event.fence != fence {
                let name = event.event.as_str();
                let what = format!(
                    "{name} of attempt {} under fence {} of {run}, which is at {attempt} under {fence}",
                    event.attempt, event.fence
                );
                self.fault(format!("{what}; its change guards the lease: {guarded}"));
            }
        }
    }

    /// The terminal status and the terminal event come together.
    fn judge_ends(&mut self, written: &Written) {
        for (run, _) in &written.runs {
            let ended = self.runs.get(&run.run_id).is_some_and(|life| life.ended);
            if ended != run.status.is_terminal() {
                self.fault(format!("{} is {} and its terminal event is there: {ended}", run.run_id, run.status.as_str()));
            }
        }
    }

    fn forget(&mut self, id: &RecordId) {
        self.revs.remove(id);
        match id.kind {
            Kind::Run => {
                let Some(life) = RunId::parse(&id.key).ok().and_then(|run| self.runs.get_mut(&run)) else { return };
                let was_live = life.live();
                life.deleted = true;
                let attempts: Vec<RecordId> =
                    (1..=life.tries.len() as u32).map(|number| RecordId::attempt(&life.run.run_id, number)).collect();
                self.revs.retain(|id, _| !attempts.contains(id));
                self.revs.remove(&RecordId::new(Kind::Result, &id.key));
                if was_live {
                    self.fault(format!("{id} was deleted while it was live"));
                }
            }
            Kind::Task => drop(self.tasks.remove(&TaskId::parse(&id.key).unwrap())),
            Kind::Schedule => drop(self.schedules.remove(&TaskId::parse(&id.key).unwrap())),
            _ => {}
        }
    }

    fn of_task<'a>(&'a self, task: &'a TaskId) -> impl Iterator<Item = &'a Life> {
        self.runs.values().filter(move |life| life.run.task_id == *task && life.live())
    }

    fn holders(&self, task: &TaskId) -> usize {
        self.of_task(task).filter(|life| life.run.slot == SlotPart::Holds).count()
    }

    /// The slot says what the runs say, in the order in which they came, and no more of them are live than may be.
    fn judge_slot(&mut self, task: &TaskId, holders_before: usize, task_before: Option<&Task>) {
        let part = |wanted: SlotPart| {
            let mut of: Vec<&Life> = self.of_task(task).filter(|life| life.run.slot == wanted).collect();
            of.sort_by_key(|life| life.arrived);
            of.iter().map(|life| life.run.run_id.clone()).collect::<Vec<_>>()
        };
        let (mut holds, waits) = (part(SlotPart::Holds), part(SlotPart::Waits));
        let slot = self.slots.get(task).cloned().unwrap_or_default();
        let mut holders = slot.holders.clone();
        holders.sort();
        holds.sort();
        let waiting: Vec<RunId> = slot.waiting.iter().cloned().collect();
        if holders != holds || waiting != waits {
            self.fault(format!("the slot of {task} has {holders:?} and waiting {waiting:?}; its runs say {holds:?} and {waits:?}"));
        }
        let capacity = |task: Option<&Task>| task.map_or(1, |task| task.capacity().unwrap_or(usize::MAX));
        let most = capacity(self.tasks.get(task)).max(capacity(task_before)).max(holders_before);
        if holds.len() > most {
            self.fault(format!("{} runs of {task} are live: {holds:?}; {most} may be", holds.len()));
        }
    }

    /// A run that got its turn has waited longest.
    fn judge_turn(&mut self, run: &RunId) {
        let Some(turned) = self.runs.get(run) else { return };
        let earlier = self.of_task(&turned.run.task_id).find(|life| life.run.slot == SlotPart::Waits && life.arrived < turned.arrived);
        if let Some(earlier) = earlier {
            let what = format!("{run} got its turn before {}, which came first", earlier.run.run_id);
            self.fault(what);
        }
    }
}

/// The oracle; the simulation's parts tell it what they see.
pub struct Oracle {
    model: Mutex<Model>,
    /// Ends with the first fault.
    pub failed: CancellationToken,
    pub trace: Trace,
}

impl Oracle {
    pub fn new(trace: Trace) -> Self {
        Oracle { model: Mutex::default(), failed: CancellationToken::new(), trace }
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the model something, and notes what is wrong with it.
    pub fn tell<T>(&self, what: impl FnOnce(&mut Model) -> T) -> T {
        let mut model = self.model();
        let known = model.faults.len();
        let answer = what(&mut model);
        for fault in &model.faults[known..] {
            self.trace.note(|| format!("FAULT {fault}"));
            self.failed.cancel();
        }
        answer
    }

    pub fn fault(&self, what: impl Into<String>) {
        self.tell(|model| model.fault(what));
    }

    pub fn faults(&self) -> Vec<String> {
        self.model().faults.clone()
    }

    pub fn applied(&self, by: &WorkerId, change: &Change, at: Present) {
        self.trace.note(|| {
            let puts: Vec<String> = change.puts.iter().map(said).collect();
            let events: Vec<String> = change.events.iter().map(|(run, event)| format!("{}#{}", short(run), event.event.as_str())).collect();
            format!("{by} applied {puts:?} deleted {:?} told {events:?}", change.deletes)
        });
        self.tell(|model| model.applied(by, change, at));
    }
}

/// The end of an id, which differs.
pub fn short(run: &RunId) -> &str {
    let text = run.as_str();
    &text[text.len().saturating_sub(6)..]
}

fn said(put: &Put) -> String {
    let key = &put.id.key[put.id.key.len().saturating_sub(17)..];
    let body: serde_json::Value = serde_json::from_slice(&put.body).unwrap_or_default();
    let told = match put.id.kind {
        Kind::Run => vec!["status", "due_at", "slot"],
        Kind::Attempt => vec!["status"],
        Kind::Schedule => vec!["schedule_revision", "next_nominal_at", "paused"],
        Kind::SkipRange => vec!["first", "last", "count", "reason"],
        Kind::Task => vec!["query", "schedule", "enabled"],
        _ => Vec::new(),
    };
    let told: Vec<String> = told.into_iter().map(|name| body[name].to_string()).collect();
    format!("{} {key} {}", put.id.kind.as_str(), told.join(" "))
}

impl Oracle {
    pub fn claimed(&self, request: &ClaimRequest, claimed: &[Claimed], at: Present) {
        for claimed in claimed {
            self.trace.note(|| format!("{} claimed {} under {}", request.worker, short(&claimed.run.run_id), claimed.run.lease_generation));
            self.tell(|model| model.claimed(request, claimed, at));
        }
    }

    pub fn renewed(&self, worker: &WorkerId, leases: &[(RunId, u64)], answers: &[Renewal], at: Present) {
        for (lease, answer) in leases.iter().zip(answers) {
            self.trace.note(|| format!("{worker} renews {} under {}: {answer:?}", short(&lease.0), lease.1));
            self.tell(|model| model.renewed(worker, lease, answer, at));
        }
    }

    /// The store's clock was seen.
    pub fn shows(&self, at: Present) {
        let mut model = self.model();
        model.latest = model.latest.max(at.now);
    }

    /// The number of the last event of a run by the store.
    pub fn numbered(&self, run: &RunId, last: u64) {
        self.tell(|model| {
            let told = model.runs.get(run).filter(|life| !life.deleted).map(|life| life.events);
            if told.is_some_and(|told| told != last) {
                model.fault(format!("the store has {last} events of {run}; {told:?} were told"));
            }
        });
    }
}
