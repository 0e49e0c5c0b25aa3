//! What the model knows at one moment: the runs as the store has them, the slot, and two workers.
//!
//! The records are real ones; time is not. A lease is a count of ticks that are left, on the store's side and on the worker's, and a
//! run's delay is over when the model says so. Two states with the same [`State::key`] go on in the same ways.

use std::sync::Arc;

use sandclock::domain::id::{AgentId, RunId, WorkerId};
use sandclock::domain::lifecycle::{self, Draft};
use sandclock::domain::run::{Attempt, AttemptStatus, Run, Slot, SlotPart, Status, Trigger};
use sandclock::domain::task::Task;
use sandclock::domain::time::{Seconds, Timestamp};
use serde_json::{Map, Value, json};

/// The present of every decision: what waits for a later time waits until the model says that it has come.
pub const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub overlap: &'static str,
    pub on_unknown: &'static str,
    pub runs: usize,
    pub workers: usize,
    pub max_retries: u32,
    pub max_recoveries: u32,
    /// How many ticks a lease lasts in the store. A worker lets its guest act one tick less, from when it has asked.
    pub lease: u8,
    /// Whether renewals, recoveries and pauses take their time; otherwise each is one step.
    pub fine: bool,
    pub bent: Option<Bend>,
}

impl Setting {
    /// How many ticks after it has asked a worker lets its guest act.
    pub fn local(&self) -> u8 {
        self.lease - 1
    }
}

/// A defect that is put in on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// An outcome is taken under whatever fence the run has by now.
    FenceNotCompared,
    /// A worker counts its lease from the moment at which the answer came.
    LeaseFromTheAnswer,
    /// A worker's clock stands still while it is paused.
    ClockThatSleeps,
    /// A lease that has passed can be renewed.
    RenewsWhatHasPassed,
    /// Recovery takes a run from whoever has it by now.
    RecoveryIsBlind,
    /// A claim after a recovery has the fence of the one before.
    RecoveryKeepsTheFence,
    /// Recovery puts a run back without the cancel that was asked for.
    RecoveryDropsTheCancel,
    /// Recovery passes the slot on though the run that had it goes on.
    RecoveryPassesTheSlotOn,
    /// An outcome whose answer was lost is repeated blindly, and gives the slot away once more.
    SlotReleasedTwice,
    /// Nobody looks for leases that have passed.
    NoRecovery,
}

/// One run as the store has it.
#[derive(Clone)]
pub struct Life {
    pub run: Arc<Run>,
    /// The latest attempt.
    pub attempt: Option<Arc<Attempt>>,
    /// The ticks of its lease that are left.
    pub left: u8,
    /// The worker whose open wish has claimed it.
    pub token: Option<usize>,
    /// The highest fence that was ever given for it.
    pub fences: u64,
    /// Its terminal events.
    pub ends: u8,
    /// Whether somebody was told that it will be cancelled.
    pub promised: bool,
}

/// What a renewal of a lease whose guest executes has met so far.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// The ticks since it was sent.
    pub age: u8,
    /// The store's answer: whether the lease is held, and whether a cancel was asked for.
    pub answer: Option<(bool, bool)>,
}

/// What a worker tells the store of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Completed,
    Failed,
    Stopped,
    HandedBack,
}

/// How far an attempt is at its worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its guest executes as long as its lease holds by the worker's clock.
    Guest,
    /// The guest has ended; its outcome is offered to the store, for the second time when the first answer was lost.
    Ending { word: Word, again: bool },
}

/// An attempt at its worker.
#[derive(Clone, Copy)]
pub struct Hold {
    pub run: usize,
    pub fence: u64,
    /// The ticks for which its guest may still act.
    pub local: u8,
    pub phase: Phase,
    pub renewal: Option<Renewal>,
    /// Whether its guest was told of a cancel.
    pub told: bool,
}

/// What a worker does. One that is down is one that does nothing for a while.
#[derive(Clone, Copy)]
pub enum Job {
    Idle,
    /// It has asked for a run; the answer is on its way, or was lost and the wish is asked again.
    Claiming {
        local: u8,
        answer: Option<(usize, u64)>,
    },
    Holding(Hold),
}

