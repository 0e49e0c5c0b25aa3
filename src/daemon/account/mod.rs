//! Accounts: what runs, tasks and agents have spent, and what was granted to them.
//!
//! Invariants: the end of an attempt adds what it used in the change that keeps its outcome, and a call is charged before it leaves; so what
//! was spent is counted once, whatever is lost. The account of a task or an agent is the sum of parts, of which each daemon writes one of its
//! own, so that daemons do not wait for each other; whoever decides by the sum has read all of them, and the change stands only if they are
//! still so. Only a run with a budget has an account of its own.
//!
//! How it fails: a charge that cannot be kept lets no call leave.

mod attempt;
mod calls;
mod end;
mod show;

use std::sync::Arc;

use super::txn::{Entity, Stop, Txn};
use crate::domain::budget::{Allowance, Budget, Granted, Part, RunAccount, Standing, Used, exhausted_at_start};
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::spend::{BudgetScope, Exhausted};
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, RecordId};

pub(super) use attempt::{AttemptAccount, NotOpened};
pub(super) use end::Accounts;
pub(super) use show::shown;

/// Of how many parts the account of a task or an agent is made.
const PARTS: u8 = 16;

impl Entity for RunAccount {
    const KIND: Kind = Kind::Account;

    fn index(&self, _now: Timestamp) -> Index {
        // It goes with its run.
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

impl Entity for Part {
    const KIND: Kind = Kind::Account;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

impl Entity for Granted {
    const KIND: Kind = Kind::Account;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

/// The record of a run's account.
pub(super) fn run_id(run: &RunId) -> RecordId {
    RecordId::new(Kind::Account, &format!("r/{run}"))
}

/// A task or an agent, whose account is made of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A task.
    Task(TaskId),
    /// An agent.
    Agent(AgentId),
}

impl Owner {
    fn part_id(&self, part: u8) -> RecordId {
        let key = match self {
            Owner::Task(task) => format!("t/{task}/{part:02}"),
            Owner::Agent(agent) => format!("a/{agent}/{part:02}"),
        };
        RecordId::new(Kind::Account, &key)
    }

    fn part_ids(&self) -> Vec<RecordId> {
        (0..PARTS).map(|part| self.part_id(part)).collect()
    }

    /// The record of what was granted to it.
    pub(super) fn granted_id(&self) -> RecordId {
        let key = match self {
            Owner::Task(task) => format!("t/{task}/granted"),
            Owner::Agent(agent) => format!("a/{agent}/granted"),
        };
        RecordId::new(Kind::Account, &key)
    }

    /// All its records.
    pub(super) fn ids(&self) -> Vec<RecordId> {
        let mut ids = self.part_ids();
        ids.push(self.granted_id());
        ids
    }

    /// What its budget is for.
    pub(super) const fn scope(&self) -> BudgetScope {
        match self {
            Owner::Task(_) => BudgetScope::Task,
            Owner::Agent(_) => BudgetScope::Day,
        }
    }

    fn parts<E>(&self, txn: &mut Txn<'_>) -> Result<Vec<Arc<Part>>, Stop<E>> {
        let ids = self.part_ids();
        txn.need(&ids)?;
        let mut parts = Vec::new();
        for id in ids {
            parts.extend(txn.get::<Part, _>(&id)?);
        }
        Ok(parts)
    }

    /// What it has used in all.
    pub(super) fn used<E>(&self, txn: &mut Txn<'_>) -> Result<Used, Stop<E>> {
        Ok(self.parts(txn)?.iter().fold(Used::default(), |sum, part| sum.plus(part.used)))
    }

    /// How its budget stands: a task's, or an agent's on this day.
    pub(super) fn standing<E>(&self, txn: &mut Txn<'_>, allowance: Allowance) -> Result<Standing, Stop<E>> {
        txn.need(&self.ids())?;
        let (parts, granted) = (self.parts(txn)?, txn.get::<Granted, _>(&self.granted_id())?.unwrap_or_default());
        let now = txn.now();
        let spent = parts.iter().map(|part| match self {
            Owner::Task(_) => part.used.spent,
            Owner::Agent(_) => part.on_day(now),
        });
        let spent = spent.fold(crate::domain::spend::Spend::default(), crate::domain::spend::Spend::plus);
        let granted = match self {
            Owner::Task(_) => granted.amount,
            Owner::Agent(_) => granted.on_day(now),
        };
        Ok(Standing { scope: self.scope(), allowance, granted, spent })
    }

    /// Deletes all that is known of it.
    pub(super) fn forget<E>(&self, txn: &mut Txn<'_>) -> Result<(), Stop<E>> {
        let ids = self.ids();
        txn.need(&ids)?;
        for id in ids {
            // What is not there needs no change; parts and grants are told apart by nothing but their keys.
            let is_there = if id == self.granted_id() { txn.get::<Granted, _>(&id)?.is_some() } else { txn.get::<Part, _>(&id)?.is_some() };
            if is_there {
                txn.delete(id);
            }
        }
        Ok(())
    }
}

/// How the budgets stand that a run of this task depends on beside its own.
pub(super) fn shared_standings<E>(txn: &mut Txn<'_>, budget: &Budget, task: &TaskId, agent: &AgentId) -> Result<Vec<Standing>, Stop<E>> {
    let mut standings = Vec::new();
    for owner in shared(budget, task, agent) {
        standings.push(owner.standing(txn, *budget.of(owner.scope()))?);
    }
    Ok(standings)
}

/// Those whose accounts limit a run of this task beside its own.
pub(super) fn shared(budget: &Budget, task: &TaskId, agent: &AgentId) -> Vec<Owner> {
    let owners = [Owner::Task(task.clone()), Owner::Agent(agent.clone())];
    owners.into_iter().filter(|owner| !budget.of(owner.scope()).is_empty()).collect()
}

/// The budget of a task or its agent that has nothing left for another run.
pub(super) fn spent_for<E>(txn: &mut Txn<'_>, budget: &Budget, task: &TaskId, agent: &AgentId) -> Result<Option<Exhausted>, Stop<E>> {
    Ok(exhausted_at_start(&shared_standings(txn, budget, task, agent)?))
}
