//! Who may ask, and for what: with tokens, whoever presents one, for what its roles say; without any, whoever is on this machine and not
//! a foreign web page, for everything.
//!
//! Without a token the daemon listens on loopback only (the configuration sees to that), so the danger left is a browser: a page of
//! another site that posts to us, or whose name was made to resolve to us (DNS rebinding). A page cannot choose the Host and Origin
//! headers that its browser sends, and a rebound name is a name: so names other than `localhost` are refused, addresses are not.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::error::Problem;
use crate::config::{NamedToken, Secret};
use crate::domain::role::{Role, Roles};

/// Who is recorded as having asked when the caller has no name.
const NAMELESS: &str = "api";

/// The tokens that open the API; they can be exchanged while requests are served.
#[derive(Debug, Default)]
pub struct Access(ArcSwap<Tokens>);

/// The tokens of one moment.
#[derive(Clone, Debug, Default)]
struct Tokens {
    /// The one without a name, which has every role.
    token: Option<Secret>,
    named: Vec<NamedToken>,
}

impl Access {
    /// Opens the API to these tokens; to whoever is on this machine where there is none.
    pub fn new(token: Option<Secret>, named: Vec<NamedToken>) -> Self {
        Access(ArcSwap::from_pointee(Tokens { token, named }))
    }

    /// Exchanges the tokens for the requests that come from now on.
    pub fn exchange(&self, token: Option<Secret>, named: Vec<NamedToken>) {
        self.0.store(Arc::new(Tokens { token, named }));
    }
}

impl Tokens {
    fn is_open(&self) -> bool {
        self.token.is_none() && self.named.is_empty()
    }

    /// Whose token it is. Every one is compared, so that the time says nothing about which.
    fn bearer_of(&self, given: &[u8]) -> Option<Caller> {
        let nameless = self.token.as_ref().filter(|token| token.matches(given)).map(|_| Caller::nameless());
        let named = |found: Option<Caller>, token: &NamedToken| {
            let is_its = token.hash.matches(given);
            found.or_else(|| is_its.then(|| Caller { name: Some(Arc::from(token.name.as_str())), roles: token.roles }))
        };
        self.named.iter().fold(nameless, named)
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    name: Option<Arc<str>>,
    roles: Roles,
}

impl Caller {
    /// Whoever has the daemon's one token, or is on its machine where it has none.
    pub(super) fn nameless() -> Caller {
        Caller { name: None, roles: Roles::ALL }
    }

    /// The name of the caller's token, where it has one.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Refuses a caller without the role.
    pub(super) fn must(&self, role: Role) -> Result<(), Problem> {
        if self.roles.may(role) {
            return Ok(());
        }
        let (name, has) = (self.told(), self.roles);
        let why = format!("The token `{name}` may {has}; this needs the role {role}: ask with another, or add it to tokens.{name}.roles.");
        Err(Problem::new(StatusCode::FORBIDDEN, why).with("needs_role", role.as_str()))
    }

    /// Who is recorded as having asked.
    pub(super) fn told(&self) -> &str {
        self.name().unwrap_or(NAMELESS)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let none = || Caller { name: None, roles: Roles::of([]) };
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or_else(none))
    }
}

/// Lets a request through that may ask, with who asks.
pub(super) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let tokens = api.settings.access.0.load();
    let allowed = if tokens.is_open() {
        is_from_here(request.method(), request.uri(), request.headers()).map(|()| Caller::nameless())
    } else {
        bearer(request.headers(), &tokens)
    };
    drop(tokens);
    match allowed {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(caller);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// Lets a request through whose caller has the role.
pub(super) async fn needs(State(role): State<Role>, caller: Caller, request: Request, next: Next) -> Response {
    match caller.must(role) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn bearer(headers: &HeaderMap, tokens: &Tokens) -> Result<Caller, Problem> {
    let refused = |why: &str, challenge: &'static str| {
        Problem::new(StatusCode::UNAUTHORIZED, why).with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    };
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (given.next(), given.next()) else {
        return Err(refused("Missing or invalid Authorization header: send `Authorization: Bearer <token>`.", "Bearer"));
    };
    let (scheme, rest) = header.as_bytes().split_at_checked("Bearer ".len()).unwrap_or((header.as_bytes(), b""));
    let caller = scheme.eq_ignore_ascii_case(b"Bearer ").then(|| tokens.bearer_of(rest.trim_ascii())).flatten();
    let unknown = "The token is not the daemon's: present one that its configuration names.";
    caller.ok_or_else(|| refused(unknown, "Bearer error=\"invalid_token\""))
}

fn is_from_here(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let host = asked_host(uri, headers)?;
    let name = host.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = bare.map_or_else(|| name.parse::<IpAddr>().is_ok(), |bare| bare.parse::<Ipv6Addr>().is_ok());
    if !is_address && !name.eq_ignore_ascii_case("localhost") {
        return Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "The Host header names neither localhost nor an address: use http://127.0.0.1 and the port, or give the daemon a token.",
        ));
    }
    let changes_something = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    match headers.get(ORIGIN) {
        Some(origin) if changes_something && !is_same_host(origin, &host) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "The request comes from a web page of another site: that needs a token, which the daemon's configuration can name.",
        )),
        _ => Ok(()),
    }
}

