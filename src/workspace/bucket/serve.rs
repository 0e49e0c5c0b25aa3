//! Shows what a manifest names as the listing and the download of a directory on this machine would: the same pages, bytes and errors.

use bytes::Bytes;
use futures::{Stream, stream};
use std::sync::Arc;

use super::manifest::{Entry, Manifest, PIECE_BYTES, What};
use super::{Bucket, BucketError, TURN};
use crate::domain::id::RunId;
use crate::domain::time::Timestamp;
use crate::workspace::error::shown;
use crate::workspace::listing::{DEEPEST, LARGEST_PAGE, WIDEST, from_cursor, note_of, to_cursor};
use crate::workspace::{FileEntry, FileKind, FilePage, WorkspaceError, beneath};

/// A file of a workspace in the bucket.
#[derive(Clone, Debug)]
pub struct BucketFile {
    run: RunId,
    manifest: Arc<Manifest>,
    number: u32,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, as the file system or the guest said.
    pub modified_at: Timestamp,
}

impl Manifest {
    /// One page of its entries, as [`crate::workspace::Workspaces::list`] gives it.
    pub fn list(&self, after: Option<&str>, limit: usize) -> FilePage {
        let mut lister = Lister {
            manifest: self,
            after: after.map(from_cursor),
            limit: limit.clamp(1, LARGEST_PAGE),
            last: Vec::new(),
            more: false,
            page: FilePage::default(),
        };
        lister.directory(0, b"", 1);
        lister.page.next = lister.more.then(|| to_cursor(&lister.last));
        lister.page
    }

    /// Whether something has this name at its top.
    pub fn has(&self, name: &str) -> bool {
        self.inside(0).iter().any(|number| self.entry(*number).is_some_and(|entry| entry.name.0 == name.as_bytes()))
    }

    /// The file of a path as the listing shows it; `workspace` is the workspace's own path, for the messages.
    ///
    /// # Errors
    /// As [`crate::workspace::Workspaces::open_file`].
    pub fn open(self: &Arc<Self>, run: &RunId, workspace: &str, file: &str) -> Result<BucketFile, WorkspaceError> {
        beneath::check_workspace(workspace)?;
        beneath::check_file(file)?;
        let path = || shown(&format!("{workspace}/{file}"));
        let mut at = 0;
        for part in file.split('/') {
            let found = self.inside(at).iter().find(|number| self.entry(**number).is_some_and(|entry| entry.name.0 == part.as_bytes()));
            let Some(number) = found else { return Err(WorkspaceError::NotFound { path: path() }) };
            at = *number;
            if matches!(self.entry(at).map(|entry| &entry.what), Some(What::Symlink { .. })) {
                return Err(WorkspaceError::Link { path: path() });
            }
        }
        let modified_at = self.entry(at).map(Entry::modified_at).unwrap_or_default();
        if let Some(What::Same { as_entry }) = self.entry(at).map(|entry| &entry.what) {
            at = *as_entry;
        }
        match self.entry(at).map(|entry| &entry.what) {
            Some(What::File { size, .. }) => {
                Ok(BucketFile { run: run.clone(), manifest: Arc::clone(self), number: at, size: *size, modified_at })
            }
            _ => Err(WorkspaceError::NotAFile { path: path() }),
        }
    }

    /// The length of a regular file.
    fn size_of(&self, entry: &Entry) -> u64 {
        match &entry.what {
            What::File { size, .. } => *size,
            What::Same { as_entry } => match self.entry(*as_entry).map(|of| &of.what) {
                Some(What::File { size, .. }) => *size,
                _ => 0,
            },
            What::Dir | What::Symlink { .. } => 0,
        }
    }
}

impl Bucket {
    /// The bytes of a file, piece by piece, each checked before it is given. So many at once and no more.
    ///
    /// # Errors
    /// Too many are being read.
    pub async fn read(
        self: Arc<Self>,
        file: BucketFile,
    ) -> Result<impl Stream<Item = Result<Bytes, BucketError>> + Send + 'static, BucketError> {
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.downloads).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(BucketError::Unavailable {
                bucket: self.shown.clone(),
                why: "too many of its files are being read; try again".to_owned(),
            });
        };
        Ok(stream::try_unfold((0_usize, turn), move |(at, turn)| {
            let (bucket, file) = (Arc::clone(&self), file.clone());
            async move {
                let piece = match file.manifest.entry(file.number).map(|entry| &entry.what) {
                    Some(What::File { pieces, .. }) => pieces.get(at),
                    _ => None,
                };
                let Some(piece) = piece else { return Ok(None) };
                let bytes = file.size.saturating_sub(at as u64 * PIECE_BYTES).min(PIECE_BYTES);
                let _room = bucket.room(bytes).await;
                let content = bucket.piece_of(&file.run, piece, bytes).await?;
                Ok(Some((content, (at + 1, turn))))
            }
        }))
    }
}

struct Lister<'a> {
    manifest: &'a Manifest,
    after: Option<Vec<u8>>,
    limit: usize,
    last: Vec<u8>,
    more: bool,
    page: FilePage,
}

impl Lister<'_> {
    /// Lists what is in a directory. `prefix` is its path with a slash at the end, or nothing.
    fn directory(&mut self, number: u32, prefix: &[u8], depth: usize) {
        let after = self.after.as_deref().and_then(|after| after.strip_prefix(prefix)).map(<[u8]>::to_vec);
        let is_wanted = |key: &[u8]| after.as_deref().is_none_or(|after| key > after || (key.ends_with(b"/") && after.starts_with(key)));
        let manifest = self.manifest;
        let inside = manifest.inside(number);
        if inside.len() > WIDEST {
            note_of(&mut self.page, prefix, "has more than 100,000 names, the rest is left out");
        }
        let mut keys: Vec<(Vec<u8>, u32, &Entry)> = Vec::new();
        for (of, entry) in inside.iter().take(WIDEST).filter_map(|of| Some((*of, manifest.entry(*of)?))) {
            let mut key = entry.name.0.clone();
            if is_wanted(&key) {
                keys.push((key.clone(), of, entry));
            }
            if entry.what == What::Dir {
                key.push(b'/');
                if is_wanted(&key) {
                    keys.push((key, of, entry));
                }
            }
        }
        keys.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, of, entry) in keys {
            if key.ends_with(b"/") {
                self.inside(of, &[prefix, &key].concat(), depth)
            } else {
                self.entry(entry, prefix)
            }
            if self.more {
                return;
            }
        }
    }

    fn inside(&mut self, number: u32, path: &[u8], depth: usize) {
        if depth == DEEPEST {
            note_of(&mut self.page, path, "is 64 directories deep, what is in it is left out");
        } else {
            self.directory(number, path, depth + 1);
        }
    }

    fn entry(&mut self, entry: &Entry, prefix: &[u8]) {
        if self.page.entries.len() == self.limit {
            self.more = true;
            return;
        }
        let kind = match entry.what {
            What::Dir => FileKind::Dir,
            What::File { .. } | What::Same { .. } => FileKind::File,
            What::Symlink { .. } => FileKind::Symlink,
        };
        self.last = [prefix, &entry.name.0].concat();
        self.page.entries.push(FileEntry {
            path: String::from_utf8_lossy(&self.last).into_owned(),
            name: String::from_utf8_lossy(&entry.name.0).into_owned(),
            size: self.manifest.size_of(entry),
            modified_at: entry.modified_at(),
            is_dir: kind == FileKind::Dir,
            kind,
        });
    }
}
