//! Whole files that the host puts into a workspace: `run.json`, `events.jsonl`, and the answer as `output.md`.
//!
//! Invariant: under its name there is the whole old file or the whole new one, and no write goes through anything that a guest put
//! there. Nothing is synced: what a power loss takes is rebuilt from the store.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, linkat, renameat, renameat_with, statat, unlinkat};
use rustix::io::{Errno, write};

use super::beneath;

/// How many directories a guest may have put in the way of one mirror.
const ASIDE: u32 = 100;

/// Gives names that no guest can foresee and no other daemon gives.
pub(super) struct TempNames {
    daemon: u64,
    next: AtomicU64,
}

impl TempNames {
    pub(super) fn new(daemon: u64) -> Self {
        TempNames { daemon, next: AtomicU64::new(0) }
    }

    fn next(&self, name: &str) -> String {
        format!(".{name}.{:016x}-{}", self.daemon, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Puts a file in the place of whatever has the name. A directory that a guest made there is set aside, not lost.
pub(super) fn replace(dir: impl AsFd, names: &TempNames, name: &str, content: &[u8]) -> Result<(), Errno> {
    let temp = names.next(name);
    write_new(&dir, &temp, content)?;
    let renamed = match renameat(&dir, &temp, &dir, name) {
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            set_directory_aside(&dir, name).and_then(|()| renameat(&dir, &temp, &dir, name))
        }
        other => other,
    };
    if renamed.is_err() {
        // The error that counts is the first one.
        let _ = unlinkat(&dir, &temp, AtFlags::empty());
    }
    renamed
}

/// Writes a file unless something has the name, be it a link or a directory; says whether it did.
pub(super) fn write_if_absent(dir: impl AsFd, names: &TempNames, name: &str, content: &[u8]) -> Result<bool, Errno> {
    match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Ok(_) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let temp = names.next(name);
    write_new(&dir, &temp, content)?;
    let placed = match renameat_with(&dir, &temp, &dir, name, RenameFlags::NOREPLACE) {
        // Some network file systems cannot rename without replacing; a second name refuses just the same.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            linkat(&dir, &temp, &dir, name, AtFlags::empty()).and_then(|()| unlinkat(&dir, &temp, AtFlags::empty()))
        }
        other => other,
    };
    match placed {
        Ok(()) => return Ok(true),
        Err(_) => unlinkat(&dir, &temp, AtFlags::empty()).or_else(|errno| if errno == Errno::NOENT { Ok(()) } else { Err(errno) })?,
    }
    if placed == Err(Errno::EXIST) { Ok(false) } else { placed.map(|()| true) }
}

fn write_new(dir: impl AsFd, name: &str, content: &[u8]) -> Result<(), Errno> {
    let file = beneath::open(&dir, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o666))?;
    let written = write_all(&file, content);
    drop(file);
    if written.is_err() {
        // The error that counts is the first one.
        let _ = unlinkat(dir, name, AtFlags::empty());
    }
    written
}

/// Writes all of it.
pub(super) fn write_all(file: &OwnedFd, mut content: &[u8]) -> Result<(), Errno> {
    while !content.is_empty() {
        match write(file, content) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => content = content.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Moves a directory from a mirror's name to `NAME.guest-N`.
fn set_directory_aside(dir: impl AsFd, name: &str) -> Result<(), Errno> {
    for number in 1..=ASIDE {
        match renameat(&dir, name, &dir, format!("{name}.guest-{number}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            other => return other,
        }
    }
    Err(Errno::EXIST)
}
