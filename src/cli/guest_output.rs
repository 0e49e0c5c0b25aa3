//! What a guest in the foreground tells and writes, as lines on stderr.
//!
//! Invariant: nothing of it steers the terminal, and a line that never ends takes a bounded memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::human;
use super::screen::{Colour, Screen};
use crate::daemon::foreground::{GivenAnswers, RunCheckpoints, RunMemory};
use crate::domain::id::RunId;
use crate::sandbox::checkpoints::{Approvals, Checkpoints};
use crate::sandbox::memory::KeyValues;
use crate::sandbox::{EffectsRefused, GuestHost, LogEntry, LogStream};

/// The longest piece of a line that is kept before it is shown, in bytes.
const LONGEST: usize = 16 * 1024;

#[derive(Default)]
struct Begun {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// The guest's way to the terminal.
pub struct GuestOutput {
    screen: Arc<Screen>,
    begun: Mutex<Begun>,
    memory: RunMemory,
    checkpoints: RunCheckpoints,
    answers: GivenAnswers,
}

impl GuestOutput {
    /// Shows it on this screen. What the guest asks has these answers.
    pub fn new(screen: Arc<Screen>, run: RunId, answers: GivenAnswers) -> Self {
        let checkpoints = RunCheckpoints::none(run);
        GuestOutput { screen, begun: Mutex::default(), memory: RunMemory::default(), checkpoints, answers }
    }

    /// Shows what was written without a line's end.
    pub fn finish(&self) {
        let mut begun = self.begun();
        for (stream, rest) in
            [(LogStream::Stdout, std::mem::take(&mut begun.stdout)), (LogStream::Stderr, std::mem::take(&mut begun.stderr))]
        {
            if !rest.is_empty() {
                self.show(stream, &rest);
            }
        }
        self.screen.clear_status();
    }

    /// Whether the guest leaves something that a daemon would keep for the next run.
    pub fn has_kept(&self) -> bool {
        !self.memory.is_empty()
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, stream: LogStream, line: &[u8]) {
        let text = human::printable(&String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)));
        let mark = match stream {
            LogStream::Stdout => "out",
            LogStream::Stderr => "err",
        };
        self.screen.note(&format!("{} {text}", self.screen.paint_note(Colour::Dim, &format!("{mark} |"))));
    }
}

#[async_trait]
impl GuestHost for GuestOutput {
    // No run is kept that another attempt could take up.
    async fn begin_effects(&self) -> Result<(), EffectsRefused> {
        Ok(())
    }

    fn report(&self, message: String, fraction: Option<f64>) {
        let part = fraction.map(|part| format!("{:>3.0}%  ", part.clamp(0.0, 1.0) * 100.0)).unwrap_or_default();
        let text = format!("{part}{}", human::one_line(&message));
        // A terminal shows where it is; elsewhere every report is a line.
        if self.screen.terminals.err { self.screen.status(&text) } else { self.screen.note(&format!("... | {text}")) }
    }

    fn emit(&self, name: String, payload: String) {
        let mark = self.screen.paint_note(Colour::Dim, "evt |");
        self.screen.note(&format!("{mark} {} {}", human::one_line(&name), human::one_line(&payload)));
    }

    fn log_entry(&self, entry: LogEntry) {
        let context = if entry.context.is_empty() { String::new() } else { format!("{}: ", human::one_line(&entry.context)) };
        let level = format!("{:?}", entry.level).to_uppercase();
        let mark = self.screen.paint_note(Colour::Dim, "log |");
        self.screen.note(&format!("{mark} {level:<5} {context}{}", human::escaped(&entry.message)));
    }

    fn key_values(&self) -> Option<&dyn KeyValues> {
        Some(&self.memory)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(&self.checkpoints)
    }

    fn approvals(&self) -> Option<&dyn Approvals> {
        Some(&self.answers)
    }

    fn log(&self, stream: LogStream, bytes: &[u8]) {
        let mut begun = self.begun();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = match stream {
                LogStream::Stdout => &mut begun.stdout,
                LogStream::Stderr => &mut begun.stderr,
            };
            for part in piece.chunks(LONGEST) {
                line.extend_from_slice(part);
                let whole = line.strip_suffix(b"\n").map(<[u8]>::to_vec);
                if let Some(whole) = whole.or_else(|| (line.len() >= LONGEST).then(|| line.clone())) {
                    line.clear();
                    self.show(stream, &whole);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::screen::Terminals;
    use super::super::screen::tests::Kept;
    use super::*;

    fn shown(write: impl FnOnce(&GuestOutput)) -> String {
        let err = Kept::default();
        let screen = Screen::new(Box::new(io::sink()), Box::new(err.clone()), Terminals::default());
        let run = crate::daemon::foreground::Foreground::new_run_id();
        let output = GuestOutput::new(Arc::new(screen), run, GivenAnswers::default());
        write(&output);
        output.finish();
        err.text()
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let text = shown(|output| {
            for bytes in ["al".as_bytes(), b"pha\nbe", b"ta \xc3", b"\xa9\r\n", b"rest"] {
                output.log(LogStream::Stdout, bytes);
            }
            output.log(LogStream::Stderr, b"other\n");
        });
        assert_eq!(text, "out | alpha\nout | beta é\nerr | other\nout | rest\n");
    }

    #[test]
    fn hostile_output_is_harmless_and_bounded() {
        let text = shown(|output| {
            output.log(LogStream::Stdout, b"\x1b[2J\x07\n");
            output.report("50\u{1b}[1A%\nnext".into(), Some(f64::NAN));
            output.emit("na\u{9b}me".into(), "{\"a\":\"\u{202e}\"}".into());
            output.log(LogStream::Stderr, &vec![b'x'; 3 * LONGEST]);
        });
        assert!(!text.chars().any(|c| c != '\n' && c.is_control()) && !text.contains('\u{202e}'), "{text:?}");
        assert_eq!(text.lines().filter(|line| line.starts_with("err | x")).count(), 3);
        assert!(text.contains("\\u{1b}[2J\\u{7}"));
    }
}
