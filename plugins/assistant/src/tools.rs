//! The tools: what a model is told of them, and what its calls mean.

use crate::chat::ToolCall;
use crate::conversation::OUTPUT;
use crate::settings::Settings;
use serde_json::{Map, Value, json};

/// A call that can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Reads a file of the workspace, from an offset.
    Read { path: String, offset: u64 },
    /// Writes a whole file of the workspace.
    Write { path: String, content: String },
    /// Lists a folder of the workspace.
    List { path: String },
    /// Gets a URL.
    Fetch { url: String },
    /// Keeps a text in the session.
    Remember { key: String, value: String },
    /// Finds a text of the session, or the keys that there are.
    Recall { key: Option<String> },
    /// Asks a person.
    Ask { question: String },
}

/// The longest key of the session, in bytes.
const LONGEST_KEY: usize = 256;
/// The longest question to a person, in bytes.
const LONGEST_QUESTION: usize = 2_000;

impl Call {
    /// What a model wants done.
    ///
    /// # Errors
    /// It cannot be done, in a sentence for the model.
    pub fn parse(call: &ToolCall, settings: &Settings) -> Result<Self, String> {
        if !settings.allows(&call.name) {
            return Err(match settings.tools.is_empty() {
                true => "there are no tools: answer without them".to_owned(),
                false => format!("there is no tool {:?}: the tools are {}", call.name, settings.tools.join(", ")),
            });
        }
        let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let arguments: Map<String, Value> = serde_json::from_str(text)
            .map_err(|fault| format!("the arguments of {} are not a JSON object ({fault}): call it again", call.name))?;
        let arguments = Arguments { tool: &call.name, values: &arguments };
        match call.name.as_str() {
            "read" => Ok(Call::Read { path: path(arguments.text("path")?)?, offset: arguments.number("offset")? }),
            "write" => Ok(Call::Write { path: target(arguments.text("path")?)?, content: arguments.text("content")?.to_owned() }),
            "list" => match arguments.optional("path")? {
                None | Some("" | "." | "/" | "./") => Ok(Call::List { path: ".".to_owned() }),
                Some(folder) => Ok(Call::List { path: path(folder)? }),
            },
            "fetch" => Ok(Call::Fetch { url: arguments.text("url")?.to_owned() }),
            "remember" => Ok(Call::Remember { key: key(arguments.text("key")?)?, value: arguments.text("value")?.to_owned() }),
            "recall" => match arguments.optional("key")? {
                None | Some("") => Ok(Call::Recall { key: None }),
                Some(name) => Ok(Call::Recall { key: Some(key(name)?) }),
            },
            _ => {
                let question = arguments.text("question")?.trim();
                match question.len() {
                    0 => Err("`question` of ask is empty".to_owned()),
                    1..=LONGEST_QUESTION => Ok(Call::Ask { question: question.to_owned() }),
                    _ => Err(format!("`question` of ask is longer than {LONGEST_QUESTION} bytes: write the rest into a file and name it")),
                }
            }
        }
    }

    /// What a watcher sees of it.
    pub fn shown(&self) -> String {
        match self {
            Call::Read { path, .. } => format!("read {path}"),
            Call::Write { path, .. } => format!("write {path}"),
            Call::List { path } => format!("list {path}"),
            Call::Fetch { url } => format!("fetch {}", url.split(['?', '#']).next().unwrap_or_default()),
            Call::Remember { key, .. } => format!("remember {key}"),
            Call::Recall { key: Some(key) } => format!("recall {key}"),
            Call::Recall { key: None } => "recall".to_owned(),
            Call::Ask { .. } => "ask a person".to_owned(),
        }
    }
}

struct Arguments<'a> {
    tool: &'a str,
    values: &'a Map<String, Value>,
}

impl<'a> Arguments<'a> {
    fn optional(&self, name: &str) -> Result<Option<&'a str>, String> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("`{name}` of {} must be a text", self.tool)),
        }
    }

    fn text(&self, name: &str) -> Result<&'a str, String> {
        self.optional(name)?.ok_or_else(|| format!("`{name}` of {} is missing", self.tool))
    }

    fn number(&self, name: &str) -> Result<u64, String> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => value.as_u64().ok_or_else(|| format!("`{name}` of {} must be a whole number from 0 on", self.tool)),
        }
    }
}

/// A path inside of the workspace, relative to it and without detours.
fn path(text: &str) -> Result<String, String> {
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(format!("{text:?} leads outside of the workspace: name a path inside, such as notes/a.md")),
            part => parts.push(part),
        }
    }
    if parts.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{text:?} is no path of a file: name one such as notes/a.md"));
    }
    Ok(parts.join("/"))
}

/// A path that a file may be written to. The run's output is a file, so that nothing can be inside of it.
fn target(text: &str) -> Result<String, String> {
    let path = path(text)?;
    match path.split_once('/') {
        Some((OUTPUT, _)) => Err(format!("{path} cannot be written: {OUTPUT} is a file, the result, and no folder; name another path")),
        _ => Ok(path),
    }
}

fn key(text: &str) -> Result<String, String> {
    match text.len() {
        1..=LONGEST_KEY => Ok(text.to_owned()),
        _ => Err(format!("`key` must have 1 to {LONGEST_KEY} bytes")),
    }
}

