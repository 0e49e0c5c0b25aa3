//! Batches: read what they need, decide here, write if nothing of it has changed.
//!
//! Invariants: a batch is two round trips, and its writing is one script: all of it or nothing. Both go over one connection, so that what was
//! read cannot be of another server than what is written. A handle's own batches come in turn, and so do its claims.
//!
//! How it fails: a batch that others keep getting ahead of is given up after some tries; nothing of it is written then.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use ::redis::{Cmd, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::super::batch::{Batch, Known, Row, Writes};
use super::super::claim::{Candidate, Earlier, Ready};
use super::super::request::Times;
use super::super::{Change, ClaimRequest, Claimed, Guard, Outcome, Record, RecordId, StoreError};
use super::answer::{self, Fields};
use super::link::Live;
use super::scripts::{SCRIPTS, list};
use super::{RedisStore, instead};
use crate::clock::{Entropy, SystemEntropy};
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// How often a batch is decided anew.
const TRIES: u32 = 100;

/// How often that is done at once, before chance says when.
const TRIES_AT_ONCE: u32 = 3;

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_millis(30);

/// How long a batch waits for its turn.
const TURN: Duration = Duration::from_secs(15);

/// Orders above this stand for new records, which get theirs in the commit: the first one is the next that is free.
const NEW: i64 = 1 << 60;

/// The largest number of runs that one wish gets.
const MOST_CLAIMED: usize = 1000;

/// What a batch was decided by.
#[derive(Default)]
struct Seen {
    /// Records as the script checks them: the name, and what the head began with; empty for what was not there.
    records: Vec<[String; 2]>,
    /// Whether some of them were not looked at, but taken for missing.
    is_a_guess: bool,
    /// Runs, and how many records hang on each.
    hanging: Vec<(String, usize)>,
    /// Runs whose lease held.
    held: HashSet<String>,
    /// Agents, how many of their runs may be leased, and how many more will be.
    limits: Vec<(String, u32, usize)>,
}

impl Seen {
    fn record(&mut self, id: &RecordId, known: Option<&Known>) {
        self.records.push([id.text(), known.map(answer::beginning).unwrap_or_default()]);
    }
}

/// How a batch goes on when others get ahead of it.
struct Pace {
    /// How much of it is tried at once.
    size: usize,
    most: usize,
    tries: u32,
}

impl Pace {
    fn new(most: usize) -> Pace {
        Pace { size: most, most, tries: 0 }
    }

    /// Doubles what is tried.
    fn go_on(&mut self) {
        self.tries = 0;
        self.size = self.size.saturating_mul(2).min(self.most);
    }

    /// Halves what is tried, and lets others go ahead by chance, for longer the more often they did.
    async fn slow_down(&mut self) -> Result<(), StoreError> {
        self.tries += 1;
        self.size = (self.size / 2).max(1);
        if self.tries >= TRIES {
            return Err(contended());
        }
        if self.tries > TRIES_AT_ONCE {
            let longest = LONGEST_WAIT.min(Duration::from_millis(1 << self.tries.min(10)));
            tokio::time::sleep(longest.mul_f64(SystemEntropy.fraction())).await;
        }
        Ok(())
    }
}

/// What a wish has come to.
enum Found {
    /// It was given these before.
    Before(Vec<Claimed>),
    /// It has these now.
    Now {
        /// The runs.
        runs: Vec<Claimed>,
        /// How many were found, those that were put aside among them.
        found: usize,
    },
}

/// Whose leases a batch takes.
struct Holder<'a> {
    request: &'a ClaimRequest,
    from: Timestamp,
}

