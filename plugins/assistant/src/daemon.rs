//! The world as the daemon gives it.

use crate::chat::Answer;
use crate::conversation::{Done, World};
use crate::endpoint::{self, Trouble};
use crate::files::Files;
use crate::settings::Settings;
use crate::tools::Call;
use sandclock_agent::http::{self, Request};
use sandclock_agent::{Failure, approval, checkpoint, context, memory, progress};
use serde_json::{Value, json};
use std::time::Duration;

/// Parts of answers that are shown as they come in one attempt; the text of the others comes with the rest of the answer.
const MOST_DELTAS: u32 = 200;
/// How much text makes one part, in bytes.
const DELTA_BYTES: usize = 400;
/// How long a fetch may take in all.
const FETCH_TIME: Duration = Duration::from_secs(60);
/// The most keys that `recall` lists.
const MOST_KEYS: usize = 500;

/// What is there in a sandbox of the daemon.
pub struct Daemon<'a> {
    settings: &'a Settings,
    files: &'a Files,
    deltas: u32,
    /// Whether this attempt has got an answer of the model.
    was_answered: bool,
}

impl<'a> Daemon<'a> {
    /// The daemon that this attempt runs in.
    pub fn new(settings: &'a Settings, files: &'a Files) -> Self {
        Daemon { settings, files, deltas: 0, was_answered: false }
    }

    fn ask_once(&mut self, turn: u32, key: &str, body: &Value) -> Result<Answer, Trouble> {
        let (mut waiting, mut deltas) = (String::new(), self.deltas);
        let mut show = |waiting: &mut String| {
            if !waiting.is_empty() && deltas < MOST_DELTAS {
                deltas += 1;
                progress::emit("delta", &json!({"turn": turn, "text": waiting}).to_string());
            }
            waiting.clear();
        };
        let answer = endpoint::ask(self.settings, &context::agent_id(), key, body, &mut |text| {
            waiting.push_str(text);
            if waiting.len() >= DELTA_BYTES {
                show(&mut waiting);
            }
        });
        show(&mut waiting);
        self.deltas = deltas;
        answer
    }

    /// Waits before another try, unless that is too long for an attempt to wait.
    fn wait(&self, why: &str, after: Option<Duration>, tried: u32) -> Result<(), Failure> {
        let wait = after.unwrap_or(Duration::from_secs(1 << (tried - 1).min(6)));
        let too_long = wait > Duration::from_secs(self.settings.max_wait_seconds)
            || context::time_left_ms().is_some_and(|left| wait >= Duration::from_millis(left.into()));
        if tried >= self.settings.max_tries || too_long {
            return Err(after.map_or_else(|| Failure::retryable(why), |after| Failure::retryable_after(why, after)));
        }
        progress::report(&format!("{why}; trying again in {} s", wait.as_secs_f32()), None);
        if progress::sleep(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)) {
            return Err(Failure::cancelled("stopped while it waited for the model, as it was asked to"));
        }
        Ok(())
    }
}

impl World for Daemon<'_> {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        checkpoint::load(name)
    }

    fn save(&mut self, name: &str, value: &[u8]) -> Result<(), Failure> {
        checkpoint::save(name, value).map_err(|why| {
            Failure::permanent(format!("what is done so far cannot be kept in the checkpoint {name}: {why}; lower `max_turns`, `max_tool_bytes` or `max_answer_bytes`, or raise the limit"))
        })
    }

    fn ask_model(&mut self, turn: u32, key: &str, body: &Value) -> Result<Answer, Failure> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.ask_once(turn, key, body) {
                Ok(answer) => {
                    self.was_answered = true;
                    return Ok(answer);
                }
                Err(Trouble::Cancelled) => return Err(Failure::cancelled("stopped while it waited for the model, as it was asked to")),
                Err(Trouble::Lasting(why)) => return Err(Failure::permanent(why)),
                Err(Trouble::Denied(why)) => return Err(denied(&why, self.was_answered)),
                Err(Trouble::Passing(why, after)) => self.wait(&why, after, tried)?,
            }
        }
    }

    fn call(&mut self, key: &str, call: &Call) -> Result<Done, Failure> {
        let most = self.settings.max_tool_bytes;
        Ok(match call {
            Call::Read { path, offset } => self.files.read(path, *offset, most),
            Call::Write { path, content } => self.files.write(path, content),
            Call::List { path } => self.files.list(path, most),
            Call::Fetch { url } => return fetch(url, most),
            Call::Remember { key, value } => remember(key, value),
            Call::Recall { key } => recall(key.as_deref(), most),
            Call::Ask { question } => {
                let decision = approval::ask(key, question);
                let word = if decision.approved { "approved" } else { "denied" };
                let note = if decision.note.is_empty() { String::new() } else { format!(": {}", decision.note) };
                Ok(format!("{word} by {}{note}", decision.by))
            }
        })
    }

    fn report(&mut self, sentence: &str) {
        progress::report(sentence, None);
    }

    fn emit(&mut self, name: &str, payload: &Value) {
        progress::emit(name, &payload.to_string());
    }

    fn cancelled(&self) -> bool {
        progress::cancelled()
    }

    fn run_id(&self) -> String {
        context::run_id()
    }
}

