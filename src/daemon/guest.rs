//! Where a guest's reports, events and output go while its attempt executes.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::event::{Event, EventName};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::sandbox::{GuestHost, LogStream};
use crate::workspace::LogWriter;

/// The host's side of one attempt. The sandbox has checked counts and sizes before it calls.
pub struct AttemptHost {
    run: Arc<Run>,
    clock: Arc<dyn Clock>,
    logs: LogWriter,
    waiting: Mutex<Vec<Event>>,
    told: Notify,
}

impl AttemptHost {
    /// The host of an attempt of this run.
    pub fn new(run: Arc<Run>, clock: Arc<dyn Clock>, logs: LogWriter) -> Self {
        AttemptHost { run, clock, logs, waiting: Mutex::default(), told: Notify::new() }
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

impl GuestHost for AttemptHost {
    fn report(&self, message: String, fraction: Option<f64>) {
        self.tell(Event::of(&self.run, EventName::Progress, self.now()).with("message", message).with("fraction", json!(fraction)));
    }

    fn emit(&self, name: String, payload: String) {
        let payload: Value = serde_json::from_str(&payload).unwrap_or(Value::String(payload));
        self.tell(Event::of(&self.run, EventName::Agent, self.now()).with("name", name).with("payload", payload));
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        self.logs.write(
            match stream {
                LogStream::Stdout => crate::workspace::LogStream::Stdout,
                LogStream::Stderr => crate::workspace::LogStream::Stderr,
            },
            bytes,
        );
    }
}
