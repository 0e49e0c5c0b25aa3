//! The plugins folder as a catalogue of live digests: scan, watcher, validation and compile cache.
//!
//! Invariant: what [`Catalogue::serving`] gives for a stem is always a whole component that was read, validated, compiled
//! and prepared; it is swapped in one step, and whoever holds the older one keeps it. A file that is half-written, bad or
//! refused changes nothing but its own line in [`Catalogue::list`], where the reason stands; only removing the file takes
//! a plugin out of the catalogue.
//!
//! How it fails: a folder that cannot be read leaves everything as it was and is told by [`Catalogue::fault`]; a cache that
//! cannot be trusted is not used, so that components are compiled again; notifications that do not come are made up for by
//! a rescan every [`PluginSettings::poll_interval`].
//!
//! ```text
//! watch ─ event or poll ─▶ survey (stat) ─▶ books (what changed) ─▶ loader (read, hash, cache, compile, prepare) ─▶ books
//! ```

mod books;
mod cache;
mod catalogue;
mod compile;
mod digest;
mod folder;
mod loader;
mod prescan;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::Component;

use crate::domain::time::Timestamp;

pub use catalogue::{Catalogue, ScanSummary};
pub use digest::{Digest, InvalidDigest};
pub use loader::{Loader, Refused};

/// Makes of a compiled component what an attempt starts from, or says why this daemon does not accept it.
pub trait Preparer: Send + Sync + 'static {
    /// What an attempt starts from. It is made once for each digest and shared.
    type Prepared: Send + Sync + 'static;

    /// Prepares a component. Called off the runtime's threads; it must not run guest code.
    ///
    /// # Errors
    /// The sentence of refusal.
    fn prepare(&self, component: &Component) -> Result<Self::Prepared, String>;
}

/// Where plugins are and what may be spent on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSettings {
    /// The folder whose top level holds the plugins.
    pub folder: PathBuf,
    /// The private directory of the compile cache, outside of every workspace and of the plugins folder.
    pub cache: PathBuf,
    /// The largest plugin file, in bytes.
    pub max_file_bytes: u64,
    /// The longest that a component of less than 1 MiB may take to compile; a larger one has a quarter of it more for each MiB.
    pub compile_time_limit: Duration,
    /// How many threads compile, at least one. They run at a low priority.
    pub compile_threads: usize,
    /// How often the folder is looked at without a notification.
    pub poll_interval: Duration,
}

impl PluginSettings {
    /// The settings for a folder and a cache directory, with the defaults for all else.
    pub fn new(folder: impl Into<PathBuf>, cache: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        PluginSettings {
            folder: folder.into(),
            cache: cache.into(),
            max_file_bytes: 64 << 20,
            compile_time_limit: Duration::from_secs(60),
            compile_threads: cores.min(4),
            poll_interval: Duration::from_secs(2),
        }
    }
}

/// Why the plugins room cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The plugins folder is not there and cannot be made.
    #[error("the plugins folder `{path}` cannot be used: {source}; make it a directory that the daemon may read")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The threads that compile cannot be started.
    #[error("the threads that compile plugins cannot be started: {0}; allow the daemon more threads")]
    Threads(String),
}

/// A digest that attempts can start from.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The plugin's digest.
    pub digest: Digest,
    /// The plugin's stem, which is the id of its agent.
    pub stem: String,
    /// What the preparer made; two plugins with the same bytes share it.
    pub prepared: Arc<T>,
}

/// What became of a plugin file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PluginState {
    /// It is being read, validated or compiled.
    Compiling,
    /// It serves.
    Accepted {
        /// The digest of the file.
        digest: Digest,
    },
    /// It does not serve.
    Rejected {
        /// The sentence that says why, and the mend.
        reason: String,
    },
}

/// One plugin file of the folder, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginStatus {
    /// The file's name without `.wasm`, with unprintable characters escaped.
    pub stem: String,
    /// The file's name, with unprintable characters escaped.
    pub file_name: String,
    /// The file's size in bytes, zero where it cannot be told.
    pub size_bytes: u64,
    /// When the file was last written, as far as its file system tells.
    pub modified_at: Option<Timestamp>,
    /// What became of it.
    pub state: PluginState,
    /// The digest that new attempts of this plugin start from; an older one where the file as it is now is not accepted.
    pub serving: Option<Digest>,
}
