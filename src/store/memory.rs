//! The memory store: the contract over one lock, and the reference that the other stores are compared with.
//!
//! It fails only where a request itself is wrong; what it holds is gone with the process.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foldhash::fast::RandomState;

use super::request::Times;
use super::{
    Change, ChangeId, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Guard, Index, Kind, Lease, NumberedEvent, Outcome, Page,
    PageRequest, Put, Record, RecordId, Renewal, Scope, Store, StoreError, When, put_aside,
};
use crate::clock::Clock;
use crate::domain::event::Event;
use crate::domain::id::{AgentId, RunId, TaskId, WorkerId};
use crate::domain::lifecycle;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// A store in this process's memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// Records by a time and their order.
type ByTime = BTreeMap<(Timestamp, i64), RecordId>;

/// The groups of [`State::due`] that wait for an expiry.
const PARKED: [(Kind, Option<Status>); 2] = [(Kind::Run, Some(Status::AwaitingApproval)), (Kind::Run, Some(Status::AwaitingBudget))];

/// A record with what it is found by, due time made absolute.
#[derive(Clone)]
struct Stored {
    record: Record,
    index: Index,
    /// Where the record's lease stands, for a run.
    token: Option<ChangeId>,
}

#[derive(Default)]
struct State {
    records: HashMap<RecordId, Stored, RandomState>,
    /// All records of a kind in page order.
    ordered: BTreeMap<(Kind, i64), RecordId>,
    /// Ready runs by agent, longest due first.
    ready: BTreeMap<AgentId, BTreeSet<(Timestamp, i64, RunId)>>,
    /// Leased runs by the lease's end.
    leased: BTreeSet<(Timestamp, i64, RunId)>,
    /// Leased runs by the wish that they were given to.
    tokens: BTreeMap<(ChangeId, i64), RunId>,
    /// Records other than ready runs that have a due time, by kind and, of runs, by status.
    due: BTreeMap<(Kind, Option<Status>), ByTime>,
    by_task: BTreeMap<(TaskId, Kind, i64), RecordId>,
    by_agent: BTreeMap<(AgentId, Kind, i64), RecordId>,
    by_run: BTreeMap<(RunId, Kind, i64), RecordId>,
    by_status: BTreeMap<(Status, i64), RecordId>,
    events: HashMap<RunId, Vec<Event>, RandomState>,
    counts: HashMap<CountScope, Counts, RandomState>,
    last_order: i64,
}

