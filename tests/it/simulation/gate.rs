//! One incarnation of a daemon as the system sees it: a process that can be stopped (SIGSTOP), go on, and be killed (SIGKILL).
//!
//! Each of its parts is polled only while the process runs, and dropped with it. Requests that it has sent are with the store by then.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use sandclock::daemon::spawn::{Part, Spawner};
use sandclock::store::StoreError;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Runs,
    Stopped,
    Dead,
}

struct State {
    mode: Mode,
    /// Parts that were woken while the process was stopped.
    woken: Vec<Waker>,
    parts: Vec<AbortHandle>,
}

/// The process.
pub struct Gate(Mutex<State>);

impl Gate {
    pub fn new() -> Arc<Self> {
        Arc::new(Gate(Mutex::new(State { mode: Mode::Runs, woken: Vec::new(), parts: Vec::new() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn runs(&self) -> bool {
        self.state().mode == Mode::Runs
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        let mut state = self.state();
        if state.mode == Mode::Runs {
            state.mode = Mode::Stopped;
        }
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        let mut state = self.state();
        if state.mode == Mode::Stopped {
            state.mode = Mode::Runs;
            state.woken.drain(..).for_each(Waker::wake);
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let mut state = self.state();
        state.mode = Mode::Dead;
        state.woken.clear();
        let parts = std::mem::take(&mut state.parts);
        drop(state);
        parts.iter().for_each(AbortHandle::abort);
    }

    fn start(self: &Arc<Self>, part: Part) -> JoinHandle<()> {
        let started = tokio::spawn(Gated { gate: Arc::clone(self), part: Some(part) });
        let mut state = self.state();
        if state.parts.len() >= 256 {
            state.parts.retain(|part| !part.is_finished());
        }
        state.parts.push(started.abort_handle());
        started
    }

    /// Does something in the process, for somebody outside of it; none when the process ends first.
    pub async fn inside<T: Send + 'static>(self: &Arc<Self>, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        drop(self.start(Box::pin(async move { drop(answer.send(work.await)) })));
        answered.await.ok()
    }
}

/// A part of the process.
struct Gated {
    gate: Arc<Gate>,
    part: Option<Part>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.gate.state();
        match state.mode {
            Mode::Runs => {}
            Mode::Stopped => {
                state.woken.push(context.waker().clone());
                return Poll::Pending;
            }
            Mode::Dead => {
                drop(state);
                self.part = None;
                return Poll::Ready(());
            }
        }
        drop(state);
        let polled = self.part.as_mut().map_or(Poll::Ready(()), |part| part.as_mut().poll(context));
        if polled.is_ready() {
            self.part = None;
        }
        polled
    }
}

/// Starts a daemon's parts in its process.
pub struct InProcess(pub Arc<Gate>);

impl Spawner for InProcess {
    fn spawn(&self, part: Part) -> JoinHandle<()> {
        self.0.start(part)
    }

    fn spawn_apart(&self, part: Part) -> Result<Part, StoreError> {
        let started = self.0.start(part);
        Ok(Box::pin(async move { drop(started.await) }))
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
}
