//! A connection that comes back by itself.
//!
//! Invariant: on each new connection the server's version is looked at, the scripts are loaded and the store is opened, before anything
//! else is asked.
//!
//! How it fails: a call has a bound in time. A connection that broke, or did not answer in time, is let go of; the next call makes another.
//! What was asked of it may have happened.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, Value};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::Semaphore;

use super::super::server::unproven;
use super::super::{Hint, StoreError};
use super::answer::Fields;
use super::client;
use super::scripts::SCRIPTS;
use crate::domain::text::printable;

/// How long a connection may take until it can be used.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The oldest major version that has what the scripts need.
const OLDEST_MAJOR: u32 = 7;

/// The version of what is kept.
pub const VERSION: i64 = 1;

/// What is kept of the server's own words, in characters.
const WORDS: usize = 300;

/// What a server says of itself.
pub struct Info(pub String);

impl Info {
    /// The value of that name; empty where the server does not tell it.
    pub fn of(&self, name: &str) -> &str {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default()
    }
}

/// A way to the server.
pub struct Link {
    client: Client,
    key: String,
    address: String,
    state: Mutex<State>,
    /// Whoever makes a connection; all others wait for it.
    connecting: Semaphore,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    made: u64,
    is_closed: bool,
}

/// A connection that can be used.
#[derive(Clone)]
pub struct Live {
    connection: MultiplexedConnection,
    number: u64,
}

impl Link {
    /// A link to the store of that key; nothing is connected yet.
    ///
    /// # Errors
    /// The URL is not one, or names a file that cannot be used.
    pub fn new(url: &str, key: &str) -> Result<Link, StoreError> {
        let client = client::of_url(url)?;
        let info = client.get_connection_info();
        let address = format!("{}, database {}", info.addr(), info.redis_settings().db());
        Ok(Link { client, key: key.to_owned(), address, state: Mutex::default(), connecting: Semaphore::new(1) })
    }

