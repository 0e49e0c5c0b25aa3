//! What can happen next: each step of a worker, of its daemon's recovery, of the people who cancel, of the network and of time.
//!
//! The records change by the functions of `domain::lifecycle`; what is modelled here is what goes on around them.

use std::sync::Arc;

use sandclock::domain::lifecycle::{self, Outcome};
use sandclock::domain::policy::{ErrorKind, OnUnknown};
use sandclock::domain::run::{Attempt, Run, SlotPart, Status, Usage};

use super::state::{Bend, Hold, Job, NOW, Phase, Renewal, Setting, State, Word, Worker};

/// A step, for the trace of a counterexample; the numbers are those of the worker and the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Admit,
    Tick,
    DelayIsOver(usize),
    Cancel(usize),
    Resume(usize),
    Expire(usize),
    Pause(usize),
    Wake(usize),
    CrashAndRestart(usize),
    TakeBack(usize, usize),
    AskForARun(usize),
    StoreClaims(usize, usize),
    ClaimAnswered(usize),
    ClaimAnswerLost(usize),
    ClaimGivenUp(usize),
    SendRenewal(usize),
    StoreRenews(usize),
    RenewalAnswered(usize),
    RenewalFails(usize),
    TellCancel(usize),
    BeginEffects(usize),
    GuestEnds(usize, Word),
    GuestStoppedByItsLease(usize),
    StoreTakesOutcome(usize),
    StoreTakesOutcomeUnheard(usize),
    StoreRefusesOutcome(usize),
    LookForLost(usize),
    RecoverSeen(usize),
    Recover(usize),
}

impl Step {
    /// Whether it can be counted on: no fault, and nobody's wish.
    pub fn is_regular(self) -> bool {
        !matches!(
            self,
            Step::Cancel(_)
                | Step::Pause(_)
                | Step::CrashAndRestart(_)
                | Step::ClaimAnswerLost(_)
                | Step::ClaimGivenUp(_)
                | Step::RenewalFails(_)
                | Step::StoreTakesOutcomeUnheard(_)
                | Step::LookForLost(_)
                | Step::RecoverSeen(_)
        )
    }
}

/// Every next state with the step that leads to it.
pub fn successors(state: &State, setting: &Setting) -> Vec<(Step, State)> {
    let mut next = Next { state, setting, found: Vec::new() };
    next.outside();
    next.recovery();
    for worker in 0..state.workers.len() {
        next.daemon(worker);
        match state.workers[worker].job {
            _ if state.workers[worker].paused => {}
            Job::Idle => next.asking(worker),
            Job::Claiming { local, answer } => next.claiming(worker, local, answer),
            Job::Holding(hold) => next.holding(worker, hold),
        }
    }
    next.found
}

struct Next<'a> {
    state: &'a State,
    setting: &'a Setting,
    found: Vec<(Step, State)>,
}

