//! The calls of one attempt, from a guest's wish to the host's answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::Gateway;
use super::account::Account;
use super::bill::Bill;
use super::body::{GuestBody, Incoming, Outgoing, UnderWay};
use super::client::{self, CONNECT_TIME, HEADER_BYTES, Prohibited, cause_of};
use super::ledger::{Call, Ledger, Told, Way};
use super::pace::Place;
use super::redact::{Forms, MARK, Mask};
use super::till::Till;
use crate::domain::http::{Allowed, Credential, HttpCalls, HttpFault, HttpPolicy, Refusal, Rule, Target};
use crate::domain::receipt;
use crate::domain::spend::Exhausted;

/// What a guest's headers may not say: they are the connection's, or ours, or have a host take the request for another than was judged.
const OURS: [&str; 21] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "expect",
    "forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "traceparent",
    "tracestate",
];

/// Asked right before a request leaves, with whether it may change something outside; says in a sentence why it must not leave.
pub type Begin = Box<dyn FnOnce(bool) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send>;

/// How long a guest wants to wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// For a connection.
    pub connect: Option<Duration>,
    /// For the answer's first byte.
    pub first_byte: Option<Duration>,
    /// Between two parts of the answer.
    pub between: Option<Duration>,
}

/// The outgoing HTTP of one attempt.
pub struct AttemptHttp {
    gateway: Arc<Gateway>,
    policy: Arc<HttpPolicy>,
    agent: String,
    trace: String,
    attempt: u32,
    ledger: Arc<Ledger>,
    till: Arc<Till>,
}

/// What a call needs once it is allowed.
struct Ruled {
    target: Target,
    credentials: Vec<Arc<Credential>>,
    /// What allows it.
    entry: Allowed,
    policy: Arc<HttpPolicy>,
    agent: String,
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace of a run: the 32 digits of its id.
fn trace_of(run: &str) -> String {
    let digits = run.strip_prefix("run_").unwrap_or(run);
    let is_one = digits.len() == 32
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && digits.bytes().any(|byte| byte != b'0');
    if is_one { digits.to_owned() } else { hex(Sha256::digest(run.as_bytes()).get(..16).unwrap_or_default()) }
}

impl Gateway {
    /// The outgoing HTTP of an attempt that is about to begin, charged to an account where there is one. It costs an allocation or three.
    pub fn attempt(
        self: &Arc<Self>,
        policy: &Arc<HttpPolicy>,
        agent: &str,
        (run, attempt): (&str, u32),
        account: Option<Arc<dyn Account>>,
    ) -> AttemptHttp {
        let till = Till::new(&self.runtime, account, self.prices.load_full());
        let ledger = Arc::new(Ledger::new(agent, policy.limits.clone()));
        let agent = agent.to_owned();
        AttemptHttp { gateway: Arc::clone(self), policy: Arc::clone(policy), agent, trace: run.to_owned(), attempt, ledger, till }
    }
}

impl AttemptHttp {
    /// The record of its calls so far.
    pub fn record(&self) -> HttpCalls {
        self.ledger.record()
    }

    /// What left and what it moved.
    pub fn outgoing(&self) -> receipt::Outgoing {
        let (bytes_out, bytes_in) = self.ledger.bytes();
        receipt::Outgoing { calls: self.till.calls(), bytes_out, bytes_in }
    }

    /// What models were asked.
    pub fn models(&self) -> receipt::Models {
        self.till.models()
    }

    /// The last refusal in a sentence, if there was one.
    pub fn denied(&self) -> Option<String> {
        self.ledger.denied()
    }

    /// The budget by which a call was refused, if one was: the attempt is to end.
    pub fn exhausted(&self) -> Option<Exhausted> {
        self.till.exhausted()
    }

    /// Returns when all that its calls used is charged.
    pub async fn settled(&self) {
        self.till.settled().await;
    }

