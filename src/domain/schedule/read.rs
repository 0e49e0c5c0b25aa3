//! Schedules to and from JSON: the seed's nine keys in their order, and `max_catch_up` where it is set.
//!
//! What comes from outside is read with [`Schedule::parse`], which reports every fault. What a store gives back is read with
//! serde and checked only as far as its parts go, so that a record which was valid once can always be read.

use chrono_tz::Tz;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::{Cron, MisfirePolicy, Schedule, Timing, zone};
use crate::domain::input::Fields;
use crate::domain::time::{Seconds, Timestamp};

const KNOWN: [&str; 10] =
    ["type", "seconds", "expression", "run_at", "timezone", "start_at", "end_at", "jitter_seconds", "misfire_policy", "max_catch_up"];

/// The fields that only one type of schedule has.
const TYPED: [(&str, &str); 3] = [("interval", "seconds"), ("cron", "expression"), ("once", "run_at")];

impl Schedule {
    /// Reads a schedule from outside. Every fault is recorded; none comes back only when there was one.
    pub fn parse(mut fields: Fields<'_>) -> Option<Self> {
        let timezone = read_zone(&mut fields);
        let timing = read_timing(&mut fields, timezone);
        let start_at = read_time(&mut fields, "start_at", timezone);
        let end_at = read_time(&mut fields, "end_at", timezone);
        let jitter = fields.optional("jitter_seconds");
        let misfire_policy = fields.or_default("misfire_policy");
        let max_catch_up = read_catch_up(&mut fields, misfire_policy);
        if let (Some(start), Some(end)) = (start_at, end_at)
            && end <= start
        {
            fields.fault("end_at", format!("must be later than start_at ({start})"));
        }
        let schedule = timing.map(|timing| Schedule {
            timing,
            timezone: timezone.unwrap_or_default(),
            start_at,
            end_at,
            jitter,
            misfire_policy,
            max_catch_up,
        });
        if let Some(schedule) = &schedule
            && start_at.zip(end_at).is_none_or(|(start, end)| start < end)
            && schedule.timing != Timing::Manual
            && schedule.first(Timestamp::MIN).is_none()
        {
            let field = if schedule.end_at.is_some() { "end_at" } else { "start_at" };
            fields.fault(field, "leaves the schedule without an occurrence, so that it would never run; widen start_at and end_at");
        }
        fields.refuse_rest(&KNOWN);
        schedule
    }
}

fn read_zone(fields: &mut Fields<'_>) -> Option<Tz> {
    let Some(name) = fields.raw("timezone") else { return Some(Tz::UTC) };
    let found = match name.as_str() {
        Some(name) => zone::find(name),
        None => Err("must be the name of an IANA time zone, such as `Europe/Berlin`".to_owned()),
    };
    found.map_err(|message| fields.fault("timezone", message)).ok()
}

fn read_timing(fields: &mut Fields<'_>, timezone: Option<Tz>) -> Option<Timing> {
    let kind: String = fields.required("type")?;
    if kind != "manual" && !TYPED.iter().any(|(known, _)| *known == kind) {
        let shown: String = kind.chars().take(64).flat_map(char::escape_debug).collect();
        fields.fault("type", format!("`{shown}` is not a type of schedule; use manual, interval, cron or once"));
        return None;
    }
    for (owner, name) in TYPED {
        if owner != kind && fields.raw(name).is_some() {
            fields.fault(name, format!("belongs to type {owner}; with type {kind} it must be left out"));
        }
    }
    match kind.as_str() {
        "manual" => Some(Timing::Manual),
        "interval" => read_interval(fields),
        "cron" => read_cron(fields),
        _ => {
            let run_at = fields.required("run_at")?;
            time_of(fields, "run_at", &run_at, timezone).map(|run_at| Timing::Once { run_at })
        }
    }
}

fn read_interval(fields: &mut Fields<'_>) -> Option<Timing> {
    let every: Seconds = fields.required("seconds")?;
    if every.duration() < Schedule::LEAST_INTERVAL {
        fields.fault("seconds", "must be at least 0.001, which is a millisecond");
        return None;
    }
    Some(Timing::Interval { every })
}

