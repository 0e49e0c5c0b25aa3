//! What a check finds where all is well, and where the store cannot be used.

use serde_json::json;

use super::{check, losing, of_verdict, store};
use crate::cli::stage::file;
use crate::process::daemon::Home;
use crate::servers;
use crate::servers::own::OwnServer;

#[tokio::test]
async fn a_sqlite_store_is_looked_at_while_its_daemon_works_and_after() {
    let home = Home::new("", &[]);
    let daemon = home.start(&[]).await;
    let files = || std::fs::read_dir(home.path(".sandclock")).unwrap().count();
    let before = files();
    for seen in ["alive", "gone"] {
        let (code, answer) = check(home.0.path(), "sqlite").await;
        assert_eq!(answer["store"]["schema"], json!({"found": 4, "known": 4}), "{answer}");
        assert!(answer["commits"]["median_ms"].as_f64().unwrap() > 0.0, "{answer}");
        // Where the tests' folder is on a disk that loses, that is right.
        assert!(losing(&answer).iter().all(|name| *name == "file system"), "{answer}");
        assert_eq!((answer["good"].as_bool().unwrap(), code), if losing(&answer).is_empty() { (true, 0) } else { (false, 1) });
        let daemons = answer["daemons"].as_array().unwrap();
        match seen {
            "alive" => {
                assert_eq!((daemons.len(), &daemons[0]["state"]), (1, &json!("alive")), "{answer}");
                assert_eq!(files(), before, "what was measured on is gone");
                let told = store(home.0.path(), "sqlite", &["check"]).await;
                assert!(told.out.contains(": alive, seen ") && told.out.contains("\njournal_mode "), "{}", told.out);
                assert_eq!(daemon.get("/ready").await["status"], "ready");
                daemon.send(rustix::process::Signal::TERM);
                daemon.logged("stopped").await;
            }
            _ => assert!(daemons.is_empty(), "{answer}"),
        }
    }
}

#[tokio::test]
async fn a_redis_that_syncs_always_loses_nothing() {
    let Some(server) = OwnServer::redis(&["--appendfsync", "always"]).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (code, answer) = check(folder.path(), &server.url()).await;
    assert_eq!(answer["store"]["schema"]["found"], 0, "a look makes no store: {answer}");
    assert_eq!(answer["commits"], json!(null));
    assert_eq!((code, losing(&answer).len()), (0, 0), "{answer}");
    assert_eq!(store(folder.path(), &server.url(), &["migrate"]).await.code, 0);
    let (code, answer) = check(folder.path(), &server.url()).await;
    assert_eq!((code, &answer["good"]), (0, &json!(true)), "{answer}");
    assert!(answer["commits"]["count"].as_u64().unwrap() > 0, "{answer}");
    assert!(answer["store"]["version"].as_str().unwrap().contains(['7', '8', '9']), "{answer}");
    assert!(answer["store"]["clock_offset_seconds"].as_f64().unwrap().abs() < 10.0, "{answer}");
    let told = store(folder.path(), &server.url(), &["check"]).await.out;
    assert!(told.ends_with("it survives the server's and its machine's end\n"), "{told}");
}

#[tokio::test]
async fn a_postgres_that_syncs_loses_nothing() {
    let Some(database) = servers::postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(store(folder.path(), &database.url, &["migrate"]).await.code, 0);
    let (code, answer) = check(folder.path(), &database.url).await;
    assert_eq!((code, &answer["good"]), (0, &json!(true)), "{answer}");
    assert!(answer["commits"]["count"].as_u64().unwrap() > 0, "{answer}");
    assert!(of_verdict(&answer, "unknown").is_empty(), "{answer}");
}

#[tokio::test]
async fn a_mongodb_that_asks_the_majority_loses_nothing() {
    let Some(database) = servers::mongodb() else { return };
    let folder = tempfile::tempdir().unwrap();
    let url = database.url.replace("/?", &format!("/{}?", database.name));
    assert_eq!(store(folder.path(), &url, &["migrate"]).await.code, 0);
    let (code, answer) = check(folder.path(), &url).await;
    assert_eq!((code, &answer["good"]), (0, &json!(true)), "{answer}");
    assert!(answer["commits"]["count"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(of_verdict(&answer, "note"), ["replica set"], "one member is told: {answer}");
}

#[tokio::test]
async fn who_may_not_read_the_settings_is_told_so_and_where_to_look() {
    let Some(server) = OwnServer::redis(&["--appendfsync", "always"]).await else { return };
    let mut connection = redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut user = redis::cmd("ACL");
    user.arg(&["SETUSER", "limited", "on", ">tiger", "~*", "&*", "+@all", "-config"]);
    user.query_async::<()>(&mut connection).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = server.url().replace("redis://", "redis://limited:tiger@");
    let (code, answer) = check(folder.path(), &url).await;
    assert_eq!((code, of_verdict(&answer, "unknown")), (0, vec!["appendfsync"]), "{answer}");
    let told = store(folder.path(), &url, &["check"]).await;
    assert!(told.out.contains("unknown: appendfsync: the server does not tell it"), "{}", told.out);
    assert!(!format!("{told:?}{answer}").contains("tiger"));
}

#[tokio::test]
async fn who_cannot_be_reached_is_named_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was free a moment ago, of which nobody else knows.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for scheme in ["redis", "postgres", "mongodb"] {
        let url = format!("{scheme}://scott:tiger@127.0.0.1:{port}/x");
        let url = if scheme == "redis" { url.trim_end_matches("/x").to_owned() } else { url };
        for line in [["check"], ["migrate"]] {
            let ended = store(folder.path(), &url, &line).await;
            assert_eq!(ended.code, 6, "{ended:?}");
            assert!(ended.err.contains(&format!("127.0.0.1:{port}")), "{ended:?}");
            assert!(!format!("{ended:?}").contains("tiger") && !ended.err.contains("scott"), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn what_is_no_store_of_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "x.db", "nothing that SQLite could read, but long enough for a header of a hundred bytes".repeat(2).as_bytes());
    for line in [["check"], ["migrate"]] {
        let ended = store(folder.path(), "sqlite:///x.db", &line).await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.err.contains("is not a SQLite database"), "{ended:?}");
    }
    let Some(database) = servers::redis() else { return };
    let mut connection = redis::Client::open(database.url.clone()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let prefix = database.name.trim_end_matches(':');
    let mut later = redis::cmd("HSET");
    later.arg(format!("{{{prefix}}}")).arg("version").arg(99);
    later.query_async::<()>(&mut connection).await.unwrap();
    file(folder.path(), "sandclock.toml", format!("[store]\nprefix = \"{prefix}\"\n").as_bytes());
    for line in [["check", "--config", "sandclock.toml"], ["migrate", "--config", "sandclock.toml"]] {
        let ended = store(folder.path(), &database.url, &line).await;
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.err.contains("a store of version 99, and this program knows 1; use a later release"), "{ended:?}");
    }
}
