//! Budgets: how they stand, what was used, and grants.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::{Map, Value, json};

use super::Manager;
use crate::daemon::account::{self, Owner};
use crate::daemon::error::ManagerError;
use crate::daemon::idempotency::{Answered, Once};
use crate::daemon::transitions::{self, Step};
use crate::daemon::txn::Txn;
use crate::domain::budget::{Allowance, Budget, Grant, Granted, RunAccount, Standing, Used, exhausted};
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::input::Faults;
use crate::domain::lifecycle::{self, Refused};
use crate::domain::park::{Park, Parked};
use crate::domain::run::{Attempt, Run, Status, Usage};
use crate::domain::spend::{BudgetScope, Meter, Spend};
use crate::store::{PageRequest, Record, RecordId, Scope};

/// How many parked runs are let go at a time.
const RESUMED_AT_ONCE: usize = 100;

/// More of a budget, that somebody wants to grant.
#[derive(Clone, Debug)]
pub struct GrantWish {
    /// How much more of which meters.
    pub amount: Allowance,
    /// Who grants it, where that is known.
    pub by: Option<String>,
}

impl GrantWish {
    fn at(&self, txn: &Txn<'_>) -> Grant {
        Grant { at: txn.now(), by: self.by.clone(), amount: self.amount }
    }

    /// Refuses a grant of what nothing limits.
    fn check(&self, allowance: &Allowance, whose: &str) -> Result<(), ManagerError> {
        let mut faults = Faults::new();
        for meter in Meter::ALL {
            if self.amount.of(meter).is_some() && allowance.of(meter).is_none() {
                faults.add(meter.as_str(), format!("is not limited by the budget of {whose}, so there is nothing to grant"));
            }
        }
        if self.amount.is_empty() {
            faults.add("", "grants nothing: name a meter, such as {\"tokens\": 100000}");
        }
        Ok(faults.into_result(())?)
    }
}

/// A standing, with the grants behind it.
type Shown = (Standing, Vec<Grant>);

impl Manager {
    /// What an agent may spend, as this daemon is set.
    fn budget_of(&self, agent: &AgentId) -> Budget {
        self.inner().executor.budget_of(agent)
    }

    /// What a task and its runs may spend.
    async fn budget_of_task(&self, task: &TaskId) -> Result<(Budget, AgentId), ManagerError> {
        let task = self.task(task).await?;
        Ok((task.budget.within(&self.budget_of(&task.agent_id)), task.agent_id))
    }

    async fn owned(&self, owner: Owner, allowance: Allowance) -> Result<(Used, Shown), ManagerError> {
        self.commit(owner.ids(), Vec::new(), move |txn| {
            let (used, standing) = (owner.used(txn)?, owner.standing(txn, allowance)?);
            let granted = txn.get::<Granted, _>(&owner.granted_id())?.unwrap_or_default();
            Ok((used, (standing, granted.grants.clone())))
        })
        .await
    }

