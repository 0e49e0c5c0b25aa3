//! The one way into the store: takes whatever decisions wait, makes one batch of them, commits it, and answers each.
//!
//! Invariants: nobody else calls `Store::apply`; a batch writes a record once; decisions that touch a record which another one of the
//! batch writes stand or fall with it; a decision is acknowledged only when it is committed, and a lost answer is resolved by reading back.
//!
//! How it fails: a refused change is decided again on fresh records, a bounded number of times; a store that is away is asked again
//! for a few seconds, then the callers are told.

mod group;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::inner::EVENTS_PAGE;
use super::live::LiveRuns;
use super::outage::tell_unless_out;
use super::signals::Wakeups;
use super::txn::{Cells, Footprint, Known, Stop, Txn};
use crate::clock::{Clock, Entropy};
use crate::domain::id::RunId;
use crate::store::{Change, ChangeId, Hint, Outcome, RecordId, Store, StoreError};
use group::{Group, Waiting, group};

/// The most decisions in one batch.
const BATCH: usize = 256;
/// The most bytes of records in one batch; the decision that passes it is the last.
const BATCH_BYTES: usize = 1024 * 1024;
/// The waits between tries on a store that is away.
const PATIENCE: [Duration; 5] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1), Duration::from_secs(3)];

/// The longest wait for a store that is full: it may have been making room, and if it was not, somebody has to.
const MAKING_ROOM: Duration = Duration::from_millis(100);

/// How long after a change was tried its absence tells that it was not made: what is deleted has been there for longer.
const TOLD_APART: Duration = Duration::from_secs(30);

/// Why a decision was not committed.
#[derive(Debug)]
pub enum CommitError<E> {
    /// It was decided that nothing is to be done, and why.
    Refused(E),
    /// The lease that it depends on is gone.
    LeaseLost,
    /// Others changed the same records too often in between.
    Contended,
    /// The store did not answer, or the daemon stops.
    Store(StoreError),
}

impl<E> CommitError<E> {
    /// Whether the lease that it depends on is gone, be it that the whole store is.
    pub fn is_loss(&self) -> bool {
        matches!(self, CommitError::LeaseLost | CommitError::Store(StoreError::TakenOver(_)))
    }
}

enum Ruling {
    Stands,
    /// Nothing is written for it, and its caller is told why when what it saw is committed.
    Refused,
    Need,
    /// The caller has its answer.
    Over,
}

/// A decision that waits for its commit, with its caller's answer inside.
trait Decide: Send {
    fn reads(&self) -> &[RecordId];
    fn known(&mut self) -> Vec<Known>;
    fn decide(&mut self, txn: &mut Txn<'_>) -> Ruling;
    fn committed(self: Box<Self>);
    fn failed(self: Box<Self>, why: CommitError<()>);
}

struct Pending<T, E, F> {
    reads: Vec<RecordId>,
    known: Vec<Known>,
    decide: F,
    outcome: Option<Result<T, E>>,
    answer: Option<oneshot::Sender<Result<T, CommitError<E>>>>,
}

impl<T, E, F> Pending<T, E, F> {
    fn tell(&mut self, result: Result<T, CommitError<E>>) {
        if let Some(answer) = self.answer.take() {
            // Whoever asked may have gone; the commit stands all the same.
            let _ = answer.send(result);
        }
    }
}

impl<T: Send, E: Send, F: FnMut(&mut Txn<'_>) -> Result<T, Stop<E>> + Send> Decide for Pending<T, E, F> {
    fn reads(&self) -> &[RecordId] {
        &self.reads
    }

    fn known(&mut self) -> Vec<Known> {
        std::mem::take(&mut self.known)
    }

    fn decide(&mut self, txn: &mut Txn<'_>) -> Ruling {
        match (self.decide)(txn) {
            Ok(value) => {
                self.outcome = Some(Ok(value));
                Ruling::Stands
            }
            Err(Stop::Need) => Ruling::Need,
            Err(Stop::Refused(why)) => {
                self.outcome = Some(Err(why));
                Ruling::Refused
            }
            Err(Stop::Store(error)) => {
                self.tell(Err(CommitError::Store(error)));
                Ruling::Over
            }
        }
    }

    fn committed(mut self: Box<Self>) {
        if let Some(outcome) = self.outcome.take() {
            self.tell(outcome.map_err(CommitError::Refused));
        }
    }

    fn failed(mut self: Box<Self>, why: CommitError<()>) {
        self.tell(Err(match why {
            CommitError::Refused(()) | CommitError::Contended => CommitError::Contended,
            CommitError::LeaseLost => CommitError::LeaseLost,
            CommitError::Store(error) => CommitError::Store(error),
        }));
    }
}

/// Where decisions are handed in. Cheap to clone; the committer ends when the last one is dropped and all are answered.
#[derive(Clone)]
pub struct Committer {
    jobs: mpsc::Sender<Box<dyn Decide>>,
}

/// What the committer works with.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What tells how long ago a change was tried.
    pub clock: Arc<dyn Clock>,
    /// Where the names of changes come from.
    pub entropy: Arc<dyn Entropy>,
    /// Who is told of commits.
    pub wakeups: Arc<Wakeups>,
    /// The runs that this daemon executes.
    pub live: Arc<LiveRuns>,
}

