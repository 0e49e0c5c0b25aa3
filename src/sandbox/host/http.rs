//! `wasi:http`: linked always, because Python and JavaScript guests import it unasked; every request is refused.
//!
//! Invariant: no byte leaves the machine. What a guest prepares for a request that will be refused costs the host little.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks};

use crate::sandbox::meter::Meter;

/// Refuses every request and counts it.
pub(crate) struct DeniedHttp {
    meter: Arc<Meter>,
}

impl DeniedHttp {
    pub(crate) fn new(meter: Arc<Meter>) -> Self {
        DeniedHttp { meter }
    }
}

/// The context of a guest's http resources, with headers held small.
pub(crate) fn context() -> WasiHttpCtx {
    let mut context = WasiHttpCtx::new();
    context.set_field_size_limit(16 * 1024);
    context
}

type Finished = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Response = Result<(hyper::Response<WasiBody>, Finished), Error>;

impl WasiHttpHooks for DeniedHttp {
    fn send_request(
        &mut self,
        _request: hyper::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _finished: Finished,
    ) -> Box<dyn Future<Output = Response> + Send> {
        self.meter.requests_denied.fetch_add(1, Ordering::Relaxed);
        Box::new(async { Err(Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        4 * 1024
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};

    use super::*;
    use crate::domain::agent::Limits;

    #[tokio::test]
    async fn every_request_is_denied_and_counted() {
        let meter = Arc::new(Meter::new(&Limits::default()));
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = hyper::Request::get("https://example.com/").body(body).unwrap();
        let answer = Box::into_pin(DeniedHttp::new(Arc::clone(&meter)).send_request(request, None, Box::new(async { Ok(()) }))).await;
        assert!(matches!(answer, Err(Error::HttpRequestDenied)));
        assert_eq!(meter.requests_denied.load(Ordering::Relaxed), 1);
    }
}
