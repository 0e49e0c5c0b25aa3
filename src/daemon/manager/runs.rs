//! Runs: start, wait, cancel, resume, read.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Listing, Manager};
use crate::daemon::error::ManagerError;
use crate::daemon::idempotency::{Answered, Once};
use crate::daemon::signals::RunWatch;
use crate::daemon::transitions::{self, Step, task_of};
use crate::daemon::txn::{Known, Txn};
use crate::domain::id::{RunId, TaskId};
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::lifecycle::{self, Draft};
use crate::domain::run::{Attempt, Run, Status, Trigger};
use crate::domain::task::{Task, check_query_override, check_trigger_metadata};
use crate::store::{CountScope, Kind, PageRequest, Record, RecordId, Scope, StoreError};

/// The most attempts and events that one answer holds.
const MOST: usize = 1000;

/// A run that is asked for by hand.
#[derive(Clone, Debug, Default)]
pub struct RunWish {
    /// What the agent is asked, when not the task's query. Blank means the task's.
    pub query: Option<String>,
    /// Kept with the run.
    pub metadata: Map<String, Value>,
    /// Who asks, where that is known; the run's first event tells it.
    pub by: Option<String>,
}

/// What a new run is made of.
enum Source {
    /// A task.
    Task(TaskId),
    /// A run that is repeated.
    Run(RunId),
}

impl Source {
    fn reads(&self) -> Vec<RecordId> {
        match self {
            Source::Task(task) => vec![RecordId::task(task), RecordId::slot(task)],
            Source::Run(run) => vec![RecordId::run(run)],
        }
    }

    /// The task, and the draft with what a run that is repeated adds to it.
    fn draft(&self, txn: &mut Txn<'_>, draft: Draft) -> Step<(Arc<Task>, Draft)> {
        let (task, draft, wish) = match self {
            Source::Task(task) => (task_of(txn, task)?, draft, "run it".to_owned()),
            Source::Run(of) => {
                let before = transitions::run_of(txn, of)?;
                let draft = lifecycle::again(&before, draft)?;
                let Some(task) = txn.get::<Task, _>(&RecordId::task(&before.task_id))? else {
                    let what = format!("{}; register it again to run {of} once more", before.task_id);
                    return Err(ManagerError::not_found("Task", what).into());
                };
                (task, draft, format!("run {of} once more"))
            }
        };
        if !task.enabled {
            return Err(ManagerError::Conflict(format!("Task {} is disabled; enable it to {wish}", task.task_id)).into());
        }
        Ok((task, draft))
    }
}

impl Manager {
    /// Makes a run of a task, whatever its schedule; on a paused task too. Under skip_if_running the run may be a skipped one.
    ///
    /// # Errors
    /// There is no such task, it is disabled, too many runs wait, the store is full, or the daemon stops.
    pub async fn run_now(&self, task: &TaskId, wish: RunWish) -> Result<Run, ManagerError> {
        Ok(self.make_run(Source::Task(task.clone()), wish, None).await?.answer)
    }

    /// Makes a run of a task, once under this key: asked again, it answers with the run as it was made first.
    ///
    /// # Errors
    /// As [`Manager::run_now`]; or the key is another request's, or too many keys are kept.
    pub async fn run_once(&self, task: &TaskId, wish: RunWish, key: IdempotencyKey) -> Result<Answered<Run>, ManagerError> {
        let once = self.once(key).await;
        self.make_run(Source::Task(task.clone()), wish, Some(once)).await
    }

    /// Makes a new run of an ended run's task under the task's overlap policy, with the same query and trigger metadata where the
    /// wish has none of its own.
    ///
    /// # Errors
    /// As [`Manager::run_now`]; or there is no such run, or it has not ended.
    pub async fn rerun(&self, of: &RunId, wish: RunWish) -> Result<Run, ManagerError> {
        Ok(self.make_run(Source::Run(of.clone()), wish, None).await?.answer)
    }

    /// Repeats a run once under this key: asked again, it answers with the run as it was made first.
    ///
    /// # Errors
    /// As [`Manager::rerun`]; or the key is another request's, or too many keys are kept.
    pub async fn rerun_once(&self, of: &RunId, wish: RunWish, key: IdempotencyKey) -> Result<Answered<Run>, ManagerError> {
        let once = self.once(key).await;
        self.make_run(Source::Run(of.clone()), wish, Some(once)).await
    }

    async fn make_run(&self, source: Source, wish: RunWish, once: Option<Once>) -> Result<Answered<Run>, ManagerError> {
        let query = wish.query.filter(|query| !query.trim().is_empty());
        if let Some(query) = &query {
            check_query_override(query)?;
        }
        check_trigger_metadata(&wish.metadata)?;
        let inner = self.inner();
        inner.outage.room()?;
        inner.admission.refresh(&*inner.store, &*inner.clock).await;
        let run_id = RunId::manual(inner.clock.now(), inner.entropy.id_bytes());
        let made = RecordId::run(&run_id);
        let mut draft = inner.settings().draft(run_id, Trigger::Manual, None, None);
        draft.query = query;
        draft.by = wish.by;
        draft.trigger_metadata = wish.metadata;
        let (admission, executor) = (Arc::clone(&inner.admission), Arc::clone(&inner.executor));
        let (mut in_queue, mut of_key) = (None, None);
        let mut reads = source.reads();
        reads.extend(once.as_ref().map(Once::id));
        self.commit(reads, vec![Known::absent(made.clone())], move |txn| {
            // A commit whose answer was lost has made it: nobody else knows this id.
            if let Some(run) = txn.get::<Run, _>(&made)? {
                return Ok(Answered { answer: Run::clone(&run), replayed: false });
            }
            if let Some(once) = &once {
                if let Some(answered) = once.answered(txn)? {
                    return Ok(answered);
                }
                once.take_place(&mut of_key)?;
            }
            let (task, mut draft) = source.draft(txn, draft.clone())?;
            draft.default_timeout = executor.timeout_of(&task.agent_id).unwrap_or(draft.default_timeout);
            if in_queue.is_none() {
                in_queue = Some(admission.run(&task.agent_id)?);
            }
            let run = transitions::admit(txn, &task, draft)?;
            if let Some(once) = &once {
                once.keep(txn, &*run)?;
            }
            Ok(Answered { answer: Run::clone(&run), replayed: false })
        })
        .await
    }

