//! The stores that a bench measures, each new and empty, and the processor time that this process and the store's server use.
//!
//! The servers are those of `scripts/servers.sh`; a store whose server's variable is not set is left out, in so many words.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sandclock::clock::{Clock, SystemClock};
use sandclock::store::memory::MemoryStore;
use sandclock::store::mongodb::{MongoOptions, MongoStore};
use sandclock::store::redis::RedisStore;
use sandclock::store::sql::postgres::PostgresStore;
use sandclock::store::sql::sqlite::SqliteStore;
use sandclock::store::{ServerClock, Store};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// The kinds of stores, in the order of the tables in README.
pub const KINDS: [&str; 5] = ["memory", "sqlite", "postgres", "redis", "mongodb"];

static MADE: AtomicU32 = AtomicU32::new(0);

/// The number and the kinds of stores that the command line names; none means `count` and all.
pub fn wanted(count: u64) -> (u64, Vec<&'static str>) {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let count = given.iter().find_map(|text| text.parse().ok()).unwrap_or(count);
    let named: Vec<&str> = KINDS.into_iter().filter(|kind| given.iter().any(|text| text == kind)).collect();
    (count, if named.is_empty() { KINDS.to_vec() } else { named })
}

/// Where a store is, as the configuration takes it.
#[derive(Clone)]
pub struct Place {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// The server's URL; with PostgreSQL that of a database of its own.
    pub url: String,
    /// A database's name, or what keys begin with.
    pub name: String,
}

impl Place {
    /// A place that nobody has used; none where the server's variable is not set.
    pub async fn new(kind: &'static str) -> Option<Place> {
        let name = format!("bench_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        if matches!(kind, "memory" | "sqlite") {
            return Some(Place { kind, url: kind.to_owned(), name });
        }
        let variable = format!("SANDCLOCK_TEST_{}_URL", kind.to_uppercase());
        let Ok(mut url) = std::env::var(&variable) else {
            println!("{kind:8} left out: {variable} is not set; `make bench` sets it");
            return None;
        };
        if kind == "postgres" {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
            url = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        }
        Some(Place { kind, url, name })
    }

    /// The store there; SQLite's file is in `root`.
    pub async fn open(&self, root: &Path) -> Arc<dyn Store> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let server = ServerClock::of_server(Arc::clone(&clock));
        match self.kind {
            "memory" => Arc::new(MemoryStore::new(clock)),
            "sqlite" => Arc::new(SqliteStore::open(&root.join(&self.name), clock).await.unwrap()),
            "postgres" => Arc::new(PostgresStore::connect(&self.url, server).await.unwrap()),
            "redis" => Arc::new(RedisStore::connect(&self.url, &self.name, server).await.unwrap()),
            _ => {
                let options = MongoOptions { database: Some(self.name.clone()), ..MongoOptions::default() };
                Arc::new(MongoStore::connect(&self.url, &options, server).await.unwrap())
            }
        }
    }

    /// The meter of this process and of the server, if there is one.
    pub fn meter(&self) -> Meter {
        let port = self.url.split_once('@').map_or(self.url.as_str(), |(_, rest)| rest).trim_start_matches(|c: char| !c.is_ascii_digit());
        let port = port.split_once(':').map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        Meter { server: port.and_then(|port| listener(port.parse().ok()?)) }
    }
}

/// Reads processor time.
#[derive(Clone, Copy)]
pub struct Meter {
    server: Option<u32>,
}

/// Processor time, used since some moment in the past.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// By this process.
    pub own: Duration,
    /// By the store's server and its children.
    pub server: Duration,
}

impl Used {
    /// What was used since.
    pub fn since(self, before: Used) -> Used {
        Used { own: self.own.saturating_sub(before.own), server: self.server.saturating_sub(before.server) }
    }

    /// Milliseconds for each of so many, this process's and the server's.
    pub fn for_each(self, count: u64) -> [f64; 2] {
        [self.own, self.server].map(|used| used.as_secs_f64() * 1e3 / count as f64)
    }
}

impl Meter {
    /// What has been used.
    pub fn read(self) -> Used {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let own = Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap());
        Used { own, server: self.server.map_or(Duration::ZERO, processor_time) }
    }
}

/// The process that listens on that port of 127.0.0.1.
fn listener(port: u16) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let inode =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row[1] == local && row[3] == "0A")?[9].to_owned();
    let socket = format!("socket:[{inode}]");
    processes().find(|pid| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|link| link.as_os_str() == socket.as_str())
    })
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Of the threads that live, of a process and its children: the first number of their schedstat, in nanoseconds
/// (Documentation/scheduler/sched-stats.rst of the kernel).
fn processor_time(server: u32) -> Duration {
    let parent = |pid: u32| -> Option<u32> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: state, parent.
        text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let of_thread = |thread: std::fs::DirEntry| -> Option<u64> {
        std::fs::read_to_string(thread.path().join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    let of_process =
        |pid: u32| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().filter_map(of_thread).sum::<u64>();
    let all = processes().filter(|pid| *pid == server || parent(*pid) == Some(server));
    Duration::from_nanos(all.map(of_process).sum())
}
