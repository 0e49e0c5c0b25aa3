//! What must be so when the faults are over and everything has settled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sandclock::domain::id::WorkerId;
use sandclock::domain::run::{AttemptStatus, Run, Status};
use sandclock::domain::time::Timestamp;
use sandclock::store::{CountScope, Counts, DueKind, Kind, PageRequest, Record, Scope, Store};

use super::{Model, Oracle};

impl Model {
    /// Whether a run waits for somebody.
    pub fn is_parked(&self) -> bool {
        self.runs.values().any(|life| life.live() && life.run.status.is_waiting())
    }

    /// The runs that have not ended, for a reader.
    pub fn unsettled(&self) -> Vec<String> {
        let told = |life: &super::Life| {
            let run = &life.run;
            format!("{} of {}: {} {:?} attempt {} due {}", run.run_id, run.task_id, run.status.as_str(), run.slot, run.attempt, life.due)
        };
        self.runs.values().filter(|life| life.live()).map(told).collect()
    }

    /// Whether every occurrence whose time has come was dispatched.
    pub fn overdue(&self, now: Timestamp) -> Option<String> {
        let late = |(task, state): (&_, &sandclock::domain::schedule::ScheduleState)| {
            state.due_at().filter(|due| *due + Duration::from_secs(30) < now).map(|due| format!("{task} is due since {due}, it is {now}"))
        };
        self.schedules.iter().find_map(late)
    }

    fn judge_end(&mut self, runs: &[Run]) {
        let mut faults = Vec::new();
        for run in runs {
            let Some(life) = self.runs.get(&run.run_id).filter(|life| !life.deleted) else {
                faults.push(format!("{} is in the store and nobody made it", run.run_id));
                continue;
            };
            if run.status != life.run.status || run.attempt as usize != life.tries.len() || run.lease_generation != life.fence() {
                faults.push(format!("{} is {} with {} attempts in the store", run.run_id, run.status.as_str(), run.attempt));
            }
            if life.tries.iter().any(|seen| seen.status == AttemptStatus::Running) {
                faults.push(format!("{} has ended and an attempt of it goes on", run.run_id));
            }
        }
        let there = self.runs.values().filter(|life| !life.deleted).count();
        if there != runs.len() {
            faults.push(format!("{there} runs were made and {} are there", runs.len()));
        }
        for (task, slot) in &self.slots {
            if !slot.holders.is_empty() || !slot.waiting.is_empty() {
                faults.push(format!("the slot of {task} is not empty: {slot:?}"));
            }
        }
        for (task, state) in &self.schedules {
            let made = self.dispatched.get(&state.incarnation).copied().unwrap_or_default();
            if state.totals.runs != made || state.totals.occurrences != state.totals.runs + state.totals.skipped {
                faults.push(format!("the schedule of {task} says {:?}; {made} runs were made", state.totals));
            }
        }
        self.faults.append(&mut faults);
    }
}

async fn all(store: &Arc<dyn Store>, scope: Scope) -> Vec<Record> {
    let mut page = PageRequest::first(200);
    let mut records = Vec::new();
    loop {
        let part = store.list(scope.clone(), page).await.unwrap();
        records.extend(part.records);
        match part.next {
            Some(after) => page.after = Some(after),
            None => return records,
        }
    }
}

impl Oracle {
    /// Judges the store as it is at the end.
    pub async fn judge_end(&self, store: &Arc<dyn Store>) {
        let records = all(store, Scope::All(Kind::Run)).await;
        let runs: Vec<Run> = records.iter().map(|record| record.decode_run().unwrap()).collect();
        self.tell(|model| {
            model.judge_end(&runs);
            model.judge_promises();
            model.judge_spent();
        });
        self.judge_counts(store, &runs).await;
        for run in &runs {
            let events = store.events(&run.run_id, 0, 10_000).await.unwrap();
            let terminal: Vec<u64> = events.iter().filter(|event| event.event.event.is_terminal()).map(|event| event.sequence).collect();
            let in_order = events.iter().map(|event| event.sequence).eq(1..=events.len() as u64);
            if !in_order || terminal != [events.len() as u64] {
                self.fault(format!("{} has {} events, terminal ones {terminal:?}, in order: {in_order}", run.run_id, events.len()));
            }
            let attempts = all(store, Scope::Attempts(run.run_id.clone())).await;
            if attempts.len() != run.attempt as usize {
                self.fault(format!("{} is at attempt {} and has {} of them", run.run_id, run.attempt, attempts.len()));
            }
        }
        let leases = store.due(DueKind::ExpiredLeases, 10).await.unwrap();
        if !leases.records.is_empty() || leases.next.is_some() {
            self.fault("a lease is left");
        }
    }

    /// A daemon was told to stop while its store was near: it has, and holds no run any more but those that it had let go of before.
    pub fn stopped(&self, name: &str, worker: Option<&WorkerId>) {
        self.tell(|model| {
            let Some(worker) = worker else { return model.fault(format!("{name} does not stop")) };
            let mut held = model.runs.values().filter(|life| life.live() && life.owner.as_ref() == Some(worker));
            let kept = held.find(|life| !model.guests.has_let_go(&life.run.run_id, life.fence()));
            if let Some(run) = kept.map(|life| life.run.run_id.clone()) {
                model.fault(format!("{worker} has stopped and holds {run}"));
            }
        });
    }

    /// What is counted is what a recount gives.
    async fn judge_counts(&self, store: &Arc<dyn Store>, runs: &[Run]) {
        let mut scopes: BTreeMap<CountScope, BTreeMap<Status, u64>> = BTreeMap::new();
        for run in runs {
            for scope in
                [CountScope::All(Kind::Run), CountScope::RunsOfTask(run.task_id.clone()), CountScope::RunsOfAgent(run.agent_id.clone())]
            {
                *scopes.entry(scope).or_default().entry(run.status).or_default() += 1;
            }
        }
        for (scope, by_status) in scopes {
            let counts = store.counts(scope.clone()).await.unwrap();
            let recounted = Counts { total: by_status.values().sum(), by_status };
            if counts != recounted {
                self.fault(format!("{scope:?} counts {counts:?}; a recount gives {recounted:?}"));
            }
        }
    }
}
