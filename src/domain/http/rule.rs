//! What an agent may ask of whom: one entry of an allow-list, and what a request is about.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::call::{Refusal, Rule};
use crate::domain::text;

/// The longest URL, in bytes.
const LONGEST_URL: usize = 16 * 1024;
/// The longest method, in bytes.
const LONGEST_METHOD: usize = 32;

/// One entry of an allow-list: a scheme, a host, a port, what a path must begin with, and methods where not all are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    url: Url,
    is_https: bool,
    /// The host, or what a host must end in, dot included.
    host: Name,
    port: u16,
    methods: Option<BTreeSet<String>>,
    addresses: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Is(String),
    EndsIn(String),
}

fn shown(text: &str) -> String {
    text::printable(text, 200)
}

impl Allowed {
    /// Reads an entry: `https://host`, with a port and a path that requests must begin with where they matter. `https://*.host` means
    /// every name below a host. No methods mean all of them. `addresses` are those that the name may stand for beside public ones.
    ///
    /// # Errors
    /// In a few words, to follow the key's name: what is wrong and what would be right.
    pub fn parse(written: &str, methods: &[String], addresses: &[String]) -> Result<Allowed, String> {
        let say = |what: &str| format!("has `{}`, {what}", shown(written));
        let has_path = written.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
        let url = Url::parse(written).map_err(|error| say(&format!("which is no URL ({error}); write it as `https://api.example.com`")))?;
        let is_https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(say("whose scheme is neither `https` nor `http`; begin it with one of them")),
        };
        if !url.username().is_empty() || url.password().is_some() || written.contains('@') {
            return Err(say("which has user info; take it out, and let a credential say who asks"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(say("which has a query or a fragment; end it with the path"));
        }
        let text = url.host_str().unwrap_or_default();
        let host = match text.strip_prefix("*.") {
            Some(rest) if rest.contains('.') && !rest.contains('*') => Name::EndsIn(format!(".{rest}")),
            _ if text.contains('*') => {
                return Err(say("whose host has a `*`; only `*.` before a name of two parts or more can stand for others"));
            }
            _ => Name::Is(text.to_owned()),
        };
        if has_path && !is_plain(url.path()) {
            return Err(say("whose path holds encoded slashes or dots; write it plainly"));
        }
        let methods =
            methods.iter().map(|method| method_of(method).ok_or_else(|| say("with a method that is none; write one such as `GET`")));
        let methods = methods.collect::<Result<BTreeSet<String>, String>>()?;
        let addresses = addresses.iter().map(|text| {
            let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            net.map(|net| net.trunc()).map_err(|_| say(&format!("with the address `{}`; write one such as `10.0.0.0/8`", shown(text))))
        });
        let mut addresses = addresses.collect::<Result<Vec<IpNet>, String>>()?;
        if text == "localhost" {
            addresses.extend(loopback());
        }
        addresses.sort_unstable();
        addresses.dedup();
        let port = url.port_or_known_default().unwrap_or(own_port(is_https));
        Ok(Allowed { url, is_https, host, port, methods: (!methods.is_empty()).then_some(methods), addresses })
    }

    /// The addresses that the entry grants beside public ones, sorted.
    pub fn addresses(&self) -> &[IpNet] {
        &self.addresses
    }

    /// Whether the entry reaches nothing but public addresses, whatever its name stands for.
    pub fn is_public(&self) -> bool {
        let is_name = matches!(self.host, Name::EndsIn(_)) || matches!(self.url.host(), Some(Host::Domain(_)));
        is_name && self.addresses.is_empty()
    }

    /// Whether the entry reaches just this host and port, at no addresses but those that the name itself means.
    pub fn is_just(&self, host: &str, port: u16) -> bool {
        let own = if host == "localhost" { loopback() } else { Vec::new() };
        let addresses: BTreeSet<&IpNet> = own.iter().collect();
        self.host == Name::Is(host.to_owned()) && self.port == port && self.addresses.iter().collect::<BTreeSet<_>>() == addresses
    }

    /// The entry as it is written for people: its URL, or a table where it says more.
    pub fn shown(&self) -> String {
        let toml = self.toml(None, None);
        toml.trim_matches('"').to_owned()
    }

    /// The entry as TOML, with what is added to it.
    pub fn toml(&self, method: Option<&str>, address: Option<IpAddr>) -> String {
        let url = self.url.as_str();
        let url = if self.url.path() == "/" { url.trim_end_matches('/') } else { url };
        let mut methods: Vec<&str> = self.methods.iter().flatten().map(String::as_str).collect();
        methods.extend(method);
        let implied = matches!(&self.host, Name::Is(name) if name == "localhost").then(loopback).unwrap_or_default();
        let mut addresses: Vec<String> = self.addresses.iter().filter(|net| !implied.contains(net)).map(IpNet::to_string).collect();
        addresses.extend(address.map(|address| address.to_string()));
        if methods.is_empty() && addresses.is_empty() {
            return format!("{url:?}");
        }
        let mut text = format!("{{ url = {url:?}");
        for (name, list) in [("methods", methods), ("addresses", addresses.iter().map(String::as_str).collect())] {
            if !list.is_empty() {
                text.push_str(&format!(", {name} = {list:?}"));
            }
        }
        text.push_str(" }");
        text
    }

    /// How far a request agrees with the entry: what first stands against it, or nothing.
    pub(super) fn against(&self, target: &Target) -> Option<Rule> {
        let is_host = match &self.host {
            Name::Is(name) => *name == target.host,
            Name::EndsIn(end) => matches!(target.url.host(), Some(Host::Domain(name)) if name.len() > end.len() && name.ends_with(end)),
        };
        if !is_host {
            Some(Rule::Host)
        } else if self.port != target.port {
            // Where neither says a port, another one is another scheme's.
            let own = self.port == own_port(self.is_https) && target.port == own_port(target.is_https);
            Some(if own { Rule::Scheme } else { Rule::Port })
        } else if self.is_https != target.is_https {
            Some(Rule::Scheme)
        } else if !self.has_path(target.url.path()) {
            Some(Rule::Path)
        } else if self.methods.as_ref().is_some_and(|methods| !methods.contains(&target.method)) {
            Some(Rule::Method)
        } else {
            None
        }
    }

    fn has_path(&self, path: &str) -> bool {
        let prefix = self.url.path();
        if prefix == "/" {
            return true;
        }
        let Some(rest) = path.strip_prefix(prefix) else { return false };
        (prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')) && is_plain(path)
    }
}

/// The port of a scheme where none is given.
const fn own_port(is_https: bool) -> u16 {
    if is_https { 443 } else { 80 }
}

fn loopback() -> Vec<IpNet> {
    let all = [(IpAddr::from([127, 0, 0, 0]), 8), (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128)];
    all.into_iter().filter_map(|(address, length)| IpNet::new(address, length).ok()).collect()
}

fn method_of(text: &str) -> Option<String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!text.is_empty() && text.len() <= LONGEST_METHOD && text.bytes().all(is_token)).then(|| text.to_owned())
}

