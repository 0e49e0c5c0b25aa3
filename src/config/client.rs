//! What the client verbs need: where the daemon is, and the token for it.

use std::path::Path;

use super::environment::Environment;
use super::fault::{ConfigFault, ConfigFaults, Origin};
use super::section::token_of;
use super::server::token_in;
use crate::domain::secret::Secret;

/// The variable with the daemon's address.
pub(super) const URL: &str = "SANDCLOCK_URL";
const TOKEN: &str = "SANDCLOCK_TOKEN";
const TOKEN_FILE: &str = "SANDCLOCK_TOKEN_FILE";

/// Where a client finds the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The daemon's address with the API's prefix, without a `/` at its end.
    pub url: String,
    /// The token to present.
    pub token: Option<Secret>,
}

/// Reads what the environment says to a client: `SANDCLOCK_URL`, and `SANDCLOCK_TOKEN` or `SANDCLOCK_TOKEN_FILE`.
///
/// # Errors
/// The address is not of HTTP, or the token cannot be read or sent.
pub fn client(env: &Environment) -> Result<Client, ConfigFaults> {
    let mut faults = Vec::new();
    let mut fault = |variable: &str, message: String| {
        faults.push(ConfigFault { origin: Origin::of_variable(variable), key: None, message });
    };
    let url = env.get(URL).unwrap_or("http://127.0.0.1:8000").trim_end_matches('/').to_owned();
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        fault(URL, "must start with `http://` or `https://`, as in `http://127.0.0.1:8000`".to_owned());
    }
    let token = match (env.get(TOKEN), env.get(TOKEN_FILE)) {
        (Some(token), _) => token_of(token).map(Some).map_err(|message| (TOKEN, message)),
        (None, Some(path)) => token_in(Path::new(path)).map(Some).map_err(|message| (TOKEN_FILE, message)),
        (None, None) => Ok(None),
    };
    match token {
        Ok(token) if faults.is_empty() => Ok(Client { url, token }),
        Ok(_) => Err(ConfigFaults(faults)),
        Err((variable, message)) => {
            faults.push(ConfigFault { origin: Origin::of_variable(variable), key: None, message });
            Err(ConfigFaults(faults))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_daemon_and_an_own_address_is_judged() {
        let client_of = |pairs: &[(&str, &str)]| client(&Environment::of(pairs.iter().copied()));
        assert_eq!(client_of(&[]).unwrap(), Client { url: "http://127.0.0.1:8000".into(), token: None });
        let given = client_of(&[("SANDCLOCK_URL", "https://h/api/"), ("SANDCLOCK_TOKEN", "t")]).unwrap();
        assert_eq!((given.url.as_str(), given.token), ("https://h/api", Some(Secret::new("t"))));
        let faults = client_of(&[("SANDCLOCK_URL", "h:8000"), ("SANDCLOCK_TOKEN_FILE", "/nowhere/token")]).unwrap_err();
        assert_eq!(faults.0.len(), 2, "{faults}");
    }
}
