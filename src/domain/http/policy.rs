//! What an agent's configuration says of outgoing HTTP.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::call::{Refusal, Rule};
use super::rule::{Allowed, Target};
use crate::domain::secret::Secret;
use crate::domain::time::Seconds;

const MIB: u64 = 1024 * 1024;
/// The longest list that is written out, in bytes.
const LONGEST_TOML: usize = 2048;

/// What the calls of one attempt may use, all of them together. Every limit has a guest in the tests that trips it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// How many calls an attempt may make, refused ones included.
    pub calls: u32,
    /// Bytes that it may send, headers included.
    pub request_bytes: u64,
    /// Bytes that it may receive, headers included.
    pub response_bytes: u64,
    /// The time during which at least one call may be under way.
    pub time: Seconds,
    /// How many calls may be under way at once.
    pub at_once: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits { calls: 1_000, request_bytes: 64 * MIB, response_bytes: 256 * MIB, time: Seconds::whole(600), at_once: 64 }
    }
}

/// Where the value of a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A variable of the daemon's environment, as it was when the daemon started; none where it was missing.
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<Secret>,
    },
    /// A file, read again whenever it changes.
    File(PathBuf),
    /// What a command prints.
    Command {
        /// The program and its arguments, without a shell.
        argv: Vec<String>,
        /// How long what it printed is used.
        keep: Seconds,
    },
}

/// A header that is put into the requests to one host, and that no guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its name, which is all that is ever shown.
    pub name: String,
    /// The one host that gets it, normalised.
    pub host: String,
    /// The host's port.
    pub port: u16,
    /// Whether it is also sent without TLS, to this machine only.
    pub allow_http_loopback: bool,
    /// The header's name, in small letters.
    pub header: String,
    /// What stands before the value in the header.
    pub prefix: String,
    /// Where the value comes from.
    pub source: Source,
    /// Whether agents that are registered over the API may name it.
    pub registered_agents: bool,
    /// How many calls with it may begin in any minute, over all agents of the daemon.
    pub requests_per_minute: Option<u32>,
    /// How many calls with it may be under way at once, over all agents of the daemon.
    pub concurrent: Option<u32>,
}

impl Credential {
    /// A host in the form in which it is compared; none for what is no single host.
    pub fn host_of(text: &str) -> Option<String> {
        let target = Target::parse("GET", "https", text, "/").ok()?;
        // Brackets hold the colons of an address.
        let has_port = text.rsplit(']').next().is_some_and(|end| end.contains(':'));
        (!has_port && !target.host.contains('*')).then_some(target.host)
    }

    /// A header's name in small letters; none for what is no name, or no credential's.
    pub fn header_of(text: &str) -> Option<String> {
        const NOT: [&str; 11] = [
            "connection",
            "content-length",
            "content-type",
            "expect",
            "host",
            "keep-alive",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "traceparent",
        ];
        let name = text.to_ascii_lowercase();
        let is_name =
            !name.is_empty() && name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        (is_name && !NOT.contains(&name.as_str())).then_some(name)
    }

    /// Whether a request goes to the credential's host.
    pub fn is_for(&self, target: &Target) -> bool {
        self.host == target.host && self.port == target.port
    }

    /// Refuses to send it where others could read it.
    ///
    /// # Errors
    /// The request is not sent over TLS.
    pub fn check_channel(&self, target: &Target) -> Result<(), Refusal> {
        let is_loopback = target.host == "localhost" || target.address().is_some_and(|address| address.is_loopback());
        if target.is_https || (self.allow_http_loopback && is_loopback) {
            return Ok(());
        }
        let mend = if is_loopback { ", or set `allow_http_loopback = true` for it" } else { "" };
        let sentence = format!("the credential `{}` is sent over TLS only; ask for `https`{mend}", self.name);
        let toml = is_loopback.then(|| format!("[credentials.{}]\nallow_http_loopback = true", super::toml_key(&self.name)));
        Err(Refusal { rule: Rule::Credential, sentence, toml })
    }
}

/// What one agent may do over HTTP. The default allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    /// What it may ask of whom.
    pub allow: Vec<Allowed>,
    /// What its calls may use.
    pub limits: HttpLimits,
    /// The credentials that are put into its requests.
    pub credentials: Vec<Arc<Credential>>,
}

