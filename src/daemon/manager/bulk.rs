//! Many runs at once, again or cancelled.
//!
//! Invariants: of many, each run is a change of its own; runs that came after the first look are never among them, so that no rerun
//! repeats a rerun of its own. How it fails: a run that is refused is told with its reason, and the others go on; when the store is
//! away or the queue is full it stops, and tells what is done and where it goes on.

use futures::StreamExt as _;

use super::{Manager, PAGE_PART, RunWish};
use crate::daemon::error::ManagerError;
use crate::domain::filter::RunFilter;
use crate::domain::id::RunId;
use crate::domain::run::{Run, Status};
use crate::store::{PageRequest, Scope};

/// The most runs that one look goes through.
const MOST_LOOKED_AT: usize = 10_000;
/// A look ends with the page that passes this many bytes.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// How many runs a preview shows.
const SAMPLE: usize = 10;

/// What is to be done with each of many runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BulkVerb {
    /// Those that have ended are run again.
    Rerun {
        /// Who asks, where that is known.
        by: Option<String>,
    },
    /// Those that have not ended are cancelled, at this one's wish.
    Cancel {
        /// Who is recorded as having asked for it.
        by: String,
    },
}

impl BulkVerb {
    /// Whether it can be done with a run of this status.
    pub fn applies_to(&self, status: Status) -> bool {
        status.is_terminal() == matches!(self, BulkVerb::Rerun { .. })
    }
}

/// Where a further part of many runs begins. As text it is opaque to its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkCursor {
    /// The order of the last run that there was at the first look.
    last: i64,
    /// Which of the lists is being read.
    list: usize,
    /// Behind which order.
    after: Option<i64>,
}

impl BulkCursor {
    /// The cursor of that text.
    pub fn parse(text: &str) -> Option<BulkCursor> {
        let mut parts = text.splitn(3, '.').map(|part| part.parse::<i64>());
        let (last, list) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let after = parts.next().transpose().ok()?;
        Some(BulkCursor { last, list: usize::try_from(list).ok().filter(|list| *list <= Status::ALL.len())?, after })
    }
}

impl std::fmt::Display for BulkCursor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.last, self.list)?;
        self.after.map_or(Ok(()), |after| write!(out, ".{after}"))
    }
}

/// What would be done with many runs.
#[derive(Clone, Debug, Default)]
pub struct BulkPreview {
    /// How many fit.
    pub matched: usize,
    /// Whether all were looked at; otherwise more may fit.
    pub is_complete: bool,
    /// The first of them.
    pub sample: Vec<Run>,
}

/// What was done with many runs.
#[derive(Debug, Default)]
pub struct BulkDone {
    /// The runs that were made or changed, each with the one that fitted, as they are now.
    pub done: Vec<(RunId, Run)>,
    /// Those that were refused, and why.
    pub refused: Vec<(RunId, ManagerError)>,
    /// Where it goes on; none when nothing is left.
    pub next: Option<BulkCursor>,
}

impl Manager {
    /// Says which runs a verb would be carried out on.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn preview(&self, verb: &BulkVerb, filter: &RunFilter) -> Result<BulkPreview, ManagerError> {
        let mut look = Look::begin(self, verb, filter, None).await?;
        let mut preview = BulkPreview::default();
        while !look.is_over() && !look.is_spent() {
            let runs = look.more(PAGE_PART).await?;
            preview.matched += runs.len();
            let room = SAMPLE - preview.sample.len();
            preview.sample.extend(runs.into_iter().take(room));
        }
        preview.is_complete = look.is_over();
        Ok(preview)
    }

    /// Carries a verb out on at most `limit` runs, the oldest first, from a cursor on or from the beginning.
    ///
    /// # Errors
    /// The store does not answer; nothing is done then.
    pub async fn bulk(
        &self,
        verb: &BulkVerb,
        filter: &RunFilter,
        limit: usize,
        from: Option<BulkCursor>,
    ) -> Result<BulkDone, ManagerError> {
        let mut look = Look::begin(self, verb, filter, from).await?;
        let mut outcome = BulkDone::default();
        let mut is_away = false;
        while !look.is_over() && !look.is_spent() && !is_away {
            let room = limit.saturating_sub(outcome.done.len() + outcome.refused.len());
            if room == 0 {
                break;
            }
            let runs = match look.more(room).await {
                Ok(runs) => runs,
                Err(error) if outcome.done.is_empty() => return Err(error),
                Err(_) => break,
            };
            // As many at once as were read, so that they share commits.
            let mut each = futures::stream::iter(runs).map(|run| self.one(verb, run.run_id)).buffered(PAGE_PART);
            while let Some((id, result)) = each.next().await {
                match result {
                    Ok(run) => outcome.done.push((id, run)),
                    Err(error) => {
                        is_away |= matches!(error, ManagerError::Store(_) | ManagerError::Busy { .. } | ManagerError::Full { .. });
                        outcome.refused.push((id, error));
                    }
                }
            }
        }
        outcome.next = (!look.is_over()).then_some(look.place);
        Ok(outcome)
    }

    async fn one(&self, verb: &BulkVerb, id: RunId) -> (RunId, Result<Run, ManagerError>) {
        let result = match verb {
            BulkVerb::Rerun { by } => self.rerun(&id, RunWish { by: by.clone(), ..RunWish::default() }).await,
            BulkVerb::Cancel { by } => self.cancel_run(&id, by).await,
        };
        (id, result)
    }
}

