//! Cron expressions in the Vixie dialect, and the wall-clock labels they name.
//!
//! Five fields (minute, hour, day of month, month, day of week) of numbers, names, lists, ranges and steps, or one of
//! `@yearly @annually @monthly @weekly @daily @midnight @hourly`. A step on a number runs to the end of the field
//! (`5/15` is 5,20,35,50), a range may wrap (`22-2`), Sunday is 0 or 7. When both day fields are restricted, a day that
//! fits either of them fits; a field that starts with `*` is not restricted.
//!
//! The `cron` crate reads the fields once they are put into its words. The walk over the calendar is ours: the crate's
//! ends with the year 2100 and wants both day fields to fit.
//!
//! Invariant: a [`Cron`] names at least one date, so that its walk ends. A text that does not is refused by [`Cron::parse`].

use std::str::FromStr;

use chrono::{Datelike, NaiveDate};
use cron::TimeUnitSpec;

/// Minutes of a day.
pub(super) const DAY_MINUTES: i64 = 24 * 60;
const LAST_YEAR: i32 = 9999;
const MAX_BYTES: usize = 1000;

/// Why a text is not a cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// It has too few or too many fields.
    #[error("`{text}` has {count} fields; a cron expression has five: minute, hour, day of month, month and day of week")]
    FieldCount {
        /// The expression.
        text: String,
        /// How many there are.
        count: usize,
    },
    /// One field cannot be read.
    #[error(
        "`{text}` is not a valid {unit}; use *, numbers from {low} to {high}{names}, ranges such as {low}-{high}, steps such as */2, and lists of these with commas"
    )]
    Field {
        /// The field.
        text: String,
        /// What it stands for.
        unit: &'static str,
        /// The least number.
        low: u32,
        /// The greatest number.
        high: u32,
        /// The names that it takes, as a part of the sentence.
        names: &'static str,
    },
    /// It starts with `@` and is not one of the shortcuts.
    #[error("`{0}` is not a shortcut; use @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly")]
    Shortcut(String),
    /// It asks for a run at each start.
    #[error("`@reboot` is not a time and has no occurrences; use a `once` schedule, or run the task when the machine starts")]
    Reboot,
    /// Its days are in none of its months.
    #[error("`{0}` never runs: no month that it names has a day that it names")]
    Never(String),
    /// It is longer than any sensible expression.
    #[error("the expression has {0} bytes; at most {MAX_BYTES} are allowed")]
    TooLong(usize),
    /// The reader of the fields refused what was checked before.
    #[error("`{0}` cannot be read as a cron expression")]
    Unreadable(String),
}

/// What one field counts.
struct Unit {
    name: &'static str,
    low: u32,
    high: u32,
    /// The names of the numbers from `low` on.
    names: &'static [&'static str],
    shown_names: &'static str,
}

