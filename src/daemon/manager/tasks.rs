//! Tasks: register, change, pause, resume, delete.

use std::sync::Arc;

use chrono::FixedOffset;
use serde_json::{Value, json};

use super::{Listing, Manager};
use crate::daemon::account::Owner;
use crate::daemon::entities::skip_range_id;
use crate::daemon::error::ManagerError;
use crate::daemon::idempotency::{Answered, Once};
use crate::daemon::removal;
use crate::daemon::transitions::{self, Step, task_of};
use crate::daemon::txn::Txn;
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::run::{Slot, Status};
use crate::domain::schedule::{Advance, ScheduleState};
use crate::domain::task::Task;
use crate::domain::time::Timestamp;
use crate::store::{CountScope, Kind, PageRequest, Record, RecordId, Scope};

/// How many runs of a deleted task are handled at a time.
const DELETE_PAGE: usize = 256;
/// The most occurrences that are shown ahead.
const MOST_AHEAD: usize = 1000;

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is new.
    Created,
    /// It replaced another.
    Replaced,
    /// The same was there already.
    Unchanged,
}

impl Manager {
    /// Registers a task from JSON.
    ///
    /// # Errors
    /// The body is wrong, the agent is unknown, or the task exists and `replace` is false.
    pub async fn register_task(&self, body: Value, replace: bool, source: Option<String>) -> Result<Task, ManagerError> {
        let task = self.task_of_body(body, source)?;
        Ok(self.keep_task(task, replace).await?.0)
    }

    /// Registers a task from JSON, once under this key: asked again, it answers with the task as it was registered first.
    ///
    /// # Errors
    /// As [`Manager::register_task`]; or the key is another request's, or too many keys are kept.
    pub async fn register_task_once(&self, body: Value, replace: bool, key: IdempotencyKey) -> Result<Answered<Task>, ManagerError> {
        let once = self.once(key).await;
        // What was registered under the key may be refused by now, as when its agent is gone.
        if let Some(answered) = self.answered(&once).await? {
            return Ok(answered);
        }
        let task = self.task_of_body(body, None)?;
        self.put_task(task, replace, Some(once)).await.map(|(answered, _)| answered)
    }

    fn task_of_body(&self, body: Value, source: Option<String>) -> Result<Task, ManagerError> {
        let task = Task::parse(body, &self.inner().settings().default_agent, source, self.now())?;
        if self.0.agents.as_ref().is_some_and(|agents| !agents.knows(&task.agent_id)) {
            return Err(ManagerError::not_found("Agent", &task.agent_id));
        }
        Ok(task)
    }

    /// Keeps a task. One that asks for the same as what is there changes nothing.
    ///
    /// # Errors
    /// The task exists and `replace` is false, or the store does not answer.
    pub async fn keep_task(&self, task: Task, replace: bool) -> Result<(Task, Registered), ManagerError> {
        let (kept, registered) = self.put_task(task, replace, None).await?;
        Ok((kept.answer, registered))
    }

    async fn put_task(&self, task: Task, replace: bool, once: Option<Once>) -> Result<(Answered<Task>, Registered), ManagerError> {
        let mut ids = vec![RecordId::task(&task.task_id), RecordId::schedule(&task.task_id), RecordId::slot(&task.task_id)];
        ids.extend(once.as_ref().map(Once::id));
        let incarnation = self.inner().entropy.hex_name();
        let mut place = None;
        self.commit(ids, Vec::new(), move |txn| {
            if let Some(once) = &once {
                if let Some(answered) = once.answered(txn)? {
                    return Ok((answered, Registered::Unchanged));
                }
                once.take_place(&mut place)?;
            }
            let (kept, registered) = put_task(txn, &task, replace, &incarnation)?;
            if let Some(once) = &once {
                once.keep(txn, &kept)?;
            }
            Ok((Answered { answer: kept, replayed: false }, registered))
        })
        .await
    }

    /// Changes the given fields of a task.
    ///
    /// # Errors
    /// There is no such task, or the patch is wrong.
    pub async fn update_task(&self, task: &TaskId, patch: Value) -> Result<Task, ManagerError> {
        let id = task.clone();
        let ids = vec![RecordId::task(task), RecordId::schedule(task), RecordId::slot(task)];
        self.commit(ids, Vec::new(), move |txn| {
            let before = task_of(txn, &id)?;
            let after = before.patched(patch.clone(), txn.now()).map_err(ManagerError::from)?;
            replace_task(txn, &before, &after)?;
            Ok(after)
        })
        .await
    }

