//! Reads a stream of server-sent events, and follows a run's events with it.
//!
//! Invariant: every event is given once and in order: after a break the stream is asked for what follows the last sequence number.

use std::ops::ControlFlow;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use super::exit::{Exit, Fault};
use super::remote::Remote;
use super::view;
use crate::domain::event::EventName;

/// The longest line of a stream, in bytes.
const LONGEST_LINE: usize = 4 * 1024 * 1024;
/// How often a stream is opened again without an event between.
const ATTEMPTS: u32 = 8;
/// The pause before a stream is opened again, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes a stream's bytes and gives the data of its messages.
#[derive(Debug, Default)]
struct Decoder {
    line: Vec<u8>,
    data: String,
}

/// A line is longer than any that a daemon sends.
#[derive(Debug)]
struct TooLong;

impl Decoder {
    /// The data of the messages that these bytes complete.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut complete = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > LONGEST_LINE || self.data.len() > LONGEST_LINE {
                    return Err(TooLong);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            if line.is_empty() {
                if !self.data.is_empty() {
                    complete.push(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        Ok(complete)
    }
}

/// Follows a run's events after a sequence number to the terminal one, or until `each` breaks. `each` gets an event's payload and its text.
///
/// # Errors
/// The daemon says no, stays unreachable, or sends what is no event; or `each` fails.
pub async fn follow<B>(
    remote: &Remote,
    run: &str,
    mut after: u64,
    mut each: impl AsyncFnMut(&Value, &str) -> Result<ControlFlow<B>, Fault>,
) -> Result<Option<B>, Fault> {
    let mut failures = 0;
    loop {
        let fault = match pass(remote, run, &mut after, &mut failures, &mut each).await {
            Ok(Pass::Ended) => return Ok(None),
            Ok(Pass::Broken(value)) => return Ok(Some(value)),
            Ok(Pass::Lost(fault)) => fault,
            Err(fault) => return Err(fault),
        };
        failures += 1;
        if failures >= ATTEMPTS {
            return Err(fault);
        }
        tokio::time::sleep(PAUSE * 2u32.pow(failures - 1)).await;
    }
}

/// How one opening of the stream ended.
enum Pass<B> {
    /// With the terminal event.
    Ended,
    /// By the caller.
    Broken(B),
    /// By a broken connection.
    Lost(Fault),
}

async fn pass<B>(
    remote: &Remote,
    run: &str,
    after: &mut u64,
    failures: &mut u32,
    each: &mut impl AsyncFnMut(&Value, &str) -> Result<ControlFlow<B>, Fault>,
) -> Result<Pass<B>, Fault> {
    let last = (*after > 0).then_some(*after);
    let mut response = match remote.open_stream(&["runs", run, "events"], "text/event-stream", last).await {
        Ok(response) => response,
        // The first opening says whether there is a daemon at all; later ones outlast its restart.
        Err(fault) if fault.exit() == Exit::Unreachable && (*after > 0 || *failures > 0) => return Ok(Pass::Lost(fault)),
        Err(fault) => return Err(fault),
    };
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(Pass::Ended);
    }
    let mut decoder = Decoder::default();
    loop {
        let bytes = match response.chunk().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Ok(Pass::Lost(Fault::new(Exit::Unreachable, format!("the events of {run} break off; ask for them again"))));
            }
            Err(error) => return Ok(Pass::Lost(remote.unreachable(&error))),
        };
        let messages = decoder.push(&bytes).map_err(|TooLong| strange(run))?;
        for message in messages {
            let event: Value = serde_json::from_str(&message).map_err(|_| strange(run))?;
            let sequence = view::count(&event, "sequence").ok_or_else(|| strange(run))?;
            if sequence <= *after {
                continue;
            }
            (*after, *failures) = (sequence, 0);
            if let ControlFlow::Break(value) = each(&event, &message).await? {
                return Ok(Pass::Broken(value));
            }
            if is_terminal(&event) {
                return Ok(Pass::Ended);
            }
        }
    }
}

/// Whether an event is the last of its run.
pub fn is_terminal(event: &Value) -> bool {
    let name = view::shown(event, "event");
    EventName::ALL.iter().any(|known| known.is_terminal() && known.as_str() == name)
}

fn strange(run: &str) -> Fault {
    Fault::failed(format!("the events of {run} come as something that is no event; is it a sandclock daemon's address?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_however_their_bytes_come_in() {
        let stream = ": hello\nid: 1\nevent: x\ndata: {\"a\":\ndata: 1}\n\n\r\n:\n\ndata:b\r\n\r\ndata: cut";
        for size in [1, 2, 3, 7, 1000] {
            let mut decoder = Decoder::default();
            let told: Vec<String> = stream.as_bytes().chunks(size).flat_map(|bytes| decoder.push(bytes).unwrap()).collect();
            assert_eq!(told, ["{\"a\":\n1}", "b"], "{size}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_the_same_messages_however_they_are_cut(
            lines in proptest::collection::vec(
                proptest::prop_oneof!["data:[ -~]{0,6}", "id: [0-9]{0,3}", "[ -~é]{0,8}", proptest::prelude::Just(String::new())], 0..12,
            ),
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20),
            size in 1usize..9, is_crlf in proptest::prelude::any::<bool>(),
        ) {
            let mut stream = lines.join(if is_crlf { "\r\n" } else { "\n" }).into_bytes();
            stream.extend(tail);
            let whole = Decoder::default().push(&stream).unwrap();
            let mut decoder = Decoder::default();
            let cut: Vec<String> = stream.chunks(size).flat_map(|bytes| decoder.push(bytes).unwrap()).collect();
            proptest::prop_assert_eq!(cut, whole);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; 1024 * 1024];
        assert!((0..10).any(|_| decoder.push(&piece).is_err()));
        let mut decoder = Decoder::default();
        let line = format!("data: {}\n", "x".repeat(1024 * 1024));
        assert!((0..10).any(|_| decoder.push(line.as_bytes()).is_err()));
    }
}
