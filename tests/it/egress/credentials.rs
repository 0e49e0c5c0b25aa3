//! Credentials: put in where they belong, never shown, paced, and read again.

use super::*;

const KEY: &str = "sk-Tiger7421/long+enough";

/// A stage whose agent has the credential `key` for a server.
async fn stage(server: &Server, more: &str) -> Stage {
    let port = server.port();
    let http = format!(
        "allow = [\"http://127.0.0.1:{port}\"]\ncredentials = [\"key\"]\n[credentials.key]\nhost = \"127.0.0.1\"\nport = {port}\n{more}"
    );
    Stage::with(&http, &[("THE_KEY", KEY)]).await
}

#[tokio::test]
async fn the_value_is_put_in_and_what_the_host_repeats_of_it_is_masked() {
    let server = Server::start().await;
    let stage = stage(&server, "allow_http_loopback = true\nenv = \"THE_KEY\"").await;
    let here = server.address;
    let came =
        stage.run(&format!("O\nG h {here} /echo?a=1 authorization Bearer-of-its-own 0 r\nG h {here} /echo AUTHORIZATION x 0 r\n")).await;
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), [format!("Bearer {KEY}")], "the guest's own is dropped");
    }
    for line in came.lines() {
        assert!(line.contains(&format!("authorization: Bearer {}", "*".repeat(KEY.len()))), "{line}");
    }
    assert!(!stage.logs().contains(KEY) && stage.logs().contains("***"));
    assert_eq!(came.calls()[0].credentials, ["key"]);
    stage.run(&format!("O\nG h {here} /echo accept-encoding gzip 0 r\n")).await;
    assert_eq!(server.seen()[2].header("accept-encoding"), ["identity"], "nothing could be masked in what is compressed");
    assert!(!serde_json::to_string(came.record()).unwrap().contains("Tiger"));
}

#[tokio::test]
async fn an_answer_that_could_not_be_masked_is_refused() {
    for (coding, told) in [("gzip", DENIED), ("identity, br", DENIED), ("identity", "200 hello")] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: 5\r\n\r\nhello");
        let server = Server::raw(answer.into_bytes(), Vec::new()).await;
        let stage = stage(&server, "allow_http_loopback = true\nenv = \"THE_KEY\"").await;
        let came = stage.run(&format!("O\n{}", get(&server.address.to_string(), "/"))).await;
        assert_eq!((came.lines(), came.rules()[0]), (vec![told], (told == DENIED).then_some(Rule::Credential)), "{coding}");
    }
}

#[tokio::test]
async fn another_host_gets_nothing_of_it() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (port, elsewhere) = (server.port(), other.port());
    let http = format!(
        "allow = [\"http://127.0.0.1:{port}\", \"http://127.0.0.1:{elsewhere}\"]\ncredentials = [\"key\"]\n\
         [credentials.key]\nhost = \"127.0.0.1\"\nport = {port}\nallow_http_loopback = true\nenv = \"THE_KEY\""
    );
    let stage = Stage::with(&http, &[("THE_KEY", KEY)]).await;
    let came = stage.run(&format!("O\nG h {} / authorization own 0 r\n", other.address)).await;
    assert_eq!((came.lines(), came.calls()[0].credentials.len()), (vec!["200 hello"], 0));
    assert_eq!(other.seen()[0].header("authorization"), ["own"], "there the guest's own is no credential of ours");
}

#[tokio::test]
async fn without_tls_it_is_not_sent() {
    let server = Server::start().await;
    let stage = stage(&server, "env = \"THE_KEY\"").await;
    let came = stage.run(&format!("O\n{}", get(&server.address.to_string(), "/"))).await;
    assert_eq!((came.lines(), came.rules(), server.connections()), (vec![DENIED], vec![Some(Rule::Credential)], 0));
    let refusal = came.calls()[0].refused.clone().unwrap();
    assert!(refusal.sentence.contains("over TLS only") && refusal.toml.unwrap().contains("allow_http_loopback"), "{}", refusal.sentence);
}

#[tokio::test]
async fn one_that_cannot_be_read_fails_the_call_with_its_name_and_the_mend() {
    let server = Server::start().await;
    for (source, word) in
        [("env = \"NO_KEY\"", "NO_KEY is not set"), ("file = \"/nowhere/key\"", "/nowhere/key"), ("command = [\"false\"]", "failed")]
    {
        let stage = stage(&server, &format!("allow_http_loopback = true\n{source}")).await;
        let came = stage.run(&format!("O\n{}", get(&server.address.to_string(), "/"))).await;
        assert_eq!((came.lines(), came.rules()), (vec![DENIED], vec![Some(Rule::Credential)]));
        let sentence = came.calls()[0].refused.clone().unwrap().sentence;
        assert!(sentence.contains("credential `key`") && sentence.contains(word), "{sentence}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_file_that_is_replaced_is_read_again_without_a_restart() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "first-long-value\n").unwrap();
    let stage = stage(&server, &format!("allow_http_loopback = true\nheader = \"X-Api-Key\"\nfile = {path:?}")).await;
    let query = format!("O\n{}", get(&server.address.to_string(), "/"));
    stage.run(&query).await;
    std::fs::write(folder.path().join("new"), "other-long-value\n").unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    stage.run(&query).await;
    let sent: Vec<String> = server.seen().iter().map(|seen| seen.header("x-api-key")[0].to_owned()).collect();
    assert_eq!(sent, ["first-long-value", "other-long-value"]);
}

#[tokio::test]
async fn a_429_reaches_the_guest_and_holds_up_the_next_call_until_its_time() {
    let server = Server::start().await;
    let port = server.port();
    let http = format!(
        "allow = [\"http://127.0.0.1:{port}\"]\ncredentials = [\"key\"]\nmax_seconds = 0.3\n\
         [credentials.key]\nhost = \"127.0.0.1\"\nport = {port}\nallow_http_loopback = true\nenv = \"THE_KEY\""
    );
    let stage = Stage::with(&http, &[("THE_KEY", KEY)]).await;
    let came = stage.run(&format!("O\n{0}{0}", get(&server.address.to_string(), "/later"))).await;
    assert_eq!(came.lines(), ["429 hello", "E33"], "the second waits until its attempt's own time is over");
    assert_eq!((came.rules(), server.seen().len()), (vec![None, Some(Rule::MaxSeconds)], 1));
}

#[tokio::test]
async fn what_a_guest_sends_out_again_in_base64_is_hidden_from_what_is_kept() {
    let server = Server::start().await;
    let stage = stage(&server, "allow_http_loopback = true\nenv = \"THE_KEY\"").await;
    let here = server.address;
    // A guest that learned the value elsewhere: its query holds it, in the path that the record keeps and in what it prints.
    let first = get(&here.to_string(), "/ok");
    let came = stage.run(&format!("O\n{first}G h {here} /x/{KEY} - - 0 r\n")).await;
    assert_eq!(came.lines(), ["200 hello", "200 hello"]);
    assert!(!serde_json::to_string(came.record()).unwrap().contains("Tiger"), "{:?}", came.calls()[1]);
}