    /// Waits until a run has ended or is parked, at most `limit`; answers with the run as it is then.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn wait_for_run(&self, run: &RunId, limit: Duration) -> Result<Run, ManagerError> {
        let mut watch = self.watch_run(run);
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let now = self.run(run).await?;
            // The poll stands in for a commit of another daemon.
            let poll = tokio::time::Instant::now() + self.inner().settings().poll;
            if now.status.is_settled() || tokio::time::Instant::now() >= deadline {
                return Ok(now);
            }
            // A wait that runs out reads the run once more.
            let _ = tokio::time::timeout_at(deadline.min(poll), watch.changed()).await;
        }
    }

    /// Tells of every commit about a run from now on.
    pub fn watch_run(&self, run: &RunId) -> RunWatch {
        self.inner().wakeups.watch_run(run)
    }

    /// Asks for a run's end.
    ///
    /// # Errors
    /// There is no such run, or it has ended.
    pub async fn cancel_run(&self, run: &RunId, by: &str) -> Result<Run, ManagerError> {
        let (id, by) = (run.clone(), by.to_owned());
        let run = self.commit(vec![RecordId::run(run)], Vec::new(), move |txn| transitions::cancel(txn, &id, &by, None)).await?;
        // An attempt of a run that waits for a retry has left mirrors that do not know of the end.
        if run.status.is_terminal() && run.attempt > 0 {
            self.inner().mirror_from_store(&run.run_id, None).await;
        }
        Ok(Run::clone(&run))
    }

    /// Puts a parked run back into the queue, at the wish of `by` where that is known.
    ///
    /// # Errors
    /// There is no such run, or it is not parked.
    pub async fn resume_run(&self, run: &RunId, by: Option<&str>) -> Result<Run, ManagerError> {
        self.resume_what(run, None, by).await
    }

    /// Puts a parked run back into the queue if it is the wait that was seen: whoever may end one may not end another.
    ///
    /// # Errors
    /// As [`Manager::resume_run`]; or the run waits for something else by now.
    pub async fn resume_run_from(&self, run: &RunId, seen: Status, by: Option<&str>) -> Result<Run, ManagerError> {
        self.resume_what(run, Some(seen), by).await
    }

    async fn resume_what(&self, run: &RunId, seen: Option<Status>, by: Option<&str>) -> Result<Run, ManagerError> {
        let (id, by) = (run.clone(), by.map(str::to_owned));
        let run = self
            .commit(vec![RecordId::run(run)], Vec::new(), move |txn| {
                let run = transitions::run_of(txn, &id)?;
                if run.status.is_waiting() && seen.is_some_and(|seen| seen != run.status) {
                    let sentence = format!("Run {id} is {} by now; resume it again if that is meant", run.status.as_str());
                    return Err(ManagerError::Conflict(sentence).into());
                }
                let decision = lifecycle::resume(Run::clone(&run), by.as_deref(), txn.now())?;
                transitions::write(txn, decision)
            })
            .await?;
        Ok(Run::clone(&run))
    }

    /// Reads a run.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn run(&self, run: &RunId) -> Result<Run, ManagerError> {
        self.inner().read_run(run).await
    }

    /// Lists runs, all or those of a task, of any status or of one.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn runs(&self, task: Option<TaskId>, status: Option<Status>, page: PageRequest) -> Result<Listing<Run>, ManagerError> {
        self.runs_as(task, status, page, Record::decode_run).await
    }

    pub(super) async fn runs_as<T>(
        &self,
        task: Option<TaskId>,
        status: Option<Status>,
        page: PageRequest,
        decode: impl Fn(&Record) -> Result<T, StoreError>,
    ) -> Result<Listing<T>, ManagerError> {
        let count = task.clone().map_or(CountScope::All(Kind::Run), CountScope::RunsOfTask);
        let counts = self.inner().store.counts(count).await?;
        let total = status.map_or(counts.total, |status| counts.of(status));
        let (items, next) = self.page(Scope::Runs { task, status }, page, decode).await?;
        Ok(Listing { items, total, next })
    }

    /// A run's attempts, first to last; the first thousand of them.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn attempts(&self, run: &RunId) -> Result<Vec<Attempt>, ManagerError> {
        self.run(run).await?;
        let page = self.inner().store.list(Scope::Attempts(run.clone()), PageRequest::first(MOST)).await?;
        Ok(page.records.iter().map(Record::decode).collect::<Result<_, _>>()?)
    }

    /// The payloads of a run's events with numbers above `after`, in order.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<Value>, ManagerError> {
        let of = self.run(run).await?;
        let events = self.inner().store.events(run, after, limit).await?;
        Ok(events.iter().map(|numbered| numbered.event.payload(&of, numbered.sequence)).collect())
    }

    /// A run's whole result; none while it has none.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn result(&self, run: &RunId) -> Result<Option<String>, ManagerError> {
        let of = self.run(run).await?;
        Ok(self.inner().read_result(&of).await?)
    }
}
