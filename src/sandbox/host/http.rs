//! `wasi:http`: linked always, because Python and JavaScript guests import it unasked; every request goes through the attempt's way out.
//!
//! Invariant: without a way out no byte leaves the machine. What a guest prepares for a request that will be refused costs the host
//! little. A request that a budget refuses ends the attempt, and the guest never hears of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks};

use crate::domain::http::HttpFault;
use crate::domain::receipt::CallKind;
use crate::sandbox::egress::{Egress, HttpTiming, Leave};
use crate::sandbox::meter::Meter;
use crate::sandbox::signals::AttemptSignals;
use crate::sandbox::spec::GuestHost;

/// Hands requests to the attempt's way out and counts those that are refused.
pub(crate) struct OutgoingHttp {
    pub(crate) meter: Arc<Meter>,
    pub(crate) egress: Option<Arc<dyn Egress>>,
    pub(crate) host: Arc<dyn GuestHost>,
    pub(crate) signals: Arc<AttemptSignals>,
    pub(crate) deadline: u64,
}

/// The context of a guest's http resources, with headers held small.
pub(crate) fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(16 * 1024);
    context
}

type Finished = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Response = Result<(hyper::Response<WasiBody>, Finished), Error>;

impl WasiHttpHooks for OutgoingHttp {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        _finished: Finished,
    ) -> Box<dyn Future<Output = Response> + Send> {
        let meter = Arc::clone(&self.meter);
        meter.note(CallKind::Http);
        let Some(egress) = self.egress.clone() else {
            meter.requests_denied.fetch_add(1, Ordering::Relaxed);
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        let options = options.unwrap_or_default();
        let timing =
            HttpTiming { connect: options.connect_timeout, first_byte: options.first_byte_timeout, between: options.between_bytes_timeout };
        let leave = Leave::new(Arc::clone(&self.host), Arc::clone(&self.signals), self.deadline);
        let request = request.map(|body| body.map_err(|_| HttpFault::GivenUp).boxed_unsync());
        Box::new(async move {
            match egress.send(request, timing, leave).await {
                Ok(response) => {
                    let done: Finished = Box::new(async { Ok(()) });
                    Ok((response.map(|body| body.map_err(error_of).boxed_unsync()), done))
                }
                Err(fault) => {
                    if egress.exhausted().is_some() {
                        meter.over_budget.notify_one();
                        return std::future::pending().await;
                    }
                    if fault == HttpFault::Denied {
                        meter.requests_denied.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error_of(fault))
                }
            }
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        if self.egress.is_some() { 64 * 1024 } else { 4 * 1024 }
    }
}

fn error_of(fault: HttpFault) -> Error {
    match fault {
        HttpFault::Denied => Error::HttpRequestDenied,
        HttpFault::RequestTooLarge => Error::HttpRequestBodySize(None),
        HttpFault::ResponseTooLarge => Error::HttpResponseBodySize(None),
        HttpFault::HeadersTooLarge => Error::HttpResponseHeaderSectionSize(None),
        HttpFault::NameUnknown => Error::DnsError { rcode: None, info_code: None },
        HttpFault::ConnectionRefused => Error::ConnectionRefused,
        HttpFault::ConnectTimeout => Error::ConnectionTimeout,
        HttpFault::Timeout => Error::HttpResponseTimeout,
        HttpFault::Tls => Error::TlsProtocolError,
        HttpFault::Broken => Error::ConnectionTerminated,
        HttpFault::GivenUp => Error::HttpProtocolError,
    }
}
