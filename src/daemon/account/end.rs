//! The accounts that one attempt writes to, and what its end adds to them.

use std::sync::Arc;

use super::{Owner, PARTS, run_id, shared, shared_standings};
use crate::daemon::txn::{Stop, Txn};
use crate::domain::budget::{Budget, Part, RunAccount, Standing, Used};
use crate::domain::lifecycle::{self, Decision};
use crate::domain::park::{Park, Parked};
use crate::domain::run::Run;
use crate::domain::spend::{BudgetScope, Spend};
use crate::store::RecordId;

/// The accounts of one attempt.
pub(in crate::daemon) struct Accounts {
    pub(super) run: Arc<Run>,
    pub(super) budget: Budget,
    task: Owner,
    agent: Owner,
    part: u8,
}

impl Accounts {
    /// Those of an attempt of this run under a budget, made by the daemon of that id.
    pub(in crate::daemon) fn new(run: Arc<Run>, budget: Budget, daemon: &str) -> Accounts {
        let part = blake3::hash(daemon.as_bytes()).as_bytes().first().map_or(0, |byte| byte % PARTS);
        let (task, agent) = (Owner::Task(run.task_id.clone()), Owner::Agent(run.agent_id.clone()));
        Accounts { run, budget, task, agent, part }
    }

    /// Whether anything limits what the run may spend.
    pub(in crate::daemon) fn is_limited(&self) -> bool {
        !self.budget.is_empty()
    }

    fn own_parts(&self) -> [RecordId; 2] {
        [self.task.part_id(self.part), self.agent.part_id(self.part)]
    }

    /// The records that the end of the attempt writes.
    pub(in crate::daemon) fn written(&self) -> Vec<RecordId> {
        let mut ids = self.own_parts().to_vec();
        ids.extend(self.is_limited().then(|| run_id(&self.run.run_id)));
        ids
    }

    /// The records that a call depends on.
    pub(super) fn reads(&self) -> Vec<RecordId> {
        let mut ids = self.written();
        for owner in shared(&self.budget, &self.run.task_id, &self.run.agent_id) {
            ids.extend(owner.ids().into_iter().filter(|id| !self.own_parts().contains(id)));
        }
        ids
    }

    /// The run's account.
    pub(super) fn account<E>(&self, txn: &mut Txn<'_>) -> Result<RunAccount, Stop<E>> {
        let account = txn.get::<RunAccount, _>(&run_id(&self.run.run_id))?;
        Ok(account.map_or_else(|| RunAccount::new(self.run.run_id.clone()), |account| RunAccount::clone(&account)))
    }

    /// How the budgets stand that limit the run: its own, its task's and its agent's on this day.
    pub(super) fn standings<E>(&self, txn: &mut Txn<'_>) -> Result<Vec<Standing>, Stop<E>> {
        txn.need(&self.reads())?;
        let mut standings = Vec::new();
        if !self.budget.run.is_empty() {
            let account = self.account(txn)?;
            let (granted, spent) = (account.granted.amount, account.spent);
            standings.push(Standing { scope: BudgetScope::Run, allowance: self.budget.run, granted, spent });
        }
        standings.extend(shared_standings(txn, &self.budget, &self.run.task_id, &self.run.agent_id)?);
        Ok(standings)
    }

    /// Charges the attempt in all its accounts, once for each number.
    pub(super) fn charge<E>(&self, txn: &mut Txn<'_>, (fence, number): (u64, u64), more: Spend) -> Result<(), Stop<E>> {
        txn.need(&self.written())?;
        let mut account = self.account(txn)?;
        if account.has_charged(fence, number) {
            return Ok(());
        }
        account.charge(fence, number, more);
        txn.put(run_id(&self.run.run_id), Arc::new(account))?;
        self.add(txn, Used { spent: more, ..Used::default() })
    }

    /// Adds what the attempt used and was not charged yet, at its end. `has_run_ended` says whether the run ends with it.
    pub(in crate::daemon) fn settle<E>(&self, txn: &mut Txn<'_>, fence: u64, used: Spend, has_run_ended: bool) -> Result<(), Stop<E>> {
        txn.need(&self.written())?;
        let mut rest = used;
        if self.is_limited() {
            let mut account = self.account(txn)?;
            rest = account.settle(fence, used);
            txn.put(run_id(&self.run.run_id), Arc::new(account))?;
        }
        self.add(txn, Used { runs: u64::from(has_run_ended), attempts: 1, spent: rest })
    }

    /// Lets a run go on at once that is about to wait for a budget of which more was granted meanwhile, or whose day is over.
    pub(in crate::daemon) fn unpark<E>(&self, txn: &mut Txn<'_>, decision: Decision) -> Result<Decision, Stop<E>> {
        let Some(Parked { park: Park::Budget(met), .. }) = &decision.run.parked else { return Ok(decision) };
        let (scope, met) = (met.scope, *met);
        let standings = self.standings(txn)?;
        if !standings.iter().any(|standing| standing.has_more_than(&met)) {
            return Ok(decision);
        }
        let Some(granted) = lifecycle::granted(decision.run.clone(), scope, None, txn.now()) else { return Ok(decision) };
        let events = decision.events.into_iter().chain(granted.events).collect();
        Ok(Decision { run: granted.run, events, ..decision })
    }

    fn add<E>(&self, txn: &mut Txn<'_>, more: Used) -> Result<(), Stop<E>> {
        let [task, agent] = self.own_parts();
        let now = txn.now();
        let mut part = txn.get::<Part, _>(&task)?.map(|part| Part::clone(&part)).unwrap_or_default();
        part.add(more);
        txn.put(task, Arc::new(part))?;
        let mut part = txn.get::<Part, _>(&agent)?.map(|part| Part::clone(&part)).unwrap_or_default();
        part.add_on_day(more, now);
        txn.put(agent, Arc::new(part))
    }
}
