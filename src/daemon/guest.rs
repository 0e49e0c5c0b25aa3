//! Where a guest's reports, events and output go while its attempt executes, and how its first effect outside is kept before it begins.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Notify, OnceCell};

use super::approvals::AttemptApprovals;
use super::checkpoints::AttemptCheckpoints;
use super::committer::{CommitError, Committer};
use super::error::ManagerError;
use super::inner::Inner;
use super::live::LiveRun;
use super::memory::AttemptMemory;
use super::txn::{Known, Txn};
use crate::clock::Clock;
use crate::domain::event::{Event, EventName};
use crate::domain::lifecycle;
use crate::domain::run::{Attempt, Run};
use crate::domain::time::Timestamp;
use crate::sandbox::checkpoints::{Approvals, Checkpoints};
use crate::sandbox::memory::KeyValues;
use crate::sandbox::{EffectsRefused, GuestHost, LogEntry, LogStream};
use crate::store::RecordId;
use crate::workspace::LogWriter;

/// The rev of an attempt that has just been claimed.
pub(super) const CLAIMED: u64 = 1;

/// The host's side of one attempt. The sandbox has checked counts and sizes before it calls.
pub struct AttemptHost {
    run: Arc<Run>,
    clock: Arc<dyn Clock>,
    committer: Committer,
    live: LiveRun,
    logs: LogWriter,
    waiting: Mutex<Vec<Event>>,
    told: Notify,
    claimed: Arc<Attempt>,
    /// The attempt with its effects begun, once that is kept.
    begun: OnceCell<Arc<Attempt>>,
    memory: AttemptMemory,
    checkpoints: AttemptCheckpoints,
    approvals: AttemptApprovals,
}

impl AttemptHost {
    /// The host of an attempt of this run that was claimed.
    pub fn new(inner: &Inner, run: Arc<Run>, claimed: Attempt, live: LiveRun, logs: LogWriter) -> Self {
        let (store, committer, entropy) = (Arc::clone(&inner.store), inner.committer.clone(), Arc::clone(&inner.entropy));
        AttemptHost {
            checkpoints: AttemptCheckpoints::new(Arc::clone(&store), committer.clone(), Arc::clone(&run), live.clone()),
            approvals: AttemptApprovals::new(Arc::clone(&store), Arc::clone(&run)),
            memory: AttemptMemory::new(store, committer, entropy, Arc::clone(&run), live.clone()),
            run,
            clock: Arc::clone(&inner.clock),
            committer: inner.committer.clone(),
            live,
            logs,
            waiting: Mutex::default(),
            told: Notify::new(),
            claimed: Arc::new(claimed),
            begun: OnceCell::new(),
        }
    }

    /// The attempt as it is in the store as far as is known, with its rev.
    pub fn attempt(&self) -> (u64, Arc<Attempt>) {
        match self.begun.get() {
            Some(begun) => (CLAIMED + 1, Arc::clone(begun)),
            None => (CLAIMED, Arc::clone(&self.claimed)),
        }
    }

    async fn keep_effects(&self) -> Result<Arc<Attempt>, EffectsRefused> {
        if !self.live.signals.may_act() {
            return Err(EffectsRefused::LeaseLost);
        }
        let (run, fence) = (self.run.run_id.clone(), self.live.fence);
        let id = RecordId::attempt(&run, self.claimed.attempt_number);
        let known = vec![Known::at(id.clone(), CLAIMED, Arc::clone(&self.claimed))];
        let decide = move |txn: &mut Txn<'_>| {
            txn.held(&run, fence);
            let Some(before) = txn.get::<Attempt, _>(&id)? else { return Err(ManagerError::not_found("Attempt", &id).into()) };
            let begun = Arc::new(lifecycle::begin_effects(Attempt::clone(&before), fence)?);
            // A commit whose answer was lost has begun them.
            if begun != before {
                txn.put(id.clone(), Arc::clone(&begun))?;
            }
            Ok(begun)
        };
        self.committer.commit(Vec::new(), known, decide).await.map_err(|error| match error {
            error if error.is_loss() || matches!(error, CommitError::Refused(_)) => EffectsRefused::LeaseLost,
            other => EffectsRefused::NotKept(ManagerError::from(other).to_string()),
        })
    }

    fn tell(&self, event: Event) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        self.told.notify_one();
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns when there is something to take.
    pub async fn told(&self) {
        self.told.notified().await;
    }

    /// What the guest told since the last call.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be kept, ahead of what was told since.
    pub fn give_back(&self, events: Vec<Event>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).splice(0..0, events);
        self.told.notify_one();
    }

    /// Ends the log.
    pub fn close_logs(&self) {
        self.logs.finish();
    }
}

#[async_trait]
impl GuestHost for AttemptHost {
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        self.begun.get_or_try_init(|| self.keep_effects()).await?;
        // The commit may have taken all the time that was left.
        if self.live.signals.may_act() { Ok(()) } else { Err(EffectsRefused::LeaseLost) }
    }

    fn report(&self, message: String, fraction: Option<f64>) {
        self.tell(Event::of(&self.run, EventName::Progress, self.now()).with("message", message).with("fraction", json!(fraction)));
    }

    fn emit(&self, name: String, payload: String) {
        let payload: Value = serde_json::from_str(&payload).unwrap_or(Value::String(payload));
        self.tell(Event::of(&self.run, EventName::Agent, self.now()).with("name", name).with("payload", payload));
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        self.logs.write(stream, bytes);
    }

    fn log_entry(&self, entry: LogEntry) {
        self.logs.write_entry(entry.level, &entry.context, &entry.message);
    }

    fn key_values(&self) -> Option<&dyn KeyValues> {
        Some(&self.memory)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(&self.checkpoints)
    }

    fn approvals(&self) -> Option<&dyn Approvals> {
        Some(&self.approvals)
    }
}