impl MemoryStore {
    /// An empty store that reads this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        MemoryStore { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a defect that the tests look for; the data itself is still the last whole change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, stored: &Stored, by: i64) {
        let mut scopes = vec![CountScope::All(stored.record.id.kind)];
        if stored.record.id.kind == Kind::Run {
            scopes.extend(stored.index.task.clone().map(CountScope::RunsOfTask));
            scopes.extend(stored.index.agent.clone().map(CountScope::RunsOfAgent));
        }
        for scope in scopes {
            let counts = self.counts.entry(scope).or_default();
            counts.total = counts.total.saturating_add_signed(by);
            if let Some(status) = stored.index.status {
                let of_status = counts.by_status.entry(status).or_default();
                *of_status = of_status.saturating_add_signed(by);
                if *of_status == 0 {
                    counts.by_status.remove(&status);
                }
            }
        }
    }

    /// Adds a record to every index or takes it out of them.
    fn index(&mut self, stored: &Stored, add: bool) {
        fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, add: bool) {
            if add {
                map.insert(key, value);
            } else {
                map.remove(&key);
            }
        }
        self.count(stored, if add { 1 } else { -1 });
        let Record { id, order, due, lease, .. } = &stored.record;
        let Index { task, agent, run, status, ready, .. } = &stored.index;
        set(&mut self.ordered, (id.kind, *order), id.clone(), add);
        if let Some(task) = task {
            set(&mut self.by_task, (task.clone(), id.kind, *order), id.clone(), add);
        }
        if let Some(agent) = agent {
            set(&mut self.by_agent, (agent.clone(), id.kind, *order), id.clone(), add);
        }
        if let Some(run) = run {
            set(&mut self.by_run, (run.clone(), id.kind, *order), id.clone(), add);
        }
        if let Some(status) = status {
            set(&mut self.by_status, (*status, *order), id.clone(), add);
        }
        if let (Kind::Run, Ok(run)) = (id.kind, RunId::parse(&id.key)) {
            if let Some(until) = lease.as_ref().and_then(|lease| lease.until) {
                let entry = (until, *order, run.clone());
                let token = stored.token.map(|token| (token, *order));
                if add {
                    self.leased.insert(entry);
                    self.tokens.extend(token.map(|token| (token, run.clone())));
                } else {
                    self.leased.remove(&entry);
                    token.map(|token| self.tokens.remove(&token));
                }
            }
            if let (true, Some(agent), Some(due)) = (ready, agent, due) {
                let of_agent = self.ready.entry(agent.clone()).or_default();
                if add {
                    of_agent.insert((*due, *order, run));
                } else {
                    of_agent.remove(&(*due, *order, run));
                }
            }
            if *ready {
                return;
            }
        }
        if let Some(due) = due {
            set(self.due.entry((id.kind, *status)).or_default(), (*due, *order), id.clone(), add);
        }
    }

    fn replace(&mut self, stored: Stored) {
        let id = stored.record.id.clone();
        if let Some(old) = self.records.remove(&id) {
            self.index(&old, false);
        }
        self.index(&stored, true);
        self.records.insert(id, stored);
    }

    fn holds(&self, guard: &Guard, steady: Timestamp) -> bool {
        match guard {
            Guard::Rev(id, rev) => self.records.get(id).is_some_and(|stored| stored.record.rev == *rev),
            Guard::Absent(id) => !self.records.contains_key(id),
            Guard::Held(run, fence) => self
                .records
                .get(&RecordId::run(run))
                .and_then(|stored| stored.record.lease.as_ref())
                .is_some_and(|lease| lease.fence == *fence && lease.until.is_some_and(|until| until > steady)),
        }
    }

    fn put(&mut self, mut put: Put, change: Option<ChangeId>, now: Timestamp) {
        let leased = put.index.status.is_some_and(Status::is_leased);
        put.index.ready &= put.id.kind == Kind::Run && !leased;
        let old = self.records.get(&put.id);
        let rev = old.map_or_else(|| change.map_or(1, ChangeId::first_rev), |old| old.record.rev + 1);
        let order = old.map(|old| old.record.order).unwrap_or_else(|| {
            self.last_order += 1;
            self.last_order
        });
        let due = put.index.due.map(|when| match when {
            When::At(at) => at,
            When::In(span) => now + span,
        });
        let lease = (put.id.kind == Kind::Run).then(|| {
            let lease = old.and_then(|old| old.record.lease.clone()).unwrap_or_default();
            if leased { lease } else { Lease { fence: lease.fence, heartbeat_at: lease.heartbeat_at, owner: None, until: None } }
        });
        let token = old.and_then(|old| old.token);
        self.replace(Stored { record: Record { id: put.id, rev, change, order, due, body: put.body, lease }, index: put.index, token });
    }

    fn delete(&mut self, id: &RecordId) {
        let Some(old) = self.records.remove(id) else { return };
        self.index(&old, false);
        if let (Kind::Run, Ok(run)) = (id.kind, RunId::parse(&id.key)) {
            self.events.remove(&run);
            let hanging: Vec<RecordId> = self
                .by_run
                .range((run.clone(), Kind::Agent, i64::MIN)..)
                .take_while(|((of, ..), _)| *of == run)
                .map(|(_, id)| id.clone())
                .collect();
            for id in hanging {
                self.delete(&id);
            }
        }
    }

    fn apply_one(&mut self, change: Change, Times { now, steady }: Times) -> Outcome {
        if let Some(guard) = change.guards.iter().find(|guard| !self.holds(guard, steady)) {
            return Outcome::Refused(guard.clone());
        }
        for put in change.puts {
            self.put(put, Some(change.id), now);
        }
        for (run, event) in change.events {
            if self.records.contains_key(&RecordId::run(&run)) {
                self.events.entry(run).or_default().push(event);
            }
        }
        for id in &change.deletes {
            self.delete(id);
        }
        Outcome::Applied
    }

    fn claim_one(&mut self, run_id: &RunId, request: &ClaimRequest, digest: &str, at: Times) -> Result<Option<Claimed>, StoreError> {
        let id = RecordId::run(run_id);
        // A wish that names an agent twice has found the run twice.
        let Some(stored) = self.records.get(&id).filter(|stored| stored.index.ready) else { return Ok(None) };
        let Times { now, steady } = at;
        let mut run = match stored.record.decode_run() {
            Ok(run) => run,
            Err(error) => {
                let aside = put_aside(id, &stored.index, stored.record.body.clone(), &error);
                self.put(aside, None, now);
                return Ok(None);
            }
        };
        let until = steady + request.lease;
        let fence = stored.record.lease.as_ref().map_or(0, |lease| lease.fence) + 1;
        let patch = lifecycle::claim(&mut run, digest, &request.worker, fence, now, steady..until);
        let mut after = stored.clone();
        after.record.rev += 1;
        after.record.change = None;
        after.record.due = None;
        after.record.body = encode(&run)?;
        after.record.lease = Some(Lease { fence, owner: Some(request.worker.clone()), until: Some(until), heartbeat_at: Some(steady) });
        after.index.status = Some(run.status);
        after.index.ready = false;
        after.index.due = None;
        after.token = Some(request.token);
        let events = self.events.entry(run_id.clone()).or_default();
        events.extend(patch.events);
        let claimed = Claimed { run, attempt: patch.attempt.clone(), rev: after.record.rev, events: events.len() as u64 };
        self.replace(after);
        let attempt = &patch.attempt;
        self.put(Put::attempt(attempt)?, None, now);
        Ok(Some(claimed))
    }

    /// What an earlier wish with this token was given.
    fn claimed_under(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let mut claimed = Vec::new();
        for run in self.tokens.range((request.token, i64::MIN)..=(request.token, i64::MAX)).map(|(_, run)| run) {
            let Some(stored) = self.records.get(&RecordId::run(run)) else { continue };
            if stored.record.lease.as_ref().and_then(|lease| lease.owner.as_ref()) == Some(&request.worker) {
                let run = stored.record.decode_run()?;
                let attempt = self.records.get(&RecordId::attempt(&run.run_id, run.attempt));
                let attempt = attempt.ok_or_else(|| StoreError::corrupt(format!("run {} has no attempt record", run.run_id)))?;
                let attempt = attempt.record.decode()?;
                claimed.push(Claimed { attempt, rev: stored.record.rev, events: self.events_of(&run.run_id).len() as u64, run });
            }
        }
        Ok(claimed)
    }

    fn events_of(&self, run: &RunId) -> &[Event] {
        self.events.get(run).map(Vec::as_slice).unwrap_or_default()
    }

    fn renew_one(&mut self, worker: &WorkerId, run: &RunId, fence: u64, lease: Duration, steady: Timestamp) -> Renewal {
        let id = RecordId::run(run);
        if !self.holds(&Guard::Held(run.clone(), fence), steady) {
            return Renewal::Lost;
        }
        let Some(stored) = self.records.get_mut(&id) else { return Renewal::Lost };
        let until = steady + lease;
        let Some(held) = stored.record.lease.as_mut().filter(|held| held.owner.as_ref() == Some(worker)) else { return Renewal::Lost };
        let before = held.until.replace(until);
        held.heartbeat_at = Some(steady);
        let order = stored.record.order;
        if let Some(before) = before {
            self.leased.remove(&(before, order, run.clone()));
        }
        self.leased.insert((until, order, run.clone()));
        if stored.index.cancel_requested { Renewal::CancelRequested(until) } else { Renewal::Held(until) }
    }

    /// The ready runs that the request may have, longest due first, with the digest that they would run.
    fn claimable(&self, request: &ClaimRequest, now: Timestamp) -> Vec<(RunId, String)> {
        let mut found = Vec::new();
        for wanted in &request.agents {
            let counts = self.counts.get(&CountScope::RunsOfAgent(wanted.agent.clone()));
            let leased: u64 =
                counts.map_or(0, |counts| [Status::Claimed, Status::Running, Status::Retrying].map(|of| counts.of(of)).iter().sum());
            let room = wanted.max_running.map_or(u64::MAX, |most| u64::from(most).saturating_sub(leased));
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(request.limit);
            let ready = self.ready.get(&wanted.agent).into_iter().flatten();
            let due = ready.take_while(|(due, ..)| *due <= now).take(room);
            found.extend(due.map(|(due, order, run)| (*due, *order, run.clone(), wanted.digest.clone())));
        }
        found.sort();
        found.into_iter().take(request.limit).map(|(_, _, run, digest)| (run, digest)).collect()
    }

    /// The records of a scope with their orders, oldest first.
    fn scoped(&self, scope: &Scope) -> Box<dyn DoubleEndedIterator<Item = (i64, &Stored)> + '_> {
        fn part<'a, K: Ord + Clone>(
            map: &'a BTreeMap<(K, Kind, i64), RecordId>,
            key: &K,
            kind: Kind,
        ) -> impl DoubleEndedIterator<Item = (i64, &'a RecordId)> + use<'a, K> {
            let range = (Bound::Included((key.clone(), kind, i64::MIN)), Bound::Included((key.clone(), kind, i64::MAX)));
            map.range(range).map(|((_, _, order), id)| (*order, id))
        }
        let all = |kind: Kind| self.ordered.range((kind, i64::MIN)..=(kind, i64::MAX)).map(|((_, order), id)| (*order, id));
        let ids: Box<dyn DoubleEndedIterator<Item = (i64, &RecordId)>> = match scope {
            Scope::All(kind) => Box::new(all(*kind)),
            Scope::Runs { task: None, status: None } => Box::new(all(Kind::Run)),
            Scope::Runs { task: None, status: Some(status) } => {
                let range = self.by_status.range((*status, i64::MIN)..=(*status, i64::MAX));
                Box::new(range.map(|((_, order), id)| (*order, id)))
            }
            Scope::Runs { task: Some(task), .. } | Scope::LiveRunsOfTask(task) => Box::new(part(&self.by_task, task, Kind::Run)),
            Scope::TasksOfAgent(agent) => Box::new(part(&self.by_agent, agent, Kind::Task)),
            Scope::LiveRunsOfAgent(agent) => Box::new(part(&self.by_agent, agent, Kind::Run)),
            Scope::Attempts(run) => Box::new(part(&self.by_run, run, Kind::Attempt)),
            Scope::BucketsOfAgent(agent) => Box::new(part(&self.by_agent, agent, Kind::KeyValue)),
            Scope::SkipRanges(task) => Box::new(part(&self.by_task, task, Kind::SkipRange)),
        };
        let wanted = match scope {
            Scope::Runs { status, .. } => *status,
            _ => None,
        };
        let live_only = matches!(scope, Scope::LiveRunsOfAgent(_) | Scope::LiveRunsOfTask(_));
        Box::new(ids.filter_map(move |(order, id)| {
            let stored = self.records.get(id)?;
            let status = stored.index.status;
            let fits = wanted.is_none_or(|wanted| status == Some(wanted)) && !(live_only && status.is_none_or(Status::is_terminal));
            fits.then_some((order, stored))
        }))
    }

    fn due(&self, what: &DueKind, limit: usize, at: Times) -> Due {
        let now = at.of(what);
        let mut due = Due { now, ..Due::default() };
        let record = |id: &RecordId| self.records.get(id).map(|stored| stored.record.clone());
        match what {
            DueKind::Ready => {
                let later = |of_agent: &BTreeSet<(Timestamp, i64, RunId)>| of_agent.iter().map(|(due, ..)| *due).find(|due| *due > now);
                due.next = self.ready.values().filter_map(later).min();
            }
            DueKind::ExpiredLeases => {
                due.records = self
                    .leased
                    .iter()
                    .take_while(|(until, ..)| *until <= now)
                    .take(limit)
                    .filter_map(|(.., run)| record(&RecordId::run(run)))
                    .collect();
                due.next = self.leased.iter().map(|(until, ..)| *until).find(|until| *until > now);
            }
            DueKind::OlderIncarnations { daemon, current } => {
                let older = self.leased.iter().filter_map(|(.., run)| record(&RecordId::run(run))).filter(|record| {
                    let owner = record.lease.as_ref().and_then(|lease| lease.owner.as_ref());
                    owner.is_some_and(|owner| owner != current && owner.daemon() == daemon)
                });
                due.records = older.take(limit).collect();
            }
            DueKind::Schedules => self.aged(&mut due, &[(Kind::Schedule, None)], Duration::ZERO, limit),
            DueKind::Expiries => self.aged(&mut due, &PARKED, Duration::ZERO, limit),
            DueKind::Ended { status, for_at_least } => self.aged(&mut due, &[(Kind::Run, Some(*status))], *for_at_least, limit),
            DueKind::Aged { kind, for_at_least } => self.aged(&mut due, &[(*kind, None)], *for_at_least, limit),
        }
        due
    }

    /// What has been due for at least so long among these groups of [`State::due`].
    fn aged(&self, due: &mut Due, groups: &[(Kind, Option<Status>)], for_at_least: Duration, limit: usize) {
        let until = due.now - for_at_least;
        let groups: Vec<_> = groups.iter().filter_map(|group| self.due.get(group)).collect();
        let mut passed: Vec<_> = groups.iter().flat_map(|group| group.range(..=(until, i64::MAX)).take(limit)).collect();
        passed.sort_by_key(|(at, _)| **at);
        let record = |(_, id): (_, &RecordId)| self.records.get(id).map(|stored| stored.record.clone());
        due.records = passed.into_iter().take(limit).filter_map(record).collect();
        let later = |group: &&ByTime| group.range((until, i64::MAX)..).next().map(|((at, _), _)| *at);
        due.next = groups.iter().filter_map(later).min().map(|at| at + for_at_least);
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Result<Bytes, StoreError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| StoreError::Invalid(error.to_string()))
}