/// The tools that the settings allow, as a request lists them.
pub fn definitions(settings: &Settings) -> Value {
    settings.tools.iter().map(|name| definition(name, settings)).collect()
}

fn definition(name: &str, settings: &Settings) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let path = text("A path in the workspace, such as notes/a.md");
    let (description, properties, required) = match name {
        "read" => (
            format!("Reads a text file of the workspace; at most {} bytes, and then says where to go on.", settings.max_tool_bytes),
            json!({"path": path, "offset": {"type": "integer", "minimum": 0, "description": "The byte to begin at"}}),
            json!(["path"]),
        ),
        "write" => (
            "Writes a file of the workspace, whole: what it held before is replaced, and missing folders are made.".to_owned(),
            json!({"path": path, "content": text("All that the file shall hold")}),
            json!(["path", "content"]),
        ),
        "list" => (
            "Lists a folder of the workspace: folders end in /, files have their size in bytes.".to_owned(),
            json!({"path": text("A folder of the workspace; the whole workspace when not given")}),
            json!([]),
        ),
        "fetch" => (
            "Gets a URL over HTTP from one of the allowed hosts. Redirects are not followed: fetch the location that is given.".to_owned(),
            json!({"url": text("An absolute URL")}),
            json!(["url"]),
        ),
        "remember" => (
            "Keeps a text under a key, for later runs of this session.".to_owned(),
            json!({"key": text("A short name"), "value": text("What to keep")}),
            json!(["key", "value"]),
        ),
        "recall" => (
            "Gives the text that was kept under a key in this session; without a key, the keys that there are.".to_owned(),
            json!({"key": text("The name under which it was kept")}),
            json!([]),
        ),
        _ => (
            "Asks a person to approve or deny something, and waits for the decision, however long it takes.".to_owned(),
            json!({"question": text("What is to be approved, with all that the person has to know")}),
            json!(["question"]),
        ),
    };
    let parameters = json!({"type": "object", "properties": properties, "required": required});
    json!({"type": "function", "function": {"name": name, "description": description, "parameters": parameters}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TOOLS;

    fn settings(tools: &[&str]) -> Settings {
        let tools = serde_json::to_string(tools).unwrap();
        let values = [("endpoint", "https://x.test"), ("model", "m"), ("tools", &tools)];
        Settings::read(values.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()).unwrap()
    }

    fn parse(name: &str, arguments: &str) -> Result<Call, String> {
        let call = ToolCall { name: name.to_owned(), arguments: arguments.to_owned(), ..ToolCall::default() };
        Call::parse(&call, &settings(&TOOLS))
    }

    #[test]
    fn good_calls_are_understood() {
        assert_eq!(parse("read", r#"{"path":"/a//./b.md","offset":7}"#), Ok(Call::Read { path: "a/b.md".into(), offset: 7 }));
        let write = |path: &str| parse("write", &json!({"path": path, "content": ""}).to_string());
        for path in ["output.md", "output.md.old/x", "notes/output.md"] {
            assert_eq!(write(path), Ok(Call::Write { path: path.into(), content: String::new() }));
        }
        assert_eq!(parse("list", ""), Ok(Call::List { path: ".".into() }));
        assert_eq!(parse("list", r#"{"path":"/"}"#), Ok(Call::List { path: ".".into() }));
        assert_eq!(parse("recall", r#"{"key":null}"#), Ok(Call::Recall { key: None }));
        assert_eq!(parse("ask", r#"{"question":" Deploy? "}"#), Ok(Call::Ask { question: "Deploy?".into() }));
    }

    #[test]
    fn bad_calls_are_sentences_for_the_model() {
        for (name, arguments, part) in [
            ("shell", "{}", "there is no tool \"shell\""),
            ("read", "{\"path\": \"a", "not a JSON object"),
            ("read", "[]", "not a JSON object"),
            ("read", "{}", "`path` of read is missing"),
            ("read", r#"{"path":7}"#, "must be a text"),
            ("read", r#"{"path":"a","offset":-1}"#, "whole number"),
            ("write", r#"{"path":"a"}"#, "`content` of write is missing"),
            ("write", r#"{"path":"../../etc/passwd","content":""}"#, "outside of the workspace"),
            ("write", r#"{"path":"./output.md/x","content":""}"#, "output.md is a file"),
            ("read", r#"{"path":"/"}"#, "no path"),
            ("read", r#"{"path":"a\u0000b"}"#, "no path"),
            ("remember", r#"{"key":"","value":"x"}"#, "1 to 256"),
            ("ask", r#"{"question":"  "}"#, "empty"),
        ] {
            let why = parse(name, arguments).unwrap_err();
            assert!(why.contains(part), "{name} {arguments}: {why}");
        }
        let long = json!({"question": "x".repeat(LONGEST_QUESTION + 1)}).to_string();
        assert!(parse("ask", &long).unwrap_err().contains("longer than"));
    }

    #[test]
    fn only_tools_that_are_allowed_are_told_and_done() {
        let few = settings(&["ask", "read"]);
        let told = definitions(&few);
        let names: Vec<&str> = told.as_array().unwrap().iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["read", "ask"]);
        let call = ToolCall { name: "write".into(), arguments: r#"{"path":"a","content":"b"}"#.into(), ..ToolCall::default() };
        assert!(Call::parse(&call, &few).unwrap_err().contains("the tools are read, ask"));
    }
}
