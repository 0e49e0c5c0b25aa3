//! Counts what an attempt finds in its workspace.
//!
//! Invariant: no link is followed, and however deep a guest nested its folders, one of them is open at a time.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};

use crate::sandbox::spec::DiskUse;

/// A folder on the way down, and those of its folders that are still to be counted.
struct Level {
    inode: (u64, u64),
    left: Vec<CString>,
}

/// Sums up the sizes and the number of everything below a folder.
///
/// # Errors
/// A folder cannot be read, or the tree changed meanwhile. It blocks; run it where that is allowed.
pub(crate) fn count(root: &File) -> io::Result<DiskUse> {
    let mut walk = Walk { found: DiskUse::default(), linked: HashSet::new() };
    let mut here = folder(root, c".")?;
    let mut levels = vec![walk.scan(&here)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.left.pop() {
            here = folder(&here, name.as_c_str())?;
            levels.push(walk.scan(&here)?);
            continue;
        }
        levels.pop();
        if let Some(parent) = levels.last() {
            here = folder(&here, c"..")?;
            let stat = fstat(&here)?;
            if (stat.st_dev, stat.st_ino) != parent.inode {
                return Err(io::Error::other("the workspace changed while it was counted"));
            }
        }
    }
    Ok(walk.found)
}

fn folder(at: impl std::os::fd::AsFd, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

struct Walk {
    found: DiskUse,
    /// Files with several names, counted once.
    linked: HashSet<(u64, u64)>,
}

impl Walk {
    fn scan(&mut self, at: &OwnedFd) -> io::Result<Level> {
        let own = fstat(at)?;
        let mut left = Vec::new();
        for entry in Dir::read_from(at)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.found.files = self.found.files.saturating_add(1);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                left.push(name.to_owned());
            } else if stat.st_nlink < 2 || self.linked.insert((stat.st_dev, stat.st_ino)) {
                self.found.bytes = self.found.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
            }
        }
        Ok(Level { inode: (own.st_dev, own.st_ino), left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_once_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/ten"), [0; 10]).unwrap();
        std::fs::hard_link(at("a/b/ten"), at("again")).unwrap();
        std::os::unix::fs::symlink("/usr", at("usr")).unwrap();
        File::create(at("sparse")).unwrap().set_len(1000).unwrap();
        let found = count(&File::open(dir.path()).unwrap()).unwrap();
        assert_eq!(found, DiskUse { bytes: 10 + 4 + 1000, files: 6 });
    }

    #[test]
    fn depth_beyond_any_path_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let name = CString::new("x".repeat(200)).unwrap();
        let mut at = folder(File::open(dir.path()).unwrap(), c".").unwrap();
        for _ in 0..300 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = folder(&at, &name).unwrap();
        }
        assert_eq!(count(&File::open(dir.path()).unwrap()).unwrap(), DiskUse { bytes: 0, files: 300 });
    }
}
