//! A component on its way from a caller: written to a private file as it comes, hashed on the way.
//!
//! Invariant: what was not taken goes with the [`Upload`], however that ends; a start removes what a killed daemon left.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ManagerError;
use crate::domain::id::AgentId;
use crate::plugins::Digest;

/// What the folders of uploads begin with.
const UPLOAD: &str = "upload-";

/// A component that comes in.
pub struct Upload {
    folder: Folder,
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
    most: u64,
    /// As many as there are come in at once.
    _turn: OwnedSemaphorePermit,
}

/// A component that is here whole.
pub(super) struct Whole {
    /// Where it lies until this is dropped.
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    _folder: Folder,
    _turn: OwnedSemaphorePermit,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the file of an upload could not be removed; the next start removes it");
        }
    }
}

fn unwritable(error: &std::io::Error) -> ManagerError {
    ManagerError::Host(format!("the component cannot be written to the daemon's data folder: {error}; make room and push it again"))
}

impl Upload {
    /// Opens a file for the plugin of an agent, below the folder of pushed plugins.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) async fn open(
        pushed: &Path,
        name: &str,
        agent: &AgentId,
        most: u64,
        turn: OwnedSemaphorePermit,
    ) -> Result<Upload, ManagerError> {
        let folder = pushed.join(format!("{UPLOAD}{name}"));
        tokio::fs::create_dir(&folder).await.map_err(|error| unwritable(&error))?;
        let folder = Folder(folder);
        // The name is what a refusal calls it.
        let path = folder.0.join(format!("{agent}.wasm"));
        let file = File::create(&path).await.map_err(|error| unwritable(&error))?;
        Ok(Upload { folder, path, file, hash: Sha256::new(), bytes: 0, most, _turn: turn })
    }

    /// The most bytes that it takes.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Takes more of it. Answers whether it is still within its size.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<bool, ManagerError> {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.bytes > self.most {
            return Ok(false);
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(|error| unwritable(&error))?;
        Ok(true)
    }

    /// It is here.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) async fn finish(mut self) -> Result<Whole, ManagerError> {
        self.file.flush().await.map_err(|error| unwritable(&error))?;
        let digest = Digest::of_hash(self.hash);
        Ok(Whole { path: self.path, digest, bytes: self.bytes, _folder: self.folder, _turn: self._turn })
    }
}

/// Makes the private folder of pushed plugins, and removes what uploads and fetches of an earlier daemon left in it.
///
/// # Errors
/// It cannot be made or read.
pub(super) fn make_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    rustix::fs::chmod(folder, Mode::RWXU)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let removed = match name.to_string_lossy() {
            name if name.starts_with(UPLOAD) => std::fs::remove_dir_all(entry.path()),
            name if name.starts_with("fetch-") => std::fs::remove_file(entry.path()),
            _ => Ok(()),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %entry.path().display(), "what an upload left could not be removed");
        }
    }
    Ok(())
}
