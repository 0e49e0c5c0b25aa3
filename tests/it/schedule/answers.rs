//! Cron expressions against what an independent implementation says of them; tests/fixtures/cron/answers.py wrote the answers.
//!
//! Left out, and counted:
//! - years in which the two databases of time zones differ;
//! - rows near a change of the clock whose expression follows the clock for one of the two and is a fixed time for the other: for us
//!   one follows that names every hour, for Debian's cron one whose minutes or hours begin with a star;
//! - rows near a change by half an hour where the other one jumps by whole minutes over a label that the clock shows (the package
//!   croniter finds it, as we do).

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Offset, TimeZone};
use chrono_tz::Tz;
use sandclock::domain::time::Timestamp;

use super::{cron, minutes};

const ANSWERS: &str = include_str!("../../fixtures/cron/answers.txt");

struct Zone {
    zone: Tz,
    /// Since which minute the zone has which distance from UTC, in minutes.
    offsets: BTreeMap<i64, i64>,
    /// The years in which ours has another distance at some time.
    differs: Vec<i32>,
}

fn numbers(text: &str) -> impl Iterator<Item = i64> {
    text.split(' ').map(|number| number.parse().unwrap_or_else(|_| panic!("{number}")))
}

fn year(minute: i64) -> i32 {
    DateTime::from_timestamp(minute * 60, 0).unwrap().year()
}

impl Zone {
    /// A line of the answers: a name, a distance from UTC, and its changes.
    fn read(line: &str) -> Zone {
        let (name, rest) = line.split_once(' ').unwrap();
        let mut rest = numbers(rest);
        let mut at = 946_684_800 / 60;
        let mut offsets = BTreeMap::from([(at, rest.next().unwrap())]);
        while let (Some(step), Some(offset)) = (rest.next(), rest.next()) {
            at += step;
            offsets.insert(at, offset);
        }
        let mut zone = Zone { zone: name.parse().unwrap(), offsets, differs: Vec::new() };
        let looks = (2000..2038).flat_map(|year| {
            let begin = Timestamp::parse(&format!("{year}-01-01T00:00:00Z")).unwrap().micros() / 60_000_000;
            (0..366 * 24).map(move |hour| begin + hour * 60)
        });
        let near = zone.offsets.keys().flat_map(|change| [change - 1, *change]).skip(1);
        let mut differs: Vec<i32> = looks.chain(near).filter(|at| zone.theirs(*at) != zone.ours(*at)).map(year).collect();
        differs.sort_unstable();
        differs.dedup();
        zone.differs = differs;
        zone
    }

    fn theirs(&self, minute: i64) -> i64 {
        *self.offsets.range(..=minute).next_back().unwrap().1
    }

    fn ours(&self, minute: i64) -> i64 {
        let at = DateTime::from_timestamp(minute * 60, 0).unwrap().naive_utc();
        i64::from(self.zone.offset_from_utc_datetime(&at).fix().local_minus_utc()) / 60
    }

    /// Whether the clock is changed between two times, or within a day of them.
    fn changes(&self, from: i64, until: i64) -> bool {
        self.offsets.range(from - 1440..=until + 1440).next().is_some()
    }
}

/// Whether we let an expression follow the clock through gaps and repeated hours: it names every hour.
fn follows_ours(fields: &[&str]) -> bool {
    fields[1] == "*" || fields[1] == "0-23" || fields[1] == "0-23/1" || fields[1] == "*/1"
}

/// Whether Debian's cron does: its minutes or its hours begin with a star.
fn follows_theirs(fields: &[&str]) -> bool {
    fields[0].starts_with('*') || fields[1].starts_with('*')
}

/// Whether the other one may jump over a label: the only minute of every hour, and a clock that moves by half an hour.
fn may_be_jumped_over(fields: &[&str], zone: &Zone) -> bool {
    zone.zone == Tz::Australia__Lord_Howe && follows_ours(fields) && fields[0].bytes().all(|byte| byte.is_ascii_digit())
}

#[derive(Default)]
struct Count {
    expressions: usize,
    compared: usize,
    by_zone: usize,
    by_rule: usize,
    jumped_over: usize,
}

#[test]
fn w_29_cron_agrees_with_an_independent_implementation_over_zones_and_years() {
    let (mut zones, mut fields, mut count, mut wrong) = (Vec::new(), Vec::new(), Count::default(), Vec::new());
    for line in ANSWERS.lines() {
        if let Some(zone) = line.strip_prefix("zone ") {
            zones.push(Zone::read(zone));
        } else if let Some(expression) = line.strip_prefix("cron ") {
            fields = expression.split(' ').collect();
            count.expressions += 1;
        } else {
            let (zone, row) = line.split_once(' ').unwrap();
            wrong.extend(compare(&fields, &zones[zone.parse::<usize>().unwrap()], row, &mut count));
        }
    }
    let Count { expressions, compared, by_zone, by_rule, jumped_over } = count;
    println!(
        "{expressions} expressions, {compared} rows compared; left out {by_zone} by zone, {by_rule} by rule, {jumped_over} jumped over"
    );
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 3000 && by_rule < 600 && jumped_over < 20, "too much is left out");
    let differ = zones.iter().map(|zone| zone.differs.len()).sum::<usize>();
    assert!(differ < 60, "the database of time zones differs in {differ} years of zones; write the answers anew");
}

/// Compares one row; answers what is different.
fn compare(fields: &[&str], zone: &Zone, row: &str, count: &mut Count) -> Option<String> {
    let mut row = numbers(row);
    let start = row.next().unwrap();
    let mut at = start;
    let expected: Vec<i64> = row
        .map(|step| {
            at += step;
            at
        })
        .collect();
    let near = zone.changes(start, at);
    let left_out = if (year(start - 1440)..=year(at + 1440)).any(|year| zone.differs.contains(&year)) {
        &mut count.by_zone
    } else if near && follows_ours(fields) != follows_theirs(fields) {
        &mut count.by_rule
    } else if near && may_be_jumped_over(fields, zone) {
        &mut count.jumped_over
    } else {
        count.compared += 1;
        let (expression, name) = (fields.join(" "), zone.zone.name());
        let schedule = cron(&expression, name);
        let found = std::iter::successors(schedule.next(minutes(start)), |at| schedule.next(*at)).take(expected.len());
        let found: Vec<i64> = found.map(|at| at.micros() / 60_000_000).collect();
        let show = |at: &[i64]| at.iter().map(|at| minutes(*at).to_string()).collect::<Vec<_>>().join(" ");
        let after = minutes(start);
        return (found != expected).then(|| format!("{expression} {name} after {after}: {}, not {}", show(&found), show(&expected)));
    };
    *left_out += 1;
    None
}
