//! The client behind a TLS server of another make: `openssl s_server` that plays one answer.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::stage::{ended, file, sandclock};
use crate::servers::certificates::Certificates;
use crate::servers::own::free_port;

/// A server that answers `GET /background/daemons`.
async fn serve(folder: &std::path::Path, own: &Certificates, port: u16) -> Child {
    std::fs::create_dir(folder.join("background")).unwrap();
    let body = r#"{"daemons":[]}"#;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
    file(folder, "background/daemons", format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(["s_server", "-HTTP", "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-cert").arg(own.path("certificate.pem")).arg("-key").arg(own.path("key.pem"));
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("ACCEPT") {
            // Read on, or it waits for a reader.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return server;
        }
    }
    panic!("openssl s_server ended");
}

#[tokio::test]
async fn a_daemon_behind_tls_answers_who_trusts_its_ca_and_nobody_else() {
    let (own, other, folder) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"), tempfile::tempdir().unwrap());
    let port = free_port();
    let _server = serve(folder.path(), &own, port).await;
    let ask = async |ca: &Certificates| {
        let mut command = sandclock(folder.path(), &["daemons", "--json"]);
        command.env("SANDCLOCK_URL", format!("https://127.0.0.1:{port}")).env("SSL_CERT_FILE", ca.authority());
        ended(command).await
    };
    let answered = ask(&own).await;
    assert_eq!((answered.code, answered.out.as_str()), (0, "{\"daemons\":[]}\n"), "{answered:?}");
    let refused = ask(&other).await;
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.err.contains("certificate") && refused.err.contains("SSL_CERT_FILE"), "{refused:?}");
}
