//! The clients: one for each task, which wants things about it by chance and remembers what it was told.

use std::sync::Arc;
use std::time::Duration;

use sandclock::clock::Clock;
use sandclock::daemon::manager::{GrantWish, Word};
use sandclock::daemon::{Manager, ManagerError, RunWish};
use sandclock::domain::budget::Allowance;
use sandclock::domain::id::{RunId, TaskId};
use sandclock::domain::idempotency::IdempotencyKey;
use sandclock::domain::park::Park;
use sandclock::domain::run::Status;
use sandclock::domain::spend::{Exhausted, Meter};
use sandclock::store::PageRequest;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::oracle::short;
use super::world::World;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What came of a wish.
enum Answer<T> {
    Yes(T),
    /// It was refused: it is not carried out.
    No(ManagerError),
    /// Nobody knows whether it was carried out.
    None,
}

/// Whether an error says that nothing was done.
fn is_refusal(error: &ManagerError) -> bool {
    use ManagerError::{Conflict, Full, Invalid, NotFound};
    matches!(error, NotFound { .. } | Conflict(_) | Invalid(_) | Full { .. })
}

pub struct Client {
    world: Arc<World>,
    chance: Chance,
    task: TaskId,
    /// The number of the latest wish about the task itself.
    wishes: u64,
    /// Runs that it knows of.
    runs: Vec<RunId>,
    /// How many keys it has used.
    keys: u64,
}

impl Client {
    pub fn new(world: &Arc<World>, chance: Chance, index: usize) -> Client {
        let task = TaskId::parse(&format!("t{index}")).unwrap();
        Client { world: Arc::clone(world), chance, task, wishes: 0, runs: Vec::new(), keys: 0 }
    }