    /// The key that all others of the store begin with.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Asks what may be asked twice.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn ask(&self, call: &Cmd) -> Result<Value, StoreError> {
        self.begin(call).await.map(|(_, answer)| answer)
    }

    /// Asks what may be asked twice, and tells on which connection it was answered. A connection that has broken since it was used last is
    /// made anew once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn begin(&self, call: &Cmd) -> Result<(Live, Value), StoreError> {
        if let Some(mut live) = self.live()? {
            match self.send(&mut live, call).await {
                Err(error) if error.is_connection_dropped() => {}
                answer => return answer.map(|value| (live, value)).map_err(|error| self.failed(&error)),
            }
        }
        let mut live = self.connect().await?;
        let value = self.send(&mut live, call).await.map_err(|error| self.failed(&error))?;
        Ok((live, value))
    }

    /// Asks on a connection that has answered before; once, since it may happen though no answer comes.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn proceed(&self, mut live: Live, call: &Cmd) -> Result<Value, StoreError> {
        self.send(&mut live, call).await.map_err(|error| self.failed(&error))
    }

    /// Where the daemons of the store tell each other what changed.
    pub fn channel(&self) -> String {
        format!("{}:hints", self.key)
    }

    /// Listens to the channel, on a connection of its own; the stream ends with it.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn listen(&self) -> Result<BoxStream<'static, Hint>, StoreError> {
        let listening = async {
            let mut channel = self.client.get_async_pubsub().await?;
            channel.subscribe(self.channel()).await?;
            Ok(channel)
        };
        let listening: Result<PubSub, RedisError> = match tokio::time::timeout(CONNECT, listening).await {
            Ok(listening) => listening,
            Err(_) => return self.late(),
        };
        let told = listening.map_err(|error| self.failed(&error))?.into_on_message();
        Ok(Box::pin(told.filter_map(async |told| Hint::of_text(&told.get_payload::<String>().ok()?))))
    }

    /// Lets go of the connection for good.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_closed = true;
        state.live = None;
    }

    fn live(&self) -> Result<Option<Live>, StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed { Err(StoreError::Unavailable("it has been closed".to_owned())) } else { Ok(state.live.clone()) }
    }

    async fn send(&self, live: &mut Live, call: &Cmd) -> Result<Value, RedisError> {
        let mut answer = call.query_async(&mut live.connection).await;
        if answer.as_ref().is_err_and(|error: &RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            // Somebody flushed the scripts. Nothing has happened, so it can be asked again.
            load(&mut live.connection).await?;
            answer = call.query_async(&mut live.connection).await;
        }
        answer.inspect_err(|error| {
            if is_spent(error) {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.live.take_if(|current| current.number == live.number);
            }
        })
    }

    /// The connection, made if there is none.
    ///
    /// # Errors
    /// The server cannot be reached, does not let us in, or cannot be used.
    pub async fn connect(&self) -> Result<Live, StoreError> {
        let made = tokio::time::timeout(CONNECT, async {
            let Ok(_turn) = self.connecting.acquire().await else { return self.late() };
            match self.live()? {
                Some(live) => Ok(live),
                None => self.make().await,
            }
        });
        made.await.unwrap_or_else(|_| self.late())
    }

    fn late<T>(&self) -> Result<T, StoreError> {
        Err(self.unavailable(&format!("did not let us in within {} s", CONNECT.as_secs())))
    }

    /// A connection of its own to a server that is new enough, on which the store was not opened, and what the server says of itself.
    ///
    /// # Errors
    /// The server cannot be reached, does not let us in, or is too old.
    pub async fn bare(&self) -> Result<(MultiplexedConnection, Info), StoreError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let made = tokio::time::timeout(CONNECT, self.client.get_multiplexed_async_connection_with_config(&config));
        let Ok(made) = made.await else { return self.late() };
        let mut connection = made.map_err(|error| self.failed(&error))?;
        let mut info = ::redis::cmd("INFO");
        info.arg("server").arg("memory").arg("persistence").arg("replication");
        let info = Info(info.query_async(&mut connection).await.map_err(|error| self.failed(&error))?);
        let version = info.of("redis_version");
        if version.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major < OLDEST_MAJOR) {
            let version = printable(version, WORDS);
            return Err(self.invalid(&format!("is of version {version}; use Redis {OLDEST_MAJOR} or later, or Valkey")));
        }
        Ok((connection, info))
    }

    async fn make(&self) -> Result<Live, StoreError> {
        let (mut connection, info) = self.bare().await?;
        load(&mut connection).await.map_err(|error| self.failed(&error))?;
        self.open(&mut connection, info.of("run_id")).await?;
        tracing::debug!(address = self.address, version = info.of("redis_version"), "connected to Redis");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.made += 1;
        let live = Live { connection, number: state.made };
        if !state.is_closed {
            state.live = Some(live.clone());
        }
        Ok(live)
    }

    /// Makes the store, or sees that it is one that can be used.
    async fn open(&self, connection: &mut MultiplexedConnection, run_id: &str) -> Result<(), StoreError> {
        let mut open = SCRIPTS.open.call(&self.key);
        open.arg(VERSION).arg(run_id);
        let answer: Value = open.query_async(connection).await.map_err(|error| self.failed(&error))?;
        let found = Fields::of(answer)?.some_number(0)?;
        self.known(found)
    }

    /// Refuses a store that a later release wrote.
    ///
    /// # Errors
    /// Its version is not known.
    pub fn known(&self, found: i64) -> Result<(), StoreError> {
        if found > VERSION {
            let key = &self.key;
            return Err(self.invalid(&format!(
                "has under `{key}` a store of version {found}, and this program knows {VERSION}; use a later release, or another prefix"
            )));
        }
        Ok(())
    }

    /// Where the server is, and which of its databases.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What an error means.
    pub fn failed(&self, error: &RedisError) -> StoreError {
        let words = printable(&error.to_string(), WORDS);
        let says = format!("says: {words}");
        match (error.kind(), error.code().unwrap_or_default()) {
            (ErrorKind::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS") => {
                self.invalid("does not let us in; set the user and the password that it knows in the URL")
            }
            (_, "NOPERM") => self.invalid(&format!("{says}; allow the user of the URL these commands and keys")),
            (_, "OOM") => StoreError::Full(format!("Redis at {} has reached maxmemory", self.address)),
            (_, "MISCONF") if words.contains("No space left") => StoreError::Full(format!("Redis at {} {says}", self.address)),
            (_, "WRONGTYPE") => StoreError::corrupt(format!("Redis at {} {says}", self.address)),
            (ErrorKind::Server(ServerErrorKind::ResponseError | ServerErrorKind::CrossSlot), _) | (ErrorKind::InvalidClientConfig, _) => {
                self.invalid(&says)
            }
            (ErrorKind::Server(_) | ErrorKind::Extension, _) => self.unavailable(&says),
            _ => self.unavailable(
                &unproven(&words, "ssl_ca_certs")
                    .unwrap_or_else(|| format!("cannot be reached: {words}; see that it runs and that this machine may connect to it")),
            ),
        }
    }

    fn unavailable(&self, what: &str) -> StoreError {
        StoreError::Unavailable(format!("Redis at {} {what}", self.address))
    }

    fn invalid(&self, what: &str) -> StoreError {
        StoreError::Invalid(format!("Redis at {} {what}", self.address))
    }
}

/// Whether the connection is of no more use: it broke, it answers too late, or its server is not the one that writes any more.
fn is_spent(error: &RedisError) -> bool {
    let has_moved = matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "MOVED" | "NOAUTH"));
    error.is_unrecoverable_error() || error.is_timeout() || has_moved
}

async fn load(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut scripts = ::redis::pipe();
    for script in SCRIPTS.all() {
        scripts.cmd("SCRIPT").arg("LOAD").arg(&script.code);
    }
    let loaded: Value = scripts.query_async(connection).await?;
    Vec::<String>::from_redis_value(loaded).map(drop).map_err(RedisError::from)
}
