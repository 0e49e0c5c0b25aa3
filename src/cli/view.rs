//! Looks into the daemon's JSON leniently: what is missing shows as nothing, so that a newer daemon's answers stay readable.

use std::time::Duration;

use serde_json::Value;

use super::human;
use super::screen::Colour;
use super::table::Cell;
use crate::domain::time::Timestamp;

/// What a guest kept under a key or a name: its text, or its bytes in base64.
pub fn content(value: &Value) -> String {
    let content = text(value, "value").or_else(|| text(value, "value_base64")).unwrap_or_default();
    format!("{}\n", human::printable(&content))
}

/// The text of a field, or of a field of a field (`schedule.type`). Numbers and flags become text.
pub fn text(value: &Value, path: &str) -> Option<String> {
    match at(value, path)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// As [`text`], with nothing for what is missing.
pub fn shown(value: &Value, path: &str) -> String {
    text(value, path).unwrap_or_default()
}

/// A number that is whole and not negative.
pub fn count(value: &Value, path: &str) -> Option<u64> {
    at(value, path)?.as_u64()
}

/// A number of seconds.
pub fn seconds(value: &Value, path: &str) -> Option<Duration> {
    at(value, path)?.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// A flag; false when it is missing.
pub fn flag(value: &Value, path: &str) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// An instant.
pub fn time(value: &Value, path: &str) -> Option<Timestamp> {
    Timestamp::parse(at(value, path)?.as_str()?).ok()
}

/// The entries of a list under a name, or of the value itself when it is a list.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).unwrap_or(value).as_array().map_or(&[], Vec::as_slice)
}

/// What stands at a dotted path.
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// An instant as an age.
pub fn age(value: &Value, path: &str, now: Timestamp) -> String {
    time(value, path).map(|at| human::age(at, now)).unwrap_or_default()
}

/// An instant on the reader's clock and as an age.
pub fn moment(value: &Value, path: &str, now: Timestamp) -> Option<String> {
    time(value, path).map(|at| format!("{} ({})", human::local(at), human::age(at, now)))
}

/// How long it took from one instant to another, or takes until now.
pub fn took(value: &Value, from: &str, to: &str, now: Timestamp) -> Option<Duration> {
    let from = time(value, from)?;
    Some(time(value, to).unwrap_or(now).since(from))
}

/// The status of a run or an attempt in its colour.
pub fn status_cell(status: &str) -> Cell {
    let cell = Cell::new(status);
    match colour_of(status) {
        Some(colour) => cell.in_colour(colour),
        None => cell,
    }
}

/// The colour of a status.
pub fn colour_of(status: &str) -> Option<Colour> {
    match status {
        "completed" | "accepted" => Some(Colour::Good),
        "failed" | "timeout" | "rejected" => Some(Colour::Bad),
        "running" | "claimed" | "retrying" | "awaiting_approval" | "awaiting_budget" | "compiling" => Some(Colour::Busy),
        "cancelled" | "skipped" | "interrupted" => Some(Colour::Dim),
        _ => None,
    }
}

/// A schedule in a few words: `every 60s`, `cron "*/5 * * * *" Europe/Berlin`.
pub fn schedule(task: &Value) -> String {
    let zone = text(task, "schedule.timezone").filter(|zone| zone != "UTC").map(|zone| format!(" {zone}")).unwrap_or_default();
    match shown(task, "schedule.type").as_str() {
        "interval" => format!("every {}s", shown(task, "schedule.seconds")),
        "cron" => format!("cron \"{}\"{zone}", shown(task, "schedule.expression")),
        "once" => format!("once {}", shown(task, "schedule.run_at")),
        other => other.to_owned(),
    }
}

/// The statuses that have runs: `3 completed, 1 failed`.
pub fn counts(value: &Value, path: &str) -> String {
    let counts = at(value, path).and_then(Value::as_object);
    let told: Vec<String> = counts
        .into_iter()
        .flatten()
        .filter_map(|(status, count)| count.as_u64().filter(|count| *count > 0).map(|count| format!("{count} {status}")))
        .collect();
    if told.is_empty() { "none".to_owned() } else { told.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_or_of_another_kind_shows_as_nothing() {
        let value = json!({"a": {"b": 7, "c": null, "d": true}, "list": [1], "at": "yesterday"});
        assert_eq!((text(&value, "a.b"), text(&value, "a.c"), text(&value, "a.x.y")), (Some("7".into()), None, None));
        assert_eq!((count(&value, "a.b"), count(&value, "list"), flag(&value, "a.d"), flag(&value, "a.b")), (Some(7), None, true, false));
        assert_eq!((time(&value, "at"), list(&value, "list").len(), list(&value, "a").len()), (None, 1, 0));
        assert_eq!(list(&json!([1, 2]), "attempts").len(), 2);
    }

    #[test]
    fn schedules_and_counts_read_as_words() {
        let of = |schedule: Value| schedule_of(&schedule);
        assert_eq!(of(json!({"type": "manual"})), "manual");
        assert_eq!(of(json!({"type": "interval", "seconds": 60})), "every 60s");
        assert_eq!(of(json!({"type": "cron", "expression": "0 9 * * *", "timezone": "Europe/Berlin"})), "cron \"0 9 * * *\" Europe/Berlin");
        assert_eq!(counts(&json!({"c": {"queued": 0, "completed": 3, "failed": 1}}), "c"), "3 completed, 1 failed");
        assert_eq!(counts(&json!({}), "c"), "none");
    }

    fn schedule_of(schedule: &Value) -> String {
        super::schedule(&json!({ "schedule": schedule }))
    }
}
