//! Two daemons on one store, and a store that moves.

use serde_json::{Value, json};

use super::{answered, digest, done, good, post, why};
use crate::cli::stage::{ended, sandclock};
use crate::guest::plain;
use crate::process::daemon::{Daemon, Home, patiently};
use crate::process::guests::answers;
use crate::servers;

/// Has one daemon ask for a run and another tell of it.
async fn answer(asked: &Daemon, told: &Daemon) -> (Value, Value) {
    let run = asked.fire("t").await;
    let ended = told.terminal(&run).await;
    (ended["result_preview"].clone(), told.attempts(&run).await[0]["digest"].clone())
}

#[tokio::test]
async fn what_is_pushed_paused_and_registered_on_one_daemon_holds_on_the_other() {
    let Some(database) = servers::postgres().await else { return };
    let config = |more: &str| format!("[store]\nurl = \"{}\"\n{more}", database.url);
    // Only the second executes, so whatever the first takes must have reached it.
    let (first_home, second_home) = (Home::new(&config("[worker]\nenabled = false\n"), &[]), Home::new(&config(""), &[]));
    let (first, second) = (first_home.start(&[]).await, second_home.start(&[]).await);
    let large = [answers("one"), custom_section(3 << 20)].concat();
    let told = good(&first, "a", large.clone()).await;
    assert_eq!(told["digest"], digest(&large));
    first.task("t", "a", json!({"overlap_policy": "allow_parallel"})).await;
    assert_eq!(answer(&first, &second).await, answered("one", &large));

    let two = answers("two");
    good(&second, "a", two.clone()).await;
    assert_eq!(answer(&first, &second).await, answered("two", &two));
    first.until("/background/agents/a", |agent| agent["digest"] == digest(&two)).await;
    done(&first_home, &first, &["agents", "rollback", "a"]).await;
    second.until("/background/agents/a", |agent| agent["digest"] == digest(&large)).await;
    assert_eq!(answer(&first, &second).await, answered("one", &large));

    assert_eq!(post(&first, "/background/agents/a/pause", json!({"reason": "r"})).await.0, 200);
    second.until("/background/agents/a", |agent| agent["paused"]["reason"] == "r").await;
    let waits = first.fire("t").await;
    assert_eq!(why(&second, &waits).await["code"], "agent_paused");
    assert_eq!(post(&first, "/background/agents/a/resume", json!({})).await.0, 200);
    assert_eq!(second.terminal(&waits).await["status"], "completed");

    assert_eq!(post(&first, "/background/agents", json!({"agent_id": "b", "plugin": "a"})).await.0, 200);
    first.task("of_b", "b", json!({})).await;
    let run = first.fire("of_b").await;
    assert_eq!(second.terminal(&run).await["result_preview"], "one");
    // One that comes later has all of it.
    second.stop().await;
    let third_home = Home::new(&config(""), &[]);
    let third = third_home.start(&[]).await;
    assert_eq!(answer(&first, &third).await, answered("one", &large));
    third.stop().await;
    first.stop().await;
}

/// A custom section of a component that fills so many bytes.
fn custom_section(bytes: usize) -> Vec<u8> {
    let mut content = vec![4];
    content.extend(b"fill");
    content.resize(bytes, 0);
    let (mut section, mut left) = (vec![0], content.len());
    while left >= 128 {
        section.push(u8::try_from(left % 128).unwrap() | 128);
        left /= 128;
    }
    section.push(u8::try_from(left).unwrap());
    section.extend(content);
    section
}

#[tokio::test]
async fn a_backup_carries_what_was_pushed_and_registered() {
    let home = Home::new("", &[]);
    let daemon = home.start(&[]).await;
    let bytes = [answers("moved"), custom_section(2 << 20)].concat();
    good(&daemon, "a", plain::ok()).await;
    good(&daemon, "a", bytes.clone()).await;
    assert_eq!(post(&daemon, "/background/agents", json!({"agent_id": "b", "plugin": "a", "name": "Bee"})).await.0, 200);
    daemon.task("t", "b", json!({})).await;
    daemon.stop().await;
    let other = Home::new("", &[]);
    let backup = other.path("store.backup").to_string_lossy().into_owned();
    let verb = async |home: &Home, line: &[&str]| {
        let told = patiently("the end of a verb", ended(sandclock(home.0.path(), line))).await;
        assert_eq!(told.code, 0, "{told:?}");
    };
    verb(&home, &["store", "backup", &backup, "--config", "sandclock.toml"]).await;
    verb(&other, &["store", "restore", &backup, "--to", "sandclock.toml"]).await;
    let daemon = other.start(&[]).await;
    assert_eq!(daemon.get("/background/agents/b").await["name"], "Bee");
    assert_eq!(answer(&daemon, &daemon).await, answered("moved", &bytes));
    // What it leads to has to be brought from the store first, and serves when the answer comes.
    let (status, told) = post(&daemon, "/background/agents/a/rollback", json!({})).await;
    assert_eq!((status, &told["agent"]["state"], &told["agent"]["digest"]), (200, &json!("accepted"), &json!(digest(&plain::ok()))));
    assert_eq!(answer(&daemon, &daemon).await, answered("hello from wat", &plain::ok()));
    daemon.stop().await;
}