impl HttpPolicy {
    /// The entry that allows a request.
    ///
    /// # Errors
    /// None does: the rule of the entry that comes nearest, and the TOML that would allow it where `lines` are wanted.
    pub fn judge(&self, agent: &str, target: &Target, lines: bool) -> Result<&Allowed, Refusal> {
        let mut nearest: Option<(Rule, &Allowed)> = None;
        for entry in &self.allow {
            match entry.against(target) {
                None => return Ok(entry),
                Some(rule) if nearest.is_none_or(|(best, _)| rule > best) => nearest = Some((rule, entry)),
                Some(_) => {}
            }
        }
        let rule = nearest.map_or(Rule::Host, |(rule, _)| rule);
        let agent = &super::toml_key(agent);
        let sentence = match rule {
            _ if self.allow.is_empty() => format!("the agent may ask nobody: `[agents.{agent}.http]` allows no host"),
            Rule::Scheme => format!("`[agents.{agent}.http]` allows `{}` with another scheme only", target.host),
            Rule::Port => format!("`[agents.{agent}.http]` does not allow port {} of `{}`", target.port, target.host),
            Rule::Path => format!("`[agents.{agent}.http]` allows other paths of `{}` only", target.host),
            Rule::Method => format!("`[agents.{agent}.http]` does not allow the method {} there", target.method),
            _ => format!("`[agents.{agent}.http]` does not list `{}`", target.host),
        };
        let toml = lines.then(|| match (rule, nearest) {
            (Rule::Method, Some((_, entry))) => self.toml(agent, Some(entry), Some(&entry.toml(Some(&target.method), None))),
            _ => self.toml(agent, None, Some(&format!("{:?}", target.origin()))),
        });
        Err(Refusal { rule, sentence, toml })
    }

    /// The refusal of an address that a listed name stands for, or of all of them.
    pub fn address_refused(&self, agent: &str, target: &Target, entry: &Allowed, address: IpAddr, kind: &str) -> Refusal {
        let sentence = format!("`{}` stands for {address}, {kind}, which only an entry with `addresses` allows", target.host);
        let toml = self.toml(&super::toml_key(agent), Some(entry), Some(&entry.toml(None, Some(address))));
        Refusal { rule: Rule::Address, sentence, toml: Some(toml) }
    }

    /// The section with `entry` replaced by `by`, or `by` added where there is no entry to replace.
    fn toml(&self, agent: &str, entry: Option<&Allowed>, by: Option<&str>) -> String {
        let mut list: Vec<String> = self.allow.iter().filter(|other| Some(*other) != entry).map(|other| other.toml(None, None)).collect();
        list.extend(by.map(str::to_owned));
        let all = list.join(", ");
        match list.last() {
            // A long list is the reader's own to add to.
            Some(last) if all.len() > LONGEST_TOML => format!("# in `allow` of [agents.{agent}.http]\n{last}"),
            _ => format!("[agents.{agent}.http]\nallow = [{all}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(urls: &[&str]) -> HttpPolicy {
        let allow = urls.iter().map(|url| Allowed::parse(url, &["GET".to_owned()], &[]).unwrap());
        HttpPolicy { allow: allow.collect(), ..HttpPolicy::default() }
    }

    fn target(method: &str, url: &str) -> Target {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_once('/').unwrap();
        Target::parse(method, scheme, authority, &format!("/{path}")).unwrap()
    }

    #[test]
    fn a_refusal_names_the_rule_that_comes_nearest_and_gives_lines_to_paste() {
        let policy = policy(&["https://a.example/v1/", "https://b.example"]);
        for (method, url, rule, line) in [
            ("GET", "https://c.example/", Rule::Host, r#""https://c.example"]"#),
            ("GET", "http://a.example/v1/", Rule::Scheme, r#""http://a.example"]"#),
            ("GET", "https://a.example:8/v1/", Rule::Port, r#""https://a.example:8"]"#),
            ("GET", "https://a.example/v2/", Rule::Path, r#""https://a.example"]"#),
            ("POST", "https://b.example/", Rule::Method, r#"{ url = "https://b.example", methods = ["GET", "POST"] }]"#),
        ] {
            let refusal = policy.judge("x", &target(method, url), true).unwrap_err();
            assert_eq!(refusal.rule, rule, "{url}");
            assert_eq!(policy.judge("x", &target(method, url), false).unwrap_err(), Refusal { toml: None, ..refusal.clone() });
            let toml = refusal.toml.unwrap();
            assert!(toml.starts_with("[agents.x.http]\nallow = [{ url = ") && toml.ends_with(line), "{toml}");
        }
        assert!(policy.judge("x", &target("GET", "https://a.example/v1/x"), true).is_ok());
        let none = HttpPolicy::default().judge("x", &target("GET", "https://a.example/"), true).unwrap_err();
        assert_eq!(none.toml.as_deref(), Some("[agents.x.http]\nallow = [\"https://a.example\"]"));
    }
}