impl RedisStore {
    /// Applies changes in one batch; in smaller ones as long as others get ahead of it, since those are decided sooner.
    pub(super) async fn apply_in_turn(&self, changes: &[Change]) -> Result<Vec<Outcome>, StoreError> {
        let _turn = turn(&self.applies).await?;
        let mut outcomes = Vec::with_capacity(changes.len());
        let mut pace = Pace::new(changes.len());
        while let Some(rest) = changes.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
            match self.try_apply(rest.get(..pace.size).unwrap_or(rest), &pace).await? {
                Some(some) => {
                    outcomes.extend(some);
                    pace.go_on();
                }
                None => pace.slow_down().await?,
            }
        }
        Ok(outcomes)
    }

    /// Applies changes if nothing gets ahead of them. Records that are to be made are hardly ever there: the first try takes it for granted.
    async fn try_apply(&self, changes: &[Change], pace: &Pace) -> Result<Option<Vec<Outcome>>, StoreError> {
        let mut batch = Batch::new(NEW);
        changes.iter().for_each(|change| batch.want_change(change));
        let mut seen = Seen::default();
        let made = if pace.tries == 0 { made(changes) } else { HashSet::new() };
        let (live, at) = self.load(&mut batch, &made, &mut seen).await?;
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            let outcome = batch.decide(change.clone(), at)?;
            if outcome == Outcome::Applied {
                seen.held.extend(change.guards.iter().filter_map(|guard| match guard {
                    Guard::Held(run, _) => Some(RecordId::run(run).text()),
                    _ => None,
                }));
            }
            outcomes.push(outcome);
        }
        Ok(self.write(live, batch.writes(), &seen, None).await?.then_some(outcomes))
    }

    /// Reads what a batch needs to know, but for what is taken for missing.
    async fn load(&self, batch: &mut Batch, missing: &HashSet<&RecordId>, seen: &mut Seen) -> Result<(Live, Times), StoreError> {
        let (guessed, wanted): (Vec<_>, Vec<_>) = batch.wanted().iter().cloned().partition(|id| missing.contains(id));
        seen.is_a_guess = !guessed.is_empty();
        guessed.iter().for_each(|id| seen.record(id, None));
        let runs: Vec<String> = batch.wanted_hanging().map(str::to_owned).collect();
        let mut call = SCRIPTS.read.call(self.work.key());
        list(&mut call, wanted.iter().map(RecordId::text));
        list(&mut call, runs.iter());
        let (live, answer) = self.work.begin(&call).await?;
        let mut fields = Fields::of(answer)?;
        for (id, value) in wanted.into_iter().zip(fields.list(1)?) {
            let known = answer::known(value)?;
            seen.record(&id, known.as_ref());
            if let Some(known) = known {
                batch.learn(id, known);
            }
        }
        for (run, value) in runs.into_iter().zip(fields.list(2)?) {
            let hanging = answer::list(value)?;
            seen.hanging.push((run, hanging.len()));
            for value in hanging {
                let mut named = Fields::of(value)?;
                let id = RecordId::of_text(named.some_text(0)?)?;
                let known = answer::known(named.take(1))?;
                seen.record(&id, known.as_ref());
                if let Some(known) = known {
                    batch.learn(id, known);
                }
            }
        }
        Ok((live, self.clock.tell(fields.some_time(0)?)))
    }

    /// Claims runs in one batch; in smaller ones as long as others get ahead of it, until there are as many as are wanted, or no more.
    pub(super) async fn claim_in_turn(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let _turn = turn(&self.claims).await?;
        let wanted = request.limit.min(MOST_CLAIMED);
        let (mut claimed, mut looked_at) = (Vec::new(), 0);
        let mut pace = Pace::new(wanted);
        loop {
            let size = pace.size.min(wanted - looked_at);
            match self.try_claim(request, size, &pace, looked_at == 0).await? {
                Some(Found::Before(earlier)) => return Ok(earlier),
                Some(Found::Now { runs, found }) => {
                    claimed.extend(runs);
                    looked_at += found;
                    if found < size || looked_at >= wanted {
                        return Ok(claimed);
                    }
                    pace.go_on();
                }
                None => pace.slow_down().await?,
            }
        }
    }

    /// Claims runs if nothing gets ahead of it. Attempts that are to be made are hardly ever there: the first try takes it for granted.
    async fn try_claim(&self, request: &ClaimRequest, size: usize, pace: &Pace, is_first: bool) -> Result<Option<Found>, StoreError> {
        let (mut live, answer) = self.work.begin(&self.candidates(request, size, is_first)).await?;
        let mut fields = Fields::of(answer)?;
        let at = self.clock.tell(fields.some_time(0)?);
        let earlier = fields.list(2)?;
        if !earlier.is_empty() {
            return self.claimed_before(earlier).await.map(|earlier| Some(Found::Before(earlier)));
        }
        let (mut batch, mut seen) = (Batch::new(NEW), Seen::default());
        let mut candidates = Vec::new();
        let least_fence = fields.count(1)?;
        let found = fields.list(3)?;
        let count = found.len();
        for value in found {
            candidates.extend(candidate(value, least_fence, request, at, &mut batch, &mut seen)?);
        }
        if candidates.is_empty() && !batch.has_puts() {
            return Ok(Some(Found::Now { runs: Vec::new(), found: count }));
        }
        if pace.tries > 0 {
            (live, _) = self.load(&mut batch, &HashSet::new(), &mut seen).await?;
        } else {
            batch.wanted().iter().for_each(|id| seen.record(id, None));
        }
        let runs = candidates.into_iter().map(|candidate| candidate.take(request, at, &mut batch)).collect::<Result<Vec<_>, _>>()?;
        seen.limits = limits(request, &runs);
        let holder = Holder { request, from: at.steady };
        let is_written = self.write(live, batch.writes(), &seen, Some(holder)).await?;
        Ok(is_written.then_some(Found::Now { runs, found: count }))
    }

    /// The call that finds what a wish may have.
    fn candidates(&self, request: &ClaimRequest, size: usize, is_first: bool) -> Cmd {
        let mut call = SCRIPTS.candidates.call(self.work.key());
        call.arg(instead(self.clock.instead().map(|at| at.now)));
        let token = if is_first { format!("{:x}", request.token.0) } else { String::new() };
        call.arg(request.worker.as_str()).arg(token).arg(size);
        let wanted = |wanted: &super::super::ClaimAgent| {
            (wanted.agent.to_string(), wanted.max_running.map(|most| most.to_string()).unwrap_or_default())
        };
        list(&mut call, request.agents.iter().map(wanted));
        call
    }

    /// What a wish with this token was given before.
    async fn claimed_before(&self, values: Vec<Value>) -> Result<Vec<Claimed>, StoreError> {
        let mut earlier = Vec::with_capacity(values.len());
        for value in values {
            let mut fields = Fields::of(value)?;
            if let Some(record) = answer::record(fields.take(0))? {
                earlier.push((record.order, Earlier::new(&record, fields.count(1)?)?));
            }
        }
        earlier.sort_by_key(|(order, _)| *order);
        let ids: Vec<RecordId> = earlier.iter().map(|(_, claim)| claim.attempt_id()).collect();
        let attempts = self.records(&self.work, &ids).await?;
        let with = |((_, claim), attempt): ((i64, Earlier), &Option<Record>)| claim.with(attempt.as_ref());
        earlier.into_iter().zip(&attempts).map(with).collect()
    }

    /// Writes a batch, unless something of what it was decided by has changed.
    async fn write(&self, live: Live, writes: Writes, seen: &Seen, holder: Option<Holder<'_>>) -> Result<bool, StoreError> {
        if writes.is_empty() {
            // What was looked at was so at one moment; a guess is checked by nothing.
            return Ok(!seen.is_a_guess);
        }
        // What makes room may be written by a server that has none.
        let script = if writes.deleted.is_empty() { &SCRIPTS.write } else { &SCRIPTS.write_anyway };
        let mut call = script.call(self.work.key());
        call.arg(instead(self.clock.instead().map(|at| at.steady)));
        list(&mut call, seen.records.iter());
        list(&mut call, seen.hanging.iter());
        list(&mut call, seen.held.iter());
        list(&mut call, seen.limits.iter());
        list(&mut call, writes.deleted.iter().map(|named| named.id.text()));
        leases(&mut call, holder);
        let ended: HashSet<&RecordId> = writes.unleased.iter().map(|named| &named.id).collect();
        let taken: HashSet<&RecordId> = writes.leased.iter().map(|named| &named.id).collect();
        let rows = || writes.records.iter().chain(&writes.settled);
        call.arg(rows().count());
        for row in rows() {
            put(&mut call, row);
            if taken.contains(&row.id) {
                call.arg(row.known.fence);
            } else {
                call.arg(if ended.contains(&row.id) { "end" } else { "" });
            }
        }
        append(&mut call, &writes, &rows().map(|row| &row.id).collect());
        list(&mut call, writes.counts.iter().map(|(scope, status, by)| (scope.text(), status.map_or("", Status::as_str), *by)));
        call.arg(writes.last_order - NEW);
        match self.work.proceed(live, &call).await? {
            Value::Int(written) => Ok(written == 1),
            _ => Err(StoreError::corrupt("the script that writes has answered with no number")),
        }
    }
}

