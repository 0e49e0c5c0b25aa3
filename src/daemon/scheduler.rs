//! Dispatches due occurrences. It sleeps until the next one is due or a schedule changes.
//!
//! Invariant: an occurrence becomes a run or part of a skip range in the same change that moves the schedule past it. One task that
//! cannot be dispatched is left for later and disturbs no other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use tokio_util::sync::CancellationToken;

use super::account;
use super::admission::{Admission, Place};
use super::entities::skip_range_id;
use super::error::ManagerError;
use super::executor::Executor;
use super::inner::Inner;
use super::outage::tell_unless_out;
use super::transitions::{self, Step};
use super::txn::{Known, Txn};
use crate::clock::BootInstant;
use crate::domain::budget::Budget;
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::lifecycle::Draft;
use crate::domain::run::{Run, Trigger};
use crate::domain::schedule::{Schedule, ScheduleState, SkipRange, SkipReason, Skipped};
use crate::domain::task::Task;
use crate::domain::time::Timestamp;
use crate::store::{DueKind, Record, RecordId, StoreError};

/// How many occurrences of one task are dispatched in one change.
const OCCURRENCES: usize = 32;
/// How long a task that could not be dispatched is left alone.
const SET_ASIDE: Duration = Duration::from_secs(60);

/// Dispatches until it is told to stop.
pub async fn dispatch(inner: Arc<Inner>, stop: CancellationToken) {
    let mut aside: HashMap<String, BootInstant> = HashMap::new();
    loop {
        let wait = match pass(&inner, &mut aside, &stop).await {
            Ok(wait) => wait,
            Err(error) => {
                tell_unless_out!(error, warn, %error, "due schedules could not be looked for");
                inner.settings().poll
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = inner.wakeups.schedules.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Dispatches what is due; answers how long nothing will be.
async fn pass(inner: &Arc<Inner>, aside: &mut HashMap<String, BootInstant>, stop: &CancellationToken) -> Result<Duration, StoreError> {
    // Where something is always due, only the stop ends this.
    while !stop.is_cancelled() {
        inner.outage.room()?;
        inner.admission.refresh(&*inner.store, &*inner.clock).await;
        let now = inner.clock.boot();
        aside.retain(|_, since| Duration::from_nanos(now.0.saturating_sub(since.0)) < SET_ASIDE);
        let batch = inner.settings().dispatch_batch + aside.len();
        let due = inner.store.due(DueKind::Schedules, batch).await?;
        let ready: Vec<Record> = due.records.into_iter().filter(|record| !aside.contains_key(&*record.id.key)).collect();
        if ready.is_empty() {
            let wait = due.next.map_or(inner.settings().poll, |next| next.since(due.now).max(Duration::from_millis(1)));
            return Ok(wait.min(inner.settings().poll));
        }
        let failed: Vec<(String, ManagerError)> = stream::iter(ready)
            .map(|record| dispatch_one(Arc::clone(inner), record, due.now))
            .buffer_unordered(inner.settings().dispatch_batch.max(1))
            .filter_map(|failed| async move { failed })
            .collect()
            .await;
        let mut away = None;
        for (task, error) in failed {
            match error {
                // The store is to blame, not the task.
                ManagerError::Store(error) if error.is_transient() => away = Some(error),
                ManagerError::Busy { .. } => {}
                error => {
                    tracing::error!(task, %error, "a due task could not be dispatched; it is left alone for a minute");
                    aside.insert(task, now);
                }
            }
        }
        if let Some(error) = away {
            return Err(error);
        }
        // What the commits above told of is looked at by this loop already.
        tokio::task::yield_now().await;
    }
    Ok(Duration::ZERO)
}

/// Dispatches what of one task was due at `now` by the store's clock, which alone judges that: a daemon whose own is behind would find
/// nothing to do and be told of it again and again. Answers with the task's id and the error when that could not be done.
async fn dispatch_one(inner: Arc<Inner>, record: Record, now: Timestamp) -> Option<(String, ManagerError)> {
    let key = record.id.key.to_string();
    let result = async {
        let task = TaskId::parse(&key).map_err(|error| ManagerError::Host(error.to_string()))?;
        let state = Arc::new(record.decode::<ScheduleState>()?);
        let mut ids = vec![record.id.clone(), RecordId::task(&task), RecordId::slot(&task)];
        let occurrence = |nominal| RunId::of_occurrence(&task, &state.incarnation, state.schedule_revision, nominal);
        ids.extend(state.next_nominal_at.map(|nominal| RecordId::run(&occurrence(nominal))));
        let known = Known::at(record.id.clone(), record.rev, state);
        let dispatch = |is_spent: Option<bool>| {
            let (executor, settings, id) = (Arc::clone(&inner.executor), inner.settings(), task.clone());
            let mut queue = Queue { admission: Arc::clone(&inner.admission), places: Vec::new() };
            let decide = move |txn: &mut Txn<'_>| dispatch_due(txn, &id, (&settings, &*executor), &mut queue, (now, is_spent));
            inner.committer.commit(ids.clone(), vec![known.clone()], decide)
        };
        // Few tasks have a budget, and only of those the accounts are read.
        if let Dispatched::Limited(budget, agent) = dispatch(None).await? {
            let of = task.clone();
            // It does not guard the dispatch: what is spent meanwhile is found when the run's attempt is to begin.
            let spent = inner.committer.commit(Vec::new(), Vec::new(), move |txn| account::spent_for(txn, &budget, &of, &agent)).await?;
            dispatch(Some(spent.is_some())).await?;
        }
        Ok::<(), ManagerError>(())
    }
    .await;
    result.err().map(|error| (key, error))
}

/// What came of a task that was to be dispatched.
enum Dispatched {
    /// Its occurrences are runs or part of a skip range, or nothing was to be done.
    Done,
    /// Nothing yet: budgets of the task or of its agent limit it, and how they stand has to be known.
    Limited(Box<Budget>, AgentId),
}

/// The room that one dispatch has taken in the queue; a decision that is made anew has it already.
struct Queue {
    admission: Arc<Admission>,
    places: Vec<Place>,
}

impl Queue {
    /// Whether one more run than `admitted` has room.
    fn has_room(&mut self, admitted: usize, agent: &AgentId) -> bool {
        if self.places.len() <= admitted {
            self.places.extend(self.admission.run(agent));
        }
        self.places.len() > admitted
    }
}

/// Decides about a task's due occurrences.
fn dispatch_due(
    txn: &mut Txn<'_>,
    task_id: &TaskId,
    (settings, executor): (&super::DaemonSettings, &dyn Executor),
    queue: &mut Queue,
    (now, is_spent): (Timestamp, Option<bool>),
) -> Step<Dispatched> {
    let state_id = RecordId::schedule(task_id);
    let Some(state) = txn.get::<ScheduleState, _>(&state_id)? else { return Ok(Dispatched::Done) };
    let Some(task) = txn.get::<Task, _>(&RecordId::task(task_id))? else {
        // The schedule of a task that is gone fires no more.
        txn.delete(state_id);
        return Ok(Dispatched::Done);
    };
    let mut due = state.due(&task.schedule, now, settings.misfire_grace, OCCURRENCES);
    if due.fire.is_empty() && due.skipped.is_none() {
        return Ok(Dispatched::Done);
    }
    let budget = task.budget.within(&executor.budget_of(&task.agent_id));
    if is_spent.is_none() && !(budget.task.is_empty() && budget.day.is_empty()) {
        return Ok(Dispatched::Limited(Box::new(budget), task.agent_id.clone()));
    }
    let default_timeout = executor.timeout_of(&task.agent_id).unwrap_or(settings.timeout);
    let of = |nominal: &Timestamp| Draft { default_timeout, ..draft(&task, &state, *nominal, settings) };
    let drafts: Vec<Draft> = due.fire.iter().map(of).collect();
    txn.need(&drafts.iter().map(|draft| RecordId::run(&draft.run_id)).collect::<Vec<_>>())?;
    let (mut admitted, mut refused) = (0, None);
    for draft in drafts {
        // The same occurrence was dispatched before: only the schedule has to move on.
        if txn.get::<Run, _>(&RecordId::run(&draft.run_id))?.is_some() {
            continue;
        }
        let reason = if is_spent == Some(true) {
            SkipReason::Budget
        } else if queue.has_room(admitted, &task.agent_id) {
            admitted += 1;
            transitions::admit(txn, &task, draft)?;
            continue;
        } else {
            SkipReason::QueueFull
        };
        if let Some(nominal) = draft.due_at {
            due.fire.retain(|fires| *fires != nominal);
            refused = Some(refuse(refused, nominal, reason));
        }
    }
    let advance = state.dispatched(&task.schedule, &due, now);
    let mut refused = advance.state.refused(refused, now);
    if is_spent == Some(true) {
        // One range for as long as nothing is left, however many occurrences that are.
        let before = state.out_of_budget.filter(|_| advance.skipped.is_none());
        let kept = match (before, &refused.skipped) {
            (Some((first, at)), Some(range)) => txn.get::<SkipRange, _>(&skip_range_id(&SkipRange { first, at, ..range.clone() }))?,
            _ => None,
        };
        refused = refused.joined(kept.as_deref());
    }
    for range in [advance.skipped, refused.skipped].into_iter().flatten() {
        txn.put(skip_range_id(&range), Arc::new(range))?;
    }
    txn.put(state_id, Arc::new(refused.state))?;
    Ok(Dispatched::Done)
}

/// Adds an occurrence to those that cannot become runs now. All of one dispatch are refused for one reason.
fn refuse(before: Option<Skipped>, nominal: Timestamp, reason: SkipReason) -> Skipped {
    let (first, count) = before.map_or((nominal, 0), |before| (before.first, before.count));
    Skipped { first, last: nominal, count: count + 1, reason }
}

fn draft(task: &Task, state: &ScheduleState, nominal: Timestamp, settings: &super::DaemonSettings) -> Draft {
    let run_id = RunId::of_occurrence(&task.task_id, &state.incarnation, state.schedule_revision, nominal);
    let occurrence = format!("{}:{}:{}", task.schedule.kind(), state.schedule_revision, nominal.with_numeric_offset());
    settings.draft(run_id, trigger_of(&task.schedule), Some(nominal), Some(occurrence))
}

fn trigger_of(schedule: &Schedule) -> Trigger {
    use crate::domain::schedule::Timing;
    match schedule.timing() {
        Timing::Manual => Trigger::Manual,
        Timing::Interval { .. } => Trigger::Interval,
        Timing::Cron { .. } => Trigger::Cron,
        Timing::Once { .. } => Trigger::Once,
    }
}
