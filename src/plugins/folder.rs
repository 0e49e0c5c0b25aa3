//! The folder on disk: which names count, what a file looks like, and reading one whole.
//!
//! Invariant: nothing but a regular file is ever opened to be read, and bytes that were read while the file changed are
//! not used.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::{Digest, Refused};
use crate::domain::id::AgentId;
use crate::domain::time::Timestamp;

/// Two writes closer together than this may leave the same time stamps, so younger stamps do not prove a file unchanged.
const STAMP_GRANULARITY: Duration = Duration::from_millis(20);

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The file's size in bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    #[cfg(test)]
    pub(super) fn numbered(inode: u64) -> Self {
        Stamp { device: 1, inode, size: 1, mtime_ns: 0, ctime_ns: 0 }
    }

    /// Whether a write after `now` would show in the stamp.
    fn settled_at(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled_from = self.ctime_ns.saturating_add(i128::try_from(STAMP_GRANULARITY.as_nanos()).unwrap_or(0));
        i128::try_from(now.as_nanos()).is_ok_and(|now| now >= settled_from)
    }
}

/// One plugin file as a survey of the folder finds it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) name: OsString,
    /// The stem, or why the name cannot be an agent's.
    pub(super) stem: Result<String, String>,
    /// The stamp, or why the file cannot be a plugin.
    pub(super) look: Result<Stamp, String>,
    pub(super) size_bytes: u64,
    pub(super) modified_at: Option<Timestamp>,
}

/// A name for people: no characters that a terminal or a log would act on.
pub(super) fn shown(name: &OsStr) -> String {
    let quote = |c: char| matches!(c, '\'' | '"' | '\\');
    let escape = |c: char| if quote(c) { c.to_string() } else { c.escape_debug().to_string() };
    name.to_string_lossy().chars().map(escape).collect()
}

/// The part of a name before `.wasm`, in any case of letters; none for names that are no plugin's, such as hidden files,
/// editors' temporary files and sources.
pub(super) fn stem_of(name: &OsStr) -> Option<&[u8]> {
    let bytes = name.as_encoded_bytes();
    let (stem, extension) = bytes.split_at_checked(bytes.len().checked_sub(5)?)?;
    let counts = extension.eq_ignore_ascii_case(b".wasm") && !stem.is_empty() && !stem.starts_with(b".");
    counts.then_some(stem)
}

fn agent_id(name: &OsStr, stem: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(stem);
    match AgentId::parse(&text) {
        Ok(id) => Ok(id.as_str().to_owned()),
        Err(error) => Err(format!("the file `{}` cannot name an agent: {error}; rename it", shown(name))),
    }
}

/// Looks at all plugin files at the top level of a folder, in the order of their names.
pub(super) fn survey(folder: &Path, max_file_bytes: u64) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(stem) = stem_of(&name) else { continue };
        let path = folder.join(&name);
        let stem = agent_id(&name, stem);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(metadata) => Ok(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => continue,
            Err(error) => Err(unreadable(&shown(&name), &error)),
        };
        let size_bytes = metadata.as_ref().map_or(0, Metadata::size);
        let modified_at = metadata.as_ref().ok().and_then(|metadata| metadata.modified().ok()).map(timestamp);
        let look = metadata.and_then(|metadata| check(&shown(&name), &metadata, max_file_bytes));
        found.push(Found { name, stem, look, size_bytes, modified_at });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn unreadable(name: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!("`{name}` is a link to a file that does not exist: point it to a component or remove it"),
        _ => format!("`{name}` cannot be read: {error}; let the daemon read it or remove it"),
    }
}

fn check(name: &str, metadata: &Metadata, max_file_bytes: u64) -> Result<Stamp, String> {
    if !metadata.is_file() {
        return Err(format!("`{name}` is not a regular file: put the component itself there, or a link to it"));
    }
    if metadata.size() > max_file_bytes {
        let size = metadata.size();
        return Err(format!("`{name}` has {size} bytes, and a plugin may have {max_file_bytes}: make it smaller or raise the limit"));
    }
    Ok(Stamp::of(metadata))
}

/// What was read of a file with the stamp it was read under.
pub(super) struct Whole<T> {
    pub(super) content: T,
    pub(super) stamp: Stamp,
    /// Whether the stamp proves, from now on, that the content is still this.
    pub(super) settled: bool,
}

/// Reads a file whole into memory.
pub(super) fn read_whole(path: &Path, name: &str, max_file_bytes: u64) -> Result<Whole<Vec<u8>>, Refused> {
    reading(path, name, max_file_bytes, |mut file, size| {
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        file.read_to_end(&mut bytes)?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok((bytes, length))
    })
}

/// The digest of a whole file, without holding it in memory: fresh memory costs more than the hash.
pub(super) fn digest_whole(path: &Path, name: &str, max_file_bytes: u64) -> Result<Whole<Digest>, Refused> {
    reading(path, name, max_file_bytes, |file, _| Digest::of_reader(file))
}

/// Reads a file from one descriptor, and refuses it when it changed meanwhile. `read` gets the file and its size, and
/// answers with how much it read.
fn reading<T>(
    path: &Path,
    name: &str,
    max_file_bytes: u64,
    read: impl FnOnce(io::Take<&File>, u64) -> io::Result<(T, u64)>,
) -> Result<Whole<T>, Refused> {
    let again = |error: io::Error| Refused::for_now(unreadable(name, &error));
    // A pipe or a device must not be opened for real, not even by a race: a look first, and then without blocking.
    check(name, &fs::metadata(path).map_err(again)?, max_file_bytes).map_err(Refused::for_now)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(again)?;
    let now = SystemTime::now();
    let stamp = check(name, &file.metadata().map_err(again)?, max_file_bytes).map_err(Refused::for_now)?;
    let (content, length) = read((&file).take(max_file_bytes.saturating_add(1)), stamp.size).map_err(again)?;
    if length != stamp.size || Stamp::of(&file.metadata().map_err(again)?) != stamp {
        return Err(Refused::for_now(format!("`{name}` is still being written: it is looked at again when that ends")));
    }
    Ok(Whole { content, stamp, settled: stamp.settled_at(now) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_wasm_names_count() {
        for (name, stem) in [
            ("hello.wasm", Some("hello")),
            ("Hello.WASM", Some("Hello")),
            ("a.b.wasm", Some("a.b")),
            (".wasm", None),
            (".hello.wasm", None),
            (".hello.wasm.swp", None),
            ("hello.wasm~", None),
            ("#hello.wasm#", None),
            ("hello.wasm.tmp", None),
            ("hello.wasm.part", None),
            ("hello.cwasm", None),
            ("wasm", None),
            ("README.md", None),
        ] {
            assert_eq!(stem_of(OsStr::new(name)), stem.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn a_stamp_as_young_as_the_look_proves_nothing() {
        let stamp = Stamp { device: 1, inode: 2, size: 3, mtime_ns: 0, ctime_ns: 1_000_000_000 };
        let at = |millis: u64| UNIX_EPOCH + Duration::from_millis(millis);
        assert!(!stamp.settled_at(at(1_000)));
        assert!(!stamp.settled_at(at(900)), "a clock that was set back");
        assert!(stamp.settled_at(at(1_020)));
    }

    #[test]
    fn control_characters_are_shown_escaped() {
        assert_eq!(shown(OsStr::new("ä\u{1b}[2J\u{202e}\"\n.wasm")), "ä\\u{1b}[2J\\u{202e}\"\\n.wasm");
    }
}
