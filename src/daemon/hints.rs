//! Tells the other daemons of the store what was committed here, and looks when they tell.
//!
//! Invariant: nothing depends on a hint; what one brings forward, the poll and the renewals find as well.
//!
//! How it fails: a hint that cannot be told is dropped; whoever listens listens again, and looks at everything then.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::inner::Inner;
use crate::store::Hint;

/// How long nobody listens after the connection was lost: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is to be told.
#[derive(Default)]
pub struct Teller {
    waiting: Mutex<Hint>,
    told: Notify,
}

impl Teller {
    /// Notes what was committed.
    pub fn note(&self, hint: Hint) {
        if !hint.is_empty() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).merge(hint);
            self.told.notify_one();
        }
    }

    fn take(&self) -> Hint {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Tells what is noted until it is told to stop. What comes while one is on its way is told with the next.
pub async fn tell(inner: Arc<Inner>, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = inner.wakeups.others.told.notified() => {}
        }
        let hint = Hint { from: Some(inner.settings().worker.clone()), ..inner.wakeups.others.take() };
        if let Err(error) = inner.store.tell(&hint).await {
            tracing::debug!(%error, "the other daemons were not told of a change; they find it when they look");
        }
    }
}

/// Listens until it is told to stop.
pub async fn listen(inner: Arc<Inner>, stop: CancellationToken) {
    let listening = async {
        let mut wait = AGAIN.0;
        loop {
            match inner.store.hints().await {
                Ok(mut hints) => {
                    // What was told before is not told again.
                    look(&inner, Hint { ready: true, schedules: true, agents: true, ..Hint::default() });
                    while let Some(hint) = hints.next().await {
                        wait = AGAIN.0;
                        if hint.from.as_ref() != Some(&inner.settings().worker) {
                            look(&inner, hint);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "nobody listens to the other daemons for the moment; what they change is found by looking")
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(AGAIN.1);
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

fn look(inner: &Inner, hint: Hint) {
    let Hint { ready, schedules, agents, runs, cancels, .. } = hint;
    for live in cancels.iter().filter_map(|run| inner.live.get(run)) {
        live.ask_cancel();
    }
    runs.iter().for_each(|run| inner.wakeups.run_changed(run));
    if ready {
        inner.wakeups.ready.notify_one();
    }
    if schedules {
        inner.wakeups.schedules.notify_one();
    }
    if agents {
        inner.wakeups.agents.notify_one();
    }
}
