//! What a workspace held when it was uploaded: its names, and of which objects its files are made.
//!
//! Invariant: a manifest that was read is a tree of plain names, every directory before what is in it, so that nothing made of it lies
//! outside; whoever reads one that is anything else is told so.

use blake3::Hash;
use rustix::fs::Stat;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::time::Timestamp;
use crate::workspace::listing::{from_cursor, to_cursor};
use crate::workspace::usage::DiskUsage;

/// The largest object that a file is made of, in bytes. A larger file is several objects: each is checked before any of it is used, and
/// of a file that grew only its end is uploaded again.
pub(super) const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// The same as a length in memory.
pub(super) const PIECE_LENGTH: usize = 8 * 1024 * 1024;

/// The largest manifest, in bytes; about a million names.
pub(super) const LARGEST: u64 = 512 * 1024 * 1024;

const VERSION: u32 = 1;

/// An object with a part of a file: under which fence it was uploaded, and the hash of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Piece {
    pub(super) fence: u64,
    pub(super) hash: Hash,
}

impl Serialize for Piece {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&format_args!("{}/{}", self.fence, self.hash))
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Piece, D::Error> {
        let text = String::deserialize(from)?;
        let read =
            text.split_once('/').and_then(|(fence, hash)| Some(Piece { fence: fence.parse().ok()?, hash: Hash::from_hex(hash).ok()? }));
        read.ok_or_else(|| D::Error::custom("a piece that is no fence and hash"))
    }
}

/// A file name: any bytes, written as text that carries all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) Vec<u8>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&to_cursor(&self.0))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        String::deserialize(from).map(|text| Name(from_cursor(&text)))
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub(super) enum What {
    Dir,
    File {
        size: u64,
        pieces: Vec<Piece>,
    },
    Symlink {
        to: Name,
    },
    /// A further name of the file that this entry is.
    Same {
        as_entry: u32,
    },
}

/// One name of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The directory that it is in: 0 for the workspace itself, else the number of an earlier entry, the first of which is 1.
    #[serde(rename = "in")]
    pub(super) parent: u32,
    pub(super) name: Name,
    pub(super) mode: u32,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, u32),
    #[serde(flatten)]
    pub(super) what: What,
}

impl Entry {
    pub(super) fn new(parent: u32, name: &[u8], stat: &Stat, what: What) -> Entry {
        let modified = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Entry { parent, name: Name(name.to_vec()), mode: stat.st_mode & 0o777, modified, what }
    }

    pub(super) fn modified_at(&self) -> Timestamp {
        Timestamp::from_micros(self.modified.0.saturating_mul(1_000_000).saturating_add(i64::from(self.modified.1 / 1000)))
    }
}

/// All names of a workspace.
#[derive(Debug, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
    /// What is in each directory, by the number of the directory.
    inside: Vec<Vec<u32>>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    piece_bytes: u64,
    entries: &'a [Entry],
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    piece_bytes: u64,
    entries: Vec<Entry>,
}

