//! What a plugin can ask for, and what an agent's settings grant it.
//!
//! Invariant: what is said to be granted is what an attempt gets, no more and no less. An import says that a plugin *can* ask, not that it
//! does: toolchains import whole worlds. So what is missing is told with the lines that would grant it, and is no fault.

use serde::Serialize;

use crate::config::AgentSettings;
use crate::domain::id::AgentId;

/// What becomes of a plugin that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// It gets it, within the agent's limits.
    Granted,
    /// It gets it when the agent's settings say so, and they do not.
    Missing,
    /// The settings grant it and the plugin cannot ask for it.
    Unused,
    /// No settings grant it.
    Refused,
}

impl Grant {
    /// The grant as people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Grant::Granted => "granted",
            Grant::Missing => "missing",
            Grant::Unused => "unused",
            Grant::Refused => "refused",
        }
    }
}

/// One thing that plugins can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Its name.
    pub name: &'static str,
    /// The imports by which the plugin can ask; none where only the settings name it.
    pub imports: Vec<String>,
    /// What becomes of it.
    pub grant: Grant,
    /// What is granted, or why nothing is.
    pub says: String,
    /// The lines of the configuration that would change that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toml: Option<String>,
}

/// An agent whose plugin is looked at.
struct Asker<'a> {
    agent: &'a AgentId,
    imports: &'a [String],
    settings: &'a AgentSettings,
}

/// What a plugin with these imports can ask for and what it gets as this agent, and what the settings grant in vain.
pub fn capabilities(agent: &AgentId, imports: &[String], settings: &AgentSettings) -> Vec<Capability> {
    let asker = Asker { agent, imports, settings };
    let limits = &settings.limits;
    let always = |name, prefixes: &[&str], says: String| asker.of(prefixes).map(|imports| granted(name, imports, says));
    let never = |name, prefixes: &[&str], says: &str| {
        let imports = asker.of(prefixes)?;
        Some(Capability { name, imports, grant: Grant::Refused, says: says.to_owned(), toml: None })
    };
    let told = [
        always(
            "files",
            &["wasi:filesystem/"],
            format!("the run's workspace as `/`, at most {} bytes in {} files", limits.disk_bytes, limits.disk_files),
        ),
        always(
            "output",
            &["wasi:cli/std", "wasi:cli/terminal", "wasi:logging/"],
            format!("the attempt's log, at most {} bytes", limits.log_bytes),
        ),
        asker.environment(),
        asker.config(),
        asker.http(),
        always(
            "memory",
            &["wasi:keyvalue/"],
            format!("a bucket of its own and one a session, each at most {} bytes in {} keys", limits.keyvalue_bytes, limits.keyvalue_keys),
        ),
        always("clocks", &["wasi:clocks/"], "the machine's time".to_owned()),
        always("randomness", &["wasi:random/"], "as much as it wants".to_owned()),
        always("progress", &["sandclock:agent/progress"], format!("at most {} reports and events", limits.events)),
        always("run context", &["sandclock:agent/context"], "who is running, and how long".to_owned()),
        always(
            "checkpoints",
            &["sandclock:agent/checkpoint"],
            format!("at most {} a run, of {} bytes together", limits.checkpoints, limits.checkpoint_bytes),
        ),
        always("approvals", &["sandclock:agent/approval"], format!("at most {} questions a run", limits.approvals)),
        never("sockets", &["wasi:sockets/"], "no agent gets any; requests over HTTP go through `[agents.NAME.http]`"),
    ];
    let mut told: Vec<Capability> = told.into_iter().flatten().collect();
    told.extend(asker.others(&told));
    told
}

/// What interfaces begin with that bring nothing in by themselves.
const CARRIERS: [&str; 4] = ["wasi:io/", "wasi:cli/exit", "wasi:http/types", "sandclock:agent/entry"];

fn granted(name: &'static str, imports: Vec<String>, says: String) -> Capability {
    Capability { name, imports, grant: Grant::Granted, says, toml: None }
}

