//! Reads a whole workspace to say what it holds, and opens what is in it however deep.
//!
//! Invariant: no link is followed; a file is opened by the names that led to it.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use blake3::Hash;
use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, readlinkat, statat};
use rustix::io::{Errno, pread};

use super::manifest::{Entry, PIECE_BYTES, Piece, What};
use crate::workspace::copy::Fault;
use crate::workspace::{beneath, walk};

/// How many bytes of names are resolved at once; the kernel takes 4096.
const NAMES_AT_ONCE: usize = 3000;

/// Opens a directory by the names that lead to it.
pub(super) fn directory(top: &OwnedFd, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
    let mut at = beneath::base(top, c".")?;
    let mut names = Vec::new();
    for part in parts {
        if names.len() + part.len() >= NAMES_AT_ONCE {
            at = beneath::base(&at, names.as_slice())?;
            names.clear();
        }
        if !names.is_empty() {
            names.push(b'/');
        }
        names.extend_from_slice(part);
    }
    if names.is_empty() { Ok(at) } else { beneath::base(&at, names.as_slice()) }
}

/// Opens what the names lead to.
pub(super) fn open(top: &OwnedFd, parts: &[&[u8]], flags: OFlags) -> Result<OwnedFd, Errno> {
    let (name, folders) = parts.split_last().ok_or(Errno::NOENT)?;
    beneath::open(directory(top, folders)?, *name, flags, Mode::empty())
}

/// Reads the part of a file that is its piece of that number, or what there is of it.
pub(super) fn piece_of(file: impl AsFd, number: u64, size: u64) -> Result<Bytes, Errno> {
    let start = number * PIECE_BYTES;
    let mut piece = vec![0; usize::try_from(size.saturating_sub(start).min(PIECE_BYTES)).unwrap_or(0)];
    let mut filled = 0;
    while let Some(room) = piece.get_mut(filled..).filter(|room| !room.is_empty()) {
        match pread(&file, room, start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    piece.truncate(filled);
    Ok(Bytes::from(piece))
}

/// What was found, and what of it is not in the bucket yet.
pub(super) struct Scan {
    pub(super) entries: Vec<Entry>,
    /// The pieces that no earlier manifest has: of which entry, and which of its pieces.
    pub(super) wanted: Vec<(u32, u64, Hash)>,
}

/// Reads all that is below `top`. `known` are the pieces that are in the bucket; what is not among them gets this fence.
pub(super) fn scan(top: OwnedFd, fence: u64, known: HashMap<Hash, Piece>, may_go_on: &dyn Fn() -> bool) -> Result<Scan, Fault> {
    let found = Scan { entries: Vec::new(), wanted: Vec::new() };
    let mut scanner = Scanner { fence, known, may_go_on, found, folders: HashMap::new(), linked: HashMap::new() };
    walk::walk(top, 0, &mut scanner)?;
    Ok(scanner.found)
}

struct Scanner<'a> {
    fence: u64,
    known: HashMap<Hash, Piece>,
    may_go_on: &'a dyn Fn() -> bool,
    found: Scan,
    /// The numbers of directories, by what they are in and their names.
    folders: HashMap<(u32, Vec<u8>), u32>,
    /// The numbers of files with several names, by device and inode.
    linked: HashMap<(u64, u64), u32>,
}

impl Scanner<'_> {
    fn go_on(&self) -> Result<(), Fault> {
        if (self.may_go_on)() { Ok(()) } else { Err(Fault::Stopped) }
    }

    fn add(&mut self, entry: Entry) -> Result<u32, Fault> {
        self.found.entries.push(entry);
        u32::try_from(self.found.entries.len()).map_err(|_| Fault::TooLarge)
    }

    fn file(&mut self, file: &OwnedFd, parent: u32, name: &CStr) -> Result<(), Fault> {
        let stat = fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        if let Some(&as_entry) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
            return self.add(Entry::new(parent, name.to_bytes(), &stat, What::Same { as_entry })).map(drop);
        }
        let number = u32::try_from(self.found.entries.len() + 1).map_err(|_| Fault::TooLarge)?;
        let told = u64::try_from(stat.st_size).unwrap_or(0);
        let (mut size, mut pieces) = (0, Vec::new());
        for at in 0..told.div_ceil(PIECE_BYTES) {
            self.go_on()?;
            let content = piece_of(file, at, told)?;
            size += content.len() as u64;
            let hash = blake3::hash(&content);
            let piece = *self.known.entry(hash).or_insert_with(|| {
                self.found.wanted.push((number, at, hash));
                Piece { fence: self.fence, hash }
            });
            pieces.push(piece);
        }
        if size != told {
            // Only an attempt that was lost could still write here, and this one's directory is not that one's.
            return Err(Errno::AGAIN.into());
        }
        if stat.st_nlink > 1 {
            self.linked.insert((stat.st_dev, stat.st_ino), number);
        }
        self.add(Entry::new(parent, name.to_bytes(), &stat, What::File { size, pieces })).map(drop)
    }
}

impl walk::Visitor for Scanner<'_> {
    type Beside = u32;
    type Error = Fault;

    fn beside(&mut self, parent: &u32, name: &CStr) -> Result<u32, Fault> {
        let key = (*parent, name.to_bytes().to_vec());
        if let Some(number) = self.folders.get(&key) {
            return Ok(*number);
        }
        let name = super::manifest::Name(key.1.clone());
        // Its mode and time are known when it has been gone through.
        let number = self.add(Entry { parent: *parent, name, mode: 0o777, modified: (0, 0), what: What::Dir })?;
        self.folders.insert(key, number);
        Ok(number)
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, parent: &u32, name: &CStr) -> Result<(), Fault> {
        self.go_on()?;
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(errno) if beneath::is_gone(errno) => return Ok(()),
            other => other?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => match beneath::seen(dir, name)? {
                Some(file) => self.file(&file, *parent, name),
                None => Ok(()),
            },
            FileType::Symlink => {
                let to = match readlinkat(dir, name, Vec::new()) {
                    Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                    other => super::manifest::Name(other?.into_bytes()),
                };
                self.add(Entry::new(*parent, name.to_bytes(), &stat, What::Symlink { to })).map(drop)
            }
            _ => Ok(()),
        }
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, above: &u32, name: &CStr) -> Result<(), Fault> {
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(errno) if beneath::is_gone(errno) => return Ok(()),
            other => other?,
        };
        let number = self.folders.remove(&(*above, name.to_bytes().to_vec()));
        let at = number.and_then(|number| usize::try_from(number).ok()?.checked_sub(1));
        if let Some(entry) = at.and_then(|at| self.found.entries.get_mut(at)) {
            *entry = Entry::new(*above, name.to_bytes(), &stat, What::Dir);
        }
        Ok(())
    }
}