/// A look at the runs that a filter fits, list by list and page by page.
struct Look<'a> {
    manager: &'a Manager,
    verb: &'a BulkVerb,
    filter: &'a RunFilter,
    lists: Vec<Scope>,
    place: BulkCursor,
    looked_at: usize,
    bytes: usize,
}

impl<'a> Look<'a> {
    async fn begin(
        manager: &'a Manager,
        verb: &'a BulkVerb,
        filter: &'a RunFilter,
        from: Option<BulkCursor>,
    ) -> Result<Look<'a>, ManagerError> {
        let place = match from {
            Some(place) => place,
            None => {
                let newest = PageRequest { newest_first: true, ..PageRequest::first(1) };
                let page = manager.inner().store.list(Scope::Runs { task: None, status: None }, newest).await?;
                BulkCursor { last: page.records.first().map_or(i64::MIN, |record| record.order), list: 0, after: None }
            }
        };
        Ok(Look { manager, verb, filter, lists: lists(verb, filter), place, looked_at: 0, bytes: 0 })
    }

    fn is_over(&self) -> bool {
        self.place.list >= self.lists.len()
    }

    /// Whether it has gone through as much as one look may.
    fn is_spent(&self) -> bool {
        self.looked_at >= MOST_LOOKED_AT || self.bytes >= MOST_BYTES
    }

    fn is_to_do(&self, run: &Run) -> bool {
        let is_asked = matches!(self.verb, BulkVerb::Cancel { .. }) && run.cancel_requested_at.is_some();
        self.verb.applies_to(run.status) && !is_asked
    }

    /// The fitting runs of the next page, at most `most`, and moves behind the last one it looked at.
    async fn more(&mut self, most: usize) -> Result<Vec<Run>, ManagerError> {
        let mut found = Vec::new();
        let Some(list) = self.lists.get(self.place.list) else { return Ok(found) };
        let request = PageRequest { after: self.place.after, ..PageRequest::first(PAGE_PART) };
        let page = self.manager.inner().store.list(list.clone(), request).await?;
        let mut is_last = page.next.is_none();
        for record in &page.records {
            if record.order > self.place.last {
                is_last = true;
                break;
            }
            if found.len() >= most {
                return Ok(found);
            }
            self.place.after = Some(record.order);
            self.looked_at += 1;
            self.bytes += record.body.len();
            let run = record.decode_run()?;
            if self.is_to_do(&run) && self.filter.fits(&run) {
                found.push(run);
            }
        }
        if is_last {
            self.place.list += 1;
            self.place.after = None;
        }
        Ok(found)
    }
}

/// The lists in which all runs stand that may fit, no run in two of them.
fn lists(verb: &BulkVerb, filter: &RunFilter) -> Vec<Scope> {
    // The lists of live runs have all of them, so that one which changes its status meanwhile is not missed.
    match (verb, &filter.task, &filter.agent) {
        (BulkVerb::Cancel { .. }, Some(task), _) => return vec![Scope::LiveRunsOfTask(task.clone())],
        (BulkVerb::Cancel { .. }, None, Some(agent)) => return vec![Scope::LiveRunsOfAgent(agent.clone())],
        _ => {}
    }
    let is_meant = |status: &Status| verb.applies_to(*status) && (filter.status.is_empty() || filter.status.contains(status));
    // In this order a queued run that starts meanwhile was seen when it was queued, or is seen when it runs.
    let statuses = Status::ALL.into_iter().filter(is_meant);
    statuses.map(|status| Scope::Runs { task: filter.task.clone(), status: Some(status) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for (last, list, after) in [(0, 0, None), (i64::MIN, 11, Some(i64::MAX)), (7, 1, Some(-1))] {
            let cursor = BulkCursor { last, list, after };
            assert_eq!(BulkCursor::parse(&cursor.to_string()), Some(cursor));
        }
        for bad in ["", ".", "1", "1.", "1.-1", "1.12", "1.2.", "1.2.x", "1.2.3.4", "99999999999999999999.1", "é"] {
            assert_eq!(BulkCursor::parse(bad), None, "{bad}");
        }
    }
}
