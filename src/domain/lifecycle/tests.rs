//! Random lives of several runs of one task, and the rules that none of them may break.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::id::{AgentId, RunId};
use crate::domain::park::Park;
use crate::domain::policy::{ErrorKind, OverlapPolicy};
use crate::domain::run::{Trigger, Usage};
use crate::domain::spend::{BudgetScope, Exhausted, Meter, Spend};
use crate::domain::task::Task;
use crate::domain::time::Seconds;

mod table;

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn task(more: Value) -> Task {
    let mut body = json!({"task_id": "t", "query": "q", "schedule": {"type": "manual"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Task::parse(body, &AgentId::parse("agent").unwrap(), None, START).unwrap()
}

fn draft(number: usize, trigger: Trigger) -> Draft {
    Draft {
        by: None,
        run_id: RunId::parse(&format!("run_{number:032x}")).unwrap(),
        trigger,
        due_at: None,
        occurrence_id: None,
        query: None,
        trigger_metadata: serde_json::Map::new(),
        default_timeout: Seconds::whole(3600),
        default_cancel_grace: Seconds::whole(5),
        default_max_recoveries: 3,
    }
}

fn worker() -> WorkerId {
    WorkerId::of("worker_a", "1").unwrap()
}

/// What a store would have of one run.
struct Life {
    run: Run,
    attempts: Vec<Attempt>,
    events: Vec<Event>,
    result: Option<String>,
}

/// One task, its slot and its runs, with the changes that the daemon makes of decisions.
struct World {
    task: Task,
    slot: Slot,
    lives: BTreeMap<RunId, Life>,
    admitted: Vec<RunId>,
    now: Timestamp,
}

impl World {
    fn new(task: Task) -> Self {
        World { task, slot: Slot::default(), lives: BTreeMap::new(), admitted: Vec::new(), now: START }
    }

    fn admit(&mut self, trigger: Trigger) -> RunId {
        let draft = draft(self.admitted.len() + 1, trigger);
        let id = draft.run_id.clone();
        let admission = admit(&self.task, &self.slot, draft, self.now);
        if let Some(slot) = admission.slot {
            self.slot = slot;
        }
        self.admitted.push(id.clone());
        let Decision { run, events, attempt, result } = admission.decision;
        assert!(attempt.is_none());
        self.lives.insert(id.clone(), Life { run, attempts: Vec::new(), events, result });
        for previous in admission.cancel {
            let run = self.lives[&previous].run.clone();
            let decision = request_cancel(run, "overlap_policy", None, self.now).expect("the slot names only live runs");
            self.write(decision);
        }
        id
    }

    fn write(&mut self, decision: Decision) {
        let Decision { run, attempt, events, result } = decision;
        let life = self.lives.get_mut(&run.run_id).unwrap();
        assert!(!life.run.status.is_terminal(), "a decision changes {}, which has ended", run.run_id);
        life.run = run.clone();
        life.events.extend(events);
        life.result = result.or(life.result.take());
        if let Some(attempt) = attempt {
            *life.attempts.last_mut().unwrap() = attempt;
        }
        if run.status.is_terminal() && leave_slot(&mut self.slot, &run) {
            self.give_turns();
        }
    }

    fn give_turns(&mut self) {
        for next in next_turns(&self.slot, self.task.capacity().unwrap_or(usize::MAX)) {
            let run = self.lives[&next].run.clone();
            let decision = promote(&mut self.slot, run, self.now).expect("a waiting run can have its turn");
            assert!(decision.events.is_empty());
            self.lives.get_mut(&next).unwrap().run = decision.run;
        }
    }

    /// The runs that a store would let a worker claim.
    fn ready(&self) -> Vec<RunId> {
        let ready = |run: &Run| run.status == Status::Queued && run.slot != SlotPart::Waits && run.queued_at <= self.now;
        self.admitted.iter().filter(|id| ready(&self.lives[*id].run)).cloned().collect()
    }

    fn claim(&mut self, id: &RunId) {
        if self.task.overlap_policy == OverlapPolicy::QueueNext {
            for earlier in self.admitted.iter().take_while(|earlier| *earlier != id) {
                assert!(self.lives[earlier].run.status.is_terminal(), "{id} overtakes {earlier}");
            }
        }
        let now = self.now;
        let life = self.lives.get_mut(id).unwrap();
        let (fence, number) = (life.run.lease_generation + 1, life.run.attempt + 1);
        let patch = claim(&mut life.run, "digest", &worker(), fence, now, now..now + Duration::from_secs(30));
        assert_eq!((life.run.lease_generation, life.run.attempt), (fence, number));
        assert_eq!((patch.attempt.attempt_number, patch.attempt.lease_generation), (number, fence));
        life.attempts.push(patch.attempt);
        life.events.extend(patch.events);
    }

    fn of(&self, wanted: impl Fn(&Run) -> bool) -> Vec<RunId> {
        self.admitted.iter().filter(|id| wanted(&self.lives[*id].run)).cloned().collect()
    }

    fn check(&self) {
        let capacity = self.task.capacity();
        assert!(capacity.is_none_or(|most| self.slot.holders.len() <= most), "{:?}", self.slot);
        for (id, life) in &self.lives {
            check_life(id, life, &self.task);
            let (holds, waits) = (self.slot.holders.contains(id), self.slot.waiting.contains(id));
            let live = !life.run.status.is_terminal();
            assert_eq!(holds, live && life.run.slot == SlotPart::Holds, "{id} {:?}", life.run.slot);
            assert_eq!(waits, live && life.run.slot == SlotPart::Waits, "{id} {:?}", life.run.slot);
            assert!(!waits || life.run.status == Status::Queued, "{id} waits for its turn and is {:?}", life.run.status);
        }
        let named = self.slot.holders.iter().chain(&self.slot.waiting).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(named.len(), self.slot.holders.len() + self.slot.waiting.len(), "a run is named twice: {:?}", self.slot);
        assert!(self.slot.waiting.len() <= self.task.max_queued as usize || self.task.overlap_policy == OverlapPolicy::CancelPrevious);
        assert!(self.slot.holders.len() == capacity.unwrap_or(0) || self.slot.waiting.is_empty(), "a free turn and somebody who waits");
    }
}

fn check_life(id: &RunId, life: &Life, task: &Task) {
    let Life { run, attempts, events, .. } = life;
    let terminal = events.iter().filter(|event| event.event.is_terminal()).count();
    assert_eq!(terminal, usize::from(run.status.is_terminal()), "{id}: {events:?}");
    if run.status.is_terminal() {
        let last = events.last().unwrap();
        assert_eq!((Some(last.event), last.status), (EventName::of_settled(run.status), run.status));
        assert!(run.finished_at.is_some());
    }
    assert_ne!(run.status, Status::Claimed, "claimed is never seen at rest");
    assert_ne!(run.status, Status::Retrying, "retrying is never seen at rest");
    assert_eq!(run.lease_owner.is_some(), run.status.is_leased(), "{id}: a lease without an attempt, or the reverse");
    assert_eq!(run.lease_expires_at.is_some(), run.status.is_leased());
    assert_eq!(run.attempt as usize, attempts.len());
    assert!(attempts.windows(2).all(|pair| pair[0].lease_generation < pair[1].lease_generation), "{id}: a fence does not rise");
    let open = attempts.iter().filter(|attempt| attempt.status == AttemptStatus::Running).count();
    assert_eq!(open, usize::from(run.status.is_leased()), "{id}: attempts that nobody closed");
    let parks = run.parked.as_ref().map(|parked| parked.park.status());
    assert!(parks.is_none_or(|status| status == run.status), "{id} is {:?} and is told to be parked for {parks:?}", run.status);
    let spent = attempts.iter().filter(|attempt| matches!(attempt.status, AttemptStatus::Failed | AttemptStatus::Timeout)).count();
    assert_eq!(spent, run.failures as usize);
    assert!(run.failures <= task.retry_policy.max_retries + 1, "{id}: {} failures", run.failures);
    assert!(run.recoveries <= run.policy.max_recoveries + 1, "{id}: {} recoveries", run.recoveries);
    assert!(run.recoveries <= run.policy.max_recoveries || run.status.is_settled());
    let used = attempts.iter().filter_map(|attempt| attempt.usage.as_ref()).fold(Spend::default(), |sum, usage| sum.plus(usage.spend()));
    assert_eq!(run.usage, used, "{id}: the run's sum is not that of its receipts");
    let counted = |name| events.iter().filter(|event| event.event == name).count();
    assert_eq!(counted(EventName::Claimed), attempts.len());
    assert_eq!(counted(EventName::Started), attempts.len());
}

#[derive(Clone, Debug)]
enum Command {
    Admit(bool),
    Claim(usize),
    Finish(usize, Outcome, bool),
    HandBack(usize),
    Lose(usize, bool),
    Cancel(usize),
    Resume(usize),
    Expire(usize),
    Wait(u64),
}

fn park(asks: bool) -> Park {
    if asks {
        return Park::Approval { key: "k".to_owned(), question: "May I?".to_owned() };
    }
    Park::Budget(Exhausted { scope: BudgetScope::Run, meter: Meter::Calls, limit: 1, spent: 1 })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let kinds = [ErrorKind::Trap, ErrorKind::GuestPermanent, ErrorKind::GuestRetryable, ErrorKind::Memory, ErrorKind::AgentMissing];
    prop_oneof![
        "[a-zé]{0,1100}".prop_map(Outcome::Completed),
        (proptest::sample::select(kinds.to_vec()), proptest::option::of(0u64..10_000)).prop_map(|(kind, after)| Outcome::Failed {
            kind,
            message: "it went wrong".to_owned(),
            after: after.map(Duration::from_secs),
        }),
        Just(Outcome::TimedOut),
        Just(Outcome::Cancelled("stopped".to_owned())),
        any::<bool>().prop_map(|asks| Outcome::Parked { park: park(asks), wait: Duration::from_secs(60) }),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => any::<bool>().prop_map(Command::Admit),
        6 => any::<usize>().prop_map(Command::Claim),
        5 => (any::<usize>(), outcome(), prop::bool::weighted(0.1)).prop_map(|(at, outcome, stale)| Command::Finish(at, outcome, stale)),
        1 => any::<usize>().prop_map(Command::HandBack),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(at, effects)| Command::Lose(at, effects)),
        2 => any::<usize>().prop_map(Command::Cancel),
        1 => any::<usize>().prop_map(Command::Resume),
        1 => any::<usize>().prop_map(Command::Expire),
        2 => (0u64..2_000).prop_map(Command::Wait),
    ]
}

fn pick(ids: &[RunId], at: usize) -> Option<RunId> {
    ids.get(at.checked_rem(ids.len())?).cloned()
}

fn usage(seconds: usize) -> Usage {
    Usage { wall_seconds: Seconds::whole(seconds as u64 % 1000), ..Usage::default() }
}

fn obey(world: &mut World, command: Command) {
    let now = world.now;
    let leased = world.of(|run| run.status.is_leased());
    let parked = world.of(|run| run.status.is_waiting());
    let with_attempt = |world: &World, id: &RunId| (world.lives[id].run.clone(), world.lives[id].attempts.last().unwrap().clone());
    match command {
        Command::Admit(scheduled) => {
            world.admit(if scheduled { Trigger::Interval } else { Trigger::Manual });
        }
        Command::Claim(at) => {
            if let Some(id) = pick(&world.ready(), at) {
                world.claim(&id);
            }
        }
        Command::Finish(at, outcome, stale) => {
            if let Some(id) = pick(&leased, at) {
                let (run, attempt) = with_attempt(world, &id);
                let fence = run.lease_generation - u64::from(stale);
                match finish(run, attempt, fence, outcome, usage(at), 0.5, now) {
                    Ok(decision) => {
                        assert!(!stale, "an outcome was taken under an old fence");
                        world.write(decision);
                    }
                    Err(refused) => assert!(stale && matches!(refused, Refused::LeaseLost(_)), "{refused}"),
                }
            }
        }
        Command::HandBack(at) => {
            if let Some(id) = pick(&leased, at) {
                let (run, attempt) = with_attempt(world, &id);
                let (fence, failures, recoveries) = (run.lease_generation, run.failures, run.recoveries);
                let decision = hand_back(run, attempt, fence, "the daemon stops", (at % 2 == 0).then(|| usage(at)), now).unwrap();
                assert_eq!((decision.run.failures, decision.run.recoveries), (failures, recoveries), "a hand-back costs nothing");
                world.write(decision);
            }
        }
        Command::Lose(at, effects) => {
            if let Some(id) = pick(&leased, at) {
                let (run, mut attempt) = with_attempt(world, &id);
                attempt.effects_began = effects;
                world.write(lose(run, attempt, now).unwrap());
            }
        }
        Command::Cancel(at) => {
            if let Some(id) = pick(&world.admitted.clone(), at) {
                let run = world.lives[&id].run.clone();
                let ended = run.status.is_terminal();
                match request_cancel(run, "api", None, now) {
                    Ok(decision) => world.write(decision),
                    Err(refused) => assert!(ended && matches!(refused, Refused::Ended { .. }), "{refused}"),
                }
            }
        }
        Command::Resume(at) => {
            if let Some(id) = pick(&parked, at) {
                world.write(resume(world.lives[&id].run.clone(), None, now).unwrap());
            }
        }
        Command::Expire(at) => {
            if let Some(id) = pick(&parked, at) {
                world.write(expire_parked(world.lives[&id].run.clone(), now).unwrap());
            }
        }
        Command::Wait(seconds) => world.now = now + Duration::from_secs(seconds),
    }
}

/// Claims and completes until nothing is left to do: whatever happened before, the rest of the task's runs can still run.
fn drain(world: &mut World) {
    for _ in 0..10_000 {
        for id in world.of(|run| run.status.is_waiting()) {
            world.write(resume(world.lives[&id].run.clone(), None, world.now).unwrap());
        }
        if let Some(id) = world.ready().first().cloned() {
            world.claim(&id);
        }
        for id in world.of(|run| run.status.is_leased()) {
            let (run, attempt) = (world.lives[&id].run.clone(), world.lives[&id].attempts.last().unwrap().clone());
            let fence = run.lease_generation;
            world.write(finish(run, attempt, fence, Outcome::Completed("done".to_owned()), Usage::default(), 0.0, world.now).unwrap());
        }
        world.check();
        if world.of(|run| !run.status.is_terminal()).is_empty() {
            return;
        }
        world.now = world.now + Duration::from_secs(60);
    }
    panic!("runs are left that can never run: {:?}", world.slot);
}

proptest! {
    #[test]
    fn no_sequence_of_commands_breaks_a_rule(
        policy in proptest::sample::select(vec!["skip_if_running", "queue_next", "cancel_previous", "allow_parallel"]),
        parallel in proptest::option::of(1u32..4),
        max_retries in 0u32..4,
        max_recoveries in 0u32..4,
        max_queued in 0u32..5,
        backoff in proptest::sample::select(vec!["fixed", "exponential"]),
        on_unknown in proptest::sample::select(vec!["retry", "hold", "fail"]),
        commands in proptest::collection::vec(command(), 1..80),
    ) {
        let parallel = parallel.filter(|_| policy == "allow_parallel");
        let mut world = World::new(task(json!({
            "overlap_policy": policy, "max_parallel": parallel, "max_recoveries": max_recoveries, "max_queued": max_queued,
            "on_unknown": on_unknown, "retry_policy": {"max_retries": max_retries, "initial_delay_seconds": 7, "backoff": backoff},
        })));
        for command in commands {
            let ended: BTreeMap<RunId, (Run, usize)> = world.lives.iter().filter(|(_, life)| life.run.status.is_terminal())
                .map(|(id, life)| (id.clone(), (life.run.clone(), life.events.len()))).collect();
            obey(&mut world, command);
            world.check();
            for (id, (run, events)) in ended {
                prop_assert_eq!(&world.lives[&id].run, &run, "a run that has ended was changed");
                prop_assert_eq!(world.lives[&id].events.len(), events);
            }
        }
        drain(&mut world);
    }

    #[test]
    fn a_retry_delay_is_bounded_whatever_the_count_of_failures(
        initial in 0.0f64..1e9, more in 0.0f64..1e9, jitter in 0.0f64..=1.0, failures in any::<u32>(), chance in 0.0f64..=1.0,
        backoff in proptest::sample::select(vec!["fixed", "exponential"]),
    ) {
        let policy = task(json!({"retry_policy": {
            "initial_delay_seconds": initial, "max_delay_seconds": initial + more, "jitter": jitter, "backoff": backoff,
        }})).retry_policy;
        let delay = policy.delay(failures, chance);
        let most = policy.max_delay_seconds.duration();
        prop_assert!(delay >= policy.initial_delay_seconds.duration());
        prop_assert!(delay <= most + Duration::from_secs_f64(most.as_secs_f64() * jitter + 0.001));
        prop_assert!(START + delay <= Timestamp::MAX);
    }
}
