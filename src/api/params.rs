//! Reads what a request's path and query say, strictly: a parameter that is unknown, doubled or malformed is a fault.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::RangeInclusive;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::header::ACCEPT;
use axum::http::request::Parts;

use super::error::Problem;
use crate::domain::id::{AgentId, InvalidId, RunId, TaskId};
use crate::domain::input::{Faults, shown_name};

/// An id that a path or a query can carry.
pub(super) trait Id: Sized {
    /// Checks a text and takes it as an id.
    fn of(text: &str) -> Result<Self, InvalidId>;
}

macro_rules! ids {
    ($($name:ident),+) => { $(impl Id for $name {
        fn of(text: &str) -> Result<Self, InvalidId> {
            $name::parse(text)
        }
    })+ };
}
ids!(AgentId, RunId, TaskId);

/// The `{id}` of the path.
pub(super) struct PathId<T>(pub(super) T);

impl<S: Send + Sync, T: Id> FromRequestParts<S> for PathId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = segment("id", parts, state).await?;
        T::of(&text).map(PathId).map_err(|error| Problem::unprocessable(error.to_string()))
    }
}

/// The `{*path}` at the end of the path, decoded.
pub(super) struct PathRest(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathRest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        segment("path", parts, state).await.map(PathRest)
    }
}

/// The `{key}` of the path, decoded.
pub(super) struct PathKey(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for PathKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        segment("key", parts, state).await.map(PathKey)
    }
}

async fn segment<S: Send + Sync>(name: &str, parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let Path(mut segments) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "The path is not UTF-8 once its %-escapes are resolved."))?;
    segments.remove(name).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "There is nothing under this path."))
}

/// The parameters of the query. Take each known one, then [`Params::finish`].
pub(super) struct Params {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Faults,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(pairs) = Query::try_from_uri(&parts.uri)
            .map_err(|_| Problem::unprocessable("The query cannot be read: write it as name=value&name=value with %-escapes."))?;
        Ok(Params { pairs, known: Vec::new(), faults: Faults::new() })
    }
}

impl Params {
    /// A parameter as it is.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let at = self.pairs.iter().position(|(given, _)| given == name)?;
        let (_, value) = self.pairs.remove(at);
        if self.pairs.iter().any(|(given, _)| given == name) {
            self.pairs.retain(|(given, _)| given != name);
            self.faults.add(name, "is given more than once");
        }
        Some(value)
    }

    /// A parameter that `read` understands; `wanted` says what that is.
    pub(super) fn of<T>(&mut self, name: &'static str, wanted: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = read(&text);
        if value.is_none() {
            let shown: String = text.chars().take(64).flat_map(char::escape_debug).collect();
            self.faults.add(name, format!("must be {wanted}, not `{shown}`"));
        }
        value
    }

    /// An id.
    pub(super) fn id<T: Id>(&mut self, name: &'static str) -> Option<T> {
        match T::of(&self.text(name)?) {
            Ok(id) => Some(id),
            Err(error) => {
                self.faults.add(name, error.to_string());
                None
            }
        }
    }

    /// A yes or no; no when it is not given.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let read = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        };
        self.of(name, "true or false", read).unwrap_or(false)
    }

    /// A whole number within bounds.
    pub(super) fn number(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.of(name, &wanted, |text| {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_plain && range.contains(number))
        })
    }

    /// Records a fault of a parameter.
    pub(super) fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.add(name, message);
    }

    /// Refuses what is left over, and tells all faults.
    pub(super) fn finish(mut self) -> Result<(), Problem> {
        let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
        for (name, _) in self.pairs {
            self.faults.add(shown_name(&name), format!("is not a known parameter; known are {known}"));
        }
        self.faults.into_result(()).map_err(Problem::from)
    }
}

/// A query that takes no parameters.
pub(super) struct NoParams;

impl<S: Send + Sync> FromRequestParts<S> for NoParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Params::from_request_parts(parts, state).await?.finish()?;
        Ok(NoParams)
    }
}

/// The media types that the caller names as welcome.
pub(super) struct Accepts(Vec<String>);

impl<S: Send + Sync> FromRequestParts<S> for Accepts {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let values = parts.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        Ok(Accepts(values.filter_map(welcome).collect()))
    }
}

impl Accepts {
    /// Whether the caller names this type; a wildcard names none.
    pub(super) fn names(&self, media_type: &str) -> bool {
        self.0.iter().any(|welcome| welcome == media_type)
    }
}

/// The type of one entry of an Accept header, unless its quality is 0.
fn welcome(entry: &str) -> Option<String> {
    let mut parts = entry.split(';').map(str::trim);
    let essence = parts.next()?.to_ascii_lowercase();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (quality.is_none_or(|quality| quality.parse::<f32>().is_ok_and(|quality| quality > 0.0))).then_some(essence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        let Query(pairs) = Query::try_from_uri(&format!("/x?{query}").parse().unwrap()).unwrap();
        Params { pairs, known: Vec::new(), faults: Faults::new() }
    }

    #[test]
    fn every_fault_of_a_query_is_told() {
        let mut query = params("limit=-1&force=maybe&task_id=..%2Fx&limt=5&cursor=a&cursor=b");
        assert_eq!(query.number("limit", 1..=1000), None);
        assert!(!query.flag("force"));
        assert!(query.id::<TaskId>("task_id").is_none());
        query.text("cursor");
        let told: Vec<_> = {
            let faults = query.faults.iter().map(|fault| fault.field.clone()).collect::<Vec<_>>();
            assert!(query.finish().is_err());
            faults
        };
        assert_eq!(told, ["limit", "force", "task_id", "cursor"]);
    }

    #[test]
    fn numbers_are_digits_within_bounds() {
        for (text, number) in
            [("1", Some(1)), ("1000", Some(1000)), ("0", None), ("1001", None), ("+5", None), ("", None), ("99999999999999999999", None)]
        {
            assert_eq!(params(&format!("limit={}", text.replace('+', "%2B"))).number("limit", 1..=1000), number, "{text}");
        }
        assert!(params("force=True").flag("force"));
        assert!(params("extra=1").finish().is_err());
        assert!(params("").finish().is_ok());
    }

    #[test]
    fn an_accept_header_names_types() {
        let accepts = |text: &str| Accepts(text.split(',').filter_map(welcome).collect());
        assert!(accepts("text/html, Text/Event-Stream;q=0.5").names("text/event-stream"));
        assert!(!accepts("text/event-stream;q=0, */*").names("text/event-stream"));
        assert!(!accepts("").names("text/event-stream"));
    }
}
