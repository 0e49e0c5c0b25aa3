//! What is not filled, and what is left half filled.

use std::sync::Arc;

use async_trait::async_trait;
use sandclock::clock::Clock as _;
use sandclock::domain::event::EventName;
use sandclock::store::transfer::{
    Digest, EventRow, Page, Pages, Picture, Span, StoreRow, Transfer, TransferError, Walk, Whole, enter, fill, look,
};
use sandclock::store::{Change, ChangeId, CountScope, Kind, Outcome, Put, RecordId, StoreError};

use super::{ALL, Of, copy, wish};
use crate::store::{ManualClock, event, plain, queued, run_id};

/// Enough runs that a copy has several pages.
async fn many_runs(store: &Arc<dyn Transfer>, clock: &ManualClock) {
    let now = clock.now();
    for first in (0..1000).step_by(250) {
        let runs: Vec<_> = (first..first + 250).map(|number| queued(number, "t", "x", now)).collect();
        let events = runs.iter().flat_map(|run| [EventName::Queued, EventName::Heartbeat].map(|name| event(run, name, now)));
        let change = Change {
            id: ChangeId(u128::from(first) + 1),
            guards: Vec::new(),
            deletes: Vec::new(),
            events: events.collect(),
            puts: runs.iter().map(|run| Put::run(run, now).unwrap()).collect(),
        };
        assert_eq!(store.apply(vec![change]).await.unwrap(), [Outcome::Applied]);
    }
}

/// Pages that end in a fault, as when the process or the source is gone.
struct Broken(Walk, usize);

#[async_trait]
impl Pages for Broken {
    async fn next(&mut self) -> Result<Option<Page>, TransferError> {
        if self.1 == 0 {
            return Err(StoreError::Unavailable("it has gone".to_owned()).into());
        }
        self.1 -= 1;
        self.0.next().await
    }
}

#[tokio::test]
async fn what_is_half_filled_is_not_opened_and_is_started_anew_by_leave() {
    let clock = ManualClock::new();
    let source = Of::Sqlite.spot(&clock).await.unwrap();
    many_runs(&source.store, &clock).await;
    for of in ALL {
        let Some(target) = of.spot(&clock).await else { continue };
        let store = &target.store;
        let walk = async || Walk::new(source.store.clone().picture().await.unwrap());
        let mut broken = Broken(walk().await, 2);
        fill(store, &mut broken, wish(clock.now()), |_| ()).await.unwrap_err();
        assert!(store.counts(CountScope::All(Kind::Run)).await.unwrap().total > 0, "half of it is there");
        let refused = enter(&**store).await.unwrap_err().to_string();
        assert!(refused.contains("not whole: a copy from a test") && refused.contains("--anew"), "{of:?}: {refused}");
        assert!(Walk::of_whole(store.clone().picture().await.unwrap()).await.is_err(), "nor is it copied further");
        let again = fill(store, &mut walk().await, wish(clock.now()), |_| ()).await.unwrap_err().to_string();
        assert!(again.contains("half filled: a copy from a test"), "{of:?}: {again}");
        let anew = sandclock::store::transfer::Wish { anew: true, ..wish(clock.now()) };
        let filled = fill(store, &mut walk().await, anew, |_| ()).await.unwrap();
        assert_eq!((filled.found.count(Kind::Run), filled.written.difference(&filled.found)), (1000, None), "{of:?}");
        enter(&**store).await.unwrap();
        assert_eq!(StoreRow::of(&**store).await.unwrap(), None, "a mark that says nothing goes");
    }
}

