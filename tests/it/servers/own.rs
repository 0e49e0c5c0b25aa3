//! Servers of one test: started on data and a port of their own, killed, stopped and started again on both.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Server, told};
use crate::cli::stage::signal;

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a server that starts.
const LOOK: Duration = Duration::from_millis(20);

/// How a server is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// In order: connections are closed, what is in memory is written.
    Fast,
    /// PostgreSQL's immediate shutdown, which recovers at the next start. Redis and mongod have only the orderly one.
    Immediate,
}

/// A server of one test. It ends with this value, and its data with it.
pub struct OwnServer {
    server: Server,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
    home: TempDir,
}

impl OwnServer {
    /// A PostgreSQL with an empty database; more arguments follow those of `scripts/servers/exec.sh`: `["-c", "max_connections=10"]`.
    pub async fn postgres(arguments: &[&str]) -> Option<OwnServer> {
        OwnServer::new(Server::Postgres, arguments).await
    }

    /// A Redis that syncs its log each second, unless the arguments say otherwise: `["--appendonly", "no"]`.
    pub async fn redis(arguments: &[&str]) -> Option<OwnServer> {
        OwnServer::new(Server::Redis, arguments).await
    }

    /// A mongod as the primary of a replica set of one.
    pub async fn mongod(arguments: &[&str]) -> Option<OwnServer> {
        OwnServer::new(Server::Mongodb, arguments).await
    }

    /// An S3 server with the empty bucket `sandclock`.
    pub async fn s3() -> Option<OwnServer> {
        OwnServer::new(Server::S3, &[]).await
    }

    async fn new(server: Server, arguments: &[&str]) -> Option<OwnServer> {
        let mut own = OwnServer::absent(server, arguments)?;
        own.start().await;
        Some(own)
    }

    /// Not started yet; none when its tests are left out.
    fn absent(server: Server, arguments: &[&str]) -> Option<OwnServer> {
        let binary = match server {
            Server::Postgres => "SANDCLOCK_TEST_POSTGRES_BIN",
            Server::Redis => "SANDCLOCK_TEST_REDIS_BIN",
            Server::Mongodb => "SANDCLOCK_TEST_MONGOD_BIN",
            Server::S3 => "SANDCLOCK_TEST_S3_BIN",
        };
        told(server, binary, &|name| std::env::var(name).ok())?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Some(OwnServer { server, port: free_port(), arguments, child: None, home: TempDir::with_prefix("sandclock-own-").unwrap() })
    }

    /// Where it listens, or will.
    pub fn url(&self) -> String {
        let port = self.port;
        match self.server {
            Server::Postgres => format!("postgres://sandclock:{}@127.0.0.1:{port}/postgres", self.password()),
            Server::S3 => format!("http://sandclock:{}@127.0.0.1:{port}/sandclock", self.password()),
            Server::Redis => format!("redis://127.0.0.1:{port}"),
            Server::Mongodb => format!("mongodb://127.0.0.1:{port}/?replicaSet=sandclock"),
        }
    }

    fn password(&self) -> String {
        std::fs::read_to_string(self.home.path().join("password")).unwrap()
    }

    /// The same, by way of another port of 127.0.0.1 alone.
    pub fn url_by(&self, port: u16) -> String {
        let url = self.url().replacen(&format!("127.0.0.1:{}", self.port), &format!("127.0.0.1:{port}"), 1);
        // Else the set would tell where its members are.
        url.replace("replicaSet=sandclock", "directConnection=true")
    }

