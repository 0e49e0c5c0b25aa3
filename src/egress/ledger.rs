//! What the calls of one attempt have used, and the record of them.
//!
//! Invariant: every call is counted from the moment it is asked for, refused ones too, and its time, bytes and place are accounted for
//! until it is dropped. The clock of the attempt's calls runs while at least one is under way, so that all of them have one deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::http::{HttpCall, HttpCalls, HttpLimits, Refusal, Rule, Target, toml_key};
use crate::domain::text;
use crate::domain::time::{Seconds, Timestamp};

/// The longest path that is kept, in bytes.
const PATH_BYTES: usize = 256;

#[derive(Default)]
struct State {
    under_way: u32,
    /// Since when calls are under way without a break, and what they took before.
    since: Option<Instant>,
    taken: Duration,
    bytes_out: u64,
    bytes_in: u64,
    calls: HttpCalls,
    /// The kept calls that are under way, and since when.
    open: Vec<(usize, Instant)>,
    /// The last refusal in a sentence.
    denied: Option<String>,
}

/// The account of one attempt.
pub struct Ledger {
    agent: String,
    limits: HttpLimits,
    state: Mutex<State>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the host.
    Out,
    /// From the host.
    In,
}

impl Ledger {
    /// Nothing used.
    pub fn new(agent: &str, limits: HttpLimits) -> Self {
        Ledger { agent: toml_key(agent), limits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record so far.
    pub fn record(&self) -> HttpCalls {
        let state = self.state();
        let mut record = state.calls.clone();
        for (slot, since) in &state.open {
            if let Some(call) = record.calls.get_mut(*slot) {
                call.seconds = Seconds::from_duration(since.elapsed());
            }
        }
        record
    }

    /// The bytes of all calls, to hosts and from them.
    pub fn bytes(&self) -> (u64, u64) {
        let state = self.state();
        (state.bytes_out, state.bytes_in)
    }

    /// The last refusal in a sentence.
    pub fn denied(&self) -> Option<String> {
        self.state().denied.clone()
    }

    fn over(&self, rule: Rule, key: &str, most: u64, what: &str) -> Refusal {
        let agent = &self.agent;
        let sentence = format!("the attempt may {what}, by `{key}` of `[agents.{agent}.http]`");
        let toml = Some(format!("[agents.{agent}.http]\n{key} = {}", most.saturating_mul(2)));
        Refusal { rule, sentence, toml }
    }

    /// The refusal of more time.
    pub fn out_of_time(&self) -> Refusal {
        let most = self.limits.time;
        self.over(Rule::MaxSeconds, "max_seconds", most.duration().as_secs().max(1), &format!("spend {most} in calls"))
    }

    fn out_of_bytes(&self, way: Way) -> Refusal {
        let (sent, received) = (self.limits.request_bytes, self.limits.response_bytes);
        match way {
            Way::Out => self.over(Rule::MaxRequestBytes, "max_request_bytes", sent, &format!("send {sent} bytes")),
            Way::In => self.over(Rule::MaxResponseBytes, "max_response_bytes", received, &format!("receive {received} bytes")),
        }
    }

    /// Counts a call and judges it by what the attempt has used; `judge` says what the rules say of it, and is told whether anybody will read
    /// the lines that would allow it. Where the attempt has no call left it is not asked.
    ///
    /// # Errors
    /// It is refused, and recorded as such.
    pub fn begin<T>(
        self: &Arc<Self>,
        told: &Told,
        at: Timestamp,
        credentials: Vec<String>,
        judge: impl FnOnce(bool) -> Result<T, Refusal>,
    ) -> Result<(T, Call), Refusal> {
        let mut state = self.state();
        let now = Instant::now();
        let taken = state.taken + state.since.map_or(Duration::ZERO, |since| now.duration_since(since));
        let left = self.limits.time.duration().saturating_sub(taken);
        let (calls, at_once) = (self.limits.calls, self.limits.at_once);
        let verdict = if state.calls.total >= u64::from(calls) {
            Err(self.over(Rule::MaxCalls, "max_calls", calls.into(), &format!("make {calls} calls")))
        } else if left.is_zero() {
            Err(self.out_of_time())
        } else {
            let is_full = state.under_way >= at_once;
            let full =
                || self.over(Rule::MaxConcurrent, "max_concurrent", at_once.into(), &format!("have {at_once} calls under way at once"));
            judge(state.calls.keeps_refused()).and_then(|ruled| if is_full { Err(full()) } else { Ok(ruled) })
        };
        let refused = verdict.as_ref().err().cloned();
        if let Some(refusal) = &refused {
            state.denied = Some(format!("{}: {}", told.all, refusal.sentence));
        }
        let slot = state.calls.add(HttpCall {
            at,
            method: told.method.clone(),
            origin: told.origin.clone(),
            path: told.path.clone(),
            status: None,
            bytes_out: 0,
            bytes_in: 0,
            seconds: Seconds::default(),
            credentials,
            refused,
            failed: None,
        });
        let ruled = verdict?;
        // A guest that goes on with what it may do does not fail for what it was refused before.
        state.denied = None;
        if state.under_way == 0 {
            state.since = Some(now);
        }
        state.under_way += 1;
        state.open.extend(slot.map(|slot| (slot, now)));
        let number = state.calls.total;
        drop(state);
        let call = Call {
            ledger: Arc::clone(self),
            number,
            slot,
            told: told.all.clone(),
            begun: now,
            moved: Default::default(),
            deadline: now.checked_add(left).unwrap_or(now),
        };
        Ok((ruled, call))
    }
}

/// What a record says of a request.
pub struct Told {
    method: String,
    origin: String,
    path: String,
    all: String,
}

impl Told {
    /// Of a request as it will be sent.
    pub fn of(target: &Target) -> Self {
        let path = text::bounded(text::printable(target.url.path(), PATH_BYTES), PATH_BYTES, "…");
        Told { method: target.method.clone(), origin: text::printable(&target.origin(), PATH_BYTES), path, all: target.told() }
    }

    /// Of what is no request: as far as it can be told.
    pub fn of_none(method: &str, scheme: &str, authority: &str) -> Self {
        // What stands before an `@` may be a secret of the guest's own.
        let host = authority.rsplit('@').next().unwrap_or_default();
        let origin = format!("{}://{}", text::printable(scheme, 16), text::printable(host, PATH_BYTES));
        let method = text::printable(method, 32);
        Told { all: format!("{method} {origin}"), method, origin, path: String::new() }
    }
}

/// One call that is under way. Dropping it ends it.
pub struct Call {
    ledger: Arc<Ledger>,
    number: u64,
    slot: Option<usize>,
    told: String,
    begun: Instant,
    deadline: Instant,
    /// Bytes to the host, and from it.
    moved: [AtomicU64; 2],
}

impl Call {
    /// Which call of the attempt it is, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When the attempt's calls have taken as long as they may.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    fn moved(&self, way: Way) -> &AtomicU64 {
        let [out, into] = &self.moved;
        match way {
            Way::Out => out,
            Way::In => into,
        }
    }

    /// The bytes that it moved so far.
    pub fn bytes(&self, way: Way) -> u64 {
        self.moved(way).load(Ordering::Relaxed)
    }

    fn note(&self, state: &mut State, change: impl FnOnce(&mut HttpCall)) {
        if let Some(call) = state.calls.at(self.slot) {
            change(call);
        }
    }

    /// Counts bytes.
    ///
    /// # Errors
    /// They are more than the attempt may send or receive; that is recorded.
    pub fn count(&self, way: Way, bytes: usize) -> Result<(), Refusal> {
        let (bytes, ledger) = (bytes as u64, &self.ledger);
        self.moved(way).fetch_add(bytes, Ordering::Relaxed);
        let mut state = ledger.state();
        let (used, most) = match way {
            Way::Out => (&mut state.bytes_out, ledger.limits.request_bytes),
            Way::In => (&mut state.bytes_in, ledger.limits.response_bytes),
        };
        *used = used.saturating_add(bytes);
        let is_over = *used > most;
        self.note(&mut state, |call| match way {
            Way::Out => call.bytes_out = call.bytes_out.saturating_add(bytes),
            Way::In => call.bytes_in = call.bytes_in.saturating_add(bytes),
        });
        drop(state);
        if is_over { Err(self.refuse(ledger.out_of_bytes(way))) } else { Ok(()) }
    }

    /// Records the answer's status.
    pub fn answered(&self, status: u16) {
        self.note(&mut self.ledger.state(), |call| call.status = Some(status));
    }

    /// Records that it was refused after it had begun; gives the refusal back.
    pub fn refuse(&self, refusal: Refusal) -> Refusal {
        let mut state = self.ledger.state();
        state.calls.refuse(self.slot, refusal.clone());
        state.denied = Some(format!("{}: {}", self.told, refusal.sentence));
        refusal
    }

    /// Records the refusal of more time; gives it.
    pub fn out_of_time(&self) -> Refusal {
        self.refuse(self.ledger.out_of_time())
    }

    /// Records that it failed.
    pub fn failed(&self, why: String) {
        self.note(&mut self.ledger.state(), |call| call.failed = Some(why));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut state = self.ledger.state();
        let now = Instant::now();
        let took = Seconds::from_duration(now.duration_since(self.begun));
        self.note(&mut state, |call| call.seconds = took);
        state.open.retain(|(slot, _)| Some(*slot) != self.slot);
        state.under_way = state.under_way.saturating_sub(1);
        if state.under_way == 0
            && let Some(since) = state.since.take()
        {
            state.taken = state.taken.saturating_add(now.duration_since(since));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(change: impl FnOnce(&mut HttpLimits)) -> Arc<Ledger> {
        let mut limits = HttpLimits::default();
        change(&mut limits);
        Arc::new(Ledger::new("a", limits))
    }

    fn call(ledger: &Arc<Ledger>) -> Result<Call, Refusal> {
        let told = Told::of_none("GET", "https", "user:pass@h");
        ledger.begin(&told, Timestamp::from_seconds(0), Vec::new(), |_| Ok(())).map(|((), call)| call)
    }

    #[test]
    fn refused_calls_are_counted_and_bounded() {
        let ledger = ledger(|limits| limits.calls = 300);
        for _ in 0..400 {
            let refusal = Refusal { rule: Rule::Host, sentence: "no".to_owned(), toml: None };
            let told = Told::of_none("GET", "https", "user:pass@h");
            assert!(ledger.begin::<()>(&told, Timestamp::from_seconds(0), Vec::new(), |_| Err(refusal)).is_err());
        }
        let record = ledger.record();
        assert_eq!((record.total, record.refused, record.calls.len()), (400, 400, 250));
        assert_eq!(call(&ledger).err().map(|refusal| refusal.rule), Some(Rule::MaxCalls));
        let told = Told::of_none("GET", "https", "h");
        let judged = ledger.begin::<()>(&told, Timestamp::from_seconds(0), Vec::new(), |_| panic!("there is no call left to judge"));
        assert!(judged.is_err());
        assert!(!serde_json::to_string(&record).unwrap().contains("pass"));
    }

    #[test]
    fn a_refusal_is_in_mind_until_a_call_is_allowed() {
        let ledger = ledger(|_| {});
        let refusal = Refusal { rule: Rule::Host, sentence: "no".to_owned(), toml: None };
        let told = Told::of_none("GET", "https", "h");
        assert!(ledger.begin::<()>(&told, Timestamp::from_seconds(0), Vec::new(), |_| Err(refusal)).is_err());
        assert!(ledger.denied().is_some_and(|denied| denied.ends_with("no")));
        assert!(call(&ledger).is_ok() && ledger.denied().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn time_runs_while_calls_are_under_way() {
        let ledger = ledger(|limits| limits.time = Seconds::whole(10));
        let first = call(&ledger).unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        let second = call(&ledger).unwrap();
        assert_eq!(first.deadline(), second.deadline());
        tokio::time::advance(Duration::from_secs(3)).await;
        drop((first, second));
        tokio::time::advance(Duration::from_secs(100)).await;
        let third = call(&ledger).unwrap();
        assert_eq!(third.deadline() - Instant::now(), Duration::from_secs(4));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(call(&ledger).err().map(|refusal| refusal.rule), Some(Rule::MaxSeconds));
        drop(third);
        assert_eq!(call(&ledger).err().map(|refusal| refusal.rule), Some(Rule::MaxSeconds));
    }

    #[test]
    fn bytes_and_places_are_summed_over_all_calls() {
        let ledger = ledger(|limits| (limits.request_bytes, limits.response_bytes, limits.at_once) = (10, 20, 2));
        let (first, second) = (call(&ledger).unwrap(), call(&ledger).unwrap());
        assert_eq!(call(&ledger).err().map(|refusal| refusal.rule), Some(Rule::MaxConcurrent));
        assert!(first.count(Way::Out, 10).is_ok() && first.count(Way::In, 15).is_ok() && second.count(Way::In, 5).is_ok());
        assert_eq!(second.count(Way::Out, 1).unwrap_err().rule, Rule::MaxRequestBytes);
        assert_eq!(first.count(Way::In, 1).unwrap_err().rule, Rule::MaxResponseBytes);
        drop(first);
        assert!(call(&ledger).is_ok());
        let record = ledger.record();
        assert_eq!((record.total, record.refused), (4, 3));
        assert_eq!((record.calls[0].bytes_out, record.calls[0].bytes_in), (10, 16));
    }
}
