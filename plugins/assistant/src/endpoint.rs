//! One request to the model, and what it means when that gives no answer.

use crate::chat::Answer;
use crate::settings::Settings;
use crate::stream::{Assembly, Fault};
use sandclock_agent::http::{Error, Request, Response};
use serde_json::Value;
use std::time::Duration;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may be gone in a while, which the endpoint may have named.
    Passing(String, Option<Duration>),
    /// Somebody has to mend it.
    Lasting(String),
    /// The run is asked to stop.
    Cancelled,
}

/// How much may come over the wire for one byte of an answer: a stream wraps each word in names and quotes.
const WIRE_FACTOR: usize = 256;
const WIRE_BASE: usize = 64 * 1024;

/// Sends a body, and gives the answer; `shown` gets its text as it comes.
pub fn ask(settings: &Settings, agent: &str, key: &str, body: &Value, shown: &mut dyn FnMut(&str)) -> Result<Answer, Trouble> {
    let request = Request::post(settings.url())
        .header("idempotency-key", key)
        .header("accept", if settings.stream { "text/event-stream, application/json" } else { "application/json" })
        .timeout(Duration::from_secs(settings.timeout_seconds))
        .max_bytes(settings.max_answer_bytes.saturating_mul(WIRE_FACTOR).saturating_add(WIRE_BASE))
        .json(body);
    let response = request.send().and_then(Response::ok).map_err(|error| trouble(settings, agent, error))?;
    // Some endpoints stream though they were not asked to, and the other way round.
    let is_stream = response.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    if is_stream { streamed(settings, agent, response, shown) } else { whole(settings, agent, response, shown) }
}

fn streamed(settings: &Settings, agent: &str, response: Response, shown: &mut dyn FnMut(&str)) -> Result<Answer, Trouble> {
    let mut assembly = Assembly::new(settings.max_answer_bytes);
    let mut events = response.events();
    while !assembly.is_done() {
        match events.next() {
            Ok(Some(event)) => shown(&assembly.take(&event.data).map_err(|fault| fault_of(settings, fault))?),
            Ok(None) => break,
            Err(error) => return Err(trouble(settings, agent, error)),
        }
    }
    assembly.finish().ok_or_else(|| Trouble::Passing(format!("the answer of {} broke off", settings.url()), None))
}

fn whole(settings: &Settings, agent: &str, response: Response, shown: &mut dyn FnMut(&str)) -> Result<Answer, Trouble> {
    let bytes = response.bytes().map_err(|error| trouble(settings, agent, error))?;
    let answer = parsed(settings, &bytes)?;
    shown(&answer.content);
    Ok(answer)
}

fn parsed(settings: &Settings, bytes: &[u8]) -> Result<Answer, Trouble> {
    let none = |why: &str| Trouble::Lasting(format!("{} answered what is no chat completion ({why}): check `endpoint`", settings.url()));
    let body: Value = serde_json::from_slice(bytes).map_err(|fault| none(&fault.to_string()))?;
    if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
        return Err(fault_of(settings, Fault::of_endpoint(error)));
    }
    let answer = Answer::from_body(&body).map_err(|why| none(&why))?;
    let size = answer.tool_calls.iter().map(|call| call.arguments.len()).sum::<usize>() + answer.content.len();
    if size > settings.max_answer_bytes { Err(fault_of(settings, Fault::TooLarge)) } else { Ok(answer) }
}

fn fault_of(settings: &Settings, fault: Fault) -> Trouble {
    match fault {
        Fault::Endpoint(status, why) => {
            let why = format!("{} failed while it answered: {why}", settings.url());
            match status {
                Some(status) if !is_passing(status) => Trouble::Lasting(why),
                _ => Trouble::Passing(why, None),
            }
        }
        Fault::NotAPart(why) => Trouble::Passing(format!("{} streamed what is no part of an answer ({why})", settings.url()), None),
        Fault::TooLarge => Trouble::Lasting(format!(
            "the model's answer is larger than the {} bytes of `max_answer_bytes` in this agent's `config`: ask for less at once, or raise it",
            settings.max_answer_bytes
        )),
    }
}

fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 409 | 425 | 429 | 500..=599)
}

