//! Follows what the store says of agents, and brings pushed components here.
//!
//! Invariant: one part of each daemon looks, and each look takes in all of it; hints bring a look forward, the poll finds what they miss.
//!
//! How it fails: while the store does not answer, what was known stands; a component that cannot be had now is tried with the next look.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::agents::{Agents, Registered, Roster, Said, StoredAgent};
use super::deployment::Deployment;
use super::inner::Inner;
use super::outage::tell_unless_out;
use super::pushed;
use crate::domain::id::AgentId;
use crate::plugins::{Digest, Loaded};
use crate::sandbox::Prepared;
use crate::store::{Kind, PageRequest, Record, Scope, StoreError};

/// How many records are read at a time.
const PAGE: usize = 256;
/// How many components are brought from the store at once.
const FETCHES: usize = 2;

/// A component, or why it does not come and whether it may later.
type Came = (Digest, Result<Arc<Loaded<Prepared>>, (String, bool)>);
type Coming = Pin<Box<dyn Future<Output = Came> + Send>>;

/// Follows until it is told to stop.
pub async fn follow(inner: Arc<Inner>, agents: Arc<Agents>, stop: CancellationToken) {
    let mut changes = agents.catalogue().changes();
    let mut coming: FuturesUnordered<Coming> = FuturesUnordered::new();
    let (fetches, mut warned) = (Arc::new(Semaphore::new(FETCHES)), HashMap::new());
    loop {
        let look = agents.begin_look();
        match see(&inner, &agents).await {
            Ok((seen, under)) => {
                let wanted = seen.wanted();
                let digests = agents.looked(look, seen, &under);
                tidy(&inner, &agents, wanted).await;
                inner.admission.bound_agents(agents.queue_bounds());
                for digest in digests {
                    coming.push(Box::pin(bring(Arc::clone(&inner), Arc::clone(&agents), digest, Arc::clone(&fetches))));
                }
            }
            Err(error) => {
                agents.end_look(look);
                tell_unless_out!(error, warn, %error, "what the store says of agents could not be read; what was known stands");
            }
        }
        let next = tokio::time::Instant::now() + inner.settings().poll;
        loop {
            agents.warn_overridden(&mut warned);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((digest, came)) = coming.next() => agents.arrived(digest, came),
                () = inner.wakeups.agents.notified() => break,
                // A catalogue that is gone changes no more.
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

/// Removes the files of pushed components that serve no agent any more; the store has those that are kept.
async fn tidy(inner: &Inner, agents: &Arc<Agents>, wanted: HashSet<Digest>) {
    let Some(folder) = agents.pushed_folder().map(Path::to_owned) else { return };
    let agents = Arc::clone(agents);
    let remove = move || {
        // What was pushed here since the look is none that it could want.
        pushed::remove_unwanted(&folder, |digest| wanted.contains(digest) || agents.has_here(digest));
        Ok(())
    };
    if let Err(error) = inner.blocking(remove).await {
        tracing::debug!(%error, "the files of pushed components were not looked after");
    }
}

/// Reads all that the store says of agents, and the settings under which that was understood; what has not changed is taken as it was.
async fn see(inner: &Inner, agents: &Agents) -> Result<(Said, Arc<Roster>), StoreError> {
    let (known, roster) = agents.known();
    let deployments = all(inner, Kind::Deployment, &known.deployments, |record| record.decode::<Deployment>().map(Arc::new)).await?;
    let read = |record: &Record| record.decode::<StoredAgent>().map(|stored| Arc::new(Registered::read(stored, &roster)));
    let registered = all(inner, Kind::Agent, &known.registered, read).await?;
    Ok((Said { deployments, registered }, roster))
}

type Known<T> = BTreeMap<AgentId, (u64, Arc<T>)>;

async fn all<T>(
    inner: &Inner,
    kind: Kind,
    known: &Known<T>,
    decode: impl Fn(&Record) -> Result<Arc<T>, StoreError>,
) -> Result<Known<T>, StoreError> {
    let (mut found, mut page) = (BTreeMap::new(), PageRequest::first(PAGE));
    loop {
        let listed = inner.store.list(Scope::All(kind), page).await?;
        for record in &listed.records {
            let Ok(agent) = AgentId::parse(&record.id.key) else { continue };
            let same = known.get(&agent).filter(|(rev, _)| *rev == record.rev).map(|(_, value)| Arc::clone(value));
            match same.map_or_else(|| decode(record), Ok) {
                Ok(value) => drop(found.insert(agent, (record.rev, value))),
                // One that cannot be read holds up no others.
                Err(error) => tracing::error!(%agent, %error, "what the store says of an agent cannot be read and is passed over"),
            }
        }
        match listed.next {
            Some(after) => page.after = Some(after),
            None => return Ok(found),
        }
    }
}

async fn bring(inner: Arc<Inner>, agents: Arc<Agents>, digest: Digest, fetches: Arc<Semaphore>) -> Came {
    let Some(folder) = agents.pushed_folder() else {
        return (digest, Err(("this daemon takes no pushes".to_owned(), false)));
    };
    let _turn = fetches.acquire().await;
    let fetched = pushed::fetch(&inner, digest, folder).await;
    let came = match fetched {
        Err(error) => {
            tell_unless_out!(error, warn, %digest, %error, "a pushed plugin is not here yet; it is tried again");
            Err((error.to_string(), true))
        }
        Ok(path) => agents.catalogue().loader().load(&path).await.map(Arc::new).map_err(|refused| {
            tracing::warn!(%digest, reason = refused.reason, "a pushed plugin is refused here");
            (refused.reason, refused.for_now)
        }),
    };
    if came.is_ok() {
        tracing::info!(%digest, "a pushed plugin is ready");
    }
    (digest, came)
}
