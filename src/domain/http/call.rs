//! What became of an attempt's calls: a bounded record, and the answer to why one was refused.

use serde::{Deserialize, Serialize};

use crate::domain::id::{AgentId, RunId};
use crate::domain::time::{Seconds, Timestamp};

/// How many calls of an attempt are kept one by one.
const KEPT: usize = 200;
/// How many refused calls are kept after these.
const REFUSED_KEPT: usize = 50;

/// What stopped a call. A closed list, ordered by how far a request comes before it meets the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is no request that could be sent.
    Url,
    /// The host is not listed.
    Host,
    /// The host is listed with another scheme.
    Scheme,
    /// The host is listed with other ports.
    Port,
    /// The host is listed with other paths.
    Path,
    /// The entry does not have the method.
    Method,
    /// The name stands for an address that is not granted.
    Address,
    /// The credential cannot be read, or must not be sent there.
    Credential,
    /// The attempt has made as many calls as it may.
    MaxCalls,
    /// The attempt has as many calls under way as it may.
    MaxConcurrent,
    /// The attempt has sent as many bytes as it may.
    MaxRequestBytes,
    /// The attempt has received as many bytes as it may.
    MaxResponseBytes,
    /// The attempt's calls took as long as they may.
    MaxSeconds,
    /// The answer's headers are larger than any may be.
    ResponseHeaders,
    /// The attempt may change nothing outside any more.
    Lease,
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What stopped it.
    pub rule: Rule,
    /// The same in a sentence.
    pub sentence: String,
    /// The lines of the configuration that would allow it, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toml: Option<String>,
}

/// One call of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpCall {
    /// When the guest asked for it.
    pub at: Timestamp,
    /// The method.
    pub method: String,
    /// Scheme, host and port, the port where it is not the scheme's own.
    pub origin: String,
    /// The path, without the query, which may hold secrets.
    pub path: String,
    /// The status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Bytes sent, headers included.
    pub bytes_out: u64,
    /// Bytes received, headers included.
    pub bytes_in: u64,
    /// From the guest's wish to the answer's end.
    pub seconds: Seconds,
    /// The names of the credentials that were put into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub credentials: Vec<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// The calls of an attempt: all of them counted, the first of them one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpCalls {
    /// How many were asked for.
    pub total: u64,
    /// How many of them were refused.
    pub refused: u64,
    /// The first of them, and refused ones beyond these, in order.
    pub calls: Vec<HttpCall>,
}

impl HttpCalls {
    /// Adds a call; says where it is kept, if it is.
    pub fn add(&mut self, call: HttpCall) -> Option<usize> {
        self.total = self.total.saturating_add(1);
        let is_kept = self.calls.len() < if call.refused.is_some() { KEPT + REFUSED_KEPT } else { KEPT };
        self.refused = self.refused.saturating_add(u64::from(call.refused.is_some()));
        is_kept.then(|| {
            self.calls.push(call);
            self.calls.len() - 1
        })
    }
}

/// One refused call, with the attempt that asked for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Denied {
    /// The attempt.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// The method.
    pub method: String,
    /// What was asked for, without the query.
    pub url: String,
    /// Why it was refused.
    #[serde(flatten)]
    pub refusal: Refusal,
}

/// What a run was refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WhyDenied {
    /// The run.
    pub run_id: RunId,
    /// Its agent.
    pub agent_id: AgentId,
    /// How many calls were refused, all attempts together.
    pub total: u64,
    /// They, as far as they are kept.
    pub denied: Vec<Denied>,
}
