//! The contract between sandclock and its agents, `wit/agent.wit`, as Rust: implement [`Agent`], call [`export!`], build with
//! `scripts/build-guest.sh`. The functions of [`context`], [`progress`], [`checkpoint`] and [`approval`] are the daemon's; outside of a
//! sandbox, in a test on the host, they panic, so keep what you want to test in functions that do not call them.

/// Generated from `wit/agent.wit` by `make bindings`; committed so that an agent builds in seconds, without the generator.
#[rustfmt::skip]
#[allow(clippy::all)]
pub mod bindings;

pub use bindings::exports::sandclock::agent::entry::{Failure, Guest as Agent, Retry};
pub use bindings::sandclock::agent::{approval, checkpoint, context, progress};

impl Failure {
    /// Another attempt cannot help: the run fails with this sentence.
    pub fn permanent(why: impl std::fmt::Display) -> Self {
        Failure::Permanent(why.to_string())
    }

    /// Another attempt may help; when it starts is up to the task's retry policy.
    pub fn retryable(why: impl std::fmt::Display) -> Self {
        Failure::Retryable(Retry { message: why.to_string(), after_ms: None })
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
