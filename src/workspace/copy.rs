//! Copies a whole workspace, so that two attempts can each have their own.
//!
//! Invariant: the copy shares nothing with what it was made of: no file, no hard link. Links are copied as links and never followed,
//! holes stay holes, files with several names stay one file, modes and times are kept. What is neither a file, a directory nor a
//! symbolic link, which no guest can make, is left out. It takes no more of the disk than it was allowed to.
//!
//! How it fails: what was made by then is left to be removed; it is never under the workspace's own name.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, chmodat, copy_file_range, fchmod, fstat, ftruncate, futimens,
    linkat, mkdirat, readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::path::Arg;

use super::error::{WorkspaceError, shown};
use super::usage::DiskUsage;
use super::{EVENTS_JSONL, OUTPUT_MD, RUN_JSON, beneath, walk};

/// How much is copied before it is asked again whether to go on.
const PIECE: usize = 8 * 1024 * 1024;
/// How much is copied at once where the kernel cannot do it by itself.
const BUFFER: usize = 128 * 1024;

/// Why there is no copy.
#[derive(Debug)]
pub(super) enum Fault {
    /// The operating system refused.
    Os(Errno),
    /// There is more to copy than may be.
    TooLarge,
    /// It was asked to stop.
    Stopped,
}

impl Fault {
    /// The fault in words: what was tried, with which workspace, and how much might be copied.
    pub(super) fn of(self, what: &'static str, path: &str, most: DiskUsage) -> WorkspaceError {
        match self {
            Fault::Os(errno) => WorkspaceError::making(what, path)(errno),
            Fault::TooLarge => WorkspaceError::TooLarge { path: shown(path), bytes: most.bytes, files: most.entries },
            Fault::Stopped => WorkspaceError::Stopped { path: shown(path) },
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Fault::Os(errno)
    }
}

/// Where a copy goes and how far it may.
pub(super) struct Terms<'a> {
    /// An empty directory on the same file system, for the further names of files that have several.
    pub(super) links: &'a OwnedFd,
    /// The most that is copied. What has the name of a mirror is not counted: the host may have put it there.
    pub(super) most: DiskUsage,
    /// Whether to go on.
    pub(super) may_go_on: &'a dyn Fn() -> bool,
}

/// Copies all that is below `from` into the empty directory `to`; answers what the copy holds as disk quotas count it.
pub(super) fn copy(from: OwnedFd, to: OwnedFd, terms: Terms<'_>) -> Result<DiskUsage, Fault> {
    let mut copier = Copier { terms, copied: DiskUsage::default(), free: DiskUsage::default(), linked: HashMap::new() };
    walk::walk(from, Beside { dir: to, is_top: true }, &mut copier)?;
    Ok(copier.copied)
}

struct Copier<'a> {
    terms: Terms<'a>,
    copied: DiskUsage,
    /// What of it does not count.
    free: DiskUsage,
    /// The names in `links` of files with several names, by device and inode.
    linked: HashMap<(u64, u64), String>,
}

/// The directory of the copy that stands for one of the original.
struct Beside {
    dir: OwnedFd,
    is_top: bool,
}

