//! What happens to every request around its handling: a span, a time limit, headers that keep browsers careful.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tracing::Instrument as _;

use super::Api;
use super::auth::Caller;
use super::error::Problem;

/// The longest path that a log line shows, in characters.
const PATH_CHARS: usize = 256;

/// Handles the request inside a span and tells how it went. Neither queries, headers nor bodies are told: they may hold secrets.
pub(super) async fn traced(request: Request, next: Next) -> Response {
    let path: String = request.uri().path().chars().take(PATH_CHARS).collect();
    let changes_something = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let span = tracing::info_span!("request", method = %request.method(), path);
    async {
        let began = Instant::now();
        let response = next.run(request).await;
        let by = response.extensions().get::<Caller>().and_then(Caller::name);
        let (status, latency_ms) = (response.status(), began.elapsed().as_secs_f64() * 1000.0);
        // A daemon that cannot for the moment has told why, once for all requests.
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(status = status.as_u16(), latency_ms, "a request failed");
        } else if changes_something {
            tracing::info!(status = status.as_u16(), latency_ms, by, "answered a request");
        } else {
            tracing::debug!(status = status.as_u16(), latency_ms, "answered a request");
        }
        response
    }
    .instrument(span)
    .await
}

/// Gives up on a request whose answer has not begun within the limit. What it asked for may still happen.
pub(super) async fn time_limit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let limit = api.settings.request_timeout;
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs_f64();
        Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("The request was not answered within {seconds} seconds; look before you repeat it."),
        )
        .with("request_timeout_seconds", seconds)
        .into_response()
    })
}

/// Answers are of the moment, and never to be taken for anything but what they say they are.
pub(super) async fn safe_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
