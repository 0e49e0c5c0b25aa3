//! Whether there is room for another run in the queue, and for another idempotency key in the store.
//!
//! What is there is read from the store's counts once a second at most, and only while somebody asks; in between, what this daemon
//! admits is added. So one daemon never admits too many, and several together exceed a bound by what they admit in that second.
//!
//! How it fails: while the store does not answer, the last counts stand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bounds::Bounds;
use super::error::ManagerError;
use crate::clock::{BootInstant, Clock};
use crate::domain::id::AgentId;
use crate::domain::run::Status;
use crate::store::{CountScope, Kind, Store, StoreError};

/// How long counts are good for.
const FRESH: Duration = Duration::from_secs(1);
/// When to ask again where there was no room.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Runs,
    RunsOf(AgentId),
    Keys,
}

/// One bound, and how far it is used up.
#[derive(Debug)]
struct Room {
    what: What,
    most: u64,
    /// What the store told last.
    there: u64,
    /// What was admitted since that was asked for.
    since: u64,
    /// What was admitted and is not committed yet.
    open: u64,
    /// Whether the last who asked was refused.
    full: bool,
}

#[derive(Default)]
struct State {
    rooms: Vec<Room>,
    read_at: Option<BootInstant>,
    /// Whether somebody counts: an older count must not follow a newer one.
    is_counting: bool,
}

/// Somebody counts, until this goes.
struct Counting<'a>(&'a Admission);

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.0.state().is_counting = false;
    }
}

/// The bounds of one daemon.
pub struct Admission(Mutex<State>);

/// Room that was taken. It is kept until the commit is over, so that no count misses it.
pub struct Place {
    admission: Arc<Admission>,
    rooms: Vec<What>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        // Other bounds may have come meanwhile, so the rooms are known by what they count.
        for room in state.rooms.iter_mut().filter(|room| self.rooms.contains(&room.what)) {
            room.open = room.open.saturating_sub(1);
        }
    }
}

impl Admission {
    /// Nothing is counted yet.
    pub fn new(bounds: &Bounds) -> Arc<Self> {
        Arc::new(Admission(Mutex::new(State { rooms: rooms(bounds), ..State::default() })))
    }

    /// Bounds by other numbers from now on. What is counted already stays counted; what is new is counted with the next look.
    pub fn configure(&self, bounds: &Bounds) {
        let mut state = self.state();
        let mut kept = std::mem::take(&mut state.rooms);
        state.rooms = rooms(bounds);
        for room in &mut state.rooms {
            if let Some(at) = kept.iter().position(|before| before.what == room.what) {
                *room = Room { most: room.most, full: false, ..kept.swap_remove(at) };
            }
        }
        state.read_at = None;
    }