/// Whether whoever serves a path can only take it as it is written: nothing in it turns into a slash or into a step up when it is decoded,
/// however often.
fn is_plain(path: &str) -> bool {
    let slashes = |bytes: &[u8]| bytes.iter().filter(|byte| matches!(byte, b'/' | b'\\')).count();
    let (written, mut bytes) = (slashes(path.as_bytes()), path.as_bytes().to_vec());
    for _ in 0..4 {
        let segments = bytes.split(|byte| matches!(byte, b'/' | b'\\'));
        // Some servers take `..;` for `..`.
        let is_step = |segment: &[u8]| matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."));
        if slashes(&bytes) != written || bytes.contains(&0) || segments.into_iter().any(is_step) {
            return false;
        }
        let decoded = decoded(&bytes);
        if decoded == bytes {
            return true;
        }
        bytes = decoded;
    }
    false
}

fn decoded(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// What a request is about, in the form in which it is judged, sent and recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The method, as it is.
    pub method: String,
    /// The URL that is sent.
    pub url: Url,
    /// Whether it is sent over TLS.
    pub is_https: bool,
    /// The host, normalised.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Target {
    /// Reads what a guest asks for, `authority` being host and port, `path` with the query.
    ///
    /// # Errors
    /// It is none that could be sent.
    pub fn parse(method: &str, scheme: &str, authority: &str, path: &str) -> Result<Target, Refusal> {
        let refused = |why: &str| Refusal { rule: Rule::Url, sentence: format!("the request {why}"), toml: None };
        if authority.len() + path.len() > LONGEST_URL {
            return Err(refused("has a URL of more than 16 KiB"));
        }
        let Some(method) = method_of(method) else { return Err(refused("has a method that is none")) };
        if method == "CONNECT" {
            return Err(refused("wants a tunnel, which nobody gets"));
        }
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(refused("has a scheme that is neither `https` nor `http`")),
        };
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '@' | '/' | '\\' | '?' | '#');
        if authority.contains(is_odd) {
            return Err(refused("names its host with user info or signs that belong to no host"));
        }
        let text = format!("{scheme}://{authority}{}{path}", if path.starts_with('/') { "" } else { "/" });
        let url = Url::parse(&text).map_err(|error| refused(&format!("has a URL that is none ({error})")))?;
        let Some(host) = url.host_str().map(str::to_owned) else { return Err(refused("names no host")) };
        let port = url.port_or_known_default().unwrap_or(own_port(is_https));
        Ok(Target { method, url, is_https, host, port })
    }

    /// Whether a request of this method changes nothing outside.
    pub fn is_safe(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS")
    }

    /// The address, where the host is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    /// Scheme, host and port, the port where it is not the scheme's own.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Method and URL without the query, for a sentence.
    pub fn told(&self) -> String {
        format!("{} {}{}", self.method, self.origin(), text::printable(self.url.path(), 200))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(url: &str) -> Allowed {
        Allowed::parse(url, &[], &[]).unwrap()
    }

    fn against(entry: &str, url: &str) -> Option<Rule> {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        match Target::parse("GET", scheme, authority, path) {
            Ok(target) => allowed(entry).against(&target),
            Err(refusal) => Some(refusal.rule),
        }
    }

    #[test]
    fn an_entry_means_one_scheme_host_and_port() {
        let entry = "https://api.example.com";
        for url in ["https://api.example.com", "https://API.example.com:443/x?y", "https://api.example.com/../a"] {
            assert_eq!(against(entry, url), None, "{url}");
        }
        for (url, rule) in [
            ("http://api.example.com", Rule::Scheme),
            ("http://api.example.com:443", Rule::Scheme),
            ("https://api.example.com:8443", Rule::Port),
            ("https://example.com", Rule::Host),
            ("https://api.example.com.evil.org", Rule::Host),
            ("https://evilapi.example.com", Rule::Host),
            ("https://api.example.com.", Rule::Host),
            ("https://api.example.com@evil.org", Rule::Url),
            ("https://api.example.com:x@evil.org", Rule::Url),
            ("https://api.example.com\\@evil.org", Rule::Url),
            ("ftp://api.example.com", Rule::Url),
        ] {
            assert_eq!(against(entry, url), Some(rule), "{url}");
        }
    }

    #[test]
    fn every_spelling_of_a_host_is_one_host() {
        for url in ["http://127.0.0.1:81", "http://2130706433:81", "http://0x7f.1:81", "http://0177.0.0.01:81", "http://127.1:81"] {
            assert_eq!(against("http://127.0.0.1:81", url), None, "{url}");
            assert_eq!(against("http://example.com:81", url), Some(Rule::Host), "{url}");
        }
        for url in ["http://[::ffff:127.0.0.1]:81", "http://[::1]:81", "http://localhost:81", "http://0.0.0.0:81"] {
            assert_eq!(against("http://127.0.0.1:81", url), Some(Rule::Host), "{url}");
        }
        assert_eq!(against("https://bücher.example", "https://xn--bcher-kva.example"), None);
        assert_eq!(against("https://bücher.example", "https://BÜCHER.example"), None);
    }

    #[test]
    fn a_star_stands_for_the_names_below_a_host() {
        let entry = "https://*.example.com";
        assert_eq!(against(entry, "https://a.b.example.com"), None);
        for url in ["https://example.com", "https://evilexample.com", "https://.example.com", "https://a.example.com.evil.org"] {
            assert!(against(entry, url).is_some(), "{url}");
        }
        for entry in ["https://*.com", "https://*", "https://a.*.com", "https://*a.example.com", "https://*.*.com"] {
            assert!(Allowed::parse(entry, &[], &[]).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_path_is_left_neither_plainly_nor_in_disguise() {
        let entry = "https://h/repos/acme/";
        for path in ["/repos/acme/", "/repos/acme/x", "/repos/acme/x/../y", "/repos/acme//x", "/repos/acme/a%20b", "/repos/./acme/x"] {
            assert_eq!(against(entry, &format!("https://h{path}")), None, "{path}");
        }
        for path in [
            "",
            "/",
            "/repos/acme",
            "/repos/acmeevil",
            "/repos/acme/../other",
            "/repos/acme/%2e%2e/other",
            "/repos/acme/%2E./other",
            "/repos//acme/x",
            "//repos/acme/x",
            "/repos/acme/..%2fother",
            "/repos/acme/..%5cother",
            "/repos/acme/..\\other",
            "/repos/acme/%252e%252e/other",
            "/repos/acme/..;/other",
            "/repos/acme/..;a=b/other",
            "/repos/acme/%00",
            "/REPOS/acme/x",
            "/repos/acme/x%2fy",
            "/repos%2facme/x",
            "/repos/acme/%25252e%25252e/x",
        ] {
            assert_eq!(against(entry, &format!("https://h{path}")), Some(Rule::Path), "{path}");
        }
        assert_eq!(against("https://h/v1", "https://h/v1"), None);
        assert_eq!(against("https://h/v1", "https://h/v1/x"), None);
        assert_eq!(against("https://h/v1", "https://h/v12"), Some(Rule::Path));
    }

    #[test]
    fn entries_that_say_more_than_they_may_are_refused_with_the_mend() {
        for (url, word) in [
            ("api.example.com", "no URL"),
            ("ftp://x.example", "scheme"),
            ("https://me:pw@x.example", "user info"),
            ("https://@x.example", "user info"),
            ("https://x.example/?a", "query"),
            ("https://x.example/#a", "fragment"),
            ("https://x.example/a%2fb", "plainly"),
            ("https://", "no URL"),
        ] {
            let said = Allowed::parse(url, &[], &[]).unwrap_err();
            assert!(said.contains(word) && !said.contains('\u{1b}'), "{url}: {said}");
        }
        assert!(Allowed::parse("https://x.example", &["G T".to_owned()], &[]).unwrap_err().contains("GET"));
        assert!(Allowed::parse("https://x.example", &[], &["10.0.0.0/99".to_owned()]).unwrap_err().contains("10.0.0.0/8"));
    }

    #[test]
    fn methods_are_compared_as_they_are() {
        let entry = Allowed::parse("https://h", &["GET".to_owned()], &[]).unwrap();
        let of = |method: &str| entry.against(&Target::parse(method, "https", "h", "/").unwrap());
        assert_eq!((of("GET"), of("POST"), of("get")), (None, Some(Rule::Method), Some(Rule::Method)));
        assert!(Target::parse("CONNECT", "https", "h", "/").is_err());
    }
}
