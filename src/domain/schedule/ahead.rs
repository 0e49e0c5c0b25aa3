//! What lies ahead of a schedule: the next change of its zone's clocks, and the occurrences on both sides of it.

use std::time::Duration;

use chrono::{FixedOffset, Offset, TimeZone};

use super::{Schedule, SkipReason};
use crate::domain::time::Timestamp;

/// How many days ahead a change of the clocks is looked for: a zone that changes them does so within a year.
const DAYS: u32 = 400;
const DAY: Duration = Duration::from_secs(86_400);

/// A change of a zone's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockChange {
    /// The first instant of the new time.
    pub at: Timestamp,
    /// The distance from UTC before it.
    pub from: FixedOffset,
    /// The distance from UTC from then on.
    pub to: FixedOffset,
    /// The last occurrence before it.
    pub last_before: Option<Timestamp>,
    /// The first occurrence that is not before it.
    pub first_after: Option<Timestamp>,
}

impl Schedule {
    /// The distance of the schedule's zone from UTC at an instant.
    pub fn offset_at(&self, at: Timestamp) -> FixedOffset {
        self.timezone().offset_from_utc_datetime(&at.to_datetime().naive_utc()).fix()
    }

    /// The next change of the zone's clocks after `now`, with the occurrences from `next` on that lie on its two sides; none when the
    /// zone changes its clocks no more.
    pub fn clock_change(&self, now: Timestamp, next: Option<Timestamp>) -> Option<ClockChange> {
        let from = self.offset_at(now);
        let mut before = now;
        let mut at = (1..=DAYS).map(|day| now + DAY * day).find(|at| {
            let is_changed = self.offset_at(*at) != from;
            if !is_changed {
                before = *at;
            }
            is_changed
        })?;
        // Down to the second, in which zones change.
        while at.since(before) > Duration::from_micros(1) {
            let middle = before + at.since(before) / 2;
            if self.offset_at(middle) == from { before = middle } else { at = middle }
        }
        let (last_before, first_after) = match next {
            Some(next) => {
                let (passed, next) = self.skip_until(next, before, SkipReason::Missed);
                (passed.map(|passed| passed.last), next)
            }
            None => (None, None),
        };
        Some(ClockChange { at, from, to: self.offset_at(at), last_before, first_after })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::input::{Faults, Fields};

    fn schedule(zone: &str, expression: &str) -> Schedule {
        let mut faults = Faults::new();
        let value = json!({"type": "cron", "expression": expression, "timezone": zone});
        Schedule::parse(Fields::open("schedule", value, &mut faults)).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn the_change_is_found_to_the_second_with_the_occurrences_beside_it() {
        for (zone, now, change, hours, before, after) in [
            ("Europe/Berlin", "2026-11-22T05:00:00Z", "2027-03-28T01:00:00Z", (1, 2), "2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z"),
            ("Europe/Berlin", "2026-06-01T00:00:00Z", "2026-10-25T01:00:00Z", (2, 1), "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            ("America/New_York", "2026-03-08T06:59:59Z", "2026-03-08T07:00:00Z", (-5, -4), "", "2026-03-08T07:00:00Z"),
        ] {
            let schedule = schedule(zone, "30 2 * * *");
            let found = schedule.clock_change(at(now), schedule.first(at(now))).unwrap();
            assert_eq!((found.at, found.first_after), (at(change), Some(at(after))), "{zone} {now}");
            assert_eq!(found.last_before, Timestamp::parse(before).ok(), "{zone} {now}");
            assert_eq!((found.from.local_minus_utc() / 3600, found.to.local_minus_utc() / 3600), hours, "{zone} {now}");
        }
    }

    #[test]
    fn a_zone_that_keeps_its_time_has_none() {
        for zone in ["UTC", "Asia/Tokyo", "America/Sao_Paulo"] {
            let schedule = schedule(zone, "* * * * *");
            assert_eq!(schedule.clock_change(at("2026-11-22T05:00:00Z"), None), None, "{zone}");
        }
        let manual = Schedule::manual();
        assert_eq!(manual.clock_change(at("2026-11-22T05:00:00Z"), None), None);
    }
}
