//! Variants that are broken on purpose, each of which the oracle catches within a few seeds: what would not be caught is not checked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandclock::domain::event::Event;
use sandclock::domain::id::{RunId, WorkerId};
use sandclock::domain::run::Slot;
use sandclock::domain::time::Timestamp;
use sandclock::store::{
    Change, ClaimRequest, Claimed, CountScope, Counts, Due, DueKind, Guard, Kind, NumberedEvent, Outcome, Page, PageRequest, Record,
    RecordId, Renewal, Scope, Store, StoreError,
};

use super::trace::Reader;
use super::world::Sabotage;
use super::{SOUND, run};

/// What is broken in a store.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    /// Guards on leases are not looked at.
    NoFence,
    /// A run that leaves its slot takes another one with it.
    SlotReleasedTwice,
    /// A schedule moves on and the runs that it made are lost.
    CursorWithoutRun,
    /// An error of a renewal is told as a lost lease.
    ErrorIsLoss,
    /// Events are written with the next change.
    EventsLater,
    /// Whoever claims a run anew has it under the fence of the one before.
    SameFence,
    /// What was applied is forgotten now and then, and acknowledged all the same.
    Forgetful,
    /// Checkpoints are acknowledged and not kept.
    NothingLeft,
    /// Checkpoints that are there are not found.
    NothingFound,
    /// What runs spend is not kept.
    FreeCalls,
}

struct Broken {
    store: Arc<dyn Store>,
    flaw: Flaw,
    later: Mutex<VecDeque<(RunId, Event)>>,
}

fn broken(store: Arc<dyn Store>, flaw: Flaw) -> Arc<dyn Store> {
    Arc::new(Broken { store, flaw, later: Mutex::default() })
}

impl Broken {
    fn spoil(&self, change: &mut Change) {
        match self.flaw {
            Flaw::NoFence => change.guards.retain(|guard| !matches!(guard, Guard::Held(..))),
            Flaw::SlotReleasedTwice => {
                for put in change.puts.iter_mut().filter(|put| put.id.kind == Kind::Slot) {
                    let mut slot: Slot = serde_json::from_slice(&put.body).unwrap();
                    if slot.waiting.is_empty() {
                        slot.holders.clear();
                    }
                    put.body = Bytes::from(serde_json::to_vec(&slot).unwrap());
                }
            }
            Flaw::CursorWithoutRun if [Kind::Schedule, Kind::Run].iter().all(|kind| change.puts.iter().any(|put| put.id.kind == *kind)) => {
                change.puts.retain(|put| matches!(put.id.kind, Kind::Schedule | Kind::SkipRange | Kind::Task));
                change.events.clear();
            }
            Flaw::EventsLater => {
                let mut later = self.later.lock().unwrap_or_else(PoisonError::into_inner);
                let held_back: Vec<_> = later.drain(..).collect();
                later.extend(std::mem::replace(&mut change.events, held_back));
            }
            Flaw::NothingLeft => change.puts.retain(|put| put.id.kind != Kind::Checkpoint),
            Flaw::FreeCalls => change.puts.retain(|put| put.id.kind != Kind::Account || !put.id.key.starts_with("r/")),
            _ => {}
        }
    }

    /// The fence that the store has, for the one that it was told to be.
    async fn true_fence(&self, run: &RunId, fence: u64) -> u64 {
        if self.flaw != Flaw::SameFence {
            return fence;
        }
        let record = self.store.get(&[RecordId::run(run)]).await.ok().and_then(|mut records| records.pop().flatten());
        record.and_then(|record| record.lease).map_or(fence, |lease| lease.fence)
    }

    fn disguise(&self, mut record: Record) -> Record {
        if self.flaw == Flaw::SameFence {
            if let Some(lease) = record.lease.as_mut() {
                lease.fence = lease.fence.min(1);
            }
            let mut body: serde_json::Value = serde_json::from_slice(&record.body).unwrap();
            if let Some(fence) = body.get_mut("lease_generation").filter(|fence| **fence != 0) {
                *fence = 1.into();
                record.body = Bytes::from(serde_json::to_vec(&body).unwrap());
            }
        }
        record
    }
}

