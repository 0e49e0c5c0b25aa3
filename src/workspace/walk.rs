//! Goes through a whole tree, however deep, with a bounded number of open directories.
//!
//! Invariant: at most [`OPEN_LEVELS`] + 1 directories are open at once and the stack does not grow with the depth; a directory that
//! was closed for that is found again by the names that led to it. What changes under the traversal is missed, not followed.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::beneath;

/// How many of the deepest directories stay open, beside the top.
const OPEN_LEVELS: usize = 32;

/// What is done with what a traversal meets. The error of either ends it.
pub(super) trait Visitor {
    /// Something that is not a directory.
    fn entry(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno>;
    /// A directory, after all that is in it.
    fn folder(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno>;
}

struct Level {
    name: CString,
    /// None while it is closed to save descriptors.
    dir: Option<Dir>,
    /// The directories in it that are still to be entered.
    folders: Vec<CString>,
}

/// Visits all that is below `top`, directories after their content, in no order.
pub(super) fn walk(top: OwnedFd, visitor: &mut impl Visitor) -> Result<(), Errno> {
    let mut levels = vec![enter(CString::default(), top, visitor)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.folders.pop() {
            let Some(dir) = reopen(&mut levels)? else {
                levels.pop();
                continue;
            };
            match beneath::directory(dir, name.as_c_str()) {
                Ok(inside) => levels.push(enter(name, inside, visitor)?),
                Err(errno) if beneath::is_gone(errno) => continue,
                Err(errno) => return Err(errno),
            }
            close_far(&mut levels);
        } else if let Some(done) = levels.pop()
            && let Some(parent) = reopen(&mut levels)?
        {
            visitor.folder(parent, &done.name)?;
        }
    }
    Ok(())
}

/// Visits the files of a directory and notes its directories.
fn enter(name: CString, dir: OwnedFd, visitor: &mut impl Visitor) -> Result<Level, Errno> {
    let mut dir = Dir::new(dir)?;
    let mut folders = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry?;
        if is_dots(entry.file_name()) {
            continue;
        }
        match kind_of(dir.fd()?, entry.file_name(), entry.file_type()) {
            Ok(FileType::Directory) => folders.push(entry.file_name().to_owned()),
            Ok(_) => visitor.entry(dir.fd()?, entry.file_name())?,
            Err(errno) if beneath::is_gone(errno) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(Level { name, dir: Some(dir), folders })
}

/// Whether a name is the directory itself or the one above it.
pub(super) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// The type of an entry, asked for where the file system does not give it with the name.
pub(super) fn kind_of(dir: BorrowedFd<'_>, name: &CStr, told: FileType) -> Result<FileType, Errno> {
    if told != FileType::Unknown {
        return Ok(told);
    }
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// Closes the directory that came to lie too far above the deepest.
fn close_far(levels: &mut [Level]) {
    let far = levels.len().saturating_sub(OPEN_LEVELS + 1);
    // The top stays open: everything is found again from it.
    if far > 0
        && let Some(level) = levels.get_mut(far)
    {
        level.dir = None;
    }
}

/// The deepest level's directory, found again when it was closed; none when it is gone.
fn reopen(levels: &mut [Level]) -> Result<Option<BorrowedFd<'_>>, Errno> {
    let open = levels.iter().rposition(|level| level.dir.is_some()).unwrap_or(0);
    for depth in open + 1..levels.len() {
        let (above, below) = levels.split_at_mut(depth);
        let (Some(Level { dir: Some(dir), .. }), Some(level)) = (above.last(), below.first_mut()) else { return Ok(None) };
        match beneath::directory(dir.fd()?, level.name.as_c_str()) {
            Ok(found) => level.dir = Some(Dir::new(found)?),
            Err(errno) if beneath::is_gone(errno) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        if let Some(reached) = levels.get_mut(..=depth) {
            close_far(reached);
        }
    }
    levels.last().and_then(|level| level.dir.as_ref()).map(Dir::fd).transpose()
}