    /// Bounds the runs of these agents that may wait from now on, and of no others.
    pub fn bound_agents(&self, bounds: BTreeMap<AgentId, u64>) {
        let mut state = self.state();
        state.rooms.retain(|room| !matches!(&room.what, What::RunsOf(agent) if !bounds.contains_key(agent)));
        for (agent, most) in bounds {
            let what = What::RunsOf(agent);
            match state.rooms.iter_mut().find(|room| room.what == what) {
                Some(room) => room.most = most,
                None => {
                    state.rooms.push(Room { what, most, there: 0, since: 0, open: 0, full: false });
                    state.read_at = None;
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts again when the last counts are too old.
    pub async fn refresh(&self, store: &dyn Store, clock: &dyn Clock) {
        self.recount(clock.boot(), |what| count(store, what)).await;
    }

    async fn recount<C: Future<Output = Result<u64, StoreError>>>(&self, now: BootInstant, count: impl Fn(What) -> C) {
        let (asked, _counting): (Vec<What>, _) = {
            let mut state = self.state();
            let is_fresh = |at: BootInstant| Duration::from_nanos(now.0.saturating_sub(at.0)) < FRESH;
            // Whoever else comes meanwhile goes by the counts before.
            if state.rooms.is_empty() || state.is_counting || state.read_at.is_some_and(is_fresh) {
                return;
            }
            (state.read_at, state.is_counting) = (Some(now), true);
            for room in &mut state.rooms {
                // What is not committed yet may be in the count or not; and what follows adds to it.
                room.there = room.there.saturating_add(room.since).saturating_sub(room.open);
                room.since = room.open;
            }
            (state.rooms.iter().map(|room| room.what.clone()).collect(), Counting(self))
        };
        for what in asked {
            match count(what.clone()).await {
                Ok(count) => {
                    if let Some(room) = self.state().rooms.iter_mut().find(|room| room.what == what) {
                        room.there = count;
                    }
                }
                Err(error) => tracing::warn!(%error, "what waits could not be counted; the last count stands"),
            }
        }
    }

    /// Takes room for a run of this agent.
    ///
    /// # Errors
    /// There is none.
    pub fn run(self: &Arc<Self>, agent: &AgentId) -> Result<Place, ManagerError> {
        self.take(|what| match what {
            What::Runs => true,
            What::RunsOf(of) => of == agent,
            What::Keys => false,
        })
    }

    /// Takes room for an idempotency key.
    ///
    /// # Errors
    /// There is none.
    pub fn key(self: &Arc<Self>) -> Result<Place, ManagerError> {
        self.take(|what| *what == What::Keys)
    }

    fn take(self: &Arc<Self>, wanted: impl Fn(&What) -> bool) -> Result<Place, ManagerError> {
        let mut state = self.state();
        let mut rooms = Vec::new();
        for room in state.rooms.iter_mut().filter(|room| wanted(&room.what)) {
            if room.there.saturating_add(room.since) >= room.most {
                if !std::mem::replace(&mut room.full, true) {
                    tracing::warn!("{}", room.refusal());
                }
                return Err(ManagerError::Full { message: room.refusal(), retry_after: RETRY_AFTER });
            }
            room.full = false;
            rooms.push(room.what.clone());
        }
        for room in state.rooms.iter_mut().filter(|room| rooms.contains(&room.what)) {
            room.since += 1;
            room.open += 1;
        }
        drop(state);
        Ok(Place { admission: Arc::clone(self), rooms })
    }
}

impl Room {
    fn refusal(&self) -> String {
        let most = self.most;
        match &self.what {
            What::Runs => format!("{most} runs wait already; ask again when some have run, cancel some, or raise queue.max_queued_runs"),
            What::RunsOf(agent) => {
                format!(
                    "{most} runs of agent {agent} wait already; ask again when some have run, cancel some, or raise agents.{agent}.max_queued_runs"
                )
            }
            What::Keys => {
                format!(
                    "{most} idempotency keys are kept already; ask again when some have expired, ask without one, or raise server.idempotency_keys"
                )
            }
        }
    }
}

fn rooms(bounds: &Bounds) -> Vec<Room> {
    let room = |what, most| Room { what, most, there: 0, since: 0, open: 0, full: false };
    let all = bounds.max_queued_runs.map(|most| room(What::Runs, most));
    let agents = bounds.max_queued_of_agent.iter().map(|(agent, most)| room(What::RunsOf(agent.clone()), *most));
    let keys = bounds.idempotency_keys.map(|most| room(What::Keys, most));
    all.into_iter().chain(agents).chain(keys).collect()
}

async fn count(store: &dyn Store, what: What) -> Result<u64, StoreError> {
    let queued = |scope| async { Ok(store.counts(scope).await?.of(Status::Queued)) };
    match what {
        What::Runs => queued(CountScope::All(Kind::Run)).await,
        What::RunsOf(agent) => queued(CountScope::RunsOfAgent(agent)).await,
        What::Keys => Ok(store.counts(CountScope::All(Kind::Idempotency)).await?.total),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::domain::time::Timestamp;
    use crate::store::memory::MemoryStore;
    use crate::store::{Change, ChangeId, Index, Put, RecordId};

    /// A clock of seconds that only the test moves.
    #[derive(Default)]
    struct Seconds(AtomicU64);

    impl Clock for Seconds {
        fn now(&self) -> Timestamp {
            Timestamp::from_seconds(i64::try_from(self.0.load(Ordering::SeqCst)).unwrap())
        }

        fn steady(&self) -> Timestamp {
            self.now()
        }

        fn boot(&self) -> BootInstant {
            BootInstant(self.0.load(Ordering::SeqCst) * 1_000_000_000)
        }
    }

    struct Scene {
        clock: Arc<Seconds>,
        store: MemoryStore,
        admission: Arc<Admission>,
        agent: AgentId,
    }

    impl Scene {
        fn new(most: u64) -> Scene {
            let clock = Arc::new(Seconds::default());
            let store = MemoryStore::new(Arc::<Seconds>::clone(&clock));
            let admission = Admission::new(&Bounds { max_queued_runs: Some(most), ..Bounds::default() });
            Scene { clock, store, admission, agent: AgentId::parse("a").unwrap() }
        }

        /// The time comes to count again.
        async fn counted(&self) {
            self.clock.0.fetch_add(1, Ordering::SeqCst);
            self.admission.refresh(&self.store, &*self.clock).await;
        }

        fn take(&self) -> Option<Place> {
            self.admission.run(&self.agent).ok()
        }

        /// What a commit that admits a run comes to.
        async fn commit(&self, number: u128, status: Status) {
            let index = Index { status: Some(status), ..Index::default() };
            let put = Put { id: RecordId::new(Kind::Run, &format!("run_{number}")), index, body: bytes::Bytes::from_static(b"{}") };
            let change = Change { id: ChangeId(number), guards: Vec::new(), puts: vec![put], deletes: Vec::new(), events: Vec::new() };
            self.store.apply(vec![change]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_run_on_its_way_into_the_store_takes_its_room_through_every_count() {
        let scene = Scene::new(2);
        scene.counted().await;
        let first = scene.take().unwrap();
        for _ in 0..3 {
            scene.counted().await;
        }
        let second = scene.take().unwrap();
        assert!(scene.take().is_none());
        scene.commit(1, Status::Queued).await;
        drop(first);
        assert!(scene.take().is_none());
        scene.counted().await;
        assert!(scene.take().is_none(), "one waits in the store and one is on its way");
        // What fell gives its room back with the next count.
        drop(second);
        scene.counted().await;
        drop(scene.take().unwrap());
        assert!(scene.take().is_none(), "what was admitted is taken to wait until it is counted");
        scene.counted().await;
        assert!(scene.take().is_some());
    }

    #[tokio::test]
    async fn counts_are_read_once_a_second_and_room_is_seen_by_then() {
        let scene = Scene::new(1);
        scene.counted().await;
        drop(scene.take().unwrap());
        scene.commit(1, Status::Queued).await;
        scene.commit(1, Status::Running).await;
        scene.admission.refresh(&scene.store, &*scene.clock).await;
        assert!(scene.take().is_none(), "the counts are fresh");
        scene.counted().await;
        assert!(scene.take().is_some());
    }

    #[tokio::test]
    async fn an_old_count_that_comes_late_undoes_no_newer_one() {
        let scene = Scene::new(2);
        let at = |seconds: u64| BootInstant(seconds * 1_000_000_000);
        let (answer, late) = tokio::sync::oneshot::channel::<u64>();
        let late = Mutex::new(Some(late));
        let slow = scene.admission.recount(at(1), |_| {
            let late = late.lock().unwrap().take();
            async { Ok(late.unwrap().await.unwrap()) }
        });
        let mut slow = Box::pin(slow);
        assert!(futures::poll!(&mut slow).is_pending());
        let taken = scene.take();
        drop(taken);
        scene.admission.recount(at(9), |_| async { panic!("somebody counts already") }).await;
        answer.send(0).unwrap();
        slow.await;
        drop(scene.take().unwrap());
        assert!(scene.take().is_none(), "what was admitted during the count stays counted");
        // Whoever gave up counting leaves it to the next one.
        let mut given_up = Box::pin(scene.admission.recount(at(10), |_| std::future::pending()));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        scene.admission.recount(at(12), |_| async { Ok(0) }).await;
        assert!(scene.take().is_some());
    }

    #[tokio::test]
    async fn a_store_that_was_full_before_is_full_from_the_start() {
        let scene = Scene::new(3);
        for number in 1..=3 {
            scene.commit(number, Status::Queued).await;
        }
        scene.counted().await;
        assert!(scene.take().is_none());
        scene.commit(2, Status::Completed).await;
        scene.counted().await;
        assert!(scene.take().is_some());
    }
}