/// A run that was found, as what is claimed.
fn candidate(
    value: Value,
    least_fence: u64,
    request: &ClaimRequest,
    at: Times,
    batch: &mut Batch,
    seen: &mut Seen,
) -> Result<Option<Candidate>, StoreError> {
    let mut fields = Fields::of(value)?;
    let id = RecordId::of_text(fields.some_text(1)?)?;
    let Some((mut known, body)) = answer::known_with_body(fields.take(2))? else { return Ok(None) };
    seen.record(&id, Some(&known));
    known.fence = known.fence.max(least_fence);
    let wanted = usize::try_from(fields.count(0)?).ok().and_then(|place| request.agents.get(place));
    let digest = wanted.map(|wanted| wanted.digest.as_str()).unwrap_or_default();
    Ok(Ready { id, known, digest, body: &body }.claim(request, at, batch))
}

/// The limits that must still hold when these runs are leased. A wish that names an agent twice has the larger one.
fn limits(request: &ClaimRequest, claimed: &[Claimed]) -> Vec<(String, u32, usize)> {
    let mut more: BTreeMap<&str, usize> = BTreeMap::new();
    claimed.iter().for_each(|claim| *more.entry(claim.run.agent_id.as_str()).or_default() += 1);
    let most = |agent: &str| {
        let of_agent = request.agents.iter().filter(|wanted| wanted.agent.as_str() == agent);
        of_agent.map(|wanted| wanted.max_running.unwrap_or(u32::MAX)).max()
    };
    more.into_iter().filter_map(|(agent, more)| Some((agent.to_owned(), most(agent)?, more))).collect()
}

