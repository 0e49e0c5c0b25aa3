//! What the daemon says of itself: tracing to stderr, as text or as one JSON object a line.
//!
//! Invariant: stdout stays free for what a command answers. A line inside a run carries the fields `run`, `attempt` and
//! `fence` of the spans it was said in. It fails when the process has a subscriber already.

use std::io::{IsTerminal as _, stderr};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, Logging};

/// Why there is no logging.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is none that the filter takes.
    #[error("logging cannot start: the level `{level}` is not understood ({source}); set `logging.level` to one such as `info`")]
    Level {
        /// The level as it is set.
        level: String,
        /// What the filter says.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something in this process has set a subscriber before.
    #[error("logging cannot start: it is set up already in this process; set it up once ({0})")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the whole process, once. Colours appear on a terminal only.
///
/// # Errors
/// The level is not understood, or logging is set up already.
pub fn init(logging: &Logging) -> Result<Level, TelemetryError> {
    let colours = stderr().is_terminal();
    let (subscriber, level) = subscriber(logging, stderr, colours)?;
    subscriber.try_init()?;
    Ok(level)
}

/// The level of the log, which can be changed while it is written.
pub struct Level(Box<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl Level {
    /// Tells from now on what the level of these settings lets through; their format plays no part.
    ///
    /// # Errors
    /// The level is not understood.
    pub fn change(&self, logging: &Logging) -> Result<(), TelemetryError> {
        let filter = filter(logging)?;
        // Only a subscriber that is gone takes no filter, and then nobody logs.
        (self.0)(filter);
        Ok(())
    }
}

fn filter(logging: &Logging) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(&logging.level).map_err(|source| TelemetryError::Level { level: logging.level.clone(), source })
}

fn subscriber<W>(logging: &Logging, writer: W, colours: bool) -> Result<(Box<dyn Subscriber + Send + Sync>, Level), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let format = tracing_subscriber::fmt().with_env_filter(filter(logging)?).with_writer(writer);
    Ok(match logging.format {
        LogFormat::Text => {
            let format = format.with_ansi(colours).with_filter_reloading();
            let handle = format.reload_handle();
            (Box::new(format.finish()), Level(Box::new(move |filter| handle.reload(filter).is_ok())))
        }
        LogFormat::Json => {
            let format = format.json().flatten_event(true).with_current_span(false).with_span_list(true).with_filter_reloading();
            let handle = format.reload_handle();
            (Box::new(format.finish()), Level(Box::new(move |filter| handle.reload(filter).is_ok())))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(level: &str, format: LogFormat) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let logging = Logging { level: level.to_owned(), format };
        let (subscriber, _) = subscriber(&logging, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let run = tracing::info_span!("attempt", run = "run_1", attempt = "attempt_1", fence = 7);
            let _inside = run.enter();
            tracing::info!(bytes = 3, "a \u{1b}[31mred\u{1b}[0m word");
            tracing::debug!("unheard");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_json_line_carries_its_spans_fields() {
        let text = said("info", LogFormat::Json);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["spans"][0]["run"], "run_1");
        assert_eq!(line["spans"][0]["attempt"], "attempt_1");
        assert_eq!(line["spans"][0]["fence"], 7);
        assert_eq!(line["bytes"], 3);
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_text_line_has_the_fields_and_no_escape_codes() {
        let text = said("info", LogFormat::Text);
        assert!(text.contains("run=\"run_1\"") && text.contains("fence=7"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("unheard"), "{text:?}");
    }

    #[test]
    fn the_level_filters() {
        assert!(said("debug", LogFormat::Text).contains("unheard"));
        assert_eq!(said("error", LogFormat::Text), "");
    }

    #[test]
    fn the_level_changes_while_the_log_is_written() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let kept = Kept::default();
            let writer = kept.clone();
            let logging = |level: &str| Logging { level: level.to_owned(), format };
            let (subscriber, level) = subscriber(&logging("info"), move || writer.clone(), false).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!("before");
                level.change(&logging("debug")).unwrap();
                tracing::debug!("after");
                assert!(level.change(&logging("no=such=level")).is_err());
                tracing::debug!("still");
            });
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert!(!text.contains("before") && text.contains("after") && text.contains("still"), "{text}");
        }
    }

    #[test]
    fn a_second_set_up_is_an_error_and_no_panic() {
        let logging = Logging { level: "off".to_owned(), format: LogFormat::Text };
        let _first = init(&logging);
        assert!(matches!(init(&logging), Err(TelemetryError::AlreadySet(_))));
    }
}
