//! The words of chat completions: messages, tool calls and answers, and the body of a request.

use crate::settings::Settings;
use crate::tools;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What the model answered in one turn; this is what is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its text.
    pub content: String,
    /// The tools that it wants called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended: `stop`, `tool_calls`, `length`, `content_filter` and others.
    pub finish: String,
    /// What the endpoint says that it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Value>,
}

/// A tool that the model wants called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The endpoint's name for this call, which the result repeats.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Its arguments: the text of a JSON object, if the model made no mistake.
    pub arguments: String,
    /// What the endpoint wants back as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_content: Option<Value>,
}

/// How much of arguments that are no JSON goes back to the model, in characters.
const QUOTED_CHARS: usize = 400;

impl ToolCall {
    /// The call as a message repeats it. Endpoints refuse arguments that are no object, so such arguments are quoted in one.
    fn repeated(&self) -> Value {
        let is_object = serde_json::from_str::<Map<String, Value>>(&self.arguments).is_ok();
        let arguments = match is_object {
            true => self.arguments.clone(),
            false => json!({"not_json": self.arguments.chars().take(QUOTED_CHARS).collect::<String>()}).to_string(),
        };
        let mut call = json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}});
        if let (Some(extra), Some(call)) = (&self.extra_content, call.as_object_mut()) {
            call.insert("extra_content".to_owned(), extra.clone());
        }
        call
    }
}

impl Answer {
    /// The answer of an endpoint that does not stream.
    ///
    /// # Errors
    /// It is none.
    pub fn from_body(body: &Value) -> Result<Self, String> {
        let choice = body.pointer("/choices/0").ok_or("the endpoint's answer has no choices")?;
        let message = choice.get("message").ok_or("the endpoint's answer has no message")?;
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let calls = message.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let content = message.get("content").map(text_of).unwrap_or_default();
        let content = if content.is_empty() { text(message, "refusal") } else { content };
        Ok(Answer {
            content,
            tool_calls: calls.iter().map(call_of).collect(),
            finish: text(choice, "finish_reason"),
            usage: body.get("usage").filter(|usage| usage.is_object()).cloned(),
        })
    }

    /// Gives calls without an id one of their own, so that results find their calls.
    pub fn name_calls(&mut self, turn: u32) {
        for (index, call) in self.tool_calls.iter_mut().enumerate() {
            if call.id.is_empty() {
                call.id = format!("call_{turn}_{index}");
            }
        }
    }

    /// Makes it fit into so many bytes of JSON: what it used goes first, then the end of its text, then the longest arguments, whose
    /// calls the model is told to make again, and last what the endpoint wants back.
    pub fn fit(&mut self, most: usize) {
        if json_bytes(self) <= most {
            return;
        }
        self.usage = None;
        let for_text = if self.tool_calls.is_empty() { most.saturating_sub(ROOM_BESIDE_TEXT) } else { most / 2 };
        let kept = beginning(&self.content, for_text);
        if kept.len() < self.content.len() {
            self.content = format!("{kept}\n\n[The answer was cut off here: it has {} bytes.]", self.content.len());
        }
        while json_bytes(self) > most {
            let longest = self.tool_calls.iter_mut().max_by_key(|call| call.arguments.len());
            match longest.filter(|call| call.arguments.len() > QUOTED_CHARS) {
                Some(call) => call.arguments = format!("[left out: {} bytes are too many for one call]", call.arguments.len()),
                None => break,
            }
        }
        if json_bytes(self) > most {
            self.tool_calls.iter_mut().for_each(|call| call.extra_content = None);
        }
    }

    /// The answer as a message of the conversation.
    pub fn message(&self) -> Value {
        let content = if self.content.is_empty() && !self.tool_calls.is_empty() { Value::Null } else { json!(self.content) };
        let mut message = json!({"role": "assistant", "content": content});
        if let (false, Some(fields)) = (self.tool_calls.is_empty(), message.as_object_mut()) {
            fields.insert("tool_calls".to_owned(), self.tool_calls.iter().map(ToolCall::repeated).collect());
        }
        message
    }
}

/// How much an answer without calls may have beside its text, in bytes.
const ROOM_BESIDE_TEXT: usize = 1_000;

fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

/// The longest beginning of a text that has at most so many bytes as it stands in JSON.
pub fn beginning(text: &str, most: usize) -> &str {
    let mut left = most;
    let end = text.char_indices().find_map(|(at, letter)| {
        let bytes = match letter {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..'\u{20}' => 6,
            _ => letter.len_utf8(),
        };
        let fits = left.checked_sub(bytes);
        left = fits.unwrap_or_default();
        fits.is_none().then_some(at)
    });
    end.and_then(|end| text.get(..end)).unwrap_or(text)
}

/// The text of a content, which some endpoints give in parts, thoughts among them.
pub fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect(),
        _ => String::new(),
    }
}

fn call_of(call: &Value) -> ToolCall {
    let text = |pointer: &str| call.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let arguments = match call.pointer("/function/arguments") {
        // Some endpoints give the object itself.
        Some(object @ Value::Object(_)) => object.to_string(),
        _ => text("/function/arguments"),
    };
    ToolCall { id: text("/id"), name: text("/function/name"), arguments, extra_content: call.get("extra_content").cloned() }
}

