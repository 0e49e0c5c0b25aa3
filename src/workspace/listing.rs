//! Lists a workspace page by page, in the byte order of the paths.
//!
//! Invariant: memory is bounded by the page, not by the tree: of a directory only the smallest names after the cursor are kept. What
//! exists from the first page to the last is listed exactly once, whatever is added or removed meanwhile.

use std::collections::BinaryHeap;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;
use serde::Serialize;

use super::{beneath, walk};
use crate::domain::time::Timestamp;

/// The most entries of a page.
pub const LARGEST_PAGE: usize = 1000;
/// How deep directories are listed.
pub(super) const DEEPEST: usize = 64;
/// How many names of one directory are listed.
pub(super) const WIDEST: usize = 100_000;
/// The fewest names that one reading of a directory keeps, so that a nearly full page does not read it again and again.
const FEWEST_KEPT: usize = 64;

/// What an entry of a workspace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, never followed.
    Symlink,
    /// A named pipe, a socket or a device.
    Other,
}

/// One entry of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    /// The path relative to the workspace. Bytes that are not UTF-8 are shown as U+FFFD; control characters are as they are.
    pub path: String,
    /// The last part of the path.
    pub name: String,
    /// The length of a regular file in bytes; 0 for everything else.
    pub size: u64,
    /// When it was last changed, as the file system or the guest says.
    pub modified_at: Timestamp,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// What it is.
    pub kind: FileKind,
}

/// One page of a workspace's entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FilePage {
    /// The entries, in the byte order of their paths.
    pub entries: Vec<FileEntry>,
    /// What to give as `after` for the next page; none after the last. It is the last path with `%`, control characters and what is
    /// not ASCII as `%XX`.
    pub next: Option<String>,
    /// A sentence about what this page leaves out, when it leaves something out.
    pub note: Option<String>,
}

/// The page of at most `limit` entries (1 to [`LARGEST_PAGE`]) below `top` that follows `after`.
pub(super) fn list(top: OwnedFd, after: Option<&str>, limit: usize) -> Result<FilePage, Errno> {
    let mut lister = Lister {
        after: after.map(from_cursor),
        limit: limit.clamp(1, LARGEST_PAGE),
        last: Vec::new(),
        more: false,
        page: FilePage::default(),
    };
    lister.directory(top, b"", 1)?;
    lister.page.next = lister.more.then(|| to_cursor(&lister.last));
    Ok(lister.page)
}

/// When a file was last changed.
pub(super) fn modified_at(stat: &Stat) -> Timestamp {
    let seconds = stat.st_mtime;
    Timestamp::from_micros(seconds.saturating_mul(1_000_000).saturating_add(i64::try_from(stat.st_mtime_nsec / 1000).unwrap_or(0)))
}

struct Lister {
    after: Option<Vec<u8>>,
    limit: usize,
    /// The path of the last entry of the page.
    last: Vec<u8>,
    /// Whether an entry was met that is past the page.
    more: bool,
    page: FilePage,
}

impl Lister {
    /// Lists what is in a directory. `prefix` is its path with a slash at the end, or nothing.
    fn directory(&mut self, dir: OwnedFd, prefix: &[u8], depth: usize) -> Result<(), Errno> {
        let mut dir = Dir::new(dir)?;
        let mut done: Option<Vec<u8>> = None;
        loop {
            let (keys, is_all) = self.smallest(&mut dir, prefix, done.as_deref())?;
            for key in &keys {
                match key.strip_suffix(b"/") {
                    Some(name) => self.inside(dir.fd()?, name, prefix, depth)?,
                    None => self.entry(dir.fd()?, key, prefix)?,
                }
                if self.more {
                    return Ok(());
                }
            }
            if is_all {
                return Ok(());
            }
            done = keys.into_iter().next_back();
            dir.rewind();
        }
    }