#[async_trait]
impl Store for Broken {
    async fn apply(&self, mut changes: Vec<Change>) -> Result<Vec<Outcome>, StoreError> {
        for change in &mut changes {
            for guard in &mut change.guards {
                if let Guard::Held(run, fence) = guard {
                    *fence = self.true_fence(run, *fence).await;
                }
            }
            self.spoil(change);
        }
        if self.flaw == Flaw::Forgetful && changes.iter().any(|change| change.id.0 % 16 == 7) {
            return Ok(changes.iter().map(|_| Outcome::Applied).collect());
        }
        self.store.apply(changes).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claimed>, StoreError> {
        let mut claimed = self.store.claim(request).await?;
        if self.flaw == Flaw::SameFence {
            for claimed in &mut claimed {
                claimed.run.lease_generation = 1;
                claimed.attempt.lease_generation = 1;
            }
        }
        Ok(claimed)
    }

    async fn renew(&self, worker: &WorkerId, leases: &[(RunId, u64)], lease: Duration) -> Result<Vec<Renewal>, StoreError> {
        let mut wanted = leases.to_vec();
        for (run, fence) in &mut wanted {
            *fence = self.true_fence(run, *fence).await;
        }
        match self.store.renew(worker, &wanted, lease).await {
            Err(_) if self.flaw == Flaw::ErrorIsLoss => Ok(vec![Renewal::Lost; leases.len()]),
            answer => answer,
        }
    }

    async fn due(&self, what: DueKind, limit: usize) -> Result<Due, StoreError> {
        let mut due = self.store.due(what, limit).await?;
        due.records = due.records.into_iter().map(|record| self.disguise(record)).collect();
        Ok(due)
    }

    async fn get(&self, ids: &[RecordId]) -> Result<Vec<Option<Record>>, StoreError> {
        let records = self.store.get(ids).await?;
        let is_seen = |record: &Record| self.flaw != Flaw::NothingFound || record.id.kind != Kind::Checkpoint;
        Ok(records.into_iter().map(|record| record.filter(is_seen).map(|record| self.disguise(record))).collect())
    }

    async fn list(&self, scope: Scope, page: PageRequest) -> Result<Page, StoreError> {
        self.store.list(scope, page).await
    }

    async fn counts(&self, scope: CountScope) -> Result<Counts, StoreError> {
        self.store.counts(scope).await
    }

    async fn events(&self, run: &RunId, after: u64, limit: usize) -> Result<Vec<NumberedEvent>, StoreError> {
        self.store.events(run, after, limit).await
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.store.now().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

/// Wants the oracle to say one of these within so many seeds.
fn caught(sabotage: Sabotage, seeds: u64, says: &[&str]) {
    let mut said = Vec::new();
    for seed in 0..seeds {
        said = run(seed, sabotage, Reader::Nobody).faults;
        if said.iter().any(|fault| says.iter().any(|wanted| fault.contains(wanted))) {
            println!("caught with seed {seed}: {}", said[0]);
            return;
        }
        assert!(said.is_empty(), "seed {seed} was caught for another reason: {said:#?}");
    }
    panic!("{seeds} seeds and the oracle says nothing: {said:?}");
}

const MANY: u64 = 1000;

#[test]
fn a_store_that_does_not_check_fences_is_caught() {
    let sabotage = Sabotage { store: |store| broken(store, Flaw::NoFence), ..SOUND };
    caught(sabotage, MANY, &["did not hold"]);
}

#[test]
fn a_slot_that_is_released_twice_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::SlotReleasedTwice), ..SOUND };
    caught(sabotage, MANY, &["the slot of"]);
}

#[test]
fn a_cursor_that_moves_without_its_run_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::CursorWithoutRun), ..SOUND };
    caught(sabotage, MANY, &["its totals went from"]);
}

#[test]
fn a_renewal_error_that_is_taken_for_a_loss_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::ErrorIsLoss), ..SOUND };
    caught(sabotage, MANY, &["without a cause"]);
}

#[test]
fn an_event_outside_its_commit_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::EventsLater), ..SOUND };
    caught(sabotage, MANY, &["its terminal event is there: false", "which is not there"]);
}

#[test]
fn events_that_the_store_writes_late_are_caught() {
    let sabotage = Sabotage { store: |store| broken(store, Flaw::EventsLater), ..SOUND };
    caught(sabotage, MANY, &["events of"]);
}

#[test]
fn a_claim_that_does_not_raise_the_fence_is_caught() {
    let sabotage = Sabotage { store: |store| broken(store, Flaw::SameFence), ..SOUND };
    caught(sabotage, MANY, &["was claimed under fence 1"]);
}

#[test]
fn a_guest_that_acts_past_its_lease_is_caught() {
    caught(Sabotage { unruly: true, ..SOUND }, MANY, &["whose lease is over"]);
}

#[test]
fn a_store_that_forgets_what_it_acknowledged_is_caught() {
    let sabotage = Sabotage { store: |store| broken(store, Flaw::Forgetful), ..SOUND };
    caught(sabotage, MANY, &["did not hold", "events of", "is not there"]);
}

#[test]
fn a_checkpoint_that_is_acknowledged_and_not_kept_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::NothingLeft), ..SOUND };
    caught(sabotage, MANY, &["was saved and is not kept"]);
}

#[test]
fn a_checkpoint_that_the_next_attempt_does_not_find_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::NothingFound), ..SOUND };
    caught(sabotage, MANY, &["finds the checkpoints"]);
}

#[test]
fn a_call_that_nobody_pays_for_is_caught() {
    let sabotage = Sabotage { line: |store| broken(store, Flaw::FreeCalls), ..SOUND };
    caught(sabotage, MANY, &["left and was not charged"]);
}
