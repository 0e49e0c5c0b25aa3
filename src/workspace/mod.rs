//! The runs' directories, as the host handles them: making, mirrors, listing, download, removal, and the logs of attempts.
//!
//! Invariant: a guest decides everything that is in its workspace, so the host reaches it only through descriptors and follows no
//! link on the way (`beneath` is the one way in). Paths are relative to the root, and a workspace never lies inside another.
//! Every call blocks for as long as the disk takes; errors say what was tried and where, and leave nothing half-written.

mod beneath;
pub mod bucket;
mod copy;
mod download;
mod error;
mod listing;
mod logs;
mod mark;
mod mirrors;
mod parents;
mod removal;
mod takeover;
mod text;
mod usage;
mod walk;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use bucket::Bucket;
pub use download::OpenFile;
pub use error::WorkspaceError;
pub use listing::{FileEntry, FileKind, FilePage, LARGEST_PAGE};
pub use logs::{AttemptLogs, LogLevel, LogLine, LogPage, LogStream, LogWriter};
pub use mark::Mark;
pub use takeover::Takeover;
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
    bucket: Option<Arc<Bucket>>,
}

struct Shared {
    path: PathBuf,
    root: Arc<OwnedFd>,
    parents: parents::Parents,
    temp_names: mirrors::TempNames,
    logs: AttemptLogs,
}

/// A workspace that is there now, opened: whatever is written through it lands in this very directory, whoever has the name by then.
#[derive(Clone)]
pub struct Workspace {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its directory.
    pub dir: Arc<OwnedFd>,
    /// Whether this call made it.
    pub is_fresh: bool,
    /// What it holds, where that is known: of one that is new or has just been copied.
    pub found: Option<DiskUsage>,
    shown: String,
    shared: Arc<Shared>,
}

