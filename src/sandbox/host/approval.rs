//! `sandclock:agent/approval`: questions to a person.
//!
//! Invariant: a question that nobody has answered ends the attempt inside the call, and the run waits without an attempt.

use super::checkpoint::{Ends, ends};
use crate::domain::approval::LONGEST_TEXT;
use crate::domain::checkpoint::check_key;
use crate::domain::park::Park;
use crate::domain::policy::ErrorKind;
use crate::domain::receipt::CallKind;
use crate::sandbox::checkpoints::{Approvals, Verdict};
use crate::sandbox::fault::Fault;
use crate::sandbox::host::bindings::sandclock::agent::approval::{Decision, Host};
use crate::sandbox::spec::{Ended, bounded};
use crate::sandbox::state::Attempt;

impl From<Verdict> for Decision {
    fn from(Verdict { approved, by, note }: Verdict) -> Self {
        Decision { approved, by, note }
    }
}

impl Attempt {
    fn asked(&self) -> wasmtime::Result<&dyn Approvals> {
        self.host.approvals().ok_or_else(|| Fault::Unsupported("approvals").into())
    }
}

/// A question as it is kept: as long as a record has room for, without what would steer a terminal.
fn shown(question: &str) -> String {
    let cut = bounded(question.to_owned(), LONGEST_TEXT);
    cut.chars().map(|given| if given.is_control() && given != '\n' { ' ' } else { given }).collect()
}

impl Host for Attempt {
    async fn ask(&mut self, key: String, question: String) -> wasmtime::Result<Decision> {
        self.act(CallKind::Approval)?;
        let asked = self.asked()?;
        if let Err(bad) = check_key(&key) {
            let message = format!("the guest asked under a key that cannot be kept: {bad}");
            return Err(Ends(Ended::failed(ErrorKind::GuestPermanent, message)).into());
        }
        match asked.verdict(&key, self.approvals).await.map_err(ends)? {
            Some(verdict) => Ok(verdict.into()),
            None => Err(Ends(Ended::Parked(Park::Approval { key, question: shown(&question) })).into()),
        }
    }

    async fn find(&mut self, key: String) -> wasmtime::Result<Option<Decision>> {
        self.call(CallKind::Approval)?;
        let asked = self.asked()?;
        if check_key(&key).is_err() {
            return Ok(None);
        }
        Ok(asked.verdict(&key, u32::MAX).await.map_err(ends)?.map(Decision::from))
    }
}
