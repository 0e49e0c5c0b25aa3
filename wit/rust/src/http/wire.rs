//! Requests through `wasi:http`.

use super::url::Url;
use super::{Error, Request, Response};
use std::time::{Duration, Instant};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions,
    Scheme, http_error_code,
};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, StreamError};

/// How often a wait looks whether the run is asked to stop.
const LOOK: Duration = Duration::from_millis(250);
/// How much is written or read in one call, in bytes; a blocking write takes no more.
const WRITE_BYTES: usize = 4 * 1024;
const READ_BYTES: u64 = 64 * 1024;

/// Sends a request and waits for the answer's headers.
pub(super) fn send(request: &Request, url: &Url<'_>) -> Result<Response, Error> {
    let outgoing = outgoing(request, url)?;
    let body = outgoing.body().map_err(|()| refused(request, "body"))?;
    let end = request.within.map(|within| Instant::now() + within);
    let future = handle(outgoing, options(request)?).map_err(|code| fault(&request.url, &code))?;
    write_body(&request.body, body);
    let answer = answer(&future, request, end)?;
    let headers = answer.headers().entries();
    let headers = headers.into_iter().map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned())).collect();
    let status = answer.status();
    let body = answer.consume().map_err(|()| Error::Connection(format!("the answer of {} has no body", request.url)))?;
    let stream = body.stream().map_err(|()| Error::Connection(format!("the answer of {} has no body", request.url)))?;
    let body = Body { stream, _body: body, ignores_cancel: request.ignores_cancel, end };
    Ok(Response::new(request.url.clone(), status, headers, body, request.max_bytes))
}

fn refused(request: &Request, part: &str) -> Error {
    Error::Request(format!("the request {} {} was not made: its {part} is not allowed", request.method, request.url))
}

