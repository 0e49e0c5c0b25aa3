//! From wall-clock labels to instants, by one rule for daylight saving time.
//!
//! A *fixed time* is a time without an offset, and every label of a cron expression that does not name every hour of the
//! day. In a gap it happens once, at the first instant after the gap; in a repeated hour it happens once, the first time.
//! An expression that names every hour (`*`, `*/1`, `0-23`) follows the clock instead: its labels in a gap do not happen,
//! those in a repeated hour happen both times.
//!
//! Invariant: the instants of an expression are strictly increasing, whatever the zone does.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::{GapInfo, Tz};

use super::cron::Cron;
use crate::domain::time::Timestamp;

const DAY: i64 = 86_400;
/// Longer than any jump of a zone's clock, which is at most a day.
const LONGEST_JUMP: i64 = 26 * 3_600;

/// Finds a zone by its exact IANA name; otherwise says what is wrong, and the nearest name.
pub(super) fn find(name: &str) -> Result<Tz, String> {
    if let Ok(zone) = name.parse() {
        return Ok(zone);
    }
    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    let wanted = shown.to_lowercase().replace(' ', "_");
    let likeness = |zone: &Tz| {
        let known = zone.name().to_lowercase();
        let city = known.rsplit('/').next().unwrap_or_default();
        if wanted == known || wanted == city {
            1.0
        } else {
            strsim::jaro_winkler(&wanted, &known).max(strsim::jaro_winkler(&wanted, city) * 0.99)
        }
    };
    let nearest = chrono_tz::TZ_VARIANTS.iter().map(|zone| (likeness(zone), zone.name())).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((likeness, name)) if likeness > 0.85 => format!("did you mean `{name}`?"),
        _ => "use a name such as `Europe/Berlin` or `UTC`".to_owned(),
    };
    Err(format!("`{shown}` is not an IANA time zone (names are case sensitive); {hint}"))
}

/// The instant of a fixed time.
pub(super) fn instant_of(zone: Tz, wall: NaiveDateTime) -> Option<Timestamp> {
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at),
        LocalResult::None => GapInfo::new(&wall, &zone)?.end,
    }
    .map(|at| Timestamp::from_datetime(at.to_utc()))
}

/// The occurrences of a cron expression in a zone.
pub(super) struct Occurrences<'a> {
    cron: &'a Cron,
    zone: Tz,
}

impl<'a> Occurrences<'a> {
    pub(super) fn new(cron: &'a Cron, zone: Tz) -> Self {
        Occurrences { cron, zone }
    }

    /// The first occurrence after `at`; none past the year 9999.
    pub(super) fn after(&self, at: Timestamp) -> Option<Timestamp> {
        // Occurrences are at whole seconds, so what is after the second's beginning and not in it is after `at`.
        let next = Timestamp::from_seconds(self.after_second(at.micros().div_euclid(1_000_000))?);
        (next > at).then_some(next)
    }

    /// How many occurrences are after `from`, up to and including `until`.
    pub(super) fn count(&self, from: Timestamp, until: Timestamp) -> u64 {
        self.walk(from, until, u64::MAX).0
    }

    /// The `number`-th occurrence after `from`, where 1 is the first.
    pub(super) fn nth_after(&self, from: Timestamp, number: u64) -> Option<Timestamp> {
        let (passed, mut at) = self.walk(from, Timestamp::MAX, number.saturating_sub(1));
        for _ in passed..number {
            at = self.after(at)?;
        }
        Some(at)
    }

    /// Passes at most `most` occurrences after `from` and not after `until`. Gives how many, and an instant that is after all
    /// of these and before the next. Days without a jump of the clock are counted, not walked; so two weeks cost microseconds.
    fn walk(&self, from: Timestamp, until: Timestamp, most: u64) -> (u64, Timestamp) {
        let until_second = until.micros().div_euclid(1_000_000);
        let mut at = from.micros().div_euclid(1_000_000);
        let mut passed = 0;
        while passed < most {
            if let Some((end, count)) = self.even_day(at, until_second)
                && count > 0
                && passed + count <= most
            {
                passed += count;
                at = end;
                continue;
            }
            match self.after_second(at) {
                Some(next) if next <= until_second => {
                    passed += 1;
                    at = next;
                }
                _ => break,
            }
        }
        (passed, Timestamp::from_seconds(at).max(from))
    }