    /// The smallest keys of a directory that may be listed after the cursor and after `done`, and whether these are all. A directory's
    /// own entry has its name as key, what is inside it the name and a slash: that is where its paths stand among the others.
    fn smallest(&mut self, dir: &mut Dir, prefix: &[u8], done: Option<&[u8]>) -> Result<(Vec<Vec<u8>>, bool), Errno> {
        let room = (self.limit - self.page.entries.len() + 1).max(FEWEST_KEPT);
        let after = self.after.as_deref().and_then(|after| after.strip_prefix(prefix)).map(<[u8]>::to_vec);
        let mut kept = BinaryHeap::new();
        let mut is_all = true;
        let mut keep = |key: &[u8]| {
            let is_past_cursor = after.as_deref().is_none_or(|after| key > after || (key.ends_with(b"/") && after.starts_with(key)));
            if !is_past_cursor || done.is_some_and(|done| key <= done) {
                return;
            }
            if kept.len() < room {
                kept.push(key.to_vec());
                return;
            }
            is_all = false;
            if let Some(mut largest) = kept.peek_mut()
                && key < largest.as_slice()
            {
                *largest = key.to_vec();
            }
        };
        let mut names = 0;
        while let Some(entry) = dir.read() {
            let entry = entry?;
            if walk::is_dots(entry.file_name()) {
                continue;
            }
            names += 1;
            if names > WIDEST {
                self.note(prefix, "has more than 100,000 names, the rest is left out");
                break;
            }
            let mut key = entry.file_name().to_bytes().to_vec();
            keep(&key);
            if matches!(walk::kind_of(dir.fd()?, entry.file_name(), entry.file_type()), Ok(FileType::Directory)) {
                key.push(b'/');
                keep(&key);
            }
        }
        Ok((kept.into_sorted_vec(), is_all))
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, name: &[u8], prefix: &[u8]) -> Result<(), Errno> {
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(errno) if beneath::is_gone(errno) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        if self.page.entries.len() == self.limit {
            self.more = true;
            return Ok(());
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Dir,
            FileType::Symlink => FileKind::Symlink,
            _ => FileKind::Other,
        };
        let size = if kind == FileKind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        self.last = [prefix, name].concat();
        self.page.entries.push(FileEntry {
            path: String::from_utf8_lossy(&self.last).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            size,
            modified_at: modified_at(&stat),
            is_dir: kind == FileKind::Dir,
            kind,
        });
        Ok(())
    }

    fn inside(&mut self, dir: BorrowedFd<'_>, name: &[u8], prefix: &[u8], depth: usize) -> Result<(), Errno> {
        let inside = [prefix, name, b"/"].concat();
        if depth == DEEPEST {
            self.note(&inside, "is 64 directories deep, what is in it is left out");
            return Ok(());
        }
        match beneath::directory(dir, name) {
            Ok(found) => self.directory(found, &inside, depth + 1),
            Err(errno) if beneath::is_gone(errno) => Ok(()),
            Err(Errno::ACCESS | Errno::PERM) => {
                self.note(&inside, "cannot be read by the daemon, what is in it is left out");
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    fn note(&mut self, directory: &[u8], what: &str) {
        note_of(&mut self.page, directory, what);
    }
}

/// Says what is left out; the first such sentence of a page is enough.
pub(super) fn note_of(page: &mut FilePage, directory: &[u8], what: &str) {
    if page.note.is_none() {
        let path: String = String::from_utf8_lossy(directory).chars().take(200).flat_map(char::escape_debug).collect();
        page.note = Some(format!("`{path}` {what}"));
    }
}

pub(super) fn to_cursor(path: &[u8]) -> String {
    let mut cursor = String::with_capacity(path.len());
    for &byte in path {
        if (byte.is_ascii_graphic() && byte != b'%') || byte == b' ' {
            cursor.push(char::from(byte));
        } else {
            cursor.push_str(&format!("%{byte:02X}"));
        }
    }
    cursor
}

pub(super) fn from_cursor(cursor: &str) -> Vec<u8> {
    let mut path = Vec::with_capacity(cursor.len());
    let mut rest = cursor.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let escaped = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                path.push(first);
                rest = after;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::{from_cursor, to_cursor};

    #[test]
    fn a_cursor_carries_any_bytes() {
        let all: Vec<u8> = (1..=255).collect();
        assert_eq!(from_cursor(&to_cursor(&all)), all);
        assert_eq!(to_cursor(b"notes/day 1.md"), "notes/day 1.md");
        assert_eq!(from_cursor("100%"), b"100%");
        assert_eq!(from_cursor("a%zz%+4%4"), b"a%zz%+4%4");
    }
}