/// A message of a role with text.
pub fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The result of a tool call as a message.
pub fn result(call: &ToolCall, content: &str) -> Value {
    json!({"role": "tool", "tool_call_id": call.id, "content": content})
}

/// The body of a request. The same settings and messages give the same bytes, in every attempt.
pub fn request(settings: &Settings, messages: &[Value], is_last: bool) -> Value {
    let mut body = settings.parameters.clone();
    body.insert("model".to_owned(), json!(settings.model));
    body.insert("messages".to_owned(), json!(messages));
    body.insert("stream".to_owned(), json!(settings.stream));
    if settings.stream {
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    if !settings.tools.is_empty() {
        body.insert("tools".to_owned(), tools::definitions(settings));
        body.insert("tool_choice".to_owned(), json!(if is_last { "none" } else { "auto" }));
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_is_read() {
        let body = json!({"choices": [{"finish_reason": "tool_calls", "message": {"content": null, "tool_calls": [
            {"id": "c1", "function": {"name": "read", "arguments": "{\"path\":\"a\"}"}, "extra_content": {"g": 1}},
            {"function": {"name": "list", "arguments": {"path": "b"}}}]}}], "usage": {"total_tokens": 3}});
        let mut answer = Answer::from_body(&body).unwrap();
        answer.name_calls(4);
        assert_eq!(answer.tool_calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["c1", "call_4_1"]);
        assert_eq!(answer.tool_calls[1].arguments, r#"{"path":"b"}"#);
        assert_eq!(answer.usage, Some(json!({"total_tokens": 3})));
        let message = answer.message();
        assert_eq!((&message["content"], &message["tool_calls"][0]["extra_content"]), (&Value::Null, &json!({"g": 1})));
        let kept: Answer = serde_json::from_slice(&serde_json::to_vec(&answer).unwrap()).unwrap();
        assert_eq!(kept, answer, "what is kept is what comes back");
    }

    #[test]
    fn what_is_no_answer_is_said() {
        for body in [json!(null), json!({}), json!({"choices": []}), json!({"choices": [{}]}), json!([1])] {
            assert!(Answer::from_body(&body).is_err(), "{body}");
        }
        let refused = Answer::from_body(&json!({"choices": [{"message": {"content": null, "refusal": "No."}}]})).unwrap();
        assert_eq!(refused.content, "No.");
        let parts =
            json!([{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "Y"}, {"type": "text", "text": "es"}]);
        assert_eq!(Answer::from_body(&json!({"choices": [{"message": {"content": parts}}]})).unwrap().content, "Yes");
    }

    #[test]
    fn a_beginning_is_measured_as_json_has_it() {
        let text: String = (0..0x100).filter_map(char::from_u32).chain("\u{2028}\u{1f600}".chars()).collect();
        for most in 0..800 {
            let kept = beginning(&text, most);
            let measured = |text: &str| serde_json::to_string(text).unwrap().len() - 2;
            let next = text[kept.len()..].chars().next().map(|letter| format!("{kept}{letter}"));
            assert!(measured(kept) <= most && next.is_none_or(|next| measured(&next) > most), "{most}: {kept:?}");
        }
    }

    #[test]
    fn an_answer_is_made_to_fit_as_it_is_written() {
        const MOST: usize = 10_000;
        let call = |arguments: String| ToolCall { id: "c".into(), name: "write".into(), arguments, extra_content: Some(json!({"g": 1})) };
        let small = Answer { content: "\u{1}".repeat(100), usage: Some(json!({"total_tokens": 9})), ..Answer::default() };
        let fitted = |mut answer: Answer| {
            answer.fit(MOST);
            assert!(json_bytes(&answer) <= MOST, "{}", json_bytes(&answer));
            answer
        };
        assert_eq!(fitted(small.clone()), small);
        let used = Answer { usage: Some(json!({"notes": "x".repeat(MOST)})), ..small.clone() };
        assert_eq!(fitted(used), Answer { usage: None, ..small.clone() });
        let long = fitted(Answer { content: "\u{1}".repeat(MOST / 2), ..small.clone() });
        assert!(long.content.starts_with('\u{1}') && long.content.ends_with("cut off here: it has 5000 bytes.]"));
        let (short, quotes) = (call(r#"{"path":"a"}"#.into()), call(format!("{{\"content\":\"{}\"}}", "\\\"".repeat(MOST / 4))));
        let called = fitted(Answer { content: "x".repeat(MOST), tool_calls: vec![short.clone(), quotes], ..small.clone() });
        assert_eq!((called.tool_calls[0].clone(), called.tool_calls[1].extra_content.clone()), (short, Some(json!({"g": 1}))));
        assert!(called.tool_calls[1].arguments.starts_with("[left out: ") && called.content.starts_with("xxx"));
        let extra = ToolCall { extra_content: Some(json!("x".repeat(MOST))), ..call("{}".into()) };
        assert_eq!(fitted(Answer { tool_calls: vec![extra], ..small }).tool_calls[0].extra_content, None);
    }

    #[test]
    fn arguments_that_are_no_object_go_back_quoted() {
        for bad in ["{\"path\": ", "[1]", "", "\"x\""] {
            let call = ToolCall { arguments: bad.to_owned(), ..ToolCall::default() };
            let repeated = call.repeated();
            let arguments: Value = serde_json::from_str(repeated["function"]["arguments"].as_str().unwrap()).unwrap();
            assert_eq!(arguments, json!({"not_json": bad}));
        }
    }
}