fn outgoing(request: &Request, url: &Url<'_>) -> Result<OutgoingRequest, Error> {
    let mut headers: Vec<(String, Vec<u8>)> =
        request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_bytes())).collect();
    if !request.body.is_empty() {
        headers.push(("content-length".to_owned(), request.body.len().to_string().into_bytes()));
    }
    let headers = Fields::from_list(&headers).map_err(|fault| refused(request, &format!("headers ({fault})")))?;
    let outgoing = OutgoingRequest::new(headers);
    let scheme = if url.https { Scheme::Https } else { Scheme::Http };
    outgoing.set_method(&method(&request.method)).map_err(|()| refused(request, "method"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| refused(request, "scheme"))?;
    outgoing.set_authority(Some(url.authority)).map_err(|()| refused(request, "host"))?;
    outgoing.set_path_with_query(Some(&url.path_with_query)).map_err(|()| refused(request, "path"))?;
    Ok(outgoing)
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn options(request: &Request) -> Result<Option<RequestOptions>, Error> {
    let Some(timeout) = request.timeout else { return Ok(None) };
    let nanos = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
    let options = RequestOptions::new();
    options.set_first_byte_timeout(nanos).map_err(|()| refused(request, "timeout"))?;
    options.set_between_bytes_timeout(nanos).map_err(|()| refused(request, "timeout"))?;
    Ok(Some(options))
}

/// A host that does not take all of the body says why in its answer, so a write that fails is no fault here.
fn write_body(bytes: &[u8], body: OutgoingBody) {
    if !bytes.is_empty() {
        let Ok(stream) = body.write() else { return };
        for part in bytes.chunks(WRITE_BYTES) {
            if stream.blocking_write_and_flush(part).is_err() {
                break;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}

fn answer(future: &FutureIncomingResponse, request: &Request, end: Option<Instant>) -> Result<IncomingResponse, Error> {
    let ready = future.subscribe();
    loop {
        wait(&ready, request.ignores_cancel, end, &request.url)?;
        match future.get() {
            None => {}
            Some(Ok(Ok(answer))) => return Ok(answer),
            Some(Ok(Err(code))) => return Err(fault(&request.url, &code)),
            Some(Err(())) => return Err(Error::Connection(format!("the answer of {} was already taken", request.url))),
        }
    }
}

/// Waits until there is something to take, the time is over, or the run is asked to stop.
fn wait(ready: &Pollable, ignores_cancel: bool, end: Option<Instant>, url: &str) -> Result<(), Error> {
    loop {
        if !ignores_cancel && crate::progress::cancelled() {
            return Err(Error::Cancelled);
        }
        let pause = pause(end, Instant::now()).ok_or_else(|| late(url))?;
        let look = subscribe_duration(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX));
        if poll(&[ready, &look]).contains(&0) {
            return Ok(());
        }
    }
}

/// How long to wait before the next look; none when the time is over.
fn pause(end: Option<Instant>, now: Instant) -> Option<Duration> {
    let left = end.map_or(LOOK, |end| end.saturating_duration_since(now).min(LOOK));
    (!left.is_zero()).then_some(left)
}

fn late(url: &str) -> Error {
    Error::Timeout(format!("{url} did not answer in time"))
}

/// The body of an answer.
pub(super) struct Body {
    // Dropped before the body that it is of.
    stream: InputStream,
    _body: IncomingBody,
    ignores_cancel: bool,
    /// When no more of it is taken.
    end: Option<Instant>,
}

impl Body {
    /// Ends the body so much later, unless it ends sooner.
    pub(super) fn end_within(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.end = Some(self.end.map_or(end, |sooner| sooner.min(end)));
    }

    /// The next bytes; none at the end.
    pub(super) fn next(&mut self, url: &str) -> Result<Option<Vec<u8>>, Error> {
        loop {
            // A host that sends without a pause is never waited for.
            pause(self.end, Instant::now()).ok_or_else(|| late(url))?;
            match self.stream.read(READ_BYTES) {
                Ok(bytes) if bytes.is_empty() => wait(&self.stream.subscribe(), self.ignores_cancel, self.end, url)?,
                Ok(bytes) => return Ok(Some(bytes)),
                Err(StreamError::Closed) => return Ok(None),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(match http_error_code(&error) {
                        Some(code) => fault(url, &code),
                        None => Error::Connection(format!("the answer of {url} broke off: {}", error.to_debug_string())),
                    });
                }
            }
        }
    }
}

fn fault(url: &str, code: &ErrorCode) -> Error {
    let url = url.to_owned();
    match code {
        ErrorCode::HttpRequestDenied => Error::Denied { url },
        ErrorCode::ConnectionTimeout
        | ErrorCode::HttpResponseTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout => late(&url),
        ErrorCode::DnsError(_) | ErrorCode::DnsTimeout => Error::Connection(format!("the host of {url} is not known")),
        ErrorCode::ConnectionRefused => Error::Connection(format!("the host of {url} takes no connection")),
        ErrorCode::ConnectionTerminated => Error::Connection(format!("the connection to {url} broke")),
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError => Error::Connection(format!("the TLS of {url} is not good")),
        ErrorCode::HttpRequestBodySize(_) => {
            Error::Allowance(format!("the request to {url} is larger than what this agent may still send in this attempt"))
        }
        ErrorCode::HttpResponseBodySize(_) => {
            Error::Allowance(format!("the answer of {url} is larger than what this agent may still receive in this attempt"))
        }
        ErrorCode::HttpResponseHeaderSectionSize(_) => {
            Error::TooLarge(format!("the headers of the answer of {url} are larger than they may be"))
        }
        other => Error::Connection(format!("{url} gave no answer: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end_with_the_time_of_the_whole_call() {
        let now = Instant::now();
        let after = |millis| Some(now + Duration::from_millis(millis));
        assert_eq!((pause(None, now), pause(after(60_000), now)), (Some(LOOK), Some(LOOK)));
        assert_eq!((pause(after(10), now), pause(after(0), now)), (Some(Duration::from_millis(10)), None));
        assert_eq!(pause(Some(now), now + LOOK), None);
    }

    #[test]
    fn what_goes_over_the_allowance_of_an_attempt_is_told_apart() {
        for code in [ErrorCode::HttpRequestBodySize(None), ErrorCode::HttpResponseBodySize(None)] {
            assert!(matches!(fault("https://x.test/", &code), Error::Allowance(why) if why.contains("in this attempt")));
        }
    }
}