    /// Sends a request and gives the answer as soon as its headers are there. Dropping the future, or the answer's body, ends the call.
    ///
    /// # Errors
    /// It was refused, or there is no answer.
    pub async fn send(&self, request: Request<GuestBody>, timing: Timing, begin: Begin) -> Result<Response<GuestBody>, HttpFault> {
        let (ruled, call) = self.judge(&request).map_err(|_| HttpFault::Denied)?;
        let gateway = Arc::clone(&self.gateway);
        let traceparent = self.traceparent(&call);
        let till = Arc::clone(&self.till);
        let sending = async move {
            let exchange = Exchange { gateway: &gateway, ruled: &ruled, call: Arc::new(call), till, timing };
            exchange.run(request, traceparent, begin).await
        };
        let mut task = AbortOnDrop(self.gateway.runtime.spawn(sending));
        (&mut task.0).await.unwrap_or(Err(HttpFault::Broken))
    }

    fn judge(&self, request: &Request<GuestBody>) -> Result<(Ruled, Call), Refusal> {
        let uri = request.uri();
        let (method, scheme) = (request.method().as_str(), uri.scheme_str().unwrap_or("https"));
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let path = uri.path_and_query().map(|path| path.as_str()).unwrap_or("/");
        let at = self.gateway.clock.now();
        let target = match Target::parse(method, scheme, authority, path) {
            Ok(target) => target,
            Err(refusal) => {
                let told = Told::of_none(method, scheme, authority);
                return self.ledger.begin(&told, at, Vec::new(), |_| Err(refusal));
            }
        };
        let told = Told::of(&target);
        let mut credentials: Vec<Arc<Credential>> =
            self.policy.credentials.iter().filter(|credential| credential.is_for(&target)).cloned().collect();
        // All calls take their places in one order, so that none waits for another that waits for it.
        credentials.sort_by(|a, b| a.name.cmp(&b.name));
        let names = credentials.iter().map(|credential| credential.name.clone()).collect();
        self.ledger.begin(&told, at, names, |lines| self.rule(target, credentials, lines))
    }

    fn rule(&self, target: Target, credentials: Vec<Arc<Credential>>, lines: bool) -> Result<Ruled, Refusal> {
        let entry = self.policy.judge(&self.agent, &target, lines)?;
        credentials.iter().try_for_each(|credential| credential.check_channel(&target))?;
        let (entry, policy, agent) = (entry.clone(), Arc::clone(&self.policy), self.agent.clone());
        Ok(Ruled { target, credentials, entry, policy, agent })
    }

    /// Every call of a run is found under the run's trace, each with a span of its own.
    fn traceparent(&self, call: &Call) -> String {
        let span = Sha256::digest(format!("{} {} {}", self.trace, self.attempt, call.number()));
        format!("00-{}-{}-01", trace_of(&self.trace), hex(span.get(..8).unwrap_or_default()))
    }
}

/// An answer whose body is still to come.
struct Answered {
    answer: reqwest::Response,
    bill: Bill,
    places: Vec<Place>,
    /// What was sent of each credential, in their order.
    values: Vec<HeaderValue>,
}

/// One call that is allowed.
struct Exchange<'a> {
    gateway: &'a Arc<Gateway>,
    ruled: &'a Ruled,
    call: Arc<Call>,
    till: Arc<Till>,
    timing: Timing,
}

