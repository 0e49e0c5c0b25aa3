//! The runs' directories, as the host handles them: making, mirrors, listing, download, removal, and the logs of attempts.
//!
//! Invariant: a guest decides everything that is in its workspace, so the host reaches it only through descriptors and follows no
//! link on the way (`beneath` is the one way in). Paths are relative to the root, and a workspace never lies inside another.
//! Every call blocks for as long as the disk takes; errors say what was tried and where, and leave nothing half-written.

mod beneath;
mod download;
mod error;
mod listing;
mod logs;
mod mirrors;
mod parents;
mod removal;
mod text;
mod usage;
mod walk;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use download::OpenFile;
pub use error::WorkspaceError;
pub use listing::{FileEntry, FileKind, FilePage, LARGEST_PAGE};
pub use logs::{AttemptLogs, LogLine, LogPage, LogStream, LogWriter};
pub use text::printable;
pub use usage::DiskUsage;

/// The mirror of the run's record.
pub const RUN_JSON: &str = "run.json";
/// The mirror of the run's event history.
pub const EVENTS_JSONL: &str = "events.jsonl";
/// The run's answer, unless the guest wrote it.
pub const OUTPUT_MD: &str = "output.md";

/// All workspaces below one root. Clones share it.
#[derive(Clone)]
pub struct Workspaces {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    root: Arc<OwnedFd>,
    parents: parents::Parents,
    temp_names: mirrors::TempNames,
    logs: AttemptLogs,
}

/// A workspace that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its absolute path.
    pub path: PathBuf,
    /// Whether this call made it.
    pub is_fresh: bool,
}

impl Workspaces {
    /// Opens the root, and makes it when it is missing.
    ///
    /// # Errors
    /// The root cannot be made or opened, or the kernel refuses openat2.
    pub fn open(root: &Path) -> Result<Self, WorkspaceError> {
        let shown = root.to_string_lossy();
        std::fs::create_dir_all(root).map_err(|source| WorkspaceError::io("make", &shown, source))?;
        let path = std::fs::canonicalize(root).map_err(|source| WorkspaceError::io("find", &shown, source))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(WorkspaceError::making("open", &shown))?;
        match beneath::base(&fd, c".") {
            Ok(_) => {}
            Err(Errno::NOSYS | Errno::PERM) => return Err(WorkspaceError::Kernel { path: error::shown(&shown) }),
            Err(errno) => return Err(WorkspaceError::io("open", &shown, errno)),
        }
        let daemon = getrandom::u64()
            .map_err(|source| WorkspaceError::io("get random bytes for", &shown, std::io::Error::other(source.to_string())))?;
        let root = Arc::new(fd);
        let logs = AttemptLogs::new(Arc::clone(&root));
        let temp_names = mirrors::TempNames::new(daemon);
        Ok(Workspaces { shared: Arc::new(Shared { path, root, parents: parents::Parents::default(), temp_names, logs }) })
    }

    /// The root as an absolute path without links.
    pub fn root(&self) -> &Path {
        &self.shared.path
    }

    /// Makes a run's directory, and those above it where they are missing; one system call when they are there.
    ///
    /// # Errors
    /// The path cannot be a workspace's, something else than a directory is there, or the disk refuses.
    pub fn create(&self, path: &str) -> Result<Created, WorkspaceError> {
        beneath::check_workspace(path)?;
        let made = self.shared.parents.make(&self.shared.root, path);
        let is_fresh = made.map_err(WorkspaceError::making("make the workspace", path))?;
        Ok(Created { path: self.shared.path.join(path), is_fresh })
    }

    /// Writes `run.json` and `events.jsonl`, each whole or not at all, and makes the workspace when it is missing. Whatever a guest
    /// put under these names is replaced; a directory is renamed to `NAME.guest-N`.
    ///
    /// # Errors
    /// The path cannot be a workspace's, or the disk refuses.
    pub fn write_mirrors(&self, path: &str, run_json: Option<&[u8]>, events_jsonl: Option<&[u8]>) -> Result<(), WorkspaceError> {
        let dir = self.open_or_create(path)?;
        for (name, content) in [(RUN_JSON, run_json), (EVENTS_JSONL, events_jsonl)] {
            if let Some(content) = content {
                let replaced = mirrors::replace(&dir, &self.shared.temp_names, name, content);
                replaced.map_err(|errno| WorkspaceError::io("write a mirror in", path, errno))?;
            }
        }
        Ok(())
    }

