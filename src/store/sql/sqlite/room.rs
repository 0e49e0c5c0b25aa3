//! Room on the store's disk: some is set aside for the log, and with little left nothing new is begun.
//!
//! Invariant: renewals and outcomes of what runs find room in the log when others have taken the last block of the disk, for the log's
//! own blocks cannot be taken. On a small disk both shares are smaller, so that a store fits there at all.
//!
//! How it fails: where the system can set nothing aside, or counts no free blocks, the store works without, and meets a full disk when
//! it is full.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};
use rustix::io::Errno;

use super::super::super::StoreError;

/// What is set aside for the log.
const LOG_BYTES: u64 = 48 * 1024 * 1024;
/// How long the log may grow before it is moved into the database, on a disk that has room.
const MOST_LOG_PAGES: u64 = 4000;
/// The size of a page of our files.
const PAGE_BYTES: u64 = 8192;
/// With less room than this nothing new is begun.
const LEAST_BYTES: u64 = 16 * 1024 * 1024;
/// The most of a disk that each of them may be, as a divisor.
const SHARE: u64 = 8;

/// Room that takes none of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spare {
    /// What deleted records have left in the database.
    pub bytes: u64,
    /// Whether the log is in the database and begins anew.
    pub is_log_free: bool,
}

/// The disk that a store's file is on.
pub struct Room {
    file: PathBuf,
    log: PathBuf,
    /// Whether the disk was found full and not yet found to have room.
    is_full: bool,
}

impl Room {
    /// The disk of this file.
    pub fn of(file: &Path) -> Room {
        let mut log = OsString::from(file);
        log.push("-wal");
        Room { file: file.to_owned(), log: log.into(), is_full: false }
    }

    /// Notes that a write found no room.
    pub fn was_full(&mut self) {
        self.is_full = true;
    }

    /// How long the log may grow, in pages, before it is moved into the database, so that a third of its share is a reserve.
    pub fn log_pages(&self) -> u64 {
        let share = statvfs(&self.file).map_or(LOG_BYTES, |disk| share(&disk, LOG_BYTES));
        (share / 3 * 2 / PAGE_BYTES).min(MOST_LOG_PAGES)
    }

    /// Whether something new may be begun. `spare` is the room within the file.
    ///
    /// # Errors
    /// [`StoreError::Full`], and how much is left.
    pub fn check(&mut self, spare: Spare) -> Result<(), StoreError> {
        let room = self.look(spare);
        self.is_full = room.is_err();
        room
    }

    fn look(&self, spare: Spare) -> Result<(), StoreError> {
        // A disk that does not tell is found full when it is.
        let Ok(disk) = statvfs(&self.file) else { return Ok(()) };
        let (left, least) = (bytes(&disk, disk.f_bavail).saturating_add(spare.bytes), share(&disk, LEAST_BYTES));
        if disk.f_blocks > 0 && left < least {
            let kib = |bytes: u64| bytes / 1024;
            return Err(StoreError::Full(format!("it has {} KiB left, and below {} KiB nothing new is begun", kib(left), kib(least))));
        }
        // Free blocks say nothing of a quota.
        if self.is_full && !spare.is_log_free { self.set_aside() } else { Ok(()) }
    }

    /// Sets room aside for the log, behind its end: what it holds is not touched, and it is no longer than before.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn set_aside(&self) -> Result<(), StoreError> {
        let (Ok(disk), Ok(log)) = (statvfs(&self.file), OpenOptions::new().write(true).open(&self.log)) else { return Ok(()) };
        let (has, blocks) = log.metadata().map_or((0, 0), |metadata| (metadata.len(), metadata.blocks()));
        let wanted = share(&disk, LOG_BYTES).max(has + share(&disk, LEAST_BYTES));
        // An attempt that fails half way would take what the database needs.
        if wanted.saturating_sub(blocks * 512) > bytes(&disk, disk.f_bavail) {
            return Err(StoreError::Full("its log has no room to grow".to_owned()));
        }
        match fallocate(&log, FallocateFlags::KEEP_SIZE, 0, wanted) {
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => Err(StoreError::Full(format!("its log has no room to grow ({errno})"))),
            Err(errno) => {
                tracing::debug!(%errno, "no room can be set aside for the store's log");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

fn bytes(disk: &StatVfs, blocks: u64) -> u64 {
    blocks.saturating_mul(disk.f_frsize)
}

fn share(disk: &StatVfs, most: u64) -> u64 {
    match bytes(disk, disk.f_blocks) / SHARE {
        0 => most,
        share => most.min(share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_set_aside_without_a_longer_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let room = Room::of(&path);
        room.set_aside().unwrap();
        assert!(!directory.path().join("store.db-wal").exists(), "where there is no log none is made");
        std::fs::write(directory.path().join("store.db-wal"), b"log").unwrap();
        std::fs::write(&path, b"").unwrap();
        room.set_aside().unwrap();
        let log = directory.path().join("store.db-wal").metadata().unwrap();
        let disk = statvfs(&path).unwrap();
        assert_eq!(log.len(), 3);
        assert!(log.blocks() * 512 >= share(&disk, LOG_BYTES), "{} blocks", log.blocks());
    }

    #[test]
    fn a_share_of_a_small_disk_is_small() {
        let mut disk = statvfs("/").unwrap();
        (disk.f_frsize, disk.f_blocks) = (4096, 256);
        assert_eq!(share(&disk, LOG_BYTES), 128 * 1024);
        disk.f_blocks = 1 << 30;
        assert_eq!(share(&disk, LOG_BYTES), LOG_BYTES);
        disk.f_blocks = 0;
        assert_eq!(share(&disk, LOG_BYTES), LOG_BYTES, "a disk that does not tell its size is taken for a large one");
    }
}