/// One daemon's worker.
#[derive(Clone, Copy)]
pub struct Worker {
    /// Whether its guest stands still, and all the rest of it; elsewhere a pause is nothing but that no step is taken.
    pub paused: bool,
    pub incarnation: u32,
    pub job: Job,
}

#[derive(Clone)]
pub struct State {
    pub lives: Vec<Life>,
    pub slot: Arc<Slot>,
    pub workers: Vec<Worker>,
    /// The run that recovery has seen expired, and under which fence; it may act on it late.
    pub seen: Option<(usize, u64)>,
}

impl Worker {
    pub fn id(&self, number: usize) -> WorkerId {
        WorkerId::of(["worker_a", "worker_b"][number], &self.incarnation.to_string()).unwrap()
    }

    /// The attempt whose guest can act outside right now.
    pub fn acting(&self) -> Option<&Hold> {
        match &self.job {
            Job::Holding(hold) if !self.paused && hold.phase == Phase::Guest && hold.local > 0 => Some(hold),
            _ => None,
        }
    }
}

impl State {
    /// One run that holds the slot, and idle workers.
    pub fn first(setting: &Setting) -> State {
        let worker = Worker { paused: false, incarnation: 1, job: Job::Idle };
        let mut state = State { lives: Vec::new(), slot: Arc::default(), workers: vec![worker; setting.workers], seen: None };
        state.admit(setting);
        state
    }

    /// Makes the next run, and asks those to end that have to for it.
    pub fn admit(&mut self, setting: &Setting) {
        let draft = draft(self.lives.len());
        let admission = lifecycle::admit(&task(setting), &self.slot, draft, NOW);
        if let Some(slot) = admission.slot {
            self.slot = Arc::new(slot);
        }
        let run = Arc::new(admission.decision.run);
        self.lives.push(Life { run, attempt: None, left: 0, token: None, fences: 0, ends: 0, promised: false });
        for id in admission.cancel {
            self.cancel(self.numbered(&id), setting);
        }
    }

    /// Asks for a run's end, as the API does.
    pub fn cancel(&mut self, run: usize, setting: &Setting) {
        let before = Run::clone(&self.lives[run].run);
        let decision = lifecycle::request_cancel(before, "api", None, NOW).expect("a run that lives can be cancelled");
        self.lives[run].promised = true;
        self.write(run, decision, setting);
    }

    pub fn numbered(&self, id: &RunId) -> usize {
        self.lives.iter().position(|life| life.run.run_id == *id).expect("the slot names runs that exist")
    }

    /// Writes a decision, and passes the slot on when the run has ended: one change, as the daemon makes it.
    pub fn write(&mut self, run: usize, decision: lifecycle::Decision, setting: &Setting) {
        let life = &mut self.lives[run];
        life.ends += decision.events.iter().filter(|event| event.event.is_terminal()).count() as u8;
        life.attempt = decision.attempt.map(Arc::new).or(life.attempt.take());
        life.run = Arc::new(decision.run);
        let after = Arc::clone(&life.run);
        if !after.status.is_leased() {
            (life.left, life.token) = (0, None);
        }
        if after.status.is_terminal() && after.slot != SlotPart::Free {
            let mut slot = Slot::clone(&self.slot);
            if lifecycle::leave_slot(&mut slot, &after) {
                self.give_turns(&mut slot, setting);
                self.slot = Arc::new(slot);
            }
        }
    }

    pub fn give_turns(&mut self, slot: &mut Slot, setting: &Setting) {
        let capacity = task(setting).capacity().unwrap_or(usize::MAX);
        for next in lifecycle::next_turns(slot, capacity) {
            let next = self.numbered(&next);
            if let Some(decision) = lifecycle::promote(slot, Run::clone(&self.lives[next].run), NOW) {
                self.lives[next].run = Arc::new(decision.run);
            }
        }
    }

    /// The store's guard: the fence is the run's, and its lease has not passed.
    pub fn held(&self, run: usize, fence: u64) -> bool {
        let life = &self.lives[run];
        life.run.status.is_leased() && life.run.lease_generation == fence && life.left > 0
    }

