//! Bodies on their way, counted and held to the attempt's limits.
//!
//! Invariant: nothing passes that was not counted; a call is under way until its answer has been read to the end, dropped, or has taken the
//! attempt's time, whether anybody reads it or not. What an answer repeats of the agent's credentials is masked before the guest sees it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::bill::Bill;
use super::ledger::{Call, Way};
use super::pace::Place;
use super::redact::Mask;
use super::till::Charged;
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
    /// What it costs.
    pub bill: Bill,
    /// Its places in the pace of its credentials, which end with it.
    pub _places: Vec<Place>,
}

/// What is left of an answer: the host's bytes, and what the call holds. Whoever takes it out ends the call.
type Slot = Arc<Mutex<Option<(reqwest::Body, UnderWay)>>>;

fn taken(slot: &Slot) -> Option<(reqwest::Body, UnderWay)> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Ends the call at its deadline, although nobody may ask for its answer.
struct Watch(JoinHandle<()>);

impl Watch {
    fn new(runtime: &Handle, slot: &Slot, deadline: Instant) -> Self {
        let slot = Arc::clone(slot);
        Watch(runtime.spawn(async move {
            sleep_until(deadline).await;
            if let Some((_, under_way)) = taken(&slot) {
                under_way.call.out_of_time();
            }
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer's body.
pub struct Incoming {
    slot: Slot,
    /// Whether nothing but what is held back is to come.
    is_over: bool,
    /// What the host says of its rest.
    size: SizeHint,
    deadline: Pin<Box<Sleep>>,
    /// The longest wait between two frames, and its end.
    between: Option<(Duration, Pin<Box<Sleep>>)>,
    mask: Option<Mask>,
    watch: Option<Watch>,
    /// What is to be charged before the guest sees more.
    charging: Option<Charged>,
    /// What the guest sees after that.
    held: Option<Bytes>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, HttpFault>>>;

impl Incoming {
    /// The body of a call's answer, whose end at its deadline is seen to on this runtime. `mask` is given where something is to be masked.
    pub fn new(runtime: &Handle, inner: reqwest::Body, under_way: UnderWay, between: Option<Duration>, mask: Option<Mask>) -> Self {
        let at = under_way.call.deadline();
        let between = between.map(|span| (span, Box::pin(sleep_until(Instant::now() + span))));
        let (is_over, size) = (inner.is_end_stream(), inner.size_hint());
        let slot: Slot = Arc::new(Mutex::new((!is_over).then_some((inner, under_way))));
        let watch = (!is_over).then(|| Watch::new(runtime, &slot, at));
        Incoming { slot, is_over, size, deadline: Box::pin(sleep_until(at)), between, mask, watch, charging: None, held: None }
    }

    /// Ends the call; gives it for what is to be recorded.
    fn leave(&mut self) -> Option<UnderWay> {
        self.is_over = true;
        self.watch = None;
        taken(&self.slot).map(|(_, under_way)| under_way)
    }

    fn fail(&mut self, fault: HttpFault) -> Polled {
        self.leave();
        self.charging = None;
        self.held = None;
        // What was held back may be half of a secret.
        self.mask = None;
        Poll::Ready(Some(Err(fault)))
    }

    /// Ends the call and charges it.
    fn close(&mut self) {
        if let Some(mut under_way) = self.leave() {
            // It waits for what was to be charged before.
            self.charging = under_way.bill.charge(true).or(self.charging.take());
        }
    }

    /// The rest of what was held back, when nothing follows.
    fn rest(&mut self) -> Option<Bytes> {
        let rest = self.mask.as_mut().map(Mask::finish).filter(|rest| !rest.is_empty());
        rest.map(Bytes::from)
    }

    /// Has data read for what it says of its cost; charges it when it says the last of that.
    fn read(&mut self, data: &[u8]) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((inner, under_way)) = &mut *slot else { return };
        if under_way.bill.read(data) {
            self.charging = under_way.bill.charge(true);
        }
        // A guest that knows the length does not ask for the end.
        if inner.is_end_stream() {
            drop(slot);
            self.close();
        }
    }

    /// What a guest may see of some bytes; none when all of them are held back.
    fn seen(&mut self, data: Bytes) -> Option<Bytes> {
        let Some(mask) = &mut self.mask else { return Some(data) };
        let seen = mask.push(&data);
        (!seen.is_empty()).then(|| Bytes::from(seen))
    }

    fn poll_times(&mut self, context: &mut Context<'_>) -> Polled {
        if self.deadline.as_mut().poll(context).is_ready() {
            if let Some(under_way) = self.leave() {
                under_way.call.out_of_time();
            }
            return self.fail(HttpFault::Timeout);
        }
        let is_over = self.between.as_mut().is_some_and(|(_, gap)| gap.as_mut().poll(context).is_ready());
        if is_over { self.fail(HttpFault::Timeout) } else { Poll::Pending }
    }

    /// The host's next frame, counted; a fault where the slot is empty, because the call's time is over.
    fn poll_host(&mut self, context: &mut Context<'_>) -> Polled {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((inner, under_way)) = &mut *slot else { return Poll::Ready(Some(Err(HttpFault::Timeout))) };
        let polled = Pin::new(&mut *inner).poll_frame(context);
        self.size = inner.size_hint();
        match polled {
            Poll::Ready(Some(Err(error))) => {
                under_way.call.failed(super::client::told(&error));
                Poll::Ready(Some(Err(HttpFault::Broken)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                let counted = under_way.call.count(Way::In, size);
                Poll::Ready(Some(counted.map(|()| frame).map_err(|_| HttpFault::ResponseTooLarge)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // The watch lets go of the call only when its task is next looked at.
        self.leave();
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpFault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        loop {
            if let Some(charging) = &mut this.charging {
                if charging.poll_unpin(context).is_pending() {
                    return this.poll_times(context);
                }
                this.charging = None;
            }
            if let Some(held) = this.held.take() {
                return Poll::Ready(Some(Ok(Frame::data(held))));
            }
            if this.is_over {
                return Poll::Ready(this.rest().map(|rest| Ok(Frame::data(rest))));
            }
            match this.poll_host(context) {
                Poll::Pending => return this.poll_times(context),
                // What was held back comes next.
                Poll::Ready(None) => this.close(),
                Poll::Ready(Some(Err(fault))) => return this.fail(fault),
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
                    this.read(&data);
                    this.held = this.seen(data);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over && self.charging.is_none() && self.held.is_none() && self.mask.as_ref().is_none_or(Mask::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        // What is held back is still to come.
        if self.mask.is_some() { SizeHint::default() } else { self.size }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::super::ledger::{Ledger, Told};
    use super::super::till::Till;
    use super::*;
    use crate::domain::http::{HttpLimits, Rule, Target};
    use crate::domain::time::{Seconds, Timestamp};

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_ends_with_the_attempt_s_time() {
        let ledger = Arc::new(Ledger::new("a", HttpLimits { time: Seconds::whole(10), ..HttpLimits::default() }));
        let told = Told::of_none("GET", "https", "h");
        let ((), call) = ledger.begin(&told, Timestamp::from_seconds(0), Vec::new(), |_| Ok(())).unwrap();
        let call = Arc::new(call);
        let held = Arc::downgrade(&call);
        let target = Target::parse("GET", "https", "h", "/").unwrap();
        let bill = Bill::new(Arc::clone(&call), Till::new(&Handle::current(), None, Arc::default()), &target);
        let inner = reqwest::Body::wrap_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let mut body = Incoming::new(&Handle::current(), inner, UnderWay { call, bill, _places: Vec::new() }, None, None);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(held.upgrade().is_some());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(held.upgrade().is_none(), "what it held is free");
        assert_eq!(ledger.record().calls[0].refused.as_ref().map(|refusal| refusal.rule), Some(Rule::MaxSeconds));
        assert_eq!(body.frame().await.unwrap().unwrap_err(), HttpFault::Timeout);
        assert!(body.frame().await.is_none());
    }
}
