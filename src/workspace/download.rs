//! Opens one file of a workspace for reading.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::io::Errno;

use super::beneath;
use super::error::{WorkspaceError, shown};
use super::listing::modified_at;
use crate::domain::time::Timestamp;

/// A regular file of a workspace, opened for reading.
#[derive(Debug)]
pub struct OpenFile {
    /// The file, at its start.
    pub file: File,
    /// Its length in bytes when it was opened.
    pub size: u64,
    /// When it was last written, as the file system or the guest says.
    pub modified_at: Timestamp,
}

/// Opens `path` below `root`; never waits, whatever is there.
pub(super) fn open_file(root: impl AsFd, path: &str) -> Result<OpenFile, WorkspaceError> {
    let not_a_file = || WorkspaceError::NotAFile { path: shown(path) };
    // Without NONBLOCK a named pipe would wait for its writer.
    let opened = beneath::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty());
    let file = match opened {
        Ok(file) => file,
        Err(Errno::NXIO | Errno::NODEV) => return Err(not_a_file()),
        Err(errno) => return Err(WorkspaceError::reading("open", path)(errno)),
    };
    let stat = fstat(&file).map_err(WorkspaceError::reading("look at", path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_a_file());
    }
    Ok(OpenFile { file: File::from(file), size: u64::try_from(stat.st_size).unwrap_or(0), modified_at: modified_at(&stat) })
}
