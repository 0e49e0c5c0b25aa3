//! The pace of one credential, over all agents of the daemon.
//!
//! Invariants: in any minute at most so many calls begin as the configuration says, at most so many are under way at once, and none begins
//! before the time that the host gave with a 429 or 503. Whoever waits does so in order, for as long as its own limits let it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::http::Credential;
use crate::domain::time::Timestamp;

const MINUTE: Duration = Duration::from_secs(60);
/// The longest that a host may hold calls up.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct State {
    /// When the calls of the last minute began.
    begun: VecDeque<Instant>,
    under_way: u32,
    held_until: Option<Instant>,
}

/// The calls with one credential.
#[derive(Default)]
pub struct Pace {
    state: Mutex<State>,
    changed: Notify,
    /// Who is next.
    turn: tokio::sync::Mutex<()>,
}

/// One call that is under way.
pub struct Place(Arc<Pace>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.0.changed.notify_one();
    }
}

/// When a call may begin.
enum Next {
    Now,
    At(Instant),
    /// When another one has ended.
    Later,
}

impl State {
    fn next(&mut self, credential: &Credential, now: Instant) -> Next {
        while self.begun.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
            self.begun.pop_front();
        }
        if credential.concurrent.is_some_and(|most| self.under_way >= most) {
            return Next::Later;
        }
        let held = self.held_until.filter(|until| *until > now);
        // The call so many before it must be a minute old.
        let most = credential.requests_per_minute.map(|most| most as usize).filter(|most| self.begun.len() >= *most);
        let oldest = most.and_then(|most| self.begun.get(self.begun.len() - most)).map(|at| *at + MINUTE);
        match held.max(oldest) {
            Some(at) => Next::At(at),
            None => Next::Now,
        }
    }
}

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn. Safe to drop at any point.
    pub async fn begin(self: &Arc<Self>, credential: &Credential) -> Place {
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let next = {
                let mut state = self.state();
                let now = Instant::now();
                let next = state.next(credential, now);
                if matches!(next, Next::Now) {
                    if credential.requests_per_minute.is_some() {
                        state.begun.push_back(now);
                    }
                    state.under_way = state.under_way.saturating_add(1);
                    return Place(Arc::clone(self));
                }
                next
            };
            match next {
                Next::Now => {}
                Next::Later => changed.await,
                Next::At(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = changed => {}
                },
            }
        }
    }

    /// Takes what an answer says about the pace.
    pub fn answered(&self, status: u16, retry_after: Option<&str>, now: Timestamp) {
        if !matches!(status, 429 | 503) {
            return;
        }
        let Some(wait) = retry_after.and_then(|text| wait_of(text, now)) else { return };
        let until = Instant::now() + wait.min(LONGEST_HOLD);
        let mut state = self.state();
        state.held_until = state.held_until.max(Some(until));
    }
}

/// How long a `Retry-After` asks for, in seconds or by a date.
fn wait_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp::from_micros(at.timestamp_micros()).since(now))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::domain::http::Source;

    fn credential(requests_per_minute: Option<u32>, concurrent: Option<u32>) -> Credential {
        Credential {
            name: "test".to_owned(),
            host: "h".to_owned(),
            port: 443,
            registered_agents: false,
            allow_http_loopback: false,
            header: "x".to_owned(),
            prefix: String::new(),
            source: Source::File(PathBuf::new()),
            requests_per_minute,
            concurrent,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_no_minute_do_more_calls_begin_than_may() {
        let (pace, credential) = (Arc::new(Pace::default()), credential(Some(3), None));
        let start = Instant::now();
        let mut begun = Vec::new();
        for _ in 0..10 {
            drop(pace.begin(&credential).await);
            begun.push(start.elapsed().as_secs());
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        assert_eq!(begun, [0, 5, 10, 60, 65, 70, 120, 125, 130, 180]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_a_place_and_is_woken_by_its_end() {
        let (pace, credential) = (Arc::new(Pace::default()), credential(None, Some(2)));
        let first = pace.begin(&credential).await;
        let _second = pace.begin(&credential).await;
        let (waiting, of) = (Arc::clone(&pace), credential.clone());
        let third = tokio::spawn(async move { waiting.begin(&of).await });
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(first);
        let third = third.await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_secs(1000), pace.begin(&credential)).await.is_err(),
            "who gave up leaves no place taken"
        );
        drop(third);
        pace.begin(&credential).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_for_patience_gets_it() {
        let (pace, credential) = (Arc::new(Pace::default()), credential(None, None));
        let start = Instant::now();
        let now = Timestamp::from_seconds(1_700_000_000);
        pace.answered(200, Some("500"), now);
        pace.answered(429, Some("soon"), now);
        pace.answered(429, None, now);
        drop(pace.begin(&credential).await);
        assert_eq!(start.elapsed().as_secs(), 0);
        pace.answered(429, Some("30"), now);
        drop(pace.begin(&credential).await);
        assert_eq!(start.elapsed().as_secs(), 30);
        pace.answered(503, Some("Tue, 14 Nov 2023 22:14:00 GMT"), now);
        drop(pace.begin(&credential).await);
        assert_eq!(start.elapsed().as_secs(), 70, "the date is 40 seconds after now");
        pace.answered(503, Some("99999999999"), now);
        drop(pace.begin(&credential).await);
        assert_eq!(start.elapsed().as_secs(), 70 + 3600);
    }
}
