//! What one call costs.
//!
//! Invariant: a call that has left is charged for what it moved and for what a model used, however it ends: when its answer is complete,
//! before the guest sees the last of it, and at the latest when the bill is dropped. It is charged once, however often it is asked to.

use std::sync::Arc;

use hyper::header::HeaderMap;

use super::ledger::{Call, Way};
use super::till::{Charged, Till};
use super::usage::{Reader, is_of_model};
use crate::domain::http::Target;
use crate::domain::receipt::Tokens;
use crate::domain::spend::{Money, Spend};

/// What came of a request so far.
enum Answer {
    /// Nothing has come yet.
    None,
    /// One that says nothing of models.
    Other,
    /// One that is read as it passes by.
    Read(Box<Reader>),
}

/// The bill of a call that may leave.
pub struct Bill {
    call: Arc<Call>,
    till: Arc<Till>,
    is_post: bool,
    is_of_model: bool,
    /// The bytes of its headers.
    head: u64,
    answer: Answer,
    /// The bytes that were charged, and whether the tokens were.
    bytes: u64,
    has_tokens: bool,
}

impl Bill {
    /// Of a call that is about to leave, whose headers alone are counted.
    pub fn new(call: Arc<Call>, till: Arc<Till>, target: &Target) -> Self {
        till.open();
        let is_post = target.method == "POST";
        let is_of_model = is_post && is_of_model(target.url.path());
        let head = call.bytes(Way::Out);
        Bill { call, till, is_post, is_of_model, head, answer: Answer::None, bytes: 0, has_tokens: false }
    }

    /// Takes note of an answer's head.
    pub fn answered(&mut self, is_success: bool, headers: &HeaderMap) {
        // Who refused has used nothing, unless it says so.
        self.is_of_model &= is_success;
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_readable = kind.contains("json") || kind.starts_with("text/event-stream");
        let reads = self.is_post && (is_readable || self.is_of_model);
        self.answer = if reads { Answer::Read(Box::default()) } else { Answer::Other };
    }

    /// Reads a part of the answer; says whether that completes what it says of its cost.
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        let Answer::Read(reader) = &mut self.answer else { return false };
        reader.push(bytes);
        !self.has_tokens && reader.is_complete()
    }

    fn tokens(&self, is_whole: bool) -> Option<Tokens> {
        let sent = self.call.bytes(Way::Out).saturating_sub(self.head);
        match &self.answer {
            Answer::Read(reader) => reader.tokens(sent, is_whole, self.is_of_model),
            // A request that nothing was sent of never reached its host.
            Answer::None if sent == 0 => None,
            Answer::None | Answer::Other => Reader::default().tokens(sent, is_whole, self.is_of_model),
        }
    }

    /// Charges what was not charged before. `is_whole` is whether the answer has come to its end.
    pub fn charge(&mut self, is_whole: bool) -> Option<Charged> {
        let moved = self.call.bytes(Way::Out).saturating_add(self.call.bytes(Way::In));
        let bytes = moved.saturating_sub(self.bytes);
        self.bytes = moved;
        let (mut tokens, mut money) = (0, Money::ZERO);
        // An answer that said that it is complete has been charged for all that it used.
        if !self.has_tokens
            && let Some(counted) = self.tokens(is_whole)
        {
            let model = match &self.answer {
                Answer::Read(reader) => reader.model(),
                Answer::None | Answer::Other => None,
            };
            let used = self.till.add(model, counted);
            (tokens, money) = (used.tokens.total(), used.money);
            self.has_tokens = true;
        }
        self.till.charge(Spend { bytes, tokens, money, ..Spend::default() })
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.charge(false);
        self.till.close();
    }
}
