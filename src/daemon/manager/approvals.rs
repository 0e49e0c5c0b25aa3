//! What runs ask people, and the answers.

use std::sync::Arc;

use serde::Serialize;

use super::{Listing, Manager};
use crate::daemon::approvals;
use crate::daemon::error::ManagerError;
use crate::daemon::transitions::{self, Step};
use crate::daemon::txn::Txn;
use crate::domain::approval::{Answer, Question, Questions};
use crate::domain::event::{Event, EventName};
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::park::{Park, Parked};
use crate::domain::run::{Run, Status};
use crate::domain::time::Timestamp;
use crate::store::{PageRequest, Record};

/// A run that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Waiting {
    /// The run.
    pub run_id: RunId,
    /// Its task.
    pub task_id: TaskId,
    /// Its agent.
    pub agent_id: AgentId,
    /// The name of what it asks; none where it is held because nobody knows what an attempt did outside.
    pub key: Option<String>,
    /// What it asks, or why it is held. Untrusted.
    pub question: String,
    /// Since when.
    pub asked_at: Option<Timestamp>,
    /// When it fails unless somebody answers.
    pub until: Option<Timestamp>,
}

impl Waiting {
    fn of(run: Run, due: Option<Timestamp>) -> Waiting {
        let (key, question, asked_at, until) = match run.parked {
            Some(Parked { park: Park::Approval { key, question }, since, until }) => (Some(key), question, Some(since), Some(until)),
            _ => (None, run.error.unwrap_or_default(), None, due),
        };
        Waiting { run_id: run.run_id, task_id: run.task_id, agent_id: run.agent_id, key, question, asked_at, until }
    }
}

/// A person's word, as it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Whether it is a yes.
    pub approved: bool,
    /// Who gives it.
    pub by: String,
    /// What they say about it.
    pub note: String,
    /// The token with which it comes, where that has a name.
    pub token: Option<String>,
    /// The attempt whose question they have seen; none for whatever is asked.
    pub attempt: Option<u32>,
}

/// An answer that was taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decided {
    /// The run.
    pub run_id: RunId,
    /// The name of what it asked.
    pub key: String,
    /// The answer.
    #[serde(flatten)]
    pub answer: Answer,
    /// The run's status with it.
    pub status: Status,
}

impl Manager {
    /// The runs that wait for a person, all or those of a task.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn waiting(&self, task: Option<TaskId>, page: PageRequest) -> Result<Listing<Waiting>, ManagerError> {
        let due = |record: &Record| Ok((record.decode_run()?, record.due));
        let Listing { items, total, next } = self.runs_as(task, Some(Status::AwaitingApproval), page, due).await?;
        Ok(Listing { items: items.into_iter().map(|(run, due)| Waiting::of(run, due)).collect(), total, next })
    }

    /// What a run has asked so far, and the answers, by the questions' keys.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn questions(&self, run: &RunId) -> Result<Questions, ManagerError> {
        self.run(run).await?;
        let record = self.record(approvals::id_of(run)).await?;
        Ok(record.map(|record| record.decode()).transpose()?.unwrap_or_else(|| Questions::none(run.clone())))
    }

    /// Answers what a run asks. The run goes on if that is what it waits for. The same answer again changes nothing.
    ///
    /// # Errors
    /// There is no such run or question, it has another answer, the wait is over, or the run has ended.
    pub async fn answer(&self, run: &RunId, key: &str, word: Word) -> Result<Decided, ManagerError> {
        let (id, key) = (run.clone(), key.to_owned());
        let reads = vec![crate::store::RecordId::run(run), approvals::id_of(run)];
        self.commit(reads, Vec::new(), move |txn| decide(txn, &id, &key, &word)).await
    }

    /// Whether an answer has let a run go on that is parked no more, so that who wants to resume it need not.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn was_answered(&self, run: &Run) -> Result<bool, ManagerError> {
        let questions = self.questions(&run.run_id).await?.questions;
        let is_last = |asked: &Question| asked.answer.is_some() && run.attempt <= asked.attempt.saturating_add(1);
        Ok(!run.status.is_waiting() && questions.values().any(is_last))
    }
}

fn decide(txn: &mut Txn<'_>, run_id: &RunId, key: &str, word: &Word) -> Step<Decided> {
    let run = transitions::run_of(txn, run_id)?;
    let record = approvals::id_of(run_id);
    let before = txn.get::<Questions, _>(&record)?;
    let mut questions = before.as_deref().cloned().unwrap_or_else(|| Questions::none(run_id.clone()));
    let now = txn.now();
    let answer = Answer { approved: word.approved, by: word.by.clone(), note: word.note.clone(), token: word.token.clone(), at: now };
    let conflict = |why: String| ManagerError::Conflict(format!("Run {run_id} {why}"));
    let answer = match questions.answer(key, word.attempt, answer) {
        Ok(answer) => answer.clone(),
        Err(crate::domain::approval::NotTaken::NotAsked { key, others }) => {
            return Err(ManagerError::not_found("Approval", format!("{key} of run {run_id}{others}")).into());
        }
        Err(other) => return Err(conflict(other.to_string()).into()),
    };
    let told = |status| Decided { run_id: run_id.clone(), key: key.to_owned(), answer: answer.clone(), status };
    if before.as_deref() != Some(&questions) {
        if run.status.is_terminal() {
            return Err(conflict(format!("is {}; nothing that it asked can be answered any more", run.status.as_str())).into());
        }
        txn.put(record, Arc::new(questions))?;
        txn.event(run_id, decided_event(&run, key, &answer, now));
    }
    let waits_for_it = matches!(&run.parked, Some(Parked { park: Park::Approval { key: waits, .. }, .. }) if waits == key);
    if !waits_for_it {
        return Ok(told(run.status));
    }
    let decision = approvals::answered(&run, key, &answer, now)?;
    let run = transitions::write(txn, decision)?;
    Ok(told(run.status))
}

fn decided_event(run: &Run, key: &str, answer: &Answer, now: Timestamp) -> Event {
    let event = Event::of(run, EventName::ApprovalDecided, now)
        .with("key", key)
        .with("approved", answer.approved)
        .with("by", answer.by.as_str())
        .with("note", answer.note.as_str());
    match &answer.token {
        Some(token) => event.with("token", token.as_str()),
        None => event,
    }
}
