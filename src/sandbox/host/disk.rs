//! An attempt's workspace: the folder, its account, and the file jobs that run for it.
//!
//! Invariant: nothing is written that was not charged before, nor after the attempt may no longer act; no more file jobs run at
//! once than the limits say, and what they hold in memory is bounded.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wasmtime_wasi::filesystem::Dir;
use wasmtime_wasi::{FsPerms, OpenMode};

use super::ledger::{Growth, Inode, Ledger, Refused, Removed};
use crate::domain::agent::Limits;
use crate::domain::receipt::CallKind;
use crate::sandbox::fault::Fault;
use crate::sandbox::meter::Meter;
use crate::sandbox::signals::AttemptSignals;
use crate::sandbox::spec::DiskUse;

/// File streams that a guest may have open at once; each may hold 64 KiB of the host's memory.
const STREAMS: usize = 256;
/// What the folder listings that a guest has open may take of the host's memory.
const LISTING_BYTES: u64 = 16 * 1024 * 1024;

/// The workspace of one attempt.
pub(crate) struct Disk {
    root: Dir,
    ledger: Mutex<Ledger>,
    jobs: Arc<Semaphore>,
    jobs_most: u32,
    streams: AtomicUsize,
    listings: Mutex<HashMap<u32, u64>>,
    meter: Arc<Meter>,
    signals: Arc<AttemptSignals>,
}

fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a workspace, which must be a folder and not a link to one.
///
/// # Errors
/// There is no such folder, or it cannot be opened.
pub(crate) fn open_workspace(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or(0)).open(path)
}

/// Opens a workspace anew that somebody has open already.
///
/// # Errors
/// It cannot be opened for reading.
pub(crate) fn reopen(folder: impl AsFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(openat(folder, c".", flags, Mode::empty())?))
}

impl Disk {
    /// A workspace of which `found` is known.
    pub(crate) fn new(root: File, found: DiskUse, limits: &Limits, meter: Arc<Meter>, signals: Arc<AttemptSignals>) -> Self {
        let most = DiskUse { bytes: limits.disk_bytes, files: limits.disk_files };
        let jobs_most = limits.concurrent_file_calls.clamp(1, 64);
        Disk {
            root: Dir::new(root, FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE, false),
            ledger: Mutex::new(Ledger::new(found, most)),
            jobs: Arc::new(Semaphore::new(jobs_most as usize)),
            jobs_most,
            streams: AtomicUsize::new(0),
            listings: Mutex::default(),
            meter,
            signals,
        }
    }

    /// The folder that the guest sees as `/`.
    pub(crate) fn root(&self) -> Dir {
        self.root.clone()
    }

    /// What the workspace holds, never too little.
    pub(crate) fn used(&self) -> DiskUse {
        unpoisoned(&self.ledger).used()
    }

    /// Counts a file call.
    ///
    /// # Errors
    /// The guest has made too many and has to be trapped.
    pub(crate) fn call(&self) -> Result<(), Fault> {
        self.meter.host_call(CallKind::Files)
    }

    /// Counts a file call that changes something.
    ///
    /// # Errors
    /// The guest has made too many calls, or has to end.
    pub(crate) fn act(&self) -> Result<(), Fault> {
        self.call()?;
        self.signals.halt(0).map_or(Ok(()), |halt| Err(Fault::Halted(halt)))
    }

    /// Looks again whether the attempt may still change something, for a job that had to wait.
    ///
    /// # Errors
    /// A [`Fault`], wrapped, when it may not: whoever waits for the job traps the guest with it.
    pub(crate) fn may_act(&self) -> io::Result<()> {
        self.signals.halt(0).map_or(Ok(()), |halt| Err(io::Error::other(Fault::Halted(halt))))
    }

