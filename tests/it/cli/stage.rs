//! A daemon that plays fixed answers over real HTTP, and the binary run against it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Notify;

/// What was asked of the stage.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method, path and query below the API's base: `GET runs?limit=50`.
    pub line: String,
    /// The headers `authorization`, `accept`, `last-event-id` and `idempotency-key`.
    pub headers: [Option<String>; 4],
    /// The body.
    pub body: String,
}

/// One answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body of a type.
    Plain(u16, &'static str, Vec<u8>),
    /// Frames of an event stream, and whether it then stays open.
    Stream(Vec<String>, bool),
    /// Fewer bytes than the length says.
    Short(Vec<u8>, usize),
}

/// JSON with 200.
pub fn ok(value: &Value) -> Reply {
    Reply::Plain(200, "application/json", value.to_string().into_bytes())
}

/// An error as the API has it.
pub fn problem(status: u16, detail: &str) -> Reply {
    let body = json!({"type": "about:blank", "title": "x", "status": status, "detail": detail});
    Reply::Plain(status, "application/problem+json", body.to_string().into_bytes())
}

/// Events as frames; each is `(sequence, name, status)`.
pub fn frames(events: &[(u64, &str, &str)]) -> Vec<String> {
    let frame = |(sequence, name, status): &(u64, &str, &str)| {
        let data = json!({"event": name, "sequence": sequence, "status": status, "run_id": "run_1", "timestamp": "2026-11-22T05:00:00Z"});
        format!("id: {sequence}\nevent: {name}\ndata: {data}\n\n")
    };
    events.iter().map(frame).collect()
}

type Script = Arc<Mutex<Vec<(&'static str, VecDeque<Reply>)>>>;

/// The stage: its answers and what was asked.
pub struct Stage {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    pub heard: Arc<Notify>,
    pub folder: tempfile::TempDir,
}

impl Stage {
    /// Plays each line's replies in order, the last one for ever; another line is a 404.
    pub async fn new(script: Vec<(&'static str, Vec<Reply>)>) -> Stage {
        let script: Script = Arc::new(Mutex::new(script.into_iter().map(|(line, replies)| (line, replies.into())).collect()));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let heard = Arc::new(Notify::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (keep, tell) = (Arc::clone(&asked), Arc::clone(&heard));
        let router = Router::new().fallback(async move |request: Request| play(&script, &keep, &tell, request).await);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Stage { url, asked, heard, folder: tempfile::tempdir().unwrap() }
    }

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Whether one of the lines asked is this one.
    pub fn was_asked(&self, line: &str) -> bool {
        self.asked().iter().any(|asked| asked.line == line)
    }

    /// The binary against this stage, in a folder of its own.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = sandclock(self.folder.path(), line);
        command.env("SANDCLOCK_URL", &self.url);
        command
    }

    /// Runs the binary to its end.
    pub async fn run(&self, line: &[&str]) -> Ended {
        ended(self.command(line)).await
    }
}

async fn play(script: &Script, asked: &Mutex<Vec<Asked>>, heard: &Notify, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().unwrap().as_str();
    let line = format!("{} {}", parts.method, target.strip_prefix("/background/").unwrap_or(target));
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let headers = [header("authorization"), header("accept"), header("last-event-id"), header("idempotency-key")];
    let body = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    asked.lock().unwrap().push(Asked { line: line.clone(), headers, body });
    heard.notify_one();
    let reply = script
        .lock()
        .unwrap()
        .iter_mut()
        .find(|(known, _)| *known == line)
        .map(|(_, replies)| if replies.len() > 1 { replies.pop_front().unwrap() } else { replies.front().unwrap().clone() });
    respond(reply.unwrap_or_else(|| problem(404, &format!("Nothing is played for {line}"))))
}

fn respond(reply: Reply) -> Response {
    let builder = Response::builder();
    match reply {
        Reply::Plain(status, kind, body) => {
            builder.status(StatusCode::from_u16(status).unwrap()).header(CONTENT_TYPE, kind).body(Body::from(body)).unwrap()
        }
        Reply::Stream(frames, stays_open) => {
            let frames = futures::stream::iter(frames.into_iter().map(|frame| Ok::<_, std::io::Error>(Bytes::from(frame))));
            let body = if stays_open { Body::from_stream(frames.chain(futures::stream::pending())) } else { Body::from_stream(frames) };
            builder.header(CONTENT_TYPE, "text/event-stream").body(body).unwrap()
        }
        Reply::Short(bytes, length) => {
            let broken = [Ok(Bytes::from(bytes)), Err(std::io::Error::other("the file became shorter"))];
            builder.header("content-length", length).body(Body::from_stream(futures::stream::iter(broken))).unwrap()
        }
    }
}

/// The binary: the one that was built with the tests, or another one that the environment names.
pub fn binary() -> OsString {
    std::env::var_os("SANDCLOCK_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_sandclock").into())
}

/// The binary in a directory, with nothing of this process's environment that it reads.
pub fn sandclock(directory: &Path, line: &[&str]) -> Command {
    let mut command = program(directory, &binary());
    command.args(line);
    command
}

/// A program in a directory, with nothing of this process's environment.
pub fn program(directory: &Path, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).env_clear().env("TZ", "UTC").stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code().expect("no signal ends it"), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs a command to its end.
pub async fn ended(mut command: Command) -> Ended {
    command.output().await.unwrap().into()
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A file of the folder with this content.
pub fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