impl Next<'_> {
    fn bent(&self, bend: Bend) -> bool {
        self.setting.bent == Some(bend)
    }

    fn add(&mut self, step: Step, change: impl FnOnce(&mut State)) {
        let mut after = self.state.clone();
        change(&mut after);
        self.found.push((step, after));
    }

    /// What time and people do.
    fn outside(&mut self) {
        let (state, setting) = (self.state, self.setting);
        if state.lives.len() < setting.runs {
            self.add(Step::Admit, |state| state.admit(setting));
        }
        let sleeps = self.bent(Bend::ClockThatSleeps);
        self.add(Step::Tick, |state| tick(state, sleeps, setting.local()));
        for (number, life) in state.lives.iter().enumerate() {
            let run = &life.run;
            if !run.status.is_terminal() && !life.promised {
                self.add(Step::Cancel(number), |state| state.cancel(number, setting));
            }
            if run.status == Status::Queued && run.queued_at > NOW {
                self.add(Step::DelayIsOver(number), |state| {
                    Arc::make_mut(&mut state.lives[number].run).queued_at = NOW;
                });
            }
            if run.status.is_waiting() {
                let parked = Run::clone(run);
                let resumed = lifecycle::resume(parked.clone(), None, NOW).expect("a parked run can be resumed");
                self.add(Step::Resume(number), |state| state.write(number, resumed, setting));
                let expired = lifecycle::expire_parked(parked, NOW).expect("a parked run can expire");
                self.add(Step::Expire(number), |state| state.write(number, expired, setting));
            }
        }
    }

    /// Leases that have passed, seen and acted on at once or late.
    fn recovery(&mut self) {
        let state = self.state;
        if self.bent(Bend::NoRecovery) {
            return;
        }
        for (number, life) in state.lives.iter().enumerate() {
            if life.run.status.is_leased() && life.left == 0 {
                let fence = life.run.lease_generation;
                self.take(Step::Recover(number), number, fence);
                if self.setting.fine && state.seen.is_none() {
                    self.add(Step::LookForLost(number), |state| state.seen = Some((number, fence)));
                }
            }
        }
        if let Some((number, fence)) = state.seen {
            self.take(Step::RecoverSeen(number), number, fence);
            if let Some((_, state)) = self.found.last_mut() {
                state.seen = None;
            }
        }
    }

    /// Takes a run from the worker that had it under `fence`, as `daemon::recovery` decides it.
    fn take(&mut self, step: Step, number: usize, fence: u64) {
        let (state, setting) = (self.state, self.setting);
        let blind = self.bent(Bend::RecoveryIsBlind);
        let life = &state.lives[number];
        let mut run = Run::clone(&life.run);
        if self.bent(Bend::RecoveryDropsTheCancel) {
            run.cancel_requested_at = None;
        }
        let attempt = life.attempt.as_deref().cloned();
        let lost = attempt.filter(|_| blind || run.lease_generation == fence).and_then(|attempt| lifecycle::lose(run, attempt, NOW));
        let passes_on = self.bent(Bend::RecoveryPassesTheSlotOn);
        self.add(step, |state| {
            let Some(decision) = lost else { return };
            state.write(number, decision, setting);
            if passes_on {
                release(state, setting);
            }
        });
    }

    /// What befalls a daemon as a whole.
    fn daemon(&mut self, number: usize) {
        let (state, setting) = (self.state, self.setting);
        let worker = &state.workers[number];
        if worker.paused {
            self.add(Step::Wake(number), |state| state.workers[number].paused = false);
            return;
        }
        if setting.fine && worker.acting().is_some() {
            self.add(Step::Pause(number), |state| state.workers[number].paused = true);
        }
        if !matches!(worker.job, Job::Idle) {
            self.add(Step::CrashAndRestart(number), |state| {
                let incarnation = state.workers[number].incarnation + 1;
                state.workers[number] = Worker { paused: false, incarnation, job: Job::Idle };
                forget_token(state, number);
            });
        }
        let id = worker.id(number);
        for (run, life) in state.lives.iter().enumerate() {
            let older = life.run.lease_owner.as_ref().is_some_and(|owner| *owner != id && owner.daemon() == id.daemon());
            if older && life.run.status.is_leased() {
                let lost = lifecycle::lose(Run::clone(&life.run), Attempt::clone(life.attempt.as_ref().unwrap()), NOW);
                self.add(Step::TakeBack(number, run), |state| state.write(run, lost.unwrap(), setting));
            }
        }
    }

    fn asking(&mut self, number: usize) {
        let setting = self.setting;
        if self.state.lives.iter().any(|life| !life.run.status.is_terminal()) {
            self.add(Step::AskForARun(number), |state| {
                state.workers[number].job = Job::Claiming { local: setting.local(), answer: None };
            });
        }
    }

    /// A wish for a run that is on its way.
    fn claiming(&mut self, number: usize, local: u8, answer: Option<(usize, u64)>) {
        let (state, setting) = (self.state, self.setting);
        match answer {
            Some((run, fence)) => {
                let local = if self.bent(Bend::LeaseFromTheAnswer) { self.setting.lease } else { local };
                self.add(Step::ClaimAnswered(number), |state| {
                    let hold = Hold { run, fence, local, phase: Phase::Guest, renewal: None, told: false };
                    state.workers[number].job = Job::Holding(hold);
                    forget_token(state, number);
                });
                self.add(Step::ClaimAnswerLost(number), |state| {
                    state.workers[number].job = Job::Claiming { local, answer: None };
                });
            }
            None => {
                self.add(Step::ClaimGivenUp(number), |state| {
                    state.workers[number].job = Job::Idle;
                    forget_token(state, number);
                });
                let again = state.lives.iter().position(|life| life.token == Some(number) && life.run.status.is_leased());
                if let Some(run) = again {
                    let fence = state.lives[run].run.lease_generation;
                    self.add(Step::StoreClaims(number, run), |state| {
                        state.workers[number].job = Job::Claiming { local, answer: Some((run, fence)) };
                    });
                    return;
                }
                for (run, life) in state.lives.iter().enumerate() {
                    let ready = life.run.status == Status::Queued && life.run.slot != SlotPart::Waits && life.run.queued_at <= NOW;
                    if ready {
                        let keeps = self.bent(Bend::RecoveryKeepsTheFence) && life.run.recoveries > 0;
                        self.add(Step::StoreClaims(number, run), |state| claim(state, number, run, local, keeps, setting.lease));
                    }
                }
            }
        }
    }

    /// An attempt at its worker.
    fn holding(&mut self, number: usize, hold: Hold) {
        match hold.phase {
            Phase::Guest => {
                self.renewing(number, hold);
                self.executing(number, hold);
            }
            Phase::Ending { word, again } => {
                self.ending(number, hold, word, again);
                // Its lease is renewed until its outcome is kept; nobody is left to be told of it.
                if self.is_renewed(hold) {
                    let lease = self.setting.lease;
                    self.add(Step::StoreRenews(number), |state| state.lives[hold.run].left = lease);
                }
            }
        }
    }

    /// Whether the store renews the lease.
    fn is_renewed(&self, hold: Hold) -> bool {
        let run = &self.state.lives[hold.run].run;
        let late = self.bent(Bend::RenewsWhatHasPassed) && run.lease_generation == hold.fence && run.status.is_leased();
        late || self.state.held(hold.run, hold.fence)
    }

    fn renewing(&mut self, number: usize, hold: Hold) {
        let setting = self.setting;
        let held = self.is_renewed(hold);
        let cancel = held && self.state.lives[hold.run].run.cancel_requested_at.is_some();
        if !setting.fine {
            self.add(Step::RenewalAnswered(number), |state| {
                if held {
                    state.lives[hold.run].left = setting.lease;
                }
                told_of_renewal(state, number, held, cancel, setting.local());
            });
            return;
        }
        let Some(renewal) = hold.renewal else {
            self.add(Step::SendRenewal(number), |state| {
                set_renewal(state, number, Some(Renewal { age: 0, answer: None }));
            });
            return;
        };
        self.add(Step::RenewalFails(number), |state| set_renewal(state, number, None));
        match renewal.answer {
            None => self.add(Step::StoreRenews(number), |state| {
                set_renewal(state, number, Some(Renewal { answer: Some((held, cancel)), ..renewal }));
                if held {
                    state.lives[hold.run].left = setting.lease;
                }
            }),
            Some((held, cancel)) => self.add(Step::RenewalAnswered(number), |state| {
                set_renewal(state, number, None);
                told_of_renewal(state, number, held, cancel, setting.local().saturating_sub(renewal.age));
            }),
        }
    }

    /// What a guest that executes can come to.
    fn executing(&mut self, number: usize, hold: Hold) {
        if hold.local == 0 {
            // Nothing more is written for it: the outcome is whoever's has the run next.
            self.add(Step::GuestStoppedByItsLease(number), |state| state.workers[number].job = Job::Idle);
            return;
        }
        let run = &self.state.lives[hold.run].run;
        if !hold.told && run.cancel_requested_at.is_some() && run.lease_generation == hold.fence {
            self.hold(Step::TellCancel(number), number, |hold| hold.told = true);
        }
        let began = self.state.lives[hold.run].attempt.as_ref().is_some_and(|attempt| attempt.effects_began);
        if !began && run.policy.on_unknown != OnUnknown::Retry && self.state.held(hold.run, hold.fence) {
            self.add(Step::BeginEffects(number), |state| {
                if let Some(attempt) = &mut state.lives[hold.run].attempt {
                    Arc::make_mut(attempt).effects_began = true;
                }
            });
        }
        for word in [Word::Completed, Word::Failed, Word::Stopped, Word::HandedBack] {
            if word != Word::Stopped || hold.told {
                self.hold(Step::GuestEnds(number, word), number, |hold| {
                    hold.phase = Phase::Ending { word, again: false };
                });
            }
        }
    }

    fn hold(&mut self, step: Step, number: usize, change: impl FnOnce(&mut Hold)) {
        self.add(step, |state| {
            if let Job::Holding(hold) = &mut state.workers[number].job {
                change(hold);
            }
        });
    }

    /// An outcome on its way to the store.
    fn ending(&mut self, number: usize, hold: Hold, word: Word, again: bool) {
        let setting = self.setting;
        let Some(decision) = self.decide(hold, word) else {
            let ended = self.state.lives[hold.run].run.status.is_terminal();
            let twice = again && ended && self.bent(Bend::SlotReleasedTwice);
            self.add(Step::StoreRefusesOutcome(number), |state| {
                state.workers[number].job = Job::Idle;
                if twice {
                    release(state, setting);
                }
            });
            return;
        };
        let unheard = decision.clone();
        self.add(Step::StoreTakesOutcome(number), |state| {
            state.write(hold.run, decision, setting);
            state.workers[number].job = Job::Idle;
        });
        // Who does not know whether it was written asks again; the fence tells.
        if !again {
            self.add(Step::StoreTakesOutcomeUnheard(number), |state| {
                state.write(hold.run, unheard, setting);
                let phase = Phase::Ending { word, again: true };
                state.workers[number].job = Job::Holding(Hold { phase, ..hold });
            });
        }
    }

    /// What the store takes of an attempt's word, if it takes it.
    fn decide(&self, hold: Hold, word: Word) -> Option<lifecycle::Decision> {
        let life = &self.state.lives[hold.run];
        let fence = if self.bent(Bend::FenceNotCompared) { life.run.lease_generation } else { hold.fence };
        if !self.state.held(hold.run, fence) {
            return None;
        }
        let (run, attempt) = (Run::clone(&life.run), Attempt::clone(life.attempt.as_ref()?));
        let outcome = match word {
            Word::Completed => Outcome::Completed("done".to_owned()),
            Word::Failed => Outcome::Failed { kind: ErrorKind::GuestRetryable, message: "not yet".to_owned(), after: None },
            Word::Stopped => Outcome::Cancelled(String::new()),
            Word::HandedBack => return lifecycle::hand_back(run, attempt, fence, "the daemon stops", None, NOW).ok(),
        };
        lifecycle::finish(run, attempt, fence, outcome, Usage::default(), 0.0, NOW).ok()
    }
}

