//! The store as a machine behind a network: requests take time, are lost on their way, or their answers are, and it may be away.
//!
//! A request that was sent is carried out whatever becomes of the daemon that sent it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sandclock::clock::Clock;
use sandclock::domain::id::{RunId, WorkerId};
use sandclock::domain::time::Timestamp;
use sandclock::store::{
    Change, ChangeId, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, NumberedEvent, Outcome, Page, PageRequest, Record, RecordId,
    Renewal, Scope, Store, StoreError,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::clock::SimClock;
use super::oracle::{Oracle, Present, short};

/// How likely what goes wrong is, in percent of the calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A request takes some milliseconds.
    pub delayed: u64,
    /// A request takes up to some seconds.
    pub slow: u64,
    /// A request is lost.
    pub before: u64,
    /// The answer is lost.
    pub after: u64,
}

struct Sky {
    chance: Chance,
    weather: Weather,
    away_until: Instant,
}

/// The store's machine.
pub struct Server {
    pub store: Arc<dyn Store>,
    pub clock: Arc<SimClock>,
    pub oracle: Arc<Oracle>,
    sky: Mutex<Sky>,
}

struct Fate {
    there: Duration,
    back: Duration,
    is_lost: bool,
    is_answer_lost: bool,
    yields: bool,
}

fn lost() -> StoreError {
    StoreError::Unavailable("the connection broke, as the simulation wants".to_owned())
}

impl Server {
    pub fn new(store: Arc<dyn Store>, clock: Arc<SimClock>, oracle: Arc<Oracle>, chance: Chance, weather: Weather) -> Arc<Server> {
        let sky = Mutex::new(Sky { chance, weather, away_until: Instant::now() });
        Arc::new(Server { store, clock, oracle, sky })
    }

    pub fn present(&self) -> Present {
        Present { now: self.clock.now(), steady: self.clock.steady() }
    }

    fn sky<T>(&self, of: impl FnOnce(&mut Sky) -> T) -> T {
        of(&mut self.sky.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn turn(&self, weather: Weather) {
        self.sky(|sky| sky.weather = weather);
    }

    /// Away for so long.
    pub fn go_away(&self, span: Duration) {
        self.sky(|sky| sky.away_until = Instant::now() + span);
    }

    fn is_away(&self) -> bool {
        self.sky(|sky| Instant::now() < sky.away_until)
    }

    fn fate(&self) -> Fate {
        self.sky(|Sky { chance, weather, .. }| {
            let mut way = |weather: &Weather| match chance.below(100) {
                draw if draw < weather.slow => chance.millis(100, 2500),
                draw if draw < weather.slow + weather.delayed => chance.millis(1, 25),
                _ => Duration::ZERO,
            };
            let (there, back) = (way(weather), way(weather));
            Fate {
                there,
                back,
                is_lost: chance.percent(weather.before),
                is_answer_lost: chance.percent(weather.after),
                yields: chance.percent(30),
            }
        })
    }

    async fn apply(&self, by: &WorkerId, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        let at = self.present();
        let outcomes = self.store.apply(changes.clone()).await?;
        for (change, outcome) in changes.iter().zip(&outcomes) {
            match outcome {
                Outcome::Applied => self.oracle.applied(by, change, at),
                Outcome::Refused(guard) => self.oracle.trace.note(|| format!("{by} is refused: {guard:?}")),
            }
        }
        for (run, _) in changes.iter().flat_map(|change| &change.events) {
            let told = self.oracle.model().runs.get(run).map_or(0, |life| life.events);
            let last = self.store.events(run, told.saturating_sub(1), 10).await?.last().map_or(0, |event| event.sequence);
            self.oracle.numbered(run, last);
        }
        Ok(outcomes)
    }
}

/// A daemon's line to the store.
pub struct Line {
    server: Arc<Server>,
    worker: WorkerId,
    lease: Duration,
    /// When the wishes under the latest tokens were first told.
    asked: Mutex<Vec<(ChangeId, Duration)>>,
}

impl Line {
    pub fn to(server: &Arc<Server>, worker: &WorkerId, lease: Duration) -> Arc<dyn Store> {
        let asked = Mutex::default();
        Arc::new(Line { server: Arc::clone(server), worker: worker.clone(), lease, asked })
    }

    async fn through<T: Send + 'static>(
        &self,
        what: &'static str,
        made: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let fate = self.server.fate();
        if fate.is_lost || fate.is_answer_lost || !fate.there.is_zero() || !fate.back.is_zero() {
            let text = || {
                format!(
                    "{} {what} there {:?} lost {}, back {:?} lost {}",
                    self.worker, fate.there, fate.is_lost, fate.back, fate.is_answer_lost
                )
            };
            self.server.oracle.trace.note(text);
        }
        if fate.yields {
            tokio::task::yield_now().await;
        }
        if fate.there.is_zero() && fate.back.is_zero() {
            if fate.is_lost || self.server.is_away() {
                return Err(lost());
            }
            return made.await.and_then(|answer| if fate.is_answer_lost { Err(lost()) } else { Ok(answer) });
        }
        let (answer, answered) = oneshot::channel();
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            sleep(fate.there).await;
            let made = if fate.is_lost || server.is_away() { Err(lost()) } else { made.await };
            sleep(fate.back).await;
            // Whoever asked may be gone.
            drop(answer.send(if fate.is_answer_lost { Err(lost()) } else { made }));
        });
        answered.await.unwrap_or_else(|_| {
            self.server.oracle.fault(format!("the simulation's {what} panicked"));
            Err(lost())
        })
    }

    /// When a lease that was asked for then is not relied on any more.
    fn reliable(&self, asked: Duration) -> Duration {
        asked + self.lease - Duration::from_secs(2).max(self.lease / 6).min(self.lease / 2)
    }
}

