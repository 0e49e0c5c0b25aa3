//! Claiming runs.
//!
//! A claim that finds nothing reads once. One that finds something reads twice, writes once per collection, and commits: seven round trips
//! whatever the number of runs. Claimers of an agent with a limit meet at one document, so that each knows what the others have taken.
//!
//! Who met another claimer looks further along the queue the next time, and begins at a place of chance there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;

use super::super::batch::Batch;
use super::super::claim::{Earlier, Ready};
use super::super::request::Times;
use super::super::{ClaimAgent, ClaimRequest, Claimed, CountScope, Record, RecordId, StoreError};
use super::documents::{CountDoc, LeaseDoc, Lists, RecordDoc};
use super::errors::Trouble;
use super::pipelines::{count_ids, named, with_attempts, with_present};
use super::transaction::{Transaction, Tries};
use super::write::{Beside, Holder};
use super::{MongoStore, bytes};
use crate::clock::{Entropy as _, SystemEntropy};
use crate::domain::run::Status;

/// How many times as far as it must a claim looks at most.
const FURTHEST: u32 = 8;

/// What a claim found.
struct Choice {
    at: Times,
    /// What the same wish was given before.
    given: Vec<LeaseDoc>,
    /// The ready runs that it may have, each with the agent that wants it.
    ready: Vec<(RecordDoc, ClaimAgent)>,
}

impl MongoStore {
    /// Claims runs.
    pub async fn claim_all(&self, request: &ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let _turn = self.claiming.acquire().await.map_err(|_| self.server.unavailable("it has been closed"))?;
        let mut tries = Tries::default();
        loop {
            let mut transaction = self.begin().await?;
            let done = match self.choose(&mut transaction, request, tries.anew()).await {
                // Nothing was promised, so nothing has to be waited for.
                Ok(choice) if choice.given.is_empty() && choice.ready.is_empty() => {
                    transaction.abort().await;
                    return Ok(Vec::new());
                }
                Ok(choice) if !choice.given.is_empty() => self.given_before(&mut transaction, choice.given).await,
                Ok(choice) => self.claim_in(&mut transaction, request, choice).await,
                Err(trouble) => Err(trouble),
            };
            match transaction.end(done).await {
                Ok(claimed) => return Ok(claimed),
                Err(trouble) => tries.pause(self, trouble).await?,
            }
        }
    }

    /// Looks for what was given before, and for what may be given now.
    async fn choose(&self, transaction: &mut Transaction<'_>, request: &ClaimRequest, anew: u32) -> Result<Choice, Trouble> {
        let token = bytes(request.token.0.to_be_bytes().to_vec());
        let mut pipeline = with_present();
        pipeline.push(self.given_list(token, request.worker.as_str()));
        let further = anew.min(FURTHEST - 1) as usize + 1;
        if request.limit > 0 {
            let (limited, unlimited): (BTreeMap<&str, u32>, Vec<&str>) = limits(&request.agents);
            if !unlimited.is_empty() {
                pipeline.push(self.ready_list(unlimited, request.limit.saturating_mul(further), 0));
            }
            for (number, (agent, most)) in (1..).zip(&limited) {
                pipeline.push(self.ready_list(vec![agent], request.limit.saturating_mul(further).min(*most as usize), number));
            }
            let agents = request.agents.iter().filter(|wanted| wanted.max_running.is_some());
            let counts: Vec<String> = agents.flat_map(|wanted| count_ids(&CountScope::RunsOfAgent(wanted.agent.clone()))).collect();
            if !counts.is_empty() {
                pipeline.push(self.counts_list(counts));
            }
        }
        let Lists { now, leases, ready, counts, .. } = transaction.begin_with(pipeline).await?;
        let ready = ready.into_values().flatten().collect();
        Ok(Choice { at: self.tell(Some(now))?, given: leases, ready: chosen(request, ready, &leased(&counts), anew > 0) })
    }

    /// Claims what was chosen.
    async fn claim_in(&self, transaction: &mut Transaction<'_>, request: &ClaimRequest, choice: Choice) -> Result<Vec<Claimed>, Trouble> {
        let Choice { at, ready, .. } = choice;
        let (ids, runs) = ready
            .iter()
            .map(|(record, _)| Ok((record.id.clone(), record.record_id()?.key.to_string())))
            .collect::<Result<_, StoreError>>()?;
        let most = i64::try_from(ready.len()).unwrap_or(i64::MAX);
        let read = transaction.find::<_, RecordDoc>(&self.tables.records, with_attempts(ids, runs));
        let (last, read) = tokio::join!(self.take_orders(most), read);
        let (runs, attempts): (Vec<RecordDoc>, Vec<RecordDoc>) = read?.into_iter().partition(|record| record.body.is_some());
        let bodies: HashMap<&str, &RecordDoc> = runs.iter().map(|run| (run.id.as_str(), run)).collect();
        let mut batch = Batch::new(last?).with_fences_above(self.fences_above.load(Ordering::Relaxed));
        let mut candidates = Vec::with_capacity(ready.len());
        let mut limited = HashSet::new();
        for (record, wanted) in &ready {
            let body = bodies.get(record.id.as_str()).and_then(|run| run.body.as_ref());
            let body = body.map(|body| body.bytes.as_slice()).unwrap_or_default();
            let ready = Ready { id: record.record_id()?, known: record.known(None)?, digest: &wanted.digest, body };
            candidates.extend(ready.claim(request, at, &mut batch));
            limited.extend(wanted.max_running.map(|_| wanted.agent.as_str().to_owned()));
        }
        for attempt in &attempts {
            batch.learn(attempt.record_id()?, attempt.known(None)?);
        }
        let claimed = candidates.into_iter().map(|candidate| candidate.take(request, at, &mut batch)).collect::<Result<Vec<_>, _>>()?;
        let holder = Holder { worker: &request.worker, token: request.token, from: at.steady, until: at.steady + request.lease };
        let beside = Beside { limited: limited.into_iter().collect(), holder: Some(holder), ..Beside::default() };
        self.write(transaction, batch.writes(), 1, beside).await?;
        Ok(claimed)
    }

