//! What became of an attempt's calls: a bounded record, and the answer to why one was refused.

use serde::{Deserialize, Serialize};

use crate::domain::id::{AgentId, RunId};
use crate::domain::time::{Seconds, Timestamp};

/// How many calls of an attempt are kept one by one.
const KEPT: usize = 200;
/// How many refused calls are kept after these.
const REFUSED_KEPT: usize = 50;
/// The most that the texts of an attempt's calls may take, in bytes: an attempt's record has at most a megabyte.
const TEXT_BYTES: usize = 192 * 1024;

/// What stopped a call. A closed list, ordered by how far a request comes before it meets the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// It is no request that could be sent.
    Url,
    /// The host is not listed.
    Host,
    /// The host is listed with other ports.
    Port,
    /// The host is listed with another scheme.
    Scheme,
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
    /// A budget has nothing left, or the call could not be charged.
    Budget,
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
    /// What the texts of these take.
    #[serde(skip)]
    text_bytes: usize,
}

impl HttpCalls {
    /// Adds a call; says where it is kept, if it is.
    pub fn add(&mut self, mut call: HttpCall) -> Option<usize> {
        self.total = self.total.saturating_add(1);
        let refused = call.refused.take();
        let most = if refused.is_some() { KEPT + REFUSED_KEPT } else { KEPT };
        let texts = [call.method.len(), call.origin.len(), call.path.len(), call.credentials.iter().map(String::len).sum()];
        let slot = (self.calls.len() < most && self.has_room(texts.iter().sum())).then(|| {
            self.calls.push(call);
            self.calls.len() - 1
        });
        if let Some(refusal) = refused {
            self.refuse(slot, refusal);
        }
        slot
    }

    /// Counts a call that was added as refused, and keeps why where it is kept.
    pub fn refuse(&mut self, slot: Option<usize>, mut refusal: Refusal) {
        if self.at(slot).is_some_and(|call| call.refused.is_some()) {
            return;
        }
        self.refused = self.refused.saturating_add(1);
        if slot.is_none() || !self.has_room(refusal.sentence.len()) {
            return;
        }
        refusal.toml = refusal.toml.filter(|toml| self.has_room(toml.len()));
        if let Some(call) = self.at(slot) {
            call.refused = Some(refusal);
        }
    }

    /// Whether one more refused call would be kept, with the lines that would allow it.
    pub fn keeps_refused(&self) -> bool {
        self.calls.len() < KEPT + REFUSED_KEPT && self.text_bytes < TEXT_BYTES
    }

    /// A call that is kept.
    pub fn at(&mut self, slot: Option<usize>) -> Option<&mut HttpCall> {
        slot.and_then(|slot| self.calls.get_mut(slot))
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        let taken = self.text_bytes.saturating_add(bytes);
        let fits = taken <= TEXT_BYTES;
        if fits {
            self.text_bytes = taken;
        }
        fits
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

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: usize, refusal: Option<usize>) -> HttpCall {
        let text = |bytes| "x".repeat(bytes);
        HttpCall {
            at: Timestamp::from_seconds(0),
            method: "GET".to_owned(),
            origin: "https://h".to_owned(),
            path: text(path),
            status: None,
            bytes_out: 0,
            bytes_in: 0,
            seconds: Seconds::default(),
            credentials: Vec::new(),
            refused: refusal.map(|bytes| Refusal { rule: Rule::Host, sentence: text(100), toml: Some(text(bytes)) }),
            failed: None,
        }
    }

    #[test]
    fn a_record_of_the_longest_calls_fits_into_the_store() {
        let mut calls = HttpCalls::default();
        for _ in 0..1000 {
            calls.add(call(256, Some(4096)));
        }
        assert_eq!((calls.total, calls.refused), (1000, 1000));
        assert!(serde_json::to_vec(&calls).unwrap().len() < 512 * 1024);
        assert!(calls.calls[0].refused.as_ref().unwrap().toml.is_some());
    }

    #[test]
    fn refused_calls_are_kept_beyond_the_others() {
        let mut calls = HttpCalls::default();
        for _ in 0..300 {
            calls.add(call(10, None));
        }
        assert_eq!(calls.add(call(10, Some(10))), Some(KEPT));
        assert_eq!(calls.add(call(10, None)), None);
        calls.refuse(Some(3), Refusal { rule: Rule::MaxSeconds, sentence: String::new(), toml: None });
        calls.refuse(Some(3), Refusal { rule: Rule::MaxSeconds, sentence: String::new(), toml: None });
        calls.refuse(None, Refusal { rule: Rule::MaxSeconds, sentence: String::new(), toml: None });
        assert_eq!((calls.total, calls.refused, calls.calls.len()), (302, 3, KEPT + 1));
        let back: HttpCalls = serde_json::from_str(&serde_json::to_string(&calls).unwrap()).unwrap();
        assert_eq!(back.calls, calls.calls);
    }
}
