//! The `Idempotency-Key` of a request: with it, asking twice does it once.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::error::Problem;
use crate::domain::idempotency::IdempotencyKey;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What the header says, if there is one.
pub(super) struct KeyHeader(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for KeyHeader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(&KEY).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(KeyHeader(None)),
            (Some(value), None) => Ok(KeyHeader(Some(String::from_utf8_lossy(value.as_bytes()).into_owned()))),
            (Some(_), Some(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "The Idempotency-Key is given more than once; give one.")),
        }
    }
}

impl KeyHeader {
    /// The key of a request for `path` with `body`, none when there is no header.
    pub(super) fn of(self, scope: &str, path: &str, body: Option<&Value>) -> Result<Option<IdempotencyKey>, Problem> {
        let key = self.0.map(|text| IdempotencyKey::parse(scope, &text, path, body)).transpose();
        key.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("The Idempotency-Key {error}.")))
    }
}

/// An answer that says whether it was given before.
pub(super) fn told(answer: impl IntoResponse, replayed: bool) -> Response {
    let mut response = answer.into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
