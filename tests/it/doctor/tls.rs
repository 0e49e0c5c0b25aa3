//! Stores behind TLS, with a CA of one's own: who has it is let in, and who has another is told the mend.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use super::{losing, store};
use crate::servers::certificates::Certificates;
use crate::servers::own::{OwnServer, Stop, free_port};

const HERE: &str = "IP:127.0.0.1,DNS:localhost";

/// A check that gets to the store.
async fn gets_in(url: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let made = store(folder.path(), url, &["migrate"]).await;
    assert_eq!(made.code, 0, "{made:?}");
    let ended = store(folder.path(), url, &["check", "--json"]).await;
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

/// A check that is told what to mend, in one sentence without a password.
async fn is_refused(url: &str, wanted: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let ended = store(folder.path(), url, &["check"]).await;
    assert_eq!(ended.code, 1, "no waiting mends it: {ended:?}");
    for piece in wanted {
        assert!(ended.err.contains(piece), "no `{piece}`: {ended:?}");
    }
    assert!(!ended.err.contains("tiger") && ended.err.lines().count() == 1, "{ended:?}");
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn redis() {
    let (own, other) = (Certificates::new(HERE), Certificates::new(HERE));
    let (port, certificate, key, authority) = (free_port(), own.path("certificate.pem"), own.path("key.pem"), own.authority());
    let tls_port = port.to_string();
    let arguments = ["--tls-port", &tls_port, "--tls-cert-file", shown(&certificate), "--tls-key-file", shown(&key)];
    // Whoever has no certificate of the CA's is not let in either.
    let arguments = [&arguments[..], &["--tls-ca-cert-file", shown(&authority), "--appendfsync", "always"]].concat();
    let Some(_server) = OwnServer::redis(&arguments).await else { return };
    let at = |ca: &Certificates| format!("rediss://127.0.0.1:{port}/?ssl_ca_certs={}", shown(&ca.authority()));
    let with_own = format!("{}&ssl_certfile={}&ssl_keyfile={}", at(&own), shown(&certificate), shown(&key));
    assert_eq!(losing(&gets_in(&with_own).await), [""; 0]);
    is_refused(&at(&other), &["does not prove who it is", "ssl_ca_certs"]).await;
    is_refused(&format!("rediss://:tiger@127.0.0.1:{port}"), &["does not prove who it is", "ssl_ca_certs"]).await;
}

/// Whose certificates the machine trusts is trusted without a word in the URL.
#[tokio::test]
async fn redis_by_the_machine_s_own_certificates() {
    let own = Certificates::new(HERE);
    let (port, certificate, key) = (free_port(), own.path("certificate.pem"), own.path("key.pem"));
    let tls_port = port.to_string();
    let arguments = ["--tls-port", &tls_port, "--tls-cert-file", shown(&certificate), "--tls-key-file", shown(&key)];
    let authority = own.authority();
    let arguments = [&arguments[..], &["--tls-ca-cert-file", shown(&authority), "--tls-auth-clients", "no"]].concat();
    let Some(_server) = OwnServer::redis(&arguments).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut command = super::on(folder.path(), &format!("rediss://localhost:{port}"), &["store", "check"]);
    command.env("SSL_CERT_FILE", own.authority());
    let ended = crate::cli::stage::ended(command).await;
    assert!(ended.out.contains("version           "), "{ended:?}");
}

#[tokio::test]
async fn postgres() {
    let (own, elsewhere) = (Certificates::new(HERE), Certificates::new("DNS:elsewhere.example"));
    let Some(mut server) = OwnServer::postgres(&[]).await else { return };
    certify(&mut server, &own).await;
    let with = |mode: &str, ca: &Certificates| format!("{}?sslmode={mode}&sslrootcert={}", server.url(), shown(&ca.authority()));
    assert_eq!(losing(&gets_in(&with("verify-full", &own)).await), [""; 0]);
    gets_in(&format!("{}?sslmode=require", server.url())).await;
    is_refused(&with("verify-full", &elsewhere), &["does not prove who it is", "sslrootcert"]).await;
    certify(&mut server, &elsewhere).await;
    let with = |mode: &str, ca: &Certificates| format!("{}?sslmode={mode}&sslrootcert={}", server.url(), shown(&ca.authority()));
    is_refused(&with("verify-full", &elsewhere), &["does not prove who it is", "sslrootcert"]).await;
    gets_in(&with("verify-ca", &elsewhere)).await;
}

/// Starts it anew with TLS.
async fn certify(server: &mut OwnServer, own: &Certificates) {
    let owner = server.home().join("data").metadata().unwrap();
    for name in ["certificate.pem", "key.pem"] {
        let to = server.home().join(name);
        std::fs::copy(own.path(name), &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        // As root one may give it to the server's user; everybody else is that user.
        chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let file = server.home().join("data/postgresql.auto.conf");
    let set = format!(
        "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
        server.home().join("certificate.pem").display(),
        server.home().join("key.pem").display()
    );
    server.stop(Stop::Fast).await;
    std::fs::write(file, set).unwrap();
    server.start().await;
}

#[tokio::test]
async fn mongodb() {
    let (own, other) = (Certificates::new(HERE), Certificates::new(HERE));
    let (both, authority) = (own.path("both.pem"), own.authority());
    let arguments = ["--tlsMode", "preferTLS", "--tlsCertificateKeyFile", shown(&both), "--tlsCAFile", shown(&authority)];
    let arguments = [&arguments[..], &["--tlsAllowConnectionsWithoutCertificates"]].concat();
    let Some(server) = OwnServer::mongod(&arguments).await else { return };
    let with = |ca: &Certificates| format!("{}&tls=true&tlsCAFile={}", server.url(), shown(&ca.authority()));
    assert_eq!(losing(&gets_in(&with(&own)).await), [""; 0]);
    is_refused(&with(&other), &["does not prove who it is", "tlsCAFile"]).await;
    is_refused(&format!("{}&tls=true&tlsCAFile=/nowhere/ca.pem", server.url()), &["/nowhere/ca.pem"]).await;
}
