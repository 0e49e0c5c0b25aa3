//! What an assistant does with what its endpoint answers.

use serde_json::{Value, json};

use super::endpoint::{Call, Endpoint, Reply, calls, says};
use super::{decide, home, parked, result, written};
use crate::process::daemon::{Daemon, id};

const TOOLS: &str = "tools = [\"read\", \"write\", \"list\", \"fetch\", \"remember\", \"recall\", \"ask\"]";

/// One run of the agent to its end.
async fn run(daemon: &Daemon) -> Value {
    daemon.task("t", "helper", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.terminal(&run).await
}

/// The results of tools that the last call of a run told the model.
fn told(endpoint: &Endpoint) -> Vec<String> {
    let calls = endpoint.calls();
    calls.last().unwrap().contents("tool").into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn it_works_with_its_tools_and_remembers_in_its_session() {
    for stream in [true, false] {
        let endpoint = Endpoint::start(|call| {
            let page = format!("http://{}/page", call.body["messages"][0]["content"].as_str().unwrap().split_whitespace().next().unwrap());
            Reply::Say(match call.turn {
                1 => {
                    calls(&[("write", r#"{"path":"notes/a.md","content":"ä note"}"#), ("list", "{}"), ("read", r#"{"path":"notes/a.md"}"#)])
                }
                2 => {
                    calls(&[("fetch", &json!({"url": page}).to_string()), ("fetch", r#"{"url":"http://127.0.0.1:1/"}"#), ("recall", "{}")])
                }
                3 => calls(&[("remember", r#"{"key":"answer","value":"42"}"#), ("recall", r#"{"key":"answer"}"#)]),
                _ => says("It is 42: so says the page, naïvely. \u{1f389}"),
            })
        })
        .await;
        let home = home(&endpoint, &format!("stream = {stream}\ninstruction = \"{} is where the page is.\"\n{TOOLS}", endpoint.address));
        let daemon = home.start(&[]).await;
        let ended = run(&daemon).await;
        assert_eq!(ended["status"], "completed", "{ended}");
        let text = "It is 42: so says the page, naïvely. \u{1f389}";
        assert_eq!((result(&daemon, &ended).await.as_str(), written(&home, &ended, "output.md").as_str()), (text, text));
        let told = told(&endpoint);
        assert_eq!((told[0].as_str(), told[2].as_str(), told[5].as_str()), ("wrote 7 bytes to notes/a.md", "ä note", "[nothing is kept]"));
        assert!(told[1].contains("notes/\n"), "{told:?}");
        assert!(told[3].contains("status 200") && told[3].ends_with("The page says 42."), "{told:?}");
        assert!(told[4].starts_with("error: ") && told[4].contains("not one of the hosts"), "{told:?}");
        assert_eq!((told[6].as_str(), told[7].as_str()), ("kept 2 bytes under \"answer\"", "42"));
        endpoint.check(4);
        shows_progress(&daemon, &ended, text).await;
        let again = daemon.fire("t").await;
        daemon.terminal(&again).await;
        assert_eq!(super::answers::told(&endpoint)[5], "answer", "the session is the task's");
        daemon.stop().await;
    }
}

async fn shows_progress(daemon: &Daemon, run: &Value, text: &str) {
    let events = daemon.events(run).await;
    let turns: Vec<&Value> = events.iter().filter(|event| event["name"] == "turn").collect();
    assert_eq!(turns.len(), 4, "{events:#?}");
    let deltas: String =
        events.iter().filter(|event| event["name"] == "delta").filter_map(|event| event["payload"]["text"].as_str()).collect();
    assert_eq!(deltas, text, "{events:#?}");
    for sentence in ["turn 1: asking small", "turn 1: write notes/a.md", "done"] {
        assert!(events.iter().any(|event| event["message"] == sentence), "{sentence} is not in {events:#?}");
    }
}

#[tokio::test]
async fn calls_that_cannot_be_done_are_told_to_the_model() {
    let endpoint = Endpoint::turns(vec![
        calls(&[("shell", "{}"), ("read", "{\"path\": \"a"), ("read", "{}"), ("write", r#"{"path":"../../out","content":"x"}"#)]),
        calls(&[("read", r#"{"path":"missing.md"}"#), ("ask", r#"{"question":"Really?"}"#)]),
        says("I give up."),
    ])
    .await;
    let home = home(&endpoint, "");
    let daemon = home.start(&[]).await;
    let ended = run(&daemon).await;
    assert_eq!((&ended["status"], result(&daemon, &ended).await.as_str()), (&json!("completed"), "I give up."));
    let told = told(&endpoint);
    for (result, part) in told.iter().zip([
        "no tool \"shell\"",
        "not a JSON object",
        "`path` of read is missing",
        "outside",
        "no such file",
        "no tool \"ask\"",
    ]) {
        assert!(result.starts_with("error: ") && result.contains(part), "{result}");
    }
    assert!(!home.path(".sandclock/workspace/background/out").exists());
    // What is sent back to the endpoint is good JSON, whatever the model made.
    let echoed = &endpoint.calls()[1].body["messages"][2]["tool_calls"][1]["function"]["arguments"];
    assert!(serde_json::from_str::<Value>(echoed.as_str().unwrap()).unwrap().is_object());
    daemon.stop().await;
}

#[tokio::test]
async fn a_model_that_makes_nothing_but_mistakes_fails_the_run() {
    let endpoint = Endpoint::start(|_| Reply::Say(calls(&[("shell", "{}")]))).await;
    let home = home(&endpoint, "max_mistakes = 3");
    let daemon = home.start(&[]).await;
    let ended = run(&daemon).await;
    assert_eq!((&ended["status"], &ended["error_kind"], endpoint.calls().len()), (&json!("failed"), &json!("guest_permanent"), 3));
    assert!(ended["error"].as_str().unwrap().contains("3 mistakes in a row"), "{ended}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_busy_endpoint_is_asked_again_with_the_same_key() {
    let endpoint = Endpoint::start(|call| match (call.turn, call.time) {
        (1, 1) => Reply::Status(429, vec![("retry-after", "0")], "slow down"),
        (1, 2) => Reply::Half(says("Hello, I am the answer.")),
        (1, _) => panic!("it was paid for"),
        _ => unreachable!(),
    })
    .await;
    let home = home(&endpoint, "");
    let daemon = home.start(&[]).await;
    let ended = run(&daemon).await;
    assert_eq!((&ended["status"], result(&daemon, &ended).await.as_str()), (&json!("completed"), "Hello, I am the answer."));
    assert_eq!((endpoint.calls().len(), daemon.attempts(&ended).await.len()), (3, 1));
    endpoint.check(1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_long_wait_is_left_to_the_retry_policy() {
    let endpoint = Endpoint::start(|call| match call.turn {
        1 => Reply::Say(calls(&[("list", "{}")])),
        _ => Reply::Status(429, vec![("retry-after", "60")], "come back later"),
    })
    .await;
    let home = home(&endpoint, "");
    let daemon = home.start(&[]).await;
    daemon.task("t", "helper", json!({"retry_policy": {"max_retries": 1, "initial_delay_seconds": 1}})).await;
    let run = daemon.fire("t").await;
    daemon.event(&run, |event| event["event"] == "background_run_retrying").await;
    let attempts = daemon.attempts(&run).await;
    assert!(attempts[0]["retry_delay_seconds"].as_f64().unwrap() >= 60.0, "{attempts:#?}");
    assert!(attempts[0]["error"].as_str().unwrap().contains("answered 429: come back later"), "{attempts:#?}");
    assert_eq!(endpoint.calls().len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn what_only_a_person_can_mend_fails_with_the_mend() {
    type Case = (fn(&Call) -> Reply, &'static str);
    let cases: [Case; 5] = [
        (|_| Reply::Status(401, vec![], "no key"), "[credentials.NAME]"),
        (|_| Reply::Status(404, vec![], "no such model"), "check `endpoint` and `model`"),
        (|_| Reply::Status(400, vec![], "bad temperature"), "bad temperature"),
        (|_| Reply::Raw("text/html", "<html>"), "no chat completion"),
        (|_| Reply::Raw("text/event-stream", "data: {\"error\": {\"code\": 402, \"message\": \"out of credit\"}}\n\n"), "out of credit"),
    ];
    for (script, part) in cases {
        let endpoint = Endpoint::start(script).await;
        let home = home(&endpoint, "");
        let daemon = home.start(&[]).await;
        let ended = run(&daemon).await;
        assert_eq!(
            (&ended["status"], &ended["error_kind"], endpoint.calls().len()),
            (&json!("failed"), &json!("guest_permanent"), 1),
            "{part}"
        );
        assert!(ended["error"].as_str().unwrap().contains(part), "{part}: {ended}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_allowed_and_a_configuration_that_is_wrong_are_said() {
    let endpoint = Endpoint::turns(vec![says("never")]).await;
    let home = home(&endpoint, "");
    home.configure("[agents.helper]\nplugin = \"assistant\"\nconfig = { endpoint = \"https://api.example.com/v1\", model = \"m\" }\n[agents.wrong]\nplugin = \"assistant\"\nconfig = { tools = [\"shell\"] }\n");
    let daemon = home.start(&[]).await;
    let ended = run(&daemon).await;
    let why = ended["error"].as_str().unwrap();
    assert!(ended["status"] == "failed" && why.contains("why-denied") && why.contains("allows no host"), "{why}");
    daemon.task("w", "wrong", json!({})).await;
    let wrong = daemon.fire("w").await;
    let ended = daemon.terminal(&wrong).await;
    let why = ended["error"].as_str().unwrap();
    for part in ["`endpoint` is missing", "`model` is missing", "\"shell\""] {
        assert!(why.contains(part), "{part}: {why}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn an_answer_that_does_not_go_on_is_asked_for_again_and_costs_nothing_more() {
    let endpoint = Endpoint::start(|_| Reply::Stall(says("Slow but sure."))).await;
    let home = home(&endpoint, "timeout_seconds = 1");
    let daemon = home.start(&[]).await;
    let ended = run(&daemon).await;
    assert_eq!((&ended["status"], result(&daemon, &ended).await.as_str()), (&json!("completed"), "Slow but sure."), "{ended}");
    assert_eq!(endpoint.calls().len(), 2);
    endpoint.check(1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_cancel_ends_it_while_it_waits() {
    type Case = (fn(&Call) -> Reply, &'static str);
    let cases: [Case; 3] = [
        (|_| Reply::Hang(None), "turn 1: asking small"),
        (|_| Reply::Stall(says("Half of this is never said.")), "turn 1: asking small"),
        (|_| Reply::Status(429, vec![("retry-after", "25")], "slow down"), "trying again in 25 s"),
    ];
    for (script, report) in cases {
        let endpoint = Endpoint::start(script).await;
        let home = home(&endpoint, "");
        let daemon = home.start(&[]).await;
        daemon.task("t", "helper", json!({"cancel_grace_seconds": 60})).await;
        let run = daemon.fire("t").await;
        endpoint.asked(1).await;
        daemon.event(&run, |event| event["message"].as_str().is_some_and(|message| message.ends_with(report))).await;
        daemon.post(&format!("/background/runs/{}/cancel", id(&run)), json!({})).await;
        let ended = daemon.terminal(&run).await;
        assert_eq!(ended["status"], "cancelled", "{ended}");
        let attempts = daemon.attempts(&run).await;
        assert!(attempts[0]["error"].as_str().unwrap().contains("stopped while it waited for the model"), "{attempts:#?}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_person_is_asked_and_the_model_gets_the_decision() {
    for (decision, word) in [("approve", "approved"), ("deny", "denied")] {
        let endpoint =
            Endpoint::turns(vec![calls(&[("list", "{}"), ("ask", r#"{"question":"Deploy to production?"}"#)]), says("Decided.")]).await;
        let home = home(&endpoint, TOOLS);
        let daemon = home.start(&[]).await;
        daemon.task("t", "helper", json!({})).await;
        let run = daemon.fire("t").await;
        parked(&daemon, &run).await;
        let asked = daemon.get(&format!("/background/runs/{}/approvals", id(&run))).await;
        assert!(asked.to_string().contains("Deploy to production?"), "{asked}");
        decide(&daemon, &run, "turn-0001-call-02", decision).await;
        let ended = daemon.terminal(&run).await;
        assert_eq!((&ended["status"], result(&daemon, &ended).await.as_str()), (&json!("completed"), "Decided."), "{ended}");
        assert_eq!(told(&endpoint)[1], format!("{word} by Ada: as agreed"));
        endpoint.check(2);
        assert_eq!(endpoint.calls().len(), 2);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn the_example_of_the_documentation_runs() {
    let page = include_str!("../../../docs/agents.md");
    let section = page.split_once("## An agent without code").unwrap().1;
    let example = section.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let endpoint =
        Endpoint::turns(vec![calls(&[("write", r#"{"path":"notes/example.md","content":"It says hello."}"#)]), says("Written.")]).await;
    let (address, port) = (endpoint.address, endpoint.address.port());
    let here = example
        .replace("https://api.openai.com", &format!("http://{address}"))
        .replace("host = \"api.openai.com\"", &format!("host = \"127.0.0.1\"\nport = {port}\nallow_http_loopback = true"))
        .replace("env = \"OPENAI_API_KEY\"", "file = \"key\"");
    let home = home(&endpoint, "");
    home.configure(&here);
    std::fs::write(home.path("key"), "the-key-of-tests").unwrap();
    let daemon = home.start(&[]).await;
    let run = daemon.fire("notes").await;
    let ended = daemon.terminal(&run).await;
    assert_eq!((&ended["status"], result(&daemon, &ended).await.as_str()), (&json!("completed"), "Written."), "{ended}");
    assert_eq!(written(&home, &ended, "notes/example.md"), "It says hello.");
    assert_eq!(endpoint.calls()[0].authorization.as_deref(), Some("Bearer the-key-of-tests"));
    daemon.stop().await;
}
