//! One attempt, from the claim to the commit of its outcome.
//!
//! Invariants: everything that it writes carries its fence; its files are written through the directory that it opened, and none after
//! its lease has ended by its own clock; its mirrors are written, and its workspace is uploaded where there is a bucket, before
//! its outcome is committed, so that whoever sees the outcome finds them; a lost lease ends it without a word to the store.

mod bucket;
mod budget;
mod quarantine;
mod workspace;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

use super::account::{Accounts, AttemptAccount};
use super::approvals;
use super::committer::CommitError;
use super::deployment;
use super::error::ManagerError;
use super::executor::{Start, Tripped};
use super::guest::{AttemptHost, CLAIMED};
use super::inner::Inner;
use super::kept::{self, Left};
use super::live::LiveRun;
use super::outage::tell_unless_out;
use super::receipt::receipt_of;
use super::transitions;
use super::txn::{Known, Stop as TxnStop, Txn};
use crate::clock::BootInstant;
use crate::domain::event::Event;
use crate::domain::http::HttpCalls;
use crate::domain::id::RunId;
use crate::domain::lifecycle::{self, Decision, Outcome, Refused};
use crate::domain::policy::ErrorKind;
use crate::domain::run::{Attempt, Run, Usage};
use crate::domain::time::Timestamp;
use crate::egress::Account;
use crate::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, Ended, Stop};
use crate::store::{Claimed, MAX_BODY_BYTES, PARKED_FOR, RecordId, StoreError};
use crate::workspace::Workspace;

/// How long a guest's reports gather before they are written.
const GATHER: Duration = Duration::from_millis(100);
/// The most that an attempt's log may take on disk, whatever the agent's limit.
const LOG_BYTES: u64 = 64 * 1024 * 1024;
/// How often an outcome is offered, at least, to a store that does not take it.
const OFFERS: u32 = 20;

/// How an attempt came out for its run.
enum Word {
    /// The attempt has an outcome.
    Outcome(Outcome, Usage),
    /// The run is to be given back, and why.
    HandBack(&'static str, Option<Usage>),
    /// Another worker has the run.
    Lost,
}

/// Executes one claimed run to the end of its attempt. `asked_at` is the time before the claim was sent; `slot` is the guest's place,
/// given back when the guest has ended.
pub async fn execute(inner: Arc<Inner>, claimed: Claimed, start: Arc<dyn Start>, asked_at: BootInstant, slot: OwnedSemaphorePermit) {
    let span =
        tracing::info_span!("attempt", run = %claimed.run.run_id, attempt = claimed.run.attempt, fence = claimed.run.lease_generation);
    let fence = claimed.run.lease_generation;
    let run_id = claimed.run.run_id.clone();
    let signals = AttemptSignals::by(Arc::clone(&inner.clock));
    signals.set_lease_end(inner.lease_end(asked_at));
    let live = LiveRun::new(fence, Arc::clone(&signals));
    inner.live.add(run_id.clone(), live.clone());
    let _registered = Registered { inner: Arc::clone(&inner), run_id, fence };
    async {
        let work = Work { inner: &inner, run: Arc::new(claimed.run.clone()), claimed, fence, live };
        work.run(start, slot).await;
    }
    .instrument(span)
    .await;
}

/// Takes the attempt out of the live ones however it ends, so that the lease of one that panicked runs out.
struct Registered {
    inner: Arc<Inner>,
    run_id: RunId,
    fence: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.inner.live.remove(&self.run_id, self.fence);
    }
}

/// Whether an answer is too large for a record, in which a control character takes six bytes.
fn is_too_long(result: &str) -> bool {
    result.len() > MAX_BODY_BYTES / 6 && serde_json::to_vec(result).map_or(0, |text| text.len()) > MAX_BODY_BYTES
}

struct Work<'a> {
    inner: &'a Arc<Inner>,
    claimed: Claimed,
    run: Arc<Run>,
    fence: u64,
    live: LiveRun,
}

/// What is left of an attempt when its guest has ended.
struct Remains {
    /// The attempt's record as far as is known, with its rev.
    attempt: (u64, Arc<Attempt>),
    /// What the guest told that is not kept yet.
    told: Vec<Event>,
    /// What it asked of others.
    http: Option<HttpCalls>,
    /// Where it worked; none when it did not come to that.
    workspace: Option<Workspace>,
    /// That its digest has crashed too often, if it has.
    tripped: Option<Tripped>,
    /// What its end adds to.
    accounts: Arc<Accounts>,
}