    /// What a run has spent and what its budgets leave it: its own, its task's and its agent's on this day.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn run_budget(&self, id: &RunId) -> Result<Value, ManagerError> {
        let run = self.run(id).await?;
        let budget = run.policy.budget.within(&self.budget_of(&run.agent_id));
        let record = self.record(account::run_id(id)).await?;
        let account = record.map(|record| record.decode::<RunAccount>()).transpose()?;
        let mut shown = Vec::new();
        let spent = match &account {
            Some(account) => account.spent,
            None => self.spent_in_attempts(id).await?,
        };
        let granted = account.map(|account| account.granted).unwrap_or_default();
        if !budget.run.is_empty() {
            let standing = Standing { scope: BudgetScope::Run, allowance: budget.run, granted: granted.amount, spent };
            shown.push((standing, granted.grants));
        }
        for owner in account::shared(&budget, &run.task_id, &run.agent_id) {
            let allowance = *budget.of(owner.scope());
            shown.push(self.owned(owner, allowance).await?.1);
        }
        let used = json!(Used { runs: u64::from(run.status.is_terminal()), attempts: u64::from(run.attempt), spent });
        Ok(told(&[("run_id", json!(id)), ("status", json!(run.status)), ("used", used), ("parked", json!(run.parked))], &shown))
    }

    /// What the attempts of a run say that they spent, where no account was kept of it.
    async fn spent_in_attempts(&self, run: &RunId) -> Result<Spend, ManagerError> {
        let attempts = self.attempts(run).await?;
        let spent = attempts.iter().filter_map(|attempt: &Attempt| attempt.usage.as_ref()).map(Usage::spend);
        Ok(spent.fold(Spend::default(), Spend::plus))
    }

    /// What a task has spent and what its budgets leave it: its own, and its agent's on this day.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn task_budget(&self, task: &TaskId) -> Result<Value, ManagerError> {
        let (budget, agent) = self.budget_of_task(task).await?;
        let (used, standing) = self.owned(Owner::Task(task.clone()), budget.task).await?;
        let mut shown: Vec<Shown> = if budget.task.is_empty() { Vec::new() } else { vec![standing] };
        if !budget.day.is_empty() {
            shown.push(self.owned(Owner::Agent(agent.clone()), budget.day).await?.1);
        }
        let of_run = json!(budget.run);
        Ok(told(&[("task_id", json!(task)), ("agent_id", json!(agent)), ("used", json!(used)), ("each_run", of_run)], &shown))
    }

    /// What an agent has spent and what its budget leaves it on this day.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn agent_budget(&self, agent: &AgentId) -> Result<Value, ManagerError> {
        let budget = self.budget_of(agent);
        let (used, standing) = self.owned(Owner::Agent(agent.clone()), budget.day).await?;
        let shown: Vec<Shown> = if budget.day.is_empty() { Vec::new() } else { vec![standing] };
        let (each_run, each_task) = (json!(budget.run), json!(budget.task));
        Ok(told(&[("agent_id", json!(agent)), ("used", json!(used)), ("each_run", each_run), ("each_task", each_task)], &shown))
    }

    /// Grants a run more, once under a key, and lets it go on where it waits for that.
    ///
    /// # Errors
    /// There is no such run, it has ended, or nothing limits what is granted.
    pub async fn grant_run(&self, id: &RunId, wish: GrantWish, key: Option<IdempotencyKey>) -> Result<Answered<Value>, ManagerError> {
        let run = self.run(id).await?;
        let allowance = run.policy.budget.within(&self.budget_of(&run.agent_id)).run;
        let once = self.once_under(key).await;
        let mut reads = vec![RecordId::run(id), account::run_id(id)];
        reads.extend(once.as_ref().map(Once::id));
        let (id, mut place) = (id.clone(), None);
        self.commit(reads, Vec::new(), move |txn| {
            if let Some(once) = &once {
                if let Some(answered) = once.answered(txn)? {
                    return Ok(answered);
                }
                once.take_place(&mut place)?;
            }
            let answer = grant_run(txn, &id, allowance, &wish)?;
            if let Some(once) = &once {
                once.keep(txn, &answer)?;
            }
            Ok(Answered { answer, replayed: false })
        })
        .await
    }

    /// Grants a task more, once under a key, and lets its runs go on that wait for that.
    ///
    /// # Errors
    /// There is no such task, or nothing limits what is granted.
    pub async fn grant_task(&self, task: &TaskId, wish: GrantWish, key: Option<IdempotencyKey>) -> Result<Answered<Value>, ManagerError> {
        let (budget, _) = self.budget_of_task(task).await?;
        wish.check(&budget.task, &format!("task {task}"))?;
        self.grant_owner(Owner::Task(task.clone()), budget.task, wish, key).await
    }

    /// Grants an agent more for this day, once under a key, and lets its runs go on that wait for that.
    ///
    /// # Errors
    /// Nothing limits what is granted.
    pub async fn grant_agent(
        &self,
        agent: &AgentId,
        wish: GrantWish,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Value>, ManagerError> {
        let budget = self.budget_of(agent);
        wish.check(&budget.day, &format!("agent {agent} for a day"))?;
        self.grant_owner(Owner::Agent(agent.clone()), budget.day, wish, key).await
    }

    async fn grant_owner(
        &self,
        owner: Owner,
        allowance: Allowance,
        wish: GrantWish,
        key: Option<IdempotencyKey>,
    ) -> Result<Answered<Value>, ManagerError> {
        let once = self.once_under(key).await;
        let mut reads = vec![owner.granted_id()];
        reads.extend(once.as_ref().map(Once::id));
        let (of, by, mut place) = (owner.clone(), wish.by.clone(), None);
        let kept: Answered<Value> = self
            .commit(reads, Vec::new(), move |txn| {
                if let Some(once) = &once {
                    if let Some(answered) = once.answered(txn)? {
                        return Ok(answered);
                    }
                    once.take_place(&mut place)?;
                }
                let mut granted = txn.get::<Granted, _>(&of.granted_id())?.map(|granted| Granted::clone(&granted)).unwrap_or_default();
                let grant = wish.at(txn);
                match of {
                    Owner::Task(_) => granted.add(grant),
                    Owner::Agent(_) => granted.add_on_day(grant),
                }
                txn.put(of.granted_id(), Arc::new(granted))?;
                let answer = json!({"status": "granted", "scope": of.scope(), "amount": wish.amount});
                if let Some(once) = &once {
                    once.keep(txn, &answer)?;
                }
                Ok(Answered { answer, replayed: false })
            })
            .await?;
        // Also for a grant that was made before: whoever asks again may do so because not all runs were let go.
        let (_, (standing, grants)) = self.owned(owner.clone(), allowance).await?;
        let still = exhausted(&[standing], &Spend::default());
        let resumed = if still.is_none() { self.resume_parked(&owner, by.as_deref()).await? } else { 0 };
        let mut answer = kept.answer;
        if let Value::Object(object) = &mut answer {
            object.insert("resumed".to_owned(), json!(resumed));
            object.insert("still_spent".to_owned(), json!(still.map(|still| still.to_string())));
            object.insert("budget".to_owned(), account::shown(&standing, &grants));
        }
        Ok(Answered { answer, replayed: kept.replayed })
    }

    async fn once_under(&self, key: Option<IdempotencyKey>) -> Option<Once> {
        match key {
            Some(key) => Some(self.once(key).await),
            None => None,
        }
    }

    /// Lets the runs go on that wait for the budget of a task or an agent, page by page; answers how many there were.
    async fn resume_parked(&self, owner: &Owner, by: Option<&str>) -> Result<u64, ManagerError> {
        let task = match owner {
            Owner::Task(task) => Some(task.clone()),
            Owner::Agent(_) => None,
        };
        let scope = Scope::Runs { task, status: Some(Status::AwaitingBudget) };
        let (mut page, mut resumed) = (PageRequest::first(RESUMED_AT_ONCE), 0);
        loop {
            let found = self.inner().store.list(scope.clone(), page).await?;
            let runs: Vec<Run> = found.records.iter().map(Record::decode_run).collect::<Result<_, _>>()?;
            let waiting = runs.into_iter().filter(|run| waits_for(run, owner)).map(|run| self.resume_granted(run, owner, by));
            let mut done = waiting.collect::<FuturesUnordered<_>>();
            while let Some(done) = done.next().await {
                resumed += u64::from(done?);
            }
            match found.next {
                Some(after) => page.after = Some(after),
                None => return Ok(resumed),
            }
        }
    }

    async fn resume_granted(&self, run: Run, owner: &Owner, by: Option<&str>) -> Result<bool, ManagerError> {
        let (id, scope, by) = (run.run_id, owner.scope(), by.map(str::to_owned));
        self.commit(vec![RecordId::run(&id)], Vec::new(), move |txn| {
            let Some(run) = txn.get::<Run, _>(&RecordId::run(&id))? else { return Ok(false) };
            let Some(decision) = lifecycle::granted(Run::clone(&run), scope, by.as_deref(), txn.now()) else { return Ok(false) };
            transitions::write(txn, decision)?;
            Ok(true)
        })
        .await
    }
}

