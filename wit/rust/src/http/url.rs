//! The parts of a URL that a request needs.

use super::Error;

/// An absolute `http` or `https` URL, in the parts that `wasi:http` takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) https: bool,
    pub(super) authority: &'a str,
    /// Begins with `/`.
    pub(super) path_with_query: String,
}

impl<'a> Url<'a> {
    /// Takes a URL apart; a fragment is dropped, since it is never sent.
    pub(super) fn parse(text: &'a str) -> Result<Self, Error> {
        let refuse = |why: &str| Error::Request(format!("{text:?} is no URL to call: {why}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("it has no scheme, as in https://example.com/"))?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(refuse("its scheme is neither http nor https")),
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(refuse("it has a space or a control character, which must be written as %20 and the like"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() {
            return Err(refuse("it names no host"));
        }
        if authority.contains('@') {
            return Err(refuse("it holds a user or a password, which belong into a credential of the daemon"));
        }
        let path_with_query = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Url { https, authority, path_with_query })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_found() {
        let parts = |text| Url::parse(text).map(|url| (url.https, url.authority.to_owned(), url.path_with_query)).ok();
        assert_eq!(parts("https://a.test/b?c=d#e"), Some((true, "a.test".into(), "/b?c=d".into())));
        assert_eq!(parts("HTTP://a.test:8080"), Some((false, "a.test:8080".into(), "/".into())));
        assert_eq!(parts("http://[::1]:80?x"), Some((false, "[::1]:80".into(), "/?x".into())));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in
            ["", "a.test/b", "file:///etc/passwd", "https://", "https:///x", "https://a b/", "https://u:p@a.test/", "https://a.test/\r\nx"]
        {
            assert!(matches!(Url::parse(text), Err(Error::Request(_))), "{text:?}");
        }
    }
}
