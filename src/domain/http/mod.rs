//! Outgoing HTTP as a rule and as a record: what an agent may ask of whom, and what became of each call.
//!
//! Invariant: a URL is judged in the one form in which it is sent. Both the allow-list and every request go through the same URL
//! parser, and nothing is compared as it was written.

mod call;
mod fault;
mod policy;
mod rule;

pub use call::{Denied, HttpCall, HttpCalls, Refusal, Rule, WhyDenied};
pub use fault::HttpFault;
pub use policy::{Credential, HttpLimits, HttpPolicy, Source};
pub use rule::{Allowed, Target};

/// An id as a key of TOML.
pub fn toml_key(id: &str) -> String {
    let is_bare = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare { id.to_owned() } else { format!("\"{id}\"") }
}
