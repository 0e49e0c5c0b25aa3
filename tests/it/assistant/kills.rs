//! `kill -9` of the daemon at every point of an assistant's run: the output is the same, nothing that was kept is done again, and nothing
//! is paid for twice.
//!
//! Most points are a run of their own with one kill.

use serde_json::{Value, json};

use super::endpoint::{Call, Endpoint, Reply, calls, says};
use super::{decide, home, parked, result, written};
use crate::process::daemon::{Daemon, Home, id};

const TURNS: usize = 5;
const TEXT: &str = "All done: 42.";
const QUESTION: &str = "turn-0004-call-01";
const CONFIG: &str = "tools = [\"read\", \"write\", \"list\", \"fetch\", \"remember\", \"recall\", \"ask\"]";

/// A run with every kind of tool. The page's address is where the call came to.
fn message(turn: usize, page: &str) -> Value {
    match turn {
        1 => calls(&[("write", r#"{"path":"notes/a.md","content":"first"}"#), ("read", r#"{"path":"notes/a.md"}"#)]),
        2 => calls(&[("fetch", &json!({"url": page}).to_string()), ("write", r#"{"path":"notes/a.md","content":"second"}"#)]),
        3 => calls(&[("remember", r#"{"key":"answer","value":"42"}"#), ("list", r#"{"path":"notes"}"#)]),
        4 => calls(&[("ask", r#"{"question":"Is 42 right?"}"#), ("recall", r#"{"key":"answer"}"#)]),
        _ => says(TEXT),
    }
}

/// What the endpoint does, the first time, with the calls that the kill is to meet.
#[derive(Clone, Copy, PartialEq)]
enum First {
    Answer,
    Hang,
    PayAndHang,
    Half,
}

struct Stage {
    endpoint: Endpoint,
    home: Home,
}

impl Stage {
    /// With an endpoint that treats the first call for this turn like this.
    async fn new(turn: usize, first: First) -> Stage {
        Self::with(move |at| if at == turn { first } else { First::Answer }).await
    }

    /// With an endpoint that treats the first call for each turn like this.
    async fn with(first: impl Fn(usize) -> First + Send + Sync + 'static) -> Stage {
        let script = move |call: &Call| {
            let page = call.contents("system")[0].split_whitespace().next().unwrap().to_owned();
            let message = message(call.turn, &page);
            match first(call.turn) {
                First::Hang if call.time == 1 => Reply::Hang(None),
                First::PayAndHang if call.time == 1 => Reply::Hang(Some(message)),
                First::Half if call.time == 1 => Reply::Half(message),
                _ => Reply::Say(message),
            }
        };
        let endpoint = Endpoint::start(script).await;
        let config = format!("instruction = \"http://{}/page is the page.\"\n{CONFIG}", endpoint.address);
        let home = home(&endpoint, &config);
        Stage { endpoint, home }
    }

    async fn fire(&self) -> (Daemon, Value) {
        let daemon = self.home.start(&[]).await;
        daemon.task("t", "helper", json!({"max_recoveries": 1})).await;
        let run = daemon.fire("t").await;
        (daemon, run)
    }

    /// Kills the daemon, and lets another one finish the run.
    async fn killed(self, daemon: Daemon, run: &Value, point: &str) {
        daemon.kill().await;
        self.endpoint.hold_pages(false);
        let daemon = self.home.start(&[]).await;
        let ended = self.finish(&daemon, run).await;
        self.check(&daemon, &ended, point).await;
        daemon.stop().await;
    }

    /// Answers the run's question, if nobody has, and waits for its end.
    async fn finish(&self, daemon: &Daemon, run: &Value) -> Value {
        let asked = daemon.get(&format!("/background/runs/{}/approvals", id(run))).await;
        if !asked.to_string().contains("Ada") {
            parked(daemon, run).await;
            decide(daemon, run, QUESTION, "approve").await;
        }
        daemon.terminal(run).await
    }

    async fn check(&self, daemon: &Daemon, ended: &Value, point: &str) {
        assert_eq!(ended["status"], "completed", "{point}: {ended:#}");
        assert_eq!(result(daemon, ended).await, TEXT, "{point}");
        assert_eq!(
            (written(&self.home, ended, "output.md").as_str(), written(&self.home, ended, "notes/a.md").as_str()),
            (TEXT, "second"),
            "{point}"
        );
        self.endpoint.check(TURNS);
        let last = self.endpoint.calls().pop().unwrap();
        let told = last.contents("tool");
        assert!(told[2].ends_with("The page says 42."), "{point}: {told:?}");
        assert_eq!((told[1], told[5], told[6], told[7]), ("first", "a.md 6\n", "approved by Ada: as agreed", "42"), "{point}");
    }
}

/// Kills the daemon at every turn's call, which the endpoint treats like this the first time.
async fn at_every_turn(first: First) {
    for turn in 1..=TURNS {
        let stage = Stage::new(turn, first).await;
        let (daemon, run) = stage.fire().await;
        if turn == TURNS {
            parked(&daemon, &run).await;
            decide(&daemon, &run, QUESTION, "approve").await;
        }
        match first {
            First::Answer => stage.endpoint.delivered(turn).await,
            _ => stage.endpoint.asked(turn).await,
        }
        stage.killed(daemon, &run, &format!("turn {turn}")).await;
    }
}

#[tokio::test]
async fn before_every_answer_of_the_model() {
    at_every_turn(First::Hang).await;
}

#[tokio::test]
async fn when_an_answer_is_made_and_on_its_way() {
    at_every_turn(First::PayAndHang).await;
    at_every_turn(First::Half).await;
}

/// Between the answer's last byte and its checkpoint, or soon after.
#[tokio::test]
async fn after_every_answer_of_the_model() {
    at_every_turn(First::Answer).await;
}

/// More kills than `max_recoveries` allows in a row: each checkpoint shows that the run gets on.
#[tokio::test]
async fn again_and_again_in_one_run() {
    let stage = Stage::with(|turn| if turn % 2 == 0 { First::PayAndHang } else { First::Hang }).await;
    let (mut daemon, run) = stage.fire().await;
    for turn in 1..=TURNS {
        if turn == TURNS {
            parked(&daemon, &run).await;
            decide(&daemon, &run, QUESTION, "approve").await;
        }
        stage.endpoint.asked(turn).await;
        daemon.kill().await;
        daemon = stage.home.start(&[]).await;
    }
    let ended = stage.finish(&daemon, &run).await;
    stage.check(&daemon, &ended, "again and again").await;
    assert_eq!(stage.endpoint.calls().len(), 2 * TURNS);
    daemon.stop().await;
}

#[tokio::test]
async fn in_a_tool_and_after_every_checkpoint() {
    // What the watchers of a run see between two checkpoints, and right after one.
    let points = [
        "turn 1: write notes/a.md",
        "turn 1: read notes/a.md",
        "turn 2: asking small",
        "turn 2: write notes/a.md",
        "turn 3: remember answer",
        "turn 3: list notes",
        "turn 4: asking small",
        "turn 4: ask a person",
    ];
    for point in points {
        let stage = Stage::new(0, First::Answer).await;
        let (daemon, run) = stage.fire().await;
        daemon.event(&run, |event| event["message"] == point).await;
        stage.killed(daemon, &run, point).await;
    }
}

#[tokio::test]
async fn while_a_tool_waits_for_its_answer() {
    let stage = Stage::new(0, First::Answer).await;
    stage.endpoint.hold_pages(true);
    let (daemon, run) = stage.fire().await;
    stage.endpoint.page_was_asked().await;
    stage.killed(daemon, &run, "in a fetch").await;
}

#[tokio::test]
async fn while_it_waits_for_a_person_and_after_the_decision() {
    for is_decided in [false, true] {
        let stage = Stage::new(0, First::Answer).await;
        let (daemon, run) = stage.fire().await;
        parked(&daemon, &run).await;
        if is_decided {
            decide(&daemon, &run, QUESTION, "approve").await;
        }
        stage.killed(daemon, &run, "in an approval").await;
    }
}

#[tokio::test]
async fn when_the_answer_is_written_and_the_run_is_not_over() {
    let stage = Stage::new(0, First::Answer).await;
    let (daemon, run) = stage.fire().await;
    parked(&daemon, &run).await;
    decide(&daemon, &run, QUESTION, "approve").await;
    daemon.event(&run, |event| event["message"] == "done").await;
    daemon.kill().await;
    let daemon = stage.home.start(&[]).await;
    let ended = daemon.terminal(&run).await;
    stage.check(&daemon, &ended, "at the end").await;
    daemon.stop().await;
}
