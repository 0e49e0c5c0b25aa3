//! Schedules against known tables, and against a walk over every minute that was written from the rule alone.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{Datelike, Offset, TimeZone, Timelike};
use chrono_tz::Tz;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use sandclock::domain::id::{RunId, TaskId};
use sandclock::domain::input::{Faults, Fields};
use sandclock::domain::schedule::{Moment, Schedule, ScheduleState};
use sandclock::domain::time::Timestamp;
use serde_json::{Value, json};

mod answers;

fn schedule(value: Value) -> Schedule {
    let mut faults = Faults::new();
    let schedule = Schedule::parse(Fields::open("", value.clone(), &mut faults));
    schedule.filter(|_| faults.is_empty()).unwrap_or_else(|| panic!("{value}: {faults}"))
}

fn cron(expression: &str, zone: &str) -> Schedule {
    schedule(json!({"type": "cron", "expression": expression, "timezone": zone}))
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(&format!("{text}:00Z")).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The occurrences after `from`, as `DDThh:mm` in UTC.
fn occurrences(expression: &str, zone: &str, from: &str, count: usize) -> String {
    let schedule = cron(expression, zone);
    let times = std::iter::successors(schedule.next(at(from)), |at| schedule.next(*at)).take(count);
    times.map(|at| at.to_datetime().format("%dT%H:%M").to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn w_01_daylight_saving_time_by_table() {
    let table = [
        // New York, 8 March 2026: 02:00 EST is 03:00 EDT (07:00Z).
        ("30 2 * * *", "America/New_York", "2026-03-07T00:00", "07T07:30 08T07:00 09T06:30"),
        ("0,30 2,3 * * *", "America/New_York", "2026-03-08T00:00", "08T07:00 08T07:30 09T06:00"),
        ("0 * * * *", "America/New_York", "2026-03-08T05:30", "08T06:00 08T07:00 08T08:00"),
        ("*/30 0-23 * * *", "America/New_York", "2026-03-08T06:00", "08T06:30 08T07:00 08T07:30"),
        ("0 */2 * * *", "America/New_York", "2026-03-08T04:00", "08T05:00 08T07:00 08T08:00 08T10:00"),
        // New York, 1 November 2026: 02:00 EDT is 01:00 EST (06:00Z).
        ("30 1 * * *", "America/New_York", "2026-10-31T06:00", "01T05:30 02T06:30"),
        ("30 1 * * *", "America/New_York", "2026-11-01T06:10", "02T06:30"),
        ("*/30 * * * *", "America/New_York", "2026-11-01T04:30", "01T05:00 01T05:30 01T06:00 01T06:30 01T07:00"),
        ("0 * * * *", "America/New_York", "2026-11-01T04:30", "01T05:00 01T06:00 01T07:00 01T08:00"),
        ("15 * 1 11 *", "America/New_York", "2026-11-01T05:15", "01T06:15 01T07:15"),
        ("*/30 1-2 * * *", "America/New_York", "2026-11-01T05:00", "01T05:30 01T07:00 01T07:30"),
        // Berlin, 29 March and 25 October 2026, both at 01:00Z.
        ("0 2 * * *", "Europe/Berlin", "2026-03-28T02:00", "29T01:00 30T00:00"),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T02:00", "29T01:00 30T00:00 30T01:00"),
        ("15 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "25T00:15 26T01:15"),
        ("15 * * * *", "Europe/Berlin", "2026-10-24T23:30", "25T00:15 25T01:15 25T02:15"),
        // Lord Howe moves by half an hour: 02:00 is 02:30 on 4 October 2026 (15:30Z the day before), 02:00 is 01:30 on 5 April (15:00Z).
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T16:00", "03T15:30 04T15:15"),
        ("*/15 * * * *", "Australia/Lord_Howe", "2026-10-03T15:10", "03T15:15 03T15:30 03T15:45"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", "04T14:45 05T15:15"),
        ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T13:50", "04T14:45 04T15:15 04T16:15"),
        // Santiago: midnight of 6 September 2026 is 01:00 (04:00Z); midnight of 5 April is 23:00 of the 4th (03:00Z).
        ("0 0 * * *", "America/Santiago", "2026-09-05T05:00", "06T04:00 07T03:00"),
        ("0 0 * * SUN", "America/Santiago", "2026-09-05T05:00", "06T04:00 13T03:00"),
        ("30 23 4 4 *", "America/Santiago", "2026-04-05T00:00", "05T02:30 05T03:30"),
        ("30 * 4 4 *", "America/Santiago", "2026-04-05T01:40", "05T02:30 05T03:30 04T04:30"),
        // Beirut: midnight of 29 March 2026 is 01:00 (22:00Z); midnight of 25 October is 23:00 of the 24th (21:00Z).
        ("0 0 * * *", "Asia/Beirut", "2026-03-27T23:00", "28T22:00 29T21:00"),
        ("59 23 * * *", "Asia/Beirut", "2026-10-24T00:00", "24T20:59 25T21:59"),
        // Casablanca goes back for Ramadan: 03:00 is 02:00 on 15 February 2026 (02:00Z), 02:00 is 03:00 on 22 March (02:00Z).
        ("30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00", "15T01:30 16T02:30"),
        ("30 * * * *", "Africa/Casablanca", "2026-02-15T01:00", "15T01:30 15T02:30 15T03:30"),
        ("30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00", "22T02:00 23T01:30"),
        // Apia had no 30 December 2011.
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T12:00", "29T22:00 30T10:00 30T22:00"),
    ];
    let wrong = table.iter().filter_map(|(expression, zone, from, expected)| {
        let found = occurrences(expression, zone, from, expected.split(' ').count());
        (found != *expected).then(|| format!("{expression} {zone} after {from}: {found}, not {expected}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn w_29_rare_dates_are_found_far_away_and_in_time() {
    let leap = cron("0 0 29 2 *", "Europe/Berlin");
    assert_eq!(leap.next(at("2096-03-01T00:00")), Some(at("2104-02-28T23:00")));
    let mut from = at("2000-01-01T00:00");
    for _ in 0..49 {
        from = leap.next(from).unwrap();
    }
    assert_eq!(from, at("2196-02-28T23:00"), "49 leap days after 2000, with none in 2100");
    assert_eq!(cron("0 0 1 1 *", "UTC").next(Timestamp::MAX), None);
    assert!(cron("* * * * *", "Pacific/Kiritimati").next(Timestamp::MIN).is_some());
}

#[test]
fn w_01_a_late_dispatch_never_meets_the_same_occurrence_again() {
    let task = TaskId::parse("t").unwrap();
    // Evaluated inside the repeated hour, where the label of the next occurrence lies behind.
    let daily = cron("30 1 * * *", "America/New_York");
    let state = ScheduleState::new(task.clone(), "one".into(), &daily, at("2026-10-31T12:00"));
    let now = at("2026-11-01T06:10");
    let due = state.due(&daily, now, Duration::ZERO, 9);
    assert_eq!(due.fire, [at("2026-11-01T05:30")]);
    let state = state.dispatched(&daily, &due, now).state;
    assert_eq!(state.due_at(), Some(at("2026-11-02T06:30")));
    // A task that is deleted and made again runs its past `once` again, as another run.
    let once = schedule(json!({"type": "once", "run_at": "2026-01-01T00:00:00Z"}));
    let run = |incarnation: &str| {
        let state = ScheduleState::new(task.clone(), incarnation.into(), &once, now);
        let due = state.due(&once, now, Duration::ZERO, 9);
        assert_eq!(state.dispatched(&once, &due, now).state.due_at(), None);
        RunId::of_occurrence(&task, &state.incarnation, state.schedule_revision, due.fire[0])
    };
    assert_ne!(run("one"), run("two"));
}

const ZONES: [Tz; 9] = [
    Tz::UTC,
    Tz::America__New_York,
    Tz::Europe__Berlin,
    Tz::Australia__Lord_Howe,
    Tz::America__Santiago,
    Tz::Asia__Beirut,
    Tz::Africa__Casablanca,
    Tz::America__St_Johns,
    Tz::Asia__Kathmandu,
];

/// The values of one field, and whether it is a star.
#[derive(Clone, Debug)]
struct Field(Option<BTreeSet<u32>>);

impl Field {
    fn text(&self) -> String {
        let Some(values) = &self.0 else { return "*".to_owned() };
        values.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }

    fn has(&self, value: u32) -> bool {
        self.0.as_ref().is_none_or(|values| values.contains(&value))
    }
}

fn field(low: u32, high: u32, most: usize) -> impl Strategy<Value = Field> {
    prop_oneof![
        2 => Just(Field(None)),
        3 => subsequence((low..=high).collect::<Vec<_>>(), 1..=most).prop_map(|values| Field(Some(values.into_iter().collect()))),
    ]
}

/// Minute, hour, day of month, month, day of week.
fn expression() -> impl Strategy<Value = [Field; 5]> {
    (field(0, 59, 3), field(0, 23, 6), field(1, 28, 8), field(1, 12, 9), field(0, 6, 3))
        .prop_map(|(minute, hour, day, month, weekday)| [minute, hour, day, month, weekday])
}

fn text(fields: &[Field; 5]) -> String {
    fields.each_ref().map(Field::text).join(" ")
}

fn wall(zone: Tz, minute: i64) -> chrono::NaiveDateTime {
    let utc = chrono::DateTime::from_timestamp(minute * 60, 0).unwrap().naive_utc();
    utc + chrono::TimeDelta::seconds(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc().into())
}

fn names([minute, hour, day, month, weekday]: &[Field; 5], wall: chrono::NaiveDateTime) -> bool {
    let (by_day, by_weekday) = (day.has(wall.day()), weekday.has(wall.weekday().num_days_from_sunday()));
    let days = if day.0.is_some() && weekday.0.is_some() { by_day || by_weekday } else { by_day && by_weekday };
    minute.has(wall.minute()) && hour.has(wall.hour()) && month.has(wall.month()) && days
}

/// The minutes from `first` to `last` in which the expression happens, found by looking at each: an expression for every
/// hour happens whenever the clock shows one of its labels, any other when the clock first reaches or jumps over one.
fn minute_walk(fields: &[Field; 5], zone: Tz, first: i64, last: i64) -> Vec<i64> {
    let every_hour = (0..24).all(|hour| fields[1].has(hour));
    let mut latest = wall(zone, first - 2 * 1440);
    let mut found = Vec::new();
    for minute in first - 2 * 1440 + 1..=last {
        let now = wall(zone, minute);
        let happens = if every_hour {
            names(fields, now)
        } else {
            let reached =
                std::iter::successors(Some(latest + chrono::TimeDelta::minutes(1)), |label| Some(*label + chrono::TimeDelta::minutes(1)));
            reached.take_while(|label| *label <= now).any(|label| names(fields, label))
        };
        latest = latest.max(now);
        if happens && minute >= first {
            found.push(minute);
        }
    }
    found
}

/// A minute since 1970 that is often near a jump of the zone's clock.
fn minute_in(zone: Tz, year: i64, near: Index, by: i64) -> i64 {
    let begin = (year - 1970) * 525_949;
    let offset = |minute: i64| wall(zone, minute) - chrono::DateTime::from_timestamp(minute * 60, 0).unwrap().naive_utc();
    let jumps: Vec<i64> = (0..366).map(|day| begin + day * 1440).filter(|day| offset(*day) != offset(day + 1440)).collect();
    if jumps.is_empty() { begin + by * 50 } else { near.get(&jumps) + by }
}

fn minutes(minute: i64) -> Timestamp {
    Timestamp::from_seconds(minute * 60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn w_29_cron_agrees_with_a_walk_over_every_minute(
        fields in expression(), zone in select(&ZONES), year in 1975i64..2099, near in any::<Index>(), by in -600i64..2400, micros in 0i64..60_000_000
    ) {
        let schedule = cron(&text(&fields), zone.name());
        let first = minute_in(zone, year, near, by);
        let last = first + 3 * 1440;
        let expected = minute_walk(&fields, zone, first + 1, last);
        let mut found = Vec::new();
        let mut from = Timestamp::from_micros(first * 60_000_000 + micros);
        while let Some(next) = schedule.next(from).filter(|next| *next <= minutes(last)) {
            prop_assert!(next > from);
            prop_assert_eq!(next.micros() % 60_000_000, 0);
            found.push(next.micros() / 60_000_000);
            from = next;
        }
        prop_assert_eq!(found, expected, "{} {}", text(&fields), zone);
        if let Some(beyond) = schedule.next(from) {
            prop_assert!(beyond > minutes(last));
        }
    }

    #[test]
    fn every_occurrence_is_dispatched_or_in_one_range(
        (timing, policy, bound) in (
            prop_oneof![
                expression().prop_map(|fields| json!({"type": "cron", "expression": text(&fields)})),
                (1u32..5_000_000).prop_map(|millis| json!({"type": "interval", "seconds": f64::from(millis) / 1000.0})),
            ],
            select(&["run_once", "skip_missed", "queue_all", "bounded"]),
            1u32..40,
        ),
        zone in select(&ZONES), year in 1975i64..2099, near in any::<Index>(), by in -600i64..2400,
        steps in proptest::collection::vec((0i64..400_000_000_000, 0u8..8), 1..6),
        batch in 1usize..20, jitter in 0u32..200,
    ) {
        let mut value = timing;
        value["timezone"] = zone.name().into();
        value["misfire_policy"] = policy.into();
        value["jitter_seconds"] = jitter.into();
        if policy == "bounded" {
            value["max_catch_up"] = bound.into();
        }
        let schedule = schedule(value);
        let mut now = minutes(minute_in(zone, year, near, by));
        let mut state = ScheduleState::new(TaskId::parse("t").unwrap(), "i".into(), &schedule, now);
        let Some(mut cursor) = state.next_nominal_at else { return Ok(()) };
        for (span, event) in steps {
            now = Timestamp::from_micros(now.micros() + span);
            for _pass in 0..3 {
                let due = state.due(&schedule, now, Duration::from_secs(60), batch);
                let (fire, advance) = match event {
                    0 => (Vec::new(), state.paused(None, now).resumed(&schedule, now)),
                    1 => (Vec::new(), state.enabled(&schedule, now)),
                    _ => (due.fire.clone(), state.dispatched(&schedule, &due, now)),
                };
                let next = advance.state.next_nominal_at;
                prop_assert!(fire.len() <= batch);
                if let Some(range) = &advance.skipped {
                    prop_assert_eq!(range.first, cursor, "the range starts where the last step ended");
                    if range.count <= 3_000 {
                        let mut walked = cursor;
                        for _ in 1..range.count {
                            walked = schedule.next(walked).unwrap();
                        }
                        prop_assert_eq!(walked, range.last, "the count is the number of occurrences in the range");
                    }
                    cursor = schedule.next(range.last).unwrap();
                }
                for fired in fire {
                    prop_assert_eq!(fired, cursor);
                    prop_assert!(fired <= now);
                    cursor = schedule.next(fired).unwrap();
                }
                prop_assert_eq!(next, Some(cursor), "and the next step starts where this one ends");
                let totals = advance.state.totals;
                prop_assert_eq!(totals.occurrences, totals.runs + totals.skipped);
                prop_assert!(totals.occurrences >= state.totals.occurrences && totals.runs >= state.totals.runs && totals.skipped >= state.totals.skipped);
                if event < 2 {
                    prop_assert!(cursor > now);
                }
                state = advance.state;
            }
        }
    }

    #[test]
    fn an_interval_is_always_a_whole_number_of_spans_from_its_start(millis in 1u32..100_000_000, start in 0i64..4_000_000_000, now in 0i64..4_000_000_000) {
        let start_at = Timestamp::from_seconds(start);
        let every = schedule(json!({"type": "interval", "seconds": f64::from(millis) / 1000.0, "start_at": start_at}));
        let now = Timestamp::from_seconds(now);
        let first = every.first(now).unwrap();
        let span = i64::from(millis) * 1000;
        prop_assert_eq!((first.micros() - start_at.micros()) % span, 0);
        prop_assert!(first >= start_at.max(now) && (first == start_at || first.micros() - now.micros() < span));
        let due = every.due(first, &Moment { now: first + Duration::from_secs(3600), jitter: Duration::ZERO, grace: Duration::ZERO, batch: 1 });
        let passed = due.skipped.map_or(0, |range| range.count) + 1;
        prop_assert_eq!(passed, 3_600_000_000 / u64::from(millis) / 1000 + 1);
    }
}
