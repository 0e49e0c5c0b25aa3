//! The scripted sandbox: guests that do by chance what guests do, within what their signals allow them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sandclock::clock::Clock;
use sandclock::daemon::executor::{Executor, Offer, Offered, Start};
use sandclock::domain::checkpoint::CheckpointQuota;
use sandclock::domain::id::{AgentId, RunId};
use sandclock::domain::park::Park;
use sandclock::domain::policy::ErrorKind;
use sandclock::domain::spend::Spend;
use sandclock::egress::Account;
use sandclock::sandbox::{AttemptReport, AttemptSignals, AttemptSpec, Ended, GuestHost, Halt, Stop, Usage};
use sandclock::store::ClaimAgent;
use tokio::time::sleep;

use super::chance::Chance;
use super::clock::SimClock;
use super::gate::Gate;
use super::oracle::{GuestId, Left, Oracle};
use super::server::Server;

/// The agents, each with how many of its runs may execute at once.
pub const AGENTS: [(&str, Option<u32>); 3] = [("many", None), ("few", Some(2)), ("one", Some(1))];

const KINDS: [ErrorKind; 10] = [
    ErrorKind::Trap,
    ErrorKind::Memory,
    ErrorKind::Disk,
    ErrorKind::Output,
    ErrorKind::HostCalls,
    ErrorKind::EgressDenied,
    ErrorKind::Unsupported,
    ErrorKind::GuestRetryable,
    ErrorKind::GuestPermanent,
    ErrorKind::Host,
];

/// All that a guest here may leave is within it.
const QUOTA: CheckpointQuota = CheckpointQuota { names: 100, bytes: 100_000 };

/// What the guests of all daemons share.
pub struct Stage {
    pub server: Arc<Server>,
    pub chance: Mutex<Chance>,
    /// The longest that a guest wants to work, in milliseconds.
    pub longest: u64,
    /// Guests answer soon and well.
    pub calm: AtomicBool,
    /// Guests do not look at their lease.
    pub unruly: bool,
}

/// Everything that one guest will do.
struct Part {
    /// Waits, and what is done after each.
    steps: Vec<(Duration, Step)>,
    end: Option<Ended>,
    /// How long after a cancel it stops by itself; none when it does not care.
    heeds: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Act,
    Report,
    Emit,
    /// Something outside, of which it is kept beforehand that it may have been done.
    Effect,
    /// Leaves something under one of three names to those that follow.
    Save(u64),
    /// A call, of a model that uses so many tokens, where the run has a budget.
    Call {
        tokens: u64,
    },
}

impl Stage {
    fn part(&self, run: &RunId, attempt: u32, has_budget: bool) -> Part {
        let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = if chance.percent(8) { format!("{run}/{attempt}").repeat(40) } else { format!("{run}/{attempt}") };
        if self.calm.load(Ordering::Relaxed) {
            return Part { steps: vec![(Duration::from_millis(20), Step::Act)], end: Some(Ended::Completed(answer)), heeds: None };
        }
        let longest = if chance.percent(40) { 100 } else { self.longest };
        let fewest = if has_budget { chance.below(3) } else { 0 };
        let steps = (0..fewest + chance.below(4))
            .map(|_| {
                let (name, tokens) = (chance.below(3), chance.within(1, 100));
                let last = if has_budget { Step::Call { tokens } } else { Step::Save(name) };
                let kinds = [Step::Act, Step::Report, Step::Emit, Step::Effect, Step::Save(name), last, last];
                (chance.millis(0, longest / 2), chance.of(&kinds))
            })
            .collect();
        let end = match chance.below(100) {
            0..60 => Some(Ended::Completed(answer)),
            60..85 => {
                let kind = chance.of(&KINDS);
                let after = (kind == ErrorKind::GuestRetryable && chance.percent(50)).then(|| chance.millis(0, 5000));
                Some(Ended::Failed { kind, message: "it went wrong".to_owned(), after })
            }
            85..90 => Some(Ended::Parked(Park::Approval { key: "go on".to_owned(), question: "May I?".to_owned() })),
            _ => None,
        };
        let heeds = chance.percent(60).then(|| chance.millis(0, 500));
        Part { steps, end, heeds }
    }
}

/// A daemon's sandbox.
pub struct Cast(Offer);

impl Cast {
    pub fn new(stage: &Arc<Stage>, gate: &Arc<Gate>, clock: &Arc<SimClock>) -> Arc<Cast> {
        let start = Arc::new(Actor { stage: Arc::clone(stage), gate: Arc::clone(gate), clock: Arc::clone(clock) });
        let offered = AGENTS.map(|(agent, max_running)| Offered {
            claim: ClaimAgent { agent: AgentId::parse(agent).unwrap(), digest: "d".repeat(64), max_running },
            start: Arc::<Actor>::clone(&start),
        });
        Arc::new(Cast(Arc::new(offered.to_vec())))
    }
}

impl Executor for Cast {
    fn offer(&self) -> Offer {
        Arc::clone(&self.0)
    }
}

struct Actor {
    stage: Arc<Stage>,
    gate: Arc<Gate>,
    clock: Arc<SimClock>,
}

/// What a guest reaches beyond itself.
struct Reach {
    host: Arc<dyn GuestHost>,
    account: Option<Arc<dyn Account>>,
    signals: Arc<AttemptSignals>,
    /// What its calls used.
    used: Mutex<Spend>,
}

