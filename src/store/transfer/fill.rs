//! Filling an empty store.
//!
//! Invariant: the target says that it is being filled from before the first record until all has been read back and found the same.
//!
//! How it fails: the target stays marked; with leave to start anew it is emptied first, which only a marked one may be.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::walk::Pages;
use super::{Digest, Known, Page, Row, StoreRow, Transfer, TransferError, Walk, Whole};
use crate::domain::time::Timestamp;
use crate::store::{Change, ChangeId, CountScope, Guard, Index, Kind, Outcome, Put};

/// The place of what a store says of itself: below those of all records.
const PLACE: i64 = 0;

/// What fills a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filling {
    /// In words: `a copy`.
    pub what: String,
    /// From where, without a password.
    pub from: String,
    /// When it was begun.
    pub begun_at: Timestamp,
}

impl fmt::Display for Filling {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} from {} at {}", self.what, self.from, self.begun_at)
    }
}

/// How a store was filled.
#[derive(Debug)]
pub struct Filled {
    /// What was written.
    pub written: Digest,
    /// What was read back.
    pub found: Digest,
}

/// How a store is to be filled.
pub struct Wish {
    /// What fills it.
    pub filling: Filling,
    /// Whether a target that is half filled may be emptied.
    pub anew: bool,
    /// What all fences of the target are to lie above.
    pub fences_above: u64,
    /// Names the changes that are made.
    pub id: u128,
}

/// Looks whether a store is empty, and how a filling of it stands.
///
/// # Errors
/// It holds records and nothing says that they are half of something; or it cannot be asked.
pub async fn look(target: &Arc<dyn Transfer>) -> Result<Option<Filling>, TransferError> {
    if let Some((_, StoreRow { filling: Some(filling), .. })) = StoreRow::of(&**target).await? {
        return Ok(Some(filling));
    }
    let mut picture = Arc::clone(target).picture().await?;
    let mut found = Vec::new();
    for kind in Kind::ALL {
        if !picture.records(kind, i64::MIN, 1).await?.is_empty() {
            let count = target.counts(CountScope::All(kind)).await?.total;
            found.push(format!("{count} of the kind {}", kind.as_str()));
        }
    }
    if found.is_empty() { Ok(None) } else { Err(TransferError::NotEmpty(found.join(", "))) }
}

/// Fills an empty store with all pages, reads it back and compares.
///
/// # Errors
/// The target is not empty, a page cannot be had or written, or what was read back differs.
pub async fn fill(
    target: &Arc<dyn Transfer>,
    pages: &mut dyn Pages,
    wish: Wish,
    mut told: impl FnMut(&Digest) + Send,
) -> Result<Filled, TransferError> {
    if let Some(filling) = look(target).await? {
        if !wish.anew {
            return Err(TransferError::HalfFilled(filling));
        }
        target.clear().await?;
    }
    mark(target, &wish).await?;
    let mut written = Digest::default();
    while let Some(page) = pages.next().await? {
        target.import(&page).await?;
        written.take(&page, |_| ());
        told(&written);
    }
    let found = read_back(target).await?;
    if let Some(kind) = written.difference(&found) {
        return Err(TransferError::Differs(format!("records of the kind {kind}")));
    }
    compare_counts(target, &written).await?;
    unmark(target, &wish).await?;
    Ok(Filled { written, found })
}

/// Has the target say that it is being filled.
async fn mark(target: &Arc<dyn Transfer>, wish: &Wish) -> Result<(), TransferError> {
    let row = StoreRow { fences_above: wish.fences_above, filling: Some(wish.filling.clone()) };
    let Put { id, body, .. } = Put::of(StoreRow::id(), Index::default(), &row)?;
    let known = Known { order: PLACE, rev: 1, index: Index::default(), fence: 0, heartbeat_at: None, until: None, last_event: 0 };
    let row = Row { id, known, change: Some(ChangeId(wish.id)), due: None, body };
    target.import(&Page { records: vec![Whole { row, lease: None }], events: Vec::new() }).await?;
    Ok(())
}

/// Has the target say that it is whole.
async fn unmark(target: &Arc<dyn Transfer>, wish: &Wish) -> Result<(), TransferError> {
    let Some((record, row)) = StoreRow::of(&**target).await? else { return Err(TransferError::Differs("mark".to_owned())) };
    let whole = StoreRow { filling: None, ..row };
    let is_needed = whole.fences_above > 0;
    let id = StoreRow::id();
    let change = Change {
        id: ChangeId(wish.id.wrapping_add(1)),
        guards: vec![Guard::Rev(id.clone(), record.rev)],
        puts: if is_needed { vec![Put::of(id.clone(), Index::default(), &whole)?] } else { Vec::new() },
        deletes: if is_needed { Vec::new() } else { vec![id] },
        events: Vec::new(),
    };
    match target.apply(vec![change]).await?.first() {
        Some(Outcome::Applied) => Ok(()),
        _ => Err(TransferError::Differs("mark".to_owned())),
    }
}

async fn read_back(target: &Arc<dyn Transfer>) -> Result<Digest, TransferError> {
    let mut walk = Walk::new(Arc::clone(target).picture().await?);
    let mut found = Digest::default();
    while let Some(page) = walk.next().await? {
        found.take(&page, |_| ());
    }
    Ok(found)
}

/// The counts that the target keeps must be those of its records.
async fn compare_counts(target: &Arc<dyn Transfer>, written: &Digest) -> Result<(), TransferError> {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Store) {
        let counts = target.counts(CountScope::All(kind)).await?;
        let is_right = counts.total == written.count(kind) && (kind != Kind::Run || counts.by_status == *written.runs());
        if !is_right {
            return Err(TransferError::Differs(format!("counts of the kind {}", kind.as_str())));
        }
    }
    Ok(())
}

impl From<&Whole> for super::Named {
    fn from(whole: &Whole) -> Self {
        super::Named { order: whole.row.known.order, id: whole.row.id.clone() }
    }
}

/// The epoch above all fences that have been given so far, as the fence that its own lie above. `latest` is the latest fence that is
/// known; one that nobody knows any more may have been reckoned from the present, as a server does that has lost some.
pub fn next_epoch(latest: u64, now: Timestamp) -> u64 {
    let present = u64::try_from(now.micros() / 1000).unwrap_or(0);
    ((latest.max(present) >> 32) + 1) << 32
}

/// Pages whose leases are over by a present, whatever clock they were taken by: whoever had them must not go on in a store that has been set back.
pub struct Resting<P>(pub P, pub Timestamp);

#[async_trait]
impl<P: Pages> Pages for Resting<P> {
    async fn next(&mut self) -> Result<Option<Page>, TransferError> {
        let mut page = self.0.next().await?;
        for whole in page.iter_mut().flat_map(|page| &mut page.records) {
            if let Some(lease) = &mut whole.lease {
                lease.until = whole.row.known.heartbeat_at.unwrap_or_default().min(lease.until).min(self.1);
                whole.row.known.until = Some(lease.until);
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_lies_above_every_fence_before_it() {
        let now = Timestamp::from_seconds(1_800_000_000);
        for latest in [0, 7, 1 << 32, u64::from(u32::MAX), 1_800_000_000_000, 500 << 32] {
            let above = next_epoch(latest, now);
            assert!(above > latest && above > 1_800_000_000_000 && above.trailing_zeros() >= 32, "{latest}: {above}");
            assert!(next_epoch(above + 1, now) > above + 1);
        }
    }
}
