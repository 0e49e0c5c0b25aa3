//! Server-sent events, assembled from chunks that break anywhere.

use super::{Error, Response};
use std::collections::VecDeque;
use std::time::Duration;

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type; empty when it has none.
    pub event: String,
    /// Its data, lines joined by `\n`.
    pub data: String,
    /// Its id; empty when it has none.
    pub id: String,
}

/// The events of an answer.
pub struct Events {
    response: Response,
    parser: EventParser,
    ready: VecDeque<Event>,
}

impl Events {
    pub(super) fn new(response: Response) -> Self {
        Events { response, parser: EventParser::default(), ready: VecDeque::new() }
    }

    /// Takes no more events than those that come within this time; what comes later is a timeout.
    pub fn end_within(&mut self, time: Duration) {
        self.response.end_within(time);
    }

    /// The next event; none at the answer's end. An event that the end cuts off is none.
    ///
    /// # Errors
    /// Like those of [`Response::chunk`].
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(chunk) = self.response.chunk()? else { return Ok(None) };
            self.ready.extend(self.parser.feed(&chunk));
        }
    }
}

/// Makes events of bytes, for who has them from elsewhere.
#[derive(Debug, Default)]
pub struct EventParser {
    /// The line that has not ended.
    line: Vec<u8>,
    /// The last byte was a carriage return, so that a line feed belongs to it.
    after_cr: bool,
    begun: bool,
    has_data: bool,
    event: Event,
}

impl EventParser {
    /// Takes the next bytes, and gives the events that they end.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    events.extend(self.end_of_line());
                }
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_of_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        let line = if std::mem::replace(&mut self.begun, true) { &line } else { line.trim_start_matches('\u{feff}') };
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event.event),
            "id" => value.clone_into(&mut self.event.id),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        "\u{feff}data: one\n\n: a comment\nevent: delta\r\ndata:tw\u{f6}\r\ndata\r\nid: 7\r\n\r\nretry: 5\n\ndata: [DONE]\r\rdata: cut off";

    fn expected() -> Vec<Event> {
        vec![
            Event { data: "one".into(), ..Event::default() },
            Event { event: "delta".into(), data: "tw\u{f6}\n".into(), id: "7".into() },
            Event { data: "[DONE]".into(), ..Event::default() },
        ]
    }

    #[test]
    fn chunks_may_break_anywhere() {
        for size in 1..=STREAM.len() {
            let mut parser = EventParser::default();
            let events: Vec<Event> = STREAM.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events, expected(), "chunks of {size}");
        }
    }
}
