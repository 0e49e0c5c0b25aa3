//! Fills an empty directory with what a manifest names.
//!
//! Invariant: nothing is written outside the directory, and no byte that was not checked. How it fails: with the directory partly filled,
//! which is not a workspace until it is given the name of one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, chmodat, ftruncate, linkat, mkdirat, symlinkat, utimensat};
use rustix::io::{Errno, pwrite};

use super::manifest::{Manifest, PIECE_BYTES, What};
use super::{AT_ONCE, Bucket, BucketError, GoOn, blocking, local, scan};
use crate::domain::id::RunId;
use crate::workspace::copy::Fault;
use crate::workspace::error::shown;
use crate::workspace::{DiskUsage, EVENTS_JSONL, OUTPUT_MD, RUN_JSON, WorkspaceError, beneath};

const DOING: &str = "download the workspace of";

/// One piece of a file that is to be written: of which entry, which piece of it, and how many bytes it has.
struct Part {
    number: u32,
    at: u64,
    bytes: u64,
    piece: super::manifest::Piece,
}

impl Bucket {
    /// Fills an empty directory; answers what it holds then. No more than `most` is downloaded, mirrors apart.
    ///
    /// # Errors
    /// The bucket or the disk refuse, there is more than may be, an object is missing or differs, or the attempt may not go on.
    pub async fn fill(
        &self,
        run: &RunId,
        manifest: &Arc<Manifest>,
        into: &Arc<OwnedFd>,
        most: DiskUsage,
        may_go_on: &GoOn,
    ) -> Result<DiskUsage, BucketError> {
        if !fits(manifest, most) {
            return Err(WorkspaceError::TooLarge { path: shown(run.as_str()), bytes: most.bytes, files: most.entries }.into());
        }
        let (names, dir, go_on) = (Arc::clone(manifest), Arc::clone(into), Arc::clone(may_go_on));
        blocking(move || make(&names, &dir, &go_on)).await?.map_err(|fault| local(DOING, run, fault))?;
        let parts = parts(manifest).map(|part| self.part(run, manifest, into, part, may_go_on));
        stream::iter(parts).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let (names, dir, go_on) = (Arc::clone(manifest), Arc::clone(into), Arc::clone(may_go_on));
        blocking(move || finish(&names, &dir, &go_on)).await?.map_err(|fault| local(DOING, run, fault))?;
        // A quota counts what links point to by name.
        let targets = manifest.entries().iter().map(|entry| if let What::Symlink { to } = &entry.what { to.0.len() as u64 } else { 0 });
        let usage = manifest.usage();
        Ok(DiskUsage { bytes: targets.fold(usage.bytes, u64::saturating_add), ..usage })
    }

    async fn part(
        &self,
        run: &RunId,
        manifest: &Arc<Manifest>,
        into: &Arc<OwnedFd>,
        part: Part,
        may_go_on: &GoOn,
    ) -> Result<(), BucketError> {
        let _room = self.room(part.bytes).await;
        if !may_go_on() {
            return Err(local(DOING, run, Fault::Stopped));
        }
        let content = self.piece_of(run, &part.piece, part.bytes).await?;
        // What was a hole, or as good as one, need not take room.
        if content.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let (names, dir) = (Arc::clone(manifest), Arc::clone(into));
        let written = blocking(move || write(&names, &dir, &part, &content)).await?;
        written.map_err(|errno| local(DOING, run, errno.into()))
    }

    /// The bytes of a piece, checked.
    pub(super) async fn piece_of(&self, run: &RunId, piece: &super::manifest::Piece, bytes: u64) -> Result<Bytes, BucketError> {
        self.fetch(&self.piece_key(run, piece.fence, piece.hash), piece.hash, bytes).await
    }
}

fn fits(manifest: &Manifest, most: DiskUsage) -> bool {
    let is_mirror = |name: &[u8]| [RUN_JSON, EVENTS_JSONL, OUTPUT_MD].iter().any(|mirror| mirror.as_bytes() == name);
    let mut counted = DiskUsage::default();
    for entry in manifest.entries().iter().filter(|entry| !(entry.parent == 0 && is_mirror(&entry.name.0))) {
        counted.entries += 1;
        if let What::File { size, .. } = entry.what {
            counted.bytes = counted.bytes.saturating_add(size);
        }
    }
    counted.bytes <= most.bytes && counted.entries <= most.entries
}

