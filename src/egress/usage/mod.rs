//! What the answers of models say that they used, read as they pass by.
//!
//! Invariants: nothing is changed and nothing is kept of an answer but a few numbers and its model's name, however large, deep or broken it
//! is. An answer that says nothing although it should is taken for as many tokens as its bytes may have been.

mod json;
#[cfg(test)]
mod tests;

use json::{Said, Scanner};

use crate::domain::receipt::Tokens;

/// The bytes of a token, roughly.
const TOKEN_BYTES: u64 = 4;
/// The longest part of an event of a stream that is taken for what all events have, in bytes.
const ENVELOPE_BYTES: u64 = 512;
/// What is shorter is no event with text, but a mark such as `[DONE]`.
const LEAST_ENVELOPE_BYTES: u64 = 48;
/// How the paths end under which models answer.
const PATHS: [&str; 5] = ["/chat/completions", "/completions", "/responses", "/embeddings", "/messages"];

/// Whether models answer under a path.
pub fn is_of_model(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    PATHS.iter().any(|end| path.ends_with(end))
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Nothing has come yet.
    Unknown,
    Json,
    /// Server-sent events.
    Events,
}

/// Where in a line of an event stream the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// In the field's name, of which so many bytes agree with `data:`.
    Name(usize),
    /// In the data; the first of them may be one space.
    Data { is_first: bool },
    /// In another field.
    Other,
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct Reader {
    shape: Shape,
    scanner: Scanner,
    line: Line,
    /// Whether the byte before was a carriage return, with which a line feed is one end.
    is_after_return: bool,
    /// The bytes of this event's data, and the first of them.
    data: u64,
    head: [u8; 6],
    /// Whether the stream said that it is over.
    is_done: bool,
    bytes: u64,
    events: u64,
    /// How many of the events may have text, the bytes of their data, and those of the shortest.
    enveloped: u64,
    data_bytes: u64,
    shortest: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            shape: Shape::Unknown,
            scanner: Scanner::default(),
            line: Line::Name(0),
            is_after_return: false,
            data: 0,
            head: [0; 6],
            is_done: false,
            bytes: 0,
            events: 0,
            enveloped: 0,
            data_bytes: 0,
            shortest: ENVELOPE_BYTES,
        }
    }
}