impl Committer {
    /// Starts a committer; the future is its work, to be spawned and joined.
    pub fn start(parts: Parts) -> (Committer, impl Future<Output = ()> + Send + 'static) {
        let (jobs, inbox) = mpsc::channel(4 * BATCH);
        let mut seed = [0; 8];
        parts.entropy.fill(&mut seed);
        let work = Work { parts, changes: u128::from(u64::from_ne_bytes(seed)) << 64 };
        (Committer { jobs }, work.run(inbox))
    }

    /// Commits what `decide` decides. It sees the records as they are in the commit, and may be called several times; `reads` are
    /// loaded before the first call, `known` are taken as they are unless the store says otherwise.
    ///
    /// # Errors
    /// See [`CommitError`]. Dropping the future does not undo a commit.
    pub async fn commit<T, E, F>(&self, reads: Vec<RecordId>, known: Vec<Known>, decide: F) -> Result<T, CommitError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnMut(&mut Txn<'_>) -> Result<T, Stop<E>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Pending { reads, known, decide, outcome: None, answer: Some(answer) });
        if self.jobs.send(job).await.is_err() {
            return Err(CommitError::Store(stopped()));
        }
        answered.await.unwrap_or_else(|_| Err(CommitError::Store(stopped())))
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the daemon is stopping".to_owned())
}

struct Work {
    parts: Parts,
    changes: u128,
}

impl Work {
    async fn run(mut self, mut inbox: mpsc::Receiver<Box<dyn Decide>>) {
        let mut backlog: Vec<Waiting> = Vec::new();
        loop {
            if backlog.is_empty() {
                match inbox.recv().await {
                    Some(job) => backlog.push(Waiting { job, tries: 0, again: Vec::new() }),
                    None => return,
                }
            }
            while backlog.len() < BATCH {
                match inbox.try_recv() {
                    Ok(job) => backlog.push(Waiting { job, tries: 0, again: Vec::new() }),
                    Err(_) => break,
                }
            }
            backlog = self.batch(backlog).await;
        }
    }

    /// Decides and commits; answers with those that have to be decided again.
    async fn batch(&mut self, mut jobs: Vec<Waiting>) -> Vec<Waiting> {
        let mut cells = Cells::default();
        let mut wanted: BTreeSet<RecordId> = BTreeSet::new();
        for waiting in &mut jobs {
            for known in waiting.job.known() {
                cells.know(&known);
            }
            wanted.extend(waiting.job.reads().iter().chain(&waiting.again).cloned());
        }
        let mut standing: Vec<(Waiting, Footprint)> = Vec::new();
        let mut later = Vec::new();
        let mut bytes = 0;
        let mut present = None;
        while !jobs.is_empty() {
            let missing: Vec<RecordId> = std::mem::take(&mut wanted).into_iter().filter(|id| !cells.contains(id)).collect();
            if !missing.is_empty() {
                match self.patiently(|store| store.get(&missing)).await {
                    Ok(records) => missing.iter().cloned().zip(records).for_each(|(id, record)| cells.load(id, record)),
                    Err(error) => {
                        jobs.into_iter().for_each(|waiting| waiting.job.failed(CommitError::Store(error.clone())));
                        jobs = Vec::new();
                        break;
                    }
                }
            }
            // One present for all rounds: a decision that depends on it must not need other records each time it is asked. It is the
            // store's, which judges what follows from it.
            let now = match present {
                Some(now) => now,
                None => match self.patiently(|store| store.now()).await {
                    Ok(now) => *present.insert(now),
                    Err(error) => {
                        jobs.into_iter().for_each(|waiting| waiting.job.failed(CommitError::Store(error.clone())));
                        jobs = Vec::new();
                        break;
                    }
                },
            };
            let mut needy = Vec::new();
            for mut waiting in jobs {
                if bytes > BATCH_BYTES {
                    later.push(waiting);
                    continue;
                }
                let mut txn = Txn::new(&mut cells, now);
                match waiting.job.decide(&mut txn) {
                    Ruling::Over => {}
                    Ruling::Refused => standing.push((waiting, txn.fall())),
                    Ruling::Stands => {
                        let footprint = txn.stand();
                        bytes += footprint.bytes;
                        standing.push((waiting, footprint));
                    }
                    Ruling::Need => {
                        wanted.extend(txn.into_needs());
                        needy.push(waiting);
                    }
                }
            }
            jobs = needy;
        }
        debug_assert!(jobs.is_empty(), "every job stands, waits or is answered");
        let groups = group(&cells, standing, &mut self.changes);
        later.extend(self.commit(groups).await);
        later
    }