    /// Writes the answer as `output.md` when nothing has that name; says whether it did.
    ///
    /// # Errors
    /// The path cannot be a workspace's, or the disk refuses.
    pub fn write_output_if_absent(&self, path: &str, answer: &str) -> Result<bool, WorkspaceError> {
        let dir = self.open_or_create(path)?;
        let written = mirrors::write_if_absent(dir, &self.shared.temp_names, OUTPUT_MD, answer.as_bytes());
        written.map_err(|errno| WorkspaceError::io("write output.md in", path, errno))
    }

    /// One page of at most `limit` entries (held to 1 … [`LARGEST_PAGE`]), all levels deep, mirrors included, in the byte order of
    /// their paths. `after` is the `next` of the page before, or none. Directories deeper than 64 and names past the first 100,000 of a
    /// directory are left out, and the page's note says so.
    ///
    /// # Errors
    /// There is no such workspace, or the disk refuses.
    pub fn list(&self, path: &str, after: Option<&str>, limit: usize) -> Result<FilePage, WorkspaceError> {
        let top = self.read(path)?;
        listing::list(top, after, limit).map_err(WorkspaceError::reading("list", path))
    }

    /// Opens a regular file of a workspace for reading; `file` is its path as the listing shows it.
    ///
    /// # Errors
    /// The path is absolute or has `..`, nothing is there, it leads through a link, or it is not a regular file.
    pub fn open_file(&self, path: &str, file: &str) -> Result<OpenFile, WorkspaceError> {
        beneath::check_workspace(path)?;
        beneath::check_file(file)?;
        download::open_file(&self.shared.root, &format!("{path}/{file}"))
    }

    /// Removes a workspace with all that is in it, then the folders above it that are empty now, but not the root. A workspace that is
    /// not there is removed.
    ///
    /// # Errors
    /// The disk refuses, or something keeps writing into it; calling again goes on.
    pub fn remove(&self, path: &str) -> Result<(), WorkspaceError> {
        beneath::check_workspace(path)?;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = match beneath::base(&self.shared.root, if above.is_empty() { "." } else { above }) {
            Ok(parent) => parent,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(WorkspaceError::making("remove", path)(errno)),
        };
        let removed = removal::remove_tree(parent, name).and_then(|()| removal::remove_empty_folders(&self.shared.root, above));
        removed.map_err(WorkspaceError::making("remove", path))
    }

    /// Removes what was set aside of a workspace: whatever lies beside it under its name, an `@` and more.
    ///
    /// # Errors
    /// As [`Workspaces::remove`].
    pub fn remove_set_aside(&self, path: &str) -> Result<(), WorkspaceError> {
        beneath::check_workspace(path)?;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = match beneath::directory(&self.shared.root, if above.is_empty() { "." } else { above }) {
            Ok(parent) => parent,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(WorkspaceError::making("remove what was set aside of", path)(errno)),
        };
        let removed = removal::remove_beside(&parent, name).and_then(|()| removal::remove_empty_folders(&self.shared.root, above));
        removed.map_err(WorkspaceError::making("remove what was set aside of", path))
    }

    /// What a workspace takes of the disk, mirrors included, links not followed.
    ///
    /// # Errors
    /// There is no such workspace, or the disk refuses.
    pub fn disk_usage(&self, path: &str) -> Result<DiskUsage, WorkspaceError> {
        let top = self.read(path)?;
        usage::count(top).map_err(WorkspaceError::reading("measure", path))
    }

    /// What guests wrote to their standard output and error.
    pub fn logs(&self) -> &AttemptLogs {
        &self.shared.logs
    }

    fn read(&self, path: &str) -> Result<OwnedFd, WorkspaceError> {
        beneath::check_workspace(path)?;
        beneath::directory(&self.shared.root, path).map_err(WorkspaceError::reading("open", path))
    }

    fn open_or_create(&self, path: &str) -> Result<OwnedFd, WorkspaceError> {
        beneath::check_workspace(path)?;
        match beneath::base(&self.shared.root, path) {
            Err(Errno::NOENT) => {}
            other => return other.map_err(WorkspaceError::making("open the workspace", path)),
        }
        self.create(path)?;
        beneath::base(&self.shared.root, path).map_err(WorkspaceError::making("open the workspace", path))
    }
}