impl Reader {
    /// Reads on.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        if self.shape == Shape::Unknown {
            let is_blank = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0xEF | 0xBB | 0xBF);
            let Some(at) = bytes.iter().position(|byte| !is_blank(byte)) else { return };
            bytes = bytes.get(at..).unwrap_or_default();
            self.shape = if matches!(bytes.first(), Some(b'{' | b'[')) { Shape::Json } else { Shape::Events };
        }
        match self.shape {
            Shape::Events => self.push_events(bytes),
            _ => self.scanner.push(bytes),
        }
    }

    /// Whether all that was used has been said.
    pub fn is_complete(&self) -> bool {
        self.is_done || (self.shape == Shape::Json && self.scanner.is_complete() && self.is_told())
    }

    fn is_told(&self) -> bool {
        let said = self.scanner.said();
        said.input.is_some() || said.output.is_some() || said.total.is_some()
    }

    fn push_events(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            let is_after_return = std::mem::replace(&mut self.is_after_return, *byte == b'\r');
            bytes = match self.line {
                _ if is_after_return && *byte == b'\n' => rest,
                _ if matches!(byte, b'\n' | b'\r') => {
                    self.end_line(*byte);
                    rest
                }
                Line::Name(agree) if b"data:".get(agree) == Some(byte) => {
                    self.line = if agree == 4 { Line::Data { is_first: true } } else { Line::Name(agree + 1) };
                    rest
                }
                Line::Data { is_first: true } => {
                    self.line = Line::Data { is_first: false };
                    if *byte == b' ' { rest } else { bytes }
                }
                Line::Data { .. } => self.push_data(bytes),
                Line::Name(_) => {
                    self.line = Line::Other;
                    rest
                }
                Line::Other => {
                    bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).and_then(|at| bytes.get(at..)).unwrap_or_default()
                }
            };
        }
    }

    /// Takes the data up to the line's end.
    fn push_data<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(bytes.len());
        let (data, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        let known = usize::try_from(self.data).unwrap_or(usize::MAX);
        for (slot, byte) in self.head.iter_mut().skip(known).zip(data) {
            *slot = *byte;
        }
        self.data = self.data.saturating_add(data.len() as u64);
        self.scanner.push(data);
        rest
    }

    fn end_line(&mut self, byte: u8) {
        let is_blank = self.line == Line::Name(0);
        let is_data = matches!(self.line, Line::Data { .. });
        self.line = Line::Name(0);
        if is_data {
            self.scanner.push(&[byte]);
            self.is_done |= (self.data == 6 && self.head == *b"[DONE]") || (self.scanner.is_last() && self.scanner.is_complete());
        }
        if is_blank {
            self.end_event();
        }
    }

    fn end_event(&mut self) {
        if self.data > 0 {
            self.events = self.events.saturating_add(1);
        }
        if self.data >= LEAST_ENVELOPE_BYTES {
            self.data_bytes = self.data_bytes.saturating_add(self.data);
            self.shortest = self.shortest.min(self.data);
            self.enveloped = self.enveloped.saturating_add(1);
        }
        self.data = 0;
        self.scanner.restart();
    }

    /// The model that the answer named.
    pub fn model(&self) -> Option<&str> {
        self.scanner.model()
    }

    /// The tokens of a call that sent so many bytes: what the answer says, and an estimate of what it does not say. `is_whole` is whether the
    /// answer has come to its end; `is_of_model` whether it should say what it used. None where nothing was used.
    pub fn tokens(&self, sent: u64, is_whole: bool, is_of_model: bool) -> Option<Tokens> {
        let is_told = self.is_told();
        if !is_told && !is_of_model {
            return None;
        }
        let (told, read) = (told(self.scanner.said()), sent.div_ceil(TOKEN_BYTES));
        let is_whole = is_whole || self.is_complete();
        let (input, guessed_input) = if told.input > 0 || (is_told && is_whole) { (told.input, 0) } else { (read, read) };
        let (output, guessed_output) = match self.written() {
            // What came after the last word of a stream that was given up, nobody said.
            written if !is_told || (!is_whole && written > told.output) => (written, written),
            _ => (told.output, 0),
        };
        Some(Tokens { input, cached: told.cached.min(input), output, estimated: guessed_input.saturating_add(guessed_output) })
    }

    /// How many tokens the answer may have so far, by its bytes. What all events of a stream have around the text is left out.
    fn written(&self) -> u64 {
        if self.events == 0 {
            return self.bytes.div_ceil(TOKEN_BYTES);
        }
        let around = self.shortest.saturating_mul(self.enveloped);
        self.events.saturating_add(self.data_bytes.saturating_sub(around).div_ceil(TOKEN_BYTES))
    }
}

/// What was said, in one shape: what came from a cache is a part of the input.
fn told(said: Said) -> Tokens {
    // Who tells the cached part of the input, or the sum, has it in the input already.
    let is_within = said.total.is_some() || said.cached.is_some();
    let beside = if is_within { 0 } else { said.cache_read.unwrap_or(0).saturating_add(said.cache_made.unwrap_or(0)) };
    let output = said.output.unwrap_or(0);
    let input = match (said.input, said.total) {
        (None, Some(total)) => total.saturating_sub(output),
        (input, _) => input.unwrap_or(0).saturating_add(beside),
    };
    // Some hosts have what a model thought in the total alone.
    let thought = said.total.unwrap_or(0).saturating_sub(input.saturating_add(output));
    let cached = said.cached.or(said.cache_read).unwrap_or(0);
    Tokens { input, cached, output: output.saturating_add(thought), estimated: 0 }
}
