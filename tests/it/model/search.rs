//! Breadth first through every state that can be reached, and what must hold in each of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sandclock::domain::run::{SlotPart, Status};

use super::state::{Job, Setting, State};
use super::steps::{Step, successors};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// At most one attempt's outcome would be taken, and only of the latest attempt.
    OneCommit,
    /// A fence is above all that the run had before.
    FenceRises,
    /// A guest that can act has the lease, and no two guests of the task can act at once.
    OneGuestActs,
    /// A run has one terminal event and is not changed after it.
    OneEnd,
    /// The slot names exactly the live runs, one of them as its holder, and none waits beside a free slot.
    SlotIsTheLiveRun,
    /// A cancel that was acknowledged is kept.
    CancelIsKept,
    /// The end of every run can be reached, also when nobody cancels and no fault helps.
    CanEnd,
}

impl Rule {
    pub const ALL: [Rule; 7] =
        [Rule::OneCommit, Rule::FenceRises, Rule::OneGuestActs, Rule::OneEnd, Rule::SlotIsTheLiveRun, Rule::CancelIsKept, Rule::CanEnd];
}

/// What was found.
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// A rule that is broken, and the shortest way to where it is.
    pub broken: Option<(Rule, Vec<Step>)>,
}

/// Explores all that can happen in a setting, or until one of `rules` is broken.
///
/// # Panics
/// There are more states than `most`: something counts up without end.
pub fn explore(setting: &Setting, rules: &[Rule], most: usize) -> Found {
    let mut search = Search { rules, ..Search::default() };
    search.visit(State::first(setting), None);
    while let Some(at) = search.open.pop_front().filter(|_| search.broken.is_none()) {
        let Some(before) = search.states[at].take() else { continue };
        for (step, after) in successors(&before, setting) {
            search.steps += 1;
            assert!(search.states.len() <= most, "more than {most} states, the latest by {:?}", search.way_to(at));
            match rules.iter().find(|rule| breaks(**rule, &before, step, &after)) {
                Some(rule) => {
                    let way = search.way_to(at).into_iter().chain([step]).collect();
                    search.broken.get_or_insert((*rule, way));
                }
                None => search.visit(mark(after), Some((at, step))),
            }
        }
    }
    search.check_ends();
    Found { states: search.states.len(), steps: search.steps, broken: search.broken }
}

#[derive(Default)]
struct Search<'a> {
    rules: &'a [Rule],
    known: HashMap<Vec<u8>, usize>,
    /// Those that wait to be gone on from; let go of afterwards.
    states: Vec<Option<State>>,
    from: Vec<Option<(usize, Step)>>,
    ended: Vec<bool>,
    /// The states from which a regular step leads to each state.
    before: Vec<Vec<u32>>,
    open: VecDeque<usize>,
    steps: usize,
    broken: Option<(Rule, Vec<Step>)>,
}

impl Search<'_> {
    fn visit(&mut self, state: State, from: Option<(usize, Step)>) {
        let next = self.states.len();
        let at = *self.known.entry(state.key()).or_insert(next);
        if at == next {
            self.ended.push(state.lives.iter().all(|life| life.run.status.is_terminal()));
            self.states.push(Some(state));
            self.from.push(from);
            self.before.push(Vec::new());
            self.open.push_back(at);
        }
        if let Some((before, _)) = from.filter(|(before, step)| *before != at && step.is_regular()) {
            self.before[at].push(u32::try_from(before).unwrap());
        }
    }

    fn way_to(&self, mut at: usize) -> Vec<Step> {
        let mut way = Vec::new();
        while let Some((before, step)) = self.from[at] {
            way.push(step);
            at = before;
        }
        way.reverse();
        way
    }

    /// Walks back from the states in which every run has ended; whatever is not met can never end.
    fn check_ends(&mut self) {
        if self.broken.is_some() || !self.rules.contains(&Rule::CanEnd) {
            return;
        }
        let mut can_end = self.ended.clone();
        let mut open: Vec<usize> = (0..can_end.len()).filter(|at| can_end[*at]).collect();
        while let Some(at) = open.pop() {
            for before in &self.before[at] {
                if !std::mem::replace(&mut can_end[*before as usize], true) {
                    open.push(*before as usize);
                }
            }
        }
        if let Some(stuck) = can_end.iter().position(|can| !can) {
            self.broken = Some((Rule::CanEnd, self.way_to(stuck)));
        }
    }
}

/// Keeps in mind the highest fence that each run was given.
fn mark(mut state: State) -> State {
    for life in &mut state.lives {
        life.fences = life.fences.max(life.run.lease_generation);
    }
    state
}

fn breaks(rule: Rule, before: &State, step: Step, after: &State) -> bool {
    match rule {
        Rule::OneCommit => {
            let stale = match step {
                Step::StoreTakesOutcome(worker) | Step::StoreTakesOutcomeUnheard(worker) => match before.workers[worker].job {
                    Job::Holding(hold) => {
                        let given = before.lives[hold.run].attempt.as_ref().map(|attempt| attempt.worker_id.clone());
                        hold.fence != before.lives[hold.run].fences || given != Some(before.workers[worker].id(worker))
                    }
                    Job::Idle | Job::Claiming { .. } => true,
                },
                _ => false,
            };
            let able = after.workers.iter().filter_map(|worker| match &worker.job {
                Job::Holding(hold) if after.held(hold.run, hold.fence) => Some(()),
                _ => None,
            });
            stale || able.count() > 1
        }
        Rule::FenceRises => {
            let claimed = |step| matches!(step, Step::StoreClaims(..));
            claimed(step)
                && before
                    .lives
                    .iter()
                    .zip(&after.lives)
                    .any(|(old, new)| !old.run.status.is_leased() && new.run.status.is_leased() && new.run.lease_generation <= old.fences)
        }
        Rule::OneGuestActs => {
            let acting: Vec<_> = after.workers.iter().filter_map(|worker| worker.acting()).collect();
            acting.len() > 1 || acting.iter().any(|hold| !after.held(hold.run, hold.fence))
        }
        Rule::OneEnd => {
            let changed =
                before.lives.iter().zip(&after.lives).any(|(old, new)| old.run.status.is_terminal() && !Arc::ptr_eq(&old.run, &new.run));
            changed || after.lives.iter().any(|life| life.ends != u8::from(life.run.status.is_terminal()))
        }
        Rule::SlotIsTheLiveRun => !slot_is_right(after),
        Rule::CancelIsKept => after.lives.iter().any(|life| {
            let kept =
                if life.run.status.is_terminal() { life.run.status == Status::Cancelled } else { life.run.cancel_requested_at.is_some() };
            life.promised && !kept
        }),
        Rule::CanEnd => false,
    }
}

fn slot_is_right(state: &State) -> bool {
    let slot = &state.slot;
    let named = slot.holders.len() + slot.waiting.len();
    let live = state.lives.iter().filter(|life| !life.run.status.is_terminal());
    let exact = live.clone().all(|life| match life.run.slot {
        SlotPart::Holds => slot.holders.contains(&life.run.run_id),
        SlotPart::Waits => slot.waiting.contains(&life.run.run_id),
        SlotPart::Free => false,
    });
    exact && named == live.count() && slot.holders.len() <= 1 && (slot.waiting.is_empty() || !slot.holders.is_empty())
}