impl Copier<'_> {
    /// Takes one more name of so many bytes into account, before it is made.
    fn charge(&mut self, bytes: u64, is_free: bool) -> Result<(), Fault> {
        for of in [Some(&mut self.copied), is_free.then_some(&mut self.free)].into_iter().flatten() {
            of.bytes = of.bytes.saturating_add(bytes);
            of.entries = of.entries.saturating_add(1);
        }
        let counts = |of: fn(DiskUsage) -> u64| of(self.copied) - of(self.free) <= of(self.terms.most);
        if !(counts(|usage| usage.bytes) && counts(|usage| usage.entries)) {
            return Err(Fault::TooLarge);
        }
        self.go_on()
    }

    fn go_on(&self) -> Result<(), Fault> {
        if (self.terms.may_go_on)() { Ok(()) } else { Err(Fault::Stopped) }
    }

    fn file(&mut self, source: &OwnedFd, to: &Beside, name: &CStr) -> Result<(), Fault> {
        let stat = fstat(source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(linked) = self.linked.get(&inode) {
            linkat(self.terms.links, linked, &to.dir, name, AtFlags::empty())?;
            return self.charge(0, false);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.charge(size, to.is_top && [RUN_JSON, EVENTS_JSONL, OUTPUT_MD].iter().any(|mirror| mirror.as_bytes() == name.to_bytes()))?;
        let target = beneath::open(&to.dir, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)?;
        self.data(source, &target, size)?;
        fchmod(&target, mode_of(&stat))?;
        futimens(&target, &times_of(&stat))?;
        if stat.st_nlink > 1 {
            let linked = self.linked.len().to_string();
            linkat(&to.dir, name, self.terms.links, &linked, AtFlags::empty())?;
            self.linked.insert(inode, linked);
        }
        Ok(())
    }

    /// Copies the first `size` bytes but for the holes among them.
    fn data(&self, source: &OwnedFd, target: &OwnedFd, size: u64) -> Result<(), Fault> {
        let mut at = 0;
        while at < size {
            let begin = match seek(source, SeekFrom::Data(at)) {
                Ok(begin) => begin,
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                // The file system does not tell of holes.
                Err(Errno::INVAL) => at,
                Err(errno) => return Err(errno.into()),
            };
            let end = match seek(source, SeekFrom::Hole(begin)) {
                Ok(end) => end.min(size),
                Err(Errno::NXIO | Errno::INVAL) => size,
                Err(errno) => return Err(errno.into()),
            };
            self.bytes(source, target, begin, end)?;
            at = end;
        }
        Ok(ftruncate(target, size)?)
    }

    fn bytes(&self, source: &OwnedFd, target: &OwnedFd, begin: u64, end: u64) -> Result<(), Fault> {
        let (mut from, mut to) = (begin, begin);
        while from < end {
            self.go_on()?;
            let piece = usize::try_from(end - from).unwrap_or(PIECE).min(PIECE);
            match copy_file_range(source, Some(&mut from), target, Some(&mut to), piece) {
                // It became shorter meanwhile.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM) => {
                    return self.bytes_by_hand(source, target, from, end);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn bytes_by_hand(&self, source: &OwnedFd, target: &OwnedFd, begin: u64, end: u64) -> Result<(), Fault> {
        let mut buffer = vec![0; BUFFER];
        let mut at = begin;
        while at < end {
            self.go_on()?;
            let wanted = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let read = match pread(source, buffer.get_mut(..wanted).unwrap_or_default(), at) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut left = buffer.get(..read).unwrap_or_default();
            while !left.is_empty() {
                match pwrite(target, left, at) {
                    Ok(0) => return Err(Errno::IO.into()),
                    Ok(written) => {
                        left = left.get(written..).unwrap_or_default();
                        at += written as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }
}

impl walk::Visitor for Copier<'_> {
    type Beside = Beside;
    type Error = Fault;

    fn beside(&mut self, parent: &Beside, name: &CStr) -> Result<Beside, Fault> {
        match mkdirat(&parent.dir, name, Mode::RWXU) {
            Ok(()) => self.charge(0, false)?,
            // It is found again.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Beside { dir: beneath::base(&parent.dir, name)?, is_top: false })
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, beside: &Beside, name: &CStr) -> Result<(), Fault> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(errno) if beneath::is_gone(errno) => return Ok(()),
            other => other?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => match beneath::seen(dir, name)? {
                Some(source) => self.file(&source, beside, name),
                None => Ok(()),
            },
            FileType::Symlink => {
                let target = match readlinkat(dir, name, Vec::new()) {
                    Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                    other => other?,
                };
                self.charge(target.to_bytes().len() as u64, false)?;
                Ok(symlinkat(target, &beside.dir, name)?)
            }
            _ => Ok(()),
        }
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, beside: &Beside, name: &CStr) -> Result<(), Fault> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(errno) if beneath::is_gone(errno) => return Ok(()),
            other => other?,
        };
        keep(&beside.dir, name, &stat)
    }
}

/// Gives a directory of the copy the mode and the times of the one that it stands for.
pub(super) fn keep(dir: impl AsFd, name: impl Arg + Copy, stat: &Stat) -> Result<(), Fault> {
    chmodat(&dir, name, mode_of(stat), AtFlags::empty())?;
    Ok(utimensat(&dir, name, &times_of(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn mode_of(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o777)
}

fn times_of(stat: &Stat) -> Timestamps {
    let at = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps { last_access: at(stat.st_atime, stat.st_atime_nsec), last_modification: at(stat.st_mtime, stat.st_mtime_nsec) }
}
