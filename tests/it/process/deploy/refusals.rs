//! Pushes that are refused, break off or never end: nothing is changed and nothing is left.

use bytes::Bytes;
use futures::channel::mpsc;
use serde_json::json;

use super::{answer, answered, digest, good, left_over, put, saved, verb};
use crate::guest::plain;
use crate::process::daemon::{Home, patiently};
use crate::process::guests::answers;

#[tokio::test]
async fn what_is_refused_changes_nothing_and_the_answer_says_why() {
    let home = Home::new("", &[]);
    let daemon = home.start(&[]).await;
    let (one, two) = (answers("one"), answers("two"));
    good(&daemon, "a", one.clone()).await;
    daemon.task("t", "a", json!({})).await;
    let half = two[..two.len() / 2].to_vec();
    let (wrong, right) = (format!("?digest=sha256:{}", digest(&one)), format!("?digest={}&note=n", digest(&two)));
    for (agent, query, body, status, says) in [
        ("a", wrong.as_str(), two.clone(), 422, "nothing was changed"),
        ("a", "?digest=abc", two.clone(), 422, "64 hexadecimal digits"),
        ("a", "?colour=red", two.clone(), 422, "not a known parameter"),
        ("a", "", b"this is no component".to_vec(), 422, "a.wasm"),
        ("a", "", Vec::new(), 422, "a.wasm"),
        ("a", "", half, 422, "a.wasm"),
        ("..%2Fx", "", two.clone(), 422, "agent_id"),
        ("a", "", vec![0; 70 << 20], 413, "larger than"),
    ] {
        let (got, told) = put(&daemon, agent, query, body).await;
        assert_eq!(got, status, "{told}");
        assert!(told["detail"].as_str().unwrap().contains(says), "{says}: {told}");
    }
    // Without a length the bytes are counted as they come.
    let chunks = futures::stream::iter((0..70).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20]))));
    let (got, told) = put(&daemon, "a", "", reqwest::Body::wrap_stream(chunks)).await;
    assert_eq!(got, 413, "{told}");
    let plain =
        daemon.client.put(format!("{}/background/agents/a/plugin", daemon.url)).header("content-type", "text/plain").body(two.clone());
    assert_eq!(daemon.ask(plain).await.0, 415);
    let ended = verb(&home, &daemon, &["push", &saved(&home, "a.wasm", b"no"), "--digest", &digest(&two)]).await;
    assert!(ended.code == 2 && ended.err.lines().count() == 1 && ended.err.contains(&digest(&two)), "{ended:?}");

    let history = daemon.get("/background/agents/a/history").await;
    assert_eq!((&history["total"], &history["serving"]), (&json!(1), &json!(digest(&one))));
    assert_eq!(answer(&daemon, "t").await, answered("one", &one));
    assert!(left_over(&home).is_empty(), "{:?}", left_over(&home));
    let (got, told) = put(&daemon, "a", &right, two.clone()).await;
    assert_eq!((got, &told["digest"]), (200, &json!(digest(&two))), "{told}");
    assert_eq!(answer(&daemon, "t").await, answered("two", &two));
    let (got, told) = put(&daemon, "new", "", b"junk".to_vec()).await;
    assert_eq!(got, 422, "{told}");
    assert!(!daemon.get("/background/agents").await.to_string().contains("\"new\""), "no agent was made");
    daemon.stop().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_and_a_kill_in_its_middle_neither() {
    let home = Home::new("", &[]);
    let daemon = home.start(&[]).await;
    good(&daemon, "a", plain::ok()).await;
    let beginning = |daemon: &crate::process::daemon::Daemon| {
        let (sender, body) = mpsc::unbounded::<std::io::Result<Bytes>>();
        let url = format!("{}/background/agents/a/plugin", daemon.url);
        let request = daemon.client.put(url).header("content-type", "application/wasm").body(reqwest::Body::wrap_stream(body));
        sender.unbounded_send(Ok(Bytes::from(vec![0; 1 << 20]))).unwrap();
        (sender, tokio::spawn(request.send()))
    };
    let until = async |wanted: usize| {
        let looking = async {
            while left_over(&home).len() != wanted {
                tokio::task::yield_now().await;
            }
        };
        patiently("the folder of uploads", looking).await;
    };
    // Four come in at once, and a fifth is told to come later.
    let coming: Vec<_> = (0..4).map(|_| beginning(&daemon)).collect();
    until(4).await;
    let (status, told) = put(&daemon, "a", "", plain::echo()).await;
    assert_eq!(status, 503, "{told}");
    for (sender, sending) in coming {
        sender.unbounded_send(Err(std::io::Error::other("gone"))).unwrap();
        assert!(sending.await.unwrap().is_err());
    }
    until(0).await;
    let (sender, sending) = beginning(&daemon);
    until(1).await;
    daemon.kill().await;
    drop(sender);
    assert!(sending.await.unwrap().is_err());
    assert_eq!(left_over(&home).len(), 1);

    let daemon = home.start(&[]).await;
    assert!(left_over(&home).is_empty(), "the next start removes it");
    daemon.task("t", "a", json!({})).await;
    assert_eq!(answer(&daemon, "t").await, answered("hello from wat", &plain::ok()));
    assert_eq!(daemon.get("/background/agents/a/history").await["total"], 1);
    good(&daemon, "a", plain::echo()).await;
    daemon.stop().await;
}