    /// Asks the store, again and again for a while where that can help.
    async fn patiently<'a, T, F>(&'a self, ask: impl Fn(&'a dyn Store) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut patience = PATIENCE.iter();
        loop {
            match ask(&*self.parts.store).await {
                Err(error) if error.is_transient() => match patience.next() {
                    Some(wait) => tokio::time::sleep(*wait).await,
                    None => return Err(error),
                },
                answer => return answer,
            }
        }
    }

    /// Commits the groups; answers with the jobs that have to be decided again.
    async fn commit(&self, groups: Vec<Group>) -> Vec<Waiting> {
        let (idle, mut groups): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| group.is_read_only());
        for group in idle {
            self.committed(group);
        }
        let mut again = Vec::new();
        let mut patience = PATIENCE.iter();
        let began = self.parts.clock.boot();
        while !groups.is_empty() {
            let changes = groups.iter().map(|group| group.change.clone()).collect();
            match self.parts.store.apply(changes).await {
                Ok(outcomes) => {
                    for (group, outcome) in groups.into_iter().zip(outcomes) {
                        match outcome {
                            Outcome::Applied => self.committed(group),
                            Outcome::Refused(guard) => again.extend(group.refused(&guard)),
                        }
                    }
                    return again;
                }
                // The answer may have been lost after the commit: until reading back has told, nothing is repeated.
                Err(error) => loop {
                    let longest = if matches!(error, StoreError::Full(_)) { MAKING_ROOM } else { Duration::MAX };
                    let wait = patience.next().filter(|wait| error.is_transient() && **wait <= longest);
                    if let Some(wait) = wait {
                        tokio::time::sleep(*wait).await;
                    }
                    let changes: Vec<Change> = groups.iter().map(|group| group.change.clone()).collect();
                    let written = self.written(&changes).await;
                    if let Ok(written) = &written {
                        groups = self.unresolved(groups, written);
                    }
                    // A daemon that slept meanwhile cannot tell any more what was made and deleted from what was not made.
                    let is_late = Duration::from_nanos(self.parts.clock.boot().0.saturating_sub(began.0)) >= TOLD_APART;
                    if wait.is_none() || is_late {
                        tell_unless_out!(error, error, %error, "a batch of {} changes could not be committed", groups.len());
                        groups.into_iter().for_each(|group| group.failed(&error));
                        return again;
                    }
                    if written.is_ok() {
                        break;
                    }
                },
            }
        }
        again
    }

    /// Those of these changes that are found in the store.
    async fn written(&self, changes: &[Change]) -> Result<HashSet<ChangeId>, StoreError> {
        let ids: Vec<RecordId> = changes.iter().filter_map(|change| change.puts.first()).map(|put| put.id.clone()).collect();
        let records = self.parts.store.get(&ids).await?;
        let mut written: HashSet<ChangeId> = records.into_iter().flatten().filter_map(|record| record.change).collect();
        for change in changes.iter().filter(|change| change.puts.is_empty()) {
            if self.has_told(change).await? {
                written.insert(change.id);
            }
        }
        Ok(written)
    }

    /// Whether the last event of a change is in its run's history: nothing else tells of a change that puts no record.
    async fn has_told(&self, change: &Change) -> Result<bool, StoreError> {
        let Some((run, told)) = change.events.last() else { return Ok(false) };
        let mut after = 0;
        loop {
            let page = self.parts.store.events(run, after, EVENTS_PAGE).await?;
            if page.iter().any(|numbered| numbered.event == *told) {
                return Ok(true);
            }
            match page.last() {
                Some(last) if page.len() == EVENTS_PAGE => after = last.sequence,
                _ => return Ok(false),
            }
        }
    }

    /// Answers those whose change is written, and returns the others.
    fn unresolved(&self, groups: Vec<Group>, written: &HashSet<ChangeId>) -> Vec<Group> {
        let (done, open): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| written.contains(&group.change.id));
        done.into_iter().for_each(|group| self.committed(group));
        open
    }

    fn committed(&self, group: Group) {
        let mut ready = false;
        let mut schedules = false;
        let mut agents = false;
        let mut runs: Vec<RunId> = Vec::new();
        let mut cancels: Vec<RunId> = Vec::new();
        for (waiting, footprint) in group.members {
            ready |= footprint.notices.ready;
            schedules |= footprint.notices.schedules;
            agents |= footprint.notices.agents;
            footprint.notices.cancels.iter().for_each(|run| self.parts.live.ask_cancel(run));
            runs.extend(footprint.notices.runs);
            cancels.extend(footprint.notices.cancels);
            waiting.job.committed();
        }
        runs.iter().for_each(|run| self.parts.wakeups.run_changed(run));
        if ready {
            self.parts.wakeups.ready.notify_one();
        }
        if schedules {
            self.parts.wakeups.schedules.notify_one();
        }
        if agents {
            self.parts.wakeups.agents.notify_one();
        }
        self.parts.wakeups.others.note(Hint { from: None, ready, schedules, agents, runs, cancels });
    }
}
