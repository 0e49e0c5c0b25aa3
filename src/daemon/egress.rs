//! The way from the sandbox to the outside: an attempt's way out, and what is taken out of everything that comes back from it.
//!
//! Invariant: whatever a guest reports, tells, writes or answers passes here and is redacted before anybody keeps or shows it.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hyper::{Request, Response};

use crate::domain::http::{HttpCalls, HttpFault, HttpPolicy};
use crate::domain::park::Park;
use crate::domain::receipt::{Models, Outgoing};
use crate::domain::spend::Exhausted;
use crate::egress::{Account, AttemptHttp, Begin, Gateway, Held, Redactor, Timing};
use crate::sandbox::checkpoints::{Approvals, CheckpointQuota, CheckpointRefused, Checkpoints, Verdict};
use crate::sandbox::memory::{BucketName, Changed, KeptValue, KeyPage, KeyValues, MemoryChange, MemoryRefused, Quota};
use crate::sandbox::{
    AttemptReport, AttemptSignals, AttemptSpec, EffectsRefused, Egress, Ended, GuestHost, HttpBody, HttpTiming, Leave, LogEntry, LogStream,
    Prepared, Sandbox, Usage,
};

/// An attempt's way out.
struct WayOut {
    http: AttemptHttp,
    redactor: Arc<Redactor>,
}

#[async_trait]
impl Egress for WayOut {
    async fn send(&self, request: Request<HttpBody>, timing: HttpTiming, leave: Leave) -> Result<Response<HttpBody>, HttpFault> {
        let timing = Timing { connect: timing.connect, first_byte: timing.first_byte, between: timing.between };
        let begin: Begin = Box::new(move |changes| Box::pin(leave.ask(changes)));
        self.http.send(request, timing, begin).await
    }

    fn denied(&self) -> Option<String> {
        self.http.denied().map(|denied| self.redactor.text(denied))
    }

    fn exhausted(&self) -> Option<Exhausted> {
        self.http.exhausted()
    }

    async fn settled(&self) {
        self.http.settled().await;
    }

    fn outgoing(&self) -> Outgoing {
        self.http.outgoing()
    }

    fn models(&self) -> Models {
        let models = self.http.models();
        let by_model = models.by_model.into_iter().map(|(name, used)| (self.redactor.text(name), used)).collect();
        Models { by_model, ..models }
    }

    fn record(&self) -> HttpCalls {
        let mut record = self.http.record();
        if !self.redactor.is_empty() {
            for call in &mut record.calls {
                for text in [&mut call.method, &mut call.origin, &mut call.path].into_iter().chain(&mut call.failed) {
                    *text = self.redactor.text(std::mem::take(text));
                }
                if let Some(refusal) = &mut call.refused {
                    refusal.sentence = self.redactor.text(std::mem::take(&mut refusal.sentence));
                    refusal.toml = refusal.toml.take().map(|toml| self.redactor.text(toml));
                }
            }
        }
        record
    }
}

/// Passes on what a guest tells, without secrets.
struct Redacting {
    host: Arc<dyn GuestHost>,
    redactor: Arc<Redactor>,
    held: Mutex<(Held, Held)>,
}

impl Redacting {
    /// What the guest keeps. Nobody asks where there is none.
    fn kept(&self) -> Result<&dyn KeyValues, MemoryRefused> {
        self.host.key_values().ok_or_else(|| MemoryRefused::No("nothing is kept here from run to run".to_owned()))
    }

    /// What the run's attempts leave. Nobody asks where nothing is left.
    fn left(&self) -> Result<&dyn Checkpoints, CheckpointRefused> {
        self.host.checkpoints().ok_or_else(|| CheckpointRefused::Unkept("no checkpoints are kept here".to_owned()))
    }

    fn clean(&self, value: &[u8]) -> Vec<u8> {
        let mut held = Held::default();
        let mut sure = held.push(&self.redactor, value);
        sure.extend(held.finish());
        sure
    }

    fn finish(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (out, err) = (held.0.finish(), held.1.finish());
        for (stream, rest) in [(LogStream::Stdout, out), (LogStream::Stderr, err)] {
            if !rest.is_empty() {
                self.host.log(stream, &rest);
            }
        }
    }
}

#[async_trait]
impl GuestHost for Redacting {
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        self.host.begin_effects().await
    }

    fn report(&self, message: String, fraction: Option<f64>) {
        self.host.report(self.redactor.text(message), fraction);
    }

    fn emit(&self, name: String, payload: String) {
        self.host.emit(self.redactor.text(name), self.redactor.payload(payload));
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match stream {
            LogStream::Stdout => &mut held.0,
            LogStream::Stderr => &mut held.1,
        };
        let sure = held.push(&self.redactor, bytes);
        if !sure.is_empty() {
            self.host.log(stream, &sure);
        }
    }

    fn log_entry(&self, entry: LogEntry) {
        let LogEntry { level, context, message } = entry;
        self.host.log_entry(LogEntry { level, context: self.redactor.text(context), message: self.redactor.text(message) });
    }

    fn key_values(&self) -> Option<&dyn KeyValues> {
        self.host.key_values().map(|_| self as &dyn KeyValues)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        self.host.checkpoints().map(|_| self as &dyn Checkpoints)
    }

    fn approvals(&self) -> Option<&dyn Approvals> {
        self.host.approvals().map(|_| self as &dyn Approvals)
    }
}

