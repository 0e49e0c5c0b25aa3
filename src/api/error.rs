//! The one shape in which the API says no: RFC 9457, `application/problem+json`.
//!
//! Invariant: every answer with a status of 400 or above that leaves the router has this shape, whoever made it ([`in_one_shape`]).
//! `detail` is one bounded sentence; what a program needs beside it are extension members.

use std::any::Any;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::daemon::ManagerError;
use crate::domain::input::Faults;
use crate::store::StoreError;

/// The longest `detail`, in characters.
const DETAIL_CHARS: usize = 4_000;
/// The longest message of one fault, in characters.
const FAULT_CHARS: usize = 400;
/// How many faults of one request are told.
const MOST_FAULTS: usize = 16;
/// The media type of every error.
const PROBLEM: &str = "application/problem+json";

/// A refusal or a failure, as a caller sees it.
#[derive(Debug)]
pub(super) struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    detail: String,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem told in one sentence.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem(Box::new(Parts { status, detail: bounded(&detail.into(), DETAIL_CHARS), members: Map::new(), headers: Vec::new() }))
    }

    /// Adds an extension member.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Says when asking again can help, in a header and a member.
    #[must_use]
    pub(super) fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds)).with("retry_after", seconds)
    }

    /// The sentence.
    pub(super) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The request is understood and wrong.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Parts { status, detail, members, headers } = *self.0;
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": detail,
        });
        if let Value::Object(object) = &mut body {
            for (name, value) in members {
                object.entry(name).or_insert(value);
            }
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        response.headers_mut().extend(headers);
        response
    }
}

impl From<Faults> for Problem {
    fn from(faults: Faults) -> Self {
        let shown = |field: &str| bounded(field, FAULT_CHARS);
        let told: Vec<_> = faults.iter().take(MOST_FAULTS).map(|fault| (shown(&fault.field), shown(&fault.message))).collect();
        let more = faults.iter().count().saturating_sub(told.len());
        let mut sentences: Vec<String> =
            told.iter().map(|(field, message)| if field.is_empty() { message.clone() } else { format!("{field}: {message}") }).collect();
        if more > 0 {
            sentences.push(format!("and {more} more faults"));
        }
        let errors: Vec<Value> = told.iter().map(|(field, message)| json!({"field": field, "message": message})).collect();
        Problem::unprocessable(sentences.join("; ")).with("errors", errors)
    }
}

impl From<ManagerError> for Problem {
    fn from(error: ManagerError) -> Self {
        match error {
            ManagerError::NotFound { .. } => Problem::new(StatusCode::NOT_FOUND, error.to_string()),
            ManagerError::Conflict(sentence) => Problem::new(StatusCode::CONFLICT, sentence),
            ManagerError::Invalid(faults) => faults.into(),
            ManagerError::Busy { message, retry_after } => Problem::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(retry_after),
            ManagerError::Full { message, retry_after } => Problem::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(retry_after),
            ManagerError::Store(error) => error.into(),
            ManagerError::Host(sentence) => {
                tracing::error!(error = sentence, "a request met a fault of the host");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, sentence)
            }
        }
    }
}

impl From<StoreError> for Problem {
    // What the store says may name files and servers; that is for the log.
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Invalid(_)) {
            return Problem::unprocessable(error.to_string());
        }
        // An outage is told once, by the daemon.
        if error.is_transient() {
            tracing::debug!(%error, "a request met an outage of the store");
        } else {
            tracing::error!(%error, "a request met a fault of the store");
        }
        match error {
            StoreError::Unavailable(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The store is not available at the moment; try again shortly.")
                    .retry_after(Duration::from_secs(1))
            }
            StoreError::Full(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The store is full; free some space for it, it goes on by itself.")
                    .retry_after(Duration::from_secs(10))
            }
            StoreError::TakenOver(_) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "Another daemon has taken the store over; ask that one, this one can only show what is there.",
            ),
            StoreError::Corrupt(_) | StoreError::Invalid(_) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The daemon cannot read what its store holds; its log says what and where.")
            }
        }
    }
}

/// The answer to a request whose handling panicked. The panic's text stays in the log.
pub(super) fn after_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("of an unknown type"), "the handling of a request panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The daemon met a fault of its own; its log says more.").into_response()
}

/// Puts errors that the framework made into the one shape, and keeps their headers.
pub(super) async fn in_one_shape(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let response = next.run(request).await;
    let status = response.status();
    let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == PROBLEM.as_bytes());
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let mut problem = if status == StatusCode::METHOD_NOT_ALLOWED {
        Problem::new(status, format!("This path does not take {method}; the Allow header says what it takes."))
    } else {
        Problem::new(status, "The request cannot be answered as it is; the status says why.")
    };
    if let Some(allow) = response.headers().get(ALLOW) {
        problem = problem.with_header(ALLOW, allow.clone());
    }
    problem.into_response()
}

/// At most `most` characters of a text.
fn bounded(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(problem: Problem) -> Value {
        let bytes = axum::body::to_bytes(problem.into_response().into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn an_extension_does_not_replace_a_member_of_the_shape() {
        let shown = body(Problem::new(StatusCode::CONFLICT, "No.").with("status", "running").with("run_id", "r")).await;
        assert_eq!(shown, json!({"type": "about:blank", "title": "Conflict", "status": 409, "detail": "No.", "run_id": "r"}));
    }

    #[tokio::test]
    async fn many_and_long_faults_stay_a_short_answer() {
        let mut faults = Faults::new();
        for at in 0..100_000 {
            faults.add(format!("f{at}"), "é".repeat(10_000));
            if at == 40 {
                break;
            }
        }
        let shown = body(faults.into()).await;
        assert_eq!(shown["errors"].as_array().unwrap().len(), MOST_FAULTS);
        assert!(shown["detail"].as_str().unwrap().chars().count() <= DETAIL_CHARS + 1);
        let mut faults = Faults::new();
        (0..20).for_each(|at| faults.add(format!("f{at}"), "bad"));
        assert!(body(faults.into()).await["detail"].as_str().unwrap().ends_with("; and 4 more faults"));
    }

    #[tokio::test]
    async fn what_the_store_says_stays_inside() {
        for error in [StoreError::Unavailable("postgres://u:p@h".into()), StoreError::Corrupt("/var/x".into())] {
            let shown = body(error.into()).await.to_string();
            assert!(!shown.contains("postgres") && !shown.contains("/var"), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_panic_and_a_bare_error_come_out_in_the_one_shape() {
        use axum::routing::get;
        use tower::ServiceExt as _;
        let routes = axum::Router::<()>::new()
            .route("/panic", get(async || -> &'static str { panic!("of the t0ken") }))
            .route("/bare", get(async || (StatusCode::IM_A_TEAPOT, "<b>x</b>")))
            .layer(tower_http::catch_panic::CatchPanicLayer::custom(after_panic))
            .layer(axum::middleware::from_fn(in_one_shape));
        for (path, status) in [("/panic", 500), ("/bare", 418)] {
            let response = routes.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!((response.status().as_u16(), &response.headers()[CONTENT_TYPE]), (status, &HeaderValue::from_static(PROBLEM)));
            let text = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("t0ken") && !text.contains('<'), "{text}");
        }
    }

    #[test]
    fn a_fraction_of_a_second_is_rounded_up() {
        let response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "x").retry_after(Duration::from_millis(1200)).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