/// Whether a run waits for more of that budget.
fn waits_for(run: &Run, owner: &Owner) -> bool {
    let is_its = match owner {
        Owner::Task(task) => run.task_id == *task,
        Owner::Agent(agent) => run.agent_id == *agent,
    };
    is_its && matches!(&run.parked, Some(Parked { park: Park::Budget(met), .. }) if met.scope == owner.scope())
}

/// Grants a run more, and lets it go on where it waits for that and has something left.
fn grant_run(txn: &mut Txn<'_>, id: &RunId, allowance: Allowance, wish: &GrantWish) -> Step<Value> {
    let run = transitions::run_of(txn, id)?;
    if run.status.is_terminal() {
        return Err(Refused::Ended { run: id.clone(), status: run.status.as_str(), wish: "granted more" }.into());
    }
    wish.check(&allowance, &format!("run {id}"))?;
    let account = txn.get::<RunAccount, _>(&account::run_id(id))?;
    let mut account = account.map_or_else(|| RunAccount::new(id.clone()), |account| RunAccount::clone(&account));
    account.granted.add(wish.at(txn));
    let standing = Standing { scope: BudgetScope::Run, allowance, granted: account.granted.amount, spent: account.spent };
    let grants = account.granted.grants.clone();
    txn.put(account::run_id(id), Arc::new(account))?;
    let still = exhausted(&[standing], &Spend::default());
    let granted = match still {
        None => lifecycle::granted(Run::clone(&run), BudgetScope::Run, wish.by.as_deref(), txn.now()),
        Some(_) => None,
    };
    let resumed = u64::from(granted.is_some());
    if let Some(decision) = granted {
        transitions::write(txn, decision)?;
    }
    Ok(json!({
        "status": "granted",
        "scope": BudgetScope::Run,
        "amount": wish.amount,
        "resumed": resumed,
        "still_spent": still.map(|still| still.to_string()),
        "budget": account::shown(&standing, &grants),
    }))
}

fn told(head: &[(&str, Value)], shown: &[Shown]) -> Value {
    let mut object: Map<String, Value> = head.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let budgets = shown.iter().map(|(standing, grants)| account::shown(standing, grants)).collect();
    object.insert("budgets".to_owned(), Value::Array(budgets));
    Value::Object(object)
}
