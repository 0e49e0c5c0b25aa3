//! What the configuration says: `[agents.NAME].config`, read and judged at once, before anything is paid for.
//!
//! It fails with every fault in one sentence each, so that one look at the run mends all of them.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Everything that an assistant can be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The base URL of the endpoint, without a slash at its end: `/chat/completions` follows.
    pub endpoint: String,
    /// The model, as the endpoint names it.
    pub model: String,
    /// What the model is to be and do.
    pub instruction: String,
    /// The names of the tools that it may call.
    pub tools: Vec<String>,
    /// Whether answers are asked for as streams.
    pub stream: bool,
    /// The model's answers in one run.
    pub max_turns: u32,
    /// Tool calls that are done in one turn.
    pub max_tool_calls: usize,
    /// Turns in a row in which nothing can be done, before the run fails.
    pub max_mistakes: u32,
    /// Bytes of one tool's result that the model gets.
    pub max_tool_bytes: usize,
    /// Bytes of one answer of the model.
    pub max_answer_bytes: usize,
    /// Bytes of one request to the model.
    pub max_context_bytes: usize,
    /// How long an answer's first byte, and each part after it, may take.
    pub timeout_seconds: u64,
    /// The longest wait between two tries of one request; a longer one is left to the task's retry policy.
    pub max_wait_seconds: u64,
    /// Tries of one request in one attempt.
    pub max_tries: u32,
    /// What else goes into the body of each request, such as `temperature`.
    pub parameters: Map<String, Value>,
}

/// Every tool there is, in the order in which a model is told of them.
pub const TOOLS: [&str; 7] = ["read", "write", "list", "fetch", "remember", "recall", "ask"];
const DEFAULT_TOOLS: [&str; 3] = ["read", "write", "list"];
/// Keys of the configuration that go into the body of each request under the same name.
const PASSED: [&str; 3] = ["max_tokens", "temperature", "top_p"];
/// What a request's body has from elsewhere, so that `extra` cannot name it.
const OWN: [&str; 6] = ["messages", "model", "stream", "stream_options", "tool_choice", "tools"];
/// The most checkpoints that a run of these settings may keep; a run has a thousand, unless the daemon is told otherwise.
const MOST_KEPT: usize = 950;
const KNOWN: [&str; 18] = [
    "endpoint",
    "extra",
    "instruction",
    "max_answer_bytes",
    "max_context_bytes",
    "max_mistakes",
    "max_tokens",
    "max_tool_bytes",
    "max_tool_calls",
    "max_tries",
    "max_turns",
    "max_wait_seconds",
    "model",
    "stream",
    "temperature",
    "timeout_seconds",
    "tools",
    "top_p",
];

impl Settings {
    /// Reads all values of the configuration.
    ///
    /// # Errors
    /// All that is wrong, in sentences.
    pub fn read(values: Vec<(String, String)>) -> Result<Self, String> {
        let mut reader = Reader { values, faults: Vec::new() };
        let settings = Settings {
            endpoint: reader.required("endpoint", "the base URL of the endpoint, such as \"https://api.openai.com/v1\""),
            model: reader.required("model", "the model as the endpoint names it"),
            instruction: reader.or("instruction", String::new()),
            tools: reader.tools(),
            stream: reader.or("stream", true),
            max_turns: reader.number("max_turns", 20, 1, 200),
            max_tool_calls: reader.number("max_tool_calls", 8, 1, 64),
            max_mistakes: reader.number("max_mistakes", 5, 1, 100),
            max_tool_bytes: reader.number("max_tool_bytes", 16 * 1024, 256, 256 * 1024),
            max_answer_bytes: reader.number("max_answer_bytes", 256 * 1024, 1024, 384 * 1024),
            max_context_bytes: reader.number("max_context_bytes", 400 * 1024, 8 * 1024, 8 * 1024 * 1024),
            timeout_seconds: reader.number("timeout_seconds", 120, 1, 3_600),
            max_wait_seconds: reader.number("max_wait_seconds", 30, 0, 3_600),
            max_tries: reader.number("max_tries", 3, 1, 20),
            parameters: reader.parameters(),
        };
        let unknown: Vec<String> =
            reader.values.iter().map(|(name, _)| name.clone()).filter(|name| !KNOWN.contains(&name.as_str())).collect();
        for name in unknown {
            reader.faults.push(format!("`{name}` is not a setting of the assistant: those are {}", KNOWN.join(", ")));
        }
        reader.faults.extend(settings.too_much_to_keep());
        let settings = Settings { endpoint: settings.endpoint.trim_end_matches('/').to_owned(), ..settings };
        if reader.faults.is_empty() {
            Ok(settings)
        } else {
            Err(format!("the `config` of this agent is wrong: {}", reader.faults.join("; ")))
        }
    }

    /// Why what all turns may keep is more than a run has room for.
    fn too_much_to_keep(&self) -> Option<String> {
        let (turns, calls) = (usize::try_from(self.max_turns).unwrap_or(usize::MAX), self.max_tool_calls);
        let each = calls.saturating_add(1);
        let kept = turns.saturating_mul(each);
        (kept > MOST_KEPT).then(|| {
            let (fewer_turns, fewer_calls) = (MOST_KEPT / each, (MOST_KEPT / turns).saturating_sub(1));
            format!("{turns} `max_turns` with {calls} `max_tool_calls` may keep {kept} checkpoints, and {MOST_KEPT} is the most: lower `max_turns` to {fewer_turns}, or `max_tool_calls` to {fewer_calls}")
        })
    }

    /// Where requests go.
    pub fn url(&self) -> String {
        match self.endpoint.ends_with("/chat/completions") {
            true => self.endpoint.clone(),
            false => format!("{}/chat/completions", self.endpoint),
        }
    }

