//! What the URL of a Redis asks for, with the certificates that it names.
//!
//! How it fails: what the URL says is not one, or names a file that cannot be used; no message repeats the URL.

use ::redis::{Client, ClientTlsConfig, TlsCertificates};
use reqwest::Url;

use super::super::StoreError;

/// The options that name files, as Redis's clients elsewhere call them: a CA of one's own, and a certificate of one's own with its key.
const FILES: [&str; 3] = ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"];

/// The client that the URL asks for. Blocks on the file system for a moment where the URL names files.
///
/// # Errors
/// The URL is not one, or a file that it names cannot be used.
pub fn of_url(url: &str) -> Result<Client, StoreError> {
    crate::tls::provide();
    let unreadable = || {
        StoreError::Invalid(
            "the URL of Redis cannot be read; write redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, all but the host optional"
                .to_owned(),
        )
    };
    let plain = Client::open(url).map_err(|_| unreadable())?;
    let parsed = Url::parse(url).map_err(|_| unreadable())?;
    let [authority, certificate, key] = FILES.map(|option| file(&parsed, option));
    let (authority, certificate, key) = (authority?, certificate?, key?);
    if authority.is_none() && certificate.is_none() && key.is_none() {
        return Ok(plain);
    }
    if parsed.scheme() != "rediss" {
        return Err(StoreError::Invalid(format!("the URL of Redis names {} without TLS; begin it with rediss://", FILES.join(" or "))));
    }
    let client_tls = match (certificate, key) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => return Err(StoreError::Invalid("the URL of Redis names one of ssl_certfile and ssl_keyfile; name both".to_owned())),
    };
    Client::build_with_tls(url, TlsCertificates { client_tls, root_cert: authority })
        .map_err(|_| StoreError::Invalid(format!("a file that {} of the URL of Redis name is not PEM; name another", FILES.join(" or "))))
}

fn file(url: &Url, option: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((_, path)) = url.query_pairs().find(|(name, _)| name == option) else { return Ok(None) };
    let bytes = std::fs::read(&*path).map_err(|error| {
        StoreError::Invalid(format!("the file `{path}` that {option} of the URL of Redis names cannot be read: {error}; name one that can"))
    })?;
    // What has no certificate in it would trust nobody, or everybody's.
    if !bytes.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
        return Err(StoreError::Invalid(format!("the file `{path}` that {option} of the URL of Redis names is not PEM; name another")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_the_password_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no.pem");
        std::fs::write(&path, "nothing").unwrap();
        let path = path.to_str().unwrap();
        for (url, wanted) in [
            (format!("rediss://u:tiger@h/?ssl_ca_certs={path}"), "is not PEM"),
            ("rediss://u:tiger@h/?ssl_ca_certs=/nowhere/ca.pem".to_owned(), "/nowhere/ca.pem` that ssl_ca_certs"),
            ("redis://u:tiger@h:port/".to_owned(), "cannot be read"),
        ] {
            let told = of_url(&url).unwrap_err().to_string();
            assert!(told.contains(wanted) && !told.contains("tiger"), "{told}");
        }
        assert!(of_url("rediss://u:tiger@h:1/3?protocol=resp3").is_ok());
    }

    #[test]
    fn certificates_want_tls_and_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pem");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let path = path.to_str().unwrap();
        for (url, wanted) in [
            (format!("redis://h/?ssl_ca_certs={path}"), "begin it with rediss://"),
            (format!("rediss://h/?ssl_certfile={path}"), "name both"),
        ] {
            let told = of_url(&url).unwrap_err().to_string();
            assert!(told.contains(wanted), "{told}");
        }
    }
}