impl Manifest {
    /// A manifest of these entries, or what is wrong with them.
    pub(super) fn of(entries: Vec<Entry>) -> Result<Manifest, String> {
        let mut inside: Vec<Vec<u32>> = vec![Vec::new(); entries.len() + 1];
        let what = |number: u32| entries.get(usize::try_from(number).ok()?.checked_sub(1)?).map(|entry| &entry.what);
        for (entry, number) in entries.iter().zip(1_u32..) {
            let name = &entry.name.0;
            let is_plain = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0) && !matches!(name.as_slice(), b"." | b"..");
            if !is_plain {
                return Err("a name that no file can have".to_owned());
            }
            let is_inside = entry.parent < number && (entry.parent == 0 || matches!(what(entry.parent), Some(What::Dir)));
            let fits = match &entry.what {
                What::File { size, pieces } => pieces.len() as u64 == size.div_ceil(PIECE_BYTES),
                What::Same { as_entry } => *as_entry < number && matches!(what(*as_entry), Some(What::File { .. })),
                What::Symlink { to } => !to.0.contains(&0),
                What::Dir => true,
            };
            match inside.get_mut(entry.parent as usize).filter(|_| is_inside && fits) {
                Some(of) => of.push(number),
                None => return Err("an entry that does not fit the others".to_owned()),
            }
        }
        Ok(Manifest { entries, inside })
    }

    /// As it is kept in the bucket.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(&Written { version: VERSION, piece_bytes: PIECE_BYTES, entries: &self.entries })
            .map_err(|error| error.to_string())
    }

    /// From what the bucket has.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Manifest, String> {
        let read: Read = serde_json::from_slice(bytes).map_err(|error| format!("it is no manifest: {error}"))?;
        if (read.version, read.piece_bytes) != (VERSION, PIECE_BYTES) {
            return Err("a later sandclock has written it".to_owned());
        }
        Manifest::of(read.entries)
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// An entry by its number.
    pub(super) fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// The numbers of what is in a directory.
    pub(super) fn inside(&self, number: u32) -> &[u32] {
        self.inside.get(number as usize).map_or(&[], Vec::as_slice)
    }

    /// The names that lead to an entry, from the workspace down.
    pub(super) fn parts(&self, number: u32) -> Vec<&[u8]> {
        let mut parts = Vec::new();
        let mut at = number;
        while let Some(entry) = self.entry(at) {
            parts.push(entry.name.0.as_slice());
            at = entry.parent;
        }
        parts.reverse();
        parts
    }

    /// Every object that its files are made of.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.entries.iter().flat_map(|entry| match &entry.what {
            What::File { pieces, .. } => pieces.as_slice(),
            _ => &[],
        })
    }

    /// What it takes on a disk.
    pub fn usage(&self) -> DiskUsage {
        let bytes = |entry: &Entry| if let What::File { size, .. } = entry.what { size } else { 0 };
        let bytes = self.entries.iter().map(bytes).fold(0, u64::saturating_add);
        DiskUsage { bytes, entries: self.entries.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &str) -> Result<Manifest, String> {
        Manifest::from_bytes(format!("{{\"version\":1,\"piece_bytes\":{PIECE_BYTES},\"entries\":[{entries}]}}").as_bytes())
    }

    fn entry(parent: u32, name: &str, what: &str) -> String {
        format!("{{\"in\":{parent},\"name\":\"{name}\",\"mode\":420,\"modified\":[0,0],{what}}}")
    }

    #[test]
    fn only_a_tree_of_plain_names_is_a_manifest() {
        let (dir, link) = ("\"is\":\"dir\"", "\"is\":\"symlink\",\"to\":\"/etc\"");
        let file = format!("\"is\":\"file\",\"size\":1,\"pieces\":[\"3/{}\"]", blake3::hash(b"x"));
        assert!(read(&[entry(0, "a", dir), entry(1, "b%0A", &file), entry(1, "l", link)].join(",")).is_ok());
        for name in ["", ".", "..", "a/b", "a%2Fb", "%2E%2E", "a%00"] {
            assert!(read(&entry(0, name, dir)).is_err(), "{name}");
        }
        // Inside itself, inside what is behind it, inside a file, inside a link.
        for entries in [
            entry(1, "a", dir),
            [entry(2, "a", dir), entry(0, "b", dir)].join(","),
            [entry(0, "a", &file), entry(1, "b", dir)].join(","),
            [entry(0, "a", link), entry(1, "b", dir)].join(","),
        ] {
            assert!(read(&entries).is_err(), "{entries}");
        }
        let same = |of: u32| format!("\"is\":\"same\",\"as_entry\":{of}");
        assert!(read(&[entry(0, "a", &file), entry(0, "b", &same(1))].join(",")).is_ok());
        assert!(read(&[entry(0, "a", dir), entry(0, "b", &same(1))].join(",")).is_err());
        assert!(read(&entry(0, "b", &same(1))).is_err());
        assert!(read(&entry(0, "a", &file.replace("\"size\":1", "\"size\":8388609"))).is_err(), "a piece is missing");
        assert!(read(&entry(0, "a", &file.replace("3/", "../3/"))).is_err());
        assert!(Manifest::from_bytes(b"{\"version\":2,\"piece_bytes\":8388608,\"entries\":[]}").is_err());
    }
}
