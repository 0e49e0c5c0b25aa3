//! The loop: the model answers, its tools are called, and it answers again, until it calls no tool.
//!
//! Invariant: each answer of the model is kept before anything follows from it, and each tool's result before the next call, so that a
//! later attempt replays what is done and pays for none of it again. What is sent follows from the settings, the query and what is kept
//! alone, so that every attempt sends the same.

use crate::chat::{self, Answer, ToolCall};
use crate::settings::Settings;
use crate::tools::Call;
use sandclock_agent::Failure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a tool gave, or why it could not, for the model.
pub type Done = Result<String, String>;

/// What the loop needs of the world.
pub trait World {
    /// What an earlier attempt kept under a name.
    fn load(&self, name: &str) -> Option<Vec<u8>>;
    /// Keeps a value under a name, durably.
    fn save(&mut self, name: &str, value: &[u8]) -> Result<(), Failure>;
    /// Sends a body to the model, as the same request whenever the key is the same.
    fn ask_model(&mut self, turn: u32, key: &str, body: &Value) -> Result<Answer, Failure>;
    /// Does what a tool call wants; the key names this call in every attempt.
    fn call(&mut self, key: &str, call: &Call) -> Result<Done, Failure>;
    /// A sentence for the run's watchers.
    fn report(&mut self, sentence: &str);
    /// An event for the run's watchers.
    fn emit(&mut self, name: &str, payload: &Value);
    /// Whether the run is asked to stop.
    fn cancelled(&self) -> bool;
    /// The run.
    fn run_id(&self) -> String;
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// The model's last words.
    pub text: String,
    /// Whether the model wrote `output.md` itself.
    pub wrote_output: bool,
}

/// The file whose content is the run's output.
pub const OUTPUT: &str = "output.md";

const PREAMBLE: &str = "You work alone in the background, and nobody reads along: do not ask back, but decide, and go on until the task is done. \
Your last answer, the one without a tool call, is the result.";
const LAST_TURN: &str = "This was the last turn with tools. Give your final answer now, from what you have, and say what is missing.";
const EMPTY: &str = "Your answer was empty. Call a tool, or give your final answer.";
const CUT: &str = "\n\n[The answer was cut off here: it reached the limit of tokens of one answer.]";

/// The most bytes of one checkpoint, as it is written; the daemon takes 512 KiB.
const KEPT_BYTES: usize = 500_000;
/// What stands in a checkpoint beside a tool's result, the note of a cut with it, in bytes.
const BESIDE_RESULT: usize = 200;

/// What a tool call gave, as it is kept.
#[derive(Serialize, Deserialize)]
struct Outcome {
    content: String,
    /// Whether the tool did what it was called for.
    done: bool,
}

/// Talks with the model until it is done.
///
/// # Errors
/// The model or a tool cannot go on, or the run is asked to stop.
pub fn run(settings: &Settings, query: &str, world: &mut dyn World) -> Result<Finished, Failure> {
    let instruction = format!("{}\n\n{PREAMBLE}", settings.instruction);
    let messages = vec![chat::message("system", instruction.trim_start()), chat::message("user", query)];
    let mut conversation = Conversation { settings, world, messages, mistakes: 0, wrote_output: false, gave_way: 0, is_live: false };
    for turn in 1..=settings.max_turns {
        if let Some(text) = conversation.turn(turn)? {
            return Ok(Finished { text, wrote_output: conversation.wrote_output });
        }
    }
    Err(Failure::permanent(format!(
        "the model gave no final answer in {} turns: raise `max_turns` in this agent's `config`, or ask for less at once",
        settings.max_turns
    )))
}

struct Conversation<'a> {
    settings: &'a Settings,
    world: &'a mut dyn World,
    messages: Vec<Value>,
    /// Turns in a row in which nothing could be done.
    mistakes: u32,
    wrote_output: bool,
    /// The messages at the beginning of which no result is left that could give way.
    gave_way: usize,
    /// Whether this attempt has done something that was not kept.
    is_live: bool,
}

