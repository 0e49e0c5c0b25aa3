//! A streamed answer, put together from its parts.
//!
//! Invariant: an answer counts as whole only when the endpoint said why it ended; what broke off before is asked for again.

use crate::chat::{Answer, ToolCall, text_of};
use serde_json::Value;

/// Why a part of a stream cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint says in the stream that it failed, with the status that it names.
    Endpoint(Option<u16>, String),
    /// It is not what a part is.
    NotAPart(String),
    /// The answer is larger than it may be.
    TooLarge,
}

impl Fault {
    /// What an endpoint says of its failure.
    pub fn of_endpoint(error: &Value) -> Self {
        let status = error.get("code").or_else(|| error.get("status")).and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        let message = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
        Fault::Endpoint(status, message)
    }
}

/// The most tool calls of one answer.
pub const MOST_CALLS: usize = 128;

/// An answer that is coming.
#[derive(Debug)]
pub struct Assembly {
    answer: Answer,
    left: usize,
    done: bool,
    /// The endpoint's numbers of the calls, beside them.
    numbers: Vec<Option<u64>>,
}

impl Assembly {
    /// Nothing yet of an answer of at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Assembly { answer: Answer::default(), left: max_bytes, done: false, numbers: Vec::new() }
    }

    /// Takes the data of one event, and gives the text that it adds.
    ///
    /// # Errors
    /// It is no part of an answer, or the answer becomes too large.
    pub fn take(&mut self, data: &str) -> Result<String, Fault> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(String::new());
        }
        let part: Value = serde_json::from_str(data).map_err(|fault| Fault::NotAPart(fault.to_string()))?;
        if let Some(error) = part.get("error").filter(|error| !error.is_null()) {
            return Err(Fault::of_endpoint(error));
        }
        if let Some(usage) = part.get("usage").filter(|usage| usage.is_object()) {
            self.answer.usage = Some(usage.clone());
        }
        // Some endpoints give several answers unasked, their parts mixed; the first is the answer.
        let is_first = |choice: &&Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) == 0;
        let choices = part.get("choices").and_then(Value::as_array);
        let Some(choice) = choices.and_then(|choices| choices.iter().find(is_first)) else { return Ok(String::new()) };
        let added = choice.get("delta").map_or_else(|| Ok(String::new()), |delta| self.take_delta(delta))?;
        // Last, so that an answer of which a part could not be taken never counts as whole.
        if let Some(finish) = choice.get("finish_reason").and_then(Value::as_str).filter(|finish| !finish.is_empty()) {
            finish.clone_into(&mut self.answer.finish);
        }
        Ok(added)
    }

    fn take_delta(&mut self, delta: &Value) -> Result<String, Fault> {
        for call in delta.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
            self.take_call(call)?;
        }
        let added: String = ["content", "refusal"].iter().filter_map(|key| delta.get(*key)).map(text_of).collect();
        self.spend(added.len())?;
        self.answer.content.push_str(&added);
        Ok(added)
    }

    /// Whether no more is to come.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the endpoint said why the answer ended: all of it is there but what it used.
    pub fn is_whole(&self) -> bool {
        self.done || !self.answer.finish.is_empty()
    }

    /// The answer, when it came whole.
    pub fn finish(self) -> Option<Answer> {
        self.is_whole().then_some(self.answer)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(bytes).ok_or(Fault::TooLarge)?;
        Ok(())
    }

    fn take_call(&mut self, part: &Value) -> Result<(), Fault> {
        let text = |pointer: &str| part.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (id, name) = (text("/id"), text("/function/name"));
        let arguments = match part.pointer("/function/arguments") {
            Some(object @ Value::Object(_)) => object.to_string(),
            _ => text("/function/arguments").to_owned(),
        };
        self.spend(id.len() + name.len() + arguments.len())?;
        let position = self.position(part.get("index").and_then(Value::as_u64), id);
        let Some(call) = self.answer.tool_calls.get_mut(position) else { return Err(Fault::TooLarge) };
        if call.id.is_empty() {
            id.clone_into(&mut call.id);
        }
        // Most endpoints give the name once and whole; some repeat it with each part.
        if call.name.is_empty() {
            name.clone_into(&mut call.name);
        }
        call.arguments.push_str(&arguments);
        if let Some(extra) = part.get("extra_content") {
            call.extra_content = Some(extra.clone());
        }
        Ok(())
    }

    /// Which call a part belongs to. Some endpoints give no number, or the same to all calls: there another id is another call.
    fn position(&mut self, number: Option<u64>, id: &str) -> usize {
        let calls = &mut self.answer.tool_calls;
        let same = |call: &ToolCall| id.is_empty() || call.id.is_empty() || call.id == id;
        let known = match number {
            Some(_) => self.numbers.iter().rposition(|known| *known == number),
            None => calls.len().checked_sub(1),
        };
        match known {
            Some(position) if calls.get(position).is_some_and(same) => position,
            _ if calls.len() >= MOST_CALLS => MOST_CALLS,
            _ => {
                calls.push(ToolCall::default());
                self.numbers.push(number);
                calls.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assemble(parts: &[Value]) -> Answer {
        let mut assembly = Assembly::new(1_000);
        for part in parts {
            assembly.take(&part.to_string()).unwrap();
        }
        assembly.take("[DONE]").unwrap();
        assembly.finish().unwrap()
    }

    fn delta(delta: Value) -> Value {
        json!({"choices": [{"delta": delta}]})
    }

    fn calls(answer: &Answer) -> Vec<(&str, &str, &str)> {
        answer.tool_calls.iter().map(|call| (call.id.as_str(), call.name.as_str(), call.arguments.as_str())).collect()
    }

    #[test]
    fn text_and_usage_come_together() {
        let answer = assemble(&[
            delta(json!({"role": "assistant", "content": ""})),
            delta(json!({"content": "Hel"})),
            delta(json!({"content": "lo"})),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": {"total_tokens": 9}}),
        ]);
        assert_eq!((answer.content.as_str(), answer.finish.as_str()), ("Hello", "stop"));
        assert_eq!(answer.usage, Some(json!({"total_tokens": 9})));
    }

    #[test]
    fn only_the_first_of_several_answers_is_taken() {
        let part = |index: u32, text: &str, finish: Value| json!({"index": index, "delta": {"content": text}, "finish_reason": finish});
        let answer = assemble(&[
            json!({"choices": [part(1, "no", json!(null))]}),
            json!({"choices": [part(1, "no", json!("length")), part(0, "yes", json!(null))]}),
            json!({"choices": [part(0, "!", json!("stop"))]}),
            json!({"choices": [part(1, "", json!("length"))]}),
        ]);
        assert_eq!((answer.content.as_str(), answer.finish.as_str()), ("yes!", "stop"));
    }

    #[test]
    fn calls_come_in_parts_and_mixed() {
        let answer = assemble(&[
            delta(json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "read", "arguments": ""}}]})),
            delta(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "list", "arguments": "{"}}]})),
            delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"pa"}}, {"index": 1, "function": {"arguments": "}"}}]})),
            delta(json!({"tool_calls": [{"index": 0, "function": {"name": "read", "arguments": "th\":1}"}}]})),
        ]);
        assert_eq!(calls(&answer), [("a", "read", "{\"path\":1}"), ("b", "list", "{}")]);
    }

    #[test]
    fn calls_without_numbers_or_with_the_same_are_told_apart_by_their_ids() {
        for number in [json!(null), json!(0)] {
            let answer = assemble(&[
                delta(json!({"tool_calls": [{"index": number, "id": "a", "function": {"name": "read", "arguments": "{}"}}]})),
                delta(json!({"tool_calls": [{"index": number, "id": "b", "function": {"name": "list", "arguments": "{\"x\""}}]})),
                delta(json!({"tool_calls": [{"index": number, "function": {"arguments": ":1}"}}]})),
            ]);
            assert_eq!(calls(&answer), [("a", "read", "{}"), ("b", "list", "{\"x\":1}")]);
        }
    }

    #[test]
    fn what_breaks_off_is_no_answer() {
        let mut assembly = Assembly::new(1_000);
        assembly.take(&delta(json!({"content": "half"})).to_string()).unwrap();
        assert_eq!(assembly.finish(), None);
    }

    #[test]
    fn what_is_too_large_or_no_part_is_said() {
        let mut assembly = Assembly::new(10);
        assert_eq!(assembly.take(&delta(json!({"content": "12345678901"})).to_string()), Err(Fault::TooLarge));
        assert!(matches!(assembly.take("{\"choices\""), Err(Fault::NotAPart(_))));
        let error = json!({"error": {"code": 502, "message": "upstream"}}).to_string();
        assert_eq!(assembly.take(&error), Err(Fault::Endpoint(Some(502), "upstream".to_owned())));
        let mut many = Assembly::new(100_000);
        let part = |n| delta(json!({"tool_calls": [{"index": n, "id": "", "function": {"name": "x"}}]})).to_string();
        assert!((0..MOST_CALLS).all(|n| many.take(&part(n)).is_ok()));
        assert_eq!(many.take(&part(MOST_CALLS)), Err(Fault::TooLarge));
    }
}
