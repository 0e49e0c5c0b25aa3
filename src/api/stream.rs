//! A run's events: as pages, and live as server-sent events.
//!
//! Invariant: a stream has every event after the caller's last one, once and in order. It is made of reads of the store alone; a
//! commit only says when to read again, and a lost one is made good by the heartbeat. It is pulled by the connection, so a caller who
//! does not read costs no memory, and the connection's stall limit ends it; `Last-Event-ID` takes it up where it was left.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::error::Problem;
use super::params::{Accepts, Params, PathId};
use super::serve::Stopping;
use super::{Api, pages};
use crate::daemon::manager::RunWatch;
use crate::daemon::{Manager, ManagerError};
use crate::domain::id::RunId;

/// What a stream's media type is.
const EVENT_STREAM: &str = "text/event-stream";
/// How often a stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How many events are read at once.
const BATCH: usize = 256;
/// The highest number that an event can have on every store.
const LAST_SEQUENCE: u64 = i64::MAX.cast_unsigned();

/// `GET /background/runs/{id}/events?after=&limit=`; a stream for who accepts `text/event-stream`. `next_cursor` goes into `cursor`
/// or, being the last event's sequence, into `after`.
pub(super) async fn events(
    State(api): State<Api>,
    PathId(id): PathId<RunId>,
    accepts: Accepts,
    stopping: Stopping,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, Problem> {
    if accepts.names(EVENT_STREAM) {
        return open(&api.manager, id, stopping, &headers, params).await;
    }
    let after = params.number("after", 0..=LAST_SEQUENCE);
    let cursor = params.number("cursor", 0..=LAST_SEQUENCE);
    if after.is_some() && cursor.is_some() {
        params.fault("after", "and cursor are two names for the same; give one of them");
    }
    let limit = pages::limit(&mut params);
    params.finish()?;
    let events = api.manager.events(&id, after.or(cursor).unwrap_or(0), limit).await?;
    let last = events.last().filter(|last| events.len() == limit && !is_terminal(last)).map(|last| sequence_of(last).to_string());
    Ok(Json(json!({"run_id": id, "count": events.len(), "events": events, "next_cursor": last})).into_response())
}

/// `GET /background/runs/{id}/events/stream?after=`.
pub(super) async fn stream(
    State(api): State<Api>,
    PathId(id): PathId<RunId>,
    stopping: Stopping,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    open(&api.manager, id, stopping, &headers, params).await
}

/// Answers with the stream, or with 204 when the run has ended and nothing is left to tell, which keeps a browser from asking again.
async fn open(manager: &Manager, run: RunId, stopping: Stopping, headers: &HeaderMap, mut params: Params) -> Result<Response, Problem> {
    let after = params.number("after", 0..=LAST_SEQUENCE);
    params.finish()?;
    let after = last_event_id(headers)?.or(after).unwrap_or(0);
    let mut feed = Feed { watch: manager.watch_run(&run), manager: manager.clone(), run, after, is_over: false };
    let first = feed.read().await?;
    if first.is_empty() && feed.is_over {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let mut waiting = VecDeque::from([Bytes::from_static(b"retry: 1000\n\n")]);
    waiting.extend(first.iter().map(frame));
    let sse = Sse { feed, waiting, stopping, heartbeat_at: Instant::now() + HEARTBEAT };
    let mut response = Response::new(Body::from_stream(stream::unfold(sse, |mut sse| async {
        let frame = sse.next().await?;
        Some((Ok::<_, io::Error>(frame), sse))
    })));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    // A proxy that collects an answer before it passes it on would turn a stream into a heap.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) else { return Ok(None) };
    match id.to_str().ok().and_then(|id| id.parse().ok().filter(|id| *id <= LAST_SEQUENCE)) {
        Some(sequence) => Ok(Some(sequence)),
        None => Err(Problem::unprocessable("The Last-Event-ID header must be the sequence of an event of this run, a whole number.")),
    }
}

/// The events of one run after a place in them.
struct Feed {
    manager: Manager,
    run: RunId,
    watch: RunWatch,
    after: u64,
    is_over: bool,
}

impl Feed {
    /// What is there after the last event told. Sets `is_over` when nothing can follow.
    async fn read(&mut self) -> Result<Vec<Value>, ManagerError> {
        let mut events = self.manager.events(&self.run, self.after, BATCH).await?;
        // The terminal event is in the commit of the terminal status: who sees the status and reads again sees the event.
        if events.is_empty() && self.manager.run(&self.run).await?.status.is_terminal() {
            events = self.manager.events(&self.run, self.after, BATCH).await?;
            self.is_over = events.is_empty();
        }
        if let Some(last) = events.last() {
            self.after = sequence_of(last).max(self.after);
            self.is_over = is_terminal(last);
        }
        Ok(events)
    }
}

/// A feed on its way to a connection.
struct Sse {
    feed: Feed,
    waiting: VecDeque<Bytes>,
    stopping: Stopping,
    heartbeat_at: Instant,
}

impl Sse {
    /// The next frame; none at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                self.heartbeat_at = Instant::now() + HEARTBEAT;
                return Some(frame);
            }
            if self.feed.is_over {
                return None;
            }
            let is_heartbeat = tokio::select! {
                () = self.feed.watch.changed() => false,
                () = sleep_until(self.heartbeat_at) => true,
                () = self.stopping.wait() => return None,
            };
            match self.feed.read().await {
                Ok(events) => self.waiting.extend(events.iter().map(frame)),
                Err(error) => {
                    // The caller comes back with its last event's number.
                    tracing::debug!(run_id = %self.feed.run, %error, "an event stream ended early");
                    return None;
                }
            }
            if is_heartbeat && self.waiting.is_empty() && !self.feed.is_over {
                self.waiting.push_back(Bytes::from_static(b": alive\n\n"));
            }
        }
    }
}

/// One event as the wire has it. JSON keeps it on one line, whatever a guest wrote.
fn frame(payload: &Value) -> Bytes {
    let name = payload.get("event").and_then(Value::as_str).unwrap_or("message");
    Bytes::from(format!("id: {}\nevent: {name}\ndata: {payload}\n\n", sequence_of(payload)))
}

fn sequence_of(payload: &Value) -> u64 {
    payload.get("sequence").and_then(Value::as_u64).unwrap_or(0)
}

fn is_terminal(payload: &Value) -> bool {
    let name = payload.get("event").cloned().unwrap_or_default();
    serde_json::from_value::<crate::domain::event::EventName>(name).is_ok_and(crate::domain::event::EventName::is_terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_text_stays_inside_its_line() {
        let payload = json!({"event": "background_run_progress", "sequence": 3, "message": "a\n\nid: 9\rdata: x\u{2028}"});
        let text = String::from_utf8(frame(&payload).to_vec()).unwrap();
        assert!(text.starts_with("id: 3\nevent: background_run_progress\ndata: {"));
        assert_eq!(text.matches('\n').count(), 4, "{text}");
        assert!(text.ends_with("\n\n") && !text.contains('\r'));
        assert!(!is_terminal(&payload) && is_terminal(&json!({"event": "background_run_skipped"})));
    }

    #[test]
    fn a_resume_point_is_a_number_or_nothing() {
        let of = |text: &'static str| {
            last_event_id(&HeaderMap::from_iter([(HeaderName::from_static("last-event-id"), HeaderValue::from_static(text))]))
        };
        assert_eq!(of("12").unwrap(), Some(12));
        assert_eq!(of("").unwrap(), None);
        assert!(of("-1").is_err() && of("x").is_err());
    }
}