/// The host that the request is for.
fn asked_host(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Problem> {
    let bad = || Problem::new(StatusCode::BAD_REQUEST, "The request needs exactly one Host header, such as `Host: 127.0.0.1:8000`.");
    let mut given = headers.get_all(HOST).iter();
    let (Some(host), None) = (given.next(), given.next()) else {
        return Err(bad());
    };
    let host = Authority::try_from(host.as_bytes()).map_err(|_| bad())?;
    // An authority may hold more than a host and a port, and `host()` would not show it.
    let port = host.port().map_or(String::new(), |port| format!(":{port}"));
    if host.as_str() != format!("{}{port}", host.host()) {
        return Err(bad());
    }
    match uri.authority() {
        // A request line with a whole address in it: both must mean the same, or it is unclear who is asked.
        Some(in_line) if *in_line != host => Err(bad()),
        _ => Ok(host),
    }
}

fn is_same_host(origin: &HeaderValue, host: &Authority) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TokenHash;

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<Vec<_>>().into_iter().fold(
            HeaderMap::new(),
            |mut map, (name, value): (axum::http::HeaderName, HeaderValue)| {
                map.append(name, value);
                map
            },
        )
    }

    fn status(method: Method, given: &[(&'static str, &str)]) -> Option<u16> {
        let outcome = is_from_here(&method, &Uri::from_static("/background/tasks"), &headers(given));
        outcome.err().map(|problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn only_the_whole_token_opens_and_the_scheme_is_caseless() {
        let tokens = Tokens { token: Some(Secret::new("t0ken")), named: Vec::new() };
        let opens = |value: &str| bearer(&headers(&[("authorization", value)]), &tokens).is_ok();
        assert!(opens("Bearer t0ken") && opens("bearer  t0ken"));
        for wrong in ["", "t0ken", "Bearer", "Bearer ", "Bearer t0ke", "Bearer t0kenn", "Basic t0ken", "Bearert0ken"] {
            assert!(!opens(wrong), "{wrong:?}");
        }
        assert!(bearer(&headers(&[("authorization", "Bearer t0ken"), ("authorization", "Bearer t0ken")]), &tokens).is_err());
        assert!(bearer(&HeaderMap::new(), &tokens).is_err());
    }

    #[test]
    fn a_named_token_is_its_bearers_name_and_roles() {
        let token = |name: &str, role| NamedToken { name: name.into(), hash: TokenHash::of(name.as_bytes()), roles: Roles::of([role]) };
        let tokens = Tokens { token: Some(Secret::new("root")), named: vec![token("ann", Role::Operate), token("bob", Role::Deploy)] };
        assert!(!tokens.is_open() && Tokens::default().is_open());
        let who = |given: &str| tokens.bearer_of(given.as_bytes()).map(|caller| (caller.told().to_owned(), caller.roles));
        assert_eq!(who("root"), Some(("api".into(), Roles::ALL)));
        assert_eq!(who("ann"), Some(("ann".into(), Roles::of([Role::Operate]))));
        assert_eq!(who("bob"), Some(("bob".into(), Roles::of([Role::Deploy]))));
        // The hash opens nothing.
        for other in ["", "eve", "rooT", &TokenHash::of(b"ann").to_string()] {
            assert_eq!(who(other), None, "{other}");
        }
    }

    #[test]
    fn addresses_and_localhost_are_asked_names_are_not() {
        for good in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "192.168.1.4:80"] {
            assert_eq!(status(Method::POST, &[("host", good)]), None, "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "[::1].evil.example", "evil.example@localhost", ""]
        {
            assert!(status(Method::GET, &[("host", bad)]).is_some(), "{bad}");
        }
        assert_eq!(status(Method::GET, &[("host", "rebound.example:8000")]), Some(421));
        assert_eq!(status(Method::GET, &[]), Some(400));
        assert_eq!(status(Method::GET, &[("host", "localhost"), ("host", "evil.example")]), Some(400));
        let absolute = Uri::from_static("http://evil.example/background/status");
        assert!(is_from_here(&Method::GET, &absolute, &headers(&[("host", "localhost")])).is_err());
    }

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let host = ("host", "localhost:8000");
        assert_eq!(status(Method::POST, &[host, ("origin", "http://localhost:8000")]), None);
        for foreign in ["http://evil.example", "null", "http://localhost:9000", "http://localhost", "file://", "localhost:8000"] {
            assert_eq!(status(Method::POST, &[host, ("origin", foreign)]), Some(403), "{foreign}");
            assert_eq!(status(Method::DELETE, &[host, ("origin", foreign)]), Some(403), "{foreign}");
        }
        assert_eq!(status(Method::GET, &[host, ("origin", "http://evil.example")]), None);
    }
}
