//! Moving a store: into another one, into a backup, and out of one.
//!
//! Invariant: no daemon works on what is copied or filled, except where the store shows a moment of its own.
//!
//! How it fails: with [`MoveError`], one sentence; what it leaves half filled is marked so, and no daemon opens it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::fleet;
use super::open::OpenError;
use crate::clock::{Clock, Entropy as _, SystemEntropy};
use crate::config::StoreSettings;
#[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
use crate::store::ServerClock;
#[cfg(feature = "mongodb")]
use crate::store::mongodb::{MongoOptions, MongoStore};
#[cfg(feature = "redis")]
use crate::store::redis::RedisStore;
#[cfg(feature = "postgres")]
use crate::store::sql::postgres::PostgresStore;
#[cfg(feature = "sqlite")]
use crate::store::sql::sqlite::{SqlitePicture, SqliteStore};
use crate::store::transfer::{
    BackupFile, Digest, Filled, Filling, Header, Page, Pages, Resting, Transfer, TransferError, Walk, Wish, enter, fill, look, next_epoch,
    write_backup,
};
use crate::store::{Store, StoreError};

/// Why a store was not moved. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be moved, or not all of it.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// What was named cannot be moved, or not there.
    #[error("{0}")]
    Named(String),
}

impl From<StoreError> for MoveError {
    fn from(error: StoreError) -> Self {
        MoveError::Open(error.into())
    }
}

/// What is told while it goes on: what has been moved so far.
pub type Told<'a> = &'a mut (dyn FnMut(&Digest) + Send);

/// A store in words, without a password.
pub fn shown(settings: &StoreSettings) -> String {
    match settings {
        StoreSettings::Memory => "memory".to_owned(),
        StoreSettings::Sqlite { path } => format!("sqlite {}", path.display()),
        StoreSettings::Postgres { url } => url.to_string(),
        StoreSettings::Redis { url, prefix } => format!("{url} (prefix {prefix})"),
        StoreSettings::Mongodb { url, database, prefix } => {
            let database = database.as_deref().map(|name| format!(" (database {name})")).unwrap_or_default();
            let prefix = if prefix.is_empty() { String::new() } else { format!(" (prefix {prefix})") };
            format!("{url}{database}{prefix}")
        }
    }
}

/// The kind of a store in a word.
pub const fn kind(settings: &StoreSettings) -> &'static str {
    match settings {
        StoreSettings::Memory => "memory",
        StoreSettings::Sqlite { .. } => "sqlite",
        StoreSettings::Postgres { .. } => "postgres",
        StoreSettings::Redis { .. } => "redis",
        StoreSettings::Mongodb { .. } => "mongodb",
    }
}

/// Copies a store into an empty one.
///
/// # Errors
/// A store cannot be had, a daemon works on the one that is copied, the other is not empty, or what was read back differs.
pub async fn copy(
    from: &StoreSettings,
    to: &StoreSettings,
    anew: bool,
    clock: &Arc<dyn Clock>,
    told: Told<'_>,
) -> Result<Filled, MoveError> {
    if from == to {
        return Err(MoveError::Named(format!("{} cannot be copied into itself; name another store as the target", shown(from))));
    }
    let source = open_source(from, clock).await?;
    let target = open(to, clock).await?;
    let copied = async {
        let (walk, fences_above) = Walk::of_whole(Arc::clone(&source).picture().await?).await?;
        let filling = Filling { what: "a copy".to_owned(), from: shown(from), begun_at: target.now().await? };
        let wish = Wish { filling, anew, fences_above, id: new_id() };
        let mut pages = Watched { pages: walk, store: Arc::clone(&source), name: shown(from) };
        Ok::<_, MoveError>(fill(&target, &mut pages, wish, told).await?)
    };
    let copied = copied.await;
    source.close().await;
    target.close().await;
    copied
}

/// Writes a store into a new file. SQLite and PostgreSQL show a moment of theirs, whoever works on them; the others must rest.
///
/// # Errors
/// The store cannot be had, a daemon works on one that must rest, or the file cannot be written.
pub async fn backup(from: &StoreSettings, path: &Path, clock: &Arc<dyn Clock>, told: Told<'_>) -> Result<Digest, MoveError> {
    match from {
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite { path: file } => {
            let picture = SqlitePicture::of_file(file).await.map_err(OpenError::from)?;
            let (mut walk, fences_above) = Walk::of_whole(Box::new(picture)).await?;
            let header = Header::new(kind(from), clock.now(), fences_above);
            Ok(write_backup(path, &header, &mut walk, told).await?)
        }
        StoreSettings::Postgres { .. } => {
            let store = open(from, clock).await?;
            let (mut walk, fences_above) = Walk::of_whole(Arc::clone(&store).picture().await?).await?;
            let header = Header::new(kind(from), store.now().await?, fences_above);
            let written = write_backup(path, &header, &mut walk, told).await;
            store.close().await;
            Ok(written?)
        }
        _ => {
            let store = open_source(from, clock).await?;
            let (walk, fences_above) = Walk::of_whole(Arc::clone(&store).picture().await?).await?;
            let header = Header::new(kind(from), store.now().await?, fences_above);
            let mut pages = Watched { pages: walk, store: Arc::clone(&store), name: shown(from) };
            let written = write_backup(path, &header, &mut pages, told).await;
            store.close().await;
            Ok(written?)
        }
    }
}

