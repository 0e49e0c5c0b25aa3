//! The backup file: lines of JSON. The first says what it is, the last how many lines of each kind there are and what they hash to.
//!
//! Invariant: a file of that name is whole: it is written under another name, brought to the disk and then named. Nothing of a file is
//! given out before all of it was found to be as it was written.
//!
//! How it fails: a file that was cut off or altered is refused with a sentence; what was begun and not ended is removed.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::fs::{self, File};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};

use super::line::{self, Line};
use super::walk::Pages;
use super::{Digest, Page, TransferError};
use crate::domain::time::Timestamp;

/// The form of the file that this sandclock writes and reads.
const FORM: u32 = 1;
/// What a backup begins with.
const BEGIN: &[u8] = b"{\"sandclock_backup\":";
/// No line is longer than this: a body with every byte spelled out, and what stands beside it.
const LONGEST: u64 = 8 * 1024 * 1024;
/// The most lines of a page,
const LINES: usize = 1024;
/// unless its bodies come to so many bytes before.
const BYTES: usize = 4 * 1024 * 1024;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The form of the file.
    pub sandclock_backup: u32,
    /// The version of the sandclock that wrote it.
    pub version: String,
    /// The kind of the store.
    pub store: String,
    /// When it was begun, by the clock of the store.
    pub at: Timestamp,
    /// What all fences of the store lay above.
    pub fences_above: u64,
}

impl Header {
    /// The header of a file that is written now.
    pub fn new(store: &str, at: Timestamp, fences_above: u64) -> Header {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Header { sandclock_backup: FORM, version, store: store.to_owned(), at, fences_above }
    }
}

/// The last line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Footer {
    end: End,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct End {
    counts: BTreeMap<String, u64>,
    blake3: String,
}

impl End {
    fn of(digest: &Digest, hasher: &blake3::Hasher) -> End {
        let counts = digest.kinds().map(|(kind, tally)| (kind.to_owned(), tally.count)).collect();
        End { counts, blake3: hasher.finalize().to_hex().to_string() }
    }
}

fn fault(path: &Path, what: impl Into<String>) -> TransferError {
    TransferError::File { path: path.display().to_string(), what: what.into() }
}

/// A file under its first name, which is removed unless it gets its own.
struct Begun {
    path: PathBuf,
    is_named: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.is_named {
            // It may not even have been made.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes all pages into a new file that only its owner can read.
///
/// # Errors
/// There is such a file already, a page cannot be had, or the file cannot be written.
pub async fn write_backup(
    path: &Path,
    header: &Header,
    pages: &mut dyn Pages,
    mut told: impl FnMut(&Digest) + Send,
) -> Result<Digest, TransferError> {
    let unwritable = |error: std::io::Error| fault(path, format!("cannot be written: {error}; see that its folder exists and has room"));
    if fs::try_exists(path).await.map_err(unwritable)? {
        return Err(fault(path, "is there already and is left as it is; give the backup another name"));
    }
    let name = path.file_name().ok_or_else(|| fault(path, "is no name of a file; give the backup one"))?.to_string_lossy();
    let mut begun = Begun { path: path.with_file_name(format!(".{name}.{}", std::process::id())), is_named: false };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = fs::OpenOptions::from(options).open(&begun.path).await.map_err(unwritable)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let (mut digest, mut hasher) = (Digest::default(), blake3::Hasher::new());
    let mut lines = line::json(header);
    loop {
        hasher.update(&lines);
        out.write_all(&lines).await.map_err(unwritable)?;
        lines.clear();
        let Some(page) = pages.next().await? else { break };
        digest.take(&page, |line| lines.extend_from_slice(line));
        told(&digest);
    }
    let end = line::json(&Footer { end: End::of(&digest, &hasher) });
    out.write_all(&end).await.map_err(unwritable)?;
    out.flush().await.map_err(unwritable)?;
    out.get_ref().sync_all().await.map_err(unwritable)?;
    fs::rename(&begun.path, path).await.map_err(unwritable)?;
    begun.is_named = true;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).await.map_err(unwritable)?.sync_all().await.map_err(unwritable)?;
    Ok(digest)
}

/// What a backup was found to hold, all of it as it was written.
pub struct Verified {
    /// Its first line.
    pub header: Header,
    /// All records and events.
    pub digest: Digest,
}

/// A backup that is read.
pub struct BackupFile {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
    header: Header,
    digest: Digest,
    hasher: blake3::Hasher,
    is_at_end: bool,
}

impl BackupFile {
    /// Opens a backup and reads its first line.
    ///
    /// # Errors
    /// It cannot be read, or is no backup of a form that is known.
    pub async fn open(path: &Path) -> Result<BackupFile, TransferError> {
        let file = File::open(path).await.map_err(|error| fault(path, format!("cannot be read: {error}; name one that can")))?;
        let header = Header::new("", Timestamp::default(), 0);
        let mut backup = BackupFile {
            path: path.to_owned(),
            lines: BufReader::with_capacity(1 << 20, file),
            number: 0,
            header,
            digest: Digest::default(),
            hasher: blake3::Hasher::new(),
            is_at_end: false,
        };
        let begin = backup.lines.fill_buf().await.map_err(|error| fault(path, format!("cannot be read: {error}; see to its disk")))?;
        if !begin.starts_with(BEGIN) {
            return Err(fault(path, "is no backup of a sandclock store; name one"));
        }
        let first = backup.line().await?;
        let form: Option<serde_json::Value> = serde_json::from_slice(&first).ok();
        let form = form.as_ref().and_then(|header| header.get("sandclock_backup")?.as_u64()).unwrap_or(0);
        if form != u64::from(FORM) {
            return Err(fault(path, format!("is a backup of form {form} and this sandclock knows {FORM}; use the one that wrote it")));
        }
        backup.header = serde_json::from_slice(&first).map_err(|_| backup.damaged("is not what a backup begins with"))?;
        backup.hasher.update(&first);
        Ok(backup)
    }

