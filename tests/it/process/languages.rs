//! The same agent in each language, and a plain program: built by `make plugins`, served by the daemon from its folder, beside a service that
//! counts what it is asked.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::daemon::{Daemon, Home};

/// How long the debug build may take to compile a component on a machine with much else to do.
const COMPILING: Duration = Duration::from_secs(400);

/// What the service was asked: the path and the question.
type Asked = Arc<Mutex<Vec<(&'static str, Value)>>>;

/// A service that answers questions, and takes a report at the second time only. Its URL, and what it was asked.
async fn service() -> (String, Asked) {
    async fn ask(State(asked): State<Asked>, Json(body): Json<Value>) -> Json<Value> {
        asked.lock().unwrap().push(("/ask", body));
        Json(json!({"summary": "Tea, höchstens.", "voices": ["tea", "tea, hot"]}))
    }
    async fn report(State(asked): State<Asked>, Json(body): Json<Value>) -> StatusCode {
        let mut asked = asked.lock().unwrap();
        asked.push(("/reports", body));
        if asked.iter().filter(|(path, _)| *path == "/reports").count() > 1 { StatusCode::CREATED } else { StatusCode::SERVICE_UNAVAILABLE }
    }
    let asked = Asked::default();
    let page = async || (StatusCode::OK, "<html>We are moving.</html>");
    let busy = async || (StatusCode::TOO_MANY_REQUESTS, "slow down");
    let router = Router::new().route("/ask", post(ask)).route("/reports", post(report)).with_state(Arc::clone(&asked));
    let router = router.route("/page/ask", post(page)).route("/busy/ask", post(busy));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

/// The plugin of this name, as `make plugins` builds it.
fn built(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins").join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|e| panic!("{} cannot be read ({e}): run `make plugins`", path.display()))
}

/// A daemon with the plugin, which may call the service. What it compiled it finds again the next time the tests run.
async fn serving(name: &str, settings: &str) -> (Home, Daemon) {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled-guests");
    let home = Home::new(&format!("[paths]\ncache = {cache:?}\n{settings}"), &[(name, built(name))]);
    let daemon = home.start(&[]).await;
    let is_there = |told: &Value| told["agents"].as_array().unwrap().iter().any(|agent| agent["agent_id"] == name);
    let serving = async {
        while !is_there(&daemon.get("/background/agents").await) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(COMPILING, serving).await.unwrap_or_else(|_| panic!("{name} never served: {:#?}", daemon.log()));
    (home, daemon)
}

/// Settings with which agents of this plugin may call the service, or a part of it that answers badly, or nothing.
fn settings(name: &str, url: &str) -> String {
    let agent = |id: &str, part: &str| format!("[agents.{id}]\nplugin = {name:?}\nconfig = {{ endpoint = \"{url}{part}\" }}\n");
    let allowed = |id: &str, part: &str| format!("{}[agents.{id}.http]\nallow = [{url:?}]\n", agent(id, part));
    [allowed(name, ""), allowed("misled", "/page"), allowed("hasty", "/busy"), agent("stranger", "")].concat()
}

/// Runs an agent from a query to the end of its run.
async fn ended(daemon: &Daemon, agent: &str) -> Value {
    let task = json!({
        "task_id": agent, "agent_id": agent, "query": "Tea or \"Kaffee\"? ☕", "schedule": {"type": "manual"},
        "retry_policy": {"max_retries": 2, "initial_delay_seconds": 0},
    });
    daemon.post("/background/tasks", task).await;
    daemon.terminal(&daemon.fire(agent).await).await
}

/// The first attempt fails after the call that is paid for, and the second goes on; what another attempt cannot mend gets none.
async fn survey(name: &str) {
    let (url, asked) = service().await;
    let (home, daemon) = serving(name, &settings(name, &url)).await;
    let run = ended(&daemon, name).await;
    went_on(&home, &daemon, &run, &asked).await;

    let before = asked.lock().unwrap().len();
    for (agent, attempts, told) in [("stranger", 1, "why-denied"), ("misled", 1, "JSON"), ("hasty", 3, "slow down")] {
        let run = ended(&daemon, agent).await;
        assert_eq!(run["status"], "failed", "{run:#}");
        let made = daemon.attempts(&run).await;
        let is_told = |attempt: &Value| attempt["error"].to_string().contains(told);
        assert!(made.len() == attempts && made.iter().all(is_told), "{agent}: {made:#?}");
    }
    assert_eq!(asked.lock().unwrap().len(), before);
    daemon.stop().await;
}

/// What the service, the workspace and the history of the run have of its two attempts.
async fn went_on(home: &Home, daemon: &Daemon, ended: &Value, asked: &Asked) {
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("2 voices: Tea, höchstens.")), "{ended:#}");

    let question = json!({"question": "Tea or \"Kaffee\"? ☕"});
    let paths = ["/ask", "/reports", "/reports"];
    assert_eq!(*asked.lock().unwrap(), paths.map(|path| (path, question.clone())), "the second attempt does not ask again");
    let attempts = daemon.attempts(ended).await;
    let ends: Vec<(&Value, bool)> =
        attempts.iter().map(|attempt| (&attempt["status"], attempt["error"].to_string().contains("503"))).collect();
    assert_eq!(ends, [(&json!("failed"), true), (&json!("completed"), false)], "{attempts:#?}");
    let file = std::fs::read_to_string(home.workspace(ended).join("survey.md")).unwrap();
    assert_eq!(file, "# Tea or \"Kaffee\"? ☕\n\nTea, höchstens.\n\n- tea\n- tea, hot\n");
    let events = daemon.events(ended).await;
    let told: Vec<(u64, &str)> = events
        .iter()
        .filter(|event| event["event"] == "background_run_progress")
        .map(|event| (event["attempt"].as_u64().unwrap(), event["message"].as_str().unwrap()))
        .collect();
    let steps = |attempt| ["asking", "writing", "handing in"].map(|message| (attempt, message));
    assert_eq!(told, [steps(1), steps(2)].concat());
}

#[tokio::test]
async fn an_agent_in_rust_goes_on_where_its_first_attempt_failed() {
    survey("survey-rust").await;
}

#[tokio::test]
async fn an_agent_in_python_goes_on_where_its_first_attempt_failed() {
    survey("survey-python").await;
}

#[tokio::test]
async fn an_agent_in_javascript_goes_on_where_its_first_attempt_failed() {
    survey("survey-javascript").await;
}

#[tokio::test]
async fn a_plain_program_is_an_agent() {
    let (home, daemon) = serving("survey-command", "").await;
    let task = |id: &str, query: &str| json!({"task_id": id, "agent_id": "survey-command", "query": query, "schedule": {"type": "manual"}});
    daemon.post("/background/tasks", task("votes", "tea\ncoffee\ntea\n")).await;
    let run = daemon.fire("votes").await;
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], &ended["result_preview"]), (&json!("completed"), &json!("tea wins with 2 of 3 votes\n")), "{ended:#}");
    let count = std::fs::read_to_string(home.workspace(&ended).join("count.tsv")).unwrap();
    assert_eq!(count, "coffee\t1\ntea\t2\n");

    daemon.post("/background/tasks", task("none", "# none yet")).await;
    let run = daemon.fire("none").await;
    let ended = daemon.terminal(&run).await;
    assert_eq!(ended["status"], "failed");
    let logs = daemon.get(&format!("/background/runs/{}/logs", run["run_id"].as_str().unwrap())).await;
    assert!(logs.to_string().contains("there are no votes: give one a line as the query"), "{logs:#}");
    daemon.stop().await;
}
