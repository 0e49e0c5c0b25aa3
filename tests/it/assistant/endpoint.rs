//! A scripted endpoint that speaks chat completions: it answers each turn of a conversation by its script, streams in odd chunks, counts
//! its calls, and takes payment once for each idempotency key, whose answer it keeps and gives again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::daemon::patiently;

/// One request for a turn's answer.
#[derive(Clone, Debug)]
pub struct Call {
    /// From 1 on: how many answers the conversation has, and one.
    pub turn: usize,
    /// How often this turn was asked for, this time included.
    pub time: usize,
    pub key: String,
    pub body: Value,
    pub authorization: Option<String>,
}

impl Call {
    /// The contents of all messages of a role.
    pub fn contents(&self, role: &str) -> Vec<&str> {
        let messages = self.body["messages"].as_array().unwrap();
        messages.iter().filter(|message| message["role"] == role).map(|message| message["content"].as_str().unwrap_or_default()).collect()
    }
}

/// What the script says to a call.
pub enum Reply {
    /// This message, which is paid for.
    Say(Value),
    /// An error with its headers, which costs nothing.
    Status(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// Nothing, for ever; with a message, that is made and paid for all the same.
    Hang(Option<Value>),
    /// Half of this message's stream, and then the connection breaks; it is paid for.
    Half(Value),
    /// Half of this message's stream, and then nothing, for ever; it is paid for.
    Stall(Value),
    /// These bytes with this type.
    Raw(&'static str, &'static str),
}

/// A message with text.
pub fn says(text: &str) -> Value {
    json!({"role": "assistant", "content": text})
}

/// A message that calls tools, each with its arguments as they are sent.
pub fn calls(calls: &[(&str, &str)]) -> Value {
    let calls: Vec<Value> = (calls.iter().enumerate())
        .map(|(index, (name, arguments))| {
            json!({"id": format!("c{index}"), "type": "function", "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    json!({"role": "assistant", "content": null, "tool_calls": calls})
}

type Script = Box<dyn Fn(&Call) -> Reply + Send + Sync>;

struct Shared {
    script: Script,
    calls: watch::Sender<Vec<Call>>,
    /// How many answers were sent to their last byte.
    delivered: watch::Sender<usize>,
    /// What was paid for, by its key, with the body that was asked.
    paid: Mutex<HashMap<String, (Value, Value)>>,
    /// Gets of `/page`, each with the turn that was asked for last, and how many of them may be answered.
    fetched: watch::Sender<Vec<usize>>,
    answered: watch::Sender<usize>,
}

/// The endpoint on a free port of 127.0.0.1; it ends with its value.
pub struct Endpoint {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Endpoint {
    /// Plays a script.
    pub async fn start(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Endpoint {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            calls: watch::Sender::new(Vec::new()),
            delivered: watch::Sender::new(0),
            paid: Mutex::default(),
            fetched: watch::Sender::new(Vec::new()),
            answered: watch::Sender::new(usize::MAX),
        });
        let router = Router::new().route("/v1/chat/completions", post(complete)).route("/page", get(page)).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Endpoint { address, shared, serving }
    }

    /// The messages of a script turn by turn.
    pub async fn turns(messages: Vec<Value>) -> Endpoint {
        Self::start(move |call| Reply::Say(messages[call.turn - 1].clone())).await
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.borrow().clone()
    }

    /// How many answers were paid for.
    pub fn paid(&self) -> usize {
        self.shared.paid.lock().unwrap().len()
    }

    /// Waits for the first call for a turn.
    pub async fn asked(&self, turn: usize) {
        let mut calls = self.shared.calls.subscribe();
        patiently("a call", calls.wait_for(|calls| calls.iter().any(|call| call.turn == turn))).await.unwrap();
    }

    /// Waits until so many answers were sent whole.
    pub async fn delivered(&self, number: usize) {
        let mut delivered = self.shared.delivered.subscribe();
        patiently("an answer's last byte", delivered.wait_for(|delivered| *delivered >= number)).await.unwrap();
    }

    /// Waits for the first request for `/page`.
    pub async fn page_was_asked(&self) {
        let mut fetched = self.shared.fetched.subscribe();
        patiently("a fetch", fetched.wait_for(|fetched| !fetched.is_empty())).await.unwrap();
    }

    /// Answers no request for `/page` from here on, or all of them.
    pub fn hold_pages(&self, hold: bool) {
        self.shared.answered.send_replace(if hold { 0 } else { usize::MAX });
    }

    /// No turn was asked for again once a later one was, every turn was paid for once, no key stood for two requests, and no page was fetched
    /// again once a later turn was asked for.
    pub fn check(&self, turns: usize) {
        let calls = self.calls();
        let order: Vec<usize> = calls.iter().map(|call| call.turn).collect();
        assert!(order.is_sorted(), "a turn that was done was asked for again: {order:?}");
        let mut keys: Vec<(usize, &str)> = calls.iter().map(|call| (call.turn, call.key.as_str())).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), turns, "each turn has one key: {keys:?}");
        assert_eq!(self.paid(), turns, "each turn is paid for once");
        let fetched = self.shared.fetched.borrow();
        assert!(fetched.iter().all(|turn| Some(turn) == fetched.first()), "a page that was kept was fetched again: {fetched:?}");
    }
}

async fn page(State(shared): State<Arc<Shared>>) -> &'static str {
    let turn = shared.calls.borrow().last().map_or(0, |call| call.turn);
    shared.fetched.send_modify(|fetched| fetched.push(turn));
    let mut answered = shared.answered.subscribe();
    answered.wait_for(|answered| *answered > 0).await.unwrap();
    "The page says 42."
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body: Value = serde_json::from_slice(&body).unwrap();
    let turn = body["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "assistant").count() + 1;
    let key = text("idempotency-key").expect("a call has an idempotency key");
    let time = shared.calls.borrow().iter().filter(|call| call.turn == turn).count() + 1;
    let call = Call { turn, time, key: key.clone(), body: body.clone(), authorization: text("authorization") };
    let kept = shared.paid.lock().unwrap().get(&key).cloned();
    let reply = match kept {
        Some((asked, message)) => {
            assert_eq!(asked, body, "one key stands for two requests");
            Reply::Say(message)
        }
        None => (shared.script)(&call),
    };
    if let Reply::Say(message) | Reply::Half(message) | Reply::Stall(message) | Reply::Hang(Some(message)) = &reply {
        shared.paid.lock().unwrap().insert(key, (body.clone(), message.clone()));
    }
    // Whoever waits for the call finds it paid for.
    shared.calls.send_modify(|calls| calls.push(call));
    let is_stream = body["stream"] == true;
    match reply {
        Reply::Say(message) if is_stream => streamed(&message, shared, End::Whole),
        Reply::Half(message) => streamed(&message, shared, End::Breaks),
        Reply::Stall(message) => streamed(&message, shared, End::Stalls),
        Reply::Say(message) => {
            shared.delivered.send_modify(|delivered| *delivered += 1);
            let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": finish(&message)}], "usage": usage()});
            Response::builder().header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
        }
        Reply::Status(status, headers, body) => {
            let response =
                headers.into_iter().fold(Response::builder().status(status), |response, (name, value)| response.header(name, value));
            response.body(Body::from(body)).unwrap()
        }
        Reply::Hang(_) => std::future::pending().await,
        Reply::Raw(kind, body) => Response::builder().header("content-type", kind).body(Body::from(body)).unwrap(),
    }
}

fn usage() -> Value {
    json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
}

fn finish(message: &Value) -> &'static str {
    if message["tool_calls"].is_array() { "tool_calls" } else { "stop" }
}

/// How a stream ends.
#[derive(PartialEq)]
enum End {
    Whole,
    Breaks,
    Stalls,
}

/// A message as the events of a stream, in chunks that break anywhere; half of them unless it is to be whole.
fn streamed(message: &Value, shared: Arc<Shared>, end: End) -> Response {
    let bytes = Bytes::from(events_of(message));
    let until = if end == End::Whole { bytes.len() } else { bytes.len() / 2 };
    let (mut chunks, mut at, mut sizes) = (Vec::new(), 0, [1, 7, 2, 13, 64, 3].into_iter().cycle());
    while at < until {
        let to = until.min(at + sizes.next().unwrap());
        chunks.push(Ok::<Bytes, std::io::Error>(bytes.slice(at..to)));
        at = to;
    }
    let last = futures::stream::once(async move {
        match end {
            End::Whole => shared.delivered.send_modify(|delivered| *delivered += 1),
            End::Breaks => return Err(std::io::Error::other("the endpoint goes away")),
            End::Stalls => std::future::pending().await,
        }
        Ok(Bytes::new())
    });
    // Each chunk leaves by itself.
    let stream = futures::stream::iter(chunks).chain(last).then(async |chunk| {
        tokio::task::yield_now().await;
        chunk
    });
    Response::builder().header("content-type", "text/event-stream; charset=utf-8").body(Body::from_stream(stream)).unwrap()
}

fn events_of(message: &Value) -> String {
    let delta =
        |delta: Value, finish: Value| format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}));
    let mut events = format!(": welcome\n\n{}", delta(json!({"role": "assistant", "content": ""}), Value::Null));
    let characters: Vec<char> = message["content"].as_str().unwrap_or_default().chars().collect();
    for piece in characters.chunks(3) {
        events += &delta(json!({"content": piece.iter().collect::<String>()}), Value::Null);
    }
    for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let head =
            json!({"index": index, "id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": ""}});
        events += &delta(json!({"tool_calls": [head]}), Value::Null);
        let arguments: Vec<char> = call["function"]["arguments"].as_str().unwrap().chars().collect();
        for piece in arguments.chunks(5) {
            let part = json!({"index": index, "function": {"arguments": piece.iter().collect::<String>()}});
            events += &delta(json!({"tool_calls": [part]}), Value::Null);
        }
    }
    events += &delta(json!({}), json!(finish(message)));
    events += &format!("data: {}\r\n\r\n", json!({"choices": [], "usage": usage()}));
    events + "data: [DONE]\n\n"
}
