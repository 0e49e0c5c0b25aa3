//! `[agents.NAME.http]`: what an agent may ask of whom; `[credentials.NAME]`: what is put into requests to one host.
//!
//! Invariant: a secret is never in the file: a credential names where its value is. What is read here is judged by the rules that judge
//! requests, so that an entry which could never agree with one is refused at its line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::agents::{LONGEST, given};
use super::document::{Node, Value};
use super::fault::{shown, suggestion};
use super::section::{Reading, Section, file_key, seconds_json, seconds_of, text_of, whole_of};
use crate::domain::http::{Allowed, Credential, HttpLimits, HttpPolicy, Source};
use crate::domain::id::AgentId;
use crate::domain::time::Seconds;

/// The credentials of the file by their names; none for one that is faulty, of which that was said.
pub(super) type Credentials = BTreeMap<String, Option<Arc<Credential>>>;

/// The most entries of an allow-list.
const ENTRIES: usize = 1000;
const TIB: u64 = 1 << 40;

/// Reads `[credentials]`.
pub(super) fn credentials<'a>(reading: &mut Reading<'a>, root: Option<&'a Node>) -> Credentials {
    let mut credentials = Credentials::new();
    let table = match root.map(|node| (&node.value, &node.origin)) {
        None => return credentials,
        Some((Value::Table(table), _)) => table,
        Some((other, origin)) => {
            let message = format!("must hold tables such as `[credentials.openai]`, not {}", other.describe());
            reading.fault(origin.clone(), "credentials", message);
            return credentials;
        }
    };
    for (name, node) in table {
        // What an agent may be called is good enough for a credential.
        if AgentId::parse(name).is_err() {
            let message = "has a bad name: use at most 128 letters, digits, `_`, `.` and `-`";
            reading.fault(node.origin.clone(), &format!("credentials.{}", shown(name)), message);
            continue;
        }
        let credential = credential(reading, name, node);
        credentials.insert(name.clone(), credential.map(Arc::new));
    }
    credentials
}

fn credential<'a>(reading: &mut Reading<'a>, name: &str, node: &'a Node) -> Option<Credential> {
    let path = format!("credentials.{name}");
    let faults_before = reading.faults.len();
    let mut section = reading.open(Some(node), path.clone()).file_only();
    let host = given(&mut section, "host", |host: &String| host.as_str().into(), host_of);
    let port = given(&mut section, "port", |port: &u16| (*port).into(), |node| whole_of(node, &(1..=65_535)));
    let allow_http_loopback = section.flag(file_key("allow_http_loopback"), false);
    let registered_agents = section.flag(file_key("registered_agents"), false);
    let header = given(&mut section, "header", |header: &String| header.as_str().into(), header_of);
    let prefix = given(&mut section, "prefix", |prefix: &String| prefix.as_str().into(), prefix_of);
    let source = source(&mut section);
    let requests_per_minute =
        given(&mut section, "requests_per_minute", |most: &u32| (*most).into(), |node| whole_of(node, &(1..=100_000)));
    let concurrent = given(&mut section, "concurrent", |most: &u32| (*most).into(), |node| whole_of(node, &(1..=100_000)));
    section.finish();
    let missing = |reading: &mut Reading<'a>, message: &str| reading.fault(node.origin.clone(), &path, message);
    if reading.faults.len() > faults_before {
        return None;
    }
    let Some(host) = host else {
        missing(reading, "has no `host`; name the one host that gets it");
        return None;
    };
    let header = header.unwrap_or_else(|| "authorization".to_owned());
    let prefix = prefix.unwrap_or_else(|| if header == "authorization" { "Bearer ".to_owned() } else { String::new() });
    let Some(source) = source else {
        missing(reading, "must name exactly one of `env`, `file` and `command`, where its value is");
        return None;
    };
    let (name, port) = (name.to_owned(), port.unwrap_or(443));
    Some(Credential { name, host, port, allow_http_loopback, header, prefix, source, registered_agents, requests_per_minute, concurrent })
}

/// Where the value is, unless none or several are named.
fn source(section: &mut Section<'_, '_>) -> Option<Source> {
    let text = |text: &String| text.as_str().into();
    let variable = given(section, "env", text, |node| match text_of(node)? {
        name if !name.is_empty() && !name.contains(['=', '\0']) => Ok(name.to_owned()),
        _ => Err("must be the name of a variable".to_owned()),
    });
    let file = given(section, "file", text, |node| match text_of(node)? {
        path if !path.is_empty() && !path.contains('\0') => Ok(path.to_owned()),
        _ => Err("must be the path of a file".to_owned()),
    });
    // Its arguments are nobody's business.
    let program = |argv: &Vec<String>| argv.first().map(String::as_str).unwrap_or_default().into();
    let command = given(section, "command", program, |node| match texts(node)? {
        argv if argv.first().is_some_and(|program| !program.is_empty()) && !argv.iter().any(|part| part.contains('\0')) => Ok(argv),
        _ => Err("must be a program and its arguments, such as `[\"op\", \"read\", \"op://vault/key\"]`".to_owned()),
    });
    let keep = given(section, "keep_seconds", seconds_json, |node| seconds_of(node, &(0.0..=LONGEST)));
    if keep.is_some() && command.is_none() {
        let origin = section.origin_of("keep_seconds");
        let path = section.path_of("keep_seconds");
        section.reading.fault(origin, &path, "is for a `command` only; leave it out");
    }
    match (variable, file, command) {
        (Some(name), None, None) => {
            let value = section.reading.env.secret(&name);
            Some(Source::Variable { name, value })
        }
        (None, Some(path), None) => Some(Source::File(PathBuf::from(path))),
        (None, None, Some(argv)) => Some(Source::Command { argv, keep: keep.unwrap_or(Seconds::whole(300)) }),
        _ => None,
    }
}

