//! A walk through all that a picture shows, page by page: kind by kind, runs' events behind their records.

use async_trait::async_trait;

use super::{Named, Page, Picture, Span, StoreRow, TransferError, Whole};
use crate::store::record::unreadable;
use crate::store::{Kind, StoreError};

/// The most records of a page.
const RECORDS: usize = 256;
/// The most parts of plugins in a page: each has more than half a megabyte.
const PARTS: usize = 4;
/// The most key-values of a page: each may have 700 kB.
const VALUES: usize = 16;
/// The most events of a page.
const EVENTS: u64 = 2048;

/// What gives pages until there are no more.
#[async_trait]
pub trait Pages: Send {
    /// The next page; none behind the last.
    async fn next(&mut self) -> Result<Option<Page>, TransferError>;
}

/// A walk through a picture.
pub struct Walk {
    picture: Box<dyn Picture>,
    kinds: std::vec::IntoIter<Kind>,
    /// The kind that it is at, and the place that it is behind.
    at: Option<(Kind, i64)>,
    /// Events that are to come before further records.
    owed: Vec<Span>,
}

impl Walk {
    /// A walk from the beginning.
    pub fn new(picture: Box<dyn Picture>) -> Walk {
        let mut kinds = Kind::ALL.to_vec().into_iter();
        let at = kinds.next().map(|kind| (kind, i64::MIN));
        Walk { picture, kinds, at, owed: Vec::new() }
    }

    /// A walk through a store that says of itself that it is whole, and what all fences to come must lie above.
    ///
    /// # Errors
    /// It is half filled, or cannot be read.
    pub async fn of_whole(mut picture: Box<dyn Picture>) -> Result<(Walk, u64), StoreError> {
        let told = picture.fences_above().await?;
        let mut row = StoreRow::default();
        for whole in picture.records(Kind::Store, i64::MIN, 1).await? {
            row = serde_json::from_slice(&whole.row.body).map_err(|error| unreadable("what the store says of itself", &error))?;
        }
        let fences_above = row.check()?.max(told);
        Ok((Walk::new(picture), fences_above))
    }

    async fn records(&mut self) -> Result<Vec<Whole>, StoreError> {
        while let Some((kind, after)) = self.at {
            let most = match kind {
                Kind::PluginPart => PARTS,
                Kind::KeyValue => VALUES,
                _ => RECORDS,
            };
            let mut records = self.picture.records(kind, after, most).await?;
            self.at = match records.last().filter(|_| records.len() >= most) {
                Some(last) => Some((kind, last.row.known.order)),
                None => self.kinds.next().map(|kind| (kind, i64::MIN)),
            };
            // What the store says of itself is not what it keeps.
            records.retain(|whole| whole.row.id != StoreRow::id());
            if !records.is_empty() {
                return Ok(records);
            }
        }
        Ok(Vec::new())
    }

    /// Takes as many of the events that are owed as a page has.
    fn take_spans(&mut self) -> Vec<Span> {
        let (mut spans, mut room) = (Vec::new(), EVENTS);
        while room > 0
            && let Some(owed) = self.owed.pop()
        {
            let count = owed.count.min(room);
            room -= count;
            if owed.count > count {
                self.owed.push(Span { run: owed.run.clone(), after: owed.after + count, count: owed.count - count });
            }
            spans.push(Span { count, ..owed });
        }
        spans
    }
}

#[async_trait]
impl Pages for Walk {
    async fn next(&mut self) -> Result<Option<Page>, TransferError> {
        let records = if self.owed.is_empty() { self.records().await? } else { Vec::new() };
        let spans = records.iter().rev().filter(|whole| whole.row.known.last_event > 0);
        self.owed.extend(spans.map(|whole| Span { run: Named::from(whole), after: 0, count: whole.row.known.last_event }));
        let spans = self.take_spans();
        let events = if spans.is_empty() { Vec::new() } else { self.picture.events(&spans).await? };
        let wanted = spans.iter().flat_map(|span| (span.after + 1..=span.after + span.count).map(move |sequence| (&span.run, sequence)));
        let mut found = events.iter().map(|event| (&event.run, event.sequence));
        for (run, sequence) in wanted {
            if found.next() != Some((run, sequence)) {
                let what = format!("{} has no event {sequence}; delete the run, or restore the store from a backup", run.id);
                return Err(StoreError::corrupt(what).into());
            }
        }
        let page = Page { records, events };
        Ok((!page.records.is_empty() || !page.events.is_empty()).then_some(page))
    }
}
