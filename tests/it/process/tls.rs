//! A daemon that listens with TLS and lets named tokens in.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::daemon::{Daemon, Home};
use crate::cli::stage::{Ended, ended, sandclock};
use crate::servers::certificates::Certificates;

fn install(own: &Certificates, home: &Home) {
    std::fs::copy(own.path("certificate.pem"), home.path("cert.pem")).unwrap();
    std::fs::copy(own.path("key.pem"), home.path("key.pem")).unwrap();
}

/// A client verb under a token, which trusts this CA alone.
async fn client(home: &Path, url: &str, ca: &Certificates, token: &str, line: &[&str]) -> Ended {
    let mut command = sandclock(home, line);
    command.env("SANDCLOCK_URL", url).env("SSL_CERT_FILE", ca.authority()).env("SANDCLOCK_TOKEN", token);
    ended(command).await
}

/// Makes a token: its text, and the lines for the configuration.
async fn token(home: &Path, name: &str, roles: &[&str]) -> (String, String) {
    let mut line = vec!["token", "new", name];
    line.extend(roles.iter().flat_map(|role| ["--role", role]));
    let made = ended(sandclock(home, &line)).await;
    assert_eq!(made.code, 0, "{made:?}");
    let (token, lines) = made.out.split_once('\n').unwrap();
    (token.to_owned(), lines[lines.find("[tokens").unwrap()..].to_owned())
}

#[tokio::test]
async fn a_listener_with_tls_serves_named_tokens_and_takes_a_new_certificate_without_a_restart() {
    let (own, renewed) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    let home = Home::new("", &[]);
    install(&own, &home);
    let (looker, looks) = token(home.0.path(), "looker", &["read"]).await;
    let (worker, works) = token(home.0.path(), "ann@ops", &["operate", "deploy"]).await;
    home.configure(&format!("[server]\ntls_cert_file = \"cert.pem\"\ntls_key_file = \"key.pem\"\n{looks}\n{works}"));
    let daemon: Daemon = home.spawn(&[]).listening().await;
    assert!(daemon.url.starts_with("https://127.0.0.1:"), "{}", daemon.url);
    let ask = async |ca: &Certificates, token: &str, line: &[&str]| client(home.0.path(), &daemon.url, ca, token, line).await;

    assert_eq!(ask(&own, &looker, &["tasks", "list"]).await.code, 0);
    let create = ["tasks", "create", "--id", "t", "--query", "q", "--json"];
    let refused = ask(&own, &looker, &create).await;
    assert!(refused.code != 0 && refused.err.contains("looker") && refused.err.contains("operate"), "{refused:?}");
    let made = ask(&own, &worker, &create).await;
    assert_eq!(made.code, 0, "{made:?}");
    let run = ask(&own, &worker, &["tasks", "run", "t", "--json"]).await;
    let run: Value = serde_json::from_str(&run.out).unwrap();
    let look = ["runs", "events", run["run_id"].as_str().unwrap(), "--json"];
    let events = ask(&own, &looker, &look).await;
    assert!(events.out.contains("\"requested_by\":\"ann@ops\""), "{events:?}");
    assert_eq!(ask(&own, "0000000000000000000000000000000000000000", &["status"]).await.code, refused.code, "{refused:?}");

    // Half of a replacement keeps the pair that there is; the whole of it is taken for the next caller.
    std::fs::copy(renewed.path("certificate.pem"), home.path("cert.pem")).unwrap();
    assert_eq!(ask(&own, &looker, &["status"]).await.code, 0);
    install(&renewed, &home);
    let stale = ask(&own, &looker, &["status"]).await;
    assert_eq!(stale.code, 6, "{stale:?}");
    assert_eq!(ask(&renewed, &looker, &["status"]).await.code, 0);

    // Nobody is served without TLS, and no token is in what is kept or told.
    let plain = client(home.0.path(), &daemon.url.replace("https", "http"), &own, &looker, &["status"]).await;
    assert_eq!(plain.code, 6, "{plain:?}");
    let shown = ended(sandclock(home.0.path(), &["config", "show", "--config", "sandclock.toml"])).await;
    assert!(shown.out.contains("sha256:") && !shown.out.contains(&worker), "{shown:?}");
}

#[tokio::test]
async fn files_that_are_no_pair_are_refused_in_one_sentence() {
    let (own, other) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    let config = "[server]\ntls_cert_file = \"cert.pem\"\ntls_key_file = \"key.pem\"\n";
    let home = Home::new(config, &[]);
    let refused = home.refused(&[]).await;
    assert!(refused.code == 2 && refused.err.contains("cert.pem"), "{refused:?}");
    install(&own, &home);
    std::fs::copy(other.path("key.pem"), home.path("key.pem")).unwrap();
    let refused = home.refused(&[]).await;
    assert!(refused.code == 2 && refused.err.contains("belongs together"), "{refused:?}");
    std::fs::write(home.path("key.pem"), "no PEM").unwrap();
    assert!(home.refused(&[]).await.err.contains("key.pem"));
}

#[tokio::test]
async fn a_token_from_elsewhere_is_hashed_unless_it_can_be_guessed() {
    let home = Home::new("", &[]);
    let hashed = async |given: &str| {
        let mut command = sandclock(home.0.path(), &["token", "hash", "--json"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(given.as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, _) = hashed("0123456789abcdef0123456789abcdef\n").await;
    let expected = sandclock::config::TokenHash::of(b"0123456789abcdef0123456789abcdef").to_string();
    assert_eq!((code, serde_json::from_str::<Value>(&out).unwrap()), (0, json!({"hash": expected})));
    for weak in ["", "secret", "two words that are long enough to pass"] {
        let (code, out, err) = hashed(weak).await;
        assert!(code == 2 && out.is_empty() && err.contains("token of chance"), "{weak}: {err}");
    }
}
