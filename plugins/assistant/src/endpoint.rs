//! One request to the model, and what it means when that gives no answer.

use crate::chat::Answer;
use crate::settings::Settings;
use crate::stream::{Assembly, Fault, MOST_CALLS};
use sandclock_agent::http::{Error, Event, Events, Request, Response};
use serde_json::Value;
use std::time::Duration;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It may be gone in a while, which the endpoint may have named.
    Passing(String, Option<Duration>),
    /// Somebody has to mend it.
    Lasting(String),
    /// The daemon lets it not out, or not in: by its rules, or because the attempt has used up what its calls may take.
    Denied(String),
    /// The run is asked to stop.
    Cancelled,
}

/// How much may come over the wire for one byte of an answer: a stream wraps each word in names and quotes.
const WIRE_FACTOR: usize = 256;
const WIRE_BASE: usize = 64 * 1024;

/// How long an answer that is whole waits for what the endpoint says that it used.
const AFTER_THE_END: Duration = Duration::from_secs(5);

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
    if is_stream { streamed(settings, agent, &mut response.events(), shown) } else { whole(settings, agent, response, shown) }
}

/// Where the parts of an answer come from.
trait Parts {
    fn next(&mut self) -> Result<Option<Event>, Error>;
    fn end_within(&mut self, time: Duration);
}

impl Parts for Events {
    fn next(&mut self) -> Result<Option<Event>, Error> {
        Events::next(self)
    }

    fn end_within(&mut self, time: Duration) {
        Events::end_within(self, time);
    }
}

fn streamed(settings: &Settings, agent: &str, parts: &mut dyn Parts, shown: &mut dyn FnMut(&str)) -> Result<Answer, Trouble> {
    let mut assembly = Assembly::new(settings.max_answer_bytes);
    let mut was_whole = false;
    let broke = loop {
        if assembly.is_done() {
            break None;
        }
        if assembly.is_whole() && !std::mem::replace(&mut was_whole, true) {
            parts.end_within(AFTER_THE_END);
        }
        match parts.next() {
            Ok(Some(event)) => match assembly.take(&event.data) {
                Ok(added) => shown(&added),
                Err(fault) => break Some(fault_of(settings, fault)),
            },
            Ok(None) => break None,
            Err(Error::Cancelled) => return Err(Trouble::Cancelled),
            Err(error) => break Some(trouble(settings, agent, error)),
        }
    };
    // What is whole is paid for: what comes amiss after it takes nothing from it.
    let broke = broke.unwrap_or_else(|| Trouble::Passing(format!("the answer of {} broke off", settings.url()), None));
    assembly.finish().ok_or(broke)
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
    let of_calls: usize = answer.tool_calls.iter().map(|call| call.id.len() + call.name.len() + call.arguments.len()).sum();
    if of_calls + answer.content.len() > settings.max_answer_bytes || answer.tool_calls.len() > MOST_CALLS {
        Err(fault_of(settings, Fault::TooLarge))
    } else {
        Ok(answer)
    }
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
        Error::Denied { .. } => Trouble::Denied(error.to_string()),
        Error::Allowance(_) => Trouble::Denied(format!("{error}: raise the limits of `[agents.{agent}.http]`")),
        Error::Answer(_) => Trouble::Lasting(error.to_string()),
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

    /// Parts that have come, and what then happens.
    struct Script(Vec<Result<Option<&'static str>, Error>>, Vec<Duration>);

    impl Parts for Script {
        fn next(&mut self) -> Result<Option<Event>, Error> {
            self.0.remove(0).map(|data| data.map(|data| Event { data: data.to_owned(), ..Event::default() }))
        }

        fn end_within(&mut self, time: Duration) {
            self.1.push(time);
        }
    }

    fn stream(parts: &[Result<Option<&'static str>, Error>]) -> (Result<String, Trouble>, Vec<Duration>) {
        let mut script = Script(parts.to_vec(), Vec::new());
        let answer = streamed(&settings(), "helper", &mut script, &mut |_| {});
        (answer.map(|answer| answer.content), script.1)
    }

    #[test]
    fn an_answer_that_is_whole_is_taken_whatever_comes_after_it() {
        let text = Ok(Some(r#"{"choices": [{"delta": {"content": "ok"}}]}"#));
        let end = Ok(Some(r#"{"choices": [{"delta": {}, "finish_reason": "stop"}]}"#));
        let usage = Ok(Some(r#"{"choices": [], "usage": {"total_tokens": 9}}"#));
        let amiss = [
            Err(Error::Connection("broke".into())),
            Err(Error::Timeout("late".into())),
            Err(Error::TooLarge("big".into())),
            Ok(Some("<html>")),
            Ok(Some(r#"{"error": {"message": "usage failed"}}"#)),
            Ok(None),
        ];
        for amiss in amiss {
            let (answer, waits) = stream(&[text.clone(), end.clone(), usage.clone(), amiss.clone()]);
            assert_eq!((answer, waits), (Ok("ok".to_owned()), vec![AFTER_THE_END]), "{amiss:?}");
            let (answer, waits) = stream(&[text.clone(), amiss.clone()]);
            assert!(answer.is_err() && waits.is_empty(), "{amiss:?} leaves half an answer");
        }
        assert_eq!(stream(&[text.clone(), end, Err(Error::Cancelled)]).0, Err(Trouble::Cancelled));
        let too_large = format!(r#"{{"choices": [{{"delta": {{"content": "{}"}}, "finish_reason": "stop"}}]}}"#, "x".repeat(1_025));
        assert!(matches!(stream(&[text, Ok(Some(too_large.leak()))]).0, Err(Trouble::Lasting(_))), "what is too large is not whole");
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
        let Trouble::Denied(why) =
            trouble(&settings(), "helper", Error::Denied { url: "https://api.x.test:8443/v1/chat/completions".into() })
        else {
            panic!("passes")
        };
        assert!(why.contains("why-denied"), "{why}");
        let Trouble::Denied(why) = trouble(&settings(), "helper", Error::Allowance("it is larger".into())) else { panic!("passes") };
        assert!(why.contains("`[agents.helper.http]`"), "{why}");
        assert_eq!(trouble(&settings(), "helper", Error::Cancelled), Trouble::Cancelled);
    }

    #[test]
    fn a_whole_answer_is_judged() {
        let judge = |body: Value| parsed(&settings(), body.to_string().as_bytes());
        assert_eq!(judge(json!({"choices": [{"message": {"content": "ok"}}]})).map(|answer| answer.content), Ok("ok".to_owned()));
        assert!(
            matches!(judge(json!({"choices": [{"message": {"content": "x".repeat(1_025)}}]})), Err(Trouble::Lasting(why)) if why.contains("max_answer_bytes"))
        );
        let named = json!({"choices": [{"message": {"tool_calls": [{"id": "x".repeat(1_025)}]}}]});
        let many = json!({"choices": [{"message": {"tool_calls": vec![json!({}); MOST_CALLS + 1]}}]});
        assert!([named, many].into_iter().all(|body| matches!(judge(body), Err(Trouble::Lasting(_)))));
        assert!(
            matches!(judge(json!({"error": {"code": 503, "message": "busy"}})), Err(Trouble::Passing(why, None)) if why.contains("busy"))
        );
        assert!(matches!(judge(json!({"error": {"code": 402, "message": "pay"}})), Err(Trouble::Lasting(_))));
        assert!(matches!(parsed(&settings(), b"<html>"), Err(Trouble::Lasting(why)) if why.contains("check `endpoint`")));
    }
}
