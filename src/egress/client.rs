//! The daemon's HTTP clients: pooled, over HTTP/2 where the host has it, with the system's roots.
//!
//! Invariant: an address is judged where it is connected to, at each new connection, and a connection serves only calls of one
//! agent with the same grants: what one leaves unread holds up no other. No proxy, no redirect, no decompression; nothing is read from the environment but what the system's verifier reads.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use reqwest::Client;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address;

/// How long a connection may take to be made, TLS included.
pub const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How many idle connections to one host are kept.
const IDLE_PER_HOST: usize = 16;
/// How many clients, each for an agent and grants, are kept.
const CLIENTS: usize = 256;
/// How much of one HTTP/2 answer may come unread, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all answers of one connection: as many as an attempt has under way by default leave none of it to be waited for.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;
/// The most that the headers of an answer may take, in bytes.
pub const HEADER_BYTES: u32 = 64 * 1024;

/// Finds the addresses of a name.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of a name.
    ///
    /// # Errors
    /// It cannot be found out, or there are none.
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// A name stands for addresses none of which may be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}")]
pub struct Prohibited {
    /// The first of them.
    pub address: IpAddr,
    /// What it is.
    pub kind: &'static str,
}

/// Finds addresses and lets those through that may be connected to.
struct Judge {
    lookup: Arc<dyn Lookup>,
    granted: Arc<[IpNet]>,
}

impl Resolve for Judge {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, granted) = (Arc::clone(&self.lookup), Arc::clone(&self.granted));
        Box::pin(async move {
            let found = lookup.lookup(name.as_str()).await?;
            let (mut good, mut bad) = (Vec::new(), None);
            for ip in found {
                match address::against(ip, &granted) {
                    None => good.push(SocketAddr::new(ip, 0)),
                    Some(kind) => bad = bad.or(Some(Prohibited { address: ip, kind })),
                }
            }
            match bad {
                Some(prohibited) if good.is_empty() => Err(prohibited.into()),
                _ if good.is_empty() => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Whose calls a client serves, and with which grants.
type Key = (String, Arc<[IpNet]>);

/// The clients, one for each agent and set of grants.
pub struct Clients {
    lookup: Arc<dyn Lookup>,
    made: Mutex<Recent<Key, Client>>,
}

/// A bounded map that forgets what was used least recently.
struct Recent<K, V> {
    most: usize,
    uses: u64,
    kept: HashMap<K, (u64, V)>,
}

impl<K: Eq + Hash + Clone, V: Clone> Recent<K, V> {
    fn new(most: usize) -> Self {
        Recent { most, uses: 0, kept: HashMap::new() }
    }

    fn get(&mut self, key: &K) -> Option<V> {
        self.uses += 1;
        let (used, value) = self.kept.get_mut(key)?;
        *used = self.uses;
        Some(value.clone())
    }

    /// What is kept under the key, which is `value` unless another was first.
    fn put(&mut self, key: K, value: V) -> V {
        if let Some(kept) = self.get(&key) {
            return kept;
        }
        let oldest = self.kept.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest.filter(|_| self.kept.len() >= self.most) {
            self.kept.remove(&oldest);
        }
        self.kept.insert(key, (self.uses, value.clone()));
        value
    }
}

impl Clients {
    /// None made yet.
    pub fn new(lookup: Arc<dyn Lookup>) -> Self {
        Clients { lookup, made: Mutex::new(Recent::new(CLIENTS)) }
    }

    /// The client for an agent's calls with these grants.
    ///
    /// # Errors
    /// It cannot be made, such as where the system has no roots.
    pub async fn with(&self, agent: &str, granted: &[IpNet]) -> Result<Client, String> {
        let granted: Arc<[IpNet]> = granted.into();
        let key = (agent.to_owned(), Arc::clone(&granted));
        if let Some(client) = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(client);
        }
        let judge = Judge { lookup: Arc::clone(&self.lookup), granted };
        // The roots are read from files.
        let built = tokio::task::spawn_blocking(move || build(judge)).await;
        let client = built.map_err(|error| error.to_string())?.map_err(|error| told(&error))?;
        // Calls that are under way keep theirs.
        Ok(self.made.lock().unwrap_or_else(PoisonError::into_inner).put(key, client))
    }
}

fn build(judge: Judge) -> reqwest::Result<Client> {
    crate::tls::provide();
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .dns_resolver(Arc::new(judge))
        .connect_timeout(CONNECT_TIME)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .user_agent(concat!("sandclock/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// An error with its causes, in one line, without the URL.
pub fn told(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        cause = error.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { crate::domain::text::printable(&text, 400) }
}

/// What an error comes from, of the type that is asked for.
pub fn cause_of<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // What an error of input and output is made of is not its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| cause_of::<E>(inner)) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_is_forgotten() {
        let mut recent = Recent::new(2);
        assert_eq!((recent.put("a", 1), recent.put("b", 2), recent.put("a", 9)), (1, 2, 1));
        recent.put("c", 3);
        assert_eq!((recent.get(&"a"), recent.get(&"b"), recent.get(&"c"), recent.kept.len()), (Some(1), None, Some(3), 2));
    }
}