/// A store that was set back to what a backup holds.
#[derive(Debug)]
pub struct Restored {
    /// What the backup says of itself.
    pub header: Header,
    /// What was written.
    pub filled: Filled,
    /// What all fences lie above from now on.
    pub fences_above: u64,
}

/// Fills an empty store with what a backup holds, in an epoch above all fences that were given before.
///
/// # Errors
/// The file is not as it was written, the store cannot be had or is not empty, or what was read back differs.
pub async fn restore(path: &Path, to: &StoreSettings, anew: bool, clock: &Arc<dyn Clock>, told: Told<'_>) -> Result<Restored, MoveError> {
    let verified = BackupFile::verify(path).await?;
    let target = open(to, clock).await?;
    let restored = async {
        let now = target.now().await?;
        let header = verified.header;
        let fences_above = next_epoch(verified.digest.last_fence.max(header.fences_above), now);
        let filling = Filling { what: "a restore".to_owned(), from: path.display().to_string(), begun_at: now };
        let wish = Wish { filling, anew, fences_above, id: new_id() };
        let mut pages = Resting(BackupFile::open(path).await?, now);
        let filled = fill(&target, &mut pages, wish, told).await?;
        Ok::<_, MoveError>(Restored { header, filled, fences_above })
    };
    let restored = restored.await;
    target.close().await;
    restored
}

fn new_id() -> u128 {
    let mut bytes = [0; 16];
    SystemEntropy.fill(&mut bytes);
    u128::from_be_bytes(bytes)
}

/// Opens a store that is to be read, which must be there, hold something, and have no daemon at work on it.
async fn open_source(settings: &StoreSettings, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Transfer>, MoveError> {
    if let StoreSettings::Sqlite { path } = settings
        && !exists(path.clone()).await
    {
        return Err(MoveError::Named(format!("there is no store {}; name one that is there", path.display())));
    }
    let store = open(settings, clock).await?;
    enter(&*store).await?;
    rests(&*store, &shown(settings)).await?;
    if let Ok(None) = look(&store).await {
        return Err(MoveError::Named(format!("{} holds nothing; see its name, its prefix and its database", shown(settings))));
    }
    Ok(store)
}

async fn exists(path: PathBuf) -> bool {
    tokio::fs::try_exists(path).await.unwrap_or(true)
}

/// Sees that no daemon works on a store.
async fn rests(store: &dyn Store, name: &str) -> Result<(), TransferError> {
    match fleet::alive(store).await?.first() {
        None => Ok(()),
        Some(daemon) => Err(TransferError::InUse(format!(
            "a daemon works on {name}: {daemon}; stop it, or if it was killed wait until it has been silent for long enough, and try again"
        ))),
    }
}

/// Pages of a store on which no daemon may work until the last has been read.
struct Watched<P> {
    pages: P,
    store: Arc<dyn Transfer>,
    name: String,
}

#[async_trait]
impl<P: Pages> Pages for Watched<P> {
    async fn next(&mut self) -> Result<Option<Page>, TransferError> {
        let page = self.pages.next().await?;
        if page.is_none() {
            rests(&*self.store, &self.name).await?;
        }
        Ok(page)
    }
}

/// Opens a store whose records can be moved, if it can be had now.
#[cfg_attr(not(any(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")), allow(unused_variables))]
async fn open(settings: &StoreSettings, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Transfer>, MoveError> {
    #[cfg(any(feature = "postgres", feature = "redis", feature = "mongodb"))]
    let of_server = || ServerClock::of_server(Arc::clone(clock));
    match settings {
        StoreSettings::Memory => {
            Err(MoveError::Named("a store in memory is gone with its daemon and cannot be moved; name another kind of store".to_owned()))
        }
        #[cfg(feature = "sqlite")]
        StoreSettings::Sqlite { path } => Ok(Arc::new(SqliteStore::open(path, Arc::clone(clock)).await.map_err(OpenError::from)?)),
        #[cfg(feature = "postgres")]
        StoreSettings::Postgres { url } => Ok(Arc::new(PostgresStore::connect(url.expose(), of_server()).await?)),
        #[cfg(feature = "redis")]
        StoreSettings::Redis { url, prefix } => Ok(Arc::new(RedisStore::connect(url.expose(), prefix, of_server()).await?)),
        #[cfg(feature = "mongodb")]
        StoreSettings::Mongodb { url, database, prefix } => {
            let options = MongoOptions { database: database.clone(), prefix: prefix.clone(), ..MongoOptions::default() };
            Ok(Arc::new(MongoStore::connect(url.expose(), &options, of_server()).await?))
        }
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "redis", feature = "mongodb")))]
        _ => Err(MoveError::Named("this sandclock was built without that kind of store; build it with that store's feature".to_owned())),
    }
}