    /// The end of the day that follows `at`, and how many occurrences are in it; none when the clock jumps near it.
    fn even_day(&self, at: i64, until: i64) -> Option<(i64, u64)> {
        let end = until.min(at.saturating_add(DAY));
        let offset = self.offset(at);
        if end <= at || self.offset(at - LONGEST_JUMP) != offset || self.offset(end) != offset {
            return None;
        }
        Some((end, self.cron.count_labels((at + offset).div_euclid(60) + 1, (end + offset).div_euclid(60))))
    }

    fn after_second(&self, at: i64) -> Option<i64> {
        let every_hour = self.cron.is_every_hour();
        let repeated = if every_hour { self.first_repeated(at) } else { None };
        let mut label = (at + self.offset(at)).div_euclid(60);
        loop {
            let Some(next) = self.cron.label_from(label + 1) else { return repeated };
            label = next;
            let wall = DateTime::from_timestamp(label * 60, 0)?.naive_utc();
            let found = match self.zone.from_local_datetime(&wall) {
                LocalResult::Single(only) => Some(only),
                LocalResult::Ambiguous(first, second) if every_hour && first.timestamp() <= at => Some(second),
                LocalResult::Ambiguous(first, _) => Some(first),
                LocalResult::None if every_hour => None,
                LocalResult::None => GapInfo::new(&wall, &self.zone).and_then(|gap| gap.end),
            };
            // Within a repeated hour the labels that happened the first time are behind `at`.
            if let Some(found) = found.map(|found| found.timestamp()).filter(|found| *found > at) {
                return Some(repeated.map_or(found, |repeated| repeated.min(found)));
            }
        }
    }

    /// The first label to happen again when the clock is about to be set back. Such labels are not after the label of `at`,
    /// so the walk over labels alone would miss them.
    fn first_repeated(&self, at: i64) -> Option<i64> {
        let offset = self.offset(at);
        let (mut before, mut after) = (at, at + LONGEST_JUMP);
        if self.offset(after) >= offset {
            return None;
        }
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if self.offset(middle) < offset { after = middle } else { before = middle }
        }
        let offset = self.offset(after);
        let label = self.cron.label_from((after + offset + 59).div_euclid(60))?;
        let found = label * 60 - offset;
        (self.offset(found) == offset).then_some(found)
    }

    /// The zone's distance from UTC, in seconds, at a second since the epoch.
    fn offset(&self, at: i64) -> i64 {
        let at = DateTime::from_timestamp(at, 0).unwrap_or_default().naive_utc();
        i64::from(self.zone.offset_from_utc_datetime(&at).fix().local_minus_utc())
    }
}

/// A time without an offset, in the forms that ISO 8601 and its users know.
pub(super) fn read_wall_time(text: &str) -> Option<NaiveDateTime> {
    const FORMS: [&str; 4] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let wall = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
    // Within a day of a zone's offset, so that no conversion leaves the calendar.
    let limit = TimeDelta::days(2);
    let (least, most) = (Timestamp::MIN.to_datetime().naive_utc() + limit, Timestamp::MAX.to_datetime().naive_utc() - limit);
    (least..=most).contains(&wall).then_some(wall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn occurrences_are_counted_as_they_are_walked(
            text in prop::sample::select(vec!["*/7 * * * *", "*/10 1-5 * * *", "30 0,2 * * *", "0 */6 1-7 * 1", "59 23 * * 0"]),
            zone in prop::sample::select(vec![Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::America__Santiago, Tz::Asia__Tokyo]),
            // From April 2026, and half the time in a repeated hour of New York.
            from in prop_oneof![1_775_000_000i64..1_790_000_000, 1_793_512_800i64..1_793_516_400],
            span in 0i64..1_500_000,
        ) {
            let cron = Cron::parse(text).unwrap();
            let occurrences = Occurrences::new(&cron, zone);
            let (from, until) = (Timestamp::from_seconds(from), Timestamp::from_seconds(from + span));
            let mut walked = 0;
            let mut at = from;
            while let Some(next) = occurrences.after(at).filter(|next| *next <= until) {
                walked += 1;
                at = next;
            }
            prop_assert_eq!(occurrences.count(from, until), walked);
            if walked > 0 {
                prop_assert_eq!(occurrences.nth_after(from, walked), Some(at));
            }
        }
    }
}
