//! What can go wrong in a workspace, in sentences for the user.

use std::io;

use rustix::io::Errno;

use super::text::printable;

/// Why something in a workspace could not be done.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// A path that no workspace, or nothing in a workspace, can have.
    #[error("`{path}` cannot be a path in a workspace: {fault}")]
    BadPath {
        /// The path, safe to show.
        path: String,
        /// What is wrong with it, and what to give instead.
        fault: &'static str,
    },
    /// Nothing is there.
    #[error("there is no `{path}` in the workspaces: list the run's workspace to see what it has")]
    NotFound {
        /// The path, safe to show.
        path: String,
    },
    /// Something is there that is not a regular file.
    #[error("`{path}` is not a regular file: only regular files can be read, so list the workspace and choose one")]
    NotAFile {
        /// The path, safe to show.
        path: String,
    },
    /// The path leads through a symbolic link.
    #[error("`{path}` leads through a symbolic link, which is never followed in a workspace: name what it points to instead")]
    Link {
        /// The path, safe to show.
        path: String,
    },
    /// The kernel lacks what keeps links from being followed.
    #[error(
        "the workspace root `{path}` cannot be used because openat2 is refused: run Linux 5.6 or later, in a container that allows openat2"
    )]
    Kernel {
        /// The workspace root.
        path: String,
    },
    /// There is more in it than its agent may have.
    #[error(
        "the workspace `{path}` cannot be copied for the next attempt: it holds more than {bytes} bytes or {files} files, which its agent \
         may have; raise the agent's limits.disk_bytes and limits.disk_files"
    )]
    TooLarge {
        /// The workspace, safe to show.
        path: String,
        /// The most bytes.
        bytes: u64,
        /// The most files.
        files: u64,
    },
    /// The attempt that asked may do no more.
    #[error("the workspace `{path}` was left as it is: the attempt was stopped, or another one has taken it over; nothing is to be done")]
    Stopped {
        /// The workspace, safe to show.
        path: String,
    },
    /// The operating system refused.
    #[error("cannot {what} `{path}`: {source}; look at the disk and at the permissions of the workspace root")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where, safe to show.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl WorkspaceError {
    pub(super) fn bad_path(path: &str, fault: &'static str) -> Self {
        WorkspaceError::BadPath { path: shown(path), fault }
    }

    pub(super) fn io(what: &'static str, path: &str, source: impl Into<io::Error>) -> Self {
        WorkspaceError::Io { what, path: shown(path), source: source.into() }
    }

    /// The error of making or changing what is at a path.
    pub(super) fn making(what: &'static str, path: &str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::LOOP => WorkspaceError::Link { path: shown(path) },
            other => Self::io(what, path, other),
        }
    }

    /// The error of reading what is expected at a path.
    pub(super) fn reading(what: &'static str, path: &str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => WorkspaceError::NotFound { path: shown(path) },
            other => Self::making(what, path)(other),
        }
    }
}

/// A path as a message carries it: on one line, without control characters, not endless.
pub(super) fn shown(path: &str) -> String {
    let mut cut: String = path.chars().take(200).collect();
    if cut.len() < path.len() {
        cut.push('…');
    }
    printable(&cut).replace('\n', "\\n").replace('\t', "\\t")
}
