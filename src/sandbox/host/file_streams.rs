//! The streams through which guests read and write files.
//!
//! Invariant: a stream has at most one operation under way, of at most 64 KiB; a write is charged before it starts, and one that
//! was accepted is carried out even when the guest drops the stream.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use super::disk::{Disk, Job, OpenStream};
use super::ledger::Growth;
use crate::sandbox::fault::Fault;

/// The most that one operation carries.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// What is read ahead for a guest that only waits.
const READ_AHEAD_BYTES: usize = 4 * 1024;

fn trap(fault: Fault) -> StreamError {
    StreamError::Trap(fault.into())
}

/// The fault for which a job refused to begin.
pub(crate) fn fault_in(error: &io::Error) -> Option<Fault> {
    error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
}

fn failed(error: io::Error) -> StreamError {
    fault_in(&error).map_or_else(|| StreamError::LastOperationFailed(error.into()), trap)
}

enum Reading {
    Idle,
    Busy(Job<Bytes>),
    Data(Bytes),
    Failed(io::Error),
    Closed,
}

/// Reads a file from a position on.
pub(crate) struct FileReader {
    disk: Arc<Disk>,
    file: Arc<File>,
    position: u64,
    state: Reading,
    _open: OpenStream,
}

impl FileReader {
    pub(crate) fn new(disk: Arc<Disk>, file: Arc<File>, position: u64, open: OpenStream) -> Self {
        FileReader { disk, file, position, state: Reading::Idle, _open: open }
    }

    fn start(&mut self, size: usize) {
        let (file, position) = (Arc::clone(&self.file), self.position);
        let mut buffer = vec![0; size.clamp(1, CHUNK_BYTES)];
        self.state = Reading::Busy(self.disk.job(move || {
            let read = loop {
                match file.read_at(&mut buffer, position) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            buffer.truncate(read);
            Ok(Bytes::from(buffer))
        }));
    }

    async fn finish(&mut self) {
        if let Reading::Busy(job) = &mut self.state {
            self.state = match job.await {
                Ok(bytes) if bytes.is_empty() => Reading::Closed,
                Ok(bytes) => Reading::Data(bytes),
                Err(error) => Reading::Failed(error),
            };
        }
    }

    fn take(&mut self, size: usize) -> StreamResult<Bytes> {
        match &mut self.state {
            Reading::Busy(_) => Ok(Bytes::new()),
            Reading::Closed => Err(StreamError::Closed),
            Reading::Data(bytes) => {
                let part = bytes.split_to(size.min(bytes.len()));
                self.position = self.position.saturating_add(part.len() as u64);
                if bytes.is_empty() {
                    self.state = Reading::Idle;
                }
                Ok(part)
            }
            Reading::Idle => {
                if size > 0 {
                    self.start(size);
                }
                Ok(Bytes::new())
            }
            Reading::Failed(_) => match std::mem::replace(&mut self.state, Reading::Closed) {
                Reading::Failed(error) => Err(failed(error)),
                _ => Err(StreamError::Closed),
            },
        }
    }
}

#[async_trait]
impl InputStream for FileReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.disk.call().map_err(trap)?;
        self.take(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.disk.call().map_err(trap)?;
        self.finish().await;
        if size > 0 && matches!(self.state, Reading::Idle) {
            self.start(size);
            self.finish().await;
        }
        self.take(size)
    }
}

#[async_trait]
impl Pollable for FileReader {
    async fn ready(&mut self) {
        if matches!(self.state, Reading::Idle) {
            self.start(READ_AHEAD_BYTES);
        }
        self.finish().await;
    }
}

enum Writing {
    Ready,
    Busy(Job<()>),
    Failed(io::Error),
    Closed,
}

/// Where a stream writes.
#[derive(Clone, Copy)]
pub(crate) enum At {
    /// From this position on.
    Position(u64),
    /// At the end.
    End,
}

/// Writes a file.
pub(crate) struct FileWriter {
    disk: Arc<Disk>,
    file: Arc<File>,
    at: At,
    state: Writing,
    _open: OpenStream,
}

impl FileWriter {
    pub(crate) fn new(disk: Arc<Disk>, file: Arc<File>, at: At, open: OpenStream) -> Self {
        FileWriter { disk, file, at, state: Writing::Ready, _open: open }
    }

    fn start(&mut self, bytes: Bytes) -> io::Result<()> {
        let (at, length) = (self.at, bytes.len() as u64);
        let growth = match at {
            At::Position(from) => Growth::To(end(from, length)?),
            At::End => Growth::By(length),
        };
        let ticket = self.disk.grow(&self.file, growth)?;
        let (disk, file) = (Arc::clone(&self.disk), Arc::clone(&self.file));
        self.state = Writing::Busy(self.disk.job(move || {
            // The job may have waited, and the attempt may have lost its right to act meanwhile.
            disk.may_act()?;
            let written = match at {
                At::Position(from) => file.write_all_at(&bytes, from),
                At::End => append(&file, &bytes),
            };
            drop(ticket);
            disk.wrote(length);
            written
        }));
        if let At::Position(from) = at {
            self.at = At::Position(end(from, length)?);
        }
        Ok(())
    }

    fn take_failure(&mut self) -> StreamError {
        match std::mem::replace(&mut self.state, Writing::Closed) {
            Writing::Failed(error) => failed(error),
            _ => StreamError::Closed,
        }
    }
}

/// Where a write ends.
///
/// # Errors
/// Past what a file can be.
pub(crate) fn end(from: u64, length: u64) -> io::Result<u64> {
    let end = from.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
    end.ok_or_else(|| Errno::FBIG.into())
}

fn append(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = match pwritev2(file, &[io::IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            // Some file systems do not know the flag; nobody but this guest writes here.
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => file.write_at(bytes, file.metadata()?.len())?,
            Err(error) => return Err(error.into()),
        };
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

#[async_trait]
impl OutputStream for FileWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.disk.act().map_err(trap)?;
        match self.state {
            Writing::Ready if bytes.len() <= CHUNK_BYTES => {}
            Writing::Closed => return Err(StreamError::Closed),
            _ => return Err(StreamError::trap("more was written than check-write permits")),
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.start(bytes).map_err(|error| {
            self.state = Writing::Closed;
            failed(error)
        })
    }

    fn flush(&mut self) -> StreamResult<()> {
        match self.state {
            Writing::Ready | Writing::Busy(_) => Ok(()),
            Writing::Failed(_) | Writing::Closed => Err(self.take_failure()),
        }
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.state {
            Writing::Ready => Ok(CHUNK_BYTES),
            Writing::Busy(_) => Ok(0),
            Writing::Failed(_) | Writing::Closed => Err(self.take_failure()),
        }
    }

    async fn cancel(&mut self) {
        self.ready().await;
    }
}

#[async_trait]
impl Pollable for FileWriter {
    async fn ready(&mut self) {
        if let Writing::Busy(job) = &mut self.state {
            self.state = match job.await {
                Ok(()) => Writing::Ready,
                Err(error) => Writing::Failed(error),
            };
        }
    }
}