impl Conversation<'_> {
    /// One answer and what follows from it; the final text when that was it.
    fn turn(&mut self, turn: u32) -> Result<Option<String>, Failure> {
        if self.world.cancelled() {
            return Err(Failure::cancelled(format!("stopped before turn {turn}, as it was asked to")));
        }
        let is_last = turn == self.settings.max_turns;
        if is_last && turn > 1 {
            self.messages.push(chat::message("user", LAST_TURN));
        }
        let answer = self.answer(turn, is_last)?;
        // The last answer is the result even when the model calls tools that it was told not to call.
        if answer.tool_calls.is_empty() || (is_last && !answer.content.trim().is_empty()) {
            return self.conclude(answer);
        }
        self.messages.push(answer.message());
        if !is_last {
            self.tools(turn, &answer.tool_calls)?;
        }
        Ok(None)
    }

    /// Does what a turn's calls want; at most one mistake, and none when any of them could be done.
    fn tools(&mut self, turn: u32, calls: &[ToolCall]) -> Result<(), Failure> {
        let (mut is_useful, mut mistake) = (false, None);
        for (index, call) in calls.iter().enumerate() {
            if self.world.cancelled() {
                return Err(Failure::cancelled(format!("stopped in turn {turn}, as it was asked to")));
            }
            let content = if index >= self.settings.max_tool_calls {
                format!("not done: at most {} calls are done in one turn; call it again if it still matters", self.settings.max_tool_calls)
            } else {
                match Call::parse(call, self.settings) {
                    Ok(parsed) => {
                        is_useful = true;
                        self.done(turn, index, &parsed)?
                    }
                    Err(why) => format!("error: {}", mistake.insert(why)),
                }
            };
            self.messages.push(chat::result(call, &content));
        }
        match mistake {
            Some(why) if !is_useful => self.mistake(&why),
            _ => {
                self.mistakes = 0;
                Ok(())
            }
        }
    }

    fn answer(&mut self, turn: u32, is_last: bool) -> Result<Answer, Failure> {
        let body = self.body(turn, is_last)?;
        let name = format!("turn-{turn:04}");
        if let Some(kept) = self.kept(&name)? {
            return Ok(kept);
        }
        if !self.is_live && turn > 1 {
            self.world.report(&format!("going on after turn {}, which an earlier attempt finished", turn - 1));
        }
        self.is_live = true;
        self.world.report(&format!("turn {turn}: asking {}", self.settings.model));
        // Settings that changed since an earlier attempt make another request, which an endpoint must not take for the same.
        let key = format!("{}-{turn:04}-{:016x}", self.world.run_id(), fingerprint(body.to_string().as_bytes()));
        let mut answer = self.world.ask_model(turn, &key, &body)?;
        answer.name_calls(turn);
        answer.fit(KEPT_BYTES);
        self.keep(&name, &answer)?;
        let tools: Vec<&str> = answer.tool_calls.iter().map(|call| call.name.as_str()).collect();
        self.world.emit("turn", &json!({"turn": turn, "finish": answer.finish, "tools": tools, "usage": answer.usage}));
        Ok(answer)
    }

    /// The request of a turn, within its bound: the oldest results of tools give way, and say so where they were.
    fn body(&mut self, turn: u32, is_last: bool) -> Result<Value, Failure> {
        let most = self.settings.max_context_bytes;
        let mut body = chat::request(self.settings, &self.messages, is_last);
        let mut size = body.to_string().len();
        let mut left_out = 0_u32;
        for (index, message) in self.messages.iter_mut().enumerate().skip(self.gave_way) {
            if size <= most {
                break;
            }
            self.gave_way = index + 1;
            let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
            let note =
                format!("[left out: {} bytes, to stay within the bound of one request; call the tool again if they matter]", content.len());
            if message["role"] != "tool" || content.len() <= note.len() {
                continue;
            }
            let saved = json!(content).to_string().len() - json!(note).to_string().len();
            message["content"] = json!(note);
            size -= saved;
            left_out += 1;
        }
        if left_out > 0 {
            body = chat::request(self.settings, &self.messages, is_last);
            self.world.emit("left_out", &json!({"turn": turn, "results": left_out}));
        }
        if size > most {
            return Err(Failure::permanent(format!(
                "the request of turn {turn} has {size} bytes, and `max_context_bytes` in this agent's `config` allows {most}: raise it, or ask for less at once"
            )));
        }
        Ok(body)
    }

    /// An answer without a tool call: the final text, unless it is empty.
    fn conclude(&mut self, answer: Answer) -> Result<Option<String>, Failure> {
        let is_empty = answer.content.trim().is_empty();
        match (answer.finish.as_str(), is_empty) {
            ("content_filter", true) => Err(Failure::permanent(
                "the endpoint withheld the model's answer (content_filter): ask for something else, or another model",
            )),
            (_, true) => {
                self.mistake("its answer was empty")?;
                self.messages.push(chat::message("user", EMPTY));
                Ok(None)
            }
            ("length", false) => Ok(Some(answer.content + CUT)),
            _ => Ok(Some(answer.content)),
        }
    }

    /// What a call gave, now or in an earlier attempt.
    fn done(&mut self, turn: u32, index: usize, call: &Call) -> Result<String, Failure> {
        let name = format!("turn-{turn:04}-call-{:02}", index + 1);
        let result = match self.kept::<Outcome>(&name)? {
            Some(kept) => {
                // The machine that wrote the file may be gone, with it.
                if let (true, Call::Write { .. }) = (kept.done, call) {
                    self.world.call(&name, call)?.map_err(Failure::retryable)?;
                }
                kept
            }
            None => {
                self.is_live = true;
                self.world.report(&format!("turn {turn}: {}", call.shown()));
                let (content, done) = match self.world.call(&name, call)? {
                    Ok(content) => (content, true),
                    Err(why) => (format!("error: {why}"), false),
                };
                let result = Outcome { content: within_a_checkpoint(content), done };
                self.keep(&name, &result)?;
                result
            }
        };
        if let (true, Call::Write { path, .. }) = (result.done, call) {
            self.wrote_output |= path == OUTPUT;
        }
        Ok(result.content)
    }

    fn mistake(&mut self, why: &str) -> Result<(), Failure> {
        self.mistakes += 1;
        if self.mistakes < self.settings.max_mistakes {
            return Ok(());
        }
        Err(Failure::permanent(format!(
            "the model made {} mistakes in a row, the last one: {why}; try another model, or raise `max_mistakes` in this agent's `config`",
            self.mistakes
        )))
    }

    fn kept<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(bytes) = self.world.load(name) else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|fault| {
            Failure::permanent(format!(
                "the checkpoint {name} is not one of this assistant ({fault}): start the task anew with the plugin as it is now"
            ))
        })
    }

    fn keep(&mut self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let bytes =
            serde_json::to_vec(value).map_err(|fault| Failure::permanent(format!("the checkpoint {name} cannot be written: {fault}")))?;
        self.world.save(name, &bytes)
    }
}

/// As much of a result as a checkpoint holds.
fn within_a_checkpoint(content: String) -> String {
    let kept = chat::beginning(&content, KEPT_BYTES - BESIDE_RESULT);
    match kept.len() == content.len() {
        true => content,
        false => format!("{kept}\n[cut: {} of {} bytes]", kept.len(), content.len()),
    }
}

/// FNV-1a of 64 bits: the same bytes, the same number.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests;
