//! The directories in which workspaces were made lately, kept open: the next workspace beside them is one call.
//!
//! Invariant: a directory is used without looking it up for a second at most, so that one that was moved away is noticed; one that was
//! removed is noticed at once, because nothing can be made in it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::beneath;

/// How many directories are kept open.
const MOST: usize = 32;
/// How long a directory is trusted to be where it was found.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How often a workspace is tried while other runs' removals take its parents away.
pub(super) const TRIES: usize = 100;
/// Open to whom the umask allows.
pub(super) const MODE: Mode = Mode::from_raw_mode(0o777);

/// The directories above workspaces.
#[derive(Default)]
pub(super) struct Parents {
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    dir: Arc<OwnedFd>,
    found: Instant,
}

impl Parents {
    /// Makes a workspace's directory, and those above it, and opens it; says whether it is new.
    pub(super) fn make(&self, root: impl AsFd, path: &str) -> Result<(OwnedFd, bool), Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        for _ in 0..TRIES {
            match self.make_in(&root, parent, name) {
                // The removal of another run took the parent, which was empty.
                Err(Errno::NOENT) => self.forget(parent),
                other => return other,
            }
        }
        Err(Errno::NOENT)
    }

    fn make_in(&self, root: impl AsFd, parent: &str, name: &str) -> Result<(OwnedFd, bool), Errno> {
        let dir = self.open(root, parent)?;
        let is_fresh = match mkdirat(&dir, name, MODE) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno),
        };
        Ok((beneath::base(&dir, name)?, is_fresh))
    }

    /// Opens a directory above workspaces, made where it is missing.
    pub(super) fn open(&self, root: impl AsFd, parent: &str) -> Result<Arc<OwnedFd>, Errno> {
        let now = Instant::now();
        let is_fresh = |known: &Known| now.saturating_duration_since(known.found) < TRUSTED_FOR;
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get(parent).filter(|known| is_fresh(known)) {
                return Ok(Arc::clone(&known.dir));
            }
        }
        let dir = Arc::new(beneath::make_directories(root, parent, MODE)?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.retain(|_, known| is_fresh(known));
        }
        if known.len() < MOST {
            known.insert(parent.to_owned(), Known { dir: Arc::clone(&dir), found: now });
        }
        Ok(dir)
    }

    /// Looks a directory up anew the next time.
    pub(super) fn forget(&self, parent: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(parent);
    }
}
