//! Pushes and rollbacks.

use std::sync::Arc;

use sandclock::clock::SystemClock;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::{CountScope, Kind, Store as _};
use serde_json::{Value, json};

use super::{answer, answered, digest, done, good, left_over, names, post, put, saved, verb, why};
use crate::guest::plain;
use crate::process::daemon::Home;
use crate::process::guests::{answers, gate};

#[tokio::test]
async fn a_push_wins_over_the_folder_until_it_is_rolled_back_and_outlasts_a_restart() {
    let (file, one, two) = (answers("file"), answers("one"), answers("two"));
    let home = Home::new("", &[("a", file.clone())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "a", json!({})).await;
    assert_eq!(answer(&daemon, "t").await, answered("file", &file));

    let told = done(&home, &daemon, &["push", &saved(&home, "a.wasm", &one), "--note", "first try"]).await;
    assert!(told.contains(&digest(&one)) && told.contains("sandclock agents rollback a"), "{told}");
    assert_eq!(answer(&daemon, "t").await, answered("one", &one));
    let told = done(&home, &daemon, &["push", "a.wasm"]).await;
    assert!(told.contains("already"), "{told}");
    assert_eq!(done(&home, &daemon, &["push", &saved(&home, "other.wasm", &two), "--agent", "a"]).await.lines().count(), 1);
    assert_eq!(answer(&daemon, "t").await, answered("two", &two));

    // A file that is dropped now does not serve, and everybody says so.
    home.plugin("a", &plain::echo());
    let warned = daemon.logged(&format!("file={}", digest(&plain::echo()))).await;
    assert!(warned.contains(&digest(&two)) && warned.contains("rollback a --to folder"), "{warned}");
    let agent = daemon.get("/background/agents/a").await;
    assert_eq!((&agent["source"], &agent["digest"], &agent["origin"]), (&json!("push"), &json!(digest(&two)), &json!("plugin")));
    assert!(agent["overridden"].as_str().unwrap().contains(&digest(&two)), "{agent}");
    let plugins = done(&home, &daemon, &["plugins"]).await;
    assert!(plugins.contains("overridden by the push") && plugins.contains("a (pushed)"), "{plugins}");
    assert!(done(&home, &daemon, &["agents", "show", "a"]).await.contains("overridden by"));
    assert_eq!(answer(&daemon, "t").await, answered("two", &two));
    daemon.stop().await;

    let daemon = home.start(&[]).await;
    assert_eq!(answer(&daemon, "t").await, answered("two", &two));
    done(&home, &daemon, &["agents", "rollback", "a", "--note", "two is bad"]).await;
    assert_eq!(answer(&daemon, "t").await, answered("one", &one));
    done(&home, &daemon, &["agents", "rollback", "a"]).await;
    assert_eq!(answer(&daemon, "t").await, answered("q", &plain::echo()));
    let refused = verb(&home, &daemon, &["agents", "rollback", "a"]).await;
    assert!(refused.code == 4 && refused.err.contains("plugins folder"), "{refused:?}");
    done(&home, &daemon, &["agents", "rollback", "a", "--to", &digest(&two)]).await;
    assert_eq!(answer(&daemon, "t").await, answered("two", &two));
    done(&home, &daemon, &["agents", "rollback", "a", "--to", "folder"]).await;
    assert_eq!(answer(&daemon, "t").await, answered("q", &plain::echo()));

    let history = daemon.get("/background/agents/a/history").await;
    let entries: Vec<_> =
        history["history"].as_array().unwrap().iter().map(|entry| (entry["how"].clone(), entry["digest"].clone())).collect();
    let (push, back) = (json!("push"), json!("rollback"));
    let (first, second) = (json!(digest(&one)), json!(digest(&two)));
    assert_eq!(
        entries,
        [
            (back.clone(), Value::Null),
            (back.clone(), second.clone()),
            (back.clone(), Value::Null),
            (back, first.clone()),
            (push.clone(), second),
            (push, first)
        ]
    );
    let newest_push = &history["history"][4];
    assert_eq!((&newest_push["size_bytes"], &newest_push["before"]), (&json!(two.len()), &json!(digest(&one))));
    assert_eq!(history["history"][5]["note"], "first try");
    let told = done(&home, &daemon, &["agents", "history", "a"]).await;
    assert!(told.contains("first try") && told.contains("two is bad") && told.contains("(plugins folder)"), "{told}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_push_makes_an_agent_and_stands_in_for_the_file_of_its_name() {
    let home = Home::new("[agents.second]\nplugin = \"fresh\"\n", &[]);
    let daemon = home.start(&[]).await;
    let (one, own) = (answers("one"), answers("own"));
    daemon.task("second", "second", json!({})).await;
    let waits = daemon.fire("second").await;
    assert_eq!(why(&daemon, &waits).await["code"], "agent_not_serving");
    let told = good(&daemon, "fresh", one.clone()).await;
    assert_eq!((&told["changed"], &told["agent"]["origin"]), (&json!(true), &json!("push")));
    daemon.task("t", "fresh", json!({})).await;
    assert_eq!(answer(&daemon, "t").await, answered("one", &one));
    assert_eq!(daemon.terminal(&waits).await["result_preview"], "one", "whoever has the plugin of that name has the push");
    good(&daemon, "second", own.clone()).await;
    assert_eq!(answer(&daemon, "second").await, answered("own", &own));
    assert_eq!(answer(&daemon, "t").await, answered("one", &one));

    let (status, told) = post(&daemon, "/background/agents/fresh/rollback", json!({"to": "folder"})).await;
    assert!(status == 409 && told["detail"].as_str().unwrap().contains("nothing would serve it"), "{told}");
    let delete = daemon.client.delete(format!("{}/background/agents/fresh", daemon.url));
    assert_eq!(daemon.ask(delete).await.0, 200);
    let waits = daemon.fire("t").await;
    let told = why(&daemon, &waits).await;
    assert_eq!(told["code"], "agent_unknown", "{told}");
    assert_eq!(daemon.run(&waits).await["status"], "queued");
    let history = daemon.client.get(format!("{}/background/agents/fresh/history", daemon.url));
    assert_eq!(daemon.ask(history).await.0, 404);
    // What was deleted can come again.
    good(&daemon, "fresh", one.clone()).await;
    assert_eq!(daemon.terminal(&waits).await["result_preview"], "one");
    daemon.stop().await;
}

#[tokio::test]
async fn attempts_that_run_go_on_with_their_digest_and_those_that_wait_take_the_one_that_serves() {
    let home = Home::new("[worker]\nmax_running = 1\n", &[]);
    let daemon = home.start(&[]).await;
    let (one, two) = (gate("one"), gate("two"));
    good(&daemon, "a", one.clone()).await;
    daemon.task("t", "a", json!({"overlap_policy": "allow_parallel"})).await;
    let first = daemon.fire("t").await;
    let waits = daemon.fire("t").await;
    daemon.started(&first, 1).await;
    good(&daemon, "a", two.clone()).await;
    done(&home, &daemon, &["agents", "rollback", "a"]).await;
    good(&daemon, "a", two.clone()).await;
    for (run, bytes, text) in [(&first, &one, "one"), (&waits, &two, "two")] {
        daemon.started(run, 1).await;
        home.put_into_workspace(run, "go");
        assert_eq!(daemon.terminal(run).await["result_preview"], text);
        assert_eq!(daemon.attempts(run).await[0]["digest"], digest(bytes));
    }
    daemon.stop().await;
}

#[tokio::test]
async fn of_pushes_at_once_each_is_whole_and_the_same_one_is_one() {
    let home = Home::new("", &[]);
    let daemon = home.start(&[]).await;
    let same = answers("same");
    let told = futures::future::join_all((0..4).map(|_| put(&daemon, "a", "", same.clone()))).await;
    assert!(told.iter().all(|(status, _)| *status == 200), "{told:?}");
    assert_eq!(told.iter().filter(|(_, told)| told["changed"] == true).count(), 1);
    let others: Vec<Vec<u8>> = (0..3).map(|number| answers(&format!("answer {number}"))).collect();
    let told = futures::future::join_all(others.iter().map(|bytes| put(&daemon, "a", "", bytes.clone()))).await;
    assert!(told.iter().all(|(status, told)| *status == 200 && told["changed"] == true), "{told:?}");
    let history = daemon.get("/background/agents/a/history").await;
    assert_eq!(history["total"], 4);
    let serving = history["serving"].as_str().unwrap();
    assert_eq!(history["history"][0]["digest"], serving);
    daemon.task("t", "a", json!({})).await;
    assert_eq!(answer(&daemon, "t").await.1, serving);
    assert!(left_over(&home).is_empty());
    // The files of what serves no more go; the store has them.
    daemon.until("/background/status", |_| names(&home.path(".sandclock/pushed")).len() == 1).await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_newest_ten_digests_are_kept_and_the_history_is_bounded() {
    let home = Home::new("", &[]);
    let daemon = home.start(&[]).await;
    let pushed: Vec<Vec<u8>> = (0..12).map(|number| answers(&format!("answer {number}"))).collect();
    good(&daemon, "other", pushed[0].clone()).await;
    for bytes in &pushed {
        good(&daemon, "a", bytes.clone()).await;
    }
    let history = daemon.get("/background/agents/a/history").await;
    let kept: Vec<bool> = history["history"].as_array().unwrap().iter().map(|entry| entry["is_kept"].as_bool().unwrap()).collect();
    assert_eq!(kept, [[true; 10].as_slice(), &[false; 2]].concat());
    let (status, told) = post(&daemon, "/background/agents/a/rollback", json!({"to": digest(&pushed[1])})).await;
    assert!(status == 409 && told["detail"].as_str().unwrap().contains("push the component again"), "{told}");
    let (status, _) = post(&daemon, "/background/agents/a/rollback", json!({"to": digest(&pushed[2])})).await;
    assert_eq!(status, 200);
    daemon.task("t", "a", json!({})).await;
    daemon.task("other", "other", json!({})).await;
    assert_eq!(answer(&daemon, "t").await, answered("answer 2", &pushed[2]));
    assert_eq!(answer(&daemon, "other").await, answered("answer 0", &pushed[0]), "what another agent keeps stays");
    daemon.stop().await;
    // From the store, without the files.
    std::fs::remove_dir_all(home.path(".sandclock/pushed")).unwrap();
    let daemon = home.start(&[]).await;
    assert_eq!(answer(&daemon, "t").await, answered("answer 2", &pushed[2]));
    assert_eq!(answer(&daemon, "other").await, answered("answer 0", &pushed[0]));
    daemon.stop().await;
}

#[tokio::test]
async fn bytes_that_no_agent_keeps_go_and_those_that_one_keeps_stay() {
    let home = Home::new("[retention]\nplugins_seconds = 1\npass_seconds = 0.1\n", &[]);
    let daemon = home.start(&[]).await;
    let pushed: Vec<Vec<u8>> = (0..12).map(|number| answers(&format!("answer {number}"))).collect();
    good(&daemon, "other", pushed[0].clone()).await;
    for bytes in &pushed {
        good(&daemon, "a", bytes.clone()).await;
    }
    daemon.logged("a plugin that no agent keeps were removed").await;
    assert!(daemon.logged(&format!("digest={}", digest(&pushed[1]))).await.contains("digest"));
    // The same bytes can come again.
    good(&daemon, "a", pushed[1].clone()).await;
    daemon.task("t", "a", json!({})).await;
    assert_eq!(answer(&daemon, "t").await, answered("answer 1", &pushed[1]));
    daemon.stop().await;
    let store = SqliteStore::open(&home.path(".sandclock/sandclock.db"), Arc::new(SystemClock)).await.unwrap();
    // Ten of the agent, and the one that another keeps; what was pushed out just now may be there yet.
    for kind in [Kind::Plugin, Kind::PluginPart] {
        let count = store.counts(CountScope::All(kind)).await.unwrap().total;
        assert!((11..=12).contains(&count), "{kind:?}: {count}");
    }
    store.close().await;
}

#[tokio::test]
async fn the_history_says_who_by_the_name_of_their_token_and_only_who_may_deploy_can_push() {
    let hash = |token: &str| format!("sha256:{}", digest(token.as_bytes()));
    let config = format!(
        "[tokens.ann]\nhash = \"{}\"\nroles = [\"deploy\"]\n[tokens.bob]\nhash = \"{}\"\nroles = [\"operate\"]\n",
        hash("ann's token"),
        hash("bob's token")
    );
    let home = Home::new(&config, &[]);
    let daemon = home.spawn(&[]).listening().await;
    let ask = async |token: &str, request: reqwest::RequestBuilder| daemon.ask(request.bearer_auth(token)).await;
    let at = |path: &str| format!("{}/background/agents/a/{path}", daemon.url);
    let push = || daemon.client.put(at("plugin")).header("content-type", "application/wasm").body(answers("one"));
    assert_eq!(ask("bob's token", push()).await.0, 403);
    assert_eq!(ask("ann's token", push()).await.0, 200);
    let pause = daemon.client.post(at("pause")).json(&json!({"reason": "lunch"}));
    let (status, told) = ask("bob's token", pause).await;
    assert_eq!((status, &told["paused"]["by"]), (200, &json!("bob")), "{told}");
    let (_, history) = ask("bob's token", daemon.client.get(at("history"))).await;
    assert_eq!((&history["history"][0]["by"], &history["paused"]["by"]), (&json!("ann"), &json!("bob")));
    daemon.stop().await;
}

#[tokio::test]
async fn an_agent_goes_back_from_its_own_push_to_that_of_the_agent_that_its_plugin_names() {
    let home = Home::new("[agents.mine]\nplugin = \"shared\"\n", &[]);
    let daemon = home.start(&[]).await;
    let (of_all, own) = (answers("of all"), answers("my own"));
    good(&daemon, "shared", of_all.clone()).await;
    good(&daemon, "mine", own.clone()).await;
    daemon.task("t", "mine", json!({})).await;
    assert_eq!(answer(&daemon, "t").await, answered("my own", &own));
    let (status, told) = post(&daemon, "/background/agents/mine/rollback", json!({"to": "folder"})).await;
    assert_eq!((status, &told["digest"]), (200, &json!(null)), "{told}");
    assert_eq!(answer(&daemon, "t").await, answered("of all", &of_all));
    // Without that push nothing would serve it any more.
    let delete = async |query: &str| daemon.ask(daemon.client.delete(format!("{}/background/agents/shared{query}", daemon.url))).await;
    let (status, told) = delete("").await;
    assert!(status == 409 && told["detail"].as_str().unwrap().contains("serves agent mine"), "{told}");
    assert_eq!(delete("?force=true").await.0, 200);
    daemon.stop().await;
}
