//! What a machine remembers of a directory whose workspace is also in a bucket: whether it is as an attempt left it.
//!
//! Beside the workspace `run_X` lies the file `run_X@bucket`. Invariant: while an attempt may be at work in the directory, and after a
//! crash in it, the mark does not say that it is whole; a mark of before the machine's last start says nothing, for nothing was synced.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, unlinkat};
use rustix::io::{Errno, read};
use serde::{Deserialize, Serialize};

use super::{beneath, mirrors, walk};
use crate::domain::id::RunId;

/// What the mark's file adds to the workspace's name. No workspace can have such a name.
const SUFFIX: &str = "@bucket";

/// How deep workspaces are looked for.
const DEEPEST: usize = 32;

/// The largest file that is read as a mark, in bytes.
const LARGEST: usize = 4096;

/// A mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The daemon that has, or had, an attempt there.
    daemon: String,
    /// The machine's start since which it holds.
    boot: String,
    /// The attempt's fence.
    fence: u64,
    /// Whether the attempt has ended, and the directory is as it left it.
    is_whole: bool,
    /// The hash of the manifest that says what is in it, if it was uploaded.
    manifest: Option<String>,
}

impl Mark {
    /// The directory in which an attempt of this daemon is at work.
    pub fn open(daemon: &str, fence: u64) -> Mark {
        // Where the kernel does not tell it, no mark is ever trusted.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        Mark { daemon: daemon.to_owned(), boot, fence, is_whole: false, manifest: None }
    }

    /// The directory that an attempt of this daemon has left, which was uploaded as that manifest, or was not.
    pub fn left(daemon: &str, fence: u64, manifest: Option<String>) -> Mark {
        Mark { is_whole: true, manifest, ..Mark::open(daemon, fence) }
    }

    /// Whether this daemon left the directory, since this machine started, as that manifest says.
    pub fn is_of_manifest(&self, daemon: &str, manifest: &str) -> bool {
        self.is_trusted(daemon) && self.manifest.as_deref() == Some(manifest)
    }

    /// Whether this daemon's attempt under that fence left the directory, since this machine started.
    pub fn is_of_fence(&self, daemon: &str, fence: u64) -> bool {
        self.is_trusted(daemon) && self.fence == fence
    }

    /// Whether an attempt has left its files there and nowhere else.
    pub fn is_only_here(&self) -> bool {
        self.is_whole && self.manifest.is_none()
    }

    fn is_trusted(&self, daemon: &str) -> bool {
        self.is_whole && self.daemon == daemon && !self.boot.is_empty() && self.boot == Mark::open(daemon, 0).boot
    }
}

/// The name of a workspace's mark.
fn name_of(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

/// Writes a mark whole.
pub(super) fn write(parent: &OwnedFd, names: &mirrors::TempNames, name: &str, mark: &Mark) -> Result<(), Errno> {
    let text = serde_json::to_vec(mark).map_err(|_| Errno::INVAL)?;
    mirrors::replace(parent, names, &name_of(name), &text)
}

/// Reads a mark; none where there is none that can be read.
pub(super) fn find(parent: &OwnedFd, name: &str) -> Result<Option<Mark>, Errno> {
    let file = match beneath::open(parent, name_of(name), OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => file,
        Err(errno) if beneath::is_gone(errno) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut text = vec![0; LARGEST];
    let length = read(&file, &mut text)?;
    Ok(serde_json::from_slice(text.get(..length).unwrap_or_default()).ok())
}

/// Every workspace below `root` that this daemon marked, by its path.
pub(super) fn all(root: &OwnedFd, daemon: &str) -> Result<Vec<(String, Mark)>, Errno> {
    let (mut found, mut folders) = (Vec::new(), vec![(String::new(), 1)]);
    while let Some((path, depth)) = folders.pop() {
        let dir = match beneath::directory(root, if path.is_empty() { "." } else { path.as_str() }) {
            Err(errno) if beneath::is_gone(errno) => continue,
            other => other?,
        };
        let (mut names, mut marked) = (Vec::new(), HashSet::new());
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            match name.strip_suffix(SUFFIX) {
                Some(of) => drop(marked.insert(of.to_owned())),
                None if name.starts_with('.') || name.contains('@') || RunId::is_made(name) => {}
                None if matches!(walk::kind_of(dir.as_fd(), entry.file_name(), entry.file_type()), Ok(FileType::Directory)) => {
                    names.push(name.to_owned());
                }
                None => {}
            }
        }
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        // What is in a workspace is its guest's.
        folders.extend(names.iter().filter(|name| depth < DEEPEST && !marked.contains(*name)).map(|name| (below(name), depth + 1)));
        for name in marked {
            found.extend(find(&dir, &name)?.filter(|mark| mark.daemon == daemon).map(|mark| (below(&name), mark)));
        }
    }
    Ok(found)
}

/// Removes a mark.
pub(super) fn remove(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    match unlinkat(parent, name_of(name), AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}
