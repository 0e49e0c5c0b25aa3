//! The contract between sandclock and its agents, the package `sandclock:agent`, as Rust: implement [`Agent`], call [`export!`], build with
//! `cargo build --release --target wasm32-wasip2`. The functions of [`context`], [`progress`], [`checkpoint`] and [`approval`] are the
//! daemon's; outside of a sandbox, in a test on the host, they panic, so keep what you want to test in functions that do not call them.
//!
//! | module | what it is for | cargo feature |
//! |---|---|---|
//! | [`config`] | the values of `[agents.NAME].config` | |
//! | [`memory`] | what the agent keeps from run to run | |
//! | `http` | requests to the hosts that the agent may call | `http`, and `json` for JSON bodies |
//! | `steps` | work that a later attempt does not do again | `json` |

/// Generated from the contract in sandclock's repository, and kept ready made so that an agent builds in seconds, without the generator.
#[rustfmt::skip]
#[allow(clippy::all)]
pub mod bindings;
/// Generated there, too, from the interfaces of configuration and memory.
#[rustfmt::skip]
#[allow(clippy::all)]
mod services;

pub mod config;
#[cfg(feature = "http")]
pub mod http;
pub mod memory;
#[cfg(feature = "json")]
pub mod steps;

pub use bindings::exports::sandclock::agent::entry::{Failure, Guest as Agent, Retry};
pub use bindings::sandclock::agent::{approval, checkpoint, context, progress};

use std::time::Duration;

impl Failure {
    /// Another attempt cannot help: the run fails with this sentence.
    pub fn permanent(why: impl std::fmt::Display) -> Self {
        Failure::Permanent(why.to_string())
    }

    /// Another attempt may help; when it starts is up to the task's retry policy.
    pub fn retryable(why: impl std::fmt::Display) -> Self {
        Failure::Retryable(Retry { message: why.to_string(), after_ms: None })
    }

    /// Another attempt may help, but not before this time has passed.
    pub fn retryable_after(why: impl std::fmt::Display, after: Duration) -> Self {
        // The contract keeps numbers below 2^31.
        let after_ms = u32::try_from(after.as_millis()).unwrap_or(u32::MAX).min(i32::MAX as u32);
        Failure::Retryable(Retry { message: why.to_string(), after_ms: Some(after_ms) })
    }

    /// The agent stopped because it was asked to.
    pub fn cancelled(why: impl std::fmt::Display) -> Self {
        Failure::Cancelled(why.to_string())
    }
}

/// Makes a type that implements [`Agent`] the component's entry.
#[macro_export]
macro_rules! export {
    ($agent:ident) => {
        #[cfg(target_arch = "wasm32")]
        $crate::bindings::export!($agent with_types_in $crate::bindings);
        // Elsewhere there is no daemon to export to; the agent's own tests still see it as used.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(String) -> Result<String, $crate::Failure> = <$agent as $crate::Agent>::run;
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_stays_within_the_contract() {
        let after = |duration| match Failure::retryable_after("busy", duration) {
            Failure::Retryable(retry) => retry.after_ms,
            other => panic!("{other:?}"),
        };
        assert_eq!(after(Duration::from_millis(1_500)), Some(1_500));
        assert_eq!(after(Duration::MAX), Some(i32::MAX as u32));
    }
}