impl Workspace {
    /// Writes `run.json` and `events.jsonl`, each whole or not at all. Whatever a guest put under these names is replaced; a directory is
    /// renamed to `NAME.guest-N`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_mirrors(&self, run_json: Option<&[u8]>, events_jsonl: Option<&[u8]>) -> Result<(), WorkspaceError> {
        for (name, content) in [(RUN_JSON, run_json), (EVENTS_JSONL, events_jsonl)] {
            if let Some(content) = content {
                let replaced = mirrors::replace(&self.dir, &self.shared.temp_names, name, content);
                replaced.map_err(|errno| WorkspaceError::io("write a mirror in", &self.shown, errno))?;
            }
        }
        Ok(())
    }

    /// Writes the answer as `output.md` when nothing has that name; says whether it did.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_output_if_absent(&self, answer: &str) -> Result<bool, WorkspaceError> {
        let written = mirrors::write_if_absent(&self.dir, &self.shared.temp_names, OUTPUT_MD, answer.as_bytes());
        written.map_err(|errno| WorkspaceError::io("write output.md in", &self.shown, errno))
    }
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
        Ok(Workspaces { shared: Arc::new(Shared { path, root, parents: parents::Parents::default(), temp_names, logs }), bucket: None })
    }

    /// The same with a bucket, through which the runs' workspaces go from one attempt to the next.
    #[must_use]
    pub fn with_bucket(self, bucket: Arc<Bucket>) -> Self {
        Workspaces { bucket: Some(bucket), ..self }
    }

    /// The bucket, where there is one.
    pub fn bucket(&self) -> Option<&Arc<Bucket>> {
        self.bucket.as_ref()
    }

    /// The root as an absolute path without links.
    pub fn root(&self) -> &Path {
        &self.shared.path
    }

    /// Makes a run's directory, and those above it where they are missing, and opens it; two system calls when they are there.
    ///
    /// # Errors
    /// The path cannot be a workspace's, something else than a directory is there, or the disk refuses.
    pub fn create(&self, path: &str) -> Result<Workspace, WorkspaceError> {
        beneath::check_workspace(path)?;
        let made = self.shared.parents.make(&self.shared.root, path);
        let (dir, is_fresh) = made.map_err(WorkspaceError::making("make the workspace", path))?;
        Ok(Workspace {
            path: self.shared.path.join(path),
            dir: Arc::new(dir),
            is_fresh,
            found: is_fresh.then(DiskUsage::default),
            shown: path.to_owned(),
            shared: Arc::clone(&self.shared),
        })
    }

    /// Opens a run's directory for an attempt that is not its first, and makes it where it is missing. Where an attempt was lost that may
    /// still be at work somewhere, its directory is set aside first and the run gets a copy. `may_go_on` is asked before each step.
    ///
    /// # Errors
    /// As [`Workspaces::create`]; [`WorkspaceError::TooLarge`], and [`WorkspaceError::Stopped`] when the attempt may not go on or a newer
    /// one has been here. Calling again goes on from there.
    pub fn take_over(&self, path: &str, takeover: Takeover, may_go_on: &dyn Fn() -> bool) -> Result<Workspace, WorkspaceError> {
        beneath::check_workspace(path)?;
        let taken = self.in_parent(path, |parent, name| takeover::take_over(parent, name, takeover, may_go_on));
        let copied = taken.map_err(|fault| fault.of("copy for the next attempt the workspace", path, takeover.most))?;
        let workspace = self.create(path)?;
        Ok(Workspace { found: copied.or(workspace.found), ..workspace })
    }

    /// Does something in the directory above a workspace, made where it is missing.
    fn in_parent<T>(&self, path: &str, mut what: impl FnMut(&OwnedFd, &str) -> Result<T, copy::Fault>) -> Result<T, copy::Fault> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        for _ in 0..parents::TRIES {
            let parent = self.shared.parents.open(&self.shared.root, above)?;
            match what(&parent, name) {
                // The removal of another run took the parent, which was empty.
                Err(copy::Fault::Os(Errno::NOENT)) => self.shared.parents.forget(above),
                other => return other,
            }
        }
        Err(copy::Fault::Os(Errno::NOENT))
    }

    /// Makes an empty directory for a run's attempt, whose fence it is, beside the workspace, to be filled.
    ///
    /// # Errors
    /// As [`Workspaces::take_over`].
    pub fn begin(&self, path: &str, fence: u64) -> Result<Arc<OwnedFd>, WorkspaceError> {
        beneath::check_workspace(path)?;
        let begun = self.in_parent(path, |parent, name| takeover::begin(parent, name, fence));
        begun.map(Arc::new).map_err(|fault| fault.of("make a directory for the next attempt of", path, DiskUsage::default()))
    }

    /// Gives the directory that was begun and filled the workspace's name, and opens it. What had the name is removed, or set aside where
    /// a lost attempt may still be at work in it.
    ///
    /// # Errors
    /// As [`Workspaces::take_over`].
    pub fn finish(&self, path: &str, fence: u64, may_be_at_work: bool, may_go_on: &dyn Fn() -> bool) -> Result<Workspace, WorkspaceError> {
        let finished = self.in_parent(path, |parent, name| takeover::finish(parent, name, fence, may_be_at_work, may_go_on));
        finished.map_err(|fault| fault.of("give its name to the workspace", path, DiskUsage::default()))?;
        self.create(path)
    }

    /// Remembers how a workspace's directory is.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn mark(&self, path: &str, mark: &Mark) -> Result<(), WorkspaceError> {
        beneath::check_workspace(path)?;
        let marked = self.in_parent(path, |parent, name| Ok(mark::write(parent, &self.shared.temp_names, name, mark)?));
        marked.map_err(|fault| fault.of("mark the workspace", path, DiskUsage::default()))
    }

    /// How a workspace's directory is, as far as that is remembered.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn marked(&self, path: &str) -> Result<Option<Mark>, WorkspaceError> {
        beneath::check_workspace(path)?;
        let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
        let found = beneath::base(&self.shared.root, above).and_then(|parent| mark::find(&parent, name));
        match found {
            Err(errno) if beneath::is_gone(errno) => Ok(None),
            other => other.map_err(WorkspaceError::reading("look at the mark of", path)),
        }
    }

    /// Every workspace that this daemon marked, by its path.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn all_marked(&self, daemon: &str) -> Result<Vec<(String, Mark)>, WorkspaceError> {
        mark::all(&self.shared.root, daemon).map_err(WorkspaceError::reading("look for workspaces in", "."))
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

    /// Removes a workspace with all that is in it and all that was set aside for it, then the folders above it that are empty now, but not
    /// the root. A workspace that is not there is removed.
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
        let removed = removal::remove_tree(&parent, name)
            .and_then(|()| takeover::remove(&parent, name))
            .and_then(|()| mark::remove(&parent, name))
            .and_then(|()| removal::remove_empty_folders(&self.shared.root, above));
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
}
