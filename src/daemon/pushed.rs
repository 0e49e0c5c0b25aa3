//! The bytes of pushed components in the store: a record for each digest, and its bytes in parts.
//!
//! Invariants: a digest's record names the agents that keep it, and is written with their deployments; parts are written only while the
//! record says so, and removed only when it says that they leave. So nobody names a digest whose bytes are not all there, and two who
//! upload the same one at once help each other.
//!
//! How it fails: an upload that broke off leaves a record that no agent names; retention takes it, and what is no longer kept, after
//! a while, a few parts at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::ManagerError;
use super::inner::Inner;
use super::transitions::Step;
use super::txn::{Entity, Txn};
use crate::domain::id::AgentId;
use crate::domain::time::Timestamp;
use crate::plugins::Digest;
use crate::store::{DueKind, Index, Kind, RecordId, When};

/// How many bytes a part has: in base64 they fit a record.
const PART_BYTES: u64 = 512 * 1024;
/// How many parts go in one change; they are read for it.
const PARTS: u32 = 4;
/// How many plugins one pass of retention looks at.
const PLUGINS: usize = 8;

/// What becomes of the parts of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Some may be missing.
    Coming,
    /// All are there.
    Whole,
    /// Some may be gone.
    Leaving,
}

/// A pushed component without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredPlugin {
    digest: Digest,
    size_bytes: u64,
    state: State,
    /// The agents that keep it.
    agents: BTreeSet<AgentId>,
    /// The name of the upload that brought it.
    upload: String,
    at: Timestamp,
}

impl Entity for StoredPlugin {
    const KIND: Kind = Kind::Plugin;

    fn index(&self, _now: Timestamp) -> Index {
        // What nobody keeps is due: retention looks at how long it has been so.
        Index { due: self.agents.is_empty().then_some(When::In(Duration::ZERO)), ..Index::default() }
    }
}

impl StoredPlugin {
    /// Names the record of a digest.
    pub(super) fn id_of(digest: &Digest) -> RecordId {
        RecordId::new(Kind::Plugin, &digest.to_string())
    }

    /// The same, no longer kept by an agent.
    pub(super) fn without(&self, agent: &AgentId) -> Self {
        let mut plugin = self.clone();
        plugin.agents.remove(agent);
        plugin
    }

    fn parts(&self) -> u32 {
        u32::try_from(self.size_bytes.div_ceil(PART_BYTES)).unwrap_or(u32::MAX)
    }
}

/// Some of the bytes, in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Part(String);

impl Entity for Part {
    const KIND: Kind = Kind::PluginPart;

    fn index(&self, _now: Timestamp) -> Index {
        Index::default()
    }
}

fn part_id(digest: &Digest, number: u32) -> RecordId {
    RecordId::new(Kind::PluginPart, &format!("{digest}/{number:05}"))
}

fn get(txn: &mut Txn<'_>, digest: &Digest) -> Step<Option<Arc<StoredPlugin>>> {
    txn.get(&StoredPlugin::id_of(digest))
}

/// A component that is on its way into the store.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    digest: Digest,
    upload: String,
}

impl Stored {
    /// Notes, in the change that has an agent keep the component, that it does and that all is there.
    ///
    /// # Errors
    /// Its bytes are not there any more, or something is not loaded yet.
    pub(super) fn keep(&self, txn: &mut Txn<'_>, agent: &AgentId) -> Step<()> {
        let Some(plugin) = get(txn, &self.digest)?.filter(|plugin| plugin.upload == self.upload && plugin.state != State::Leaving) else {
            return Err(overtaken(&self.digest).into());
        };
        let mut plugin = StoredPlugin::clone(&plugin);
        plugin.state = State::Whole;
        plugin.agents.insert(agent.clone());
        txn.put(StoredPlugin::id_of(&self.digest), Arc::new(plugin))
    }
}

fn overtaken(digest: &Digest) -> ManagerError {
    ManagerError::Busy {
        message: format!("what is left of an earlier push of {digest} is being removed; push again"),
        retry_after: Duration::from_secs(1),
    }
}