/// A row but for what becomes of its lease.
fn put(call: &mut Cmd, row: &Row) {
    call.arg(row.id.text()).arg(row.id.kind.as_str());
    call.arg(if row.known.order > NEW { (row.known.order - NEW).to_string() } else { String::new() });
    call.arg(answer::head(row)).arg(&row.body[..]);
}

fn leases(call: &mut Cmd, holder: Option<Holder<'_>>) {
    match holder {
        Some(Holder { request, from }) => {
            call.arg(request.worker.as_str()).arg(format!("{:x}", request.token.0));
            call.arg(from.micros()).arg((from + request.lease).micros());
        }
        None => {
            call.arg("").arg("").arg("").arg("");
        }
    }
}

/// The records that changes make.
fn made(changes: &[Change]) -> HashSet<&RecordId> {
    let mut made = HashSet::new();
    for change in changes {
        for guard in &change.guards {
            match guard {
                Guard::Absent(id) if change.puts.iter().any(|put| put.id == *id) => drop(made.insert(id)),
                _ => {}
            }
        }
    }
    made
}

/// The events, those of one run behind each other at once.
fn append(call: &mut Cmd, writes: &Writes, written: &HashSet<&RecordId>) {
    let of_runs = || writes.events.chunk_by(|one, next| one.run.order == next.run.order);
    call.arg(of_runs().count());
    for of_run in of_runs() {
        if let Some(first) = of_run.first() {
            let all = of_run.last().filter(|_| !written.contains(&first.run.id)).map(|last| last.sequence.to_string());
            call.arg(first.run.id.text()).arg(all.unwrap_or_default());
            list(call, of_run.iter().map(|event| &event.body));
        }
    }
}

async fn turn(turns: &Semaphore) -> Result<SemaphorePermit<'_>, StoreError> {
    let turn = tokio::time::timeout(TURN, turns.acquire()).await;
    turn.ok().and_then(Result::ok).ok_or_else(|| StoreError::Unavailable("too many batches wait for Redis to answer".to_owned()))
}

fn contended() -> StoreError {
    StoreError::Unavailable(format!("other daemons have changed the same records {TRIES} times in a row; it is tried again"))
}
