//! Takes whole trees away.
//!
//! Invariant: only names are removed, never what a link points to. It fails when something keeps writing into the tree faster than it
//! is removed; what is gone by then stays gone, and a repetition goes on from there.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::{beneath, walk};

/// How often a tree is gone through while something still writes into it.
const PASSES: usize = 16;

/// Removes what is at `name` in `parent`, with all that is below it. Nothing there is success.
pub(super) fn remove_tree(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    for _ in 0..PASSES {
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR) => return gone_is_done(unlinkat(&parent, name, AtFlags::empty())),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        match beneath::directory(&parent, name) {
            Ok(top) => walk::walk(top, (), &mut Remover)?,
            Err(errno) if beneath::is_gone(errno) => {}
            Err(errno) => return Err(errno),
        }
    }
    gone_is_done(unlinkat(&parent, name, AtFlags::REMOVEDIR))
}

/// Removes whatever in `parent` is called `name`, `@` and more.
pub(super) fn remove_beside(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    let prefix = format!("{name}@");
    let mut beside = Vec::new();
    for entry in Dir::read_from(&parent)? {
        let found = entry?.file_name().to_str().ok().filter(|found| found.starts_with(&prefix)).map(str::to_owned);
        beside.extend(found);
    }
    beside.iter().try_for_each(|found| remove_tree(&parent, found))
}

/// Removes the folders of `path` from the deepest up, as far as they are empty.
pub(super) fn remove_empty_folders(root: impl AsFd, path: &str) -> Result<(), Errno> {
    let mut left = path;
    while !left.is_empty() {
        let (above, name) = left.rsplit_once('/').unwrap_or((".", left));
        let removed = beneath::base(&root, above).and_then(|parent| unlinkat(parent, name, AtFlags::REMOVEDIR));
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        left = if above == "." { "" } else { above };
    }
    Ok(())
}

fn gone_is_done(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

struct Remover;

impl walk::Visitor for Remover {
    type Beside = ();
    type Error = Errno;

    fn beside(&mut self, (): &(), _: &CStr) -> Result<(), Errno> {
        Ok(())
    }

    fn entry(&mut self, dir: BorrowedFd<'_>, (): &(), name: &CStr) -> Result<(), Errno> {
        match unlinkat(dir, name, AtFlags::empty()) {
            // It became a directory meanwhile: the next pass enters it.
            Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
            other => other,
        }
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, (): &(), name: &CStr) -> Result<(), Errno> {
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            // Something was written into it, or put in its place: the next pass takes that.
            Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
            other => other,
        }
    }
}
