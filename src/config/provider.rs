//! Whom the assistant can ask: the endpoints of known providers, and the credential of this daemon that fits one.
//!
//! Invariant: no key is ever read here. What fits is told by name, and what does not with the lines that mend it.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::{Host, Url};

use crate::domain::http::{Credential, toml_key};

/// Providers with the base URL of their chat completions as OpenAI has them.
const PROVIDERS: [(&str, &str); 8] = [
    ("openai", "https://api.openai.com/v1"),
    ("anthropic", "https://api.anthropic.com/v1"),
    ("deepseek", "https://api.deepseek.com/v1"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
    ("groq", "https://api.groq.com/openai/v1"),
    ("mistral", "https://api.mistral.ai/v1"),
    ("ollama", "http://localhost:11434/v1"),
    ("openrouter", "https://openrouter.ai/api/v1"),
];

/// Where a model is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The base URL, without a slash at its end.
    pub(super) base: String,
    /// The provider's name, when it is a known one and the host its own.
    provider: Option<&'static str>,
    host: String,
    port: u16,
    is_https: bool,
}

impl Endpoint {
    /// The endpoint of a provider, or of a base URL, which wins.
    ///
    /// # Errors
    /// The field that is wrong, and what is wrong with it.
    pub(super) fn find(provider: Option<&str>, base_url: Option<&str>) -> Result<Endpoint, (&'static str, String)> {
        let lower = provider.map(str::to_ascii_lowercase);
        let known = PROVIDERS.into_iter().find(|(name, _)| lower.as_deref() == Some(*name));
        let names = || PROVIDERS.map(|(name, _)| name).join(", ");
        match (base_url, known, provider) {
            (Some(url), ..) => Endpoint::of_base_url(url).map_err(|why| ("base_url", why)),
            (None, Some((_, url)), _) => Endpoint::of_base_url(url).map_err(|why| ("provider", why)),
            (None, None, Some(_)) => Err((
                "provider",
                format!(
                    "is none whose endpoint is known here, which are {}; for another one give `base_url`, the base of its chat completions as OpenAI has them",
                    names()
                ),
            )),
            (None, None, None) => Err(("provider", format!("is required: one of {}, or `base_url`", names()))),
        }
    }

    fn of_base_url(text: &str) -> Result<Endpoint, String> {
        let url = Url::parse(text).ok();
        let Some((endpoint, is_loopback)) = url.and_then(|url| Some((Endpoint::at(&url)?, is_loopback(&url)))) else {
            return Err("must be a URL such as `https://api.example.com/v1`, without user, query or fragment".to_owned());
        };
        if !endpoint.is_https && !is_loopback {
            return Err(format!(
                "must begin with `https://`: over `http://` the key would go to `{}` for anybody on the way to read, so that is for hosts of this machine alone, such as `localhost`",
                endpoint.host
            ));
        }
        Ok(endpoint)
    }

    fn at(url: &Url) -> Option<Endpoint> {
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        if !is_plain || !matches!(url.scheme(), "http" | "https") {
            return None;
        }
        let host = Credential::host_of(url.host_str()?)?;
        let base = url.as_str().trim_end_matches('/').trim_end_matches("/chat/completions").to_owned();
        let is_own = |own: &Url| own.host() == url.host() && own.port_or_known_default() == url.port_or_known_default();
        let provider = PROVIDERS.into_iter().find(|(_, own)| Url::parse(own).is_ok_and(|own| is_own(&own))).map(|(name, _)| name);
        Some(Endpoint { base, provider, host, port: url.port_or_known_default()?, is_https: url.scheme() == "https" })
    }

    /// Where requests for answers go.
    pub(super) fn url(&self) -> String {
        format!("{}/chat/completions", self.base)
    }

    /// The credential that agents registered over the API may use for it.
    ///
    /// # Errors
    /// There is none, or no single one: what to do.
    pub(super) fn credential(&self, credentials: &BTreeMap<String, Arc<Credential>>) -> Result<String, String> {
        let fitting: Vec<&Arc<Credential>> =
            credentials.values().filter(|credential| credential.host == self.host && credential.port == self.port).collect();
        let open: Vec<&str> =
            fitting.iter().filter(|credential| credential.registered_agents).map(|credential| credential.name.as_str()).collect();
        match (open.as_slice(), fitting.first()) {
            ([name], _) => Ok((*name).to_owned()),
            ([], Some(closed)) => Err(format!(
                "needs a credential for `{}`, and `{}` is not for agents that are registered over the API: set `registered_agents = true` in `[credentials.{}]` of the daemon's configuration, and register the agent again",
                self.host,
                closed.name,
                toml_key(&closed.name)
            )),
            ([], None) => Err(format!(
                "needs a credential for `{}`, and this daemon has none: add these lines to its configuration, set the variable, and register the agent again\n{}",
                self.host,
                self.lines()
            )),
            (several, _) => Err(format!(
                "fits several credentials ({}): name one of them, as `\"http\": {{\"credentials\": [\"...\"]}}` beside `spec`",
                several.join(", ")
            )),
        }
    }

