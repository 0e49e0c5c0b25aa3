//! The guest's standard streams.
//!
//! Invariant: what exceeds the log limit is dropped and counted, never held and never the guest's failure. A command's standard
//! output is its result as well: it is kept, and past the result's limit the guest is trapped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::sandbox::fault::Fault;
use crate::sandbox::meter::Meter;
use crate::sandbox::spec::{GuestHost, LogStream};

/// How much a guest may write with one call.
const WRITE_BYTES: usize = 64 * 1024;

/// What a command wrote to one of its streams, up to a limit.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    inner: Arc<Mutex<KeptInner>>,
}

#[derive(Default)]
struct KeptInner {
    bytes: Vec<u8>,
    most: usize,
}

impl Kept {
    /// Keeps the first `most` bytes.
    pub(crate) fn up_to(most: u64) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Kept { inner: Arc::new(Mutex::new(KeptInner { most, ..KeptInner::default() })) }
    }

    fn lock(&self) -> MutexGuard<'_, KeptInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what there is room for; answers whether that was all.
    fn add(&self, bytes: &[u8]) -> bool {
        let mut kept = self.lock();
        let room = kept.most.saturating_sub(kept.bytes.len());
        kept.bytes.extend(bytes.iter().take(room));
        bytes.len() <= room
    }

    /// The bytes.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().bytes)
    }
}

/// One of the guest's two output streams.
#[derive(Clone)]
pub(crate) struct GuestLog {
    stream: LogStream,
    host: Arc<dyn GuestHost>,
    meter: Arc<Meter>,
    kept: Option<Kept>,
}

impl GuestLog {
    pub(crate) fn new(stream: LogStream, host: Arc<dyn GuestHost>, meter: Arc<Meter>, kept: Option<Kept>) -> Self {
        GuestLog { stream, host, meter, kept }
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only preview 3 asks for this one, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let whole = self.kept.as_ref().is_none_or(|kept| kept.add(&bytes));
        let admitted = self.meter.admits_log(bytes.len());
        if let Some(bytes) = bytes.get(..admitted).filter(|bytes| !bytes.is_empty()) {
            self.host.log(self.stream, bytes);
        }
        // Only a result has to be whole; of standard error the first part is enough.
        if whole || self.stream == LogStream::Stderr { Ok(()) } else { Err(StreamError::Trap(Fault::Output.into())) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}
