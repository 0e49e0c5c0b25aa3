//! What the guests of attempts wrote to their standard output and error, kept beside the workspaces and out of every guest's view:
//! `<root>/.logs/<run>/<attempt>.jsonl`.
//!
//! Invariant: a file is at most its limit and one closing line long, and each of its lines is one [`LogLine`] in JSON. It fails
//! softly: what the disk refuses is counted as dropped, and no attempt fails over its log.

mod writer;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread};
use serde::{Deserialize, Serialize};

pub use writer::LogWriter;

use super::error::WorkspaceError;
use super::{beneath, removal};
use crate::domain::id::RunId;
pub use crate::domain::log::{LogLevel, LogStream};
use crate::domain::time::Timestamp;

/// The folder of all logs; no workspace's path can start with a dot.
const FOLDER: &str = ".logs";
/// What one page reads of a file; more than the longest line, which is 16 KiB of text with each byte escaped as six.
const PAGE_BYTES: usize = 256 * 1024;
/// The most lines of a page.
const LARGEST_PAGE: usize = 10_000;

/// One line of an attempt's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogLine {
    /// What the guest wrote, without the line's end; a line of more than 16 KiB comes in pieces.
    Text {
        /// When the host received its end.
        at: Timestamp,
        /// Where the guest wrote it.
        stream: LogStream,
        /// The text as the guest wrote it, control characters included; see [`super::printable`].
        text: String,
    },
    /// What the guest gave to `wasi:logging`; a message of more than 16 KiB comes in pieces.
    Entry {
        /// When the host received it.
        at: Timestamp,
        /// How much it matters.
        level: LogLevel,
        /// What it belongs to; often empty.
        context: String,
        /// The message as the guest wrote it, control characters and line ends included.
        text: String,
    },
    /// The last line of a log from which something was dropped.
    Truncated {
        /// How many bytes of the guest's were dropped.
        truncated: u64,
    },
}

/// Some lines of an attempt's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogPage {
    /// The lines, oldest first.
    pub lines: Vec<LogLine>,
    /// What to give as `after_offset` for what follows, in bytes of the file.
    pub next_offset: u64,
    /// Whether there is nothing more at present. When the attempt has ended, nothing more comes either.
    pub at_end: bool,
}

/// The logs of all attempts below one workspace root. Clones share it.
#[derive(Clone)]
pub struct AttemptLogs {
    root: Arc<OwnedFd>,
}

impl AttemptLogs {
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        AttemptLogs { root }
    }

    /// Where an attempt's output goes. The file is made at the first line, so an attempt that writes nothing leaves none. What would
    /// make the file longer than `limit_bytes` is dropped and counted.
    pub fn writer(&self, run: &RunId, attempt: u32, limit_bytes: u64) -> LogWriter {
        LogWriter::new(self.clone(), run.clone(), attempt, limit_bytes)
    }

    /// At most `limit` lines of an attempt's log from `after_offset` on: 0, or the `next_offset` of the page before. An attempt
    /// without a log has an empty one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn read(&self, run: &RunId, attempt: u32, after_offset: u64, limit: usize) -> Result<LogPage, WorkspaceError> {
        let path = path_of(run, attempt);
        match self.read_at(&path, after_offset) {
            Ok(chunk) => Ok(page_of(&chunk, after_offset, limit.clamp(1, LARGEST_PAGE))),
            Err(Errno::NOENT) => Ok(LogPage { lines: Vec::new(), next_offset: after_offset, at_end: true }),
            Err(errno) => Err(WorkspaceError::making("read the log", &path)(errno)),
        }
    }

    /// Removes the logs of all attempts of a run.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, run: &RunId) -> Result<(), WorkspaceError> {
        let removed = match beneath::base(&self.root, FOLDER) {
            Ok(folder) => removal::remove_tree(folder, run.as_str()),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        };
        removed.map_err(|errno| WorkspaceError::making("remove the logs", &format!("{FOLDER}/{run}"))(errno))
    }

    fn read_at(&self, path: &str, offset: u64) -> Result<Vec<u8>, Errno> {
        let file = beneath::open(&self.root, path, OFlags::RDONLY, Mode::empty())?;
        let mut chunk = vec![0; PAGE_BYTES];
        let mut filled = 0;
        while let Some(room) = chunk.get_mut(filled..).filter(|room| !room.is_empty()) {
            match pread(&file, room, offset.saturating_add(filled as u64)) {
                // An offset past what a file can have is past its end.
                Ok(0) | Err(Errno::INVAL) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        chunk.truncate(filled);
        Ok(chunk)
    }

    /// Opens an attempt's file for appending.
    fn append(&self, run: &RunId, attempt: u32) -> Result<OwnedFd, Errno> {
        let private = Mode::from_raw_mode(0o700);
        let folder = beneath::make_directories(&self.root, &format!("{FOLDER}/{run}"), private)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        beneath::open(folder, file_name(attempt), flags, Mode::from_raw_mode(0o600))
    }
}

fn file_name(attempt: u32) -> String {
    format!("{attempt}.jsonl")
}

fn path_of(run: &RunId, attempt: u32) -> String {
    format!("{FOLDER}/{run}/{}", file_name(attempt))
}

/// The whole lines of a chunk. What is not a log line, as a crash of the machine can leave it, is passed over.
fn page_of(chunk: &[u8], offset: u64, limit: usize) -> LogPage {
    let is_full = chunk.len() == PAGE_BYTES;
    let mut page = LogPage { lines: Vec::new(), next_offset: offset, at_end: false };
    let mut rest = chunk;
    while page.lines.len() < limit {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            // A line longer than a page is not ours: pass over it.
            if is_full && rest.len() == chunk.len() {
                page.next_offset = page.next_offset.saturating_add(rest.len() as u64);
            }
            page.at_end = !is_full;
            return page;
        };
        let (line, after) = rest.split_at(end + 1);
        page.lines.extend(serde_json::from_slice::<LogLine>(line));
        page.next_offset = page.next_offset.saturating_add(line.len() as u64);
        rest = after;
    }
    page.at_end = rest.is_empty() && !is_full;
    page
}