fn host_of(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    Credential::host_of(text).ok_or_else(|| {
        format!("must be one host's name or address, such as `api.openai.com`, not `{}`; its port goes into `port`", shown(text))
    })
}

fn header_of(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    Credential::header_of(text)
        .ok_or_else(|| format!("must be a header's name such as `authorization` or `x-api-key`, not `{}`", shown(text)))
}

fn prefix_of(node: &Node) -> Result<String, String> {
    match text_of(node)? {
        text if text.len() <= 64 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => Err("must be at most 64 letters, digits, signs and spaces of ASCII, such as `Bearer `".to_owned()),
    }
}

fn texts(node: &Node) -> Result<Vec<String>, String> {
    match &node.value {
        Value::List(nodes) => nodes.iter().map(|node| text_of(node).map(str::to_owned)).collect(),
        other => Err(format!("must be a list of texts in quotes, not {}", other.describe())),
    }
}

/// Reads `[agents.NAME.http]`; without it nothing is allowed.
pub(super) fn policy<'a>(reading: &mut Reading<'a>, node: Option<&'a Node>, path: String, known: &Credentials) -> Arc<HttpPolicy> {
    if node.is_none() {
        return Arc::default();
    }
    let mut section = reading.open(node, path).file_only();
    let show = |allow: &Vec<Allowed>| allow.iter().map(Allowed::shown).collect::<Vec<_>>().into();
    let allow = given(&mut section, "allow", show, allow_of).unwrap_or_default();
    let names = given(
        &mut section,
        "credentials",
        |names: &Vec<String>| names.clone().into(),
        |node| {
            let names = texts(node)?;
            match names.iter().find(|name| !known.contains_key(*name)) {
                None => Ok(names),
                Some(name) => {
                    let near = suggestion(name, known.keys().map(String::as_str));
                    Err(format!("names the credential `{}`, and there is no `[credentials.{}]`: {near}", shown(name), shown(name)))
                }
            }
        },
    );
    let base = HttpLimits::default();
    let limits = HttpLimits {
        calls: section.whole(file_key("max_calls"), base.calls, 1..=10_000_000),
        request_bytes: section.whole(file_key("max_request_bytes"), base.request_bytes, 1..=TIB),
        response_bytes: section.whole(file_key("max_response_bytes"), base.response_bytes, 1..=TIB),
        time: section.seconds(file_key("max_seconds"), base.time, 0.001..=LONGEST),
        at_once: section.whole(file_key("max_concurrent"), base.at_once, 1..=10_000),
    };
    section.finish();
    let credentials = names.iter().flatten().filter_map(|name| known.get(name).cloned().flatten()).collect();
    Arc::new(HttpPolicy { allow, limits, credentials })
}

fn allow_of(node: &Node) -> Result<Vec<Allowed>, String> {
    match &node.value {
        Value::List(nodes) if nodes.len() > ENTRIES => Err(format!("has {} entries; at most {ENTRIES} are read", nodes.len())),
        Value::List(nodes) => nodes.iter().map(entry_of).collect(),
        other => Err(format!("must be a list such as `[\"https://api.example.com\"]`, not {}", other.describe())),
    }
}

fn entry_of(node: &Node) -> Result<Allowed, String> {
    let table = match &node.value {
        Value::Text(url) => return Allowed::parse(url, &[], &[]),
        Value::Table(table) => table,
        other => return Err(format!("must hold URLs in quotes or `{{ url = \"https://api.example.com\" }}`, not {}", other.describe())),
    };
    const KNOWN: [&str; 3] = ["url", "methods", "addresses"];
    if let Some(name) = table.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(format!("has an entry with `{}`, which is not a setting: {}", shown(name), suggestion(name, KNOWN)));
    }
    let Some(url) = table.get("url") else { return Err("has an entry without a `url`; give it one".to_owned()) };
    let url = text_of(url).map_err(|message| format!("has an entry whose `url` {message}"))?;
    let list = |name: &str| match table.get(name) {
        None => Ok(Vec::new()),
        Some(node) => match texts(node).map_err(|message| format!("has an entry whose `{name}` {message}"))? {
            list if list.is_empty() => Err(format!("has an entry whose `{name}` is empty; leave it out, or name one")),
            list => Ok(list),
        },
    };
    Allowed::parse(url, &list("methods")?, &list("addresses")?)
}
