//! What happened in a simulation, in order. It is kept only when somebody will read it; its hash tells two runs apart.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub struct Trace {
    began: Instant,
    lines: Option<Mutex<Vec<String>>>,
    printed: bool,
}

/// What becomes of a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Nobody reads it.
    Nobody,
    /// It is looked at when the seed has been lived through.
    Later,
    /// Each line is printed at once.
    Now,
}

impl Trace {
    pub fn new(began: Instant, reader: Reader) -> Self {
        Trace { began, lines: (reader != Reader::Nobody).then(Mutex::default), printed: reader == Reader::Now }
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes a line, which is made only if it is kept.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let line = format!("{:10.3} {}", self.elapsed().as_secs_f64(), line());
            if self.printed {
                println!("{line}");
            }
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// The SHA-256 of all lines.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for line in self.lines() {
            hash.update(line.as_bytes());
            hash.update(b"\n");
        }
        hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.as_ref().map(|lines| lines.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }
}