#[async_trait]
impl Store for Line {
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        let (server, by) = (Arc::clone(&self.server), self.worker.clone());
        self.through("apply", async move { server.apply(&by, changes).await }).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let asked = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let known = asked.iter().find(|(token, _)| *token == request.token).map(|(_, at)| *at);
            known.unwrap_or_else(|| {
                let now = self.server.clock.elapsed();
                asked.insert(0, (request.token, now));
                asked.truncate(8);
                now
            })
        };
        let server = Arc::clone(&self.server);
        let made = async move {
            let at = server.present();
            let claimed = server.store.claim(request.clone()).await?;
            server.oracle.claimed(&request, &claimed, at);
            Ok(claimed)
        };
        let claimed = self.through("claim", made).await?;
        for claimed in &claimed {
            let run = &claimed.run;
            self.server.oracle.trace.note(|| format!("{} starts {}", self.worker, short(&run.run_id)));
            self.server.oracle.knows(&run.run_id, run.lease_generation, self.reliable(asked));
        }
        Ok(claimed)
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let asked = self.server.clock.elapsed();
        let (server, worker, wanted) = (Arc::clone(&self.server), worker.clone(), leases.to_vec());
        let made = async move {
            let at = server.present();
            let answers = server.store.renew(&worker, &wanted, lease).await?;
            server.oracle.renewed(&worker, &wanted, &answers, at);
            Ok(answers)
        };
        let answers = self.through("renew", made).await?;
        for ((run, fence), answer) in leases.iter().zip(&answers) {
            if *answer != Renewal::Lost {
                self.server.oracle.knows(run, *fence, self.reliable(asked));
            }
        }
        Ok(answers)
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        let server = Arc::clone(&self.server);
        let made = async move {
            server.oracle.shows(server.present());
            server.store.due(what, limit).await
        };
        self.through("due", made).await
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let (server, ids) = (Arc::clone(&self.server), ids.to_vec());
        self.through("get", async move { server.store.get(&ids).await }).await
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        let server = Arc::clone(&self.server);
        self.through("list", async move { server.store.list(scope, page).await }).await
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        let server = Arc::clone(&self.server);
        self.through("counts", async move { server.store.counts(scope).await }).await
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        let (server, run) = (Arc::clone(&self.server), run.clone());
        self.through("events", async move { server.store.events(&run, after, limit).await }).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        // A store behind a network reckons it.
        self.server.store.now().await
    }

    async fn close(&self) {}
}
