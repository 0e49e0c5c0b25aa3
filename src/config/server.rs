//! The settings of the HTTP API: addresses, token, prefix and bounds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::domain::time::Seconds;

use super::agents;
use super::document::{Node, Value};
use super::fault::{Origin, shown};
use super::section::{Key, Section, is_variable, key, text_of, token_of};
use super::settings::{NamedToken, Server, TlsFiles};
use crate::domain::secret::Secret;

const PORT: u16 = 8000;
const LISTEN: Key = key("listen", "SANDCLOCK_LISTEN");
const TOKEN: Key = key("token", "SANDCLOCK_TOKEN");
const TOKEN_FILE: Key = key("token_file", "SANDCLOCK_TOKEN_FILE");
const TLS_CERTIFICATES: Key = key("tls_cert_file", "SANDCLOCK_TLS_CERT_FILE");
const TLS_KEY: Key = key("tls_key_file", "SANDCLOCK_TLS_KEY_FILE");
const MOST_ADDRESSES: usize = 16;

/// Reads `[server]`, and the token's file when there is one.
pub(super) fn read(mut section: Section<'_, '_>, tokens: Vec<NamedToken>) -> Server {
    let (listen, listen_origin) = listen(&mut section);
    let (token, faulty_token) = token(&mut section);
    let public = listen.iter().find(|address| !is_loopback(address.ip()));
    // A token that could not be read has a fault of its own; there is no second thing to mend.
    if let (Some(address), None, true, false) = (public, &token, tokens.is_empty(), faulty_token) {
        let message = format!(
            "has the public address {address} and there is no token: set `server.token_file`, SANDCLOCK_TOKEN or `[tokens.NAME]`, or listen on 127.0.0.1"
        );
        section.reading.fault(listen_origin, "server.listen", message);
    }
    let tls = tls(&mut section);
    let prefix = section.or(key("api_prefix", "SANDCLOCK_API_PREFIX"), String::new(), |text| text.as_str().into(), prefix_of);
    let request_timeout =
        section.seconds(key("request_timeout_seconds", "SANDCLOCK_REQUEST_TIMEOUT_SECONDS"), Seconds::whole(300), 0.1..=86_400.0);
    let max_body_bytes = section.whole(key("max_body_bytes", "SANDCLOCK_MAX_BODY_BYTES"), 1024 * 1024, 1024..=64 * 1024 * 1024);
    let idempotency =
        section.seconds(key("idempotency_seconds", "SANDCLOCK_IDEMPOTENCY_SECONDS"), Seconds::whole(86_400), 1.0..=agents::LONGEST);
    let idempotency_keys = section.whole(key("idempotency_keys", "SANDCLOCK_IDEMPOTENCY_KEYS"), 100_000, 1..=100_000_000);
    section.finish();
    Server { listen, token, tokens, tls, api_prefix: prefix, request_timeout, max_body_bytes, idempotency, idempotency_keys }
}

/// The files of a listener with TLS: both or none.
fn tls(section: &mut Section<'_, '_>) -> Option<TlsFiles> {
    let mut file = |key: Key| {
        let read = |node: &Node| match text_of(node)? {
            text if text.contains('\0') => Err("must not hold a zero byte; give a path".to_owned()),
            text => Ok(text.to_owned()),
        };
        let path = section.or(key, String::new(), |path| path.as_str().into(), read);
        (!path.is_empty()).then(|| (PathBuf::from(path), section.origin_of(key.name)))
    };
    match (file(TLS_CERTIFICATES), file(TLS_KEY)) {
        (None, None) => None,
        (Some((certificates, _)), Some((key, _))) => Some(TlsFiles { certificates, key }),
        (Some((_, origin)), None) => {
            section.reading.fault(
                origin,
                "server.tls_cert_file",
                "needs `server.tls_key_file` beside it: the private key of the certificate",
            );
            None
        }
        (None, Some((_, origin))) => {
            section.reading.fault(origin, "server.tls_key_file", "needs `server.tls_cert_file` beside it: the certificate of the key");
            None
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
}

fn listen(section: &mut Section<'_, '_>) -> (Vec<SocketAddr>, Origin) {
    let (listen, origin) = section.given(LISTEN, addresses_of).unwrap_or((loopback(PORT), Origin::Default));
    let told = listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    section.tell(LISTEN.name, told.into(), origin.clone());
    (listen, origin)
}

fn addresses_of(node: &Node) -> Result<Vec<SocketAddr>, String> {
    let texts: Vec<&str> = match &node.value {
        Value::Text(text) if is_variable(node) => text.split(',').map(str::trim).collect(),
        Value::List(nodes) => {
            nodes.iter().map(text_of).collect::<Result<_, _>>().map_err(|fault| format!("holds an address that {fault}"))?
        }
        other => return Err(format!("must be a list such as [\"127.0.0.1:8000\"], not {}", other.describe())),
    };
    if texts.is_empty() || texts.len() > MOST_ADDRESSES {
        return Err(format!("must name 1 to {MOST_ADDRESSES} addresses, not {}", texts.len()));
    }
    let mut listen = Vec::new();
    for text in texts {
        for address in address_of(text)? {
            if listen.contains(&address) && address.port() != 0 {
                return Err(format!("names {address} twice; name it once"));
            }
            listen.push(address);
        }
    }
    Ok(listen)
}

/// An address, or both loopback addresses for `localhost`.
fn address_of(text: &str) -> Result<Vec<SocketAddr>, String> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(loopback(port));
    }
    text.parse().map(|address| vec![address]).map_err(|_| {
        format!(
            "has `{}`, which is not an address with a port: write it as in `127.0.0.1:8000`, `[::1]:8000` or `localhost:8000`",
            shown(text)
        )
    })
}

fn prefix_of(node: &Node) -> Result<String, String> {
    let text = text_of(node)?;
    let segment = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    let good = text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment));
    if good && text.len() <= 256 {
        return Ok(text.to_owned());
    }
    Err(format!("must be empty or a path such as `/api`, without a `/` at its end, not `{}`", shown(text)))
}

/// The token from whichever of its two settings wins, and whether one of them is faulty.
fn token(section: &mut Section<'_, '_>) -> (Option<Secret>, bool) {
    let faults_before = section.reading.faults.len();
    let direct = section.secret(TOKEN);
    let path = section.given(TOKEN_FILE, |node| text_of(node).map(str::to_owned)).filter(|(path, _)| !path.is_empty());
    let (told, origin) = path.clone().unwrap_or((String::new(), Origin::Default));
    section.tell(TOKEN_FILE.name, told.into(), origin);
    let token = match (direct, path) {
        (Some((_, a)), Some((_, b))) if a.rank() == b.rank() => {
            section.reading.fault(b, "server.token_file", "and `server.token` are both given; give one of them");
            None
        }
        (Some((token, a)), Some((_, b))) if a.rank() > b.rank() => Some(token),
        (_, Some((path, origin))) => match token_in(Path::new(&path)) {
            Ok(token) => Some(token),
            Err(message) => {
                section.reading.fault(origin, "server.token_file", message);
                None
            }
        },
        (direct, None) => direct.map(|(token, _)| token),
    };
    (token, section.reading.faults.len() > faults_before)
}

/// Reads a token from a file's first line.
pub(super) fn token_in(path: &Path) -> Result<Secret, String> {
    let name = shown(&path.to_string_lossy());
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("names `{name}`, which cannot be read ({error}); make it, or name another file"))?;
    match text.trim() {
        "" => Err(format!("names `{name}`, which is empty; write the token into it")),
        token => token_of(token).map_err(|fault| format!("names `{name}`, whose content {fault}")),
    }
}