    /// Deletes a task. Its queued runs end as cancelled, its executing run goes on. With `delete_runs`, the executing run is asked to
    /// end too and the runs that have ended are deleted with their workspaces.
    ///
    /// # Errors
    /// The store does not answer; the task is disabled then and can be deleted again.
    pub async fn delete_task(&self, task: &TaskId, delete_runs: bool) -> Result<(), ManagerError> {
        if self.record(RecordId::task(task)).await?.is_none() {
            return Err(ManagerError::not_found("Task", task));
        }
        // Nothing new may come while the old is cleared away.
        self.update_task(task, json!({ "enabled": false })).await?;
        self.end_live_runs(task, delete_runs).await?;
        let id = task.clone();
        let ids = vec![RecordId::task(task), RecordId::schedule(task), RecordId::slot(task)];
        self.commit(ids.clone(), Vec::new(), move |txn| {
            for record in [RecordId::task(&id), RecordId::schedule(&id)] {
                txn.delete(record);
            }
            Owner::Task(id.clone()).forget(txn)
        })
        .await?;
        // A run_now that came in between was refused: the task was disabled.
        if delete_runs {
            self.delete_ended_runs(task).await?;
        }
        Ok(())
    }

    async fn end_live_runs(&self, task: &TaskId, executing_too: bool) -> Result<(), ManagerError> {
        // Newest first, so that the end of one gives no turn to another that is to end too.
        let mut page = PageRequest { newest_first: true, ..PageRequest::first(DELETE_PAGE) };
        loop {
            let live = self.inner().store.list(Scope::LiveRunsOfTask(task.clone()), page).await?;
            for record in &live.records {
                let run = record.decode_run()?;
                if !run.status.is_leased() || executing_too {
                    let ended = self.end_run_of_deleted(run.run_id).await;
                    // It may have ended by itself meanwhile.
                    if let Err(error) = ended
                        && !matches!(error, ManagerError::Conflict(_))
                    {
                        return Err(error);
                    }
                }
            }
            match live.next {
                Some(after) => page.after = Some(after),
                None => return Ok(()),
            }
        }
    }

    async fn end_run_of_deleted(&self, run_id: RunId) -> Result<(), ManagerError> {
        let ids = vec![RecordId::run(&run_id)];
        self.commit(ids, Vec::new(), move |txn| {
            transitions::cancel(txn, &run_id, "delete_task", Some("its task was deleted"))?;
            Ok(())
        })
        .await
    }

    async fn delete_ended_runs(&self, task: &TaskId) -> Result<(), ManagerError> {
        for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
            loop {
                let scope = Scope::Runs { task: Some(task.clone()), status: Some(status) };
                let page = self.inner().store.list(scope, PageRequest::first(DELETE_PAGE)).await?;
                let deleted = removal::delete_runs(self.inner(), &page.records).await?;
                if deleted == 0 || page.next.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads a task.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn task(&self, task: &TaskId) -> Result<Task, ManagerError> {
        let record = self.record(RecordId::task(task)).await?;
        Ok(record.ok_or_else(|| ManagerError::not_found("Task", task))?.decode()?)
    }

    /// Lists tasks, all or those of an agent.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn tasks(&self, agent: Option<AgentId>, page: PageRequest) -> Result<Listing<Task>, ManagerError> {
        let scope = agent.clone().map_or(Scope::All(Kind::Task), Scope::TasksOfAgent);
        let total = match agent {
            None => self.inner().store.counts(CountScope::All(Kind::Task)).await?.total,
            Some(_) => self.count(&scope).await?,
        };
        let (items, next) = self.page(scope, page, Record::decode).await?;
        Ok(Listing { items, total, next })
    }

    /// Stops a task's schedule until it is resumed. Runs that exist go on.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn pause_task(&self, task: &TaskId) -> Result<(), ManagerError> {
        self.change_state(task, |_, state, now| Advance { state: state.paused(None, now), skipped: None }).await
    }

    /// Goes on with a task's schedule, past what was due meanwhile.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn resume_task(&self, task: &TaskId) -> Result<(), ManagerError> {
        self.change_state(task, |task, state, now| state.resumed(&task.schedule, now)).await
    }

    async fn change_state(
        &self,
        task: &TaskId,
        change: impl Fn(&Task, &ScheduleState, Timestamp) -> Advance + Send + 'static,
    ) -> Result<(), ManagerError> {
        let id = task.clone();
        self.commit(vec![RecordId::task(task), RecordId::schedule(task)], Vec::new(), move |txn| {
            let task = task_of(txn, &id)?;
            let state = state_of(txn, &id)?;
            let advance = change(&task, &state, txn.now());
            put_advance(txn, &task, advance)
        })
        .await
    }

    /// A task's next occurrences, in its zone and in UTC, and the next change of its zone's clocks with the occurrences beside it.
    ///
    /// # Errors
    /// There is no such task.
    pub async fn next_occurrences(&self, task: &TaskId, count: usize) -> Result<Value, ManagerError> {
        let definition = self.task(task).await?;
        let record = self.record(RecordId::schedule(task)).await?;
        let state: ScheduleState = record.ok_or_else(|| ManagerError::not_found("Task", task))?.decode()?;
        let schedule = &definition.schedule;
        let now = self.now();
        let mut occurrences = Vec::new();
        let mut next = state.next_nominal_at;
        let mut offset = schedule.offset_at(now);
        while let Some(nominal) = next.filter(|_| occurrences.len() < count.min(MOST_AHEAD)) {
            occurrences.push(occurrence(&definition, &state, nominal, offset));
            offset = schedule.offset_at(nominal);
            next = schedule.next(nominal);
        }
        let change = schedule.clock_change(now, state.next_nominal_at).map(|change| {
            let show = |nominal: Option<Timestamp>| nominal.map(|nominal| occurrence(&definition, &state, nominal, change.from));
            json!({
                "at": change.at,
                "from": change.from.to_string(),
                "to": change.to.to_string(),
                "last_before": show(change.last_before),
                "first_after": show(change.first_after),
            })
        });
        Ok(json!({
            "task_id": task,
            "timezone": schedule.timezone().name(),
            "enabled": definition.enabled,
            "paused": state.paused,
            "occurrences": occurrences,
            "clock_change": change,
        }))
    }

    /// A task's skip ranges.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn skip_ranges(&self, task: &TaskId, page: PageRequest) -> Result<Listing<Value>, ManagerError> {
        self.task(task).await?;
        let scope = Scope::SkipRanges(task.clone());
        let total = self.count(&scope).await?;
        let (items, next) = self.page(scope, page, Record::decode).await?;
        Ok(Listing { items, total, next })
    }
}