fn read_cron(fields: &mut Fields<'_>) -> Option<Timing> {
    let expression: String = fields.required("expression")?;
    Cron::parse(&expression).map(|cron| Timing::Cron { cron }).map_err(|error| fields.fault("expression", error.to_string())).ok()
}

fn read_time(fields: &mut Fields<'_>, name: &str, timezone: Option<Tz>) -> Option<Timestamp> {
    let value = fields.raw(name)?;
    time_of(fields, name, &value, timezone)
}

/// A time with an offset, or without one in the schedule's zone. With an unknown zone, which is a fault already, it is UTC.
fn time_of(fields: &mut Fields<'_>, name: &str, value: &Value, timezone: Option<Tz>) -> Option<Timestamp> {
    let text = value.as_str().unwrap_or_default();
    let read = Timestamp::parse(text).ok().or_else(|| zone::instant_of(timezone.unwrap_or_default(), zone::read_wall_time(text)?));
    if read.is_none() {
        fields.fault(name, "must be a time such as 2026-11-22T05:00:00Z, or without an offset in the schedule's time zone");
    }
    read
}

fn read_catch_up(fields: &mut Fields<'_>, policy: MisfirePolicy) -> Option<u32> {
    let bound: Option<u32> =
        if policy == MisfirePolicy::Bounded { fields.required("max_catch_up") } else { fields.optional("max_catch_up") };
    let bound = bound?;
    if !matches!(policy, MisfirePolicy::QueueAll | MisfirePolicy::Bounded) {
        fields.fault("max_catch_up", "belongs to misfire_policy bounded or queue_all; with another it must be left out");
    } else if bound == 0 || bound > Schedule::MOST_CATCH_UP {
        fields.fault("max_catch_up", format!("must be from 1 to {}", Schedule::MOST_CATCH_UP));
    }
    Some(bound)
}

impl Serialize for Schedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut seconds, mut expression, mut run_at) = (None, None, None);
        match &self.timing {
            Timing::Manual => {}
            Timing::Interval { every } => seconds = Some(every),
            Timing::Cron { cron } => expression = Some(cron.expression()),
            Timing::Once { run_at: at } => run_at = Some(at),
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.kind())?;
        map.serialize_entry("seconds", &seconds)?;
        map.serialize_entry("expression", &expression)?;
        map.serialize_entry("run_at", &run_at)?;
        map.serialize_entry("timezone", self.timezone.name())?;
        map.serialize_entry("start_at", &self.start_at)?;
        map.serialize_entry("end_at", &self.end_at)?;
        map.serialize_entry("jitter_seconds", &self.jitter)?;
        map.serialize_entry("misfire_policy", &self.misfire_policy)?;
        if let Some(bound) = self.max_catch_up {
            map.serialize_entry("max_catch_up", &bound)?;
        }
        map.end()
    }
}

/// A schedule as a store gives it back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    r#type: String,
    #[serde(default)]
    seconds: Option<Seconds>,
    #[serde(default)]
    expression: Option<String>,
    #[serde(default)]
    run_at: Option<Timestamp>,
    timezone: String,
    #[serde(default)]
    start_at: Option<Timestamp>,
    #[serde(default)]
    end_at: Option<Timestamp>,
    #[serde(default)]
    jitter_seconds: Option<Seconds>,
    misfire_policy: MisfirePolicy,
    #[serde(default)]
    max_catch_up: Option<u32>,
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = Record::deserialize(deserializer)?;
        let timing = match (record.r#type.as_str(), record.seconds, record.expression, record.run_at) {
            ("manual", None, None, None) => Timing::Manual,
            ("interval", Some(every), None, None) if every.duration() >= Schedule::LEAST_INTERVAL => Timing::Interval { every },
            ("cron", None, Some(expression), None) => Timing::Cron { cron: Cron::parse(&expression).map_err(de::Error::custom)? },
            ("once", None, None, Some(run_at)) => Timing::Once { run_at },
            (other, ..) => return Err(de::Error::custom(format!("a schedule of type `{other}` does not have these fields"))),
        };
        Ok(Schedule {
            timing,
            timezone: zone::find(&record.timezone).map_err(de::Error::custom)?,
            start_at: record.start_at,
            end_at: record.end_at,
            jitter: record.jitter_seconds,
            misfire_policy: record.misfire_policy,
            max_catch_up: record.max_catch_up,
        })
    }
}
