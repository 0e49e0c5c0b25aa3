//! A PgBouncer before PostgreSQL: with sessions of our own everything works, and where sessions are lent by the transaction nobody begins.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::{check, losing, on, store};
use crate::process::daemon::Starting;
use crate::servers::own::free_port;
use crate::servers::{self, TestDatabase};

struct Pooler {
    url: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Pooler {
    async fn new(database: &TestDatabase, mode: &str) -> Pooler {
        let program = std::env::var("SANDCLOCK_TEST_PGBOUNCER_BIN");
        let program = program.expect("there is no PgBouncer here: install it, on Debian with `apt-get install pgbouncer` as root");
        let (_, place) = database.url.split_once("://").unwrap();
        let (user, place) = place.rsplit_once('@').unwrap();
        let (name, password) = user.split_once(':').unwrap();
        let port = place.split_once('/').unwrap().0.rsplit_once(':').unwrap().1;
        let (own, folder) = (free_port(), tempfile::tempdir().unwrap());
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={port} user={name} password={password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {own}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 40\n"
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), settings).unwrap();
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            // It refuses to be root, and reads its file before it is somebody else.
            command.args(["--user", "nobody"]);
        }
        command.arg(folder.path().join("pgbouncer.ini")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.kill_on_drop(true).spawn().unwrap();
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", own)).await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "PgBouncer does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Pooler { url: format!("postgres://{user}@127.0.0.1:{own}/{}", database.name), _process: process, _folder: folder }
    }
}

#[tokio::test]
async fn that_lends_sessions_by_the_transaction_is_refused_by_all() {
    let Some(database) = servers::postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let pooler = Pooler::new(&database, "transaction").await;
    let refusals = [store(folder.path(), &pooler.url, &["check"]).await, store(folder.path(), &pooler.url, &["migrate"]).await];
    let mut serve = on(folder.path(), &pooler.url, &["serve"]);
    serve.env("SANDCLOCK_LISTEN", "127.0.0.1:0");
    let serve = crate::process::daemon::patiently("the end of a daemon behind a pooler", crate::cli::stage::ended(serve)).await;
    for refused in refusals.into_iter().chain([serve]) {
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.err.contains("is behind a pooler that lends sessions by the transaction"), "{refused:?}");
        assert!(refused.err.contains("set its pool_mode to session"), "{refused:?}");
    }
}

#[tokio::test]
async fn that_lends_whole_sessions_is_as_good_as_none() {
    let Some(database) = servers::postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let pooler = Pooler::new(&database, "session").await;
    let mut serve = on(folder.path(), &pooler.url, &["serve"]);
    serve.env("SANDCLOCK_LISTEN", "127.0.0.1:0");
    let daemon = Starting::new(serve).ready().await;
    daemon.until("/background/daemons", |answer| answer["daemons"][0]["state"] == "alive").await;
    let (code, answer) = check(folder.path(), &pooler.url).await;
    assert_eq!((code, losing(&answer).len(), &answer["daemons"][0]["state"]), (0, 0, &serde_json::json!("alive")), "{answer}");
}
