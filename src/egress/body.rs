//! Bodies on their way, counted and held to the attempt's limits.
//!
//! Invariant: nothing passes that was not counted; a call is under way until its answer has been read to the end, or dropped. What an
//! answer repeats of a credential that went into the request is masked before the guest sees it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::ledger::{Call, Way};
use super::pace::Place;
use super::redact::{Held, Redactor};
use crate::domain::http::HttpFault;

/// A body as guests give and get it.
pub type GuestBody = UnsyncBoxBody<Bytes, HttpFault>;

/// A request's body.
pub struct Outgoing {
    // The client wants to share it between threads, which only a lock makes sure; nobody ever waits for it.
    inner: Mutex<GuestBody>,
    call: Arc<Call>,
}

impl Outgoing {
    /// A guest's body as part of a call.
    pub fn new(inner: GuestBody, call: Arc<Call>) -> Self {
        Outgoing { inner: Mutex::new(inner), call }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpFault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpFault>>> {
        let this = &mut *self;
        let inner = this.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let polled = Pin::new(inner).poll_frame(context);
        let Poll::Ready(Some(Ok(frame))) = &polled else { return polled };
        match frame.data_ref() {
            Some(data) if this.call.count(Way::Out, data.len()).is_err() => Poll::Ready(Some(Err(HttpFault::RequestTooLarge))),
            _ => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// What a call holds until its answer has ended.
pub struct UnderWay {
    /// The call.
    pub call: Arc<Call>,
    /// Its places in the pace of its credentials, which end with it.
    pub _places: Vec<Place>,
}

/// An answer's body.
pub struct Incoming {
    inner: reqwest::Body,
    /// None once it has ended.
    under_way: Option<UnderWay>,
    deadline: Pin<Box<Sleep>>,
    /// The longest wait between two frames, and its end.
    between: Option<(Duration, Pin<Box<Sleep>>)>,
    mask: Option<(Arc<Redactor>, Held)>,
}

impl Incoming {
    /// The body of a call's answer. `redactor` is given where something is to be masked.
    pub fn new(inner: reqwest::Body, under_way: UnderWay, between: Option<Duration>, redactor: Option<Arc<Redactor>>) -> Self {
        let deadline = Box::pin(sleep_until(under_way.call.deadline()));
        let between = between.map(|span| (span, Box::pin(sleep_until(Instant::now() + span))));
        let under_way = (!inner.is_end_stream()).then_some(under_way);
        Incoming { inner, under_way, deadline, between, mask: redactor.map(|redactor| (redactor, Held::default())) }
    }

    fn end(&mut self, fault: HttpFault) -> Poll<Option<Result<Frame<Bytes>, HttpFault>>> {
        self.under_way = None;
        Poll::Ready(Some(Err(fault)))
    }

    /// The rest of what was held back, when nothing follows.
    fn rest(&mut self) -> Option<Bytes> {
        let rest = self.mask.as_mut().map(|(_, held)| held.finish()).filter(|rest| !rest.is_empty());
        rest.map(Bytes::from)
    }

    /// What a guest may see of some bytes; none when all of them are held back.
    fn seen(&mut self, data: Bytes) -> Option<Bytes> {
        let Some((redactor, held)) = &mut self.mask else { return Some(data) };
        let seen = held.push(redactor, &data);
        (!seen.is_empty()).then(|| Bytes::from(seen))
    }

    fn poll_times(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpFault>>> {
        if self.deadline.as_mut().poll(context).is_ready() {
            if let Some(under_way) = &self.under_way {
                under_way.call.out_of_time();
            }
            return self.end(HttpFault::Timeout);
        }
        let is_over = self.between.as_mut().is_some_and(|(_, gap)| gap.as_mut().poll(context).is_ready());
        if is_over { self.end(HttpFault::Timeout) } else { Poll::Pending }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpFault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpFault>>> {
        let this = &mut *self;
        loop {
            if this.under_way.is_none() {
                return Poll::Ready(this.rest().map(|rest| Ok(Frame::data(rest))));
            }
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Pending => return this.poll_times(context),
                // Leaving it ends the call; what was held back comes next.
                Poll::Ready(None) => this.under_way = None,
                Poll::Ready(Some(Err(error))) => {
                    if let Some(under_way) = &this.under_way {
                        under_way.call.failed(super::client::told(&error));
                    }
                    return this.end(HttpFault::Broken);
                }
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some((span, gap)) = &mut this.between {
                        gap.as_mut().reset(Instant::now() + *span);
                    }
                    // An endless answer that is always ready must not outlive its time.
                    if let Poll::Ready(ended) = this.poll_times(context) {
                        return Poll::Ready(ended);
                    }
                    // Trailers tell a guest nothing that it needs, and could repeat what is masked.
                    let Ok(data) = frame.into_data() else { continue };
                    let counted = this.under_way.as_ref().map(|under_way| under_way.call.count(Way::In, data.len()));
                    if let Some(Err(_)) = counted {
                        return this.end(HttpFault::ResponseTooLarge);
                    }
                    if let Some(seen) = this.seen(data) {
                        return Poll::Ready(Some(Ok(Frame::data(seen))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.under_way.is_none() && self.mask.as_ref().is_none_or(|(_, held)| held.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
