//! Who may ask: with a token, whoever presents it; without one, whoever is on this machine and not a foreign web page.
//!
//! Without a token the daemon listens on loopback only (the configuration sees to that), so the danger left is a browser: a page of
//! another site that posts to us, or whose name was made to resolve to us (DNS rebinding). A page cannot choose the Host and Origin
//! headers that its browser sends, and a rebound name is a name: so names other than `localhost` are refused, addresses are not.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::error::Problem;
use crate::config::Secret;

/// Lets a request through that may ask.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    let allowed = match &api.settings.token {
        Some(token) => presents(request.headers(), token),
        None => is_from_here(request.method(), request.uri(), request.headers()),
    };
    match allowed {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn presents(headers: &HeaderMap, token: &Secret) -> Result<(), Problem> {
    let refused = |why: &str, challenge: &'static str| {
        Problem::new(StatusCode::UNAUTHORIZED, why).with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    };
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (given.next(), given.next()) else {
        return Err(refused("Missing or invalid Authorization header: send `Authorization: Bearer <token>`.", "Bearer"));
    };
    let (scheme, rest) = header.as_bytes().split_at_checked("Bearer ".len()).unwrap_or((header.as_bytes(), b""));
    if scheme.eq_ignore_ascii_case(b"Bearer ") && token.matches(rest.trim_ascii()) {
        return Ok(());
    }
    Err(refused("The token is not the daemon's: present the one that its configuration names.", "Bearer error=\"invalid_token\""))
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
        let token = Secret::new("t0ken");
        let opens = |value: &str| presents(&headers(&[("authorization", value)]), &token).is_ok();
        assert!(opens("Bearer t0ken") && opens("bearer  t0ken"));
        for wrong in ["", "t0ken", "Bearer", "Bearer ", "Bearer t0ke", "Bearer t0kenn", "Basic t0ken", "Bearert0ken"] {
            assert!(!opens(wrong), "{wrong:?}");
        }
        assert!(presents(&headers(&[("authorization", "Bearer t0ken"), ("authorization", "Bearer t0ken")]), &token).is_err());
        assert!(presents(&HeaderMap::new(), &token).is_err());
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
