//! The one way by which the host opens anything under the workspace root.
//!
//! Invariant: what is opened lies below the directory that was given, and no symbolic link was followed on the way, whoever made it
//! and whenever: the kernel checks it while it resolves the path. A link on the way is `Errno::LOOP`.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

use super::error::WorkspaceError;
use crate::domain::id::RunId;

/// The longest path inside a workspace that can be asked for; with the workspace's own it stays below the kernel's limit.
const FILE_PATH_BYTES: usize = 3000;

/// Opens what is at `path` below `dir`.
pub(super) fn open(dir: impl AsFd, path: impl Arg, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve)
}

/// Opens a directory to reach what is in it.
pub(super) fn base(dir: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    open(dir, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a directory to read its names.
pub(super) fn directory(dir: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    open(dir, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens the directory at `path`, making what is missing of it. An empty path is `dir` itself.
pub(super) fn make_directories(dir: impl AsFd, path: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return base(dir, c".");
    }
    match base(&dir, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut at = base(dir, c".")?;
    for part in path.split('/') {
        match mkdirat(&at, part, mode) {
            Ok(()) | Err(Errno::EXIST) => at = base(&at, part)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(at)
}

/// Opens a file that was seen in a directory to read it; none when it has gone or something else has taken its place.
pub(super) fn seen(dir: impl AsFd, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    // Without NONBLOCK a pipe that took its place would wait for its writer.
    match open(dir, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(errno) if is_gone(errno) || errno == Errno::NXIO => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether an entry was removed or replaced between the moment its name was read and now.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Checks a workspace's path below the root: folder names that are ids, so that nothing hidden, above or outside is reached, and
/// no workspace lies inside another.
pub(super) fn check_workspace(path: &str) -> Result<(), WorkspaceError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() || part.starts_with('.') || !part.bytes().all(allowed) {
            return Err(WorkspaceError::bad_path(path, "its parts are letters, digits, `_`, `.` and `-`, and none starts with a dot"));
        }
        if parts.peek().is_some() && RunId::is_made(part) {
            return Err(WorkspaceError::bad_path(path, "only its last part can be a run's id, so that no workspace lies inside another"));
        }
    }
    Ok(())
}

/// Checks a path inside a workspace, as a user asks for it.
pub(super) fn check_file(file: &str) -> Result<(), WorkspaceError> {
    let fault = if file.len() > FILE_PATH_BYTES {
        "it is longer than 3000 bytes"
    } else if file.contains('\0') {
        "it has a NUL character"
    } else if file.starts_with('/') {
        "give it relative to the workspace, without a slash at the start"
    } else if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "give it without empty parts, `.` and `..`"
    } else {
        return Ok(());
    };
    Err(WorkspaceError::bad_path(file, fault))
}

#[cfg(test)]
mod tests {
    use super::{check_file, check_workspace};

    const RUN: &str = "run_0192f0c1d2e37a4b8c9d0e1f2a3b4c5d";

    #[test]
    fn a_workspace_path_is_made_of_plain_names() {
        for good in [format!("background/a/t/{RUN}"), format!("x/{RUN}"), RUN.to_owned(), format!("background/a/run_daily/{RUN}")] {
            assert!(check_workspace(&good).is_ok(), "{good}");
        }
        for bad in ["", "/", "/etc", "a//b", "a/", "../a", "a/../b", "a/./b", ".logs/x", "a/.b", "a\0b", "a\nb", "a/ b"] {
            assert!(check_workspace(bad).is_err(), "{bad:?}");
        }
        assert!(check_workspace(&format!("background/{RUN}/{RUN}")).is_err());
    }

    #[test]
    fn a_file_path_stays_inside() {
        for good in ["output.md", ".hidden", "a/b c/…", "..a", "a/..b", "back\\slash", "line\nbreak"] {
            assert!(check_file(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/./b", "a//b", "a/", "a\0b"] {
            assert!(check_file(bad).is_err(), "{bad:?}");
        }
        assert!(check_file(&"a".repeat(3001)).is_err());
    }
}