const MINUTE: Unit = Unit { name: "minute", low: 0, high: 59, names: &[], shown_names: "" };
const HOUR: Unit = Unit { name: "hour", low: 0, high: 23, names: &[], shown_names: "" };
const DAY: Unit = Unit { name: "day of month", low: 1, high: 31, names: &[], shown_names: "" };
const MONTH: Unit = Unit {
    name: "month",
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    shown_names: " or JAN to DEC",
};
const WEEKDAY: Unit =
    Unit { name: "day of week", low: 0, high: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"], shown_names: " or SUN to SAT" };

impl Unit {
    fn error(&self, text: &str) -> CronError {
        CronError::Field { text: shown(text), unit: self.name, low: self.low, high: self.high, names: self.shown_names }
    }

    fn value(&self, text: &str) -> Option<u32> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().filter(|value| (self.low..=self.high).contains(value));
        }
        let at = self.names.iter().position(|name| name.eq_ignore_ascii_case(text))?;
        Some(self.low + u32::try_from(at).ok()?)
    }

    /// One item of a list in the words of the `cron` crate, which counts weekdays from 1 and knows no wrapped ranges.
    fn item(&self, text: &str) -> Option<String> {
        let (base, step) = match text.split_once('/') {
            Some((base, step)) => (base, Some(self.step(step)?)),
            None => (text, None),
        };
        let weekday = self.high == WEEKDAY.high;
        let step_text = step.map(|step| format!("/{step}")).unwrap_or_default();
        if base == "*" {
            return Some(format!("*{step_text}"));
        }
        let (mut first, mut last) = match base.split_once('-') {
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            None => {
                let first = self.value(base)?;
                (first, if step.is_some() { self.high } else { first })
            }
        };
        if !weekday && first <= last {
            return Some(if base.contains('-') || step.is_some() { format!("{first}-{last}{step_text}") } else { first.to_string() });
        }
        let span = if weekday { 7 } else { self.high - self.low + 1 };
        if weekday && first == 7 && last < 7 {
            first = 0;
        }
        if last < first {
            last += span;
        }
        let base = if weekday { 1 } else { self.low };
        let values = (first..=last).step_by(usize::try_from(step.unwrap_or(1)).ok()?);
        Some(values.map(|value| ((value - self.low) % span + base).to_string()).collect::<Vec<_>>().join(","))
    }

    fn step(&self, text: &str) -> Option<u32> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|step| digits && (1..=self.high).contains(step))
    }

    fn field(&self, text: &str) -> Result<String, CronError> {
        let items: Option<Vec<String>> = text.split(',').map(|item| self.item(item)).collect();
        items.map(|items| items.join(",")).ok_or_else(|| self.error(text))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// A valid cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    expression: Box<str>,
    /// Bit n stands for the number n; so in all the sets.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Bit 0 is Sunday.
    weekdays: u64,
    either_day: bool,
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// The expression is not in the dialect, or names no date.
    pub fn parse(expression: &str) -> Result<Self, CronError> {
        if expression.len() > MAX_BYTES {
            return Err(CronError::TooLong(expression.len()));
        }
        let plain = match expression.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            "@reboot" => return Err(CronError::Reboot),
            other if other.starts_with('@') => return Err(CronError::Shortcut(shown(other))),
            other => other,
        };
        let fields: Vec<&str> = plain.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(CronError::FieldCount { text: shown(plain), count: fields.len() });
        };
        let words = [MINUTE.field(minute)?, HOUR.field(hour)?, DAY.field(day)?, MONTH.field(month)?, WEEKDAY.field(weekday)?];
        let read = cron::Schedule::from_str(&format!("0 {}", words.join(" "))).map_err(|_| CronError::Unreadable(shown(plain)))?;
        let cron = Cron {
            expression: expression.into(),
            minutes: set(read.minutes()),
            hours: set(read.hours()),
            days: set(read.days_of_month()),
            months: set(read.months()),
            weekdays: set(read.days_of_week()) >> 1,
            either_day: !day.starts_with('*') && !weekday.starts_with('*'),
        };
        if cron.names_a_date() { Ok(cron) } else { Err(CronError::Never(shown(plain))) }
    }

    /// The expression as it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether it names every hour of the day.
    pub(super) fn is_every_hour(&self) -> bool {
        self.hours == (1 << 24) - 1
    }

    /// The first label at or after `label`; both in minutes since 1970-01-01 00:00 on the wall clock. None past the year 9999.
    pub(super) fn label_from(&self, label: i64) -> Option<i64> {
        let mut date = NaiveDate::from_epoch_days(i32::try_from(label.div_euclid(DAY_MINUTES)).ok()?)?;
        if self.fits(date)
            && let Some(minute) = self.minute_from(label.rem_euclid(DAY_MINUTES))
        {
            return Some(label - label.rem_euclid(DAY_MINUTES) + minute);
        }
        loop {
            date = date.succ_opt()?;
            while !has(self.months, date.month()) {
                let (year, month) = if date.month() == 12 { (date.year() + 1, 1) } else { (date.year(), date.month() + 1) };
                date = NaiveDate::from_ymd_opt(year, month, 1)?;
            }
            if date.year() > LAST_YEAR {
                return None;
            }
            if self.fits(date) {
                return Some(i64::from(date.to_epoch_days()) * DAY_MINUTES + self.minute_from(0)?);
            }
        }
    }

    /// How many labels there are from `first` to `last`, both included.
    pub(super) fn count_labels(&self, first: i64, last: i64) -> u64 {
        let (first_day, last_day) = (first.div_euclid(DAY_MINUTES), last.div_euclid(DAY_MINUTES));
        let in_a_day = u64::from(self.minutes.count_ones() * self.hours.count_ones());
        let mut count = 0;
        for day in first_day..=last_day {
            if !i32::try_from(day).ok().and_then(NaiveDate::from_epoch_days).is_some_and(|date| self.fits(date)) {
                continue;
            }
            let before = if day == first_day { self.minutes_before(first.rem_euclid(DAY_MINUTES)) } else { 0 };
            let until = if day == last_day { self.minutes_before(last.rem_euclid(DAY_MINUTES) + 1) } else { in_a_day };
            count += until.saturating_sub(before);
        }
        count
    }

    fn names_a_date(&self) -> bool {
        let longest = |month: u32| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let first_day = self.days.trailing_zeros();
        self.either_day || (1..=12).any(|month| has(self.months, month) && first_day <= longest(month))
    }

    fn fits(&self, date: NaiveDate) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().num_days_from_sunday());
        has(self.months, date.month()) && if self.either_day { day || weekday } else { day && weekday }
    }

    /// The first minute of a day at or after this one.
    fn minute_from(&self, minute_of_day: i64) -> Option<i64> {
        let (hour, minute) = split(minute_of_day);
        if has(self.hours, hour)
            && let Some(minute) = next_in(self.minutes, minute)
        {
            return Some(i64::from(hour * 60 + minute));
        }
        Some(i64::from(next_in(self.hours, hour + 1)? * 60 + next_in(self.minutes, 0)?))
    }

    /// How many of a day's labels are before this minute of it.
    fn minutes_before(&self, minute_of_day: i64) -> u64 {
        let (hour, minute) = split(minute_of_day);
        let whole_hours = below(self.hours, hour) * self.minutes.count_ones();
        u64::from(whole_hours + if has(self.hours, hour) { below(self.minutes, minute) } else { 0 })
    }
}

