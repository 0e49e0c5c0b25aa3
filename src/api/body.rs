//! Reads the body of a request as JSON, strictly: the type must be JSON, the size bounded, the text valid.
//!
//! A body in another media type is refused rather than guessed at, which also keeps plain web forms of other sites out.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;

use super::Api;
use super::error::Problem;
use crate::domain::input::{Faults, Fields};

/// The body of a request that must have one: any JSON value; whoever opens it as an object says if it is none.
pub(super) struct JsonBody(pub(super) Value);

/// The body of a request that may have one; an empty body and `null` are none.
pub(super) struct OptionalBody(pub(super) Option<Value>);

/// The body of a request that takes none: nothing, `null` or an empty object.
pub(super) struct NoBody;

impl FromRequest<Api> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        read(request, api.settings.max_body_bytes).await?.map(JsonBody).ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST, "The request has no body: send a JSON object with Content-Type: application/json.")
        })
    }
}

impl FromRequest<Api> for OptionalBody {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let value = read(request, api.settings.max_body_bytes).await?;
        Ok(OptionalBody(value.filter(|value| !value.is_null())))
    }
}

impl FromRequest<Api> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let OptionalBody(Some(value)) = OptionalBody::from_request(request, api).await? else {
            return Ok(NoBody);
        };
        let mut faults = Faults::new();
        Fields::open("", value, &mut faults).refuse_rest(&["none: this request takes no body"]);
        faults.into_result(NoBody).map_err(Problem::from)
    }
}

async fn read(request: Request, most_bytes: usize) -> Result<Option<Value>, Problem> {
    let (parts, body) = request.into_parts();
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > most_bytes) {
        return Err(too_large(most_bytes));
    }
    let bytes = collect(body, most_bytes).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    check_type(&parts.headers)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("The body is not valid JSON: {error}.")))
}

async fn collect(body: Body, most_bytes: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, most_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large(most_bytes)),
        Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "The body ended before it was whole; send the request again.")),
    }
}

fn too_large(most_bytes: usize) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("The body is larger than {most_bytes} bytes, which is the most that is taken."))
        .with("max_body_bytes", most_bytes)
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let refused =
        |what: &str| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("{what}: send JSON with Content-Type: application/json."));
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(refused("The body is compressed, which is not taken"));
    }
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = given.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(refused("The body is not declared as JSON"));
    }
    let charset = parts.find_map(|part| part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset")));
    match charset {
        Some((_, charset)) if !charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") => Err(refused("The body is not in UTF-8")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    async fn status_of(kind: &str, body: impl Into<Body>) -> u16 {
        let request = Request::builder().header(CONTENT_TYPE, kind).body(body.into()).unwrap();
        match read(request, 1000).await {
            Ok(_) => 200,
            Err(problem) => problem.into_response().status().as_u16(),
        }
    }

    #[tokio::test]
    async fn only_json_in_utf_8_is_read() {
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\"", "application/x+json"] {
            assert_eq!(status_of(good, "{}").await, 200, "{good}");
        }
        for bad in ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/jsonp", "json"]
        {
            assert_eq!(status_of(bad, "{}").await, 415, "{bad}");
        }
    }

    #[tokio::test]
    async fn what_is_not_json_is_refused_with_its_place() {
        let deep = "[".repeat(400) + &"]".repeat(400);
        let cases: [&[u8]; 8] = [b"{", b"{}x", b"\xff\xfe", b"\"\xc3\"", b"\"\\ud800\"", b"1e999", b"nan", deep.as_bytes()];
        for case in cases {
            assert_eq!(status_of("application/json", case.to_vec()).await, 400, "{:?}", String::from_utf8_lossy(case));
        }
    }

    #[tokio::test]
    async fn a_body_is_bounded_whether_its_length_is_told_or_not() {
        assert_eq!(status_of("application/json", " ".repeat(1001)).await, 413);
        let parts = futures::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 100]))));
        assert_eq!(status_of("application/json", Body::from_stream(parts)).await, 413);
    }
}
