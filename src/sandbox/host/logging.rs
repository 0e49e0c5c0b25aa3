//! `wasi:logging`: lines with a level and a context, for the run's log.
//!
//! Invariant: what exceeds the log limit is dropped and counted, as of the standard streams, and never the guest's failure.

use crate::domain::receipt::CallKind;
use crate::domain::text;
use crate::sandbox::spec::{LogEntry, LogLevel};
use crate::sandbox::state::Attempt;

/// The longest context, in bytes; what is beyond is cut.
const CONTEXT_BYTES: usize = 256;

mod draft {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "src/sandbox/wit/logging-draft", imports: { default: trappable }, require_store_data_send: true });
}

mod unversioned {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "src/sandbox/wit/logging", imports: { default: trappable }, require_store_data_send: true });
}

impl Attempt {
    fn log_entry(&self, level: LogLevel, context: String, message: String) -> wasmtime::Result<()> {
        self.act(CallKind::Logging)?;
        let context = text::bounded(context, CONTEXT_BYTES, "…");
        // A line has an end as well.
        if self.meter.admits_log_line(context.len() + message.len() + 1) {
            self.host.log_entry(LogEntry { level, context, message });
        }
        Ok(())
    }
}

/// One thin binding for each name of the interface.
macro_rules! binding {
    ($interface:path) => {
        const _: () = {
            use $interface as interface;
            impl interface::Host for Attempt {
                fn log(&mut self, level: interface::Level, context: String, message: String) -> wasmtime::Result<()> {
                    let level = match level {
                        interface::Level::Trace => LogLevel::Trace,
                        interface::Level::Debug => LogLevel::Debug,
                        interface::Level::Info => LogLevel::Info,
                        interface::Level::Warn => LogLevel::Warn,
                        interface::Level::Error => LogLevel::Error,
                        interface::Level::Critical => LogLevel::Critical,
                    };
                    self.log_entry(level, context, message)
                }
            }
        };
    };
}

binding!(draft::wasi::logging::logging);
binding!(unversioned::wasi::logging::logging);

pub(crate) use draft::Imports as Draft;
pub(crate) use unversioned::Imports as Unversioned;