#[tokio::test]
async fn a_store_with_records_is_not_filled_nor_emptied() {
    let clock = ManualClock::new();
    for of in ALL {
        let Some(target) = of.spot(&clock).await else { continue };
        let change = Change {
            id: ChangeId(1),
            guards: Vec::new(),
            deletes: Vec::new(),
            events: Vec::new(),
            puts: vec![plain(Kind::Task, "mine", "{}"), plain(Kind::Task, "mine too", "{}"), plain(Kind::Slot, "mine", "{}")],
        };
        target.store.apply(vec![change]).await.unwrap();
        let source = Of::Sqlite.spot(&clock).await.unwrap();
        let mut walk = Walk::new(source.store.clone().picture().await.unwrap());
        let anew = sandclock::store::transfer::Wish { anew: true, ..wish(clock.now()) };
        let refused = fill(&target.store, &mut walk, anew, |_| ()).await.unwrap_err().to_string();
        assert!(refused.contains("not empty: it has 2 of the kind task, 1 of the kind slot"), "{of:?}: {refused}");
        assert_eq!(target.store.counts(CountScope::All(Kind::Task)).await.unwrap().total, 2);
        assert!(look(&target.store).await.is_err());
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_copied_as_it_is() {
    let clock = ManualClock::new();
    for of in ALL {
        let (Some(source), Some(target)) = (of.spot(&clock).await, of.spot(&clock).await) else { continue };
        many_runs(&source.store, &clock).await;
        let broken = Change {
            id: ChangeId(5000),
            guards: Vec::new(),
            deletes: Vec::new(),
            events: Vec::new(),
            puts: vec![plain(Kind::Agent, "broken", "}{ \u{0}"), plain(Kind::Task, "empty", "")],
        };
        source.store.apply(vec![broken]).await.unwrap();
        let digest: Digest = copy(&source.store, &target.store, &clock).await;
        assert_eq!(digest.count(Kind::Agent), 1, "{of:?}");
        let mut pages = super::pages(&target.store).await;
        let found = pages.iter_mut().flat_map(|page| &mut page.records).find(|whole| &*whole.row.id.key == "broken").unwrap();
        assert_eq!(&found.row.body[..], b"}{ \0", "{of:?}");
    }
}

/// A store that has lost an event.
struct Gappy(Box<dyn Picture>);

#[async_trait]
impl Picture for Gappy {
    async fn records(&mut self, kind: Kind, after: i64, limit: usize) -> Result<Vec<Whole>, StoreError> {
        self.0.records(kind, after, limit).await
    }

    async fn events(&mut self, spans: &[Span]) -> Result<Vec<EventRow>, StoreError> {
        let mut events = self.0.events(spans).await?;
        events.retain(|event| event.sequence != 1 || event.run.id != RecordId::run(&run_id(777)));
        Ok(events)
    }
}

#[tokio::test]
async fn a_gap_in_a_run_s_events_refuses_the_copy_and_names_the_run() {
    let clock = ManualClock::new();
    let (source, target) = (Of::Sqlite.spot(&clock).await.unwrap(), Of::Sqlite.spot(&clock).await.unwrap());
    many_runs(&source.store, &clock).await;
    let mut walk = Walk::new(Box::new(Gappy(source.store.clone().picture().await.unwrap())));
    let refused = fill(&target.store, &mut walk, wish(clock.now()), |_| ()).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("run {} has no event 1", run_id(777))), "{refused}");
    enter(&*target.store).await.unwrap_err();
}

/// A store filled beside its mark differs from what was written.
struct Meddling(Walk, Arc<dyn Transfer>);

#[async_trait]
impl Pages for Meddling {
    async fn next(&mut self) -> Result<Option<Page>, TransferError> {
        let page = self.0.next().await?;
        if page.is_none() {
            let more = Change {
                id: ChangeId(77),
                guards: Vec::new(),
                deletes: Vec::new(),
                events: Vec::new(),
                puts: vec![plain(Kind::Task, "meddling", "{}")],
            };
            self.1.apply(vec![more]).await?;
        }
        Ok(page)
    }
}

#[tokio::test]
async fn what_was_read_back_otherwise_stays_marked() {
    let clock = ManualClock::new();
    let source = Of::Sqlite.spot(&clock).await.unwrap();
    many_runs(&source.store, &clock).await;
    for of in ALL {
        let Some(target) = of.spot(&clock).await else { continue };
        let mut pages = Meddling(Walk::new(source.store.clone().picture().await.unwrap()), target.store.clone());
        let refused = fill(&target.store, &mut pages, wish(clock.now()), |_| ()).await.unwrap_err().to_string();
        assert!(refused.contains("differs in its records of the kind task"), "{of:?}: {refused}");
        enter(&*target.store).await.unwrap_err();
    }
}
