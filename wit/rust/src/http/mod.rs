//! Requests to the hosts that the configuration allows this agent (`[agents.NAME.http]`): [`Request`], [`Response`], [`Events`].
//!
//! Keys are never sent from here: the daemon puts them in. Redirects come back as they are. A wait for an answer ends, with
//! [`Error::Cancelled`], when the run is asked to stop. `?` makes an [`Error`] a [`Failure`]: what may be gone by the next attempt is
//! retryable, after the time that the host asked for, and all else permanent.

mod events;
mod response;
mod retry_after;
mod url;
mod wire;

pub use events::{Event, EventParser, Events};
pub use response::Response;

use crate::Failure;
use std::fmt;
use std::time::Duration;

/// How many bytes of an answer are taken when the request does not say.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A request that is being put together.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
    within: Option<Duration>,
    max_bytes: usize,
    ignores_cancel: bool,
    fault: Option<String>,
}

impl Request {
    /// A request with a method (`GET`, `POST`, ...) to an absolute `http` or `https` URL.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Request {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
            within: None,
            max_bytes: MAX_BYTES,
            ignores_cancel: false,
            fault: None,
        }
    }

    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Request::new("GET", url)
    }

    /// A POST.
    pub fn post(url: impl Into<String>) -> Self {
        Request::new("POST", url)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body, as it is.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = bytes.into();
        self
    }

    /// The body as JSON, with its `content-type`.
    #[cfg(feature = "json")]
    #[must_use]
    pub fn json(mut self, value: &impl serde::Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => self.body = bytes,
            Err(fault) => self.fault = Some(format!("its body cannot be written as JSON: {fault}")),
        }
        self.header("content-type", "application/json")
    }

    /// How long to wait for the answer's first byte, and then between any two parts of it. Without one the daemon's limits hold.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long the answer may take in all, from sending the request to the end of the body; then it is a timeout.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// How many bytes of the answer's body to take at most; [`MAX_BYTES`] without it.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Goes on with the request when the run is asked to stop: for what has to be put in order then.
    #[must_use]
    pub fn even_when_cancelled(mut self) -> Self {
        self.ignores_cancel = true;
        self
    }

    /// Sends it, and gives the answer as soon as its headers are there, whatever its status.
    ///
    /// # Errors
    /// There is no answer.
    pub fn send(self) -> Result<Response, Error> {
        if let Some(fault) = self.fault {
            return Err(Error::Request(format!("the request to {} was not made: {fault}", self.url)));
        }
        let url = url::Url::parse(&self.url)?;
        wire::send(&self, &url)
    }
}

/// Why a call did not give what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The request is none: its URL, a header or its body.
    Request(String),
    /// The agent may not make it.
    Denied {
        /// Where it was to go.
        url: String,
    },
    /// It is more than all calls of an attempt together may send or receive.
    Allowance(String),
    /// There is no connection, or it broke.
    Connection(String),
    /// The answer did not come in time.
    Timeout(String),
    /// The answer's status is not 2xx.
    Status {
        /// Where it came from.
        url: String,
        /// The status.
        status: u16,
        /// How long the host asks to wait.
        retry_after: Option<Duration>,
        /// The beginning of the answer's body.
        body: String,
    },
    /// The answer is larger than it may be.
    TooLarge(String),
    /// The answer is not what it should be.
    Answer(String),
    /// The run was asked to stop while the answer was waited for.
    Cancelled,
}

impl Error {
    /// Whether another attempt may have better luck.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Connection(_) | Error::Timeout(_) => true,
            Error::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    /// How long the host asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Request(why)
            | Error::Allowance(why)
            | Error::Connection(why)
            | Error::Timeout(why)
            | Error::TooLarge(why)
            | Error::Answer(why) => f.write_str(why),
            Error::Denied { url } => {
                write!(f, "this agent may not call {url}: `sandclock why-denied {}` names the rule", run_id())
            }
            Error::Status { url, status, body, .. } if body.trim().is_empty() => write!(f, "{url} answered {status}"),
            Error::Status { url, status, body, .. } => write!(f, "{url} answered {status}: {}", body.trim()),
            Error::Cancelled => f.write_str("the run was asked to stop"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match (&error, error.retry_after()) {
            (Error::Cancelled, _) => Failure::cancelled(error),
            (_, Some(after)) if error.is_retryable() => Failure::retryable_after(error, after),
            _ if error.is_retryable() => Failure::retryable(error),
            _ => Failure::permanent(error),
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn run_id() -> String {
    crate::context::run_id()
}

/// On the host, in a test, no run is there to name.
#[cfg(not(target_arch = "wasm32"))]
fn run_id() -> String {
    "RUN".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> Error {
        let retry_after = retry_after.map(Duration::from_secs);
        Error::Status { url: "https://x.test/v1".to_owned(), status, retry_after, body: "slow down\n".to_owned() }
    }

    #[test]
    fn what_may_pass_is_retryable() {
        for error in
            [status(429, None), status(503, None), status(408, None), Error::Timeout("late".into()), Error::Connection("broke".into())]
        {
            let Failure::Retryable(retry) = Failure::from(error.clone()) else { panic!("{error:?}") };
            assert_eq!(retry.after_ms, None);
        }
        let Failure::Retryable(retry) = status(429, Some(7)).into() else { panic!("not retryable") };
        assert_eq!(retry.after_ms, Some(7_000));
        assert_eq!(retry.message, "https://x.test/v1 answered 429: slow down");
    }

    #[test]
    fn what_stays_is_permanent() {
        for error in [status(400, Some(7)), status(401, None), status(302, None), Error::TooLarge("big".into()), Error::Answer("no".into())]
        {
            assert!(matches!(Failure::from(error.clone()), Failure::Permanent(_)), "{error:?}");
        }
        let Failure::Permanent(why) = (Error::Denied { url: "https://x.test/".into() }).into() else { panic!("not permanent") };
        assert!(why.contains("sandclock why-denied RUN"), "{why}");
        assert!(matches!(Failure::from(Error::Cancelled), Failure::Cancelled(_)));
    }

    #[test]
    fn a_request_that_is_none_does_not_leave() {
        assert!(matches!(Request::get("ftp://x.test/").send(), Err(Error::Request(_))));
        let unwritable = std::collections::HashMap::from([(vec![1], 1)]);
        assert!(matches!(Request::post("https://x.test/").json(&unwritable).send(), Err(Error::Request(_))));
    }
}
