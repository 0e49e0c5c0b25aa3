//! Secrets in a real daemon: used, failed with and refused with, and then looked for everywhere.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::cli::stage::{ended, sandclock};
use crate::process::daemon::{Daemon, Home, Starting};
use crate::servers::certificates::Certificates;

const OF_FILE: &str = "sk-Zebra7421/\"quoted\"+tail";
const OF_ENV: &str = "env-Okapi-9931=value";
const OF_COMMAND: &str = "cmd-Gnu-5577-value";

/// Every form of the secrets that must be found nowhere.
fn forms() -> Vec<String> {
    let of = |secret: &str| {
        let json = serde_json::to_string(secret).unwrap();
        let encoded = BASE64_STANDARD_NO_PAD.encode(secret);
        let whole = BASE64_STANDARD.encode(format!("Bearer {secret}"));
        // Without the signs that the neighbours decide.
        let inner = whole.trim_end_matches('=');
        vec![
            secret.to_owned(),
            json[1..json.len() - 1].to_owned(),
            encoded[..encoded.len() - 1].to_owned(),
            inner[12..inner.len() - 2].to_owned(),
        ]
    };
    [OF_FILE, OF_ENV, OF_COMMAND].into_iter().flat_map(of).collect()
}

fn clean(what: &str, bytes: &[u8]) {
    for form in forms() {
        let at = bytes.windows(form.len()).position(|window| window == form.as_bytes());
        let around =
            at.map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(200)..(at + form.len() + 50).min(bytes.len())]).into_owned());
        assert!(at.is_none(), "{what} has {form}: {around:?}");
    }
}

fn clean_below(folder: &Path, looked_at: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            clean_below(&path, looked_at);
        } else if path.is_file() {
            *looked_at += 1;
            clean(&path.display().to_string(), &std::fs::read(&path).unwrap());
        }
    }
}

struct World {
    home: Home,
    secrets: tempfile::TempDir,
    authority: PathBuf,
    tls: Server,
    plain: Server,
    broken: Server,
}

impl World {
    async fn new(certificates: &Certificates) -> World {
        let tls = Server::tls(&certificates.path("certificate.pem"), &certificates.path("key.pem")).await;
        let (plain, broken) = (Server::start().await, Server::raw(b"no TLS here\r\n\r\n".to_vec(), Vec::new()).await);
        let secrets = tempfile::tempdir().unwrap();
        std::fs::write(secrets.path().join("of_file"), OF_FILE).unwrap();
        std::fs::write(secrets.path().join("of_command"), OF_COMMAND).unwrap();
        let (t, p, b) = (tls.port(), plain.port(), broken.port());
        let (file, other) = (secrets.path().join("of_file"), secrets.path().join("of_command"));
        let allow = format!("allow = [\"https://127.0.0.1:{t}\", \"http://127.0.0.1:{p}\", \"https://127.0.0.1:{b}\"]");
        let config = format!(
            "[logging]\nlevel = \"trace\"\n[agents.fetch.http]\n{allow}\ncredentials = [\"of_file\", \"of_env\", \"of_command\"]\n\
             [agents.bare]\nplugin = \"fetch\"\n[agents.bare.http]\n{allow}\n\
             [credentials.of_file]\nhost = \"127.0.0.1\"\nport = {t}\nfile = {file:?}\n\
             [credentials.of_env]\nhost = \"127.0.0.1\"\nport = {p}\nenv = \"ANY_NAME\"\nallow_http_loopback = true\n\
             [credentials.of_command]\nhost = \"127.0.0.1\"\nport = {b}\ncommand = [\"/bin/cat\", {other:?}]\n"
        );
        let home = Home::new(&config, &[("fetch", fetch())]);
        World { home, secrets, authority: certificates.authority(), tls, plain, broken }
    }

    async fn daemon(&self) -> Daemon {
        let mut serve = self.home.serve(&[]);
        serve.env("SSL_CERT_FILE", &self.authority).env("ANY_NAME", OF_ENV);
        Starting::new(serve).ready().await
    }
}