    /// Notes that the guest has a file open.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub(crate) fn opened(&self, file: &Arc<File>) -> io::Result<()> {
        unpoisoned(&self.ledger).opened(file)
    }

    /// Charges for a file's growth, before it happens; the ticket is held until it has.
    ///
    /// # Errors
    /// `ENOSPC` when there is no room.
    pub(crate) fn grow(self: &Arc<Self>, file: &Arc<File>, growth: Growth) -> io::Result<Ticket> {
        let charged = unpoisoned(&self.ledger).grow(file, growth);
        let inode = charged.map_err(|refused| self.refuse(refused))?;
        Ok(Ticket { disk: Arc::clone(self), file: Arc::clone(file), inode })
    }

    /// Charges for a new name, before it is made; it is given back unless it is kept.
    ///
    /// # Errors
    /// `ENOSPC` when there is no room.
    pub(crate) fn add_name(self: &Arc<Self>, bytes: u64) -> io::Result<NewName> {
        let charged = unpoisoned(&self.ledger).add_name(bytes);
        charged.map_err(|refused| self.refuse(refused))?;
        Ok(NewName { disk: Arc::clone(self), bytes, kept: false })
    }

    /// Credits for a name that was removed.
    pub(crate) fn removed(&self, what: Removed) {
        unpoisoned(&self.ledger).removed(what);
    }

    fn refuse(&self, refused: Refused) -> io::Error {
        match refused {
            Refused::Io(error) => error,
            Refused::Limit(trip) => {
                self.meter.trip(trip);
                Errno::NOSPC.into()
            }
        }
    }

    /// Counts bytes that were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.meter.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Runs a blocking file operation as soon as the limits let it.
    pub(crate) fn job<T: Send + 'static>(&self, operation: impl FnOnce() -> io::Result<T> + Send + 'static) -> Job<T> {
        let jobs = Arc::clone(&self.jobs);
        if let Ok(permit) = Arc::clone(&jobs).try_acquire_owned() {
            return Job(tokio::task::spawn_blocking(move || {
                let result = operation();
                drop(permit);
                result
            }));
        }
        Job(tokio::spawn(async move {
            let permit = jobs.acquire_owned().await.map_err(io::Error::other)?;
            let working = move || {
                let result = operation();
                drop(permit);
                result
            };
            tokio::task::spawn_blocking(working).await.map_err(io::Error::other)?
        }))
    }

    /// Waits until no file job runs any more, within reason: a file system that hangs must not hold the attempt's report.
    pub(crate) async fn idle(&self) {
        if self.jobs.available_permits() < self.jobs_most as usize {
            let _ = tokio::time::timeout(Duration::from_secs(5), self.jobs.acquire_many(self.jobs_most)).await;
        }
    }

    /// Leave to open one more file stream, or none when too many are.
    pub(crate) fn stream(self: &Arc<Self>) -> Option<OpenStream> {
        let before = self.streams.fetch_add(1, Ordering::Relaxed);
        let open = OpenStream { disk: Arc::clone(self) };
        (before < STREAMS).then_some(open)
    }

    /// What a further listing may take of the host's memory.
    pub(crate) fn listing_room(&self) -> u64 {
        LISTING_BYTES.saturating_sub(unpoisoned(&self.listings).values().sum())
    }

    /// Notes that a listing of this size is open.
    pub(crate) fn listing_opened(&self, rep: u32, bytes: u64) {
        unpoisoned(&self.listings).insert(rep, bytes);
    }

    /// Notes that a listing was closed.
    pub(crate) fn listing_closed(&self, rep: u32) {
        unpoisoned(&self.listings).remove(&rep);
    }
}

/// A file's growth that is paid for and under way.
pub(crate) struct Ticket {
    disk: Arc<Disk>,
    file: Arc<File>,
    inode: Inode,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        unpoisoned(&self.disk.ledger).settle(self.inode, &self.file);
    }
}

/// A name that is paid for and about to be made.
pub(crate) struct NewName {
    disk: Arc<Disk>,
    bytes: u64,
    kept: bool,
}

impl NewName {
    /// It was made.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewName {
    fn drop(&mut self) {
        if !self.kept {
            unpoisoned(&self.disk.ledger).drop_name(self.bytes);
        }
    }
}

/// A file stream that is open.
pub(crate) struct OpenStream {
    disk: Arc<Disk>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.disk.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file operation under way; dropping it keeps it from starting, but what has started ends by itself.
pub(crate) struct Job<T>(JoinHandle<io::Result<T>>);

impl<T> Future for Job<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(joined.map_err(io::Error::other).flatten())
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