/// Writes a component's bytes into the store, unless they are there.
///
/// # Errors
/// The store does not answer, the file cannot be read, or an earlier push of the same bytes is being removed.
pub(super) async fn store(inner: &Inner, digest: Digest, size_bytes: u64, file: PathBuf) -> Result<Stored, ManagerError> {
    let upload = inner.entropy.hex_name();
    let begin = {
        let upload = upload.clone();
        move |txn: &mut Txn<'_>| begin(txn, digest, size_bytes, &upload)
    };
    let mut begun = inner.committer.commit(vec![StoredPlugin::id_of(&digest)], Vec::new(), begin.clone()).await?;
    if begun.state == State::Leaving {
        sweep(inner, digest).await?;
        begun = inner.committer.commit(vec![StoredPlugin::id_of(&digest)], Vec::new(), begin).await?;
    }
    match begun.state {
        State::Whole => {}
        State::Leaving => return Err(overtaken(&digest)),
        State::Coming => {
            for number in 0..begun.parts() {
                let file = file.clone();
                let text = inner.blocking(move || Ok(read_part(&file, number))).await?;
                let text = text
                    .map_err(|error| ManagerError::Host(format!("an uploaded component cannot be read again: {error}; push it again")))?;
                let (upload, part) = (begun.upload.clone(), Arc::new(Part(text)));
                let write = move |txn: &mut Txn<'_>| write_part(txn, &digest, number, &upload, &part);
                inner.committer.commit(vec![StoredPlugin::id_of(&digest), part_id(&digest, number)], Vec::new(), write).await?;
            }
        }
    }
    Ok(Stored { digest, upload: begun.upload })
}

/// Opens a place for the bytes, or joins who is bringing them; one that is whole is used as it is.
fn begin(txn: &mut Txn<'_>, digest: Digest, size_bytes: u64, upload: &str) -> Step<StoredPlugin> {
    let mut plugin = match get(txn, &digest)? {
        Some(found) => StoredPlugin::clone(&found),
        None => {
            let (agents, upload) = (BTreeSet::new(), upload.to_owned());
            StoredPlugin { digest, size_bytes, state: State::Coming, agents, upload, at: txn.now() }
        }
    };
    // Written in any case where nobody keeps it, so that its time begins anew.
    if plugin.state != State::Leaving && plugin.agents.is_empty() {
        plugin.at = txn.now();
        txn.put(StoredPlugin::id_of(&digest), Arc::new(plugin.clone()))?;
    }
    Ok(plugin)
}

fn write_part(txn: &mut Txn<'_>, digest: &Digest, number: u32, upload: &str, part: &Arc<Part>) -> Step<()> {
    let plugin = get(txn, digest)?.filter(|plugin| plugin.upload == upload && plugin.state != State::Leaving);
    if plugin.is_none() {
        return Err(overtaken(digest).into());
    }
    let id = part_id(digest, number);
    if txn.get::<Part, ManagerError>(&id)?.is_none_or(|there| there != *part) {
        txn.put(id, Arc::clone(part))?;
    }
    Ok(())
}

fn read_part(file: &Path, number: u32) -> std::io::Result<String> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(u64::from(number) * PART_BYTES))?;
    let mut bytes = Vec::with_capacity(usize::try_from(PART_BYTES).unwrap_or(0));
    file.take(PART_BYTES).read_to_end(&mut bytes)?;
    Ok(STANDARD.encode(bytes))
}

/// Brings a component from the store into a file of a private folder, unless the file is there; answers with its path.
///
/// # Errors
/// The store does not answer, has not all of it or something else, or the file cannot be written.
pub(super) async fn fetch(inner: &Inner, digest: Digest, folder: &Path) -> Result<PathBuf, ManagerError> {
    let path = folder.join(format!("{digest}.wasm"));
    let there = path.clone();
    let is_there = inner.blocking(move || Ok(File::open(there).and_then(Digest::of_reader).is_ok_and(|(of, _)| of == digest))).await?;
    if is_there {
        return Ok(path);
    }
    let id = StoredPlugin::id_of(&digest);
    let plugin: StoredPlugin = match inner.store.get(&[id]).await?.pop().flatten() {
        Some(record) => record.decode()?,
        None => return Err(ManagerError::Host(format!("the store has no plugin {digest}: push it again"))),
    };
    let temporary = Arc::new(Temporary(folder.join(format!("fetch-{}", inner.entropy.hex_name()))));
    for number in 0..plugin.parts() {
        let record = inner.store.get(&[part_id(&digest, number)]).await?.pop().flatten();
        let Some(record) = record else {
            return Err(ManagerError::Host(format!("the store lacks part {number} of plugin {digest}: push it again")));
        };
        let (part, temporary): (Part, _) = (record.decode()?, Arc::clone(&temporary));
        inner.blocking(move || Ok(append(&temporary.0, &part))).await?.map_err(|error| unwritable(&digest, &error))?;
    }
    let (from, to) = (Arc::clone(&temporary), path.clone());
    let named = inner.blocking(move || Ok(name_if_right(&from.0, &to, digest))).await?;
    named.map_err(|error| unwritable(&digest, &error))?;
    Ok(path)
}