impl Asker<'_> {
    fn of(&self, prefixes: &[&str]) -> Option<Vec<String>> {
        let is_asked = |import: &&String| prefixes.iter().any(|prefix| import.starts_with(prefix)) && !is_carrier(import);
        let found: Vec<String> = self.imports.iter().filter(is_asked).cloned().collect();
        (!found.is_empty()).then_some(found)
    }

    /// Every program of a standard library asks for its environment, so an empty one is nothing that is missing.
    fn environment(&self) -> Option<Capability> {
        let (name, names) = ("environment", self.settings.env.keys().map(String::as_str).collect::<Vec<_>>());
        match self.of(&["wasi:cli/environment"]) {
            Some(imports) if names.is_empty() => Some(granted(name, imports, "no variables are set".to_owned())),
            asked => Self::table(name, asked, "variables", &names),
        }
    }

    fn config(&self) -> Option<Capability> {
        let (name, names) = ("config", self.settings.config.keys().map(String::as_str).collect::<Vec<_>>());
        match self.of(&["wasi:config/"]) {
            Some(imports) if names.is_empty() => Some(Capability {
                name,
                imports,
                grant: Grant::Missing,
                says: "no values are set".to_owned(),
                toml: Some(format!("[agents.{}]\nconfig = {{ name = \"value\" }}", key(self.agent))),
            }),
            asked => Self::table(name, asked, "values", &names),
        }
    }

    fn http(&self) -> Option<Capability> {
        let name = "HTTP";
        let policy = &self.settings.http;
        let allowed: Vec<String> = policy.allow.iter().map(|entry| entry.toml(None, None)).collect();
        let used = policy.credentials.iter().map(|credential| credential.name.as_str()).collect::<Vec<_>>().join(", ");
        let says = match (allowed.join(", "), used.as_str()) {
            (allowed, "") => format!("requests to {allowed}"),
            (allowed, used) => format!("requests to {allowed}, with the credentials {used}"),
        };
        match (self.of(&["wasi:http/outgoing-handler"]), allowed.is_empty()) {
            (None, true) => None,
            (Some(imports), true) => Some(Capability {
                name,
                imports,
                grant: Grant::Missing,
                says: "every request is refused".to_owned(),
                toml: Some(format!("[agents.{}.http]\nallow = [\"https://api.example.com\"]", key(self.agent))),
            }),
            (Some(imports), false) => Some(granted(name, imports, says)),
            (None, false) => {
                let says = format!("{says} are allowed, and the plugin cannot make any");
                Some(Capability { name, imports: Vec::new(), grant: Grant::Unused, says, toml: None })
            }
        }
    }

    /// What is granted by naming it in a table, to a plugin that asks by these imports.
    fn table(name: &'static str, asked: Option<Vec<String>>, what: &str, names: &[&str]) -> Option<Capability> {
        if names.is_empty() {
            return None;
        }
        let names = names.join(", ");
        Some(match asked {
            Some(imports) => granted(name, imports, format!("the {what} {names}")),
            None => {
                let says = format!("the {what} {names} are set, and the plugin cannot read them");
                Capability { name, imports: Vec::new(), grant: Grant::Unused, says, toml: None }
            }
        })
    }

    /// What is imported and none of these tells of.
    fn others(&self, told: &[Capability]) -> Option<Capability> {
        let is_told = |import: &String| told.iter().any(|capability| capability.imports.contains(import));
        let imports: Vec<String> = self.imports.iter().filter(|import| !is_carrier(import) && !is_told(import)).cloned().collect();
        (!imports.is_empty()).then(|| granted("other", imports, "types, and functions without an effect outside".to_owned()))
    }
}

fn is_carrier(import: &str) -> bool {
    CARRIERS.iter().any(|carrier| import.starts_with(carrier))
}

/// An agent's id as a key of TOML.
fn key(agent: &AgentId) -> String {
    let is_bare = agent.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare { agent.to_string() } else { format!("\"{agent}\"") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    fn told(config: &str, imports: &[&str]) -> Vec<(&'static str, Grant, Option<String>)> {
        let agent = AgentId::parse("my.agent").unwrap();
        let settings = parse(config, Path::new("x.toml"), &Environment::default()).unwrap().settings.agents.remove(&agent).unwrap();
        let imports: Vec<String> = imports.iter().map(|import| format!("{import}@0.2.6")).collect();
        let told = capabilities(&agent, &imports, &settings);
        for import in imports.iter().filter(|import| !is_carrier(import)) {
            assert_eq!(told.iter().filter(|one| one.imports.contains(import)).count(), 1, "{import} is told of once");
        }
        told.into_iter().map(|one| (one.name, one.grant, one.toml)).collect()
    }

    const ALL: [&str; 9] = [
        "wasi:io/streams",
        "wasi:filesystem/types",
        "wasi:cli/environment",
        "wasi:config/store",
        "wasi:http/outgoing-handler",
        "wasi:http/types",
        "wasi:sockets/tcp",
        "wasi:keyvalue/store",
        "acme:other/thing",
    ];

    #[test]
    fn what_is_missing_is_told_with_lines_that_grant_it() {
        let before = told("[agents.\"my.agent\"]\n", &ALL);
        let of = |name: &str| before.iter().find(|one| one.0 == name).unwrap().1;
        assert_eq!([of("files"), of("memory"), of("environment"), of("other")], [Grant::Granted; 4]);
        assert_eq!([of("config"), of("HTTP")], [Grant::Missing; 2]);
        assert_eq!(of("sockets"), Grant::Refused);
        let lines: Vec<String> = before.iter().filter_map(|one| one.2.clone()).collect();
        assert_eq!(lines.len(), 2);
        // Pasted, each grants what it says.
        for (name, line) in before.iter().filter_map(|one| Some((one.0, one.2.clone()?))) {
            let after = told(&line, &ALL);
            assert_eq!(after.iter().find(|one| one.0 == name).unwrap().1, Grant::Granted, "{line}");
        }
    }

    #[test]
    fn what_is_granted_to_a_plugin_that_cannot_ask_is_unused() {
        let config = "[agents.\"my.agent\"]\nenv = { A = \"b\" }\nconfig = { c = 1 }\nhttp = { allow = [\"https://api.example.com\"] }";
        let named: Vec<_> = told(config, &["wasi:filesystem/types", "wasi:http/types"]).into_iter().map(|one| (one.0, one.1)).collect();
        let unused = |name| (name, Grant::Unused);
        assert_eq!(named, [("files", Grant::Granted), unused("environment"), unused("config"), unused("HTTP")]);
    }
}
