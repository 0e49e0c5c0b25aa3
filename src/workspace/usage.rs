//! What a workspace takes of the disk, as quotas count it.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::{beneath, walk};

/// What is in a workspace, mirrors included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// The lengths of all regular files in bytes. Holes count as if they were written; a file with several names counts once.
    pub bytes: u64,
    /// All names below the workspace: files, directories and everything else.
    pub entries: u64,
}

/// Counts what is below `top`.
pub(super) fn count(top: OwnedFd) -> Result<DiskUsage, Errno> {
    let mut counter = Counter::default();
    walk::walk(top, (), &mut counter)?;
    Ok(counter.usage)
}

#[derive(Default)]
struct Counter {
    usage: DiskUsage,
    /// The files with several names that were counted, by device and inode.
    counted: HashSet<(u64, u64)>,
}

impl walk::Visitor for Counter {
    type Beside = ();
    type Error = Errno;

    fn beside(&mut self, (): &(), _: &CStr) -> Result<(), Errno> {
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, (): &(), name: &CStr) -> Result<(), Errno> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) if beneath::is_gone(errno) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        self.usage.entries += 1;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && (stat.st_nlink < 2 || self.counted.insert((stat.st_dev, stat.st_ino))) {
            self.usage.bytes = self.usage.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
        Ok(())
    }

    fn folder(&mut self, _: BorrowedFd<'_>, (): &(), _: &CStr) -> Result<(), Errno> {
        self.usage.entries += 1;
        Ok(())
    }
}