/// A file that goes when it was not renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn append(path: &Path, part: &Part) -> std::io::Result<()> {
    let bytes = STANDARD.decode(&part.0).map_err(std::io::Error::other)?;
    let mut file = File::options().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(&bytes)
}

fn name_if_right(from: &Path, to: &Path, digest: Digest) -> std::io::Result<()> {
    let (found, _) = Digest::of_reader(File::open(from)?)?;
    if found != digest {
        return Err(std::io::Error::other(format!("what the store has under that name has the digest {found}")));
    }
    std::fs::rename(from, to)
}

fn unwritable(digest: &Digest, error: &std::io::Error) -> ManagerError {
    ManagerError::Host(format!("plugin {digest} cannot be brought here from the store: {error}; push it again, or make room"))
}

/// Removes the files of a private folder whose digests are not wanted.
pub(super) fn remove_unwanted(folder: &Path, is_wanted: impl Fn(&Digest) -> bool) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| name.strip_suffix(".wasm")).and_then(|stem| Digest::parse(stem).ok());
        if digest.is_some_and(|digest| !is_wanted(&digest))
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::debug!(%error, path = %entry.path().display(), "the file of a pushed component could not be removed");
        }
    }
}

/// Removes the bytes of plugins that nobody has kept for a while; answers whether some are left for another turn.
pub(super) async fn sweep_unused(inner: &Inner) -> Result<bool, ManagerError> {
    let for_at_least = inner.settings().bounds.retention.plugins;
    let due = inner.store.due(DueKind::Aged { kind: Kind::Plugin, for_at_least }, PLUGINS).await?;
    for record in &due.records {
        if let Ok(digest) = Digest::parse(&record.id.key) {
            sweep(inner, digest).await?;
        }
    }
    Ok(due.records.len() >= PLUGINS)
}

/// Removes the bytes of a plugin that nobody keeps, then its record.
async fn sweep(inner: &Inner, digest: Digest) -> Result<(), ManagerError> {
    let leave = move |txn: &mut Txn<'_>| -> Step<Option<StoredPlugin>> {
        let Some(plugin) = get(txn, &digest)?.filter(|plugin| plugin.agents.is_empty()) else { return Ok(None) };
        let leaving = StoredPlugin { state: State::Leaving, ..StoredPlugin::clone(&plugin) };
        if plugin.state != State::Leaving {
            txn.put(StoredPlugin::id_of(&digest), Arc::new(leaving.clone()))?;
        }
        Ok(Some(leaving))
    };
    let id = StoredPlugin::id_of(&digest);
    let Some(leaving) = inner.committer.commit(vec![id.clone()], Vec::new(), leave).await? else { return Ok(()) };
    let parts = leaving.parts();
    let mut from = 0;
    while from < parts {
        let to = from.saturating_add(PARTS).min(parts);
        let ids = (from..to).map(|number| part_id(&digest, number)).collect();
        if !delete(inner, &leaving, ids).await? {
            return Ok(());
        }
        from = to;
    }
    if delete(inner, &leaving, vec![id]).await? {
        tracing::info!(%digest, "the bytes of a plugin that no agent keeps were removed from the store");
    }
    Ok(())
}

/// Deletes records of a plugin that leaves; answers whether it still did.
async fn delete(inner: &Inner, leaving: &StoredPlugin, ids: Vec<RecordId>) -> Result<bool, ManagerError> {
    let (gone, leaving) = (ids.clone(), leaving.clone());
    let delete = move |txn: &mut Txn<'_>| -> Step<bool> {
        // Another daemon may have been faster, and the same bytes may come anew.
        if get(txn, &leaving.digest)?.is_none_or(|plugin| plugin.upload != leaving.upload || plugin.state != State::Leaving) {
            return Ok(false);
        }
        txn.need(&gone)?;
        gone.iter().for_each(|id| txn.delete(id.clone()));
        Ok(true)
    };
    Ok(inner.committer.commit(ids, Vec::new(), delete).await?)
}