#[async_trait]
impl Checkpoints for Redacting {
    async fn load(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointRefused> {
        self.left()?.load(&self.redactor.text(name.to_owned())).await
    }

    async fn save(&self, name: &str, value: Vec<u8>, quota: CheckpointQuota) -> Result<(), CheckpointRefused> {
        self.left()?.save(&self.redactor.text(name.to_owned()), self.clean(&value), quota).await
    }

    async fn remove(&self, name: &str) -> Result<(), CheckpointRefused> {
        self.left()?.remove(&self.redactor.text(name.to_owned())).await
    }

    async fn names(&self) -> Result<Vec<String>, CheckpointRefused> {
        self.left()?.names().await
    }
}

#[async_trait]
impl Approvals for Redacting {
    async fn verdict(&self, key: &str, most: u32) -> Result<Option<Verdict>, CheckpointRefused> {
        match self.host.approvals() {
            Some(approvals) => approvals.verdict(&self.redactor.text(key.to_owned()), most).await,
            None => Ok(None),
        }
    }
}

#[async_trait]
impl KeyValues for Redacting {
    async fn get(&self, bucket: BucketName, keys: &[String]) -> Result<Vec<Option<KeptValue>>, MemoryRefused> {
        self.kept()?.get(bucket, &keys.iter().map(|key| self.redactor.text(key.clone())).collect::<Vec<_>>()).await
    }

    async fn has(&self, bucket: BucketName, key: &str) -> Result<bool, MemoryRefused> {
        self.kept()?.has(bucket, &self.redactor.text(key.to_owned())).await
    }

    async fn keys(&self, bucket: BucketName, page: u64) -> Result<KeyPage, MemoryRefused> {
        self.kept()?.keys(bucket, page).await
    }

    async fn change(&self, bucket: BucketName, change: MemoryChange, quota: Quota) -> Result<Changed, MemoryRefused> {
        let text = |key: String| self.redactor.text(key);
        let bytes = |value: Vec<u8>| self.clean(&value);
        let change = match change {
            MemoryChange::Write(writes) => {
                MemoryChange::Write(writes.into_iter().map(|(key, value)| (text(key), value.map(bytes))).collect())
            }
            MemoryChange::Increment { key, delta, range } => MemoryChange::Increment { key: text(key), delta, range },
            MemoryChange::Swap { key, expected, value } => MemoryChange::Swap { key: text(key), expected, value: bytes(value) },
        };
        self.kept()?.change(bucket, change, quota).await
    }
}

fn redacted(ended: Ended, redactor: &Redactor) -> Ended {
    match ended {
        Ended::Completed(result) => Ended::Completed(redactor.text(result)),
        Ended::Failed { kind, message, after } => Ended::Failed { kind, message: redactor.text(message), after },
        Ended::Cancelled { message } => Ended::Cancelled { message: redactor.text(message) },
        Ended::Parked(Park::Approval { key, question }) => {
            Ended::Parked(Park::Approval { key: redactor.text(key), question: redactor.text(question) })
        }
        other @ (Ended::TimedOut | Ended::Stopped(_) | Ended::Parked(Park::Budget(_))) => other,
    }
}

/// Executes an attempt with its way out; what comes back holds no secret that is known.
pub(super) async fn execute(
    sandbox: &Sandbox,
    prepared: &Prepared,
    mut spec: AttemptSpec,
    (gateway, policy): (&Arc<Gateway>, &Arc<HttpPolicy>),
    (host, account): (Arc<dyn GuestHost>, Option<Arc<dyn Account>>),
    signals: Arc<AttemptSignals>,
) -> AttemptReport {
    let redactor = gateway.redactor();
    let of_run = (spec.context.run_id.as_str(), spec.context.attempt);
    let http = gateway.attempt(policy, &spec.context.agent_id, of_run, account);
    let way_out = Arc::new(WayOut { http, redactor: Arc::clone(redactor) });
    spec.egress = Some(Arc::<WayOut>::clone(&way_out));
    // Without a secret in sight there is nothing to look for.
    if policy.allow.is_empty() && redactor.is_empty() {
        return sandbox.execute(prepared, spec, host, signals).await;
    }
    let redacting = Arc::new(Redacting { host, redactor: Arc::clone(redactor), held: Mutex::default() });
    let report = sandbox.execute(prepared, spec, Arc::<Redacting>::clone(&redacting), signals).await;
    redacting.finish();
    way_out.settled().await;
    // A call that ended with its guest says only now what it used.
    let usage = Usage { outgoing: way_out.outgoing(), models: way_out.models(), ..report.usage };
    AttemptReport { ended: redacted(report.ended, redactor), usage }
}