fn set(unit: &impl TimeUnitSpec) -> u64 {
    unit.iter().fold(0, |set, value| set | 1u64.checked_shl(value).unwrap_or(0))
}

fn has(set: u64, value: u32) -> bool {
    set.checked_shr(value).is_some_and(|rest| rest & 1 == 1)
}

fn next_in(set: u64, from: u32) -> Option<u32> {
    let rest = set.checked_shr(from)?;
    (rest != 0).then(|| from + rest.trailing_zeros())
}

/// How many values of the set are less than `value`.
fn below(set: u64, value: u32) -> u32 {
    let mask = 1u64.checked_shl(value).map_or(u64::MAX, |bit| bit - 1);
    (set & mask).count_ones()
}

fn split(minute_of_day: i64) -> (u32, u32) {
    let minute_of_day = u32::try_from(minute_of_day).unwrap_or(0);
    (minute_of_day / 60, minute_of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(set: u64) -> Vec<u32> {
        (0..64).filter(|value| has(set, *value)).collect()
    }

    fn parse(text: &str) -> Cron {
        Cron::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn label(text: &str) -> i64 {
        chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap().and_utc().timestamp() / 60
    }

    fn show(label: i64) -> String {
        chrono::DateTime::from_timestamp(label * 60, 0).unwrap().format("%Y-%m-%d %H:%M").to_string()
    }

    fn labels(text: &str, from: &str, count: usize) -> Vec<String> {
        let cron = parse(text);
        let mut at = label(from) - 1;
        (0..count)
            .map(|_| {
                at = cron.label_from(at + 1).unwrap();
                show(at)
            })
            .collect()
    }

    #[test]
    fn w_29_fields_read_as_vixie_cron_reads_them() {
        type Row = (&'static str, fn(&Cron) -> u64, &'static [u32]);
        let table: &[Row] = &[
            ("5/15 * * * *", |c| c.minutes, &[5, 20, 35, 50]),
            ("*/20 * * * *", |c| c.minutes, &[0, 20, 40]),
            ("10-20/5,7,07 * * * *", |c| c.minutes, &[7, 10, 15, 20]),
            ("50-5/5 * * * *", |c| c.minutes, &[0, 5, 50, 55]),
            ("0 22-2 * * *", |c| c.hours, &[0, 1, 2, 22, 23]),
            ("0 22-3/2 * * *", |c| c.hours, &[0, 2, 22]),
            ("0 0 28-2 * *", |c| c.days, &[1, 2, 28, 29, 30, 31]),
            ("0 0 1 JAN,feb,Dec *", |c| c.months, &[1, 2, 12]),
            ("0 0 1 nov-FEB *", |c| c.months, &[1, 2, 11, 12]),
            ("0 0 1 3/4 *", |c| c.months, &[3, 7, 11]),
            ("0 0 * * 0", |c| c.weekdays, &[0]),
            ("0 0 * * 7", |c| c.weekdays, &[0]),
            ("0 0 * * 0-7", |c| c.weekdays, &[0, 1, 2, 3, 4, 5, 6]),
            ("0 0 * * 1-7", |c| c.weekdays, &[0, 1, 2, 3, 4, 5, 6]),
            ("0 0 * * 5-7", |c| c.weekdays, &[0, 5, 6]),
            ("0 0 * * 7-2", |c| c.weekdays, &[0, 1, 2]),
            ("0 0 * * FRI-mon", |c| c.weekdays, &[0, 1, 5, 6]),
            ("0 0 * * MON-5", |c| c.weekdays, &[1, 2, 3, 4, 5]),
            ("0 0 * * sun-sat", |c| c.weekdays, &[0, 1, 2, 3, 4, 5, 6]),
            ("0 0 * * */2", |c| c.weekdays, &[0, 2, 4, 6]),
            ("0 0 * * 1/2", |c| c.weekdays, &[0, 1, 3, 5]),
            ("0 0 * * tue,thu,6", |c| c.weekdays, &[2, 4, 6]),
        ];
        for (text, set, expected) in table {
            assert_eq!(values(set(&parse(text))), *expected, "{text}");
        }
    }

    #[test]
    fn shortcuts_stand_for_expressions() {
        for (short, long) in [
            ("@yearly", "0 0 1 1 *"),
            ("@annually", "0 0 1 1 *"),
            ("@monthly", "0 0 1 * *"),
            ("@weekly", "0 0 * * 0"),
            (" @daily ", "0 0 * * *"),
            ("@midnight", "0 0 * * *"),
            ("@hourly", "0 * * * *"),
        ] {
            let (mut short, long) = (parse(short), parse(long));
            short.expression = long.expression.clone();
            assert_eq!(short, long);
        }
    }

    #[test]
    fn w_29_what_is_not_in_the_dialect_is_refused_in_one_sentence() {
        for text in [
            "",
            "*",
            "* * * *",
            "* * * * * *",
            "61 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * 0 *",
            "* * * * 8",
            "-1 * * * *",
            "1- * * * *",
            "1-2-3 * * * *",
            "1/ * * * *",
            "*/0 * * * *",
            "*/60 * * * *",
            "*/x * * * *",
            "1/2/3 * * * *",
            ", * * * *",
            "1,,2 * * * *",
            "+1 * * * *",
            "*/+1 * * * *",
            "* * ? * *",
            "* * L * *",
            "* * * * 1#2",
            "* * * * MONDAY",
            "* * * JANUARY *",
            "MON * * * *",
            "* * * MON *",
            "*-5 * * * *",
            "**  * * * *",
            "99999999999 * * * *",
            "4000000000-5 * * * *",
            "@",
            "@reboot",
            "@every 5m",
            "@Daily",
            "0 0 30 2 *",
            "0 0 31 4,6,9,11 *",
            "0 0 30 2 */2",
            "١ * * * *",
            "1\u{0} * * * *",
        ] {
            let error = Cron::parse(text).expect_err(text).to_string();
            assert!(!error.contains('\n') && !error.contains('\u{0}'), "{text}: {error}");
        }
        assert_eq!(Cron::parse(&"1,".repeat(1000)), Err(CronError::TooLong(2000)));
        let error = Cron::parse("61 * * * *").unwrap_err().to_string();
        assert!(error.starts_with("`61` is not a valid minute; use *, numbers from 0 to 59"), "{error}");
    }

    #[test]
    fn w_29_two_restricted_day_fields_are_ored() {
        assert_eq!(
            labels("0 0 13 * 5", "2026-02-10 00:00", 4),
            ["2026-02-13 00:00", "2026-02-20 00:00", "2026-02-27 00:00", "2026-03-06 00:00"]
        );
        assert_eq!(labels("0 0 13 * FRI", "2026-04-11 00:00", 2), ["2026-04-13 00:00", "2026-04-17 00:00"]);
        // A field that starts with a star does not restrict, so both must fit.
        assert_eq!(labels("0 0 */2 * 1", "2026-02-01 00:00", 3), ["2026-02-09 00:00", "2026-02-23 00:00", "2026-03-09 00:00"]);
        assert_eq!(labels("0 0 30 2 1", "2026-02-01 00:00", 2), ["2026-02-02 00:00", "2026-02-09 00:00"]);
    }

    #[test]
    fn w_04_a_date_years_away_is_found() {
        assert_eq!(labels("0 0 29 2 *", "2026-03-01 00:00", 2), ["2028-02-29 00:00", "2032-02-29 00:00"]);
        assert_eq!(labels("0 0 29 2 *", "2096-03-01 00:00", 1), ["2104-02-29 00:00"]);
        assert_eq!(labels("59 23 29 2 */7", "2100-01-01 00:00", 1), ["2128-02-29 23:59"]);
        assert_eq!(parse("0 0 1 1 *").label_from(label("9999-06-01 00:00")), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9*/,a-zA-Z@? ]{0,30}") {
            let _ = Cron::parse(&text);
        }

        #[test]
        fn labels_are_counted_as_they_are_walked(
            text in prop::sample::select(vec!["* * * * *", "*/7 3-5 * * *", "0 22-2 1,31 * 3", "15 */6 * 2 *", "5/20 0,23 13 * 5"]),
            first in 28_000_000i64..30_000_000,
            span in 0i64..5_000,
        ) {
            let cron = parse(text);
            let mut walked = 0;
            let mut at = first;
            while let Some(next) = cron.label_from(at).filter(|next| *next <= first + span) {
                walked += 1;
                at = next + 1;
            }
            prop_assert_eq!(cron.count_labels(first, first + span), walked);
        }
    }
}