    /// The endpoint's host and, if it is named, port.
    pub fn host(&self) -> &str {
        let rest = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, rest)| rest);
        rest.split(['/', '?']).next().unwrap_or(rest)
    }

    /// Whether the model may call a tool.
    pub fn allows(&self, tool: &str) -> bool {
        self.tools.iter().any(|name| name == tool)
    }
}

struct Reader {
    values: Vec<(String, String)>,
    faults: Vec<String>,
}

impl Reader {
    fn text(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A value that is a text as it is or JSON; a text is tried as both.
    fn get<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let text = self.text(name)?.to_owned();
        let read = serde_json::from_value(Value::String(text.clone())).or_else(|_| serde_json::from_str(&text));
        read.map_err(|fault| self.faults.push(format!("`{name}` is not of the kind that it must be ({fault})"))).ok()
    }

    fn or<T: DeserializeOwned>(&mut self, name: &str, default: T) -> T {
        self.get(name).unwrap_or(default)
    }

    fn required(&mut self, name: &str, what: &str) -> String {
        let given = self.text(name).is_some();
        let text: String = self.get(name).unwrap_or_default();
        if text.trim().is_empty() && (!given || self.faults.is_empty()) {
            self.faults.push(format!("`{name}` is missing; give it {what}"));
        }
        text.trim().to_owned()
    }

    fn number<T>(&mut self, name: &str, default: T, least: T, most: T) -> T
    where
        T: DeserializeOwned + PartialOrd + Copy + std::fmt::Display,
    {
        let value = self.or(name, default);
        if value < least || value > most {
            self.faults.push(format!("`{name}` must be from {least} to {most}"));
        }
        value
    }

    fn tools(&mut self) -> Vec<String> {
        let tools: Vec<String> = self.or("tools", DEFAULT_TOOLS.map(str::to_owned).to_vec());
        for tool in tools.iter().filter(|tool| !TOOLS.contains(&tool.as_str())) {
            self.faults.push(format!("`tools` names {tool:?}, and the tools are {}", TOOLS.join(", ")));
        }
        // In one order, so that the same settings make the same requests.
        TOOLS.iter().filter(|known| tools.iter().any(|tool| tool == *known)).map(|known| (*known).to_owned()).collect()
    }

    fn parameters(&mut self) -> Map<String, Value> {
        let mut parameters: Map<String, Value> = self.or("extra", Map::new());
        for name in OWN.iter().filter(|name| parameters.contains_key(**name)) {
            self.faults.push(format!("`extra` names `{name}`, which the assistant sets itself"));
        }
        if parameters.contains_key("n") {
            self.faults.push("`extra` names `n`, and the assistant takes one answer to a request: take it out".to_owned());
        }
        for name in PASSED {
            if let Some(value) = self.get::<serde_json::Number>(name) {
                parameters.insert(name.to_owned(), Value::Number(value));
            }
        }
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_endpoint_and_a_model_are_enough() {
        let settings = read(&[("endpoint", "http://127.0.0.1:8080/v1/"), ("model", "small")]).unwrap();
        assert_eq!(settings.url(), "http://127.0.0.1:8080/v1/chat/completions");
        assert_eq!(settings.host(), "127.0.0.1:8080");
        assert_eq!((settings.tools.join(" "), settings.stream, settings.max_turns), ("read write list".to_owned(), true, 20));
        let whole = read(&[("endpoint", "https://x.test/openai/chat/completions"), ("model", "4")]).unwrap();
        assert_eq!((whole.url().as_str(), whole.model.as_str()), ("https://x.test/openai/chat/completions", "4"));
    }

    #[test]
    fn every_value_is_read() {
        let settings = read(&[
            ("endpoint", "https://x.test"),
            ("model", "m"),
            ("instruction", "Be brief."),
            ("tools", r#"["ask","read"]"#),
            ("stream", "false"),
            ("max_turns", "3"),
            ("temperature", "0.5"),
            ("max_tokens", "100"),
            ("extra", r#"{"seed":1}"#),
        ])
        .unwrap();
        assert_eq!(settings.tools, ["read", "ask"]);
        assert!(settings.allows("ask") && !settings.allows("fetch") && !settings.stream);
        assert_eq!(Value::Object(settings.parameters), serde_json::json!({"seed": 1, "temperature": 0.5, "max_tokens": 100}));
    }

    #[test]
    fn what_a_run_may_keep_has_room() {
        let with = |turns: &str, calls: &str| {
            read(&[("endpoint", "https://x.test"), ("model", "m"), ("max_turns", turns), ("max_tool_calls", calls)])
        };
        let why = with("200", "8").unwrap_err();
        assert!(why.contains("1800 checkpoints") && why.contains("lower `max_turns` to 105, or `max_tool_calls` to 3"), "{why}");
        for (turns, calls) in [("105", "8"), ("200", "3"), ("14", "64")] {
            assert!(with(turns, calls).is_ok(), "{turns} {calls}");
        }
        assert!(with("106", "8").is_err() && with("200", "4").is_err());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let why = read(&[
            ("tools", r#"["shell"]"#),
            ("max_turns", "0"),
            ("stream", "perhaps"),
            ("colour", "red"),
            ("extra", r#"{"model":"x","n":2}"#),
        ]);
        let why = why.unwrap_err();
        for part in [
            "`endpoint` is missing",
            "`model` is missing",
            "\"shell\"",
            "`max_turns` must be from 1",
            "`stream`",
            "`colour`",
            "`extra` names `model`",
            "`extra` names `n`",
        ] {
            assert!(why.contains(part), "{part} is not in: {why}");
        }
    }
}
