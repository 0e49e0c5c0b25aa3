//! The records that only the daemon's own parts write.

use std::time::Duration;

use super::txn::Entity;
use crate::domain::schedule::{ScheduleState, SkipRange};
use crate::domain::time::Timestamp;
use crate::store::{Index, Kind, RecordId, When};

impl Entity for ScheduleState {
    const KIND: Kind = Kind::Schedule;

    fn index(&self, _now: Timestamp) -> Index {
        Index { task: Some(self.task_id.clone()), due: self.due_at().map(When::At), ..Index::default() }
    }
}

impl Entity for SkipRange {
    const KIND: Kind = Kind::SkipRange;

    fn index(&self, _now: Timestamp) -> Index {
        Index { task: Some(self.task_id.clone()), due: Some(When::In(Duration::ZERO)), ..Index::default() }
    }
}

/// Names the record of a skip range. Nominal times come only once under a task, so the name is its own.
pub(super) fn skip_range_id(range: &SkipRange) -> RecordId {
    RecordId::new(Kind::SkipRange, &format!("{}/{:020}-{:020}", range.task_id, range.first.micros(), range.at.micros()))
}