impl Reach {
    /// What the sandbox tells of it.
    fn usage(&self) -> Usage {
        let used = *self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut usage = Usage::default();
        (usage.outgoing.calls, usage.models.all.tokens.input) = (used.calls, used.tokens);
        usage
    }

    /// All that the run's attempts have left; none when that cannot be read.
    async fn left(&self) -> Option<Left> {
        let checkpoints = self.host.checkpoints()?;
        let mut left = Left::new();
        for name in checkpoints.names().await.ok()? {
            left.insert(name.clone(), checkpoints.load(&name).await.ok()??);
        }
        Some(left)
    }
}

/// Tells the oracle of a guest's end, also when it goes with its process.
struct Exit<'a> {
    oracle: &'a Oracle,
    id: GuestId,
    ended: Option<Ended>,
}

impl Drop for Exit<'_> {
    fn drop(&mut self) {
        self.oracle.ends(self.id, self.ended.as_ref());
    }
}

impl Actor {
    async fn play(&self, id: GuestId, part: Part, reach: &Reach) -> Ended {
        let Reach { host, signals, .. } = reach;
        let oracle = &self.stage.server.oracle;
        if let Some(left) = reach.left().await {
            oracle.finds(id, &left);
        }
        for (number, (wait, step)) in part.steps.into_iter().enumerate() {
            sleep(wait).await;
            if !self.stage.unruly && !signals.may_act() {
                continue;
            }
            match step {
                Step::Effect => {
                    if host.begin_effects().await.is_ok() {
                        oracle.has_effects(id, self.stage.server.present());
                    }
                    continue;
                }
                Step::Save(name) => {
                    let (name, value) = (format!("name-{name}"), format!("guest {id} step {number}"));
                    let Some(checkpoints) = host.checkpoints() else { continue };
                    if checkpoints.save(&name, value.clone().into_bytes(), QUOTA).await.is_ok() {
                        oracle.saved(id, &name, value.as_bytes());
                    }
                    continue;
                }
                Step::Call { tokens } => {
                    self.call(id, tokens, reach).await;
                    continue;
                }
                Step::Act | Step::Report | Step::Emit => oracle.acts(id, self.stage.server.present()),
            }
            match step {
                Step::Report => host.report(format!("guest {id} reports"), Some(0.5)),
                Step::Emit => host.emit("note".to_owned(), format!("{{\"guest\": {id}}}")),
                _ => {}
            }
        }
        match part.end {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Makes a call as the gateway would. One that the budget refuses never returns.
    async fn call(&self, id: GuestId, tokens: u64, reach: &Reach) {
        let (oracle, Some(account)) = (&self.stage.server.oracle, &reach.account) else { return };
        let use_up = |more: Spend| {
            let mut used = reach.used.lock().unwrap_or_else(PoisonError::into_inner);
            *used = used.plus(more);
        };
        oracle.wants_call(id);
        if account.begin_call().await.is_err() {
            return;
        }
        oracle.calls(id);
        use_up(Spend { calls: 1, ..Spend::default() });
        sleep(Duration::from_millis(tokens)).await;
        let more = Spend { tokens, ..Spend::default() };
        oracle.uses(id, tokens);
        use_up(more);
        account.charge(more).await;
        account.end_call();
    }

    /// Returns when the guest has to end.
    async fn halted(&self, id: GuestId, signals: &AttemptSignals, deadline: u64) -> Ended {
        let halt = signals.halted(deadline).await;
        if self.stage.unruly && halt == Halt::Stopped(Stop::LeaseLost) {
            sleep(Duration::from_nanos(deadline.saturating_sub(self.clock.boot().0))).await;
            return Ended::TimedOut;
        }
        self.stage.server.oracle.halts(id, halt, self.stage.server.present());
        match halt {
            Halt::Stopped(stop) => Ended::Stopped(stop),
            Halt::TimedOut => Ended::TimedOut,
        }
    }
}

async fn heeds(signals: &AttemptSignals, after: Option<Duration>) -> Ended {
    signals.cancelled().await;
    match after {
        Some(after) => sleep(after).await,
        None => std::future::pending().await,
    }
    Ended::Cancelled { message: "as you wish".to_owned() }
}

#[async_trait]
impl Start for Actor {
    fn needs_workspace(&self) -> bool {
        false
    }

    async fn execute(
        &self,
        spec: AttemptSpec,
        host: Arc<dyn GuestHost>,
        account: Option<Arc<dyn Account>>,
        signals: Arc<AttemptSignals>,
    ) -> AttemptReport {
        let oracle = &self.stage.server.oracle;
        let run = RunId::parse(&spec.context.run_id).unwrap();
        let part = self.stage.part(&run, spec.context.attempt, account.is_some());
        let id = oracle.starts(&run, spec.context.attempt, &self.gate, &signals);
        let mut exit = Exit { oracle, id, ended: None };
        let limit = spec.time_limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap());
        let deadline = self.clock.boot().0 + limit;
        let after = part.heeds;
        let reach = Reach { host, account, signals: Arc::clone(&signals), used: Mutex::default() };
        let ended = tokio::select! {
            biased;
            ended = self.play(id, part, &reach) => ended,
            ended = self.halted(id, &signals, deadline) => ended,
            ended = heeds(&signals, after) => ended,
        };
        exit.ended = Some(ended.clone());
        AttemptReport { ended, usage: reach.usage() }
    }
}