    /// Its first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads a backup to its end and answers what it holds.
    ///
    /// # Errors
    /// It is not as it was written.
    pub async fn verify(path: &Path) -> Result<Verified, TransferError> {
        let mut backup = BackupFile::open(path).await?;
        while backup.next().await?.is_some() {}
        Ok(Verified { header: backup.header, digest: backup.digest })
    }

    fn damaged(&self, what: &str) -> TransferError {
        let what = format!("is not as it was written: line {} {what}; nothing more is read of it, use another backup", self.number);
        fault(&self.path, what)
    }

    /// The next line with its end; empty behind the last.
    async fn line(&mut self) -> Result<Vec<u8>, TransferError> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut line).await;
        read.map_err(|error| fault(&self.path, format!("cannot be read: {error}; see to its disk")))?;
        self.number += 1;
        if !line.is_empty() && line.last() != Some(&b'\n') {
            return Err(self.damaged("is cut off"));
        }
        Ok(line)
    }

    /// The last line must say what was read, and nothing may follow.
    async fn end(&mut self, footer: Footer) -> Result<(), TransferError> {
        if footer.end != End::of(&self.digest, &self.hasher) {
            return Err(self.damaged("says otherwise than the lines before it: one of them was altered or is missing"));
        }
        if !self.line().await?.is_empty() {
            return Err(self.damaged("comes behind the last"));
        }
        self.is_at_end = true;
        Ok(())
    }
}

#[async_trait]
impl Pages for BackupFile {
    async fn next(&mut self) -> Result<Option<Page>, TransferError> {
        let (mut page, mut bytes) = (Page::default(), 0);
        while !self.is_at_end && page.records.len() + page.events.len() < LINES && bytes < BYTES {
            let line = self.line().await?;
            if line.is_empty() {
                return Err(self.damaged("is missing, and it is not the last: the file is cut off"));
            }
            if let Ok(footer) = serde_json::from_slice::<Footer>(&line) {
                self.digest.take(&page, |_| ());
                self.end(footer).await?;
                return Ok((!page.records.is_empty() || !page.events.is_empty()).then_some(page));
            }
            self.hasher.update(&line);
            bytes += line.len();
            match line::read(&line) {
                Some(Line::Record(whole)) => page.records.push(*whole),
                Some(Line::Event(event)) => page.events.push(event),
                None => return Err(self.damaged("is neither a record nor an event")),
            }
        }
        self.digest.take(&page, |_| ());
        Ok((!self.is_at_end).then_some(page))
    }
}
