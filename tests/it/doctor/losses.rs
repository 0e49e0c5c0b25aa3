//! What a store can lose is said by the check, with a code of its own, and by the daemon's log at start.

use serde_json::json;

use super::{check, empty_configuration, losing, on, store};
use crate::process::daemon::{Daemon, Starting};
use crate::servers::own::OwnServer;

/// A daemon on the store of that URL, in a folder of its own.
async fn daemon(folder: &std::path::Path, url: &str) -> Daemon {
    empty_configuration(folder);
    let mut serve = on(folder, url, &["serve", "--config", "sandclock.toml"]);
    serve.env("SANDCLOCK_LISTEN", "127.0.0.1:0");
    Starting::new(serve).ready().await
}

#[tokio::test]
async fn a_redis_that_evicts_and_keeps_no_file_is_told_of() {
    let Some(server) = OwnServer::redis(&["--appendonly", "no", "--save", "", "--maxmemory-policy", "allkeys-lru"]).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (code, answer) = check(folder.path(), &server.url()).await;
    assert_eq!((code, &answer["good"]), (1, &json!(false)), "{answer}");
    assert_eq!(losing(&answer), ["appendonly", "maxmemory-policy"]);
    let told = store(folder.path(), &server.url(), &["check"]).await;
    assert_eq!(told.code, 1);
    for piece in [
        "loses: appendonly: nothing is kept on a disk: every run is lost when the server ends; set `appendonly yes`",
        "loses: maxmemory-policy: a server that reaches maxmemory deletes runs",
        "a run that was acknowledged can be lost: see above\n",
    ] {
        assert!(told.out.contains(piece), "{}", told.out);
    }
    let daemon = daemon(folder.path(), &server.url()).await;
    for piece in ["appendonly is no, and no snapshots: nothing is kept on a disk", "maxmemory-policy is allkeys-lru: a server that reaches"]
    {
        let line = daemon.logged(piece).await;
        assert!(line.contains("WARN"), "{line}");
    }
    let (_, answer) = check(folder.path(), &server.url()).await;
    assert_eq!(answer["daemons"][0]["state"], "alive", "{answer}");
}

#[tokio::test]
async fn a_daemon_says_in_one_line_that_nothing_is_lost() {
    let Some(server) = OwnServer::redis(&["--appendfsync", "always"]).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &server.url()).await;
    let line = daemon.logged("a run that was acknowledged is in the server's append-only file, synced").await;
    assert!(line.contains("INFO") && line.contains("clock_offset_seconds"), "{line}");
}

#[tokio::test]
async fn a_redis_that_syncs_each_second_can_lose_that() {
    let Some(server) = OwnServer::redis(&[]).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (code, answer) = check(folder.path(), &server.url()).await;
    assert_eq!((code, losing(&answer)), (1, vec!["appendfsync"]), "{answer}");
    assert!(answer["losses"][0].as_str().unwrap().contains("the last second"), "{answer}");
}

#[tokio::test]
async fn a_postgres_that_does_not_sync_is_told_of() {
    let unsafe_settings = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"];
    let Some(server) = OwnServer::postgres(&unsafe_settings).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (code, answer) = check(folder.path(), &server.url()).await;
    assert_eq!((code, losing(&answer)), (1, vec!["synchronous_commit", "fsync", "full_page_writes"]), "{answer}");
    let daemon = daemon(folder.path(), &server.url()).await;
    for name in ["synchronous_commit", "fsync", "full_page_writes"] {
        assert!(daemon.logged(&format!("{name} is off: ")).await.contains("WARN"));
    }
}

#[tokio::test]
async fn the_memory_store_loses_everything_at_each_end() {
    let folder = tempfile::tempdir().unwrap();
    let (code, answer) = check(folder.path(), "memory").await;
    assert_eq!((code, losing(&answer)), (1, vec!["kept"]), "{answer}");
    let daemon = daemon(folder.path(), "memory").await;
    assert!(daemon.logged("every run, task and result is lost at each end of the daemon").await.contains("WARN"));
}
