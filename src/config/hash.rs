//! The hash of what is set for an agent, by which attempts under the same settings are known.

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::AgentSettings;

impl AgentSettings {
    /// A hash of what an attempt of the agent sees of its settings: limits, variables, config values, and what it may ask of others, with the
    /// names of its credentials. 16 hexadecimal digits; the same settings have the same hash in every daemon.
    pub fn hash(&self) -> String {
        let http = json!({
            "allow": self.http.allow.iter().map(|entry| entry.toml(None, None)).collect::<Vec<_>>(),
            "credentials": self.http.credentials.iter().map(|credential| &credential.name).collect::<Vec<_>>(),
            "calls": self.http.limits.calls,
            "request_bytes": self.http.limits.request_bytes,
            "response_bytes": self.http.limits.response_bytes,
            "time": self.http.limits.time,
            "at_once": self.http.limits.at_once,
        });
        let all = json!({"limits": self.limits, "env": self.env, "config": self.config, "http": http});
        Sha256::digest(all.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, parse};

    fn hash(text: &str) -> String {
        let text = format!("[credentials.k]\nhost = \"h\"\nenv = \"K\"\n[agents.a]\n{text}");
        let loaded = parse(&text, Path::new("s.toml"), &Environment::default()).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        loaded.settings.agents.into_values().next().unwrap().hash()
    }

    #[test]
    fn what_an_attempt_sees_changes_the_hash_and_nothing_else_does() {
        let base = hash("");
        assert_eq!(base.len(), 16);
        for same in ["name = \"x\"\n", "max_running = 3\n", "metadata = { a = 1 }\n", "limits = {}\n"] {
            assert_eq!(hash(same), base, "{same}");
        }
        let mut seen = vec![base];
        for other in [
            "env = { A = \"1\" }\n",
            "env = { A = \"2\" }\n",
            "config = { A = \"1\" }\n",
            "config = { A = 1 }\n",
            "limits = { memory_bytes = 65536 }\n",
            "http = { allow = [\"https://h\"] }\n",
            "http = { allow = [{ url = \"https://h\", methods = [\"GET\"] }] }\n",
            "http = { allow = [\"https://h\"], credentials = [\"k\"] }\n",
            "http = { allow = [\"https://h\"], max_calls = 3 }\n",
        ] {
            let one = hash(other);
            assert!(!seen.contains(&one), "{other}");
            seen.push(one);
        }
    }
}