#[async_trait]
impl Store for MemoryStore {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        let mut state = self.state();
        let at = Times::of_clock(&*self.clock);
        changes.iter().try_for_each(Change::check)?;
        Ok(changes.into_iter().map(|change| state.apply_one(change, at)).collect())
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let mut state = self.state();
        let at = Times::of_clock(&*self.clock);
        let again = state.claimed_under(&request)?;
        if !again.is_empty() {
            return Ok(again);
        }
        let mut claimed = Vec::new();
        for (run, digest) in state.claimable(&request, at.now) {
            claimed.extend(state.claim_one(&run, &request, &digest, at)?);
        }
        Ok(claimed)
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let mut state = self.state();
        let steady = self.clock.steady();
        Ok(leases.iter().map(|(run, fence)| state.renew_one(worker, run, *fence, lease, steady)).collect())
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        Ok(self.state().due(&what, limit, Times::of_clock(&*self.clock)))
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let state = self.state();
        Ok(ids.iter().map(|id| state.records.get(id).map(|stored| stored.record.clone())).collect())
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        let state = self.state();
        let all = state.scoped(&scope);
        let wanted = page.limit.saturating_add(1);
        let mut records: Vec<Record> = if page.newest_first {
            let behind = all.rev().skip_while(|(order, _)| page.after.is_some_and(|after| *order >= after));
            behind.take(wanted).map(|(_, stored)| stored.record.clone()).collect()
        } else {
            let behind = all.skip_while(|(order, _)| page.after.is_some_and(|after| *order <= after));
            behind.take(wanted).map(|(_, stored)| stored.record.clone()).collect()
        };
        let more = records.len() > page.limit;
        records.truncate(page.limit);
        let next = if more { records.last().map(|record| record.order) } else { None };
        Ok(Page { records, next })
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        Ok(self.state().counts.get(&scope).cloned().unwrap_or_default())
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        let state = self.state();
        let numbered = (1..).zip(state.events_of(run)).skip(usize::try_from(after).unwrap_or(usize::MAX)).take(limit);
        Ok(numbered.map(|(sequence, event)| NumberedEvent { sequence, event: event.clone() }).collect())
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    async fn close(&self) {}
}