    /// What tells this state from others, the same whichever worker is called the first.
    pub fn key(&self) -> Vec<u8> {
        match self.workers.len() {
            1 => self.key_as(&[0]),
            _ => self.key_as(&[0, 1]).min(self.key_as(&[1, 0])),
        }
    }

    fn key_as(&self, order: &[usize]) -> Vec<u8> {
        let place = |worker: usize| order.iter().position(|at| *at == worker).map_or(9, |at| at as u8);
        let mut key = Vec::with_capacity(48);
        for life in &self.lives {
            self.key_of_life(life, order, place, &mut key);
        }
        key.push(self.slot.holders.len() as u8 * 16 + self.slot.waiting.len() as u8);
        key.extend(self.slot.holders.iter().chain(&self.slot.waiting).map(|id| self.numbered(id) as u8));
        for worker in order {
            self.key_of_worker(&self.workers[*worker], &mut key);
        }
        if let Some((run, fence)) = self.seen {
            key.extend([run as u8, u8::from(self.is_latest(run, fence))]);
        }
        key
    }

    fn key_of_life(&self, life: &Life, order: &[usize], place: impl Fn(usize) -> u8, key: &mut Vec<u8>) {
        let run = &life.run;
        let flags = [run.cancel_requested_at.is_some(), run.queued_at > NOW, life.promised, run.slot == SlotPart::Waits];
        let open = life.attempt.as_ref().is_some_and(|attempt| attempt.status == AttemptStatus::Running);
        let owner = run.lease_owner.as_ref().and_then(|owner| {
            let number = order.iter().copied().find(|at| self.workers[*at].id(*at).daemon() == owner.daemon())?;
            Some(place(number) * 2 + u8::from(self.workers[number].id(number) == *owner))
        });
        key.extend([
            Status::ALL.iter().position(|status| *status == run.status).unwrap_or(0) as u8,
            flags.iter().enumerate().map(|(at, flag)| u8::from(*flag) << at).sum::<u8>() + (u8::from(open) << 4),
            run.failures as u8 * 16 + run.recoveries as u8,
            owner.unwrap_or(9) * 16 + life.left,
            life.token.map_or(9, &place) * 16 + life.ends,
            (life.fences - run.lease_generation).min(3) as u8,
        ]);
    }

    fn is_latest(&self, run: usize, fence: u64) -> bool {
        self.lives[run].run.lease_generation == fence
    }

    fn key_of_worker(&self, worker: &Worker, key: &mut Vec<u8>) {
        key.push(u8::from(worker.paused));
        match &worker.job {
            Job::Idle => key.push(100),
            Job::Claiming { local, answer } => {
                key.extend([101, *local]);
                key.extend(answer.map(|(run, fence)| run as u8 * 2 + u8::from(self.is_latest(run, fence))));
            }
            Job::Holding(hold) => {
                key.extend([102, hold.run as u8 * 2 + u8::from(self.is_latest(hold.run, hold.fence))]);
                match hold.phase {
                    Phase::Ending { word, again } => key.push(200 + word as u8 * 2 + u8::from(again)),
                    Phase::Guest => {
                        let renewal = hold.renewal.map_or(255, |renewal| {
                            renewal.age * 8 + renewal.answer.map_or(7, |(held, cancel)| u8::from(held) * 2 + u8::from(cancel))
                        });
                        key.extend([hold.local * 2 + u8::from(hold.told), renewal]);
                    }
                }
            }
        }
    }
}

fn task(setting: &Setting) -> Task {
    let body: Value = json!({
        "task_id": "t", "query": "q", "schedule": {"type": "manual"}, "overlap_policy": setting.overlap,
        "on_unknown": setting.on_unknown, "max_recoveries": setting.max_recoveries,
        "retry_policy": {"max_retries": setting.max_retries},
    });
    Task::parse(body, &AgentId::parse("agent").unwrap(), None, NOW).unwrap()
}

fn draft(number: usize) -> Draft {
    Draft {
        by: None,
        run_id: RunId::parse(&format!("run_{number:032x}")).unwrap(),
        trigger: Trigger::Manual,
        due_at: None,
        occurrence_id: None,
        query: None,
        trigger_metadata: Map::new(),
        default_timeout: Seconds::whole(3600),
        default_cancel_grace: Seconds::whole(5),
        default_max_recoveries: 3,
    }
}
