//! Goes through a whole tree, however deep, with a bounded number of open directories.
//!
//! Invariant: at most [`OPEN_LEVELS`] + 1 directories are open at once, each with what its visitor keeps beside it, and the stack does
//! not grow with the depth; a directory that was closed for that is found again by the names that led to it. What changes under the
//! traversal is missed, not followed.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;

use super::beneath;

/// How many of the deepest directories stay open, beside the top.
const OPEN_LEVELS: usize = 32;

/// What is done with what a traversal meets. Any error ends it.
pub(super) trait Visitor {
    /// What is kept beside a directory for as long as it is open.
    type Beside;
    /// What ends a traversal.
    type Error: From<Errno>;
    /// What to keep beside the directory of this name; asked for when it is entered, and again each time it is found again.
    fn beside(&mut self, parent: &Self::Beside, name: &CStr) -> Result<Self::Beside, Self::Error>;
    /// Something that is not a directory.
    fn entry(&mut self, dir: BorrowedFd<'_>, beside: &Self::Beside, name: &CStr) -> Result<(), Self::Error>;
    /// A directory, after all that is in it.
    fn folder(&mut self, parent: BorrowedFd<'_>, beside: &Self::Beside, name: &CStr) -> Result<(), Self::Error>;
}

struct Level<B> {
    name: CString,
    /// None while it is closed to save descriptors.
    dir: Option<(Dir, B)>,
    /// The directories in it that are still to be entered.
    folders: Vec<CString>,
}

/// Visits all that is below `top`, which has this beside it, directories after their content, in no order.
pub(super) fn walk<V: Visitor>(top: OwnedFd, beside: V::Beside, visitor: &mut V) -> Result<(), V::Error> {
    let mut levels = vec![enter(CString::default(), top, beside, visitor)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.folders.pop() {
            let Some((dir, above)) = reopen(&mut levels, visitor)? else {
                levels.pop();
                continue;
            };
            match beneath::directory(dir, name.as_c_str()) {
                Ok(inside) => {
                    let beside = visitor.beside(above, &name)?;
                    levels.push(enter(name, inside, beside, visitor)?);
                }
                Err(errno) if beneath::is_gone(errno) => continue,
                Err(errno) => return Err(errno.into()),
            }
            close_far(&mut levels);
        } else if let Some(done) = levels.pop()
            && let Some((parent, beside)) = reopen(&mut levels, visitor)?
        {
            visitor.folder(parent, beside, &done.name)?;
        }
    }
    Ok(())
}

/// Visits the files of a directory and notes its directories.
fn enter<V: Visitor>(name: CString, dir: OwnedFd, beside: V::Beside, visitor: &mut V) -> Result<Level<V::Beside>, V::Error> {
    let mut dir = Dir::new(dir)?;
    let mut folders = Vec::new();
    while let Some(entry) = dir.read() {
        let entry = entry?;
        if is_dots(entry.file_name()) {
            continue;
        }
        match kind_of(dir.fd()?, entry.file_name(), entry.file_type()) {
            Ok(FileType::Directory) => folders.push(entry.file_name().to_owned()),
            Ok(_) => visitor.entry(dir.fd()?, &beside, entry.file_name())?,
            Err(errno) if beneath::is_gone(errno) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Level { name, dir: Some((dir, beside)), folders })
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
fn close_far<B>(levels: &mut [Level<B>]) {
    let far = levels.len().saturating_sub(OPEN_LEVELS + 1);
    // The top stays open: everything is found again from it.
    if far > 0
        && let Some(level) = levels.get_mut(far)
    {
        level.dir = None;
    }
}

/// The deepest level's directory with what is beside it, found again when it was closed; none when it is gone.
fn reopen<'l, V: Visitor>(
    levels: &'l mut [Level<V::Beside>],
    visitor: &mut V,
) -> Result<Option<(BorrowedFd<'l>, &'l V::Beside)>, V::Error> {
    let open = levels.iter().rposition(|level| level.dir.is_some()).unwrap_or(0);
    for depth in open + 1..levels.len() {
        let (above, below) = levels.split_at_mut(depth);
        let (Some(Level { dir: Some((dir, above)), .. }), Some(level)) = (above.last(), below.first_mut()) else { return Ok(None) };
        match beneath::directory(dir.fd()?, level.name.as_c_str()) {
            Ok(found) => level.dir = Some((Dir::new(found)?, visitor.beside(above, &level.name)?)),
            Err(errno) if beneath::is_gone(errno) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        if let Some(reached) = levels.get_mut(..=depth) {
            close_far(reached);
        }
    }
    let Some((dir, beside)) = levels.last().and_then(|level| level.dir.as_ref()) else { return Ok(None) };
    Ok(Some((dir.fd()?, beside)))
}
