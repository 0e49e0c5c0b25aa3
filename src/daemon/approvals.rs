//! What a run's attempts ask people, as one record of the run.
//!
//! Invariants: a question is kept in the commit that parks its run; an answer is kept in the commit that lets the run go on.

use std::sync::Arc;

use async_trait::async_trait;

use super::checkpoints::refused;
use super::patience;
use super::transitions::Step;
use super::txn::{Entity, Txn};
use crate::domain::approval::{Answer, Question, Questions};
use crate::domain::id::RunId;
use crate::domain::lifecycle::{self, Decision, Refused};
use crate::domain::park::{Park, Parked};
use crate::domain::run::Run;
use crate::domain::time::Timestamp;
use crate::sandbox::checkpoints::{Approvals, CheckpointRefused, Verdict};
use crate::store::{Index, Kind, RecordId, Store, StoreError};

/// The record of a run's questions.
pub(super) fn id_of(run: &RunId) -> RecordId {
    RecordId::new(Kind::Approval, run.as_str())
}

impl Entity for Questions {
    const KIND: Kind = Kind::Approval;

    fn index(&self, _now: Timestamp) -> Index {
        Index { run: Some(self.run_id.clone()), ..Index::default() }
    }
}

/// Keeps the question for which a run is being parked, if it is one. Where the answer came while the attempt was ending, the run goes on
/// at once.
///
/// # Errors
/// The record is not loaded yet.
pub(super) fn keep(txn: &mut Txn<'_>, decision: Decision) -> Step<Decision> {
    let run = &decision.run;
    let Some(Parked { park: Park::Approval { key, question }, since, until }) = &run.parked else { return Ok(decision) };
    let id = id_of(&run.run_id);
    let mut questions = txn.get::<Questions, _>(&id)?.map_or_else(|| Questions::none(run.run_id.clone()), |kept| Questions::clone(&kept));
    let asked = Question { question: question.clone(), attempt: run.attempt, asked_at: *since, until: *until, answer: None };
    let answer = questions.ask(key, asked).answer.clone();
    txn.put(id, Arc::new(questions))?;
    match answer {
        None => Ok(decision),
        Some(answer) => {
            let resumed = answered(run, key, &answer, txn.now())?;
            Ok(Decision { run: resumed.run, events: decision.events.into_iter().chain(resumed.events).collect(), ..decision })
        }
    }
}

/// Lets a parked run go on with the answer.
///
/// # Errors
/// The run is not parked.
pub(super) fn answered(run: &Run, key: &str, answer: &Answer, now: Timestamp) -> Result<Decision, Refused> {
    let mut decision = lifecycle::resume(run.clone(), Some(&answer.by), now)?;
    for event in &mut decision.events {
        event.details.insert("reason".to_owned(), format!("`{key}` was {}", answer.word()).into());
    }
    Ok(decision)
}

/// The questions of a run as one attempt sees them.
pub(super) struct AttemptApprovals {
    store: Arc<dyn Store>,
    run: Arc<Run>,
}

impl AttemptApprovals {
    /// Of an attempt of this run.
    pub(super) fn new(store: Arc<dyn Store>, run: Arc<Run>) -> Self {
        AttemptApprovals { store, run }
    }

    async fn questions(&self) -> Result<Option<Questions>, StoreError> {
        // A first attempt has asked nothing: a question ends its attempt.
        if self.run.attempt <= 1 {
            return Ok(None);
        }
        let mut records = patience::read(&*self.store, &[id_of(&self.run.run_id)]).await?;
        records.pop().flatten().map(|record| record.decode()).transpose()
    }
}

#[async_trait]
impl Approvals for AttemptApprovals {
    async fn verdict(&self, key: &str, most: u32) -> Result<Option<Verdict>, CheckpointRefused> {
        let kept = self.questions().await.map_err(|error| refused(&error))?;
        let questions = kept.map(|kept| kept.questions).unwrap_or_default();
        if !questions.contains_key(key) && questions.len() >= most as usize {
            let why = format!("the run has asked as many questions as its limit `approvals` of {most} allows; ask less, or have it raised");
            return Err(CheckpointRefused::Limit(why));
        }
        let answer = questions.get(key).and_then(|asked| asked.answer.clone());
        Ok(answer.map(|answer| Verdict { approved: answer.approved, by: answer.by, note: answer.note }))
    }
}
