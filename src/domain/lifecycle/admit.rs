//! How a run comes to be: the overlap policy decides in the same commit that inserts it.

use serde_json::{Map, Value, json};

use super::{Decision, end};
use crate::domain::event::{Event, EventName};
use crate::domain::id::RunId;
use crate::domain::policy::OverlapPolicy;
use crate::domain::run::{Run, RunPolicy, Slot, SlotPart, Status, Trigger};
use crate::domain::spend::Spend;
use crate::domain::task::Task;
use crate::domain::time::{Seconds, Timestamp};

/// A run that is wished for.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its id.
    pub run_id: RunId,
    /// What asks for it.
    pub trigger: Trigger,
    /// Its nominal fire time.
    pub due_at: Option<Timestamp>,
    /// The occurrence that it stands for.
    pub occurrence_id: Option<String>,
    /// What the agent is asked, when not the task's query.
    pub query: Option<String>,
    /// Who asks for it, where that is known.
    pub by: Option<String>,
    /// Free for whoever asks.
    pub trigger_metadata: Map<String, Value>,
    /// The attempts' time limit when the task gives none.
    pub default_timeout: Seconds,
    /// The grace of a cancel when the task gives none.
    pub default_cancel_grace: Seconds,
    /// The losses in a row that are borne when the task gives none.
    pub default_max_recoveries: u32,
}

/// What comes of a wish.
#[derive(Clone, Debug, PartialEq)]
pub struct Admission {
    /// The new run, queued or skipped, and its first events.
    pub decision: Decision,
    /// The task's slot afterwards, when it changed.
    pub slot: Option<Slot>,
    /// The runs that must be asked to end for it.
    pub cancel: Vec<RunId>,
}

fn new_run(task: &Task, draft: Draft, now: Timestamp) -> Run {
    let retry = task.retry_policy.clone();
    Run {
        session_id: task.session_policy.session_of(&task.agent_id, &task.task_id, &draft.run_id),
        workspace_path: task.workspace_policy.path_of(&task.agent_id, &task.task_id, &draft.run_id),
        run_id: draft.run_id,
        task_id: task.task_id.clone(),
        agent_id: task.agent_id.clone(),
        status: Status::Queued,
        attempt: 0,
        max_attempts: retry.max_retries.saturating_add(1),
        query_snapshot: draft.query.unwrap_or_else(|| task.query.clone()),
        trigger_type: draft.trigger,
        triggered_at: now,
        due_at: draft.due_at,
        occurrence_id: draft.occurrence_id,
        trigger_metadata: draft.trigger_metadata,
        lease_owner: None,
        lease_token: (),
        lease_generation: 0,
        lease_expires_at: None,
        heartbeat_at: None,
        queued_at: now,
        claimed_at: None,
        started_at: None,
        finished_at: None,
        cancel_requested_at: None,
        error: None,
        result_preview: None,
        metadata: task.metadata.clone(),
        error_kind: None,
        cancel_requested_by: None,
        failures: 0,
        recoveries: 0,
        slot: SlotPart::Free,
        waited_for: None,
        parked: None,
        usage: Spend::default(),
        policy: RunPolicy {
            timeout_seconds: task.timeout_seconds.unwrap_or(draft.default_timeout),
            cancel_grace_seconds: task.cancel_grace_seconds.unwrap_or(draft.default_cancel_grace),
            retry,
            max_recoveries: task.max_recoveries.unwrap_or(draft.default_max_recoveries),
            on_unknown: task.on_unknown,
            write_run_json: task.workspace_policy.write_run_json,
            write_events_jsonl: task.workspace_policy.write_events_jsonl,
            budget: task.budget,
        },
    }
}

/// The room that is left for a new run.
enum Room {
    Free,
    Turn,
    Wait { cancel: Vec<RunId> },
    Full { reason: String },
}

fn room(task: &Task, slot: &Slot) -> Room {
    let Some(capacity) = task.capacity() else { return Room::Free };
    if slot.holders.len() < capacity && slot.waiting.is_empty() {
        return Room::Turn;
    }
    let live = slot.holders.first().or(slot.waiting.front());
    match task.overlap_policy {
        OverlapPolicy::SkipIfRunning => {
            Room::Full { reason: live.map_or_else(String::new, |run| format!("run {run} of the task is live")) }
        }
        // Whoever waits already is overtaken, so that of ten rapid fires the last one runs.
        OverlapPolicy::CancelPrevious => Room::Wait { cancel: slot.holders.iter().chain(&slot.waiting).cloned().collect() },
        OverlapPolicy::QueueNext | OverlapPolicy::AllowParallel if slot.waiting.len() >= task.max_queued as usize => {
            Room::Full { reason: format!("{} runs of the task wait already (max_queued)", slot.waiting.len()) }
        }
        OverlapPolicy::QueueNext | OverlapPolicy::AllowParallel => Room::Wait { cancel: Vec::new() },
    }
}

fn scheduled_event(run: &Run) -> Option<Event> {
    (run.trigger_type != Trigger::Manual).then(|| Event::of(run, EventName::TaskScheduled, run.triggered_at))
}

/// What is told of a run that has just entered the queue.
pub(super) fn first_events(run: &Run) -> Vec<Event> {
    let mut queued = Event::of(run, EventName::Queued, run.triggered_at);
    if let Some(before) = &run.waited_for {
        queued = queued.with("waits_for", json!(before));
    }
    scheduled_event(run).into_iter().chain([queued]).collect()
}

/// Makes a run of a task under its overlap policy. `slot` is the task's, as it is in the same commit.
pub fn admit(task: &Task, slot: &Slot, draft: Draft, now: Timestamp) -> Admission {
    let by = draft.by.clone();
    let mut admission = placed(task, slot, new_run(task, draft, now), now);
    if let (Some(by), Some(first)) = (by, admission.decision.events.first_mut()) {
        first.details.insert("requested_by".to_owned(), json!(by));
    }
    admission
}

fn placed(task: &Task, slot: &Slot, mut run: Run, now: Timestamp) -> Admission {
    let mut slot = slot.clone();
    let mut slot_after = None;
    let mut cancel = Vec::new();
    match room(task, &slot) {
        Room::Free => {}
        Room::Turn => {
            run.slot = SlotPart::Holds;
            slot.holders.push(run.run_id.clone());
            slot_after = Some(slot);
        }
        Room::Wait { cancel: previous } => {
            run.slot = SlotPart::Waits;
            run.waited_for = slot.waiting.back().or(slot.holders.last()).cloned();
            slot.waiting.push_back(run.run_id.clone());
            slot_after = Some(slot);
            cancel = previous;
        }
        Room::Full { reason } => {
            let scheduled = scheduled_event(&run);
            let skipped = end(&mut run, Status::Skipped, now).with("reason", reason);
            let events = scheduled.into_iter().chain([skipped]).collect();
            return Admission { decision: Decision { run, attempt: None, events, result: None }, slot: None, cancel };
        }
    }
    let events = first_events(&run);
    Admission { decision: Decision { run, attempt: None, events, result: None }, slot: slot_after, cancel }
}
