//! What a command writes: its answer to stdout, everything else to stderr.
//!
//! Invariant: a reader that goes away (`sandclock runs list | head`) ends the command quietly and never by a panic. Colours and the
//! line that shows what goes on appear on a terminal only.

use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::exit::Fault;
use super::human;
use crate::config::Environment;

/// A colour by what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// It goes on, or wants attention.
    Busy,
    /// It matters less.
    Dim,
    /// A heading.
    Strong,
}

impl Colour {
    const fn code(self) -> &'static str {
        match self {
            Colour::Good => "32",
            Colour::Bad => "31",
            Colour::Busy => "33",
            Colour::Dim => "2",
            Colour::Strong => "1",
        }
    }
}

/// What is known of the two outputs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminals {
    /// Whether stdout is one.
    pub out: bool,
    /// Whether stderr is one.
    pub err: bool,
    /// Whether stdin and stderr are one, so that a question can be asked.
    pub input: bool,
    /// Whether colours are wanted.
    pub colours: bool,
    /// The columns of the terminal on stdout.
    pub width: Option<usize>,
}

impl Terminals {
    /// What this process writes to. `NO_COLOR` switches the colours off.
    pub fn of_process(env: &Environment) -> Self {
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let size = out.then(|| rustix::termios::tcgetwinsize(io::stdout()).ok()).flatten();
        let width = size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns >= 20);
        Terminals { out, err, input: err && io::stdin().is_terminal(), colours: env.get("NO_COLOR").is_none(), width }
    }
}

struct Writers {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Whether a status line stands on the terminal.
    has_status: bool,
}

/// The two outputs of a command.
pub struct Screen {
    writers: Mutex<Writers>,
    /// What is known of them.
    pub terminals: Terminals,
}

impl Screen {
    /// The outputs of this process.
    pub fn of_process(env: &Environment) -> Self {
        Screen::new(Box::new(io::stdout()), Box::new(io::stderr()), Terminals::of_process(env))
    }

    /// Any two outputs.
    pub fn new(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, terminals: Terminals) -> Self {
        Screen { writers: Mutex::new(Writers { out, err, has_status: false }), terminals }
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a text that is safe for a terminal to stdout.
    ///
    /// # Errors
    /// [`Fault::Closed`] when nobody reads, a sentence when the system refuses.
    pub fn text(&self, text: &str) -> Result<(), Fault> {
        self.bytes(text.as_bytes())
    }

    /// As [`Screen::text`], and ends the line.
    ///
    /// # Errors
    /// As [`Screen::text`].
    pub fn line(&self, text: &str) -> Result<(), Fault> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// JSON that the daemon gave, as it is but for characters that steer a terminal, which become escapes of the same value.
    ///
    /// # Errors
    /// As [`Screen::text`].
    pub fn json(&self, raw: &str) -> Result<(), Fault> {
        self.line(&human::safe_json(raw.trim_end()))
    }

    /// What a guest made: exactly as it is, but made safe when stdout is a terminal.
    ///
    /// # Errors
    /// As [`Screen::text`].
    pub fn content(&self, bytes: &[u8]) -> Result<(), Fault> {
        if self.terminals.out { self.text(&human::printable(&String::from_utf8_lossy(bytes))) } else { self.bytes(bytes) }
    }

    fn bytes(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut writers = self.writers();
        writers.clear_status();
        writers.out.write_all(bytes).and_then(|()| writers.out.flush()).map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Fault::Closed,
            _ => Fault::failed(format!("the output cannot be written ({error}); write it where there is room")),
        })
    }

    /// Writes a line to stderr. Nobody can be told when that fails.
    pub fn note(&self, text: &str) {
        let mut writers = self.writers();
        writers.clear_status();
        let _ = writeln!(writers.err, "{text}");
    }

    /// Writes a question to stderr, whose line the answer ends.
    pub fn prompt(&self, text: &str) {
        let mut writers = self.writers();
        writers.clear_status();
        let _ = write!(writers.err, "{text}").and_then(|()| writers.err.flush());
    }

    /// Shows what goes on, in one line of a terminal that the next output replaces.
    pub fn status(&self, text: &str) {
        if !self.terminals.err {
            return;
        }
        let text = human::cut(&human::one_line(text), self.terminals.width.unwrap_or(80).saturating_sub(1));
        let mut writers = self.writers();
        let _ = write!(writers.err, "\r\x1b[K{text}").and_then(|()| writers.err.flush());
        writers.has_status = true;
    }

    /// Takes the status line away.
    pub fn clear_status(&self) {
        self.writers().clear_status();
    }

    /// A text in a colour, where stdout shows colours.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        painted(self.terminals.out && self.terminals.colours, colour, text)
    }

    /// A text in a colour, where stderr shows colours.
    pub fn paint_note(&self, colour: Colour, text: &str) -> String {
        painted(self.terminals.err && self.terminals.colours, colour, text)
    }
}

impl Writers {
    fn clear_status(&mut self) {
        if std::mem::take(&mut self.has_status) {
            let _ = self.err.write_all(b"\r\x1b[K").and_then(|()| self.err.flush());
        }
    }
}

fn painted(is_coloured: bool, colour: Colour, text: &str) -> String {
    if is_coloured { format!("\x1b[{}m{text}\x1b[0m", colour.code()) } else { text.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::super::exit::Exit;
    use super::*;

    /// A writer whose bytes the test keeps.
    #[derive(Clone, Default)]
    pub(in super::super) struct Kept(pub(in super::super) Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub(in super::super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Refusing(ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_goes_is_no_failure_and_a_full_disk_is_one() {
        let screen = |kind| Screen::new(Box::new(Refusing(kind)), Box::new(io::sink()), Terminals::default());
        let gone = screen(ErrorKind::BrokenPipe).line("x").unwrap_err();
        assert!(matches!(gone, Fault::Closed) && gone.exit() == Exit::Done);
        assert_eq!(screen(ErrorKind::StorageFull).line("x").unwrap_err().exit(), Exit::Failed);
    }

    #[test]
    fn the_status_line_and_colours_are_for_terminals() {
        for (is_terminal, colours) in [(false, true), (true, false), (true, true)] {
            let (out, err) = (Kept::default(), Kept::default());
            let terminals = Terminals { out: is_terminal, err: is_terminal, colours, ..Terminals::default() };
            let screen = Screen::new(Box::new(out.clone()), Box::new(err.clone()), terminals);
            screen.status("working\u{1b}[2J");
            screen.line(&screen.paint(Colour::Good, "ok")).unwrap();
            assert_eq!(out.text() == "ok\n", !(is_terminal && colours));
            assert_eq!(err.text().is_empty(), !is_terminal, "{:?}", err.text());
            assert!(!err.text().contains("\u{1b}[2J"));
        }
    }

    #[test]
    fn a_guest_s_content_is_exact_but_on_a_terminal() {
        for is_terminal in [false, true] {
            let out = Kept::default();
            let terminals = Terminals { out: is_terminal, ..Terminals::default() };
            Screen::new(Box::new(out.clone()), Box::new(io::sink()), terminals).content(b"a\x1b[31mb").unwrap();
            assert_eq!(out.text(), if is_terminal { "a\\u{1b}[31mb" } else { "a\u{1b}[31mb" });
        }
    }
}