    /// The lines of a configuration that give the endpoint its key.
    pub(super) fn lines(&self) -> String {
        let name = self.provider.map_or_else(|| name_of(&self.host), str::to_owned);
        let mut lines = format!("[credentials.{name}]\nhost = \"{}\"\n", self.host);
        if self.port != 443 {
            lines.push_str(&format!("port = {}\n", self.port));
        }
        if !self.is_https {
            lines.push_str("allow_http_loopback = true\n");
        }
        lines.push_str(&format!("env = \"{}_API_KEY\"\nregistered_agents = true", name.to_ascii_uppercase().replace('-', "_")));
        lines
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A credential's name for a host, which with `_` for `-` is good for a variable too.
fn name_of(host: &str) -> String {
    /// The longest part of a host that goes into a name, in bytes.
    const LONGEST: usize = 100;
    let words: Vec<&str> = host.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(LONGEST).collect();
    // No variable begins with a digit.
    if name.starts_with(|letter: char| letter.is_ascii_alphabetic()) { name } else { format!("llm-{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(text: &str) -> BTreeMap<String, Arc<Credential>> {
        crate::config::parse(text, std::path::Path::new("x.toml"), &crate::config::Environment::default()).unwrap().settings.credentials
    }

    #[test]
    fn every_provider_has_an_endpoint_and_another_one_gives_its_own() {
        for (name, url) in PROVIDERS {
            let endpoint = Endpoint::find(Some(&name.to_uppercase()), None).unwrap();
            assert_eq!((endpoint.base.as_str(), endpoint.url()), (url, format!("{url}/chat/completions")));
        }
        let own = Endpoint::find(Some("acme"), Some("https://llm.acme.example:8443/openai/v1/chat/completions")).unwrap();
        assert_eq!(own.url(), "https://llm.acme.example:8443/openai/v1/chat/completions");
        assert!(
            own.lines()
                .contains("[credentials.llm-acme-example]\nhost = \"llm.acme.example\"\nport = 8443\nenv = \"LLM_ACME_EXAMPLE_API_KEY\""),
            "{}",
            own.lines()
        );
        for (provider, base_url, field, part) in [
            (Some("acme"), None, "provider", "give `base_url`"),
            (None, None, "provider", "is required"),
            (Some("openai"), Some("api.openai.com"), "base_url", "must be a URL"),
            (None, Some("https://user@x.example/v1"), "base_url", "without user"),
            (None, Some("file:///etc"), "base_url", "must be a URL"),
            (None, Some("http://llm.acme.example/v1"), "base_url", "must begin with `https://`"),
            (Some("openai"), Some("http://api.openai.com/v1"), "base_url", "must begin with `https://`"),
            (None, Some("http://10.0.0.5:8000/v1"), "base_url", "must begin with `https://`"),
            (None, Some("http://localhost.acme.example/v1"), "base_url", "must begin with `https://`"),
            (None, Some("https://x.example/v1?key=1"), "base_url", "query"),
        ] {
            let (at, why) = Endpoint::find(provider, base_url).unwrap_err();
            assert!(at == field && why.contains(part), "{provider:?} {base_url:?}: {at} {why}");
        }
    }

    #[test]
    fn the_lines_never_give_a_foreign_host_the_key_of_a_provider() {
        for (provider, base_url, name, variable) in [
            (Some("openai"), "https://llm.acme.example/v1", "llm-acme-example", "LLM_ACME_EXAMPLE_API_KEY"),
            (Some("openai"), "https://api.groq.com/openai/v1", "groq", "GROQ_API_KEY"),
            (Some("openai"), "https://api.openai.com:8443/v1", "api-openai-com", "API_OPENAI_COM_API_KEY"),
            (None, "https://API.openai.com/v2/", "openai", "OPENAI_API_KEY"),
            (None, "http://127.0.0.1:8000/v1", "llm-127-0-0-1", "LLM_127_0_0_1_API_KEY"),
            (None, "http://[::1]:8000/v1", "llm-1", "LLM_1_API_KEY"),
        ] {
            let lines = Endpoint::find(provider, Some(base_url)).unwrap().lines();
            assert!(lines.starts_with(&format!("[credentials.{name}]\n")), "{lines}");
            assert!(lines.contains(&format!("\nenv = \"{variable}\"\n")), "{lines}");
            assert!(credentials(&lines).contains_key(name), "the lines can be read: {lines}");
        }
    }

    #[test]
    fn a_credential_that_fits_is_found_and_one_that_is_missing_is_written_out() {
        let openai = Endpoint::find(Some("openai"), None).unwrap();
        let why = openai.credential(&credentials("")).unwrap_err();
        assert!(
            why.contains("[credentials.openai]\nhost = \"api.openai.com\"\nenv = \"OPENAI_API_KEY\"\nregistered_agents = true"),
            "{why}"
        );
        assert!(!credentials(&openai.lines()).is_empty(), "the lines can be read");
        let one = "[credentials.main]\nhost = \"api.openai.com\"\nenv = \"K\"\n";
        assert!(openai.credential(&credentials(one)).unwrap_err().contains("`registered_agents = true` in `[credentials.main]`"));
        let open = format!("{one}registered_agents = true\n");
        assert_eq!(openai.credential(&credentials(&open)), Ok("main".to_owned()));
        let two = format!("{open}[credentials.other]\nhost = \"api.openai.com\"\nenv = \"K\"\nregistered_agents = true\n");
        assert!(openai.credential(&credentials(&two)).unwrap_err().contains("main, other"));
        assert!(Endpoint::find(Some("groq"), None).unwrap().credential(&credentials(&open)).is_err());
        assert_eq!(
            Endpoint::find(Some("ollama"), None).unwrap().lines(),
            "[credentials.ollama]\nhost = \"localhost\"\nport = 11434\nallow_http_loopback = true\nenv = \"OLLAMA_API_KEY\"\nregistered_agents = true"
        );
    }
}