    async fn ask<T, F>(&mut self, what: &str, wish: impl FnOnce(Manager) -> F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ManagerError>> + Send + 'static,
    {
        let up = self.world.up();
        if up.is_empty() {
            sleep(Duration::from_millis(300)).await;
            return Answer::None;
        }
        let machine = self.chance.of(&up);
        let trace = &self.world.oracle.trace;
        trace.note(|| format!("{} is asked to {what} {}", machine.name(), self.task));
        let answer = match machine.ask(PATIENCE, wish).await {
            Some(Ok(answer)) => Answer::Yes(answer),
            Some(Err(error)) if is_refusal(&error) => Answer::No(error),
            Some(Err(_)) | None => Answer::None,
        };
        trace.note(|| {
            let said = match &answer {
                Answer::Yes(_) => "done".to_owned(),
                Answer::No(error) => error.to_string(),
                Answer::None => "no answer".to_owned(),
            };
            format!("{what} {}: {said}", self.task)
        });
        answer
    }

    /// Wants things until the trouble is over.
    pub async fn play(mut self, until: Instant) -> Client {
        self.register(false).await;
        while Instant::now() < until {
            sleep(self.chance.millis(20, self.world.plan.pace)).await;
            match self.chance.below(100) {
                0..35 => self.run_now().await,
                35..42 => self.run_once().await,
                42..45 => self.rerun().await,
                45..50 => {
                    for _ in 0..self.chance.within(2, 6) {
                        self.run_now().await;
                    }
                }
                50..64 => self.cancel().await,
                64..74 => self.patch().await,
                74..80 => self.register(true).await,
                80..90 => self.pause().await,
                90..93 => self.delete().await,
                _ => self.resume().await,
            }
        }
        self
    }

    async fn register(&mut self, replace: bool) {
        self.wishes += 1;
        let (wish, task) = (self.wishes, self.task.clone());
        let mut body = task_body(&mut self.chance, &self.world);
        let text = format!("wish {wish}");
        body.as_object_mut().unwrap().extend([("task_id".to_owned(), json!(task)), ("query".to_owned(), json!(text))]);
        match self.ask("register", move |manager| async move { manager.register_task(body, replace, None).await }).await {
            // The same text is of no other wish, so nothing is ever unchanged.
            Answer::Yes(task) => self.world.oracle.kept(&self.task, Some(wish), task.created_at == task.updated_at),
            Answer::No(_) => {}
            Answer::None => self.world.oracle.open(&self.task, Some(wish)),
        }
    }

    async fn patch(&mut self) {
        self.wishes += 1;
        let (wish, task) = (self.wishes, self.task.clone());
        let mut patch = json!({ "query": format!("wish {wish}") });
        let fields = patch.as_object_mut().unwrap();
        match self.chance.below(4) {
            0 => fields.extend([("schedule".to_owned(), schedule(&mut self.chance, &self.world))]),
            1 => fields.extend([("enabled".to_owned(), json!(self.chance.percent(70)))]),
            2 => overlap(&mut self.chance, fields),
            _ => {}
        }
        match self.ask("patch", move |manager| async move { manager.update_task(&task, patch).await }).await {
            Answer::Yes(_) => self.world.oracle.kept(&self.task, Some(wish), false),
            Answer::No(_) => {}
            Answer::None => self.world.oracle.open(&self.task, Some(wish)),
        }
    }

    async fn delete(&mut self) {
        let (task, runs_too) = (self.task.clone(), self.chance.percent(50));
        match self.ask("delete", move |manager| async move { manager.delete_task(&task, runs_too).await }).await {
            Answer::Yes(()) => self.world.oracle.kept(&self.task, None, false),
            Answer::No(_) => {}
            Answer::None => self.world.oracle.open(&self.task, None),
        }
        if self.chance.percent(80) {
            sleep(self.chance.millis(0, 1500)).await;
            self.register(false).await;
        }
    }

    async fn pause(&mut self) {
        let (task, pauses) = (self.task.clone(), self.chance.percent(50));
        self.set_paused(task, pauses).await;
    }

    async fn set_paused(&mut self, task: TaskId, pauses: bool) -> bool {
        let what = if pauses { "pause" } else { "resume" };
        let answer = self.ask(what, move |manager| async move {
            if pauses { manager.pause_task(&task).await } else { manager.resume_task(&task).await }
        });
        match answer.await {
            Answer::Yes(()) => self.world.oracle.paused(&self.task, Some(pauses)),
            Answer::No(_) => {}
            Answer::None => {
                self.world.oracle.paused(&self.task, None);
                return false;
            }
        }
        true
    }

    async fn run_now(&mut self) {
        let task = self.task.clone();
        if let Answer::Yes(run) = self.ask("run", move |manager| async move { manager.run_now(&task, RunWish::default()).await }).await {
            self.world.oracle.made(&run.run_id);
            self.runs.push(run.run_id);
        }
    }

    /// Wants one run, and asks until it knows that there is one.
    async fn run_once(&mut self) {
        self.keys += 1;
        let text = format!("{}-{}", self.task, self.keys);
        let metadata = json!({ "key": text });
        let mut first: Option<RunId> = None;
        for _ in 0..4 {
            let (task, key) = (self.task.clone(), IdempotencyKey::parse("run", &text, self.task.as_str(), Some(&metadata)).unwrap());
            let wish = RunWish { metadata: metadata.as_object().unwrap().clone(), ..RunWish::default() };
            match self.ask("run once", move |manager| async move { manager.run_once(&task, wish, key).await }).await {
                Answer::Yes(answered) => {
                    let run = answered.answer.run_id;
                    self.world.oracle.made(&run);
                    let before = first.get_or_insert_with(|| run.clone());
                    if *before != run {
                        self.world.oracle.fault(format!("the key {text} answered with {before} and with {run}"));
                    }
                    // Now and then it is asked for once more all the same.
                    if self.chance.percent(70) {
                        break;
                    }
                }
                Answer::No(_) => break,
                Answer::None => {}
            }
        }
        self.runs.extend(first);
    }

    async fn rerun(&mut self) {
        let Some(run) = self.runs.last().cloned() else { return };
        let wish = RunWish { metadata: json!({"again": true}).as_object().unwrap().clone(), ..RunWish::default() };
        if let Answer::Yes(run) = self.ask("rerun", move |manager| async move { manager.rerun(&run, wish).await }).await {
            self.world.oracle.made(&run.run_id);
            self.runs.push(run.run_id);
        }
    }

    async fn cancel(&mut self) {
        // Runs of the schedule are known only from a list.
        if self.chance.percent(40) {
            let task = self.task.clone();
            let page = PageRequest { newest_first: true, ..PageRequest::first(10) };
            if let Answer::Yes(listed) = self.ask("list", move |manager| async move { manager.runs(Some(task), None, page).await }).await {
                self.runs.extend(listed.items.into_iter().filter(|run| !run.status.is_terminal()).map(|run| run.run_id));
            }
        }
        let recent = &self.runs[self.runs.len().saturating_sub(6)..];
        if recent.is_empty() {
            return;
        }
        let run = self.chance.of(recent);
        let id = run.clone();
        let what = format!("cancel {} of", short(&run));
        match self.ask(&what, move |manager| async move { manager.cancel_run(&id, "client").await }).await {
            Answer::Yes(_) => self.world.oracle.cancelled(&run),
            Answer::No(ManagerError::Conflict(_)) => self.world.oracle.refused(&run),
            Answer::No(_) | Answer::None => {}
        }
    }

    /// Lets a parked run go on, if there is one.
    async fn resume(&mut self) {
        if self.chance.percent(50) {
            return self.release().await;
        }
        let Some(run) = self.runs.last().cloned() else { return };
        let _ = self.ask("resume a run of", move |manager| async move { manager.resume_run(&run, None).await }).await;
    }

    /// Pauses its task, so that an end can come.
    pub async fn rest(&mut self) {
        while !self.set_paused(self.task.clone(), true).await {
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Grants a run more of what it has spent, and asks until it knows that it has.
    async fn grant(&mut self, run: &RunId, met: Exhausted) {
        self.keys += 1;
        let by = format!("{}-{}", self.task, self.keys);
        let more = Some(self.chance.within(1, 60));
        let amount = match met.meter {
            Meter::Calls => Allowance { calls: more, ..Allowance::default() },
            _ => Allowance { tokens: more, ..Allowance::default() },
        };
        for _ in 0..3 {
            let (run, key) = (run.clone(), IdempotencyKey::parse("grant", &by, run.as_str(), Some(&json!(amount))).unwrap());
            let wish = GrantWish { amount, by: Some(by.clone()) };
            let id = run.clone();
            match self.ask("grant a run of", move |manager| async move { manager.grant_run(&id, wish, Some(key)).await }).await {
                Answer::Yes(_) => {
                    self.world.oracle.granted(&run, &by);
                    // Now and then it is asked for once more all the same.
                    if self.chance.percent(70) {
                        break;
                    }
                }
                Answer::No(_) => break,
                Answer::None => {}
            }
        }
    }

    /// Lets every parked run of the task go on.
    pub async fn release(&mut self) {
        for status in [Status::AwaitingApproval, Status::AwaitingBudget] {
            let task = self.task.clone();
            let listed =
                self.ask("list", move |manager| async move { manager.runs(Some(task), Some(status), PageRequest::first(100)).await });
            let Answer::Yes(listed) = listed.await else { continue };
            for run in listed.items {
                if let Some(Park::Budget(met)) = run.parked.as_ref().map(|parked| &parked.park)
                    && self.chance.percent(60)
                {
                    self.grant(&run.run_id, *met).await;
                    continue;
                }
                if run.parked.is_some() && self.chance.percent(50) {
                    let word = Word { approved: true, by: "script".to_owned(), note: String::new(), token: None, attempt: None };
                    let _ =
                        self.ask("answer a run of", move |manager| async move { manager.answer(&run.run_id, "go on", word).await }).await;
                    continue;
                }
                let _ = self.ask("resume a run of", move |manager| async move { manager.resume_run(&run.run_id, None).await }).await;
            }
        }
    }
}

fn schedule(chance: &mut Chance, world: &World) -> Value {
    let now = world.server.clock.now();
    let mut schedule = match chance.below(10) {
        0..3 => return json!({"type": "manual"}),
        3..7 => json!({"type": "interval", "seconds": chance.within(5, 80) as f64 / 10.0}),
        7..9 => json!({"type": "once", "run_at": (now + chance.millis(0, 20_000)).to_string()}),
        _ => json!({"type": "cron", "expression": "* * * * *"}),
    };
    let fields = schedule.as_object_mut().unwrap();
    let misfire = chance.of(&["run_once", "skip_missed", "queue_all", "bounded"]);
    fields.insert("misfire_policy".to_owned(), json!(misfire));
    if misfire == "bounded" || misfire == "queue_all" {
        fields.insert("max_catch_up".to_owned(), json!(chance.within(1, 5)));
    }
    if chance.percent(30) {
        fields.insert("jitter_seconds".to_owned(), json!(chance.within(1, 20) as f64 / 10.0));
    }
    if chance.percent(15) {
        fields.insert("end_at".to_owned(), json!((now + chance.millis(1000, 40_000)).to_string()));
    }
    schedule
}

fn overlap(chance: &mut Chance, fields: &mut serde_json::Map<String, Value>) {
    let policy = chance.of(&["skip_if_running", "queue_next", "cancel_previous", "allow_parallel"]);
    fields.insert("overlap_policy".to_owned(), json!(policy));
    let most = (policy == "allow_parallel" && chance.percent(60)).then(|| chance.within(1, 3));
    fields.insert("max_parallel".to_owned(), json!(most));
    fields.insert("max_queued".to_owned(), json!(chance.of(&[0, 1, 3, 6])));
}

fn task_body(chance: &mut Chance, world: &World) -> Value {
    let mut body = json!({
        "agent_id": chance.of(&["many", "many", "few", "one"]),
        "schedule": schedule(chance, world),
        "timeout_seconds": chance.of(&[0.5, 3.0, 20.0]),
        "cancel_grace_seconds": chance.of(&[0.0, 0.5, 3.0]),
        "on_unknown": chance.of(&["retry", "hold", "fail"]),
        "max_recoveries": chance.of(&[0, 1, 3, 3, 8]),
        "retry_policy": {
            "max_retries": chance.below(4),
            "initial_delay_seconds": chance.below(40) as f64 / 10.0,
            "backoff": chance.of(&["fixed", "exponential"]),
            "retry_on": chance.of(&[json!(["exception", "timeout"]), json!(["timeout", "memory", "output"]), json!([])]),
        },
        "workspace_policy": {"write_run_json": false, "write_events_jsonl": false},
    });
    overlap(chance, body.as_object_mut().unwrap());
    let budget = match chance.below(6) {
        0 => json!({"run": {"calls": chance.within(1, 3)}}),
        1 => json!({"run": {"tokens": chance.within(1, 100)}}),
        2 => json!({"run": {"calls": chance.within(1, 3), "tokens": chance.within(1, 100)}}),
        _ => return body,
    };
    body.as_object_mut().unwrap().insert("budget".to_owned(), budget);
    body
}