impl Exchange<'_> {
    async fn run(self, request: Request<GuestBody>, traceparent: String, begin: Begin) -> Result<Response<GuestBody>, HttpFault> {
        let deadline = self.call.deadline();
        let answered = tokio::time::timeout_at(deadline, self.exchange(request, traceparent, begin)).await;
        let answered = answered.unwrap_or_else(|_| {
            self.call.out_of_time();
            Err(HttpFault::Timeout)
        })?;
        self.take(answered)
    }

    async fn exchange(&self, request: Request<GuestBody>, traceparent: String, begin: Begin) -> Result<Answered, HttpFault> {
        let refuse = |refusal: Refusal| {
            self.call.refuse(refusal);
            HttpFault::Denied
        };
        let Ruled { target, credentials, entry, agent, .. } = self.ruled;
        let client = self.gateway.clients.with(agent, entry.addresses()).await.map_err(|why| {
            self.call.failed(format!("no HTTP client can be made: {why}"));
            HttpFault::Broken
        })?;
        let (parts, body) = request.into_parts();
        let mut headers = self.headers(parts.headers, &traceparent);
        let (mut places, mut values) = (Vec::with_capacity(credentials.len()), Vec::with_capacity(credentials.len()));
        for credential in credentials {
            places.push(self.gateway.pace(&credential.name).begin(credential).await);
            let value = self.gateway.values.header(credential).await.map_err(refuse)?;
            // It was checked when the configuration was read.
            let name = HeaderName::from_bytes(credential.header.as_bytes()).map_err(|_| HttpFault::Broken)?;
            values.push(value.clone());
            headers.insert(name, value);
        }
        let size = target.method.len() + target.url.as_str().len() + size_of(&headers);
        self.call.count(Way::Out, size).map_err(|_| HttpFault::Denied)?;
        self.till.begin().await.map_err(refuse)?;
        let bill = Bill::new(Arc::clone(&self.call), Arc::clone(&self.till), target);
        // The lease is asked last: the charge may have taken all the time that was left.
        begin(!target.is_safe()).await.map_err(|sentence| refuse(Refusal { rule: Rule::Lease, sentence, toml: None }))?;
        let mut wish = client.request(parts.method, target.url.clone()).headers(headers);
        if !body.is_end_stream() {
            wish = wish.body(reqwest::Body::wrap(Outgoing::new(body, Arc::clone(&self.call))));
        }
        let sent = wish.send();
        let answer = match self.timing.first_byte {
            Some(wait) => {
                let connect = self.timing.connect.unwrap_or(CONNECT_TIME).min(CONNECT_TIME);
                tokio::time::timeout(connect + wait, sent).await.map_err(|_| {
                    self.call.failed("the answer did not come in the time that the guest gave".to_owned());
                    HttpFault::Timeout
                })?
            }
            None => sent.await,
        };
        answer.map(|answer| Answered { answer, bill, places, values }).map_err(|error| self.fault_of(&error))
    }

    /// The guest's headers without what is the connection's, ours, or a credential's.
    fn headers(&self, mut headers: HeaderMap, traceparent: &str) -> HeaderMap {
        // A header that `Connection` names is the connection's as well.
        let named: Vec<HeaderName> = headers
            .get_all("connection")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        let forwarded: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("x-forwarded-")).cloned().collect();
        for name in named.into_iter().chain(forwarded) {
            headers.remove(name);
        }
        for name in OURS.into_iter().chain(self.ruled.credentials.iter().map(|credential| credential.header.as_str())) {
            headers.remove(name);
        }
        if !self.ruled.credentials.is_empty() || self.till.counts_tokens() {
            // What is repeated of a credential is masked, what a model used is counted, and nothing is found in what is compressed.
            headers.insert("accept-encoding", HeaderValue::from_static("identity"));
        }
        if let Ok(value) = HeaderValue::from_str(traceparent) {
            headers.insert("traceparent", value);
        }
        headers
    }

    fn take(self, answered: Answered) -> Result<Response<GuestBody>, HttpFault> {
        let Answered { answer, mut bill, places, values } = answered;
        let status = answer.status().as_u16();
        self.call.answered(status);
        let retry_after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
        for (credential, value) in self.ruled.credentials.iter().zip(&values) {
            self.gateway.pace(&credential.name).answered(status, retry_after, self.gateway.clock.now());
            if status == 401 {
                self.gateway.values.refuse(credential, value);
            }
        }
        bill.answered(answer.status().is_success(), answer.headers());
        let size = size_of(answer.headers());
        if size > HEADER_BYTES as usize {
            let sentence = format!("the answer has headers of {size} bytes; at most {HEADER_BYTES} are taken");
            self.call.refuse(Refusal { rule: Rule::ResponseHeaders, sentence, toml: None });
            return Err(HttpFault::HeadersTooLarge);
        }
        self.call.count(Way::In, size).map_err(|_| HttpFault::ResponseTooLarge)?;
        let (mut parts, body) = Response::<reqwest::Body>::from(answer).into_parts();
        if !body.is_end_stream() && is_encoded(&parts.headers) {
            self.check_encoded()?;
        }
        // A host may repeat in one call what it got in another.
        let forms = self.gateway.redactor.only(self.ruled.policy.credentials.iter().map(|credential| credential.name.as_str()));
        if let Some(forms) = &forms {
            mask(&mut parts.headers, forms);
        }
        let under_way = UnderWay { call: self.call, bill, _places: places };
        let body = Incoming::new(&self.gateway.runtime, body, under_way, self.timing.between, forms.map(Mask::new));
        Ok(Response::from_parts(parts, body.boxed_unsync()))
    }

    /// Refuses a compressed answer where something in it has to be seen.
    fn check_encoded(&self) -> Result<(), HttpFault> {
        let (rule, sentence) = if !self.ruled.credentials.is_empty() {
            (Rule::Credential, "the answer to a request with a credential is compressed, so that nothing in it could be masked")
        } else if self.till.counts_tokens() {
            (Rule::Budget, "the answer is compressed, so that the tokens which it used could not be counted, and a budget limits them")
        } else {
            return Ok(());
        };
        self.call.refuse(Refusal { rule, sentence: format!("{sentence}; make the host send it as it is"), toml: None });
        Err(HttpFault::Denied)
    }

    /// What an error means to the guest; the record gets the whole of it.
    fn fault_of(&self, error: &reqwest::Error) -> HttpFault {
        if let Some(Prohibited { address, kind }) = cause_of::<Prohibited>(error) {
            let Ruled { target, entry, policy, agent, .. } = self.ruled;
            self.call.refuse(policy.address_refused(agent, target, entry, *address, kind));
            return HttpFault::Denied;
        }
        let of_body = cause_of::<HttpFault>(error).copied();
        // That was refused and is recorded.
        if of_body != Some(HttpFault::RequestTooLarge) {
            self.call.failed(client::told(error));
        }
        match of_body {
            Some(fault) => fault,
            None if cause_of::<rustls::Error>(error).is_some() => HttpFault::Tls,
            None if error.is_timeout() => HttpFault::ConnectTimeout,
            None if !error.is_connect() => HttpFault::Broken,
            None if client::told(error).contains("dns error") => HttpFault::NameUnknown,
            None => HttpFault::ConnectionRefused,
        }
    }
}

fn mask(headers: &mut HeaderMap, forms: &Forms) {
    for value in headers.values_mut() {
        if let Some(clean) = forms.bytes(value.as_bytes()) {
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static(MARK));
        }
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    let is_plain = |text: &str| text.split(',').map(str::trim).all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity"));
    headers.get_all("content-encoding").iter().any(|value| !value.to_str().is_ok_and(is_plain))
}

fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_the_run_s_own_id() {
        assert_eq!(trace_of("run_019ab3f2c1d47000a1b2c3d4e5f60718"), "019ab3f2c1d47000a1b2c3d4e5f60718");
        for odd in ["run_1", "", "run_00000000000000000000000000000000"] {
            assert_eq!(trace_of(odd).len(), 32, "{odd}");
        }
    }

    #[test]
    fn a_header_that_is_no_text_is_masked_too() {
        let redactor = super::super::Redactor::default();
        redactor.learn("a", &crate::domain::secret::Secret::new("sk-Zebra7421"));
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_bytes(b"\xff sk-Zebra7421 \x80").unwrap());
        mask(&mut headers, &redactor.only(["a"].into_iter()).unwrap());
        assert_eq!(headers["x-a"].as_bytes(), b"\xff (hidden) \x80");
    }
}