    /// What the same wish was given before.
    async fn given_before(&self, transaction: &mut Transaction<'_>, given: Vec<LeaseDoc>) -> Result<Vec<Claimed>, Trouble> {
        let runs = self.read_in(transaction, given.iter().map(|lease| lease.id.clone()).collect()).await?;
        let leases: HashMap<&str, &LeaseDoc> = given.iter().map(|lease| (lease.id.as_str(), lease)).collect();
        let mut earlier = Vec::with_capacity(runs.len());
        for run in runs {
            let (events, lease) = (run.last_event()?, leases.get(run.id.as_str()).copied());
            earlier.push(Earlier::new(&run.record(lease)?, events)?);
        }
        let attempts = self.read_in(transaction, earlier.iter().map(|claim| claim.attempt_id().text()).collect()).await?;
        let attempts = attempts.into_iter().map(|attempt| attempt.record(None)).collect::<Result<Vec<_>, _>>()?;
        let attempts: HashMap<RecordId, Record> = attempts.into_iter().map(|attempt| (attempt.id.clone(), attempt)).collect();
        let with = |claim: Earlier| {
            let attempt = attempts.get(&claim.attempt_id());
            claim.with(attempt)
        };
        Ok(earlier.into_iter().map(with).collect::<Result<Vec<_>, _>>()?)
    }

    /// Reads records by name, in order of their places.
    async fn read_in(&self, transaction: &mut Transaction<'_>, ids: Vec<String>) -> Result<Vec<RecordDoc>, Trouble> {
        let mut records: Vec<RecordDoc> = transaction.find(&self.tables.records, vec![named(ids)]).await?;
        records.sort_by_key(|record| record.ord);
        Ok(records)
    }
}

/// The wanted agents: those with a limit and their highest one, and those without.
fn limits(agents: &[ClaimAgent]) -> (BTreeMap<&str, u32>, Vec<&str>) {
    let (mut limited, mut unlimited) = (BTreeMap::new(), Vec::new());
    for wanted in agents {
        match wanted.max_running {
            None => unlimited.push(wanted.agent.as_str()),
            Some(most) => {
                let highest = limited.entry(wanted.agent.as_str()).or_insert(most);
                *highest = (*highest).max(most);
            }
        }
    }
    limited.retain(|agent, _| !unlimited.contains(agent));
    (limited, unlimited)
}

/// How many runs are leased, by the scope of their agent.
fn leased(counts: &[CountDoc]) -> HashMap<&str, i64> {
    let mut leased = HashMap::new();
    for count in counts {
        let scope = count.id.rsplit_once('#').map_or(count.id.as_str(), |(scope, _)| scope);
        let of_part = count.n.iter().filter(|(status, _)| Status::parse(status).is_some_and(Status::is_leased));
        *leased.entry(scope).or_default() += of_part.map(|(_, n)| n).sum::<i64>();
    }
    leased
}

/// The runs that the request may have, longest due first: of each agent no more than it has room for, in all no more than are wanted.
fn chosen(request: &ClaimRequest, records: Vec<RecordDoc>, leased: &HashMap<&str, i64>, by_chance: bool) -> Vec<(RecordDoc, ClaimAgent)> {
    let mut by_agent: HashMap<String, Vec<RecordDoc>> = HashMap::new();
    for record in records {
        by_agent.entry(record.agent.clone().unwrap_or_default()).or_default().push(record);
    }
    let mut chosen = Vec::new();
    for wanted in &request.agents {
        let scope = CountScope::RunsOfAgent(wanted.agent.clone()).text();
        let taken = leased.get(scope.as_str()).copied().unwrap_or(0);
        let room = wanted.max_running.map_or(i64::MAX, |most| i64::from(most).saturating_sub(taken));
        let of_agent = by_agent.get(wanted.agent.as_str()).into_iter().flatten();
        chosen.extend(of_agent.take(usize::try_from(room).unwrap_or(0)).map(|record| (record.clone(), wanted.clone())));
    }
    chosen.sort_by_key(|(one, _)| (one.due, one.ord));
    let spare = chosen.len().saturating_sub(request.limit);
    let skipped = if by_chance { ((SystemEntropy.fraction() * (spare + 1) as f64) as usize).min(spare) } else { 0 };
    chosen.into_iter().skip(skipped).take(request.limit).collect()
}
