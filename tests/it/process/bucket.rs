//! The binary with a bucket for its workspaces: an S3 server of the test's own, which refuses, goes away and comes back.

use serde_json::json;

use super::daemon::{Daemon, Home, Starting, id};
use crate::cli::stage::ended;
use crate::guest::plain;
use crate::servers::bucket::options;
use crate::servers::own::OwnServer;

/// What the environment of a daemon says of the bucket.
fn variables(server: &OwnServer, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let options = options(&server.url(), "");
    let given = |name: &str| options.credentials.iter().find(|(of, _)| of == name).unwrap().1.clone();
    let mut all = vec![
        ("SANDCLOCK_WORKSPACE_BUCKET", "s3://sandclock/workspaces/of-a-test".to_owned()),
        ("SANDCLOCK_WORKSPACE_ENDPOINT", options.endpoint.clone().unwrap()),
        ("SANDCLOCK_WORKSPACE_ALLOW_HTTP", "true".to_owned()),
        ("SANDCLOCK_WORKSPACE_PATIENCE_SECONDS", "60".to_owned()),
        ("SANDCLOCK_LOG_LEVEL", "debug,object_store=trace,reqwest=trace,hyper=trace".to_owned()),
        ("AWS_ACCESS_KEY_ID", given("AWS_ACCESS_KEY_ID")),
        ("AWS_SECRET_ACCESS_KEY", given("AWS_SECRET_ACCESS_KEY")),
    ];
    for (name, value) in more {
        all.retain(|(of, _)| of != name);
        all.push((*name, (*value).to_owned()));
    }
    all
}

fn secret_of(variables: &[(&'static str, String)]) -> String {
    variables.iter().find(|(name, _)| *name == "AWS_SECRET_ACCESS_KEY").unwrap().1.clone()
}

fn starting(home: &Home, variables: &[(&'static str, String)]) -> Starting {
    let mut serve = home.serve(&[]);
    serve.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
    Starting::new(serve)
}

async fn start(home: &Home, variables: &[(&'static str, String)]) -> Daemon {
    starting(home, variables).ready().await
}

/// What a daemon says that does not start.
async fn refused(home: &Home, variables: &[(&'static str, String)]) -> String {
    let mut serve = home.serve(&[]);
    serve.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
    let ended = ended(serve).await;
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(!ended.err.contains(&secret_of(variables)) && !ended.err.contains("panicked"), "{}", ended.err);
    ended.err.lines().find(|line| line.starts_with("sandclock: ")).unwrap_or_else(|| panic!("{}", ended.err)).to_owned()
}

#[tokio::test]
async fn another_machine_shows_what_this_one_made_and_no_secret_is_told() {
    let Some(server) = OwnServer::s3().await else { return };
    let home = Home::new("", &[("echo", plain::echo())]);
    let variables = variables(&server, &[]);
    let daemon = start(&home, &variables).await;
    daemon.task("t", "echo", json!({})).await;
    let run = daemon.terminal(&daemon.fire("t").await).await;
    assert_eq!(run["status"], "completed");
    let files = format!("/background/runs/{}/workspace", id(&run));
    let (here, output) = (daemon.get(&files).await, format!("{}{files}/files/output.md", daemon.url));
    let body = daemon.client.get(&output).send().await.unwrap().bytes().await.unwrap();
    let mut log = daemon.log();
    daemon.stop().await;

    // The same store, and a disk that has nothing.
    let elsewhere = [("SANDCLOCK_WORKSPACE_DIR", "empty")];
    let elsewhere = [variables.clone(), elsewhere.map(|(name, value)| (name, value.to_owned())).into()].concat();
    let daemon = start(&home, &elsewhere).await;
    let there = daemon.get(&files).await;
    assert_eq!(here["files"], there["files"]);
    assert!(there["files"].as_array().unwrap().len() >= 3, "{there}");
    let answer = daemon.client.get(format!("{}{files}/files/output.md", daemon.url)).send().await.unwrap();
    assert_eq!(answer.headers()["content-length"], body.len().to_string().as_str());
    assert_eq!(answer.bytes().await.unwrap(), body);
    let listed = daemon.verb(home.0.path(), &["runs", "workspace", id(&run)]).await;
    assert!(listed.out.contains("output.md") && listed.code == 0, "{} {}", listed.out, listed.err);
    let downloaded = daemon.verb(home.0.path(), &["runs", "workspace", id(&run), "--get", "output.md", "--output", "got.md"]).await;
    assert_eq!(downloaded.code, 0, "{}", downloaded.err);
    assert_eq!(std::fs::read(home.path("got.md")).unwrap(), body);
    let status = daemon.get("/background/status").await;
    log.extend(daemon.log());
    daemon.stop().await;
    let mut show = crate::cli::stage::sandclock(home.0.path(), &["config", "show", "--origin"]);
    show.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
    let shown = ended(show).await;
    assert!(shown.out.contains("s3://sandclock/workspaces/of-a-test") && shown.out.contains("workspace.region"), "{}", shown.out);
    let secret = secret_of(&variables);
    for text in [log.join("\n"), shown.out, shown.err, status.to_string(), there.to_string()] {
        assert!(!text.contains(&secret), "{text}");
    }
}

#[tokio::test]
async fn what_keeps_the_bucket_from_being_used_is_told_with_the_mend() {
    let Some(mut server) = OwnServer::s3().await else { return };
    let home = Home::new("", &[("echo", plain::echo())]);
    let told = refused(&home, &variables(&server, &[("AWS_SECRET_ACCESS_KEY", "tiger-7421")])).await;
    assert!(told.contains("s3://sandclock/workspaces/of-a-test refuses") && told.contains("access is denied"), "{told}");
    let told = refused(&home, &variables(&server, &[("SANDCLOCK_WORKSPACE_BUCKET", "s3://nowhere")])).await;
    assert!(told.contains("the bucket s3://nowhere refuses: there is no such bucket"), "{told}");

    // One that is late is waited for by those who need it, not by the daemon.
    let variables = variables(&server, &[]);
    server.kill().await;
    let daemon = start(&home, &variables).await;
    daemon.logged("the bucket for workspaces is not there yet").await;
    daemon.task("t", "echo", json!({})).await;
    let run = daemon.fire("t").await;
    daemon
        .until(&format!("/background/runs/{}/why", id(&run)), |why| {
            why["sentence"].as_str().is_some_and(|sentence| sentence.contains("waits until its workspace is uploaded"))
        })
        .await;
    server.start().await;
    assert_eq!(daemon.terminal(&run).await["status"], "completed");
    assert!(!daemon.log().join("\n").contains(&secret_of(&variables)));
    daemon.stop().await;
}