fn tick(state: &mut State, paused_clocks_sleep: bool, most: u8) {
    for life in &mut state.lives {
        life.left = life.left.saturating_sub(1);
    }
    for worker in state.workers.iter_mut().filter(|worker| !(paused_clocks_sleep && worker.paused)) {
        match &mut worker.job {
            Job::Idle => {}
            Job::Claiming { local, .. } => *local = local.saturating_sub(1),
            Job::Holding(hold) => {
                hold.local = hold.local.saturating_sub(1);
                if let Some(renewal) = &mut hold.renewal {
                    renewal.age = (renewal.age + 1).min(most);
                }
            }
        }
    }
}

fn claim(state: &mut State, worker: usize, number: usize, local: u8, keeps_fence: bool, lease: u8) {
    let id = state.workers[worker].id(worker);
    let life = &mut state.lives[number];
    let fence = life.run.lease_generation + u64::from(!keeps_fence);
    let run = Arc::make_mut(&mut life.run);
    let patch = lifecycle::claim(run, "digest", &id, fence, NOW, NOW..NOW);
    life.attempt = Some(Arc::new(patch.attempt));
    (life.left, life.token) = (lease, Some(worker));
    state.workers[worker].job = Job::Claiming { local, answer: Some((number, fence)) };
}

/// The wish of a worker is over: nobody asks under its token again.
fn forget_token(state: &mut State, worker: usize) {
    for life in state.lives.iter_mut().filter(|life| life.token == Some(worker)) {
        life.token = None;
    }
}

fn told_of_renewal(state: &mut State, worker: usize, held: bool, cancel: bool, local: u8) {
    if let Job::Holding(hold) = &mut state.workers[worker].job {
        hold.local = if held { hold.local.max(local) } else { 0 };
        hold.told |= cancel;
    }
}

fn set_renewal(state: &mut State, worker: usize, renewal: Option<Renewal>) {
    if let Job::Holding(hold) = &mut state.workers[worker].job {
        hold.renewal = renewal;
    }
}

/// Gives the slot to the next one, whoever has it: what the bent variants do.
fn release(state: &mut State, setting: &Setting) {
    let mut slot = sandclock::domain::run::Slot::clone(&state.slot);
    slot.holders.clear();
    state.give_turns(&mut slot, setting);
    state.slot = Arc::new(slot);
}