/// A coming occurrence; `before` is its zone's distance from UTC at the one before it.
fn occurrence(task: &Task, state: &ScheduleState, nominal: Timestamp, before: FixedOffset) -> Value {
    let schedule = &task.schedule;
    let due = nominal + schedule.jitter_of(&task.task_id, &state.incarnation, nominal);
    let local = nominal.to_datetime().with_timezone(&schedule.timezone());
    let offset = schedule.offset_at(nominal);
    json!({
        "nominal": nominal,
        "local": local.format("%a %Y-%m-%d %H:%M:%S %Z").to_string(),
        "offset": offset.to_string(),
        "offset_change_seconds": offset.local_minus_utc() - before.local_minus_utc(),
        "due": due,
    })
}

pub(super) fn state_of(txn: &mut Txn<'_>, task: &TaskId) -> Step<Arc<ScheduleState>> {
    txn.get::<ScheduleState, _>(&RecordId::schedule(task))?.ok_or_else(|| ManagerError::not_found("Task", task).into())
}

/// Writes a schedule's state; that of a disabled task is never due.
fn put_state(txn: &mut Txn<'_>, task: &Task, mut state: ScheduleState) -> Step<()> {
    if !task.enabled {
        state.next_due_at = None;
    }
    txn.put(RecordId::schedule(&task.task_id), Arc::new(state))
}

/// Keeps a task, as [`Manager::keep_task`] says.
fn put_task(txn: &mut Txn<'_>, task: &Task, replace: bool, incarnation: &str) -> Step<(Task, Registered)> {
    let before = txn.get::<Task, _>(&RecordId::task(&task.task_id))?;
    let Some(before) = before else {
        let state = ScheduleState::new(task.task_id.clone(), incarnation.to_owned(), &task.schedule, txn.now());
        put_state(txn, task, state)?;
        txn.put(RecordId::task(&task.task_id), Arc::new(task.clone()))?;
        // A run of a task of this name that was deleted may have ended since.
        Owner::Task(task.task_id.clone()).forget(txn)?;
        return Ok((task.clone(), Registered::Created));
    };
    if !replace {
        return Err(ManagerError::Conflict(format!("Task already registered: {}", task.task_id)).into());
    }
    if before.same_as(task) {
        return Ok((Task::clone(&before), Registered::Unchanged));
    }
    let mut after = task.clone();
    after.created_at = before.created_at;
    replace_task(txn, &before, &after)?;
    Ok((after, Registered::Replaced))
}

fn put_advance(txn: &mut Txn<'_>, task: &Task, advance: Advance) -> Step<()> {
    if let Some(range) = advance.skipped {
        txn.put(skip_range_id(&range), Arc::new(range))?;
    }
    put_state(txn, task, advance.state)
}

fn replace_task(txn: &mut Txn<'_>, before: &Task, after: &Task) -> Step<()> {
    let state = state_of(txn, &after.task_id)?;
    let now = txn.now();
    if before.schedule != after.schedule {
        let advance = state.edited(&before.schedule, &after.schedule, now);
        put_advance(txn, after, advance)?;
    } else if after.enabled && !before.enabled {
        let advance = state.enabled(&after.schedule, now);
        put_advance(txn, after, advance)?;
    } else if before.enabled != after.enabled {
        put_state(txn, after, ScheduleState::clone(&state))?;
    }
    if before.capacity() != after.capacity() {
        regroup(txn, after)?;
    }
    txn.put(RecordId::task(&after.task_id), Arc::new(after.clone()))
}

/// Gives waiting runs the turns that a wider policy has for them.
fn regroup(txn: &mut Txn<'_>, task: &Task) -> Step<()> {
    let id = RecordId::slot(&task.task_id);
    let Some(before) = txn.get::<Slot, _>(&id)? else { return Ok(()) };
    let mut slot = Slot::clone(&before);
    transitions::give_turns_up_to(txn, &mut slot, task.capacity().unwrap_or(usize::MAX))?;
    txn.put(id, Arc::new(slot))
}