/// What a denied call of the model means: the endpoint is allowed where it has answered before, so that there it is the allowance of all
/// calls of the attempt that is used up, and another attempt has a fresh one.
fn denied(why: &str, was_answered: bool) -> Failure {
    if !was_answered {
        return Failure::permanent(why);
    }
    Failure::retryable(format!(
        "the model answered before in this attempt, so that it has likely used up what its calls may take (`max_calls`, `max_seconds` and bytes of the agent's `http`); another attempt goes on from what is kept, with a fresh allowance: {why}"
    ))
}

fn fetch(url: &str, most: usize) -> Result<Done, Failure> {
    match fetched(url, most) {
        Ok(text) => Ok(Ok(text)),
        Err(http::Error::Cancelled) => Err(Failure::cancelled("stopped while it fetched, as it was asked to")),
        Err(http::Error::Denied { url }) => Ok(Err(format!("{url} is not one of the hosts and paths that this agent may call"))),
        Err(error) => Ok(Err(error.to_string())),
    }
}

fn fetched(url: &str, most: usize) -> Result<String, http::Error> {
    let mut response = Request::get(url).timeout(FETCH_TIME).within(FETCH_TIME).send()?;
    let mut text = format!("status {}", response.status());
    for name in ["content-type", "location"] {
        if let Some(value) = response.header(name) {
            text.push_str(&format!("\n{name}: {}", cut(value, 1_000)));
        }
    }
    text.push_str("\n\n");
    text.push_str(&body(&mut || response.chunk(), most)?);
    Ok(text)
}

/// The text of a body, as much as came in time and may be shown.
fn body(next: &mut dyn FnMut() -> Result<Option<Vec<u8>>, http::Error>, most: usize) -> Result<String, http::Error> {
    let mut body = Vec::new();
    let cut = loop {
        match next() {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break None,
            Err(http::Error::Timeout(_)) => break Some(format!("the rest did not come within {} s", FETCH_TIME.as_secs())),
            Err(error) => return Err(error),
        }
        if body.len() > most {
            body.truncate(most);
            break Some(format!("the answer has more than {most} bytes"));
        }
    };
    let text = if body.contains(&0) { "[no text]".into() } else { String::from_utf8_lossy(&body) };
    Ok(cut.map_or_else(|| text.to_string(), |why| format!("{text}\n[cut: {why}]")))
}

fn remember(key: &str, value: &str) -> Done {
    memory::session().and_then(|session| session.set(key, value)).map_err(|error| error.to_string())?;
    Ok(format!("kept {} bytes under {key:?}", value.len()))
}

fn recall(key: Option<&str>, most: usize) -> Done {
    let session = memory::session().map_err(|error| error.to_string())?;
    let Some(key) = key else {
        let mut keys = session.keys(MOST_KEYS).map_err(|error| error.to_string())?;
        keys.sort();
        return Ok(if keys.is_empty() { "[nothing is kept]".to_owned() } else { bounded(&keys.join("\n"), most) });
    };
    let value = session.get_text(key).map_err(|error| error.to_string())?;
    value.map_or_else(|| Err(format!("nothing is kept under {key:?}")), |value| Ok(bounded(&value, most)))
}

fn bounded(text: &str, most: usize) -> String {
    let kept = cut(text, most);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}\n[cut: {} of {} bytes]", kept.len(), text.len()) }
}

/// The longest beginning of a text within so many bytes.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_gives_what_came_in_time() {
        let shown = |parts: Vec<Result<Option<Vec<u8>>, http::Error>>| {
            let mut parts = parts.into_iter();
            body(&mut || parts.next().unwrap(), 4)
        };
        let some = |text: &str| Ok(Some(text.as_bytes().to_vec()));
        assert_eq!(shown(vec![some("ab"), some("cd"), Ok(None)]), Ok("abcd".to_owned()));
        assert_eq!(shown(vec![some("abcde")]), Ok("abcd\n[cut: the answer has more than 4 bytes]".to_owned()));
        let late = shown(vec![some("ab"), Err(http::Error::Timeout("late".to_owned()))]);
        assert_eq!(late, Ok("ab\n[cut: the rest did not come within 60 s]".to_owned()));
        assert_eq!(shown(vec![some("ab"), Err(http::Error::Cancelled)]), Err(http::Error::Cancelled));
        assert_eq!(shown(vec![some("a\0"), Ok(None)]), Ok("[no text]".to_owned()));
    }

    #[test]
    fn a_denied_call_ends_the_run_only_when_the_model_never_answered() {
        assert!(matches!(denied("it may not call", false), Failure::Permanent(why) if why == "it may not call"));
        let Failure::Retryable(retry) = denied("it may not call", true) else { panic!("for good") };
        assert!(retry.message.contains("fresh allowance: it may not call"), "{}", retry.message);
    }
}
