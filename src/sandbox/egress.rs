//! What lets a guest's requests out. The sandbox asks; it sends nothing itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{Request, Response};

use super::signals::{AttemptSignals, Halt};
use super::spec::GuestHost;
use crate::domain::http::{HttpCalls, HttpFault};
use crate::domain::receipt::{Models, Outgoing};
use crate::domain::spend::Exhausted;

/// A request's or an answer's body.
pub type HttpBody = UnsyncBoxBody<Bytes, HttpFault>;

/// How long a guest wants to wait for the parts of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpTiming {
    /// For a connection.
    pub connect: Option<Duration>,
    /// For the answer's first byte.
    pub first_byte: Option<Duration>,
    /// Between two parts of the answer.
    pub between: Option<Duration>,
}

/// The attempt's word on a request that is about to leave: it holds its lease, and what it begins outside is kept first.
pub struct Leave {
    host: Arc<dyn GuestHost>,
    signals: Arc<AttemptSignals>,
    deadline: u64,
}

impl Leave {
    pub(crate) fn new(host: Arc<dyn GuestHost>, signals: Arc<AttemptSignals>, deadline: u64) -> Self {
        Leave { host, signals, deadline }
    }

    fn halted(&self) -> Result<(), String> {
        match self.signals.halt(self.deadline) {
            None => Ok(()),
            Some(Halt::Stopped(stop)) => Err(stop.to_string()),
            Some(Halt::TimedOut) => Err("the attempt's time limit passed".to_owned()),
        }
    }

    /// To be awaited right before a request leaves, with whether it may change something outside.
    ///
    /// # Errors
    /// It must not leave.
    pub async fn ask(self, changes: bool) -> Result<(), String> {
        self.halted()?;
        if changes {
            self.host.begin_effects().await.map_err(|refused| refused.to_string())?;
            self.halted()?;
        }
        Ok(())
    }
}

/// The way out of one attempt.
#[async_trait]
pub trait Egress: Send + Sync {
    /// Sends a request, when [`Leave::ask`] lets it, and gives the answer as soon as its headers are there. Dropping the future or the
    /// answer's body ends the call.
    ///
    /// # Errors
    /// It was refused, or there is no answer.
    async fn send(&self, request: Request<HttpBody>, timing: HttpTiming, leave: Leave) -> Result<Response<HttpBody>, HttpFault>;

    /// The last refusal in a sentence, if there was one.
    fn denied(&self) -> Option<String>;

    /// The budget by which a request was refused, if one was: the attempt is to end with that, and the guest sees no answer.
    fn exhausted(&self) -> Option<Exhausted>;

    /// Returns when no call that left is under way any more, and all are charged.
    async fn settled(&self);

    /// The record of the attempt's calls.
    fn record(&self) -> HttpCalls;

    /// The calls that left, and their bytes.
    fn outgoing(&self) -> Outgoing;

    /// What models were asked, as far as it is known.
    fn models(&self) -> Models;
}
