//! An answer: its status and headers at once, its body whole, in chunks, or as events.

use super::{Error, Events, retry_after, wire};
use std::time::{Duration, SystemTime};

/// How much of an answer's body an error quotes, in bytes.
const QUOTED_BYTES: usize = 2 * 1024;

/// An answer whose body is read as it is asked for.
pub struct Response {
    url: String,
    status: u16,
    headers: Vec<(String, String)>,
    body: wire::Body,
    left: usize,
    max_bytes: usize,
}

impl Response {
    pub(super) fn new(url: String, status: u16, headers: Vec<(String, String)>, body: wire::Body, max_bytes: usize) -> Self {
        Response { url, status, headers, body, left: max_bytes, max_bytes }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of a name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All headers.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// How long `Retry-After` asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        retry_after::parse(self.header("retry-after")?, now)
    }

    /// This answer when its status is 2xx.
    ///
    /// # Errors
    /// It is another, with the beginning of the body.
    pub fn ok(mut self) -> Result<Self, Error> {
        if self.is_success() {
            return Ok(self);
        }
        let mut quoted = Vec::new();
        while quoted.len() < QUOTED_BYTES {
            // What is quoted only explains the status, so a body that breaks off explains as far as it came.
            let Ok(Some(chunk)) = self.chunk() else { break };
            quoted.extend_from_slice(&chunk);
        }
        quoted.truncate(QUOTED_BYTES);
        let body = String::from_utf8_lossy(&quoted).into_owned();
        Err(Error::Status { retry_after: self.retry_after(), url: self.url, status: self.status, body })
    }

    /// Takes no more of the body than what comes within this time; what comes later is a timeout.
    pub fn end_within(&mut self, time: Duration) {
        self.body.end_within(time);
    }

    /// The next part of the body; none at its end.
    ///
    /// # Errors
    /// The body breaks off, is larger than the request allows, or the run is asked to stop.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(chunk) = self.body.next(&self.url)? else { return Ok(None) };
        self.left = self.left.checked_sub(chunk.len()).ok_or_else(|| {
            Error::TooLarge(format!("the answer of {} is larger than the {} bytes that the request takes", self.url, self.max_bytes))
        })?;
        Ok(Some(chunk))
    }

    /// The whole body.
    ///
    /// # Errors
    /// Like those of [`Response::chunk`].
    pub fn bytes(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The whole body as text; bytes that are none become U+FFFD.
    ///
    /// # Errors
    /// Like those of [`Response::chunk`].
    pub fn text(self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    /// The whole body, from JSON.
    ///
    /// # Errors
    /// Like those of [`Response::chunk`], or it is not the JSON of a `T`.
    #[cfg(feature = "json")]
    pub fn json<T: serde::de::DeserializeOwned>(self) -> Result<T, Error> {
        let url = self.url.clone();
        serde_json::from_slice(&self.bytes()?)
            .map_err(|fault| Error::Answer(format!("the answer of {url} is not the JSON that was expected: {fault}")))
    }

    /// The body as server-sent events.
    pub fn events(self) -> Events {
        Events::new(self)
    }
}