async fn run(daemon: &Daemon, task: &str, agent: &str, query: &str) -> Value {
    daemon.post("/background/tasks", json!({"task_id": task, "agent_id": agent, "query": query, "schedule": {"type": "manual"}})).await;
    let run = daemon.fire(task).await;
    daemon.terminal(&run).await
}

/// All that the API says of a run.
async fn answers(daemon: &Daemon, run: &Value) {
    let id = run["run_id"].as_str().unwrap();
    for part in ["", "/attempts", "/events?limit=1000", "/logs", "/why", "/why-denied", "/result", "/workspace"] {
        let path = format!("{}/background/runs/{id}{part}", daemon.url);
        let bytes = daemon.client.get(&path).send().await.unwrap().bytes().await.unwrap();
        clean(&path, &bytes);
    }
    for line in [
        &["why-denied", id][..],
        &["why-denied", id, "--json"],
        &["runs", "show", id, "--json"],
        &["runs", "attempts", id, "--json"],
        &["runs", "logs", id],
    ] {
        let ended = daemon.verb(Path::new("/"), line).await;
        clean(&format!("{line:?}"), format!("{}{}", ended.out, ended.err).as_bytes());
    }
}

#[tokio::test]
async fn a_secret_is_found_nowhere_after_runs_that_used_it_failed_with_it_and_were_refused_with_it() {
    let certificates = Certificates::new("IP:127.0.0.1");
    let world = World::new(&certificates).await;
    let daemon = world.daemon().await;
    let (t, p, b) = (world.tls.address, world.plain.address, world.broken.address);
    let secure = |path: &str| format!("G s {t} {path} - - 0 r\n");
    let queries = [
        ("used", "fetch", format!("O\n{}{}{}", secure("/echo"), secure("/status/500"), secure("/status/429"))),
        (
            "used-plainly",
            "fetch",
            format!("O\n{}G h {p} /last - - 0 r\nP h {p} /echo authorization own 2 r\n", get(&p.to_string(), "/echo")),
        ),
        ("failed", "fetch", format!("P\n{}G s {b} /echo - - 0 r\n", secure("/last"))),
        ("trapped", "fetch", format!("T\n{}G s {b} /echo - - 0 r\n", secure("/encoded"))),
        ("refused", "fetch", format!("P\n{}G h {t} /echo - - 0 r\n{}", secure("/echo"), get("127.0.0.1:1", "/"))),
        // One without credentials that learns them from a host that repeats what others sent.
        ("learned", "bare", format!("O\n{}{}{}", secure("/last"), secure("/encoded"), get(&p.to_string(), "/last"))),
        ("learned-and-failed", "bare", format!("P\n{}{}{}", secure("/last"), secure("/encoded"), get("127.0.0.1:1", "/"))),
    ];
    let mut runs = Vec::new();
    for (task, agent, query) in &queries {
        runs.push(run(&daemon, task, agent, query).await);
    }
    let statuses: Vec<&str> = runs.iter().map(|run| run["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["completed", "completed", "failed", "failed", "failed", "completed", "failed"]);
    // They were really sent, and the guests saw stars.
    assert!(world.tls.seen().iter().filter(|seen| seen.header("authorization") == [format!("Bearer {OF_FILE}")]).count() >= 5);
    assert!(world.plain.seen().iter().any(|seen| seen.header("authorization") == [format!("Bearer {OF_ENV}")]));
    assert!(runs[0]["result_preview"].as_str().unwrap().contains("authorization: Bearer ****"), "{}", runs[0]);
    assert!(runs[5]["result_preview"].as_str().unwrap().contains("(hidden)"), "{}", runs[5]);
    assert_eq!(runs[4]["error_kind"], "egress_denied");
    // Over one connection for each of the two agents, by HTTP/2.
    assert_eq!(world.tls.connections(), 2, "{:?}", world.tls.seen().len());
    assert!(world.tls.seen().iter().all(|seen| seen.version == "HTTP/2.0"));
    for run in &runs {
        answers(&daemon, run).await;
    }
    for path in ["/background/agents", "/background/agents/fetch", "/background/runs", "/background/status"] {
        clean(path, &daemon.client.get(format!("{}{path}", daemon.url)).send().await.unwrap().bytes().await.unwrap());
    }
    let denied = daemon.get(&format!("/background/runs/{}/why-denied", runs[4]["run_id"].as_str().unwrap())).await;
    assert_eq!(
        (&denied["total"], &denied["denied"][0]["rule"], &denied["denied"][1]["rule"]),
        (&json!(2), &json!("scheme"), &json!("port"))
    );
    let attempts = daemon.attempts(&runs[0]).await;
    assert_eq!(attempts[0]["http"]["calls"][2]["status"], 429);
    assert_eq!(attempts[0]["http"]["calls"][0]["credentials"], json!(["of_file"]));
    clean("the log", daemon.log().join("\n").as_bytes());
    daemon.terminate();
    for line in [
        &["config", "show", "--config", "sandclock.toml"][..],
        &["config", "check", "--config", "sandclock.toml"],
        &["check", "plugins/fetch.wasm", "--config", "sandclock.toml"],
    ] {
        let mut command = sandclock(world.home.0.path(), line);
        command.env("ANY_NAME", OF_ENV);
        let ended = ended(command).await;
        clean(&format!("{line:?}"), format!("{}{}", ended.out, ended.err).as_bytes());
    }
    let mut looked_at = 0;
    clean_below(world.home.0.path(), &mut looked_at);
    assert!(looked_at > 20, "{looked_at} files");
    assert!(world.secrets.path().join("of_file").exists());
}

#[tokio::test]
async fn the_foreground_tells_what_was_refused_and_no_secret() {
    let certificates = Certificates::new("IP:127.0.0.1");
    let world = World::new(&certificates).await;
    let query = format!("O\nG s {} /echo - - 0 r\n{}", world.tls.address, get("api.example.com", "/x"));
    for more in [&[][..], &["--json"]] {
        let line = ["run", "plugins/fetch.wasm", "--config", "sandclock.toml", "--workspace", "w", "--query", &query];
        let mut command = sandclock(world.home.0.path(), &[&line[..], more].concat());
        command.env("SSL_CERT_FILE", &world.authority).env("ANY_NAME", OF_ENV);
        let ended = ended(command).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        clean("the foreground", format!("{}{}", ended.out, ended.err).as_bytes());
        assert!(ended.out.contains("authorization: Bearer ***"), "{ended:?}");
        if more.is_empty() {
            let lines = "refused GET http://api.example.com/x: `[agents.fetch.http]` does not list `api.example.com`\n    [agents.fetch.http]\n    allow = [";
            assert!(ended.err.contains(lines), "{ended:?}");
        } else {
            let report: Value = serde_json::from_str(&ended.out).unwrap();
            assert_eq!(report["http"]["calls"][1]["refused"]["rule"], "host");
        }
    }
    clean_below(world.home.0.path(), &mut 0);
}

#[tokio::test]
async fn a_host_whose_certificate_nobody_trusts_gets_no_credential() {
    let (own, other) = (Certificates::new("IP:127.0.0.1"), Certificates::new("IP:127.0.0.1"));
    let world = World::new(&own).await;
    let query = format!("O\nG s {} /echo - - 0 r\n", world.tls.address);
    let line = ["run", "plugins/fetch.wasm", "--config", "sandclock.toml", "--workspace", "w", "--query", &query, "--json"];
    let mut command = sandclock(world.home.0.path(), &line);
    command.env("SSL_CERT_FILE", other.authority());
    let ended = ended(command).await;
    assert_eq!(world.tls.seen().len(), 0, "{ended:?}");
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["result"], "E12\n", "{ended:?}");
}
