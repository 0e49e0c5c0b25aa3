//! Takes a guest's output and appends it, line by line, to the attempt's log.
//!
//! Each call of the guest is at most one `write` into the page cache, without a sync: it costs what a write of the guest to a file
//! costs, and the limit bounds the sum. A thread with a queue would have to drop or block just the same.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use rustix::io::Errno;
use serde::Serialize;

use super::{AttemptLogs, LogLevel, LogLine, LogStream};
use crate::domain::id::RunId;
use crate::domain::time::Timestamp;
use crate::workspace::mirrors::write_all;

/// The longest line in bytes of the guest's.
const LINE_BYTES: usize = 16 * 1024;

/// The log of one attempt, for both streams. Clones write to the same one; the last to go finishes it.
#[derive(Clone)]
pub struct LogWriter {
    log: Arc<Mutex<Log>>,
}

impl LogWriter {
    pub(super) fn new(logs: AttemptLogs, run: RunId, attempt: u32, limit_bytes: u64) -> Self {
        let log = Log {
            logs,
            run,
            attempt,
            room: limit_bytes,
            file: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            ready: Vec::new(),
            ready_bytes: 0,
            dropped: 0,
            is_torn: false,
            is_finished: false,
        };
        LogWriter { log: Arc::new(Mutex::new(log)) }
    }

    /// Takes what a guest wrote: any bytes, in pieces of any length. A line is readable once its end was written. After
    /// [`LogWriter::finish`] it is nothing.
    pub fn write(&self, stream: LogStream, bytes: &[u8]) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take(stream, bytes);
    }

    /// Takes a line with a level and a context. After [`LogWriter::finish`] it is nothing.
    pub fn write_entry(&self, level: LogLevel, context: &str, message: &str) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take_entry(level, context, message);
    }

    /// Writes what waits for its line's end, and how much was dropped. To be called before the attempt's end is committed.
    pub fn finish(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).finish();
    }

    /// How many bytes of the guest's were dropped so far.
    pub fn dropped_bytes(&self) -> u64 {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }
}

struct Log {
    logs: AttemptLogs,
    run: RunId,
    attempt: u32,
    /// How many bytes the file may still grow.
    room: u64,
    file: Option<OwnedFd>,
    /// The begun lines.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Whole lines in JSON, to be written at the end of the call.
    ready: Vec<u8>,
    /// How many bytes of the guest's are in `ready`.
    ready_bytes: usize,
    dropped: u64,
    /// Whether a line in the file may lack its end.
    is_torn: bool,
    is_finished: bool,
}

#[derive(Serialize)]
struct TextLine<'a> {
    at: Timestamp,
    stream: LogStream,
    text: &'a str,
}

#[derive(Serialize)]
struct EntryLine<'a> {
    at: Timestamp,
    level: LogLevel,
    context: &'a str,
    text: &'a str,
}

impl Log {
    fn take_entry(&mut self, level: LogLevel, context: &str, message: &str) {
        if self.is_finished {
            return;
        }
        if self.dropped > 0 {
            self.drop_bytes(message.len());
            return;
        }
        let at = Timestamp::from_datetime(Utc::now());
        let mut rest = message;
        loop {
            let (text, after) = rest.split_at(rest.floor_char_boundary(LINE_BYTES));
            self.put_line(&EntryLine { at, level, context, text }, text.len());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        self.flush();
    }

    fn take(&mut self, stream: LogStream, bytes: &[u8]) {
        if self.is_finished {
            return;
        }
        if self.dropped > 0 {
            self.drop_bytes(bytes.len());
            return;
        }
        let at = Timestamp::from_datetime(Utc::now());
        let mut line = std::mem::take(self.begun(stream));
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_BYTES - line.len();
            let window = rest.get(..room).unwrap_or(rest);
            let end = window.iter().position(|&byte| byte == b'\n');
            let (piece, after) = rest.split_at(end.unwrap_or(window.len()));
            line.extend_from_slice(piece);
            rest = after;
            if end.is_some() {
                rest = rest.get(1..).unwrap_or_default();
                self.put(at, stream, &line, 1);
                line.clear();
            } else if line.len() == LINE_BYTES {
                let whole = whole_characters(&line);
                self.put(at, stream, line.get(..whole).unwrap_or(&line), 0);
                line.drain(..whole);
            }
        }
        *self.begun(stream) = line;
        self.flush();
    }

    fn begun(&mut self, stream: LogStream) -> &mut Vec<u8> {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    /// Makes a line ready, or drops it. Once something was dropped everything is, so that a log has no holes.
    fn put(&mut self, at: Timestamp, stream: LogStream, line: &[u8], end_bytes: usize) {
        let text = String::from_utf8_lossy(line);
        self.put_line(&TextLine { at, stream, text: &text }, line.len() + end_bytes);
    }

    fn put_line(&mut self, line: &impl Serialize, bytes: usize) {
        let start = self.ready.len();
        let encoded = serde_json::to_writer(&mut self.ready, line);
        self.ready.push(b'\n');
        let length = (self.ready.len() - start) as u64;
        if self.dropped > 0 || encoded.is_err() || length > self.room {
            self.ready.truncate(start);
            self.drop_bytes(bytes);
        } else {
            self.room -= length;
            self.ready_bytes += bytes;
        }
    }

    fn drop_bytes(&mut self, count: usize) {
        self.dropped = self.dropped.saturating_add(count as u64);
    }

    fn flush(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let ready = std::mem::take(&mut self.ready);
        let bytes = std::mem::take(&mut self.ready_bytes);
        if let Err(errno) = self.append(&ready) {
            // The line that tells of what was dropped may meet the same.
            if !std::mem::replace(&mut self.is_torn, true) {
                tracing::warn!(run = %self.run, attempt = self.attempt, error = %errno, "the attempt's log cannot be written; the rest of it is dropped");
            }
            self.drop_bytes(bytes);
        }
        self.ready = ready;
        self.ready.clear();
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.logs.append(&self.run, self.attempt)?,
        };
        let written = write_all(&file, bytes);
        self.file = Some(file);
        written
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let at = Timestamp::from_datetime(Utc::now());
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            let line = std::mem::take(self.begun(stream));
            if !line.is_empty() {
                self.put(at, stream, &line, 0);
            }
        }
        self.flush();
        if self.dropped > 0 {
            if self.is_torn {
                self.ready.push(b'\n');
            }
            let closing = LogLine::Truncated { truncated: self.dropped };
            if serde_json::to_writer(&mut self.ready, &closing).is_ok() {
                self.ready.push(b'\n');
                self.flush();
            }
        }
        self.file = None;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.finish();
    }
}

/// How much of a full line to write so that no character is cut in two.
fn whole_characters(line: &[u8]) -> usize {
    match std::str::from_utf8(line) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => line.len(),
    }
}