impl Work<'_> {
    async fn run(&self, start: Arc<dyn Start>, slot: OwnedSemaphorePermit) {
        let inner = self.inner;
        let accounts = self.accounts(&*start);
        let ready = match self.account(&accounts).await {
            Ok(account) => self.workspace(&*start).await.map(|workspace| (account, workspace)),
            Err(word) => Err(word),
        };
        let (word, remains) = match ready {
            Ok((account, workspace)) => {
                // The sandbox holds the guest to its own limit.
                let logs = inner.workspaces.logs().writer(&self.run.run_id, self.run.attempt, LOG_BYTES);
                let (run, attempt) = (Arc::clone(&self.run), self.claimed.attempt.clone());
                let host = Arc::new(AttemptHost::new(inner, run, attempt, self.live.clone(), logs));
                let config_hash = start.config_hash().map(str::to_owned);
                let report = self.guest(start, self.spec(workspace.as_ref()), &host, account.clone()).await;
                host.close_logs();
                // Before the place is free: whoever takes it next goes by what this attempt said of its digest.
                let tripped = self.tripped(&report.ended);
                let mut told = host.take();
                told.extend(tripped.as_ref().map(|tripped| self.quarantine_event(tripped)));
                let http = Some(report.usage.http.clone()).filter(|http| http.total > 0);
                let word = self.word_of(report, config_hash, account.as_deref());
                (word, Remains { attempt: host.attempt(), told, http, workspace, tripped, accounts })
            }
            Err(word) => {
                let attempt = (CLAIMED, Arc::new(self.claimed.attempt.clone()));
                (word, Remains { attempt, told: Vec::new(), http: None, workspace: None, tripped: None, accounts })
            }
        };
        drop(slot);
        let tripped = remains.tripped.clone();
        let is_kept = self.end(word, remains).await;
        if let Some(tripped) = tripped {
            self.inner.executor.settle(&tripped, is_kept);
        }
    }

    /// Runs the guest, writes what it tells meanwhile, and ends its grace after a cancel.
    async fn guest(
        &self,
        start: Arc<dyn Start>,
        spec: AttemptSpec,
        host: &Arc<AttemptHost>,
        account: Option<Arc<AttemptAccount>>,
    ) -> AttemptReport {
        let charged = account.clone().map(|account| account as Arc<dyn Account>);
        let mut executing = pin!(start.execute(spec, Arc::<AttemptHost>::clone(host), charged, Arc::clone(&self.live.signals)));
        let mut grace = pin!(self.end_early(account.as_deref()));
        loop {
            tokio::select! {
                biased;
                report = &mut executing => return report,
                never = &mut grace => match never {},
                () = host.told() => {}
            }
            tokio::select! {
                biased;
                report = &mut executing => return report,
                never = &mut grace => match never {},
                () = tokio::time::sleep(GATHER) => {}
            }
            let mut appending = pin!(self.append(host.take(), host));
            let ended = tokio::select! {
                biased;
                report = &mut executing => Some(report),
                never = &mut grace => match never {},
                () = &mut appending => None,
            };
            if let Some(report) = ended {
                // What is on its way must be in the history before the attempt's end is.
                appending.await;
                return report;
            }
        }
    }

    /// Ends the guest when the grace of a cancel is over, or a budget has nothing left.
    async fn end_early(&self, account: Option<&AttemptAccount>) -> Infallible {
        match account {
            None => self.end_grace().await,
            Some(account) => tokio::select! {
                biased;
                never = self.end_grace() => never,
                never = account.watch() => never,
            },
        }
    }

    async fn end_grace(&self) -> Infallible {
        self.live.cancelled.cancelled().await;
        tokio::time::sleep(self.run.policy.cancel_grace_seconds.duration()).await;
        self.live.signals.trap_now(Stop::CancelGraceOver);
        std::future::pending().await
    }

    /// Appends events to the run's history under the attempt's fence.
    async fn append(&self, events: Vec<Event>, host: &AttemptHost) {
        if events.is_empty() || !self.live.signals.holds_lease() {
            return;
        }
        self.live.move_history();
        let (run_id, fence) = (self.run.run_id.clone(), self.fence);
        let kept = events.clone();
        let appended = self
            .inner
            .committer
            .commit(Vec::new(), Vec::new(), move |txn: &mut Txn<'_>| -> Result<(), TxnStop<ManagerError>> {
                txn.held(&run_id, fence);
                events.iter().for_each(|event| txn.event(&run_id, event.clone()));
                Ok(())
            })
            .await;
        match appended {
            Ok(()) => {}
            Err(error) if error.is_loss() => self.live.say_lost(&self.run.run_id),
            // It has told that it wrote nothing, so that nothing is told twice.
            Err(CommitError::Store(StoreError::Full(_))) => host.give_back(kept),
            Err(error) => {
                let error = ManagerError::from(error);
                tell_unless_out!(error, warn, %error, "events of the agent were not kept");
            }
        }
    }

    fn word_of(&self, report: AttemptReport, config_hash: Option<String>, account: Option<&AttemptAccount>) -> Word {
        let usage = receipt_of(report.usage, config_hash);
        if let Some((outcome, so_far)) = budget::stopped_by(&report.ended, account) {
            // The account has seen the whole of the time that it was stopped for.
            let wall_seconds = usage.wall_seconds.max(so_far.wall_seconds);
            return Word::Outcome(outcome, Usage { wall_seconds, ..usage });
        }
        let outcome = match report.ended {
            Ended::Completed(result) if is_too_long(&result) => {
                let message = format!("the answer has more than {MAX_BODY_BYTES} bytes when it is written as JSON");
                Outcome::Failed { kind: ErrorKind::Output, message, after: None }
            }
            Ended::Completed(result) => Outcome::Completed(result),
            Ended::Failed { kind, message, after } => Outcome::Failed { kind, message, after },
            Ended::Cancelled { message } => Outcome::Cancelled(message),
            Ended::TimedOut => Outcome::TimedOut,
            Ended::Parked(park) => Outcome::Parked { park, wait: PARKED_FOR },
            Ended::Stopped(why) => return self.word_of_stop(why, usage),
        };
        Word::Outcome(outcome, usage)
    }

    fn word_of_stop(&self, why: Stop, usage: Usage) -> Word {
        match why {
            Stop::CancelGraceOver => {
                let grace = self.run.policy.cancel_grace_seconds;
                let message = format!("the agent did not stop within {grace} of the cancel and was stopped");
                Word::Outcome(Outcome::Cancelled(message), usage)
            }
            Stop::LeaseLost => Word::Lost,
            Stop::ShuttingDown => Word::HandBack("the daemon was stopped before the attempt ended", Some(usage)),
            Stop::NoCapacity => Word::HandBack("the sandbox had no room for another instance", None),
            // Only an account stops it so, and that says which budget.
            Stop::BudgetSpent => Word::HandBack("a budget had nothing left", Some(usage)),
        }
    }

    /// Decides what comes of the attempt and commits it; answers whether that came about.
    async fn end(&self, word: Word, remains: Remains) -> bool {
        let run_id = &self.run.run_id;
        if matches!(word, Word::Lost) {
            self.live.say_lost(run_id);
            return false;
        }
        let chance = self.inner.entropy.fraction();
        let fence = self.fence;
        let http = remains.http.clone();
        let decide = Arc::new(move |run: Run, attempt: Attempt, now| match &word {
            Word::Outcome(outcome, usage) => {
                let attempt = Attempt { http: http.clone(), ..attempt };
                lifecycle::finish(run, attempt, fence, outcome.clone(), usage.clone(), chance, now)
            }
            Word::HandBack(why, usage) => {
                lifecycle::hand_back(run, Attempt { http: http.clone(), ..attempt }, fence, why, usage.clone(), now)
            }
            Word::Lost => Err(Refused::LeaseLost(run.run_id)),
        });
        let now = self.inner.store.now().await.unwrap_or_else(|_| self.inner.clock.now());
        let Ok(expected) = decide(Run::clone(&self.run), Attempt::clone(&remains.attempt.1), now) else { return false };
        let moves = self.live.history_moves();
        let mut mirrored = self.mirror(&expected, &remains).await;
        let left = self.upload(remains.workspace.as_ref()).await;
        self.mark_left(&left).await;
        // The history tells that the files were not uploaded, and the mirrors do not yet.
        mirrored &= !matches!(left, Left::Owed(_));
        for offer in 1.. {
            match self.commit(Arc::clone(&decide), now, &remains, &left).await {
                Ok(run) => {
                    if let (Some(bucket), Left::Uploaded(uploaded)) = (self.inner.workspaces.bucket(), &left) {
                        tokio::select! {
                            biased;
                            () = self.live.hurried.cancelled() => {}
                            () = self.inner.tidy(bucket, run_id, uploaded) => {}
                        }
                    }
                    // A run that went back to the queue may be at work elsewhere by now, and another attempt writes its mirrors.
                    let has_moved = self.live.history_moves() != moves || self.live.has_heartbeats();
                    let is_other = *run != expected.run || !mirrored || has_moved;
                    if is_other && (run.status.is_settled() || self.live.signals.holds_lease()) {
                        self.inner.mirror_from_store(run_id, remains.workspace).await;
                    }
                    tracing::debug!(status = run.status.as_str(), "the attempt ended");
                    return true;
                }
                Err(error) if error.is_loss() || matches!(error, CommitError::Refused(_)) => {
                    self.live.say_lost(run_id);
                    return false;
                }
                Err(CommitError::Store(error)) if error.is_transient() => {
                    tracing::debug!(%error, "the attempt's outcome is not kept yet; it is offered again");
                }
                Err(CommitError::Contended) => {
                    tracing::warn!("the attempt's outcome is not kept yet, for others change the same records; it is offered again");
                }
                Err(error) => {
                    tracing::error!(error = %ManagerError::from(error), "the attempt's outcome cannot be kept; recovery takes the run up");
                    return false;
                }
            }
            // As long as the lease holds nobody else takes the run up, and the outcome is still worth keeping.
            if offer >= OFFERS && !self.live.signals.holds_lease() {
                break;
            }
            tokio::time::sleep(GATHER).await;
        }
        tracing::error!("the store did not take the attempt's outcome while its lease held; recovery takes the run up");
        false
    }

    async fn commit<D>(&self, decide: Arc<D>, at: Timestamp, remains: &Remains, left: &Left) -> Result<Arc<Run>, CommitError<ManagerError>>
    where
        D: Fn(Run, Attempt, Timestamp) -> Result<Decision, Refused> + Send + Sync + 'static,
    {
        let (run_id, number, fence) = (self.run.run_id.clone(), self.run.attempt, self.fence);
        let claimed = Arc::clone(&self.run);
        let (run_key, attempt_key) = (RecordId::run(&run_id), RecordId::attempt(&run_id, number));
        let (rev, attempt) = &remains.attempt;
        let (told, tripped, accounts) = (remains.told.clone(), remains.tripped.clone(), Arc::clone(&remains.accounts));
        let known =
            vec![Known::at(run_key, self.claimed.rev, Arc::clone(&self.run)), Known::at(attempt_key.clone(), *rev, Arc::clone(attempt))];
        let mut reads = remains.accounts.written();
        reads.extend((!matches!(left, Left::Nothing)).then(|| kept::id_of(&run_id)));
        reads.extend(tripped.as_ref().map(|tripped| deployment::id_of(&tripped.agent)));
        let (left, daemon) = (left.clone(), self.inner.settings().worker.daemon().to_owned());
        let decide = move |txn: &mut Txn<'_>| {
            txn.held(&run_id, fence);
            left.keep(txn, &run_id, &daemon, fence)?;
            if let Some(tripped) = &tripped {
                quarantine::keep(txn, tripped, &run_id)?;
            }
            let run = transitions::run_of(txn, &run_id)?;
            let Some(attempt) = txn.get::<Attempt, _>(&attempt_key)? else {
                return Err(ManagerError::not_found("Attempt", &attempt_key).into());
            };
            // As long as nothing came in between, the history tells what the mirrors tell, to the microsecond.
            let now = if Arc::ptr_eq(&run, &claimed) { at } else { txn.now() };
            let mut decision = decide(Run::clone(&run), Attempt::clone(&attempt), now)?;
            decision.events.splice(0..0, told.iter().cloned());
            if let (Left::Owed(why), Some(last)) = (&left, decision.events.last_mut()) {
                last.details.insert("workspace_not_uploaded".to_owned(), why.as_str().into());
            }
            let used = decision.attempt.as_ref().and_then(|attempt| attempt.usage.as_ref()).map(Usage::spend).unwrap_or_default();
            accounts.settle(txn, fence, used, decision.run.status.is_terminal())?;
            let decision = accounts.unpark(txn, decision)?;
            let decision = approvals::keep(txn, decision)?;
            transitions::write(txn, decision)
        };
        self.inner.committer.commit(reads, known, decide).await
    }

    /// The run's history up to its claim, unless something may have been added since or its record does not tell.
    fn known_history(&self) -> Option<Vec<Event>> {
        if self.live.has_history_moved() {
            return None;
        }
        let digest = self.claimed.attempt.digest.as_deref().unwrap_or_default();
        lifecycle::history_at_first_claim(&self.run, digest).filter(|events| events.len() as u64 == self.claimed.events)
    }

    /// Writes run.json, events.jsonl and the answer as they will be when the decision is committed; says whether it tried to.
    async fn mirror(&self, decision: &Decision, remains: &Remains) -> bool {
        if !self.live.signals.holds_lease() {
            return false;
        }
        let run = &decision.run;
        let mut mirrors = match self.inner.mirrors_of(run, self.known_history(), remains.told.iter().chain(&decision.events)).await {
            Ok(mirrors) => mirrors,
            Err(error) => {
                tell_unless_out!(error, warn, %error, "the history could not be read for the mirrors");
                self.inner.owed_mirrors.note(&run.run_id);
                return true;
            }
        };
        if run.status == crate::domain::run::Status::Completed && mirrors.any() {
            mirrors.output = Some(decision.result.clone().or_else(|| run.result_preview.clone()).unwrap_or_default());
        }
        self.inner.write_mirrors(mirrors, remains.workspace.clone()).await;
        true
    }
}