    /// Its port on 127.0.0.1, the same for its whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its data and its log are; it can read there whoever it runs as.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Starts it, on the data that it has, and waits until it answers.
    pub async fn start(&mut self) {
        self.spawn();
        let begun = Instant::now();
        while !self.answers().await {
            // A PostgreSQL that was killed leaves backends, which hold its memory for a moment more.
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                self.spawn();
            }
            assert!(begun.elapsed() < PATIENCE, "{} does not start: {}", self.server.name(), self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(&mut self, how: Stop) {
        let asked = match (self.server, how) {
            (Server::Postgres, Stop::Fast) => Signal::INT,
            (Server::Postgres, Stop::Immediate) => Signal::QUIT,
            (Server::Redis | Server::Mongodb | Server::S3, _) => Signal::TERM,
        };
        self.end(asked).await;
    }

    /// Sends a signal: SIGSTOP makes a server that accepts and does not answer, SIGCONT wakes it.
    pub fn signal(&self, sent: Signal) {
        signal(self.child.as_ref().expect("a server that runs"), sent);
    }

    /// The file to which a Redis appends what it was told.
    pub fn append_only_file(&self) -> PathBuf {
        let folder = std::fs::read_dir(self.home.path().join("data/appendonlydir")).unwrap();
        let newest = folder.map(|entry| entry.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max();
        newest.expect("a Redis with an append-only file")
    }

    /// What it has written since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    async fn end(&mut self, sent: Signal) {
        self.signal(sent);
        let mut child = self.child.take().expect("a server that runs");
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} does not end: {}", self.server.name(), self.log())).unwrap();
    }

    fn spawn(&mut self) {
        let log = File::create(self.home.path().join("log")).unwrap();
        let mut command = Command::new(script("exec.sh"));
        command.arg(self.server.name()).arg(self.home.path()).arg(self.port.to_string()).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().unwrap());
    }

    /// Whether this server, and no other one on its port, can be used.
    async fn answers(&mut self) -> bool {
        let answers = match self.server {
            Server::Postgres => {
                self.home.path().join("password").exists() && super::on_postgres(&self.url(), "SELECT 1".into()).await.is_ok()
            }
            Server::Redis => self.log().contains("Ready to accept connections") && ping(&self.url()).await.is_ok(),
            Server::S3 => self.log().contains("Starting s3 server on"),
            Server::Mongodb => self.log().contains("Waiting for connections") && replica_set(&[self.port]).await,
        };
        answers && self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for OwnServer {
    /// It has to have ended before its directory can go; PostgreSQL then takes its shared memory with it.
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if child.id().is_some() {
            signal(&child, if self.server == Server::Postgres { Signal::QUIT } else { Signal::KILL });
            signal(&child, Signal::CONT);
        }
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
        }
    }
}

/// Mongods that are one replica set.
pub struct ReplicaSet {
    /// The members; which of them is the primary changes.
    pub members: Vec<OwnServer>,
}

impl ReplicaSet {
    /// That many members, of whom one is the primary.
    pub async fn new(members: usize) -> Option<ReplicaSet> {
        let members: Option<Vec<OwnServer>> = (0..members).map(|_| OwnServer::absent(Server::Mongodb, &[])).collect();
        let mut members = members?;
        for member in &mut members {
            member.spawn();
        }
        let ports: Vec<u16> = members.iter().map(OwnServer::port).collect();
        assert!(replica_set(&ports).await, "no replica set: {}", members.iter().map(OwnServer::log).collect::<String>());
        Some(ReplicaSet { members })
    }

    /// The member that is the primary; none while there is none.
    pub async fn primary(&mut self) -> Option<&mut OwnServer> {
        let client = mongodb::Client::with_uri_str(self.url()).await.unwrap();
        let hello = client.database("admin").run_command(mongodb::bson::doc! { "hello": 1 }).await.ok()?;
        let name = hello.get_str("primary").ok()?.to_owned();
        client.shutdown().await;
        self.members.iter_mut().find(|member| name.ends_with(&format!(":{}", member.port)))
    }

    /// Names all members.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("mongodb://{}/?replicaSet=sandclock", hosts.join(","))
    }
}

/// Makes mongods a replica set, unless they are one, and waits until the first of them knows a primary.
async fn replica_set(ports: &[u16]) -> bool {
    let mut command = Command::new("python3");
    command.arg(script("replica_set.py")).args(ports.iter().map(u16::to_string)).kill_on_drop(true);
    command.status().await.unwrap().success()
}

async fn ping(url: &str) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    redis::cmd("PING").query_async(&mut connection).await
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/servers").join(name)
}

/// Below the ports that systems give to outgoing connections, so that a server finds its own free when it comes back.
pub fn free_port() -> u16 {
    loop {
        let port = 20_000 + u16::try_from(getrandom::u32().unwrap() % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
