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
    fn arguments_that_are_no_object_go_back_quoted() {
        for bad in ["{\"path\": ", "[1]", "", "\"x\""] {
            let call = ToolCall { arguments: bad.to_owned(), ..ToolCall::default() };
            let repeated = call.repeated();
            let arguments: Value = serde_json::from_str(repeated["function"]["arguments"].as_str().unwrap()).unwrap();
            assert_eq!(arguments, json!({"not_json": bad}));
        }
    }
}
