//! Why a run is where it is, as this daemon knows it.

use super::Manager;
use crate::daemon::agents::Hold;
use crate::daemon::error::ManagerError;
use crate::daemon::inner::EVENTS_PAGE;
use crate::domain::event::EventName;
use crate::domain::id::RunId;
use crate::domain::run::{Attempt, Run, Slot, Status};
use crate::domain::task::Task;
use crate::domain::why::{self, AgentHere, Here, Situation, Why};
use crate::store::{CountScope, DueKind, Record, RecordId};

impl Manager {
    /// Says why a run is where it is.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn why(&self, id: &RunId) -> Result<Why, ManagerError> {
        let store = &self.inner().store;
        let Some(record) = self.record(RecordId::run(id)).await? else { return Err(ManagerError::not_found("Run", id)) };
        let run = record.decode_run()?;
        let ids = [RecordId::attempt(id, run.attempt), RecordId::task(&run.task_id), RecordId::slot(&run.task_id)];
        let [attempt, task, slot] = <[Option<Record>; 3]>::try_from(store.get(&ids).await?).unwrap_or_default();
        let attempt: Option<Attempt> = attempt.as_ref().map(Record::decode).transpose()?;
        let task: Option<Task> = task.as_ref().map(Record::decode).transpose()?;
        let slot: Option<Slot> = slot.as_ref().map(Record::decode).transpose()?;
        let ahead = self.ahead(id, slot.as_ref()).await?;
        let reason = self.reason(&run).await?;
        let here = self.here(&run).await?;
        let now = store.now().await?;
        // The store's clock of leases is told only with what is due by it.
        let lease_now = if run.status.is_leased() { store.due(DueKind::ExpiredLeases, 0).await?.now } else { now };
        Ok(why::why(&Situation {
            run: &run,
            due: record.due,
            attempt: attempt.as_ref(),
            task: task.as_ref(),
            slot: slot.as_ref(),
            ahead: ahead.as_ref(),
            reason: reason.as_deref(),
            here: &here,
            now,
            lease_now,
        }))
    }

    /// The live run that a run of this slot waits for; the one of several that was asked to end, if there is such a one.
    async fn ahead(&self, id: &RunId, slot: Option<&Slot>) -> Result<Option<Run>, ManagerError> {
        let Some(slot) = slot.filter(|slot| slot.waiting.contains(id)) else { return Ok(None) };
        let ids: Vec<RecordId> = slot.holders.iter().take(super::PAGE_PART).map(RecordId::run).collect();
        let mut first = None;
        for record in self.inner().store.get(&ids).await?.into_iter().flatten() {
            let run = record.decode_run()?;
            if run.cancel_requested_at.is_some() {
                return Ok(Some(run));
            }
            first.get_or_insert(run);
        }
        Ok(first)
    }

    /// The reason that the history gives for a cancel, a skip or a wait; records do not keep it.
    async fn reason(&self, run: &Run) -> Result<Option<String>, ManagerError> {
        let is_given = matches!(run.status, Status::Cancelled | Status::Skipped) || run.status.is_waiting();
        if !is_given && run.cancel_requested_at.is_none() {
            return Ok(None);
        }
        let (mut after, mut asked, mut settled) = (0, None, None);
        loop {
            let page = self.inner().store.events(&run.run_id, after, EVENTS_PAGE).await?;
            for numbered in &page {
                let event = &numbered.event;
                let given = || event.details.get("reason").and_then(serde_json::Value::as_str).map(str::to_owned);
                if event.event == EventName::CancelRequested {
                    asked = given();
                } else if EventName::of_settled(event.status) == Some(event.event) {
                    settled = given();
                }
            }
            match page.last() {
                Some(last) if page.len() == EVENTS_PAGE => after = last.sequence,
                // A run that was parked once and is executing was given another reason then.
                _ if run.status.is_leased() => return Ok(asked),
                _ => return Ok(settled.or(asked)),
            }
        }
    }

    /// This daemon, as far as a run depends on it.
    async fn here(&self, run: &Run) -> Result<Here, ManagerError> {
        let (inner, agent) = (self.inner(), &run.agent_id);
        let offer = inner.executor.offer();
        let offered = offer.iter().find(|offered| offered.claim.agent == *agent);
        let agent = match (offered, &self.0.agents) {
            (Some(offered), _) => {
                let counts = inner.store.counts(CountScope::RunsOfAgent(agent.clone())).await?;
                let leased = Status::ALL.into_iter().filter(|status| status.is_leased());
                AgentHere::Serves { max_running: offered.claim.max_running, running: leased.map(|status| counts.of(status)).sum() }
            }
            (None, Some(agents)) if agents.knows(agent) => {
                match agents.hold_of(agent) {
                    Some(Hold::Paused(why)) => AgentHere::Paused(why),
                    Some(Hold::Quarantined(why)) => AgentHere::Quarantined(why),
                    Some(Hold::NotServing(why)) => AgentHere::NotServing(why),
                    // It may have begun to serve since the offer was made.
                    None => AgentHere::NotServing("its plugin serves in a moment".to_owned()),
                }
            }
            (None, _) => AgentHere::Unknown,
        };
        Ok(Here {
            is_stopping: !self.is_running(),
            executes: inner.settings().executes,
            outage: self.outage(),
            max_running: inner.settings().max_running,
            executing: inner.live.len(),
            agent,
            waits: inner.live.get(&run.run_id).filter(|live| live.fence == run.lease_generation).and_then(|live| live.waits()),
        })
    }
}