/// What a failed call means, with its mend.
fn trouble(settings: &Settings, agent: &str, error: Error) -> Trouble {
    let host = settings.host();
    match &error {
        Error::Cancelled => Trouble::Cancelled,
        Error::Status { status: 401 | 403, .. } => Trouble::Lasting(format!(
            "{error} (the key is missing, wrong or without the right: set `[credentials.NAME]` with `host = \"{}\"` in the daemon's configuration, and name it in `credentials` of `[agents.{agent}.http]`)",
            host.rsplit_once(':').map_or(host, |(name, _)| name)
        )),
        Error::Status { status: 404, .. } => {
            Trouble::Lasting(format!("{error} (check `endpoint` and `model`, which is {:?}, in this agent's `config`)", settings.model))
        }
        Error::Status { status: 300..=399, .. } => Trouble::Lasting(format!("{error} (redirects are not followed: check `endpoint`)")),
        // 409 is how an endpoint says that the same request is still under way.
        Error::Status { status, .. } if is_passing(*status) => Trouble::Passing(error.to_string(), error.retry_after()),
        Error::Status { .. } => Trouble::Lasting(format!(
            "{error} (the endpoint takes no such request: check `model`, `stream`, `extra` and the other values of this agent's `config`)"
        )),
        Error::Connection(_) | Error::Timeout(_) => Trouble::Passing(error.to_string(), None),
        Error::TooLarge(_) => fault_of(settings, Fault::TooLarge),
        Error::Request(_) => Trouble::Lasting(format!("{error} (check `endpoint` in this agent's `config`)")),
        // The daemon adds which rule it was, and the lines that allow it.
        Error::Denied { .. } | Error::Answer(_) => Trouble::Lasting(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings() -> Settings {
        let values = [("endpoint", "https://api.x.test:8443/v1"), ("model", "m"), ("max_answer_bytes", "1024")];
        Settings::read(values.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()).unwrap()
    }

    fn of_status(status: u16, retry_after: Option<u64>) -> Trouble {
        let retry_after = retry_after.map(Duration::from_secs);
        trouble(&settings(), "helper", Error::Status { url: "https://api.x.test".into(), status, retry_after, body: "why".into() })
    }

    #[test]
    fn what_passes_keeps_the_time_that_the_endpoint_asks_for() {
        let Trouble::Passing(why, after) = of_status(429, Some(9)) else { panic!("lasting") };
        assert_eq!((why.as_str(), after), ("https://api.x.test answered 429: why", Some(Duration::from_secs(9))));
        for status in [408, 409, 425, 500, 503, 529] {
            assert!(matches!(of_status(status, None), Trouble::Passing(_, None)), "{status}");
        }
        assert!(matches!(trouble(&settings(), "helper", Error::Timeout("late".into())), Trouble::Passing(..)));
    }

    #[test]
    fn what_lasts_names_its_mend() {
        for (status, part) in [
            (401, "host = \"api.x.test\""),
            (403, "[agents.helper.http]"),
            (404, "`model`, which is \"m\""),
            (302, "redirects"),
            (400, "`extra`"),
        ] {
            let Trouble::Lasting(why) = of_status(status, Some(1)) else { panic!("{status} passes") };
            assert!(why.contains(part), "{why}");
        }
        let Trouble::Lasting(why) =
            trouble(&settings(), "helper", Error::Denied { url: "https://api.x.test:8443/v1/chat/completions".into() })
        else {
            panic!("passes")
        };
        assert!(why.contains("why-denied"), "{why}");
        assert_eq!(trouble(&settings(), "helper", Error::Cancelled), Trouble::Cancelled);
    }

    #[test]
    fn a_whole_answer_is_judged() {
        let judge = |body: Value| parsed(&settings(), body.to_string().as_bytes());
        assert_eq!(judge(json!({"choices": [{"message": {"content": "ok"}}]})).map(|answer| answer.content), Ok("ok".to_owned()));
        assert!(
            matches!(judge(json!({"choices": [{"message": {"content": "x".repeat(1_025)}}]})), Err(Trouble::Lasting(why)) if why.contains("max_answer_bytes"))
        );
        assert!(
            matches!(judge(json!({"error": {"code": 503, "message": "busy"}})), Err(Trouble::Passing(why, None)) if why.contains("busy"))
        );
        assert!(matches!(judge(json!({"error": {"code": 402, "message": "pay"}})), Err(Trouble::Lasting(_))));
        assert!(matches!(parsed(&settings(), b"<html>"), Err(Trouble::Lasting(why)) if why.contains("check `endpoint`")));
    }
}