/// The parts of all files.
fn parts(manifest: &Manifest) -> impl Iterator<Item = Part> {
    manifest.entries().iter().zip(1_u32..).flat_map(|(entry, number)| {
        let (size, pieces) = match &entry.what {
            What::File { size, pieces } => (*size, pieces.as_slice()),
            _ => (0, &[] as &[_]),
        };
        pieces.iter().zip(0_u64..).map(move |(piece, at)| Part {
            number,
            at,
            bytes: size.saturating_sub(at * PIECE_BYTES).min(PIECE_BYTES),
            piece: *piece,
        })
    })
}

/// The directory in which the last entry was, which is mostly the next one's too.
struct Folders<'a> {
    manifest: &'a Manifest,
    top: &'a OwnedFd,
    last: Option<(u32, OwnedFd)>,
}

impl Folders<'_> {
    fn of(&mut self, number: u32) -> Result<&OwnedFd, Errno> {
        let found = match self.last.take() {
            Some((of, dir)) if of == number => dir,
            // The directory that was made last lies in the one that was used last.
            Some((of, dir)) if self.manifest.entry(number).is_some_and(|entry| entry.parent == of) => {
                let name = self.manifest.entry(number).map(|entry| entry.name.0.as_slice()).unwrap_or_default();
                beneath::base(&dir, name)?
            }
            _ => scan::directory(self.top, &self.manifest.parts(number))?,
        };
        Ok(&self.last.insert((number, found)).1)
    }
}

/// Makes all names; files are as long as they will be.
fn make(manifest: &Manifest, top: &OwnedFd, may_go_on: &GoOn) -> Result<(), Fault> {
    let mut folders = Folders { manifest, top, last: None };
    for entry in manifest.entries() {
        if !may_go_on() {
            return Err(Fault::Stopped);
        }
        let (dir, name) = (folders.of(entry.parent)?, entry.name.0.as_slice());
        match &entry.what {
            What::Dir => mkdirat(dir, name, Mode::RWXU)?,
            What::File { size, .. } => {
                let file = beneath::open(dir, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)?;
                ftruncate(&file, *size)?;
            }
            What::Symlink { to } => symlinkat(to.0.as_slice(), dir, name)?,
            // Its file's name is made, for that has a lower number.
            What::Same { as_entry } => {
                let parts = manifest.parts(*as_entry);
                let (of, above) = parts.split_last().ok_or(Errno::NOENT)?;
                let from = scan::directory(top, above)?;
                linkat(&from, *of, dir, name, AtFlags::empty())?;
            }
        }
    }
    Ok(())
}

fn write(manifest: &Manifest, top: &OwnedFd, part: &Part, content: &[u8]) -> Result<(), Errno> {
    let file = scan::open(top, &manifest.parts(part.number), OFlags::WRONLY)?;
    let (mut left, mut at) = (content, part.at * PIECE_BYTES);
    while !left.is_empty() {
        match pwrite(&file, left, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                left = left.get(written..).unwrap_or_default();
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives modes and times, directories after what is in them.
fn finish(manifest: &Manifest, top: &OwnedFd, may_go_on: &GoOn) -> Result<(), Fault> {
    let mut folders = Folders { manifest, top, last: None };
    for entry in manifest.entries().iter().rev() {
        if !may_go_on() {
            return Err(Fault::Stopped);
        }
        let (dir, name) = (folders.of(entry.parent)?, entry.name.0.as_slice());
        if matches!(entry.what, What::Dir | What::File { .. }) {
            chmodat(dir, name, Mode::from_raw_mode(entry.mode & 0o777), AtFlags::empty())?;
        }
        let at = Timespec { tv_sec: entry.modified.0, tv_nsec: i64::from(entry.modified.1) };
        utimensat(dir, name, &Timestamps { last_access: at, last_modification: at }, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
