//! The daemon's lasting id, in a locked file of its data directory.
//!
//! Invariant: while a daemon lives nobody else has its id, so whoever holds it may take back what older incarnations left.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::clock::Entropy;
use crate::domain::id::WorkerId;

/// Why there is no id.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another daemon lives in the directory.
    #[error("another daemon uses the data directory `{0}`; stop it, or give this one a directory of its own (paths.data)")]
    Taken(PathBuf),
    /// The file cannot be used.
    #[error("the daemon's id file `{path}` cannot be used: {source}; make its directory writable for the daemon")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// This incarnation of the daemon. The id stays taken for as long as it lives.
#[derive(Debug)]
pub struct Identity {
    worker: WorkerId,
    _locked: File,
}

impl Identity {
    /// Takes the id of a data directory, or makes one.
    ///
    /// # Errors
    /// Another daemon has it, or the file cannot be used.
    pub fn take(data: &Path, entropy: &dyn Entropy) -> Result<Identity, IdentityError> {
        let path = data.join("daemon.id");
        let broken = |source: std::io::Error| IdentityError::File { path: path.clone(), source };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(broken)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(IdentityError::Taken(data.to_owned()));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(broken)?;
        let known = text.trim();
        let is_id = known.len() == 20 && known.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = if is_id {
            known.to_owned()
        } else {
            let id = entropy.hex_name();
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{id}"))
                .and_then(|()| file.sync_all())
                .map_err(broken)?;
            id
        };
        let worker = WorkerId::of(&format!("worker_{id}"), &entropy.hex_name());
        let worker = worker.map_err(|error| broken(std::io::Error::other(error.to_string())))?;
        Ok(Identity { worker, _locked: file })
    }

    /// The worker's id.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }
}
